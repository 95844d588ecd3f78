"""Whole runs against real servers: through a proxy that breaks things, and killed at any moment.

What the servers themselves wrote down is compared with the store, and the end with that of a run
that nothing disturbed. The servers live in `.venv-servers`, which `make servers` installs.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from remote_tools import nothing_again

from conftest import Sandbox
from db3kd.errors import InputError
from db3kd.search.descent.tangent import CPU_POINTS
from db3kd.stages.accounts import status
from db3kd.teachers.cached import Store
from servers import real
from servers.plan import Fault, Plan
from servers.proxy import Proxy, proxy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(real.MISSING is not None, reason=real.MISSING or ""),
]
CHILD = Path(__file__).parent / "remote_child.py"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MLSERVER = """
protocol = "oip"
model = "digits"
encoding = { kind = "uint8", layout = "flat" }
batch = 16
"""
MLFLOW = """
protocol = "mlflow"
encoding = { kind = "uint8", layout = "flat" }
batch = 16
"""
LITSERVE = f"""
protocol = "raw"
path = "[0].label"
encoding = {{ kind = "png" }}
names = {{ names = {WORDS} }}
"""
RECIPE = """run = "run"
seed = 1
[data]
{data} = "{digits}"
[teacher]
kind = "remote"
price = {{ per_1000 = 1000.0, currency = "EUR" }}
[teacher.remote]
url = "{url}"
timeout = 2.0
attempts = 12
{remote}
[label]
references = 3
members = 1
shard = 10
{label}
[grow]
shard = 60
[synthesis]
queries = 500
rounds = 4
shard = 125
ensemble_labels = 0
[student]
network = "small"
{student}
training = {{ epochs = 60, batch = 16 }}
"""
TOGETHER = {"label": "per_image = 40", "student": 'methods = ["mbd"]'}
ROWS = {
    "label": 'strategy = "rows"\nqueries = 24\nprobes = 8\ntolerance = 0.02',
    "student": 'methods = ["ce", "mbd"]',
}
GROWING = {"label": "", "student": 'methods = ["grown"]'}
INVENTING = {"label": "", "student": "", "data": "test"}
SHARES: dict[Fault, float] = {
    "error": 0.03,
    "error_after": 0.02,
    "silent": 0.01,
    "silent_after": 0.01,
    "reset": 0.02,
    "reset_after": 0.02,
    "slow": 0.03,
    "busy": 0.01,
    "nonsense": 0.03,
    "truncated": 0.03,
    "few": 0.01,
    "many": 0.01,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="module")
def mlserver(folder: Path) -> Iterator[real.Server]:
    with real.mlserver(folder) as server:
        yield server


class Place(Sandbox):
    """A folder in which whole runs ask a server."""

    def start(self, *words: str, pause: float = 0.0, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(CHILD), *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "dumb"},
            **options,
        )

    def known(self) -> dict[str, int]:
        """The class of every image in the store, by the digest of its pixels."""
        file = self.folder / "keys"
        lines = file.read_text().splitlines() if file.exists() else []
        names = dict(line.split() for line in lines if len(line) == 64 + 1 + 16)
        found: dict[str, int] = {}
        if not (self.folder / "answers.db3kd").exists():
            return found
        with Store(self.folder / "answers.db3kd") as store:
            for block in store.blocks():
                for key, label in zip(block.keys, block.classes, strict=True):
                    found[names[key.hex()]] = label
        return found

    def books(self) -> dict[str, int]:
        with Store(self.folder / "answers.db3kd") as store:
            return store.books()


def place(
    folder: Path, digits: Path, url: str, remote: str, way: dict[str, str], money: int | None = None
) -> Place:
    folder.mkdir(parents=True)
    made = Place(folder, digits)
    text = RECIPE.format(**{"data": "train", "digits": digits, "url": url, "remote": remote, **way})
    if money is not None:
        text += f"[budget]\nmoney = {money}.0\n"
    made.write("recipe.toml", text)
    return made


def quiet(server: real.Server, seconds: float = 0.3) -> None:
    """Wait until the server has written down all that it was asked."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < seconds:
        now = server.seen.stat().st_size if server.seen.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.02)


def asked(server: real.Server) -> list[str]:
    return [one for question in server.questions() for one in question]


@dataclass(frozen=True)
class Undisturbed:
    """What every other run must end as, warnings included; images asked, in how many seconds."""

    shards: dict[str, object]
    figures: list[object]
    known: dict[str, int]
    warned: str
    asked: int
    seconds: float


def undisturbed(
    folder: Path, digits: Path, server: real.Server, remote: str, way: dict[str, str]
) -> Undisturbed:
    made = place(folder, digits, server.url + PATHS.get(remote, ""), remote, way)
    before, begun = len(asked(server)), time.monotonic()
    done = made.call("run", "recipe.toml", "-q")
    assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - begun
    quiet(server)
    new = asked(server)[before:]
    known = made.known()
    assert len(new) == len(set(new)) == len(known) == made.books()["answered"]
    figures = status(made.run)["figures"]
    return Undisturbed(made.shards(), figures, known, done.stderr, len(new), seconds)


PATHS = {LITSERVE: "/predict"}


def same_end(made: Place, expected: Undisturbed) -> None:
    assert made.shards() == expected.shards
    assert made.known() == expected.known
    found = status(made.run)
    assert [figure for figure in found["figures"] if figure not in expected.figures] == []
    assert found["figures"]


# Faults


Start = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("start", "remote", "way"),
    [
        (real.mlserver, MLSERVER, TOGETHER),
        (real.mlserver, MLSERVER, INVENTING),
        (real.mlflow, MLFLOW, TOGETHER),
        (real.litserve, LITSERVE, {**TOGETHER, "label": "per_image = 12"}),
    ],
    ids=["mlserver", "mlserver-inventing", "mlflow", "litserve"],
)
def test_a_run_through_faults_ends_as_one_without(
    tmp_path: Path, digits: Path, folder: Path, start: Start, remote: str, way: dict[str, str]
) -> None:
    with start(folder) as server:
        expected = undisturbed(tmp_path / "whole", digits, server, remote, way)
        shares = {**SHARES, "stale": 0.03} if remote == MLSERVER else SHARES  # it has ids
        plan = Plan(seed=5, shares=shares, delay=0.4, silence=10, storm=4, restarts=(50,))
        with proxy(server.url, plan, tmp_path / "log", restart=server.restart) as made:
            url = made.url + PATHS.get(remote, "")
            work = place(tmp_path / "faults", digits, url, remote, way)
            done = work.call("run", "recipe.toml", "-q")
            assert done.returncode == 0, done.stderr
            log = made.log()
    same_end(work, expected)
    nothing_again(log)
    faults = Counter(entry.fault for entry in log)
    books = work.books()
    print(len(log), dict(faults), books)  # noqa: T201
    assert books["answered"] == expected.asked
    assert (books["failed"], books["in_flight"]) == (0, 0)
    assert sum(faults.values()) - faults["none"] > len(log) / 10
    assert books["retried"] >= len(log) - len({entry.sha256 for entry in log})


def test_a_limit_a_day_stops_the_run_and_the_next_day_it_goes_on(
    tmp_path: Path, digits: Path, mlserver: real.Server
) -> None:
    expected = undisturbed(tmp_path / "whole", digits, mlserver, MLSERVER, TOGETHER)
    plan = Plan(seed=6, shares=SHARES, delay=0.2, silence=10, day=40)
    before = len(asked(mlserver))
    with proxy(mlserver.url, plan, tmp_path / "log") as made:
        work = place(tmp_path / "days", digits, made.url, MLSERVER, TOGETHER)
        for day in range(1, 30):
            done = work.call("run", "recipe.toml", "-q")
            if done.returncode == 0:
                break
            assert done.returncode == 1, done.stderr
            assert "asks to wait 24.0 h" in done.stderr
            assert done.stderr.count("\n") == 1
            quiet(mlserver)
            settled, position = work.known(), len(asked(mlserver))
            made.plan = replace(plan, day=len(made.log()) + 40)
            assert settled.items() <= expected.known.items()
            assert len(settled) > 0 or day < 3
        lost = len(asked(mlserver)) - before - expected.asked
        assert not set(settled) & set(asked(mlserver)[position:])
    same_end(work, expected)
    print(day, "days,", lost, "images asked again for their answer was lost")  # noqa: T201
    assert day > 2


def test_the_money_is_never_exceeded(tmp_path: Path, digits: Path, mlserver: real.Server) -> None:
    expected = undisturbed(tmp_path / "whole", digits, mlserver, MLSERVER, TOGETHER)
    before, money = len(asked(mlserver)), 200
    work = place(tmp_path / "poor", digits, mlserver.url, MLSERVER, TOGETHER, money)
    while True:
        done = work.call("run", "recipe.toml", "-q")
        quiet(mlserver)
        assert len(asked(mlserver)) - before <= money
        if done.returncode == 0:
            break
        assert done.returncode == 3, done.stderr
        assert "EUR" in done.stderr
        text = (work.folder / "recipe.toml").read_text()
        money += 300
        work.write("recipe.toml", text[: text.index("money =")] + f"money = {money}.0\n")
    same_end(work, expected)


# Kills

LARGEST = CPU_POINTS  # images of one question, at most
LATE: dict[Fault, float] = {"late": 0.1, "error": 0.03, "reset_after": 0.02, "truncated": 0.02}


def opened(work: Place) -> int:
    journal = work.run / "journal.jsonl"
    return journal.read_bytes().count(b'"kind": "opened"') if journal.exists() else 0


Moment = Callable[[], bool]


def moment(draw: random.Random, work: Place, made: Proxy, expected: Undisturbed) -> Moment:
    """In a quarter of the cases while it starts, in half with an answer on its way, or any time."""
    begun, before = time.monotonic(), opened(work)
    way, calls = draw.random(), len(made.log())
    start, after = draw.uniform(0, 4), draw.uniform(0, expected.seconds)
    wanted = calls + draw.randrange(1, 40)
    working: list[float] = []

    def now() -> bool:
        if way < 0.2:
            return time.monotonic() - begun > start
        if not working and opened(work) > before:
            working.append(time.monotonic())
        if way < 0.6:
            log = made.log()
            return len(log) >= wanted and any(
                entry.forwarded and entry.whole is None for entry in log[-8:]
            )
        return bool(working) and time.monotonic() - working[0] > after

    return now


@dataclass
class Life:
    """One run, killed and continued until it is done."""

    work: Place
    server: real.Server
    budget: int
    warned: str  # what it says on stderr in the end
    kills: Counter[str] = field(default_factory=Counter)
    between: int = 0  # kills while images were on their way
    in_flight: int = 0  # in the accounts after the last kill; a kill leaves them there for good
    settled: list[tuple[int, set[str]]] = field(default_factory=list)  # at each kill

    def check(self) -> str:
        try:
            found = status(self.work.run)
        except InputError:
            return "start"
        assert found["queries"]["spent"] <= self.budget
        return str(found["stage"])

    def live(self, now: Moment) -> bool:
        """Start the process; kill it when it is time. Whether it came to its end before."""
        begun = opened(self.work)
        process = self.work.start("run", "recipe.toml", "-q", "-s", f"budget.queries={self.budget}")
        while process.poll() is None:
            if now():
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        _, errors = process.communicate()
        quiet(self.server)
        stage = self.check()
        if process.returncode == -signal.SIGKILL:
            self.kills[stage if opened(self.work) > begun else "start-up"] += 1
            known = self.work.known()
            self.settled.append((len(asked(self.server)), set(known)))
            if known:
                before, self.in_flight = self.in_flight, self.work.books()["in_flight"]
                self.between += self.in_flight > before
            return False
        assert (process.returncode, errors) == (0, self.warned)
        return True

    def compare(self, expected: Undisturbed) -> None:
        same_end(self.work, expected)
        log, books = asked(self.server), self.work.books()
        for position, settled in self.settled:
            assert not settled & set(log[position:])  # no settled answer is asked again
        assert books["answered"] == expected.asked
        assert books["answered"] + books["in_flight"] <= self.budget
        queries = status(self.work.run)["queries"]
        assert queries["spent"] <= self.budget
        assert queries["lost"] <= self.kills.total() * LARGEST
        left = {path.name for path in self.work.run.rglob("*") if path.is_file()}
        assert not [name for name in left if name.endswith((".part", ".tape", ".checkpoint"))]


@contextmanager
def before(server: real.Server, folder: Path, seed: int) -> Iterator[Proxy]:
    plan = Plan(seed=seed, shares=LATE, delay=0.15, retry_after=0)
    with proxy(server.url, plan, folder / "log") as made:
        yield made


def killed(
    folder: Path, digits: Path, server: real.Server, way: dict[str, str], *, times: int, seed: int
) -> tuple[Counter[str], int]:
    """Kill runs, so often in all, and compare each that comes to its end; where kills fell."""
    expected = undisturbed(folder / "whole", digits, server, MLSERVER, way)
    draw, kills, between = random.Random(seed), Counter[str](), 0
    budget = 2 * expected.asked + times * LARGEST  # a query counts with answers of the store
    for number in range(times + 1):
        home = folder / str(number)
        home.mkdir()
        with before(server, home, seed + number) as made:
            work = place(home / "work", digits, made.url, MLSERVER, way, money=budget)
            life = Life(work, server, budget, expected.warned)
            while True:
                left = times - kills.total() - life.kills.total()
                now = moment(draw, work, made, expected) if left else lambda: False
                if life.live(now):
                    break
        life.compare(expected)
        kills += life.kills
        between += life.between
        shutil.rmtree(home)
        if kills.total() == times:
            return kills, between
    raise AssertionError("runs end without being killed")


@pytest.mark.parametrize(
    ("way", "stages"),
    [
        (TOGETHER, {"rounds"}),
        (ROWS, {"distances"}),
        (GROWING, {"grow"}),
        (INVENTING, {"synthesis"}),
    ],
    ids=["together", "rows", "growing", "inventing"],
)
def test_killed_at_twenty_five_moments(
    tmp_path: Path, digits: Path, mlserver: real.Server, way: dict[str, str], stages: set[str]
) -> None:
    kills, between = killed(tmp_path, digits, mlserver, way, times=25, seed=len(str(way)))
    print(dict(kills), between, "with images on their way")  # noqa: T201
    assert stages <= set(kills)
    assert between > 0
