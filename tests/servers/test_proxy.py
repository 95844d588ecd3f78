"""The proxy that breaks things, before a tiny server whose answers are known."""

import hashlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from servers.plan import FAULTS, NOT_ASKED, Fault, Plan
from servers.proxy import Proxy, proxy
from servers.replies import other_rows

AWAY = ("none", "nonsense", "day")
ROWS = [3, 1, 4, 1]
BODY = json.dumps({"inputs": [[0.0]] * 4}).encode()


@dataclass
class Tiny:
    """A server that answers four rows, and knows what it was asked."""

    url: str
    asked: list[bytes] = field(default_factory=list)


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    made = Tiny("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            made.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer({"id": self.headers["X-Id"], "predictions": ROWS})

        def do_GET(self) -> None:
            self.answer({"ready": True})

        def answer(self, reply: object) -> None:
            body = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def connect(to: Proxy, *, patience: float = 5) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(to.url.removeprefix("http://"), timeout=patience)


def ask(
    to: Proxy, *, body: bytes | None = BODY, patience: float = 5, name: str = "1"
) -> tuple[int, dict[str, str], Any]:
    connection = connect(to, patience=patience)
    try:
        connection.request("POST" if body else "GET", "/predict", body, {"X-Id": name})
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), json.loads(reply.read())
    finally:
        connection.close()


def test_without_faults_everything_passes_and_is_written_down(tiny: Tiny, tmp_path: Path) -> None:
    with proxy(tiny.url, Plan(), tmp_path / "log") as made:
        assert ask(made)[2] == {"id": "1", "predictions": ROWS}
        assert ask(made, body=None)[2] == {"ready": True}
        connection = connect(made)
        for _ in range(3):  # on one connection
            connection.request("PUT", "/predict", BODY)
            assert connection.getresponse().read()
        connection.close()
    entries = made.log()
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert entries[0].sha256 == hashlib.sha256(BODY).hexdigest()
    assert entries[0].good
    assert entries[0].path == "/predict"
    assert {entry.status for entry in entries[1:]} == {501}  # the tiny server knows no PUT
    assert tiny.asked == [BODY]


def test_what_is_sent_in_pieces_arrives(tiny: Tiny, tmp_path: Path) -> None:
    with proxy(tiny.url, Plan(), tmp_path / "log") as made:
        connection = connect(made)
        connection.request("POST", "/", iter([BODY[:5], BODY[5:]]), encode_chunked=True)
        assert connection.getresponse().status == 200
        connection.close()
    assert tiny.asked == [BODY]


@pytest.mark.parametrize("fault", ["error", "error_after", "busy", "day"])
def test_errors(tiny: Tiny, tmp_path: Path, fault: Fault) -> None:
    with proxy(tiny.url, Plan(fixed={1: fault}, retry_after=7), tmp_path / "log") as made:
        status, headers, _ = ask(made)
    [entry] = made.log()
    assert (entry.fault, entry.answer, entry.whole) == (fault, status, True)
    assert not entry.good
    assert entry.forwarded == (fault == "error_after") == bool(tiny.asked)
    assert entry.status == (200 if entry.forwarded else None)
    assert status in ((429,) if fault in NOT_ASKED[3:] else (500, 502, 503, 504))
    if status in (429, 503):
        assert headers["Retry-After"] == ("86400" if fault == "day" else "7")


@pytest.mark.parametrize("fault", ["reset", "reset_after", "silent", "silent_after"])
def test_no_answer(tiny: Tiny, tmp_path: Path, fault: Fault) -> None:
    begun = time.monotonic()
    with proxy(tiny.url, Plan(fixed={1: fault}), tmp_path / "log") as made:
        expected = ConnectionResetError if fault.startswith("reset") else TimeoutError
        with pytest.raises(expected):
            ask(made, patience=0.3)
        assert ask(made)[0] == 200
    first, second = made.log()
    assert (first.answer, first.whole) == (None, False)
    assert first.forwarded == fault.endswith("after")
    assert second.good
    assert len(tiny.asked) == 1 + first.forwarded
    assert time.monotonic() - begun < 3


def test_the_end_of_the_proxy_ends_the_silence(tiny: Tiny, tmp_path: Path) -> None:
    with proxy(tiny.url, Plan(fixed={1: "silent"}), tmp_path / "log") as made:
        connection = connect(made)
        connection.request("POST", "/", BODY)
        time.sleep(0.2)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        connection.getresponse()
    connection.close()
    assert made.log()[0].whole is False
    with pytest.raises(ConnectionRefusedError):
        ask(made)


@pytest.mark.parametrize("fault", ["late", "slow"])
def test_slow_answers_are_whole_for_the_patient(tiny: Tiny, tmp_path: Path, fault: Fault) -> None:
    plan = Plan(fixed={1: fault, 2: fault}, delay=0.4)
    with proxy(tiny.url, plan, tmp_path / "log") as made:
        begun = time.monotonic()
        assert ask(made)[2]["predictions"] == ROWS
        assert time.monotonic() - begun > 0.3
        if fault == "late":  # of a slow body, something comes all the time
            with pytest.raises(TimeoutError):
                ask(made, patience=0.1)
            time.sleep(0.5)
    assert [entry.good for entry in made.log()] == [True, False][: len(made.log())]


def test_truncated(tiny: Tiny, tmp_path: Path) -> None:
    plan = Plan(fixed={1: "truncated"})
    with (
        proxy(tiny.url, plan, tmp_path / "log") as made,
        pytest.raises(http.client.IncompleteRead),
    ):
        ask(made)
    assert (made.log()[0].status, made.log()[0].whole) == (200, False)


def test_nonsense_is_of_many_kinds(tiny: Tiny, tmp_path: Path) -> None:
    kinds = set()
    with proxy(tiny.url, Plan(shares={"nonsense": 1.0}), tmp_path / "log") as made:
        for _ in range(30):
            connection = connect(made)
            connection.request("POST", "/", BODY)
            reply = connection.getresponse()
            assert reply.status == 200
            kinds.add(reply.read())
            connection.close()
    assert len(kinds) > 8
    assert not any(entry.good for entry in made.log())


def test_rows_too_few_too_many_and_stale(tiny: Tiny, tmp_path: Path) -> None:
    faults: dict[int, Fault] = {1: "stale", 2: "few", 3: "many", 4: "reordered", 5: "stale"}
    with proxy(tiny.url, Plan(fixed=faults), tmp_path / "log") as made:
        found = [ask(made, name=str(number))[2] for number in range(1, 6)]
    assert [reply["id"] for reply in found] == ["1", "2", "3", "4", "4"]
    assert [reply["predictions"] for reply in found[1:3]] == [ROWS[:-1], [*ROWS, ROWS[-1]]]
    assert found[3]["predictions"] == ROWS  # has no ids
    assert [e.fault for e in made.log()] == ["none", "few", "many", "none", "stale"]


def test_rows_of_tensors_and_concepts() -> None:
    draws = Plan().draws(1)
    tensor = {"name": "scores", "shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]}
    shapes = set()
    for _ in range(20):
        body = other_rows(json.dumps({"outputs": [tensor]}).encode(), "few", draws)
        assert body is not None
        [changed] = json.loads(body)["outputs"]
        assert changed["data"] == [1, 2, 3, 4]
        shapes.add(tuple(changed["shape"]))
    assert shapes == {(3, 2), (2, 2)}
    outputs = [{"input": {"id": str(i)}, "data": i} for i in range(3)]
    body = other_rows(json.dumps({"outputs": outputs}).encode(), "reordered", draws)
    assert body is not None
    assert [row["data"] for row in json.loads(body)["outputs"]] == [2, 1, 0]
    for lost in (b"", b"3", b"[]", b'{"outputs": [{"shape": [0], "data": []}]}', b"[3, 4]"):
        assert other_rows(lost, "reordered", draws) is None, lost


def test_a_seed_gives_the_same_faults_and_the_shares_that_were_asked() -> None:
    shares: dict[Fault, float] = {"error": 0.1, "reset_after": 0.05, "slow": 0.2}
    plan = Plan(seed=7, shares=shares)
    drawn = [plan.fault(number) for number in range(1, 4001)]
    assert drawn == [Plan(seed=7, shares=shares).fault(number) for number in range(1, 4001)]
    assert drawn != [Plan(seed=8, shares=shares).fault(number) for number in range(1, 4001)]
    counts = Counter(drawn)
    for fault, share in shares.items():
        assert counts[fault] / 4000 == pytest.approx(share, abs=0.025)
    assert set(counts) == {*shares, "none"}


def test_storms_and_the_day() -> None:
    plan = Plan(seed=1, shares={"busy": 0.02}, storm=5, day=500)
    drawn = [plan.fault(number) for number in range(1, 601)]
    assert set(drawn[500:]) == {"day"}
    starts = [n for n in range(1, 500) if drawn[n] == "busy" and drawn[n - 1] != "busy"]
    assert starts
    assert all(drawn[n : n + 5] == ["busy"] * 5 for n in starts if n < 495)


def test_wrong_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        Plan(shares={"error": 0.7, "reset": 0.4})
    with pytest.raises(ValueError, match="weather"):
        Plan(shares={"weather": 0.1})  # type: ignore[dict-item]


def test_a_restart_in_the_middle(tiny: Tiny, tmp_path: Path) -> None:
    called = threading.Event()
    with proxy(tiny.url, Plan(restarts=(2,)), tmp_path / "log", restart=called.set) as made:
        ask(made)
        assert not called.is_set()
        ask(made)
        assert called.wait(5)

    def broken() -> None:
        raise RuntimeError("it did not start")

    with (
        pytest.raises(RuntimeError, match="did not start"),
        proxy(tiny.url, Plan(restarts=(1,)), tmp_path / "log2", restart=broken) as made,
    ):
        ask(made)


def test_a_server_that_is_down_is_a_bad_gateway(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with proxy(target, Plan(), tmp_path / "log") as made:
            assert ask(made)[0] == 502
            assert ask(made, body=None)[0] == 502
    [entry] = made.log()
    assert (entry.forwarded, entry.status, entry.answer) == (False, None, 502)


def test_many_at_once_are_all_accounted_for(tiny: Tiny, tmp_path: Path) -> None:
    shares: dict[Fault, float] = {
        fault: 0.05 for fault in FAULTS if fault[:3] not in ("non", "day")
    }
    plan = Plan(seed=3, shares=shares, delay=0.05, silence=0.2)
    good: list[str] = []

    def one(number: int) -> None:
        body = json.dumps({"inputs": number}).encode()
        try:
            status, _, reply = ask(made, body=body, name=str(number))
        except (OSError, ValueError, http.client.HTTPException):
            return
        if status == 200 and reply == {"id": str(number), "predictions": ROWS}:
            good.append(hashlib.sha256(body).hexdigest())

    with proxy(tiny.url, plan, tmp_path / "log") as made, ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(300)))
    entries = made.log()
    assert [entry.number for entry in entries] == list(range(1, 301))
    assert len({entry.sha256 for entry in entries}) == 300
    assert sum(entry.forwarded for entry in entries) == len(tiny.asked)
    assert sorted(entry.sha256 for entry in entries if entry.good) == sorted(good)
    assert len({entry.fault for entry in entries}) > 10
