"""A small server of the Open Inference Protocol, and a teacher in front of it as a recipe makes it.

The server is of the standard library alone, knows 8x8 digits, and writes down every image.
"""

import base64
import gc
import hashlib
import io
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
from db3kd.config.remote import Encoding, Price, Remote
from db3kd.config.settings import Budget
from db3kd.data import DataSet, TensorImages
from db3kd.job.teacher import TeacherPipeline, open_teacher
from db3kd.teachers.cached import CachedTeacher
from db3kd.teachers.remote.teacher import RemoteTeacher
from servers.log import Entry

BATCH = 8
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Reply = tuple[int, dict[str, str], bytes]
Special = Callable[[Mapping[str, str], bytes], Reply | None]


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Levels (1797, 64) and labels of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    known = load_digits()
    return np.rint(known.data / 16 * 255).astype(np.uint8), known.target


@cache
def means() -> np.ndarray:
    levels, labels = digits()
    return np.stack([levels[labels == label].mean(0) for label in range(10)])


def classify(levels: np.ndarray) -> list[int]:
    """The class whose mean is nearest, of rows of 64 levels."""
    gaps = levels.astype(np.float64)[:, None] - means()[None]
    return [int(best) for best in (gaps**2).sum(2).argmin(1)]


def digest(levels: np.ndarray) -> str:
    """What the servers' logs call an image."""
    return hashlib.sha256(levels.tobytes()).hexdigest()[:16]


def some_images(count: int, *, seed: int = 0) -> Tensor:
    """Different noisy digits on the 256 levels, (count, 1, 8, 8) from 0 to 1."""
    draws = np.random.default_rng(seed)
    levels = digits()[0][draws.integers(0, 1797, count)].astype(int)
    noisy = np.clip(levels + draws.integers(-40, 41, levels.shape), 0, 255)
    return torch.from_numpy((noisy / np.float32(255)).astype(np.float32).reshape(-1, 1, 8, 8))


def levels_of(images: Tensor) -> np.ndarray:
    return np.rint(images.flatten(1).numpy() * 255).astype(np.uint8)


@dataclass
class Tiny:
    """A running server: how it answers, and what it was asked.

    `special` may answer in its place. `hold`: seconds for a request. `calls`: for each request when
    it came, and the digests of its images; `most` of them were on their way at once.
    """

    port: int = 0
    special: Special | None = None
    hold: float = 0.0
    calls: list[tuple[float, list[str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 0
    _active: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _server: ThreadingHTTPServer | None = None
    _thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        made = _Server(("127.0.0.1", self.port), _Handler)
        made.tiny, self.port, self._server = self, made.server_address[1], made
        self._thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def restart(self) -> None:
        self.stop()
        time.sleep(0.1)
        self.start()

    def asked(self) -> list[str]:
        """The digest of every image, as often as it came."""
        with self._lock:
            return [one for _, digests in self.calls for one in digests]

    def settle_down(self, quiet: float = 0.15) -> None:
        """Wait until nothing is on its way any more."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < quiet or self._active:
            if len(self.calls) != before:
                before, since = len(self.calls), time.monotonic()
            time.sleep(0.01)

    def reply(self, headers: Mapping[str, str], body: bytes) -> Reply:
        with self._lock:
            self._active += 1
            self.most = max(self.most, self._active)
        try:
            time.sleep(self.hold)
            found = self.special(headers, body) if self.special else None
            return found or self._answer(headers, body)
        finally:
            with self._lock:
                self._active -= 1

    def _answer(self, headers: Mapping[str, str], body: bytes) -> Reply:
        asked = json.loads(body)
        [tensor] = asked["inputs"]
        levels = np.array(tensor["data"], np.uint8).reshape(tensor["shape"][0], 64)
        with self._lock:
            self.calls.append((time.monotonic(), [digest(row) for row in levels]))
            self.headers.append(dict(headers))
        output = {
            "name": "label",
            "datatype": "INT64",
            "shape": [len(levels), 1],
            "data": classify(levels),
        }
        body = json.dumps({"id": asked["id"], "outputs": [output]}).encode()
        return 200, {"Content-Type": "application/json"}, body


def concepts(headers: Mapping[str, str], body: bytes) -> Reply:
    """A stand-in for a service of nested JSON: no server that can be installed speaks it."""
    outputs = []
    for entry in json.loads(body)["inputs"]:
        file = base64.b64decode(entry["data"]["image"]["base64"])
        [label] = classify(np.asarray(Image.open(io.BytesIO(file)).convert("L")).reshape(1, 64))
        said = [{"name": NAMES[label].upper(), "value": 0.9}, {"name": "fish", "value": 0.1}]
        one = {"status": {"code": 10000}, "data": {"concepts": said}}
        outputs.append({**one, "input": {"id": entry.get("id")}})
    answer = {"status": {"code": 10000, "description": "Ok"}, "outputs": outputs}
    return 200, {}, json.dumps(answer).encode()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True  # a client that keeps its connection must not keep us
    block_on_close = False
    tiny: Tiny

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5  # seconds without a byte

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        tiny = cast("_Server", self.server).tiny
        status, headers, content = tiny.reply(dict(self.headers), body)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)


@contextmanager
def tiny_server(port: int = 0) -> Iterator[Tiny]:
    made = Tiny(port)
    made.start()
    try:
        yield made
    finally:
        made.stop()


# The client's side


def settings(url: str, **changes: Any) -> Remote:
    """How the tests ask: quick to give up, in small requests of grey levels."""
    plain: dict[str, Any] = {
        "protocol": "oip",
        "model": "digits",
        "encoding": Encoding(kind="uint8", layout="flat"),
        "batch": BATCH,
        "timeout": 10.0,
    }
    return Remote(url=url, **{**plain, **changes})


@dataclass(frozen=True)
class Asked:
    """A teacher as a recipe makes it, of which the store and the adapter are known."""

    stack: TeacherPipeline

    @property
    def teacher(self) -> CachedTeacher:
        return cast("CachedTeacher", self.stack.teacher)

    @property
    def remote(self) -> RemoteTeacher:
        return cast("RemoteTeacher", self.stack.adapter)

    def known(self, images: Tensor) -> Tensor:
        assert self.stack.store is not None
        return self.stack.store.known(self.stack.identity, self.remote.keys(images))

    def books(self) -> dict[str, int]:
        assert self.stack.store is not None
        return self.stack.store.books()


@contextmanager
def asking(
    folder: Path,
    remote: Remote,
    *,
    price: Price | None = None,
    money: float | None = None,
) -> Iterator[Asked]:
    """The teacher of a recipe, with a store in the folder; closed at the end."""
    recipe = Recipe(
        run=str(folder / "run"),
        data=DataConfig(train="digits"),
        teacher=TeacherConfig(kind="remote", remote=remote, price=price),
        budget=Budget(money=money),
        student=StudentConfig(network="small"),
    )
    data = DataSet(TensorImages(torch.zeros(10, 1, 8, 8)), torch.arange(10), NAMES)
    with open_teacher(recipe, data) as stack:
        yield Asked(stack)


# What must hold


def nothing_again(entries: Sequence[Entry]) -> None:
    """No request whose answer arrived whole was sent again; they are compared by their bytes."""
    last = {entry.sha256: entry.number for entry in entries}
    good = [entry for entry in entries if entry.good]
    again = [entry for entry in good if last[entry.sha256] != entry.number]
    assert again == []


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert 10 < len(text) < 500, text
    return text


class Listener(logging.Handler):
    """Every log record of every library, at every level, as text."""

    def __init__(self) -> None:
        super().__init__(level=0)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [self.format(record), repr(record.args), repr(record.__dict__)]


@contextmanager
def listening() -> Iterator[Listener]:
    root, made = logging.getLogger(), Listener()
    level = root.level
    root.addHandler(made)
    root.setLevel(1)
    try:
        yield made
    finally:
        root.removeHandler(made)
        root.setLevel(level)


def told_by(error: BaseException | None) -> Iterator[str]:
    """All that an error says, with its traceback and those of the errors behind it."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield "".join(traceback.format_exception(one))
        yield repr(one) + repr(one.args)
        left += [one.__cause__, one.__context__]
        left += list(one.exceptions) if isinstance(one, BaseExceptionGroup) else []


def told_by_objects() -> Iterator[str]:
    """The repr of every object of ours that is alive."""
    for one in gc.get_objects():
        kind = type(one)
        if str(getattr(kind, "__module__", "")).startswith("db3kd"):
            yield repr(one)


def told_by_files(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        yield str(path).encode()
        if path.is_file():
            yield path.read_bytes()
