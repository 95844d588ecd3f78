"""Whatever comes in, from files or from servers, the answer is a result or one of our own errors.

The ordinary suite tries some hundred cases, the slow tests more than 100,000 in all.
"""

import json
import logging
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from hypothesis import strategies as st
from torch import Tensor

from db3kd.config.reading import read_recipe, resolved
from db3kd.config.recipe import Recipe
from db3kd.config.remote import Encoding, Names, Remote
from db3kd.config.settings import Budget, Search
from db3kd.data import TensorImages
from db3kd.errors import BudgetExhausted, Db3kdError
from db3kd.job.teacher import fingerprint
from db3kd.run import Run
from db3kd.stages.accounts import status
from db3kd.storage.journal import Journal
from db3kd.storage.tape import Tape
from db3kd.teachers import function
from db3kd.teachers.cached import Account, Store
from db3kd.teachers.remote import remote, transport
from servers.replies import NONSENSE

# How errors begin that are not ours and are to be repaired; none is good.
PATIENCE = 20.0  # seconds that one case may take on a busy machine
COUNTS: Counter[str] = Counter()
SLOW: dict[str, int] = {
    "recipes": 45_000,
    "overrides": 25_000,
    "runs": 8_000,  # of three calls each
    "stores": 6_000,
    "replies": 12_000,
}
pytestmark = pytest.mark.timeout(3000)


def many(count: int) -> Any:
    """Settings of Hypothesis: so many cases, always the same ones."""
    return how(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def sizes(kind: str, few: int) -> Any:
    """The test with a few cases in the ordinary suite, and with many in the slow one."""
    slow = pytest.param(SLOW[kind], marks=pytest.mark.slow, id="many")
    return pytest.mark.parametrize("count", [pytest.param(few, id="few"), slow])


def harmless(kind: str, call: Callable[[], object]) -> bool:
    """Whether it gave a result; what it may raise are our own errors, in words."""
    COUNTS[kind] += 1
    begun = time.monotonic()
    try:
        call()
        return True
    except Db3kdError as error:
        text = str(error)
        assert text.strip()
        assert "Traceback" not in text
        return False
    finally:
        assert time.monotonic() - begun < PATIENCE


def report(kind: str) -> None:
    print(f"{COUNTS[kind]:,} cases of {kind}")  # noqa: T201


# Bytes that were changed


@st.composite
def edits(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Some changes of bytes: altered, cut out, doubled, cut off; or of whole lines."""
    seed = draw(st.integers(0, 2**48))
    count = draw(st.integers(1, 4))

    def edited(content: bytes) -> bytes:
        chance = random.Random(seed)
        for _ in range(count):
            content = _edit(content, chance)
        return content

    return edited


PIECES = (
    b'"', b"'", b"[", b"]", b"{", b"}", b"=", b".", b"\n", b"\r\n", b"#", b"\\", b"\x00", b"\xff",
    b"nan", b"inf", b"-1", b"0", b"1e999", b"9" * 30, b"true", b"null", b"${X}", b"1979-05-27",
    b"[teacher.remote]\n", b"kind = 3\n", b'"""', b"\xed\xa0\x80", b'"\\ud800"', b"\xe2\x80\xae",
)  # fmt: skip


def _edit(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content) + 1)
    end = min(len(content), place + int(2 ** chance.uniform(0, 7)))
    way = chance.randrange(8)
    if way == 0:
        return content[:place]
    if way == 1:
        return content[:place] + content[end:]
    if way == 2:
        return content[:end] + content[place:]
    if way == 3:
        return content[:place] + chance.choice(PIECES) + content[end:]
    if way == 4:
        return content[:place] + chance.choice(PIECES) + content[place:]
    if way == 5:
        return content[:place] + chance.randbytes(end - place) + content[end:]
    lines = content.split(b"\n")
    some, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    if way == 6:
        lines[some], lines[other] = lines[other], lines[some]
    else:
        del lines[some]
    return b"\n".join(lines)


# Recipes

REMOTE = """run = "run"
seed = 3
[data]
train = "digits"
labels = "teacher"
[teacher]
kind = "remote"
classes = 10
store = "answers"
bounds = [0.0, 1.0]
[teacher.remote]
url = "http://127.0.0.1:9/base?zone=1"
protocol = "oip"
model = "digits"
version = "1"
headers = { Authorization = "Bearer ${DB3KD_TEST_TOKEN}", X-More = "1" }
batch = 8
concurrency = 2
timeout = 3.5
per_second = 100
[teacher.remote.encoding]
kind = "float32"
layout = "flat"
mean = [0.5]
std = [0.25]
[teacher.remote.names]
names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
unknown = "other"
synonyms = { z = "a" }
[teacher.price]
per_1000 = 1.5
currency = "EUR"
[budget]
queries = 100
money = 2.5
stages = { answers = 50 }
[label]
per_image = 30
[student]
network = "small"
methods = ["mbd"]
"""
EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def good_recipes() -> list[bytes]:
    return [REMOTE.encode(), *(path.read_bytes() for path in sorted(EXAMPLES.glob("*.toml")))]


PARTS = (
    "run", "data", "teacher", "remote", "url", "student", "network", "kind", "=", ".", "[", "]",
    "{", "}", ",", "#", "0", "1", "-", "e", "_", "true", "=",
)  # fmt: skip
WORDS = st.sampled_from((*PARTS, "\n", " ", "\t", "\\", '"', "'", '"""'))
TEXTS = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.binary(max_size=60),
    st.lists(WORDS, max_size=40).map(lambda words: "".join(words).encode()),
)


def used(recipe: Recipe) -> None:
    """All that is done with a recipe before a question is asked; of files nothing is touched."""
    resolved(recipe), fingerprint(recipe)
    wanted = recipe.teacher
    if wanted.remote is not None:
        images = torch.zeros(2, 1, 8, 8)
        classes = wanted.classes or 10
        named = wanted.remote.names.names and wanted.remote.names.unknown != "extend"
        with closing(
            remote(wanted.remote, classes=None if named else classes, bounds=wanted.bounds)
        ) as made:
            made.keys(images)
            made.seen(images)
            made._protocol.request(images[:1])
            repr(made), made.identity


@sizes("recipes", 300)
def test_recipes(tmp_path: Path, count: int) -> None:
    path, good = tmp_path / "recipe.toml", good_recipes()
    for content in good:
        path.write_bytes(content)
        assert harmless("recipes", lambda: used(read_recipe(path)))

    @many(count)
    @given(st.one_of(TEXTS, st.tuples(st.sampled_from(good), edits()).map(lambda t: t[1](t[0]))))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        harmless("recipes", lambda: used(read_recipe(path)))

    check()
    report("recipes")


ODD_TEXTS = (
    "http://[", "http://[::1]:x/", "https://a b", "http://h:99999", "//x", "ftp://x", "\x00",
    "http://user:pw@h", "http://127.0.0.1/${X}", "https://\u00e4.example/", "http://a\nb", "${",
    "a.b[0]", "[*].x[*]", "{image}", '{"x": "{images}"}', "png", "raw", "template", "https://xn--a/",
)  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(ODD_TEXTS),
    st.lists(st.floats(-2, 2) | st.text(max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=6), st.text(max_size=6), max_size=3),
)


def keys_of(values: dict[str, Any], start: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield start + key
        if isinstance(value, dict):
            yield from keys_of(value, f"{start}{key}.")


def toml(value: Any) -> str:
    """A value as TOML or nearly so."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


@sizes("overrides", 300)
def test_overrides(tmp_path: Path, count: int) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(REMOTE)
    keys = [key for key in keys_of(resolved(read_recipe(path))) if key != "run"]
    near = [key for key in keys if key.startswith("teacher")]
    override = st.tuples(
        st.one_of(st.sampled_from(near), st.sampled_from(keys), st.text(max_size=12)),
        VALUES.map(toml) | st.text(max_size=12),
    ).map("=".join)

    @many(count)
    @given(st.lists(override, min_size=1, max_size=4))
    def check(overrides: list[str]) -> None:
        harmless("overrides", lambda: used(read_recipe(path, overrides)))

    check()
    report("overrides")


# Runs


SEARCH = Search(strategy="rows", queries=12, probes=4, tolerance=0.1, references=2, shard=4)
IMAGES = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def bright(images: Tensor) -> Tensor:
    return (images.flatten(1).mean(1) * 40).long() % 3


def open_run(folder: Path, budget: int | None = None) -> Run:
    return Run(folder, function(bright, classes=3), budget=Budget(queries=budget))


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run with finished shards, and one in progress with its tape."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with open_run(folder, 70) as run, pytest.raises(BudgetExhausted):
        run.measure(TensorImages(IMAGES), SEARCH)
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }
    assert {Path(name).suffix for name in found} == {".jsonl", ".tape", ".safetensors"}
    return found


def laid_out(folder: Path, contents: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def go_on(folder: Path, *, far: bool, redo: bool) -> None:
    teacher = function(bright, classes=3)
    with Run(folder, teacher, budget=Budget(queries=300), redo_damaged=redo) as run:
        if far:
            run.measure(TensorImages(IMAGES), SEARCH)


@sizes("runs", 60)
def test_journals_tapes_and_shards(
    tmp_path: Path, contents: dict[str, bytes], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    folder = tmp_path / "run"
    names = [name for name in contents for _ in range(4 if "safe" not in name else 1)]

    @many(count)
    @given(st.sampled_from(names), edits(), st.integers(0, 19))
    def check(name: str, edit: Callable[[bytes], bytes], way: int) -> None:
        laid_out(folder, {**contents, name: edit(contents[name])})
        harmless("runs", lambda: status(folder))
        path = folder / name
        if path.suffix == ".jsonl":
            harmless("runs", lambda: Journal(path, read_only=True))
        elif path.suffix == ".tape":
            harmless("runs", lambda: Tape(path, classes=3, read_only=True))
        harmless("runs", lambda: go_on(folder, far=way < 3, redo=way % 2 == 1))

    check()
    report("runs")


# Stores


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store with several teachers, names and an open ticket; one of them open."""
    folder = tmp_path_factory.mktemp("stores")
    with Store(folder / "a") as store:
        for one in ("svm", "cnn"):
            keys, first = [bytes([n]) * 32 for n in range(40)], Account("first")
            store.claim(one, keys, first)
            store.settle(one, keys[:20], list(range(20)), first, failed=keys[20:22], retried=3)
            store.learn(one, ["cat", "dog"])
            store.hit(one, 4)
    with Store(folder / "a") as store:
        store.claim("svm", [b"x" * 32, b"w" * 32])
        store.settle("svm", [b"x" * 32], [1])
        return {name: (folder / name).read_bytes() for name in ("a", "a-wal")}


def all_of(path: Path) -> None:
    with Store(path, patience=0.05) as store:
        for one in store.identities():
            store.known(one, [b"\x03" * 32, b"y" * 32])
            store.names(one), store.books(one)
        store.books(), store.runs(), list(store.blocks()), store.waiting_for("svm", [b"w" * 32])
        store.export(path.with_name("out.parquet"))
        store.claim("svm", [b"z" * 32], Account("more"))
        store.settle("svm", [b"z" * 32], [2], Account("more"))
        store.learn("svm", ["cow"])


@sizes("stores", 100)
def test_stores(tmp_path: Path, kept: dict[str, bytes], count: int) -> None:
    path = tmp_path / "store"

    @many(count)
    @given(edits(), st.booleans(), st.booleans(), st.booleans())
    def check(edit: Callable[[bytes], bytes], wal: bool, here: bool, head: bool) -> None:
        files = {**kept, "a": kept["a"]} if wal else {"a": kept["a"]}
        name = "a-wal" if wal and here else "a"
        whole, cut = files[name], 4096 if head else 0
        files[name] = edit(whole[:cut]) + whole[cut:] if cut else edit(whole)
        for end in ("", "-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
        for file, content in files.items():
            path.with_name(path.name + file[1:]).write_bytes(content)
        harmless("stores", lambda: all_of(path))

    check()
    report("stores")


# Replies, through a real connection


class Wire:
    """A server that answers every request with the bytes it was told, and hangs up."""

    def __init__(self) -> None:
        self.reply = b""
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(2)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        length = 0
        while (line := file.readline()).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        file.read(length)
        connection.sendall(self.reply)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def tensor_reply(data: Any, **more: Any) -> bytes:
    output = {"name": "y", "datatype": "INT64", "shape": [2], "data": data, **more}
    return json.dumps({"outputs": [output]}).encode()


GOOD_BODIES = (
    tensor_reply([3, 4]),
    tensor_reply([[0.1, 0.9], [0.8, 0.2]], datatype="FP32", shape=[2, 2]),
    tensor_reply(["a", "b"], datatype="BYTES"),
    b'{"predictions": [3, 4]}',
    b'{"predictions": {"y": [[0.1, 0.9], [0.8, 0.2]]}}',
    b'{"a": 0.9, "b": 0.1}',
    b'[{"label": "a", "score": 0.9}]',
    json.dumps(
        {
            "status": {"code": 10000, "description": "Ok"},
            "outputs": [
                {"status": {"code": 10000}, "data": {"concepts": [{"name": "a", "value": 0.9}]}}
            ]
            * 2,
        }
    ).encode(),
    b'{"outputs": [{"name": "y", "datatype": "INT64", "shape": [2], "parameters":'
    b' {"binary_data_size": 16}}]}' + (3).to_bytes(8, "little") + (4).to_bytes(8, "little"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())
BODIES = st.one_of(
    st.tuples(st.sampled_from(GOOD_BODIES), edits()).map(lambda t: t[1](t[0])),
    st.sampled_from(GOOD_BODIES),
    st.sampled_from([body for body in NONSENSE if len(body) < 9000]),
    JSON,
    st.binary(max_size=40),
)
STATUSES = st.one_of(
    st.just(200),
    st.sampled_from([201, 204, 301, 302, 304, 400, 429, 500, 503]),
    st.integers(100, 999),
)
NAMES = (
    b"Retry-After", b"Date", b"Location", b"Set-Cookie", b"Content-Encoding", b"X-Odd", b"Upgrade",
    b"Content-Type", b"Inference-Header-Content-Length", b"Connection", b"Content-Length",
    b"Transfer-Encoding", b"Trailer",
)  # fmt: skip
ODD_VALUES = (
    b"0", b"1", b"-1", b"99999999999999999999", b"soon", b"", b"1.5", b"nan", b"gzip", b"br",
    b"Wed, 21 Oct 2015 07:28:00 GMT", b"Fri, 31 Dec 9999 23:59:59 GMT", b"\xff\xfe", b"close",
    b"http://[", b"//example.org/x", b"http://example.org/", b"/\xe4", b"a=b; Domain=x", b"=;=",
    b"a=b; expires=Thu, 99 Foo 99999 99:99:99 GMT; max-age=1e9", b"chunked", b"identity",
    b"text/html; charset=nope", b"keep-alive", b"x" * 3000,
)  # fmt: skip
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(ODD_VALUES)), max_size=3)
FIRST = (b"HTTP/1.1", b"HTTP/2 200", b"200 OK", b"\x00", b"HTTP/1.1 x", b"ICY 200 OK")


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """The bytes of an HTTP reply, in order or not."""
    body, headers = draw(BODIES), draw(HEADERS)
    odd = draw(st.integers(0, 11))
    if odd != 1:
        headers.append((b"Content-Length", str(len(body) + (odd == 2)).encode()))
    first = b"HTTP/1.1 %d OK" % draw(STATUSES)
    if odd == 3:
        first = draw(st.sampled_from(FIRST))
    lines = [first, *(name + b": " + value for name, value in headers), b"", body]
    whole = b"\r\n".join(lines)
    return draw(edits())(whole) if odd == 4 else whole


def asked_as(url: str) -> list[Remote]:
    arrays, files = Encoding(kind="uint8", layout="flat"), Encoding(kind="png")
    names = Names(names=("a", "b"), unknown="other")
    body = '{"images": "{images}"}'
    ways: tuple[dict[str, Any], ...] = (
        {"protocol": "oip", "model": "m", "encoding": arrays},
        {"protocol": "oip", "model": "m", "encoding": arrays, "binary": True, "names": names},
        {"protocol": "mlflow", "encoding": arrays, "names": names},
        {"protocol": "raw", "encoding": files, "names": names},
        {"protocol": "raw", "encoding": files, "names": names, "path": "[0].label"},
        {"protocol": "concepts", "encoding": files, "names": Names(unknown="extend"), "model": "m"},
        {"protocol": "template", "body": body, "path": "predictions[*]", "names": names},
    )
    plain: dict[str, Any] = {"attempts": 1, "timeout": 2.0, "largest_reply": 100_000}
    return [Remote(url=url, **plain, patience=5.0, concurrency=1, **way) for way in ways]


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


@sizes("replies", 150)
def test_replies(wire: Wire, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(sys, "unraisablehook", pytest.fail)
    teachers = [remote(one, classes=3 if one.names.names else 10) for one in asked_as(wire.url)]
    images = torch.zeros(2, 1, 8, 8)
    answered = Counter[bool]()

    def ask(number: int) -> None:
        teacher = teachers[number]
        teacher.transport._not_before = 0.0  # what another reply asked for is not for this one
        if teacher.transport._portal is not None:
            teacher.transport._client.cookies.clear()
        labels = teacher.labels(images)
        assert 0 <= int(labels.min()) <= int(labels.max()) < teacher.classes

    @many(count)
    @given(st.integers(0, len(teachers) - 1), replies())
    def check(number: int, reply: bytes) -> None:
        wire.reply = reply
        answered[harmless("replies", lambda: ask(number))] += 1

    try:
        check()
    finally:
        for teacher in teachers:
            teacher.close()
    assert answered[True] > count / 100
    report("replies")


# Every door, in processes of their own


@pytest.mark.slow
def test_no_door_fails() -> None:
    script = EXAMPLES.parent / "benchmarks" / "fuzz.py"
    words = [sys.executable, str(script), "--cases", "20000", "--workers", "1"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr[-2000:]) == (0, "")
    assert json.loads(said.stdout)["cases"] == 20_000
