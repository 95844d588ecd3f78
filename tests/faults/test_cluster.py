"""Real workers of Ray, killed and held up at random moments, end as one process left alone.

A run is killed as well, and continued with and without workers. What the teacher has counted itself
is on the books at each moment.
"""

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from remote_tools import tiny_server

from conftest import Sandbox, make_sandbox
from db3kd.errors import InputError
from db3kd.stages.accounts import status
from db3kd.teachers.cached import Store
from faults.test_kill import LARGEST, Undisturbed, left_alone, opened, prepared

pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are found in /proc"),
]
COMMAND = ("label", "recipe.toml", "--quiet", "-s", f"teacher.batch={LARGEST}")
PATIENCE = 3.0
RAY = ("-s", "cluster.engine=ray", "-s", f"cluster.patience={PATIENCE}")
PAUSE = 0.02
KILLS = int(os.environ.get("DB3KD_KILLS", "12"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Undisturbed:
    return left_alone(tmp_path_factory.mktemp("undisturbed"), digits, COMMAND)


def children(of: int) -> dict[int, str]:
    """All processes below one, and what they call themselves."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parents.setdefault(parent, []).append((int(entry.name), name))
    found, todo = {}, [of]
    while todo:
        for child, name in parents.get(todo.pop(), ()):
            found[child] = name
            todo.append(child)
    return found


@contextmanager
def ended_at_last(known: set[int]) -> Iterator[None]:
    """No process of a run outlives a test, whatever becomes of it."""
    try:
        yield
    finally:
        for process in known:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@dataclass
class Life:
    """A run with workers, which are killed, or held up, or killed with all of it."""

    sandbox: Sandbox
    budget: int
    draw: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    known: set[int] = field(default_factory=set)

    def check(self) -> None:
        really = self.sandbox.asked()  # first: the books only grow
        try:
            queries = status(self.sandbox.run)["queries"]
        except InputError:
            assert really == 0
            return
        assert really <= queries["spent"] <= self.budget

    def live(self, what: tuple[str, ...], kills: int) -> bool:
        """Start the command, and disturb it; whether it came to its end."""
        words = (*COMMAND, *RAY, "-s", f"budget.queries={self.budget}")
        process = self.sandbox.start(*words, pause=PAUSE)
        before, begun, held = opened(self.sandbox), self.sandbox.asked(), dict[int, float]()
        at, early = 0.0, self.draw.random() < 0.25
        while process.poll() is None:
            below = children(process.pid)
            self.known |= below.keys()
            self.check()
            now = time.monotonic()
            for worker, until in list(held.items()):
                if now > until:
                    del held[worker]
                    with suppress(ProcessLookupError):
                        os.kill(worker, signal.SIGCONT)
            workers = [pid for pid, name in below.items() if "ray::Hand" in name]
            there = opened(self.sandbox) > before and workers
            if there and not at and (early or self.sandbox.asked() > begun + LARGEST):
                at = now + self.draw.uniform(0.0, 6.0)
            if at and now > at and self.kills.total() < kills:
                at = 0.0
                kind = self.draw.choice(what)
                self.kills[kind] += 1
                if kind == "run":
                    process.kill()
                    break
                worker = self.draw.choice([pid for pid in workers if pid not in held] or workers)
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL if kind == "worker" else signal.SIGSTOP)
                if kind == "held up":
                    held[worker] = now + PATIENCE + self.draw.uniform(0.5, 3.0)
            time.sleep(0.05)
        _, errors = process.communicate()
        for worker in held:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        if process.returncode == -signal.SIGKILL:
            return False
        assert process.returncode == 0, errors
        return True

    def compare(self, expected: Undisturbed) -> None:
        assert self.sandbox.shards() == expected.shards
        queries, kills = status(self.sandbox.run)["queries"], self.kills.total()
        assert queries["spent"] - queries["lost"] == expected.asked
        assert queries["lost"] <= 2 * kills * LARGEST  # one question of each worker
        assert expected.asked <= self.sandbox.asked() <= queries["spent"] <= self.budget
        left = {path.name for path in self.sandbox.run.rglob("*") if path.is_file()}
        assert not [n for n in left if n.endswith((".tape", ".fenced")) or n.startswith(".word")]


def lived(folder: Path, digits: Path, expected: Undisturbed, seed: int, kills: int) -> Life:
    life = Life(prepared(folder, digits), expected.asked + 2 * kills * LARGEST, random.Random(seed))
    with ended_at_last(life.known):
        while not life.live(("worker", "worker", "held up", "run"), kills):
            pass
        life.compare(expected)
    return life


def test_killed_and_held_up_at_random_moments(
    tmp_path: Path, digits: Path, undisturbed: Undisturbed
) -> None:
    kinds, seed = Counter[str](), 0
    while kinds.total() < KILLS:
        seed += 1
        life = lived(tmp_path / str(seed), digits, undisturbed, seed, 3)
        kinds += life.kills
        shutil.rmtree(life.sandbox.folder)
    print(dict(kinds))  # noqa: T201
    assert set(kinds) == {"worker", "held up", "run"}


def test_from_one_process_to_workers_and_back(
    tmp_path: Path, digits: Path, undisturbed: Undisturbed
) -> None:
    sandbox, known = prepared(tmp_path / "run", digits), set[int]()
    words = (*COMMAND, "-s", f"budget.queries={undisturbed.asked + 6 * LARGEST}")
    with ended_at_last(known):
        for more in ((), RAY, ()):
            process = sandbox.start(*words, *more, pause=PAUSE)
            before, begun = opened(sandbox), sandbox.asked()
            while process.poll() is None and not (
                opened(sandbox) > before and sandbox.asked() > begun + 3000
            ):
                known |= children(process.pid).keys()
                time.sleep(0.05)
            process.send_signal(signal.SIGINT if more else signal.SIGKILL)
            process.communicate()
        assert sandbox.call(*words, *RAY).returncode == 0
    assert sandbox.shards() == undisturbed.shards
    queries = status(sandbox.run)["queries"]
    assert queries["spent"] - queries["lost"] == undisturbed.asked
    assert sandbox.asked() <= queries["spent"]


def test_a_run_ends_as_one_process_ends_it(tmp_path: Path, digits: Path) -> None:
    alone, led = prepared(tmp_path / "alone", digits), prepared(tmp_path / "led", digits)
    words = ("run", "recipe.toml", "--quiet", "-s", "student.seeds=[0, 1]")
    assert alone.call(*words).returncode == 0
    done = led.call(*words, *RAY)
    assert done.returncode == 0, done.stderr
    assert led.shards() == alone.shards()
    assert led.asked() == alone.asked()
    kinds = [r["kind"] for r in led.journal() if r["kind"] in ("student", "evaluation")]
    assert kinds == sorted(kinds, reverse=True)  # workers had trained all before any was tested
    assert kinds.count("student") == [r["kind"] for r in alone.journal()].count("student") > 2


# A remote teacher

REMOTE = """run = "run"
[data]
train = "{digits}"
[teacher]
kind = "remote"
[teacher.remote]
url = "{url}"
protocol = "oip"
model = "digits"
batch = 8
concurrency = 3
encoding = {{ kind = "uint8", layout = "flat" }}
headers = {{ Authorization = "Bearer ${{DB3KD_TEST_TOKEN}}" }}
[teacher.price]
per_1000 = 1.0
[label]
strategy = "rows"
queries = 60
probes = 20
references = 2
shard = 5
[student]
network = "small"
methods = ["mbd"]
"""


def test_workers_share_a_remote_teacher(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is paid once, its limit on calls holds over all workers, killed ones included."""
    monkeypatch.setenv("DB3KD_TEST_TOKEN", "s3cr3t-of-the-leader")
    words, known, draw = ("label", "recipe.toml", "--quiet"), set[int](), random.Random(0)
    with tiny_server() as alone, tiny_server() as several, ended_at_last(known):
        sandboxes = []
        for name, tiny in (("alone", alone), ("several", several)):
            tiny.hold = 0.02
            sandbox = make_sandbox(tmp_path / name, digits)
            sandbox.write("recipe.toml", REMOTE.format(digits=digits, url=tiny.url))
            sandboxes.append(sandbox)
        done = sandboxes[0].call(*words)
        assert done.returncode == 0, done.stderr

        process = sandboxes[1].start(*words, *RAY)
        kills, last = 0, time.monotonic()
        while process.poll() is None:
            below = children(process.pid)
            known |= below.keys()
            workers = [pid for pid, name in below.items() if "ray::Hand" in name]
            at_work = len(several.calls) > 60 and len(workers) == 2
            if at_work and kills < 3 and time.monotonic() > last + 4:
                kills, last = kills + 1, time.monotonic()
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(workers), signal.SIGKILL)
            time.sleep(0.05)
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "s3cr3t" not in errors
        assert kills > 0
        assert several.most <= 3
        assert len(several.asked()) == len(set(several.asked()))
        assert sorted(several.asked()) == sorted(set(alone.asked()))
    assert sandboxes[1].shards() == sandboxes[0].shards()
    queries = [status(sandbox.run)["queries"] for sandbox in sandboxes]
    assert queries[0]["spent"] == queries[1]["spent"]
    assert queries[1]["lost"] == 0


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_shared_question(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    monkeypatch.setenv("DB3KD_TEST_TOKEN", "s3cr3t-of-the-leader")
    words, known = ("label", "recipe.toml", "--quiet", *RAY), set[int]()
    with tiny_server() as tiny, ended_at_last(known):
        tiny.hold = 0.05
        sandbox = make_sandbox(tmp_path / "run", digits)
        sandbox.write("recipe.toml", REMOTE.format(digits=digits, url=tiny.url))
        process = sandbox.start(*words)
        while process.poll() is None and len(tiny.calls) < 80:
            known |= children(process.pid).keys()
            time.sleep(0.05)
        process.send_signal(sign)
        _, errors = process.communicate()
        assert process.returncode == 130, errors
        assert "everything is saved" in errors
        tiny.settle_down()
        with Store(sandbox.folder / "answers.db3kd") as store:
            books = store.books()
        assert books["answered"] == len(tiny.asked())  # what was on its way came home
        assert (books["in_flight"], books["lost"]) == (0, 0)
        done = sandbox.call(*words)
        assert done.returncode == 0, done.stderr
        kept = status(sandbox.run)["queries"]
        assert kept["lost"] == 0
