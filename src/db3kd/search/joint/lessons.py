"""Lessons: one before each round, each given once, from every answer that there is by then."""

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

from db3kd.search.joint.plan import steps_of
from db3kd.search.joint.surrogate import Ensemble, Known, teach
from db3kd.seeds import derive_seed


@runtime_checkable
class Lessons(Protocol):
    """Where the lessons of a surrogate are kept: in memory, or in the folder of a run."""

    def recall(self, number: int, surrogate: Ensemble) -> int:
        """Fill a surrogate with the newest lesson kept, up to this one; its number, or -1."""

    def keep(
        self, number: int, surrogate: Ensemble, *, steps: int, probes: int, wall_s: float
    ) -> None:
        """Keep a surrogate after a lesson."""

    def report(self, number: int, done: int, total: int) -> None:
        """Hear how many steps of a lesson are done."""


def learn(
    surrogate: Ensemble,
    number: int,
    known: Callable[[int], Known],
    lessons: Lessons,
    *,
    seed: int,
    device: str,
) -> None:
    """Give a new surrogate all its lessons up to this one; those that are kept are recalled.

    `known` says what there is to learn before a round. Costs no query. Random: the batches, drawn
    from `seed` and the number of the lesson.

    >>> from db3kd.data import TensorImages
    >>> from db3kd.search.joint.in_memory import LastLesson
    >>> images, answers = torch.rand(9, 1, 4, 4), torch.arange(9) % 2
    >>> known = Known(TensorImages(images), answers, images[:0], answers[:0])
    >>> surrogate = Ensemble("small", (1, 4, 4), 2, members=1, seed=0)
    >>> lessons = LastLesson()
    >>> learn(surrogate, 0, lambda number: known, lessons, seed=0, device="cpu")
    >>> lessons.recall(0, surrogate)
    0
    """
    for later in range(lessons.recall(number, surrogate) + 1, number + 1):
        started, answers = time.perf_counter(), known(later)
        steps = steps_of(answers)
        total = steps * len(surrogate.members)

        def report(done: int, later: int = later, total: int = total) -> None:
            lessons.report(later, done, total)

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
        lessons.keep(later, surrogate, steps=steps, probes=len(answers.probes), wall_s=took)
