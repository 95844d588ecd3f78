"""The books hold, whoever stops a run, beside whom it runs, and whatever it is called."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from remote_tools import Tiny, classify, tiny_server

from conftest import Sandbox
from db3kd.config.settings import Budget
from db3kd.data import TensorImages
from db3kd.errors import Busy, RunError
from db3kd.run import Run
from db3kd.stages.accounts import status
from db3kd.storage.journal import Journal
from db3kd.teachers import function
from db3kd.teachers.cached import CachedTeacher, Store

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
FAR = """run = "run"
[data]
train = "{digits}"
labels = "teacher"
[teacher]
kind = "remote"
price = {{ per_1000 = 10.0, currency = "EUR" }}
[teacher.remote]
url = "{url}"
protocol = "{protocol}"
model = "digits"
encoding = {{ kind = "uint8", layout = "flat" }}
batch = 4
concurrency = 2
[student]
network = "small"
methods = ["grown"]
training = {{ steps = 2, batch = 16 }}
[grow]
per_image = 6
choose = "random"
"""
OWN, TESTS = 30, 50
PLAN = OWN * 7 + TESTS
ON_THEIR_WAY = 8  # images, at most


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    with tiny_server() as made:
        yield made


@pytest.fixture
def far(sandbox: Sandbox, tiny: Tiny) -> Sandbox:
    sandbox.write("far.toml", FAR.format(digits=sandbox.digits, url=tiny.url, protocol="oip"))
    return sandbox


def when(process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


RUN = ("run", "far.toml", "-q")


# Stopped with a budget that is the plan


@posix
@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGINT,),
        pytest.param((signal.SIGINT, signal.SIGTERM), marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_loses_nothing_of_a_remote_teacher(
    far: Sandbox, tiny: Tiny, signals: tuple[int, ...]
) -> None:
    tiny.hold = 0.05
    words = (*RUN, "-s", f"budget.queries={PLAN}")
    for number in signals:
        before = len(tiny.asked())
        process = far.start(*words)
        when(process, lambda before=before: len(tiny.asked()) > before + 60)  # type: ignore[misc]
        process.send_signal(number)
        _, errors = process.communicate()
        assert (process.returncode, "everything is saved" in errors) == (130, True)
        assert status(far.run)["queries"]["lost"] == 0
    tiny.hold = 0
    done = far.call(*words)
    assert done.returncode == 0, done.stderr
    assert len(tiny.asked()) == len(set(tiny.asked())) == PLAN


@posix
def test_an_interrupt_loses_nothing_of_a_local_teacher(sandbox: Sandbox) -> None:
    plan = 30 + 50
    words = ("run", "recipe.toml", "-q", "-s", "student.methods=['ce']")
    words += ("-s", f"budget.queries={plan}", "-s", "teacher.batch=7")
    for _ in range(2):
        before = sandbox.asked()
        process = sandbox.start(*words, pause=0.2)
        when(process, lambda before=before: sandbox.asked() > before)  # type: ignore[misc]
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 130
        assert status(sandbox.run)["queries"]["spent"] == sandbox.asked()
        assert status(sandbox.run)["queries"]["lost"] == 0
    assert sandbox.call(*words).returncode == 0
    assert sandbox.asked() == plan


@posix
def test_a_kill_loses_what_was_on_its_way_and_no_more(far: Sandbox, tiny: Tiny) -> None:
    tiny.hold = 0.05
    process = far.start(*RUN, "-s", f"budget.queries={PLAN}")
    when(process, lambda: len(tiny.asked()) > 100)
    process.kill()
    process.communicate()
    tiny.settle_down()
    seen, tiny.hold = tiny.asked(), 0
    done = far.call(*RUN, "-s", f"budget.queries={PLAN + ON_THEIR_WAY}")
    assert done.returncode == 0, done.stderr
    queries = status(far.run)["queries"]
    assert queries["lost"] <= ON_THEIR_WAY
    assert queries["spent"] == PLAN + queries["lost"]
    again = len(tiny.asked()) - PLAN
    known = 4  # images, asked again where the budget has room: the service tells no version
    assert 0 <= again <= queries["lost"] + known
    assert len(tiny.asked()) <= PLAN + ON_THEIR_WAY
    assert len(set(tiny.asked())) == PLAN
    assert len(seen) > 100


def test_a_budget_that_a_kill_has_exceeded_says_what_is_spent(far: Sandbox, tiny: Tiny) -> None:
    """The books never say that more was spent than the budget allows."""
    tiny.hold = 0.05
    process = far.start(*RUN, "-s", f"budget.queries={PLAN}")
    when(process, lambda: len(tiny.asked()) > 100)
    process.kill()
    process.communicate()
    done = far.call(*RUN, "-s", f"budget.queries={PLAN}")
    lost = status(far.run)["queries"]["lost"]
    assert done.returncode == (3 if lost else 0)
    assert len(tiny.asked()) <= PLAN
    assert status(far.run)["queries"]["spent"] <= PLAN


# One purse, one store, many runs


def test_runs_beside_each_other_pay_each_image_once(far: Sandbox, tiny: Tiny) -> None:
    tiny.hold = 0.02
    started = [
        far.start(*RUN, "-s", f'run="runs/{number}"', "-s", 'teacher.store="all.db3kd"')
        for number in range(3)
    ]
    for process in started:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert len(tiny.asked()) == len(set(tiny.asked())) == PLAN
    with Store(far.folder / "all.db3kd") as store:
        books = store.books()
        assert (books["answered"], books["lost"], books["in_flight"]) == (PLAN, 0, 0)
        assert books["hits"] == 2 * PLAN


def test_money_belongs_to_the_run_whatever_it_is_called(far: Sandbox, tiny: Tiny) -> None:
    """Fifty images at 10 EUR for a thousand; neither names, prices nor checks make it more."""
    money = ("-s", "budget.money=0.5")
    cheaper = ("-s", 'teacher.price={per_1000=5.0, currency="EUR"}')
    assert far.call(*RUN, *money).returncode == 3
    assert 40 <= len(tiny.asked()) <= 50
    before = len(tiny.asked())
    for words in (
        RUN,
        (*RUN, "-s", f'run="{far.run}"'),
        ("check", "far.toml"),
    ):
        assert far.call(*words, *money).returncode == 3
    for other in ('teacher.store="other.db3kd"', 'teacher.store="run/other.db3kd"'):
        done = far.call(*RUN, *money, "-s", other)
        assert (done.returncode, "another store" in done.stderr) == (1, True)
    paid = 0.01 * len(tiny.asked())
    assert paid <= 0.5
    assert far.call(*RUN, *money, *cheaper).returncode == 3
    paid += 0.005 * (len(tiny.asked()) - before)
    assert paid <= 0.5
    other = ("-s", 'teacher.price={per_1000=5.0, currency="USD"}')
    done = far.call(*RUN, *money, *other)
    assert (done.returncode, "paid in 'EUR' so far" in done.stderr) == (1, True)
    far.run.rename(far.folder / "moved")
    assert far.call(*RUN, *money, *cheaper, "-s", 'run="moved"').returncode == 3
    assert 0.005 * (len(tiny.asked()) - before) + 0.01 * before <= 0.5


def test_what_checks_ask_is_on_the_books_of_the_run_that_follows(far: Sandbox, tiny: Tiny) -> None:
    assert far.call("check", "far.toml", "--images", "10").returncode == 0
    asked = len(tiny.asked())
    with Store(far.folder / "answers.db3kd") as store:
        assert store.books()["answered"] == asked == 23
    money = 0.01 * (PLAN + 13)  # ten of them are of use to the run
    assert far.call(*RUN, "-s", f"budget.money={money - 0.01}").returncode == 3
    assert far.call(*RUN, "-s", f"budget.money={money}").returncode == 0
    assert len(tiny.asked()) == PLAN + 13


# A service that says nothing of its model


def test_another_model_behind_the_same_address_is_noticed(sandbox: Sandbox, tiny: Tiny) -> None:
    text = FAR.format(digits=sandbox.digits, url=tiny.url, protocol="mlflow")
    text = text.replace('model = "digits"\n', "").replace('"uint8"', '"float32"')
    sandbox.write("far.toml", text)
    turn, calls = [0], [0]

    def reply(headers: Any, body: bytes) -> Any:
        calls[0] += 1
        rows = np.rint(np.array(json.loads(body)["inputs"]) * 255).astype(np.uint8)
        said = [(label + turn[0]) % 10 for label in classify(rows.reshape(len(rows), 64))]
        return 200, {}, json.dumps({"predictions": said}).encode()

    tiny.special = reply
    assert sandbox.call("grow", *RUN[1:]).returncode == 0
    before = calls[0]
    turn[0] = 3
    done = sandbox.call(*RUN)
    assert (done.returncode, "4 of 4 known images otherwise" in done.stderr) == (1, True)
    assert calls[0] == before + 1
    turn[0] = 0
    done = sandbox.call(*RUN)
    assert done.returncode == 0, done.stderr
    before = calls[0]
    assert sandbox.call(*RUN).returncode == 0  # there is nothing to buy
    assert calls[0] == before


# One process in a folder


def images(count: int = 60) -> TensorImages:
    return TensorImages(torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0)))


def bright(folder: Path) -> Any:
    def ask(shown: torch.Tensor) -> torch.Tensor:
        with (folder / "asked").open("a") as log:
            log.write("x" * len(shown))
        return shown.flatten(1)[:, 0] > 0.5

    return function(ask, classes=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_of_a_run_asks_and_writes_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", bright(tmp_path), budget=Budget(queries=60))
    child = os.fork()
    if child == 0:
        try:
            run.answers(images())
        except RunError as error:
            run.close()  # which leaves the folder to its owner
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(Busy):
        Run(tmp_path / "run", bright(tmp_path))
    run.answers(images())
    run.close()
    assert (tmp_path / "asked").read_text() == "x" * 60
    with Run(tmp_path / "run", bright(tmp_path)) as again:
        assert again.meter.spent == 60


@posix
def test_a_lock_that_is_removed_lets_nobody_in(tmp_path: Path) -> None:
    with Run(tmp_path / "run", bright(tmp_path)):
        (tmp_path / "run" / "lock").unlink(missing_ok=True)
        with pytest.raises(Busy, match="another process is working"):
            Run(tmp_path / "run", bright(tmp_path))


def test_a_journal_line_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    with Run(tmp_path / "run", bright(tmp_path)) as run:
        run.answers(images())
    path = tmp_path / "run" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines for _ in range(2)))
    assert status(tmp_path / "run")["queries"]["spent"] == 60
    with Run(tmp_path / "run", bright(tmp_path)) as run:
        run.answers(images())
        assert run.meter.spent == 60


def test_other_threads_than_before_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path / "run", bright(tmp_path)).close()
    Run(tmp_path / "run", bright(tmp_path)).close()
    assert caplog.text == ""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    Run(tmp_path / "run", bright(tmp_path)).close()
    assert "-> 77), so numbers may be rounded otherwise" in caplog.text


def test_a_run_has_a_name_that_does_not_depend_on_its_place(tmp_path: Path) -> None:
    with Store(tmp_path / "answers.db3kd") as store:
        for place in ("run", "moved"):
            teacher = CachedTeacher(bright(tmp_path), store, "bright")
            with Run(tmp_path / place, teacher) as run:
                run.answers(images())
            if place == "run":
                (tmp_path / "run").rename(tmp_path / "moved")
        journal = Journal(tmp_path / "moved" / "journal.jsonl", read_only=True)
        [name] = journal.all("name")
        assert store.runs() == (name["run"],)
    assert (tmp_path / "asked").read_text() == "x" * 60
