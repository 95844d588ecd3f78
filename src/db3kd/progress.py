"""How long work tells its caller where it is; what is shown, and where, the caller decides."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called from time to time with the stage, what is done of what total, and live figures.

    Figures are plain numbers by name, for instance `queries` or `loss`.

    >>> def shout(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    ...     print(f"{stage}: {done} of {total}")
    >>> shout("distances", 3, 10, {})
    distances: 3 of 10
    """

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        """Report that `done` of `total` units of `stage` are finished."""


def silent(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
    """Show nothing.

    >>> silent("distances", 3, 10, {})
    """
