"""How long work reports its progress; the caller decides what is shown, and where."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called from time to time with a stage, how much of it is done, the total, and live figures.

    Figures are plain numbers by name, for instance `queries` or `loss`.

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
