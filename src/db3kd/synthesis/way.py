"""The interface of a way of synthesis: what it gets, and what it must do."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from db3kd.data import Images
from db3kd.student.networks import Shape
from db3kd.synthesis.pool import Pool

DRAWING = 3  # how images are drawn and chosen; a folder keeps what it was begun with
Report = Callable[[str, int, int], None]
"""(what is learned, done, total): progress of learning, which asks nothing."""


@dataclass(frozen=True)
class Task:
    """What a way is made for.

    - `shape`, `classes`: the shape of the teacher's images, and the number of its classes.
    - `queries`: how many images are asked in all.
    - `student(seed)`: makes a new network like the student's, for ways that train one.
    - `members`, `candidates`: as in `Synthesis`.
    - `images`: unlabelled images in [0, 1], for the ways that need them.
    - `lessons`: after how many answers students learn; None: before each `spend` but the first.
    - `drawing`: how images are drawn, and how long the students that choose learn: `DRAWING`, or
      what a folder of an earlier version was begun with.
    - `finding`: whether classes are found as the teacher answers; rare ones are sought then. The
      last class is "I do not know".

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
    lessons: Collection[int] | None = None
    drawing: int = DRAWING
    finding: bool = False

    @property
    def earlier(self) -> bool:
        """Whether images are drawn as in folders that do not name a drawing; see `earlier`."""
        return self.drawing < 2

    @property
    def long_lessons(self) -> bool:
        """Whether students that choose learn as long as they did, by AdamW."""
        return self.drawing < 3


@runtime_checkable
class Way(Protocol):
    """One way of making pseudo samples without any data.

    The queries of a stage are cut into shards. `spend` is called once for each shard. It makes
    images and asks them with `pool.ask` until `pool.rest` is 0. It may learn from the pool before,
    between and after these questions. What it learned must be in `networks` and nowhere else. Their
    weights are kept after each shard, and a run that was killed calls `spend` again with the same
    pool, weights and seed.

    Everything random must be drawn from `seed`. Images are made within `pool.bounds`; `pool.ask`
    rounds them to what the teacher sees.
    """

    @property
    def networks(self) -> nn.Module:
        """Everything that is learned; an empty module if nothing is."""

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
