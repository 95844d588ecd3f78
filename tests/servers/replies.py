"""What the proxy answers: the server's own words, errors of gateways, and answers gone wrong."""

import json
import random
from dataclasses import dataclass
from typing import Any

from servers.plan import Fault

NONSENSE = (
    b"",
    b"null",
    b"{}",
    b"[]",
    b'"3"',
    b"{",
    b"<html><body>Please sign in</body></html>",
    b'{"predictions": 3, "outputs": 3}',
    b'{"predictions": [], "outputs": []}',
    b'{"predictions": [[NaN, NaN]], "outputs": [{"data": [NaN]}]}',
    b'{"predictions": [1e999], "outputs": [{"data": [1e999], "shape": [-1]}]}',
    b'{"predictions": [' + b"9" * 5000 + b"]}",
    b"[" * 100_000,
    b"\xff\xfe\x00\x01" * 50,
)


@dataclass(frozen=True)
class Reply:
    """Status, headers and body of an answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def json_reply(status: int, body: bytes, *headers: tuple[str, str]) -> Reply:
    """An answer that says of itself that it is JSON."""
    return Reply(status, (("Content-Type", "application/json"), *headers), body)


def failure(status: int, retry_after: int) -> Reply:
    """An error of the kind that gateways give; 429 and 503 say when to come again."""
    again = [("Retry-After", str(retry_after))] if status in (429, 503) else []
    return json_reply(status, b'{"error": "out of order, by plan"}', *again)


def unreachable() -> Reply:
    """What a gateway answers while the server behind it is down."""
    return json_reply(502, b'{"error": "the server behind the proxy does not answer"}')


def other_rows(body: bytes, fault: Fault, draws: random.Random) -> bytes | None:
    """The answer with one row too few or too many, or with rows in another order; None: cannot.

    Rows are found in {"predictions": [...]}, in {"outputs": [{"data": [...], "shape": [n, ...]}]},
    in {"outputs": [{"input": {"id": ...}, ...}]}, and in a list. Of the tensors, the shape says so
    too, or (by chance) says nothing.
    """
    try:
        reply = json.loads(body)
        rows = reply if isinstance(reply, list) else reply.get("predictions") or reply["outputs"]
        tensor = "data" in rows[0] and "shape" in rows[0] if isinstance(rows[0], dict) else False
        if fault == "reordered":
            changed = not tensor and _reorder(rows)
        else:
            changed = _resize_tensors(rows, fault, draws) if tensor else _resize(rows, fault)
    except (ValueError, LookupError, TypeError, AttributeError, ZeroDivisionError):
        return None
    return json.dumps(reply).encode() if changed else None


def _resize(rows: list[Any], fault: Fault, row: int = 1) -> bool:
    if fault == "many":
        rows.extend(rows[-row:])
    else:
        del rows[-row:]
    return True


def _resize_tensors(tensors: list[dict[str, Any]], fault: Fault, draws: random.Random) -> bool:
    honest = draws.random() < 0.5
    for tensor in tensors:
        count = tensor["shape"][0]
        _resize(tensor["data"], fault, len(tensor["data"]) // count)
        if honest:
            tensor["shape"][0] = count + (1 if fault == "many" else -1)
    return True


def _reorder(rows: list[Any]) -> bool:
    if len(rows) < 2 or not all("id" in row or "id" in row["input"] for row in rows):
        return False
    rows.reverse()
    return True
