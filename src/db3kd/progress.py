"""How long work reports its progress, and how that is shown; the caller decides."""

import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

LINE_SECONDS = 15.0  # between lines, where there are no bars
PATIENCE = 2.0  # seconds before a call that nobody asked to show anything does so
LEFT = "left"  # the figure that says how many seconds the whole work still takes
FRAME = 0.1  # seconds between two states of a bar


@runtime_checkable
class Progress(Protocol):
    """Called from time to time with a stage, how much of it is done, the total, and live figures.

    Figures are plain numbers by name, for instance `queries` or `loss`; `left` is the seconds that
    the whole work still takes, where this is known.

    >>> def shout(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    ...     print(f"{stage}: {done} of {total}")
    >>> import tempfile, torch
    >>> from db3kd import Run
    >>> from db3kd.data import TensorImages
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> with Run(tempfile.mkdtemp(), bright, progress=shout) as run:
    ...     _ = run.answers(TensorImages(torch.zeros(3, 1, 4, 4)))
    answers: 0 of 3
    answers: 3 of 3
    answers: 3 of 3
    """

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        """Report that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
    """Show nothing.

    >>> silent("distances", 3, 10, {})
    """


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """Show progress on stderr at once: a bar for each stage in a terminal, elsewhere lines.

    A line is written every `LINE_SECONDS`, and at the end of a stage. While a stage asks, queries
    spent, queries per second and the time left for the stage are shown. `quiet` shows nothing.

    >>> with shown(quiet=True) as progress:
    ...     progress("distances", 1, 2, {"queries": 10.0})
    """
    if quiet:
        yield silent
    elif _is_screen():
        with _bars() as bars:
            yield _AllBars(bars)
    else:
        yield _Lines()


def chosen(progress: Progress | bool | None) -> Progress:
    """What a `Run` reports to: the caller's own choice, or else `Patient`.

    >>> chosen(False) is silent, chosen(silent) is silent
    (True, True)
    >>> type(chosen(None)).__name__
    'Patient'
    """
    if progress is not None and not isinstance(progress, bool):
        return progress
    return silent if progress is False or sys.stderr is None else Patient()


def ended(progress: Progress) -> None:
    """Leave the screen as it is, if `progress` is a `Patient` one.

    >>> ended(silent)
    """
    if isinstance(progress, Patient):
        progress.close()


class Patient:
    """Shows progress on stderr once a call takes longer than `PATIENCE` seconds.

    A terminal or a notebook gets a bar for the stage that runs. Elsewhere there is a line every
    `LINE_SECONDS`, and none at first. Only reports change what is on the screen, so that an error
    leaves nothing behind that moves.

    >>> progress = Patient()
    >>> progress("distances", 1, 2, {})
    >>> progress.close()
    """

    def __init__(self) -> None:
        self._rate = _Rate()
        self._began = self._drawn = self._heard = -float("inf")
        self._stage, self._done, self._finished = "", 0, True
        self._bar: _OneBar | None = None
        self._lines: _Lines | None = None

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        """Show how much is done, if that takes long."""
        now = time.monotonic()
        with suppress(OSError, ValueError):  # of a stream that is gone; the work goes on
            if self._finished and now - self._heard > PATIENCE:  # another call
                self._began = now
                self._lines = None if _is_screen() else _Lines(since=now)
            if stage != self._stage or done < self._done:
                self.close()
            self._stage, self._done, self._finished, self._heard = stage, done, done >= total, now
            if self._lines is not None:
                self._lines(stage, done, total, figures)
            else:
                self._draw(now, total, self._rate.facts(stage, figures), _left(figures))

    def _draw(self, now: float, total: int, facts: str, left: str) -> None:
        if self._bar is None and not self._finished and now - self._began >= PATIENCE:
            self._bar = _OneBar(self._stage, now)
        if self._bar is not None and (self._finished or now - self._drawn >= FRAME):
            self._drawn = now
            self._bar.show(self._done, total, facts, left)
        if self._finished:
            self.close()

    def close(self) -> None:
        """Let go of the screen; what a long stage has shown stays there."""
        bar, self._bar = self._bar, None
        if bar is not None:
            with suppress(OSError, ValueError):
                bar.close(stays=time.monotonic() - bar.since >= PATIENCE)


class _Rate:
    """Queries per second since a stage was first seen."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, float]] = {}

    def facts(self, stage: str, figures: Mapping[str, float]) -> str:
        now = time.monotonic()
        words = []
        for name, value in figures.items():
            if name == LEFT:
                continue
            if name == "queries":
                then, before = self._first.setdefault(stage, (now, value))
                rate = (value - before) / (now - then) if now > then else 0.0
                words.append(f"{value:,.0f} queries, {rate:,.0f}/s")
            else:
                words.append(f"{name} {value:.4g}")
        return ", ".join(words)


def _left(figures: Mapping[str, float]) -> str:
    """The time left of the whole work, in words; nothing where it is unknown."""
    return f"{_clock(figures[LEFT])} left in all" if LEFT in figures else ""


def _is_screen() -> bool:
    """Whether stderr is a terminal that can move its cursor, or a notebook that rich draws in."""
    if sys.stderr.isatty():
        return os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    if "IPython" not in sys.modules or find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console(stderr=True).is_jupyter


def _bars(**options: Any) -> "Bars":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Left(TimeRemainingColumn):
        """The time left of the whole work where it is known, else that of the stage."""

        def render(self, task: Task) -> Text:
            if task.finished or not task.fields["left"]:
                return Text("left ") + super().render(task)
            return Text(task.fields["left"], style="progress.remaining")

    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        Left(),
        console=Console(stderr=True),
        **options,
    )


class _OneBar:
    """A bar that only moves when it is told to."""

    def __init__(self, stage: str, since: float) -> None:
        self.since = since
        self._bars = _bars(auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bars.add_task(stage, total=None, facts="", left="")
        self._bars.start()
        self._bars.console.show_cursor(True)

    def show(self, done: int, total: int, facts: str, left: str) -> None:
        self._bars.update(
            self._task, completed=done, total=total, facts=facts, left=left, refresh=True
        )

    def close(self, *, stays: bool) -> None:
        self._bars.live.transient = not stays
        self._bars.stop()


class _AllBars:
    """A bar for each stage, all on the screen together."""

    def __init__(self, bars: "Bars") -> None:
        self._bars, self._rate = bars, _Rate()
        self._tasks: dict[str, tuple[TaskID, int]] = {}

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        task, before = self._tasks.get(stage, (None, 0))
        if task is None or before > done:
            task = self._bars.add_task(stage, total=total, facts="", left="")
        self._tasks[stage] = task, done
        facts = self._rate.facts(stage, figures)
        self._bars.update(task, completed=done, total=total, facts=facts, left=_left(figures))


class _Lines:
    def __init__(self, since: float | None = None) -> None:
        self._rate = _Rate()
        self._said = -LINE_SECONDS if since is None else since
        self._all = since is None  # the first state and the end of each stage as well
        self._begun: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        now, before = time.monotonic(), self._last.get(stage, -1)
        if done < before:  # the same stage of another student
            self._begun.pop(stage)
        self._last[stage] = done
        began, first = self._begun.setdefault(stage, (now, done))
        facts = self._rate.facts(stage, figures)
        soon = now - self._said < LINE_SECONDS
        if done == before == total or (soon and (done < total or not self._all)):
            return
        self._said = now
        left = ""
        if LEFT in figures:
            left = f", {_left(figures)}"
        elif first < done < total:
            left = f", {_clock((now - began) * (total - done) / (done - first))} left"
        share = 100 * done // max(total, 1)
        sys.stderr.write(f"{stage}: {share}%{', ' if facts else ''}{facts}{left}\n")


def lasting(seconds: float) -> str:
    """A duration in words.

    >>> lasting(0.2), lasting(65.0), lasting(300.0), lasting(9e3), lasting(3 * 86_400.0)
    ('1 second', '65 seconds', '5 minutes', '2.5 hours', '3 days')
    """
    units = (("second", 1, 100), ("minute", 60, 100), ("hour", 3600, 48), ("day", 86_400, math.inf))
    unit, size = next((unit, size) for unit, size, most in units if seconds / size < most)
    count = max(1.0, seconds / size)
    words = f"{count:.0f}" if size < 3600 else f"{count:.1f}".removesuffix(".0")
    return f"{words} {unit}{'' if words == '1' else 's'}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
