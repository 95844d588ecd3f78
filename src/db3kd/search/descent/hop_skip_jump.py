"""HopSkipJump: a step along the normal, shrinking with 1/sqrt(t) (Chen et al., IEEE S&P 2020).

Where this differs from the paper: what `tangent` says of all the descents. In particular the step
leaves the ray at a right angle, and its end counts where it is across at the present distance, so
that a ray that cannot gain is given up after one query; the paper accepts any point that is across
and bisects it, which may lengthen the distance.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import Asks
from db3kd.search.descent.seen import JUST_BELOW
from db3kd.search.descent.tangent import (
    count_misses,
    growing,
    lay_planes,
    remember,
    settle,
    shrinking,
)
from db3kd.search.descent.walk import Walk

HALVINGS = 7  # of a step, at most


@dataclass(frozen=True)
class HopSkipJump:
    """Estimate the normal, step by distance/sqrt(t), halve until across, bisect, repeat.

    `probes` is the most of a step, the first has `first_probes` and step t sqrt(t) times as many.
    A probe is a fifth of a step long, between `finest` and `smoothing`, shares of the distance;
    `tolerance` is the final width of a bracket, as a share of a probe's length. `first_step` is a
    share of the distance, `patience` the steps without gain after which a row cannot be further
    minimised.

    >>> HopSkipJump().probes_at(3)
    200
    """

    probes: int = 200
    smoothing: float = 0.05
    finest: float = 0.002
    tolerance: float = 0.02
    first_probes: int = 100
    first_step: float = 1.0
    patience: int = 20

    def probes_at(self, step: int) -> int:
        """N0 sqrt(t)."""
        return growing(self.first_probes, self.probes, step)

    def step(
        self,
        asks: Asks,
        origin: Float[Tensor, "row *image"],
        walk: Walk,
        noise: Float[Tensor, "probe *image"],
        rows: Int[Tensor, " live"],
        bounds: tuple[float, float],
    ) -> Walk:
        """One iteration for the rows named: normal, step, bisection."""
        before = walk
        length = shrinking(walk.step[rows], self.smoothing, self.finest)
        tolerance = self.tolerance * length
        walk, plane = lay_planes(asks, origin, walk, noise, rows, bounds, smoothing=length)
        walk = remember(walk, plane)
        step = walk.step[rows]
        walk = walk.put(rows, step=step / (1 + step.square()).sqrt())  # 1/sqrt(t): t grows by one
        angle, moved = step.atan(), torch.zeros_like(rows, dtype=torch.bool)
        for _ in range(HALVINGS + 1):
            some = (~moved & (walk.left[rows] > 0)).nonzero()[:, 0]
            if not len(some):
                break
            walk, hit = plane.turn(walk, some, angle[some], JUST_BELOW * plane.distance[some])
            moved[some] = hit
            angle[some] = torch.where(hit, angle[some], (angle[some].tan() / 2).atan())
        walk = settle(
            asks,
            origin,
            walk,
            rows[moved],
            expected=1 - angle[moved].cos(),
            tolerance=tolerance[moved],
            bounds=bounds,
        )
        return count_misses(before, walk, rows, tolerance / 8)
