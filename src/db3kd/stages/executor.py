"""Who does the shards of a stage: this process, one after the other, or workers elsewhere.

`docs/design/2026-11-30-leases.md` says how workers go about it and why nothing is asked twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.storage.files import Json

Work = Callable[[Any, Tensor, int], tuple[dict[str, Tensor], Json]]
"""The work of one shard: its `ReplayTeacher`, rows and number give tensors to keep, and facts."""
Tell = Callable[[int], None]
"""Is told how many queries of some parts are behind us, by their prices."""


@dataclass(frozen=True)
class Part:
    """A shard to do: its number, its rows, and the most queries that it is worth in a report.

    There may be a hundred thousand of them, so the rows are made when they are wanted.

    >>> Part(3, range(6, 8), 20).rows
    tensor([6, 7])
    """

    shard: int
    span: range
    most: int

    @property
    def rows(self) -> Int[Tensor, " row"]:
        """The numbers of the rows."""
        return torch.arange(self.span.start, self.span.stop)


@runtime_checkable
class Executor(Protocol):
    """Does the shards of a stage.

    `apart`: whether they are done in other processes, which know of no network that is not kept.
    """

    @property
    def apart(self) -> bool:
        """Whether the work is done in other processes."""

    def do(
        self, workspace: Any, stage: str, parts: Sequence[Part], work: Work, tell: Tell, apart: bool
    ) -> None:
        """Do these shards, whole, and put each on the books of a `Workspace`.

        `apart`: each can be done without the others.

        Raises:
            BudgetExhausted, TeacherError, Damaged, RunError: as `Workspace.work`.
        """

    def train(self, workspace: Any, students: Sequence[tuple[str, int]]) -> None:
        """Train students of a recipe, by name and seed, and put each on the books.

        Those that are left are trained by this process, when they are wanted.
        """

    def figures(self) -> dict[str, float]:
        """What there is to report beside how far a stage is."""

    def close(self) -> None:
        """Let go of all that was started."""


class InThisProcess:
    """Does shards here, one after the other.

    >>> InThisProcess().apart
    False
    """

    apart = False

    def do(
        self, workspace: Any, stage: str, parts: Sequence[Part], work: Work, tell: Tell, apart: bool
    ) -> None:
        """Do these shards."""
        ready = 0
        for part in parts:

            def report(used: int, ready: int = ready, most: int = part.most) -> None:
                tell(ready + min(used, most))

            report(0)
            workspace.shard(stage, part.shard, part.rows, work, report)
            ready += part.most

    def train(self, workspace: Any, students: Sequence[tuple[str, int]]) -> None:
        """Each is trained when it is wanted."""

    def figures(self) -> dict[str, float]:
        """There is nothing to report."""
        return {}

    def close(self) -> None:
        """There is nothing to let go of."""
