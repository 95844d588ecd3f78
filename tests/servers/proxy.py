"""A proxy on loopback between a client and a real server, which breaks what its plan says.

It counts requests that have a body, from 1, in the order in which they came; all others pass as
they are and are not logged. Standard library only.
"""

import hashlib
import http.client
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from servers.log import Entry, append, read
from servers.plan import NOT_ASKED, Fault, Plan
from servers.replies import NONSENSE, Reply, failure, json_reply, other_rows, unreachable

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
HOP |= {"content-length"}  # of what arrived, which is less if the client went away
NO_TIME = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST


@dataclass
class Proxy:
    """A running proxy: where it listens, and what it did."""

    url: str
    target: str  # host:port of the real server
    plan: Plan
    path: Path
    restart: Callable[[], None] | None = None
    closing: threading.Event = field(default_factory=threading.Event)
    helpers: list[threading.Thread] = field(default_factory=list)
    trouble: list[BaseException] = field(default_factory=list)  # what the hook raised
    open: set[socket.socket] = field(default_factory=set)  # connections of clients
    last: Reply | None = None
    _count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def number(self) -> int:
        """The next request's number; starts the hook where the plan says so."""
        with self._lock:
            self._count += 1
            number = self._count
        if number in self.plan.restarts and self.restart is not None:
            helper = threading.Thread(target=self._restart)
            self.helpers.append(helper)
            helper.start()
        return number

    def _restart(self) -> None:
        assert self.restart is not None
        try:
            self.restart()
        except BaseException as error:  # told when the proxy ends
            self.trouble.append(error)

    def stale(self, fresh: Reply) -> Reply | None:
        """The answer of the server before this one."""
        with self._lock:
            earlier, self.last = self.last, fresh
        return earlier

    def log(self) -> list[Entry]:
        """What happened so far, by number."""
        return read(self.path)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def proxy(self) -> Proxy:
        return cast("_Listener", self.server).proxy

    def setup(self) -> None:
        super().setup()
        self.proxy.open.add(self.connection)

    def finish(self) -> None:
        self.proxy.open.discard(self.connection)
        super().finish()

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""

    def do_GET(self) -> None:
        body = self._body()
        if not body:
            self._send(self._forward(body, pass_on=True)[1] or unreachable())
            return
        proxy, number = self.proxy, self.proxy.number()
        fault = proxy.plan.fault(number)
        forwarded, reply = False, None
        if fault not in NOT_ASKED:
            forwarded, reply = self._forward(body, pass_on=fault in ("none", "late", "slow"))
        fault, answer = self._answer(number, fault, reply)
        append(
            proxy.path,
            {
                "number": number,
                "fault": fault,
                "forwarded": forwarded,
                "status": reply.status if reply else None,
                "sha256": hashlib.sha256(body).hexdigest(),
                "path": self.path,
                "answer": answer.status if answer else None,
            },
        )
        try:
            whole = self._deliver(fault, answer)
        except OSError:
            whole, self.close_connection = False, True
        append(proxy.path, {"number": number, "whole": whole})

    do_POST = do_PUT = do_GET

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _forward(self, body: bytes, *, pass_on: bool) -> tuple[bool, Reply | None]:
        """Whether the server was asked, and what it answered, if it did."""
        drop = HOP if pass_on else HOP | {"accept-encoding"}  # a fault needs to read the answer
        headers = {k: v for k, v in self.headers.items() if k.lower() not in drop}
        if body:
            headers["Content-Length"] = str(len(body))
        connection = http.client.HTTPConnection(self.proxy.target, timeout=120)
        asked = False
        try:
            connection.request(self.command, self.path, body or None, headers)
            asked = True
            found = connection.getresponse()
            kept = [(k, v) for k, v in found.getheaders() if k.lower() not in HOP]
            return True, Reply(found.status, tuple(kept), found.read())
        except (OSError, http.client.HTTPException):
            return asked, None
        finally:
            connection.close()

    def _answer(self, number: int, fault: Fault, reply: Reply | None) -> tuple[Fault, Reply | None]:
        """What the client is to get, and the fault again: "none" where there is no way to do it."""
        plan, draws = self.proxy.plan, self.proxy.plan.draws(number)
        if fault.startswith(("silent", "reset")):
            return fault, None
        if fault.startswith("error"):
            return fault, failure(draws.choice((500, 502, 503, 504)), plan.retry_after)
        if fault in ("busy", "day"):
            return fault, failure(429, plan.day_over if fault == "day" else plan.retry_after)
        if reply is None:
            return "none", unreachable()
        if fault == "nonsense":
            return fault, json_reply(200, draws.choice(NONSENSE))
        earlier = self.proxy.stale(reply) if reply.status == 200 else None
        if fault == "stale":
            return (fault, earlier) if earlier else ("none", reply)
        if fault in ("few", "many", "reordered"):
            other = other_rows(reply.body, fault, draws) if reply.status == 200 else None
            return ("none", reply) if other is None else (fault, json_reply(200, other))
        return fault, reply

    def _deliver(self, fault: Fault, answer: Reply | None) -> bool:
        """Send it as the fault wants it; whether all of it went out."""
        plan, closing = self.proxy.plan, self.proxy.closing
        if answer is None:
            self.close_connection = True
            if fault.startswith("silent"):
                wait_for_end(self.connection, plan.silence, closing)
            else:
                reset(self.connection)
            return False
        if fault == "late":
            closing.wait(plan.delay)
        if gone(self.connection):
            self.close_connection = True
            return False
        content = self._content(answer)
        if fault == "truncated":
            self.close_connection = True
            self.connection.sendall(content[: len(content) - (len(answer.body) + 1) // 2])
            return False
        if fault != "slow":
            self.connection.sendall(content)
            return True
        step = max(1, len(content) // 20)
        for start in range(0, len(content), step):
            self.connection.sendall(content[start : start + step])
            closing.wait(plan.delay / 20)
        return True

    def _content(self, reply: Reply) -> bytes:
        headers = [(k, v) for k, v in reply.headers if k.lower() != "content-length"]
        length = ("Content-Length", str(len(reply.body)))
        lines = [f"{name}: {value}" for name, value in [*headers, length]]
        reason = http.client.responses.get(reply.status, "Unknown")
        head = "\r\n".join([f"HTTP/1.1 {reply.status} {reason}", *lines, "", ""])
        return head.encode("latin-1") + reply.body

    def _send(self, reply: Reply) -> None:
        with suppress(OSError):
            self.connection.sendall(self._content(reply))


class _Listener(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for every thread
    request_queue_size = 128
    proxy: Proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news here."""


def reset(connection: socket.socket) -> None:
    """Close it at once with RST, whatever else still holds it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_TIME)
    os.close(connection.detach())


def gone(connection: socket.socket) -> bool:
    """Whether the client has hung up already."""
    readable = select.select([connection], [], [], 0)[0]
    return bool(readable) and not connection.recv(1, socket.MSG_PEEK)


def wait_for_end(connection: socket.socket, seconds: float, closing: threading.Event) -> None:
    """Until the client hangs up, the time is over, or the proxy ends."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not closing.is_set():
        if select.select([connection], [], [], 0.1)[0] and not connection.recv(65536):
            return


@contextmanager
def proxy(
    target: str, plan: Plan, log: Path, *, restart: Callable[[], None] | None = None
) -> Iterator[Proxy]:
    """A proxy before the server at `target` (http://127.0.0.1:port), until the block ends.

    `restart` stops and starts that server, while other requests go on; what it raises is raised
    again when the block ends.
    """
    listener = _Listener(("127.0.0.1", 0), _Handler)
    url = f"http://127.0.0.1:{listener.server_address[1]}"
    listener.proxy = made = Proxy(url, target.removeprefix("http://"), plan, log, restart)
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.closing.set()
        listener.shutdown()
        for connection in made.open.copy():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        listener.server_close()
        for helper in made.helpers:
            helper.join()
    if made.trouble:
        raise made.trouble[0]
