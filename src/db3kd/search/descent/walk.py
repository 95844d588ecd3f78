"""The interface of a descent, its state, and the loop that runs it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.search.boundary import Asks, along
from db3kd.teachers.noisy.flips import margin_for

DOUBT = 0.01  # how often a step may be judged wrongly, where answers are flipped
FARTHER = 1e-3  # share of the distance between the points that are asked for that
LEAST_LEFT = 4  # with fewer queries left, no step can pay

Noise = Callable[[int, int, int], Tensor]
"""(step, probes asked in the steps before, count) -> that count of images, of norm sqrt(pixels)."""


@dataclass(frozen=True)
class Walk:
    """Where each row stands: a confirmed point across the boundary, and what it has cost.

    `point` was shown to the teacher and is across; `distance` is its Euclidean distance from the
    origin; `step` the length of the next step, in the descent's own unit; `spent` and `limit` count
    queries of the row; `misses` counts the steps in a row that gained nothing; `memory` is what the
    descent remembers of directions, zero at first.

    >>> walk = Walk.at(torch.ones(1, 1, 2, 2), torch.tensor([2.0]), step=0.2,
    ...                spent=torch.tensor([7]), limit=100)
    >>> walk.left
    tensor([93])
    """

    point: Float[Tensor, "row *image"]
    distance: Float[Tensor, " row"]
    step: Float[Tensor, " row"]
    spent: Int[Tensor, " row"]
    limit: int
    misses: Int[Tensor, " row"]
    memory: Float[Tensor, "row *image"]

    @classmethod
    def at(
        cls,
        point: Float[Tensor, "row *image"],
        distance: Float[Tensor, " row"],
        *,
        step: float,
        spent: Int[Tensor, " row"],
        limit: int,
    ) -> "Walk":
        """Start from confirmed points."""
        steps, misses = torch.full_like(distance, step), torch.zeros_like(spent)
        return cls(point, distance, steps, spent, limit, misses, torch.zeros_like(point))

    @property
    def left(self) -> Int[Tensor, " row"]:
        """Queries that each row may still ask."""
        return self.limit - self.spent

    def put(self, rows: Int[Tensor, " some"], **parts: Tensor) -> "Walk":
        """The walk with some columns of some rows replaced.

        >>> walk = Walk.at(torch.ones(2, 1, 1, 1), torch.ones(2), step=0.2,
        ...                spent=torch.tensor([7, 7]), limit=100)
        >>> walk.put(torch.tensor([1]), spent=torch.tensor([9])).spent
        tensor([7, 9])
        """
        columns: dict[str, Any] = {
            name: replaced(getattr(self, name), rows, part) for name, part in parts.items()
        }
        return replace(self, **columns)


def replaced(whole: Tensor, rows: Int[Tensor, " some"], part: Tensor | float) -> Tensor:
    """A copy with some rows replaced.

    >>> replaced(torch.zeros(3), torch.tensor([1]), 5.0)
    tensor([0., 5., 0.])
    """
    whole = whole.clone()
    whole[rows] = part
    return whole


@runtime_checkable
class Descent(Protocol):
    """One way of walking: settings only; the state is a `Walk`, randomness comes as noise."""

    @property
    def first_step(self) -> float:
        """The step that a walk starts with."""

    @property
    def patience(self) -> int:
        """After how many steps without gain a row cannot be further minimised."""

    def probes_at(self, step: int) -> int:
        """How many noise images that step takes."""

    def step(
        self,
        asks: Asks,
        origin: Float[Tensor, "row *image"],
        walk: Walk,
        noise: Float[Tensor, "probe *image"],
        rows: Int[Tensor, " live"],
        bounds: tuple[float, float],
    ) -> Walk:
        """One step of the rows named; the other rows come back as they were."""


def descend(
    descent: Descent,
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    walk: Walk,
    *,
    noise: Noise,
    bounds: tuple[float, float],
    after_step: Callable[[Walk], None],
    flips: float = 0.0,
) -> tuple[Walk, Bool[Tensor, " row"]]:
    """Step until no row can be further minimised or its limit is reached (section 3.2.1).

    Returns the last state and which rows converged. The noise of a step is the same for every row,
    so that a row does not depend on its neighbours. At most `limit` queries a row. Where a share
    `flips` of the answers is wrong, each step is `confirmed`.

    >>> from db3kd.search.descent import SignOpt
    >>> asks = lambda points, rows: points.flatten(1)[:, 0] > 1  # a half-space at distance 1
    >>> start = torch.tensor([[[[1.01, 2.0]]]])
    >>> walk = Walk.at(start, torch.linalg.vector_norm(start).reshape(1), step=0.2,
    ...                spent=torch.tensor([0]), limit=1000)
    >>> draw = torch.Generator().manual_seed(0)
    >>> walk, _ = descend(SignOpt(), asks, torch.zeros(1, 1, 1, 2), walk, bounds=(-9.0, 9.0),
    ...                   noise=lambda step, before, n: torch.randn(n, 1, 1, 2, generator=draw),
    ...                   after_step=lambda walk: None)
    >>> round(walk.distance.item(), 2)
    1.0
    """
    before, walk = 0, replace(walk, step=torch.full_like(walk.step, descent.first_step))
    for done in range(walk.limit):
        restless = (walk.misses < descent.patience) & (walk.distance > 0)
        rows = (restless & (walk.left >= LEAST_LEFT)).nonzero()[:, 0]
        if not len(rows):
            break
        count = descent.probes_at(done)
        moved = descent.step(asks, origin, walk, noise(done, before, count), rows, bounds)
        walk = confirmed(asks, origin, walk, moved, rows, bounds, flips) if flips else moved
        before += count
        after_step(walk)
    return walk, (walk.misses >= descent.patience) | (walk.distance == 0)


def confirmed(
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    before: Walk,
    after: Walk,
    rows: Int[Tensor, " live"],
    bounds: tuple[float, float],
    flips: float,
) -> Walk:
    """Ask again where some rows moved to; where answers speak against it, they go back.

    One wrong answer inwards of the boundary would hold a row there for good, and every probe around
    it would be wasted. The point is asked again, and points just beyond it, so that an image that
    is always answered wrongly is not asked twice, until one side leads as `margin_for` has it.
    Costs as many queries as that takes, booked on the row.

    >>> asks = lambda points, rows: points.flatten(1)[:, 0] > 1
    >>> before = Walk.at(torch.full((1, 1, 1, 1), 2.0), torch.tensor([2.0]), step=0.2,
    ...                  spent=torch.tensor([0]), limit=99)
    >>> after = before.put(torch.tensor([0]), point=torch.full((1, 1, 1, 1), 0.5),
    ...                    distance=torch.tensor([0.5]))
    >>> back = confirmed(asks, torch.zeros(1, 1, 1, 1), before, after, torch.tensor([0]),
    ...                  (0.0, 9.0), 0.05)
    >>> back.distance, back.spent
    (tensor([2.]), tensor([2]))
    """
    margin = margin_for(flips, DOUBT)
    some = rows[after.distance[rows] < before.distance[rows]]
    start, left = origin.index_select(0, some), after.left[some]
    span = after.point.index_select(0, some) - start
    asked, lead = torch.zeros_like(some), torch.zeros_like(some)
    for number in range(2 * margin + 1):
        live = ((lead.abs() < margin) & (asked < left)).nonzero()[:, 0]
        if not len(live):
            break
        share = torch.full_like(after.distance[some[live]], 1 + number * FARTHER)
        there = along(start.index_select(0, live), span.index_select(0, live), share, bounds)
        lead[live] += torch.where(asks(there, some[live]), 1, -1)
        asked[live] += 1
    after = after.put(some, spent=after.spent[some] + asked)
    back = some[lead < 0]
    point = before.point.index_select(0, back)
    return after.put(back, point=point, distance=before.distance[back])
