"""The interface of a way of synthesis: what it is given, and what it must do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from db3kd.data import Images
from db3kd.student.networks import Shape
from db3kd.synthesis.pool import Pool

Report = Callable[[str, int, int], None]
"""(what is learned, done, total): progress that asks nothing."""


@dataclass(frozen=True)
class Task:
    """What a way is made for: images of a shape, the teacher's classes, so many queries in all.

    `student(seed)` is a fresh network like the student's, for ways that learn one meanwhile.
    `members` and `candidates` are as in `Synthesis`. `images`: unlabelled images from 0 to 1, for
    the ways that ask such.

    >>> task = Task((1, 8, 8), 10, queries=100, device="cpu", student=lambda seed: nn.Flatten())
    >>> task.members, task.candidates, task.images
    (2, 4, None)
    """

    shape: Shape
    classes: int
    queries: int
    device: str
    student: Callable[[int], nn.Module]
    members: int = 2
    candidates: int = 4
    images: Images | None = None


@runtime_checkable
class Way(Protocol):
    """One way of making pseudo samples without any data.

    The queries of a stage are cut into shards. For each, `spend` is called once: it makes images,
    asks them by `pool.ask` until `pool.rest` is 0, and may learn from the pool before, between and
    after. What it learned must be in `networks` and nowhere else: their weights are kept after each
    shard, and a killed process calls `spend` again with the same pool, weights and seed.

    Random is only what is drawn from `seed`. Images are made within `pool.bounds`; `pool.ask`
    rounds them to what the teacher sees.
    """

    @property
    def networks(self) -> nn.Module:
        """Everything that is learned; an empty module where nothing is."""

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
