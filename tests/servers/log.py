"""The proxy's log: two lines of JSON for a request, before and after it is answered."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.plan import Fault


@dataclass(frozen=True)
class Entry:
    """What the log says of one request.

    Attributes:
        number: From 1, in the order of arrival.
        fault: What went wrong on purpose.
        forwarded: Whether the real server was sent the whole request.
        status: What the real server answered; None: nothing that reached the proxy.
        sha256: Of the request's body.
        path: The path that was asked.
        answer: The status that the client was to get; None: silence or a reset.
        whole: Whether all of the answer was taken by the client's side of the connection; None:
            not known, for the proxy ended in between. True is no proof that the client read it.
    """

    number: int
    fault: Fault
    forwarded: bool
    status: int | None
    sha256: str
    path: str
    answer: int | None
    whole: bool | None = None

    @property
    def good(self) -> bool:
        """Whether the client was sent the real server's own answer, in full."""
        return self.fault in ("none", "late", "slow") and self.status == 200 and bool(self.whole)


def append(path: Path, record: dict[str, Any]) -> None:
    """One line, in one call, so that it is in the file whole even if we die after it."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(record) + "\n").encode())
    finally:
        os.close(file)


def read(path: Path) -> list[Entry]:
    """What the log says, by number; an empty list where there is no log yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    whole = {record["number"]: record["whole"] for record in records if "whole" in record}
    entries = [Entry(**r, whole=whole.get(r["number"])) for r in records if "whole" not in r]
    return sorted(entries, key=lambda entry: entry.number)
