"""A real process, killed by SIGKILL at any moment and started again, ends as if nothing was.

A kill loses at most what the teacher is shown at once, one batch. That is on the books before it is
sent, and asked again.
"""

import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import Sandbox, make_sandbox
from db3kd.errors import InputError
from db3kd.stages.accounts import status

LARGEST = 64  # images that the teacher is shown at once, at most
COMMAND = (
    "run",
    "recipe.toml",
    "--quiet",
    "-s",
    "student.training.epochs=120",
    "-s",
    f"teacher.batch={LARGEST}",
)
TOGETHER = (
    "-s",
    "label.strategy=joint",
    "-s",
    "label.per_image=72",
    "-s",
    "label.members=1",
    "-s",
    "label.checkpoints=[]",
    "-s",
    "label.queries=1000",  # the default, for the 60 of the recipe count row by row
)
GROWING = (
    "-s",
    "student.methods=['grown']",
    "-s",
    "grow.choose=margin",
    "-s",
    "grow.per_image=60",
    "-s",
    "grow.shard=60",
)
TRYING = (
    *TOGETHER[:2],
    *TOGETHER[4:],
    "-s",
    "student.methods=['auto']",
    "-s",
    "spend.per_image=40",
    "-s",
    "grow.shard=60",
)
WITHOUT_DATA = ("run", "without_data.toml", *COMMAND[2:], "-s", "synthesis.ensemble_labels=0")
ASCENDING = (
    *WITHOUT_DATA,
    "-s",
    "synthesis.way=ascent",
    "-s",
    "synthesis.ascent={samples = 60, iterations = 10, queries = 200, search = 60, shard = 20}",
)
PAUSE = 0.01  # seconds that the teacher takes for a question; there are some 500
SLOWER = """

import torch._dynamo  # which the first optimiser loads; seconds in which nothing goes on

import db3kd.student.training

db3kd.student.training.CHECKPOINT_SECONDS = 0.1  # 20 seconds are longer than students take here
_predict = Counted.predict


def predict(self, images):
    if len(images) in (30, 50):  # `answers` and `evaluate` are one question each
        time.sleep(100 * self.pause)
    return _predict(self, images)


Counted.predict = predict
"""
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX"),
]


@dataclass(frozen=True)
class Undisturbed:
    """What every other run must end as and say, and how long it took."""

    shards: dict[str, object]
    figures: list[object]
    asked: int
    seconds: float
    said: str


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Undisturbed:
    return left_alone(tmp_path_factory.mktemp("undisturbed"), digits, COMMAND)


def left_alone(folder: Path, digits: Path, command: tuple[str, ...]) -> Undisturbed:
    sandbox = prepared(folder, digits)
    started = time.monotonic()
    done = sandbox.call(*command)
    assert done.returncode == 0, done.stderr
    found = status(sandbox.run)
    assert found["queries"]["spent"] == sandbox.asked()
    seconds = time.monotonic() - started
    shards, asked = sandbox.shards(), sandbox.asked()
    return Undisturbed(shards, found["figures"], asked, seconds, done.stderr)


def prepared(folder: Path, digits: Path) -> Sandbox:
    sandbox = make_sandbox(folder, digits)
    with (folder / "svm_teacher.py").open("a") as module:
        module.write(SLOWER)
    return sandbox


@dataclass
class Life:
    """One run, killed and continued until it is done."""

    sandbox: Sandbox
    budget: int
    command: tuple[str, ...] = COMMAND
    said: str = ""  # on stderr, at the end
    kills: Counter[str] = field(default_factory=Counter)

    def check(self) -> str:
        """What was really asked is in the accounts, and they are within the budget."""
        really = self.sandbox.asked()  # first: the accounts only grow meanwhile
        try:
            found = status(self.sandbox.run)
        except InputError:  # the run has not begun
            assert really == 0
            return "start"
        queries = found["queries"]
        assert really <= queries["spent"] <= self.budget
        assert queries["reserved"] <= LARGEST
        return str(found["stage"])

    def live(self, until: Callable[[float], bool]) -> bool:
        """Start the process; kill it when `until` says so. Whether it came to its end before."""
        process = self.sandbox.start(
            *self.command, "-s", f"budget.queries={self.budget}", pause=PAUSE
        )
        started, before = time.monotonic(), opened(self.sandbox)
        while process.poll() is None:
            if until(time.monotonic() - started):
                process.send_signal(signal.SIGKILL)
                break
            self.check()
            time.sleep(0.02)
        _, errors = process.communicate()
        stage = self.check()
        if process.returncode == -signal.SIGKILL:
            self.kills[stage if opened(self.sandbox) > before else "start-up"] += 1
            return False
        assert (process.returncode, errors) == (0, self.said)
        return True

    def compare(self, expected: Undisturbed) -> None:
        assert self.sandbox.shards() == expected.shards
        found = status(self.sandbox.run)
        assert [figure for figure in found["figures"] if figure not in expected.figures] == []
        queries = found["queries"]
        kills = self.kills.total()
        assert queries["reserved"] == 0
        assert queries["spent"] - queries["lost"] == expected.asked
        assert queries["lost"] <= kills * LARGEST
        assert expected.asked <= self.sandbox.asked() <= expected.asked + kills * LARGEST
        left = {path.name for path in self.sandbox.run.rglob("*") if path.is_file()}
        assert not [name for name in left if name.endswith((".part", ".tape", ".checkpoint"))]


def opened(sandbox: Sandbox) -> int:
    journal = sandbox.run / "journal.jsonl"
    return journal.read_bytes().count(b'"kind": "opened"') if journal.exists() else 0


def moment(
    draw: random.Random, sandbox: Sandbox, start: float, spread: float
) -> Callable[[float], bool]:
    """A random moment: one in four while the process starts, the others while it works."""
    if draw.random() < 0.25:
        after = draw.uniform(0, start)
        return lambda seconds: seconds >= after
    before, after = opened(sandbox), draw.uniform(0, spread)
    working: list[float] = []

    def now(seconds: float) -> bool:
        if not working and opened(sandbox) > before:
            working.append(seconds)
        return bool(working) and seconds >= working[0] + after

    return now


def killed(
    folder: Path,
    digits: Path,
    expected: Undisturbed,
    *,
    times: int,
    spread: float,
    seed: int,
    command: tuple[str, ...] = COMMAND,
) -> Counter[str]:
    """Kill runs, `times` in all, and compare each that comes to its end; where kills fell."""
    draw, kills = random.Random(seed), Counter[str]()
    budget = expected.asked + times * LARGEST
    for number in range(times + 1):
        life = Life(prepared(folder / str(number), digits), budget, command, expected.said)
        while True:
            left = times - kills.total() - life.kills.total()
            when = moment(draw, life.sandbox, expected.seconds / 2, spread)
            if life.live(when if left else lambda seconds: False):
                break
        life.compare(expected)
        kills += life.kills
        shutil.rmtree(life.sandbox.folder)
        if kills.total() == times:
            return kills
    raise AssertionError("runs end without being killed")


def test_killed_at_random_moments(tmp_path: Path, digits: Path, undisturbed: Undisturbed) -> None:
    kills = killed(tmp_path, digits, undisturbed, times=3, spread=4.0, seed=1)
    assert kills.total() == 3


@pytest.mark.slow
def test_killed_between_questions_and_lessons(tmp_path: Path, digits: Path) -> None:
    command = (*COMMAND, *TOGETHER)
    expected = left_alone(tmp_path / "whole", digits, command)
    kills = killed(tmp_path, digits, expected, times=20, spread=8.0, seed=3, command=command)
    print(dict(kills))  # noqa: T201
    assert "rounds" in kills


@pytest.mark.slow
def test_killed_while_growing(tmp_path: Path, digits: Path) -> None:
    command = (*COMMAND, *GROWING)
    expected = left_alone(tmp_path / "whole", digits, command)
    kills = killed(tmp_path, digits, expected, times=20, spread=8.0, seed=4, command=command)
    print(dict(kills))  # noqa: T201
    assert "grow" in kills


@pytest.mark.slow
def test_killed_while_a_trial_decides(tmp_path: Path, digits: Path) -> None:
    command = (*COMMAND, *TRYING)
    expected = left_alone(tmp_path / "whole", digits, command)
    kills = killed(tmp_path, digits, expected, times=20, spread=12.0, seed=5, command=command)
    print(dict(kills))  # noqa: T201
    assert any(name.startswith("trial") for name in kills)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "stage"),
    [(WITHOUT_DATA, "synthesis"), (ASCENDING, "ascent")],
    ids=["chosen", "ascent"],
)
def test_killed_without_data(
    tmp_path: Path, digits: Path, command: tuple[str, ...], stage: str
) -> None:
    expected = left_alone(tmp_path / "whole", digits, command)
    kills = killed(tmp_path, digits, expected, times=20, spread=8.0, seed=6, command=command)
    print(dict(kills))  # noqa: T201
    assert stage in kills


@pytest.mark.slow
def test_killed_fifty_times(tmp_path: Path, digits: Path, undisturbed: Undisturbed) -> None:
    kills = killed(tmp_path, digits, undisturbed, times=50, spread=4.0, seed=2)
    print(dict(kills))  # noqa: T201
    assert kills.total() == 50
    assert {"start-up", "distances"} < set(kills)
    assert set(kills) & {"distill", "evaluate", "done"}  # the last: not all figures are there
