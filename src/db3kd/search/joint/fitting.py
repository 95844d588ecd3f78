"""Fitting a surrogate: once before each round, to every answer bought by then."""

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from db3kd.search.joint.plan import steps_of
from db3kd.search.joint.surrogate import Ensemble, Known, teach
from db3kd.seeds import derive_seed


@runtime_checkable
class Surrogates(Protocol):
    """Where a surrogate is kept after each fit: in memory, or in the folder of a run."""

    def recall(self, number: int, surrogate: Ensemble) -> int:
        """Load the newest fit kept, up to this number; returns which it is, or -1."""

    def keep(
        self, number: int, surrogate: Ensemble, *, steps: int, probes: int, wall_s: float
    ) -> None:
        """Keep a surrogate after a fit."""

    def report(self, number: int, done: int, total: int) -> None:
        """Hear how many steps of a fit are done."""


def fit(
    surrogate: Ensemble,
    number: int,
    known: Callable[[int], Known],
    surrogates: Surrogates,
    *,
    seed: int,
    device: str,
) -> None:
    """Fit a new surrogate as often as this number says; fits that are kept are loaded.

    `known` says what there is to learn before a round. Costs no query. Random: the batches, drawn
    from `seed` and the number of the fit.

    >>> from db3kd.data import TensorImages
    >>> from db3kd.search.joint.in_memory import LastSurrogate
    >>> images, answers = torch.rand(9, 1, 4, 4), torch.arange(9) % 2
    >>> known = Known(TensorImages(images), answers, images[:0], answers[:0])
    >>> surrogate = Ensemble("small", (1, 4, 4), 2, members=1, seed=0)
    >>> surrogates = LastSurrogate()
    >>> fit(surrogate, 0, lambda number: known, surrogates, seed=0, device="cpu")
    >>> surrogates.recall(0, surrogate)
    0
    """
    for later in range(surrogates.recall(number, surrogate) + 1, number + 1):
        started, answers = time.perf_counter(), known(later)
        steps = steps_of(len(answers.answers), len(answers.probes))
        total = steps * len(surrogate.members)

        def report(done: int, later: int = later, total: int = total) -> None:
            surrogates.report(later, done, total)

        with torch.enable_grad():
            teach(
                surrogate,
                answers,
                steps=steps,
                seed=derive_seed(seed, "lesson", later),
                device=device,
                report=report,
            )
        took = round(time.perf_counter() - started, 3)
        surrogates.keep(later, surrogate, steps=steps, probes=len(answers.probes), wall_s=took)
