"""What a person sees of work that takes long: lines, bars, and nothing while it is short."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import db3kd
from db3kd import progress as module
from db3kd.data import TensorImages
from db3kd.errors import TeacherError
from db3kd.progress import Patient, Progress, shown, silent
from db3kd.teachers import function


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


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


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal in place of stderr; a fixture would be undone before the test begins."""
    made = Screen()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return made


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_screen(monkeypatch)
    with shown() as progress:
        progress("distances", 50, 100, {"queries": 1234.0})
        progress("training", 2, 2, {"loss": 0.5})
        progress("training", 1, 2, {"loss": 0.25})  # the next student
    text = screen.getvalue()
    for part in ("distances", " 50%", "1,234 queries", "100%", "loss 0.5", "loss 0.25"):
        assert part in text
    assert text.count("training") >= 2


def test_a_terminal_without_a_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_screen(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with shown() as progress:
        progress("distances", 100, 100, {})
    assert screen.getvalue() == "distances: 100%\n"


# What a run shows unless it is told otherwise


def test_a_short_call_shows_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_screen(monkeypatch)
    progress = Patient()
    for _ in range(30):  # an hour of short calls, a minute apart
        progress("answers", 0, 10, {})
        clock.now += 1.9
        progress("answers", 10, 10, {})
        clock.now += 60
    progress.close()
    assert screen.getvalue() == ""


def test_a_long_call_gets_a_bar_that_stays(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_screen(monkeypatch)
    progress = Patient()
    for second in range(11):
        clock.now = 100.0 + second
        progress("answers", second, 10, {"queries": 10.0 * second})
    text = screen.getvalue()
    assert "answers" in text
    assert "100%" in text
    assert "100 queries, 10/s" in text
    assert text.endswith("\n\x1b[?25h")  # the bar has ended, the cursor is below it and seen
    seen = len(text)
    progress("training", 1, 2, {"loss": 0.5})  # the same call goes on
    progress.close()
    progress.close()
    assert "training" in screen.getvalue()[seen:]
    assert screen.getvalue()[seen:].count("\x1b[?25h") >= 1  # the cursor is seen again


def test_a_stage_of_a_moment_leaves_no_bar_behind(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on_screen(monkeypatch)
    progress = Patient()
    progress("answers", 0, 2, {})
    clock.now += 5
    progress("answers", 1, 2, {})  # the bar begins late, and is there for a second
    clock.now += 1
    progress("answers", 2, 2, {})
    assert screen.getvalue().endswith("\x1b[2K")  # the line is erased


def test_elsewhere_a_long_call_gets_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Patient()
    for second in range(41):
        clock.now = 100.0 + second
        progress("answers", second, 40, {})
    assert capsys.readouterr().err.splitlines() == [
        "answers: 37%, 0:00:25 left",
        "answers: 75%, 0:00:10 left",
    ]


def test_a_stream_that_is_gone_stops_no_run(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on_screen(monkeypatch)
    progress = Patient()
    progress("answers", 0, 10, {})
    clock.now += 5
    progress("answers", 1, 10, {})
    screen.close()
    clock.now += 5
    progress("answers", 2, 10, {})
    progress("answers", 10, 10, {})
    monkeypatch.setattr(sys, "stderr", None)
    assert module.chosen(None) is silent


IMAGES = TensorImages(torch.zeros(3, 1, 4, 4))


def test_a_run_ends_its_bar_when_it_fails(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on_screen(monkeypatch)

    def ask(images: torch.Tensor) -> list[int]:
        clock.now += 5
        if len(asked) == 1:
            run.progress("answers", 1, 3, {})
            raise ValueError("no more")
        asked.append(len(images))
        return [0] * len(images)

    asked: list[int] = []
    with db3kd.Run(tmp_path / "run", function(ask, classes=2, batch=1)) as run:  # noqa: SIM117
        with pytest.raises(TeacherError):
            run.answers(IMAGES)
    text = screen.getvalue()
    assert "answers" in text
    assert text.endswith(("\n", "\x1b[2K", "\x1b[?25h"))
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is seen


@pytest.mark.parametrize("progress", [False, db3kd.silent])
def test_a_run_that_is_to_be_silent_is(
    clock: Clock, tmp_path: Path, progress: Progress | bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on_screen(monkeypatch)

    def ask(images: torch.Tensor) -> list[int]:
        clock.now += 50
        return [0] * len(images)

    with db3kd.Run(tmp_path / "run", function(ask, classes=2, batch=1), progress=progress) as run:
        run.answers(IMAGES)
    assert screen.getvalue() == ""


def test_rich_is_loaded_only_when_something_is_drawn() -> None:
    program = "import sys, db3kd.progress; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
