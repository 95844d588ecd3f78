"""Between db3kd and a server that misbehaves, no answer is lost, none is bought twice, none leaks.

What the server and the proxy before it wrote down is compared with the store.
"""

import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from remote_tools import (
    BATCH,
    NAMES,
    Asked,
    Reply,
    Tiny,
    asking,
    classify,
    concepts,
    digest,
    levels_of,
    listening,
    one_sentence,
    settings,
    some_images,
    tiny_server,
    told_by,
    told_by_files,
    told_by_objects,
)
from torch import Tensor

from conftest import Sandbox
from db3kd.config.remote import Encoding, Names, Price
from db3kd.errors import Db3kdError, InputError, MoneyExhausted, RunError, TeacherError
from db3kd.teachers.cached import Store, cached
from db3kd.teachers.remote import teacher as adapter
from db3kd.teachers.remote import transport
from servers.plan import Fault, Plan
from servers.proxy import proxy

EACH: dict[Fault, float] = {
    "error": 0.05,
    "error_after": 0.02,
    "reset": 0.03,
    "reset_after": 0.02,
    "truncated": 0.03,
    "nonsense": 0.04,
    "busy": 0.02,
    "few": 0.03,
    "many": 0.03,
    "slow": 0.03,
    "late": 0.03,
    "stale": 0.03,
    "silent": 0.005,
    "silent_after": 0.005,
}
TOKEN = "DB3KD_TEST_TOKEN"
HEADERS = {"Authorization": f"Bearer ${{{TOKEN}}}"}


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    with tiny_server() as made:
        yield made


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """Another one in each test, for failed tests keep what they saw."""
    made = f"s3cr3t-{uuid.uuid4().hex}"
    monkeypatch.setenv(TOKEN, made)
    return made


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_PAUSE", 0.2)


# Faults


@pytest.mark.parametrize("seed", [1, 2])
def test_faults_change_no_answer_and_the_accounts_are_right(
    tiny: Tiny, tmp_path: Path, taken: list[str], seed: int
) -> None:
    images = some_images(400)
    plan = Plan(seed=seed, shares=EACH, delay=0.1, silence=5, restarts=(15,), retry_after=0)
    remote: dict[str, Any] = {"timeout": 2.0, "attempts": 12}
    with (
        proxy(tiny.url, plan, tmp_path / "log", restart=tiny.restart) as made,
        asking(tmp_path, settings(made.url, **remote)) as asked,
    ):
        answers = asked.teacher.labels(images)
        assert answers.tolist() == classify(levels_of(images))
        assert asked.known(images).tolist() == answers.tolist()
        books, calls, log = asked.books(), asked.remote.calls, made.log()
        assert asked.teacher.labels(images.flip(0)).tolist() == answers.tolist()[::-1]
        assert len(made.log()) == len(log)  # nothing was asked again
    assert len(taken) == len(set(taken)) == 400  # after an answer that arrived nobody asked again
    assert len({entry.fault for entry in log}) > 7
    assert calls.sent == len(log)
    assert calls.failed == len(log) - len({entry.sha256 for entry in log})
    assert books["answered"] == 400
    assert books["retried"] == BATCH * calls.failed == calls.images_failed
    assert (books["failed"], books["in_flight"]) == (0, 0)


def test_replies_in_another_order_in_part_or_to_another_request(
    tiny: Tiny, tmp_path: Path, taken: list[str]
) -> None:
    images, tiny.special = some_images(240), concepts
    names = tuple(name.upper() for name in NAMES)
    remote = settings(
        "", protocol="concepts", model=None, encoding=Encoding(kind="png"), names=Names(names=names)
    )
    plan = Plan(seed=2, shares={"reordered": 0.3, "few": 0.15, "stale": 0.15}, retry_after=0)
    with (
        proxy(tiny.url, plan, tmp_path / "log") as made,
        asking(tmp_path, replace(remote, url=f"{made.url}/outputs", attempts=20)) as asked,
    ):
        assert asked.teacher.labels(images).tolist() == classify(levels_of(images))
        books, calls, log = asked.books(), asked.remote.calls, made.log()
    assert set(taken) == {digest(row) for row in levels_of(images)}
    assert {entry.fault for entry in log} == {"none", "reordered", "few", "stale"}
    assert calls.sent == len(log)
    assert books["answered"] == 240
    assert books["retried"] == calls.images_failed


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_server_that_wants_to_be_left_alone_for_long(
    tiny: Tiny, tmp_path: Path, taken: list[str], lanes: int
) -> None:
    images = some_images(160)
    plan = Plan(fixed={7: "busy"}, retry_after=4000)
    with proxy(tiny.url, plan, tmp_path / "log") as made:
        remote = settings(made.url, concurrency=lanes)
        begun = time.monotonic()
        with asking(tmp_path, remote) as asked, pytest.raises(TeacherError) as stop:
            asked.teacher.labels(images)
        assert "asks to wait 1.1 h" in one_sentence(stop.value)
        assert time.monotonic() - begun < 100
        with asking(tmp_path, remote) as asked:
            known, books = int((asked.known(images) >= 0).sum()), asked.books()
            assert known == books["answered"] == len(taken) >= BATCH * (7 - lanes)
            assert BATCH <= books["failed"] <= BATCH * lanes  # what was on its way with it, too
            assert books["in_flight"] == 0
            answers = asked.teacher.labels(images)
    assert answers.tolist() == classify(levels_of(images))
    assert len(taken) == len(set(taken)) == 160


def test_attempts_come_to_an_end(tiny: Tiny, tmp_path: Path) -> None:
    images, before = some_images(80), 4
    broken: dict[int, Fault] = dict.fromkeys(range(before + 1, before + 4), "error")
    with proxy(tiny.url, Plan(fixed=broken, retry_after=0), tmp_path / "log") as made:
        remote = settings(made.url, attempts=3, concurrency=1)
        with asking(tmp_path, remote) as asked, pytest.raises(TeacherError) as stop:
            asked.teacher.labels(images)
        assert "failed 3 times in a row" in one_sentence(stop.value)
        with asking(tmp_path, remote) as asked:
            assert int((asked.known(images) >= 0).sum()) == BATCH * before
            books = asked.books()
            assert books["answered"] == BATCH * before
            assert (books["failed"], books["retried"]) == (BATCH, 2 * BATCH)
            asked.teacher.labels(images)
    assert tiny.asked() == [digest(row) for row in levels_of(images)]  # each once


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_is_no_use_to_repeat_is_not_repeated(tiny: Tiny, tmp_path: Path, status: int) -> None:
    tiny.special = lambda headers, body: (status, {}, b'{"error": "no"}')
    with asking(tmp_path, settings(tiny.url, concurrency=1)) as asked:
        with pytest.raises(TeacherError) as stop:
            asked.teacher.labels(some_images(40))
        assert asked.remote.calls.sent == 1
    assert f"{status}" in one_sentence(stop.value)


def test_what_cannot_be_kept_is_not_bought(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RunError("the disk is full")

    tiny.hold = 0.02
    with asking(tmp_path, settings(tiny.url, concurrency=2)) as asked:
        monkeypatch.setattr(Store, "settle", full)
        with pytest.raises(RunError, match="the disk is full"):
            asked.teacher.labels(some_images(200 * BATCH))
    assert len(tiny.calls) < 100


# Interrupts


class Interrupts:
    """SIGINT at a moment of the main thread, while it is armed."""

    def __init__(self) -> None:
        self.armed = False
        self.timer = threading.Timer(0, int)
        self._before = signal.signal(signal.SIGINT, self._raise)

    def _raise(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    def after(self, seconds: float) -> None:
        self.timer = threading.Timer(seconds, signal.pthread_kill, (main_thread(), signal.SIGINT))
        self.armed = True
        self.timer.start()

    def close(self) -> None:
        self.armed = False
        self.timer.cancel()  # one that fires later would hit another test
        if self.timer.ident is not None:
            self.timer.join()
        signal.signal(signal.SIGINT, self._before)


def main_thread() -> int:
    found = threading.main_thread().ident
    assert found is not None
    return found


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    made = Interrupts()
    yield made
    made.close()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digest of every image whose answer arrived, as it arrives."""
    arrived: list[str] = []
    take = adapter._Part.take

    def noted(self: Any, *reply: Any) -> Any:
        failed = take(self, *reply)
        arrived.extend(digest(row) for row in levels_of(self.images[self.answered]))
        return failed

    monkeypatch.setattr(adapter._Part, "take", noted)
    return arrived


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupted_at_random_moments(
    tiny: Tiny, tmp_path: Path, interrupts: Interrupts, taken: list[str]
) -> None:
    images, draw, count, lost = some_images(2000), random.Random(1), 0, 0
    names = [digest(row) for row in levels_of(images)]
    while True:
        with asking(tmp_path, settings(tiny.url)) as asked:
            try:
                interrupts.after(draw.uniform(0.02, 0.1))
                answers = asked.teacher.labels(images)
                interrupts.armed = False
                interrupts.timer.join()
                break
            except KeyboardInterrupt:
                count += 1
            interrupts.timer.join()
        with asking(tmp_path, settings(tiny.url)) as asked:
            found = zip(names, asked.known(images).tolist(), strict=True)
            lost += len(set(taken) - {name for name, label in found if label >= 0})
            assert asked.books()["in_flight"] == 0
    assert answers.tolist() == classify(levels_of(images))
    assert count >= 3
    assert lost == 0, f"{lost} answers that arrived are lost, by {count} interrupts"
    assert len(taken) == len(set(taken))


def test_interrupted_while_the_client_is_made(
    tiny: Tiny, interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, make = 0, transport.client

    def interrupting(*given: Any) -> Any:
        nonlocal clients
        clients += 1
        signal.pthread_kill(main_thread(), signal.SIGINT)
        return make(*given)

    monkeypatch.setattr(transport, "client", interrupting)
    calling = transport.Transport(settings(tiny.url))
    interrupts.armed = True
    with pytest.raises(KeyboardInterrupt):
        calling.run([], print)
    calling.run([], print)
    calling.close()
    assert clients == 1


def test_there_is_one_keeper_though_its_start_is_interrupted(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    calling, start = transport.Transport(settings(tiny.url)), threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    calling.run([], print)
    calling.close()


# Money


@pytest.mark.parametrize("charged", [False, True])
@pytest.mark.parametrize("most", [50, 48, 7])
def test_no_image_more_than_the_money_pays(
    tiny: Tiny, tmp_path: Path, charged: bool, most: int
) -> None:
    images = some_images(120)
    price = Price(per_1000=20.0, currency="EUR", failed=charged)
    shares: dict[Fault, float] = {"error_after": 0.2, "reset_after": 0.1, "truncated": 0.1}
    plan = Plan(seed=3, shares=shares, retry_after=0)
    with proxy(tiny.url, plan, tmp_path / "log") as made:
        for _ in range(3):  # again does not help, and costs nothing more
            with (
                asking(tmp_path, settings(made.url), price=price, money=most * 0.02) as asked,
                pytest.raises(MoneyExhausted) as stop,
            ):
                asked.teacher.labels(images)
            assert "EUR" in one_sentence(stop.value)
        sent = [entry for entry in made.log() if charged or entry.good]
        assert BATCH * len(sent) <= most
        with asking(tmp_path, settings(made.url), price=price, money=99.0) as asked:
            assert asked.teacher.labels(images).tolist() == classify(levels_of(images))


@pytest.mark.parametrize("charged", [False, True])
def test_no_image_more_after_a_kill(
    tiny: Tiny, tmp_path: Path, charged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that failed are paid, too, and are counted before they are repeated."""
    images, most = some_images(120), 100
    price = Price(per_1000=20.0, failed=charged)

    def bought(images: Tensor) -> None:
        with (
            asking(tmp_path, settings(made.url), price=price, money=most * 0.02) as asked,
            pytest.raises((Killed, MoneyExhausted)),
        ):
            asked.teacher.labels(images)

    broken: dict[int, Fault] = dict.fromkeys(range(1, 6), "error_after")
    plan = Plan(fixed=broken, retry_after=0)
    with proxy(tiny.url, plan, tmp_path / "log") as made:
        with monkeypatch.context() as dying:
            dying.setattr(Store, "settle", dies_with_an_answer(Store.settle))
            dying.setattr(cached._Wanted, "give_up", lambda self: None)
            bought(images[:8])  # its answer comes at the last of several attempts
        bought(images)
        bought(images)
        entries = made.log()
    counted = [entry for entry in entries if charged or entry.good]
    assert BATCH * len(counted) <= most


class Killed(BaseException):
    pass


def dies_with_an_answer(settle: Callable[..., None]) -> Callable[..., None]:
    def settles(store: Store, who: str, keys: Sequence[bytes], *rest: Any, **more: Any) -> None:
        if len(keys):
            raise Killed
        settle(store, who, keys, *rest, **more)

    return settles


# Limits


def test_no_more_at_once_than_allowed(tiny: Tiny, tmp_path: Path) -> None:
    tiny.hold = 0.02
    with asking(tmp_path, settings(tiny.url, concurrency=3, batch=4)) as asked:
        asked.teacher.labels(some_images(120))
    assert tiny.most == 3


def test_no_faster_than_allowed(tiny: Tiny, tmp_path: Path) -> None:
    with asking(tmp_path, settings(tiny.url, per_second=8, concurrency=8)) as asked:
        asked.teacher.labels(some_images(17 * BATCH))
    came = sorted(when for when, _ in tiny.calls)
    assert len(came) == 17
    most = max(sum(first <= when < first + 0.7 for when in came) for first in came)
    assert most <= 8  # the first calls need a moment more for their way: they connect
    assert came[-1] - came[0] > 1.8


def test_a_limit_a_day_outlives_the_process(
    tiny: Tiny, tmp_path: Path, interrupts: Interrupts
) -> None:
    remote = settings(tiny.url, per_day=5, concurrency=1)
    images = some_images(10 * BATCH)
    with asking(tmp_path, remote) as asked:
        asked.teacher.labels(images[: 3 * BATCH])
    with asking(tmp_path, remote) as asked:
        interrupts.after(3.0)
        with pytest.raises(TeacherError) as stop:
            until_interrupted(asked, images)
        interrupts.armed = False
    assert "day" in one_sentence(stop.value)
    assert len(tiny.calls) == 5
    with asking(tmp_path, remote) as asked:
        assert int((asked.known(images) >= 0).sum()) == 5 * BATCH


def until_interrupted(asked: Asked, images: Tensor) -> None:
    try:
        asked.teacher.labels(images)
    except KeyboardInterrupt:
        pytest.fail("it waits for the next day, and says nothing")


# What is refused


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no data base" * 99,
        b"SQLite format 3\0" * 99,
    ],
    ids=["none", "empty", "foreign", "cut"],
)
def test_the_file_of_the_limits(tiny: Tiny, tmp_path: Path, content: bytes | None) -> None:
    """It may be missing together with its folder, and when it is damaged that is said."""
    folder = tmp_path / "not" / "there"
    if content is not None:
        folder.mkdir(parents=True)
        (folder / "answers.db3kd.limits").write_bytes(content)
    damaged = pytest.raises(Db3kdError) if content else nullcontext()
    with damaged as stop, asking(folder, settings(tiny.url, per_second=100)) as asked:
        asked.teacher.labels(some_images(8))
    if stop is not None:
        assert "limits" in one_sentence(stop.value)


def test_what_is_on_its_way_when_the_money_ends_is_kept(tiny: Tiny, tmp_path: Path) -> None:
    """It is paid, for the server answers it."""
    tiny.hold = 0.05
    with (
        asking(tmp_path, settings(tiny.url), price=Price(per_1000=20.0), money=1.0) as asked,
        pytest.raises(MoneyExhausted),
    ):
        asked.teacher.labels(some_images(120))
    tiny.settle_down()
    with asking(tmp_path, settings(tiny.url)) as asked:
        assert asked.books()["answered"] == len(tiny.asked()) == 48


def test_redirects_are_not_followed(tiny: Tiny, tmp_path: Path) -> None:
    with tiny_server() as other:
        tiny.special = lambda headers, body: (307, {"Location": f"{other.url}/x"}, b"")
        with asking(tmp_path, settings(tiny.url)) as asked, pytest.raises(TeacherError) as stop:
            asked.teacher.labels(some_images(8))
        assert "another address" in one_sentence(stop.value)
        assert other.calls == []


@pytest.mark.parametrize("cookie", ["a=\u00e4", "session=" + "x" * 5000, "a=b; Path=/"])
def test_cookies_are_not_kept(tiny: Tiny, tmp_path: Path, cookie: str) -> None:
    tiny.special = lambda headers, body: (503, {"Set-Cookie": cookie, "Retry-After": "0"}, b"")
    images = some_images(16)
    with asking(tmp_path, settings(tiny.url, attempts=2)) as asked:
        with pytest.raises(TeacherError):
            asked.teacher.labels(images)
        tiny.special = None
        assert asked.teacher.labels(images).tolist() == classify(levels_of(images))
    assert all("Cookie" not in headers for headers in tiny.headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://[",
        "http://[::1]:x/",
        "//h",
        "http://",
    ],
)
def test_what_is_no_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError) as stop, asking(tmp_path, settings(url)) as asked:
        asked.teacher.labels(some_images(1))
    assert "https://" in one_sentence(stop.value)


@pytest.mark.parametrize(
    "rates", [{"per_second": 10, "per_minute": 1000}, {"per_minute": 5, "per_day": 5}]
)
def test_limits_of_which_one_is_of_no_use(
    tiny: Tiny, tmp_path: Path, rates: dict[str, int]
) -> None:
    with asking(tmp_path, settings(tiny.url, **rates)) as asked:
        asked.teacher.labels(some_images(8))


def test_a_reply_that_is_too_large(tiny: Tiny, tmp_path: Path) -> None:
    tiny.special = lambda headers, body: (200, {}, b" " * 30_000)
    with (
        asking(tmp_path, settings(tiny.url, largest_reply=20_000)) as asked,
        pytest.raises(TeacherError) as stop,
    ):
        asked.teacher.labels(some_images(8))
    assert "20,000 bytes (largest_reply)" in one_sentence(stop.value)


@pytest.mark.parametrize("url", ["http://example.org", "http://127.0.0.1.example.org:80/x"])
def test_plain_http_stays_on_this_machine(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError) as stop, asking(tmp_path, settings(url)):
        pass
    assert "plain_http = true" in one_sentence(stop.value)
    with asking(tmp_path, settings(url, plain_http=True)):
        pass


# Secrets


def echo(status: int) -> Callable[[Any, bytes], Reply]:
    """A server that says in its reply what it was sent."""
    return lambda headers, body: (
        status,
        {},
        f"bad token {headers.get('Authorization')}".encode(),
    )


def said_as_label(text: str) -> bytes:
    output = {"name": "label", "datatype": "BYTES", "shape": [BATCH], "data": [text] * BATCH}
    return json.dumps({"outputs": [output]}).encode()


FAILURES: dict[str, tuple[Any, Plan, dict[str, Any]]] = {
    "none": (None, Plan(), {}),
    "refused": (lambda headers, body: (401, {}, b"who are you?"), Plan(), {}),
    "echo 401": (echo(401), Plan(), {}),
    "echo 500": (echo(500), Plan(), {}),
    "echo 429": (echo(429), Plan(), {}),
    "echo 200": (echo(200), Plan(), {}),
    "echo where it is cut": (
        lambda headers, body: (401, {}, b"x" * 100 + headers["Authorization"].encode()),
        Plan(),
        {},
    ),
    "echo as JSON": (
        lambda headers, body: (401, {}, json.dumps({"got": headers["Authorization"]}).encode()),
        Plan(),
        {},
    ),
    "echo as a label": (
        lambda headers, body: (200, {}, said_as_label(headers["Authorization"])),
        Plan(),
        {},
    ),
    "echo a header": (
        lambda headers, body: (500, {"X-Said": headers["Authorization"]}, b""),
        Plan(),
        {},
    ),
    "echo a redirect": (
        lambda headers, body: (302, {"Location": f"/{headers['Authorization'][7:]}"}, b""),
        Plan(),
        {},
    ),
    "too large": (echo(200), Plan(), {"largest_reply": 10}),
    "error": (None, Plan(shares={"error": 1.0}, retry_after=0), {}),
    "reset": (None, Plan(shares={"reset": 1.0}), {}),
    "silent": (None, Plan(shares={"silent": 1.0}), {"timeout": 0.2}),
    "truncated": (None, Plan(shares={"truncated": 1.0}), {}),
    "nonsense": (None, Plan(shares={"nonsense": 1.0}), {}),
    "day": (None, Plan(day=0), {}),
}


def open_secrets(secret: str, folder: Path, *texts: str) -> list[str]:
    """Where a part of the secret is found, among files, objects, and what was said."""
    part = secret[:12]
    found = [text[:300] for text in (*texts, *told_by_objects()) if part in text]
    contents = (content for content in told_by_files(folder) if part.encode() in content)
    return found + [f"file {content[:200]!r}" for content in contents]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_secret_is_sent_and_found_nowhere(
    tiny: Tiny,
    tmp_path: Path,
    secret: str,
    capfd: pytest.CaptureFixture[str],
    failure: str,
) -> None:
    special, plan, more = FAILURES[failure]
    heard: list[str] = []

    def listens(headers: Any, body: bytes) -> Reply | None:
        heard.append(headers.get("Authorization", ""))
        return special(headers, body) if special else None

    tiny.special = listens
    said: list[str] = []
    with listening() as log, proxy(tiny.url, plan, tmp_path / "log") as made:
        remote = settings(made.url, headers=HEADERS, attempts=2, **more)
        with asking(tmp_path / "runs", remote, price=Price(per_1000=1.0)) as asked:
            try:
                asked.teacher.labels(some_images(24))
                assert failure == "none"
            except TeacherError as error:
                assert failure != "none"
                one_sentence(error)
                said += told_by(error)
            said += [repr(asked), repr(vars(asked.remote)), repr(vars(asked.remote.transport))]
            found = open_secrets(secret, tmp_path / "runs", *log.texts, *said, *capfd.readouterr())
    assert found == []
    if plan == Plan():
        assert set(heard) == {f"Bearer {secret}"}  # it did reach the server


def test_a_secret_that_comes_back_as_the_name_of_a_class(
    tiny: Tiny, tmp_path: Path, secret: str
) -> None:
    tiny.special = lambda headers, body: (200, {}, said_as_label(headers["Authorization"]))
    remote = settings(tiny.url, headers=HEADERS, names=Names(unknown="extend"))
    with asking(tmp_path, remote) as asked:
        assert asked.teacher.labels(some_images(BATCH)).tolist() == [0] * BATCH
        assert asked.stack.store is not None
        assert asked.stack.store.names(asked.stack.identity) == ("Bearer ***",)
    assert open_secrets(secret, tmp_path) == []


@pytest.mark.parametrize("end", ["\u00e4", "\nX-More: 1", "\x00"])
def test_a_secret_that_no_header_can_hold(
    tiny: Tiny, tmp_path: Path, secret: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, TOKEN: secret + end})
    with (
        listening() as log,
        pytest.raises(InputError) as stop,
        asking(tmp_path, settings(tiny.url, headers=HEADERS)) as asked,
    ):
        asked.teacher.labels(some_images(8))
    assert TOKEN in one_sentence(stop.value)
    assert tiny.calls == []
    assert open_secrets(secret, tmp_path, *told_by(stop.value), *log.texts) == []


def test_a_secret_that_is_missing(tiny: Tiny, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError) as stop,
        asking(tmp_path, settings(tiny.url, headers={"X-Key": "${NO_SUCH_SECRET}"})) as asked,
    ):
        asked.teacher.labels(some_images(8))
    assert "the environment has no NO_SUCH_SECRET" in one_sentence(stop.value)
    assert tiny.calls == []


# A whole process

RECIPE = """run = "run"
[data]
train = "{digits}"
[teacher]
kind = "remote"
[teacher.remote]
url = "{url}"
protocol = "oip"
model = "digits"
batch = 8
encoding = {{ kind = "uint8", layout = "flat" }}
headers = {{ Authorization = "Bearer ${{{token}}}" }}
[teacher.price]
per_1000 = 1.0
[label]
per_image = 12
members = 1
[student]
network = "small"
methods = ["mbd"]
training = {{ epochs = 2, batch = 16 }}
"""


def test_a_run_is_interrupted_and_goes_on_and_keeps_its_secret(
    tiny: Tiny, sandbox: Sandbox, secret: str
) -> None:
    def guarded(headers: Any, body: bytes) -> Reply | None:
        time.sleep(0.02 if len(tiny.calls) < 30 else 0.0)
        return None if headers.get("Authorization") == f"Bearer {secret}" else (401, {}, b"")

    tiny.special = guarded
    sandbox.write("recipe.toml", RECIPE.format(digits=sandbox.digits, url=tiny.url, token=TOKEN))
    process = sandbox.start("run", "recipe.toml")
    while len(tiny.calls) < 20 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "everything is saved" in errors
    tiny.settle_down()
    before = len(tiny.asked())
    with Store(sandbox.folder / "answers.db3kd") as store:
        kept = store.books()
    assert before == kept["answered"]  # what was on its way came home
    assert kept["in_flight"] == 0
    done = sandbox.call("run", "recipe.toml")
    assert done.returncode == 0, done.stderr
    with Store(sandbox.folder / "answers.db3kd") as store:
        first, known = store.identities()
        assert store.books(first)["answered"] == len(set(tiny.asked()))
        again = len(tiny.asked()) - len(set(tiny.asked()))
        assert again == store.books(known)["answered"] == 4  # known images, for it tells no version
    assert open_secrets(secret, sandbox.folder, out, errors, done.stdout, done.stderr) == []
