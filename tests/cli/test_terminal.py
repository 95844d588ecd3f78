"""What a person sees: progress lines, bars and the table of a run."""

import io
import sys
from typing import Any

import pytest

from db3kd.cli import terminal
from db3kd.cli.terminal import shown, table
from db3kd.progress import Progress


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(terminal, "time", made)
    return made


def row(**changes: Any) -> dict[str, Any]:
    plain = {
        "accuracy": [0.5],
        "agreement": [0.75],
        "queries": 1234567,
        "label_s": 12.34,
        "training_s": [1.0, 2.0],
    }
    return {**plain, **changes}


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=True) as progress:
        progress("distances", 1, 2, {"queries": 5.0})
        progress("distances", 2, 2, {"queries": 5.0})
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as progress:
        assert isinstance(progress, Progress)
        for second in range(61):
            clock.now = 100.0 + second
            progress("distances", second * 10, 1000, {"queries": 1000.0 * second})
        progress("distances", 1000, 1000, {"queries": 61000.0})
    out, err = capsys.readouterr()
    assert out == ""
    # One line at once, one each 15 s, one at the end. After 30 of 100 parts in 30 s of even work,
    # 700 more need (1000 - 300) * 30 s / 300 = 70 s.
    assert err.splitlines() == [
        "distances: 0%, 0 queries, 0/s",
        "distances: 15%, 15,000 queries, 1,000/s, 0:01:25 left",
        "distances: 30%, 30,000 queries, 1,000/s, 0:01:10 left",
        "distances: 45%, 45,000 queries, 1,000/s, 0:00:55 left",
        "distances: 60%, 60,000 queries, 1,000/s, 0:00:40 left",
        "distances: 100%, 61,000 queries, 1,017/s",
    ]


def test_a_run_that_continues_is_timed_from_where_it_was(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown() as progress:
        progress("distances", 800, 1000, {"queries": 8000.0})
        clock.now += 20
        progress("distances", 900, 1000, {"queries": 9000.0})
    # 100 parts in 20 s, 100 are left; 1,000 queries in 20 s.
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "distances: 90%, 9,000 queries, 50/s, 0:00:20 left"


def test_other_figures_and_hours(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as progress:
        progress("training", 0, 10000, {"loss": 2.302585})
        clock.now += 15
        progress("training", 10, 10000, {})
    # 9,990 parts at 1.5 s each are 14,985 s: 4 h, 9 min and 45 s.
    assert capsys.readouterr().err.splitlines() == [
        "training: 0%, loss 2.303",
        "training: 0%, 4:09:45 left",
    ]


def test_the_end_of_a_stage_is_said_once_and_an_empty_stage_is_no_error(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with shown() as progress:
        for _ in range(3):
            progress("training", 5, 5, {"loss": 1.0})
        progress("answers", 0, 0, {})
    assert capsys.readouterr().err.splitlines() == ["training: 100%, loss 1", "answers: 0%"]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with shown() as progress:
        progress("distances", 50, 100, {"queries": 1234.0})
        progress("training", 2, 2, {"loss": 0.5})
        progress("training", 1, 2, {"loss": 0.25})  # the next student
    text = screen.getvalue()
    for part in ("distances", " 50%", "1,234 queries", "100%", "loss 0.5", "loss 0.25"):
        assert part in text
    assert text.count("training") >= 2


def test_the_table_of_one_seed() -> None:
    # Mean of 1 and 2 seconds: 1.5.
    lines = table({"methods": {"mbd": row()}, "teacher": {"accuracy": None}}).splitlines()
    assert [line.split() for line in lines] == [
        ["method", "accuracy", "%", "agreement", "%", "queries", "label", "s", "train", "s"],
        ["mbd", "50.00", "75.00", "1,234,567", "12.3", "1.5"],
    ]


def test_the_table_of_several_seeds_shows_their_spread() -> None:
    # 50, 60, 70: mean 60, deviations 10, 0, 10, so (100 + 0 + 100) / 2 = 100 and its root is 10.
    text = table(
        {
            "methods": {"ce": row(accuracy=[0.5, 0.6, 0.7])},
            "teacher": {"accuracy": 0.9},
        },
        title="A title",
    )
    assert text.splitlines()[0].strip() == "A title"
    assert "60.00 ± 10.00" in text
    assert text.splitlines()[-1].split() == ["teacher", "90.00", "100.00"]


def test_accuracy_that_nobody_knows_is_unknown() -> None:
    text = table({"methods": {"ce": row(accuracy=[None, None])}, "teacher": {"accuracy": None}})
    assert "unknown" in text
