"""The time left of the whole work, which is told with every report of a stage."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from db3kd.progress import Progress, silent

PRIOR = 0.1  # of a part: how much of it must be done before what it took counts as the forecast
FRESH = 0.1  # share of a stage below which its first report is not one of work done before
EARLY = 20.0  # seconds of work that count as the forecast says, when later parts are corrected


@dataclass(frozen=True)
class Part:
    """A part of what is ahead: what progress calls it, its seconds, and whether it is training."""

    name: str
    seconds: float
    trains: bool = False


class Clock:
    """A `Progress` that adds the figure `left`, the seconds that the whole work still takes.

    `plan` says what is ahead, without what is done. It is asked again whenever another stage
    reports. What the stages took so far corrects the parts that are not begun, those that train and
    those that ask apart. Without a plan, reports go on as they are.

    >>> def show(stage, done, total, figures):
    ...     print(stage, round(figures["left"]))
    >>> clock = Clock(show)
    >>> clock.plan = lambda: [Part("answers", 10.0), Part("ce-0", 30.0, trains=True)]
    >>> clock("answers", 0, 5, {})
    answers 40
    """

    def __init__(
        self, progress: Progress = silent, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.progress = progress
        self.plan: Callable[[], list[Part]] | None = None
        self._now = now
        self._stage, self._later = "", list[Part]()
        self._mine: Part | None = None  # that of the stage
        self._begun = self._first = self._share = self._last = 0.0
        self._over: dict[str, int] = {}  # how many parts of a name there were when one was over
        self._took = {True: [EARLY, EARLY], False: [EARLY, EARLY]}  # by kind: seconds, forecast

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        """Pass a report on, with the time left."""
        left = self._left(stage, min(1.0, done / total) if total else 1.0)
        self.progress(stage, done, total, figures if left is None else {**figures, "left": left})

    def _left(self, stage: str, share: float) -> float | None:
        if self.plan is None:
            return None
        if stage != self._stage or share < self._share:
            self._close()
            self._open(stage, share, self.plan())
        self._share, self._last = share, self._now()
        later = sum(part.seconds * self._factor(part.trains) for part in self._later)
        return later + (self._rest(self._mine) if self._mine else 0.0)

    def _open(self, stage: str, share: float, ahead: list[Part]) -> None:
        """Begin a stage; what is over but not yet on the books is not ahead."""
        for name, count in self._over.items():
            same = [part for part in ahead if part.name == name]
            if len(same) == count:
                ahead.remove(same[0])
        self._stage = stage
        self._mine = next((part for part in ahead if part.name == _plain(stage)), None)
        if self._mine is not None:
            ahead.remove(self._mine)
        self._later = ahead
        fresh = share < FRESH and self._last > 0
        self._begun, self._first = (self._last, 0.0) if fresh else (self._now(), share)

    def _rest(self, part: Part) -> float:
        """What is left of the part that reports, by its forecast and by what it took so far."""
        whole = part.seconds * self._factor(part.trains)
        if self._first >= 1.0:
            return 0.0
        done = (self._share - self._first) / (1 - self._first)
        took = self._now() - self._begun
        return (whole * PRIOR + took) / (PRIOR + done) * (1 - done)

    def _close(self) -> None:
        """Note what the part took that reported last."""
        part, name = self._mine, _plain(self._stage)
        if part is None or self._first >= 1.0:
            return
        done = (self._share - self._first) / (1 - self._first)
        self._took[part.trains][0] += self._last - self._begun
        self._took[part.trains][1] += done * part.seconds
        if self._share >= 1.0:
            self._over[name] = 1 + sum(other.name == name for other in self._later)

    def _factor(self, trains: bool) -> float:
        took, forecast = self._took[trains]
        return took / forecast


def _plain(stage: str) -> str:
    """A stage's name as in a plan: no numbers of surrogates, no images that are asked first."""
    return re.sub(r"surrogate-\d+$", "surrogate", stage.removeprefix("first/"))
