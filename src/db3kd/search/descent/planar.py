"""Steps within the plane of ray and tangent: what CGBA-H, HopSkipJump and TtBA share.

Each of them estimates the tangent, moves within the plane, and brings the new point in to the
boundary. They differ only in the move.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.search.boundary import Asks
from db3kd.search.descent.tangent import (
    Plane,
    count_misses,
    growing,
    lay_planes,
    remember,
    settle,
    shrinking,
)
from db3kd.search.descent.walk import Walk

FINE = 1 / 8  # of the tolerance: what a bracket expects, and a step must gain, at least


@dataclass(frozen=True)
class Planar(ABC):
    """A descent whose step is a move within the plane.

    `probes` is the most of a step, the first has `first_probes` and step t sqrt(t) times as many.
    A probe is a fifth of a step long, between `finest` and `smoothing`, shares of the distance;
    `tolerance` is the final width of a bracket, as a share of a probe's length. `first_step` is
    in the unit of the move, `patience` the steps without gain after which a row cannot be further
    minimised.
    """

    probes: int = 200
    smoothing: float = 0.05
    finest: float = 0.002
    tolerance: float = 0.02
    first_probes: int = 30
    first_step: float = 0.5
    patience: int = 20

    def probes_at(self, step: int) -> int:
        """N0 sqrt(t)."""
        return growing(self.first_probes, self.probes, step)

    @abstractmethod
    def move(
        self, walk: Walk, plane: Plane, least: Float[Tensor, " live"]
    ) -> tuple[Walk, Bool[Tensor, " live"], Float[Tensor, " moved"]]:
        """Turn the rays of the plane's rows and choose the rows' next steps.

        Also returns which rows moved, and for those the share of the distance within which the
        boundary is expected; `least` is the smallest share that is worth a query.
        """

    def step(
        self,
        asks: Asks,
        origin: Float[Tensor, "row *image"],
        walk: Walk,
        noise: Float[Tensor, "probe *image"],
        rows: Int[Tensor, " live"],
        bounds: tuple[float, float],
    ) -> Walk:
        """One iteration for the rows named: tangent, move, bisection."""
        before = walk
        length = shrinking(walk.step[rows], self.smoothing, self.finest)
        tolerance = self.tolerance * length
        walk, plane = lay_planes(asks, origin, walk, noise, rows, bounds, smoothing=length)
        walk = remember(walk, plane)
        walk, moved, expected = self.move(walk, plane, FINE * tolerance)
        walk = settle(
            asks,
            origin,
            walk,
            rows[moved],
            expected=expected,
            tolerance=tolerance[moved],
            bounds=bounds,
        )
        return count_misses(before, walk, rows, FINE * tolerance)


Turn = Callable[[Walk, Tensor, Tensor], tuple[Walk, Tensor]]
"""(walk, some rows of the plane, size of each) -> the walk, and which were across and nearer."""


@dataclass(frozen=True)
class Bracketing:
    """How the largest turn is found by single queries: how many, and which sizes are tried.

    `tries` is the most queries of a row, `refinements` how many of them halve a bracket that has
    both ends. Before that a size is multiplied by `larger` where it was across, by `smaller` where
    it was not. All sizes lie between `least` and `most`.
    """

    tries: int
    refinements: int
    larger: float
    smaller: float
    least: float
    most: float

    def largest(
        self, walk: Walk, plane: Plane, turn: Turn
    ) -> tuple[Walk, Float[Tensor, " live"], Float[Tensor, " live"]]:
        """The largest size found across, 0 for none, and the smallest above it that is not.

        The latter is +inf where every size was across. The first size tried is the row's own step.
        """
        low = torch.zeros_like(plane.distance)
        high, refined = torch.full_like(low, torch.inf), torch.zeros_like(plane.rows)
        size = walk.step[plane.rows].clamp(self.least, self.most)
        for _ in range(self.tries):
            unsure = (refined < self.refinements) & (low < self.most)
            some = (unsure & (walk.left[plane.rows] > 0)).nonzero()[:, 0]
            if not len(some):
                break
            tried = size[some]
            bracketed = (low[some] > 0) & torch.isfinite(high[some])
            walk, hit = turn(walk, some, tried)
            low[some] = torch.where(hit, tried, low[some])
            high[some] = torch.where(hit, high[some], tried)
            refined[some] += bracketed
            middle, larger = (
                (low[some] + high[some]) / 2,
                (tried * self.larger).clamp(max=self.most),
            )
            narrower = torch.where(low[some] > 0, middle, tried * self.smaller)
            size[some] = torch.where(torch.isfinite(high[some]), narrower, larger)
        return walk, low, high
