"""CGBA-H: the angle on a semicircle (Reza et al., CGBA, ICCV 2023).

In the plane of origin, point and normal, the foot of the perpendicular to a flat boundary lies on
the semicircle over origin and point; its part before the foot is across, the rest is not. So the
angle is found by single queries on the arc, each of which, where across, is already a nearer
point. The variant H, for targeted searches and strongly curved boundaries, begins near the point.

Where this differs from the paper: what `tangent` says of all the descents; the first angle tried is
the row's own, a little more than its last one, and is then enlarged or reduced, instead of one
fixed angle that is halved; two halvings refine it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
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

TRIES, REFINEMENTS = 9, 2  # queries on the arc, at most; of these, halvings of the angle's bracket
LARGER, SMALLER, AGAIN = 1.6, 0.4, 1.3  # factors of the angle: across, not across, next step
LEAST, MOST = 1e-3, 1.45  # of the angle, in radians


@dataclass(frozen=True)
class CgbaH:
    """Estimate the normal, find the angle on the semicircle, move in to the boundary, repeat.

    `probes` is the most of a step, the first has `first_probes` and step t sqrt(t) times as many.
    A probe is a fifth of a step long, between `finest` and `smoothing`, shares of the distance;
    `tolerance` is the final width of a bracket, as a share of a probe's length. `first_step` is
    an angle in radians, `patience` the steps without gain after which a row cannot be further
    minimised.

    >>> CgbaH().probes_at(3)
    60
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

    def step(
        self,
        asks: Asks,
        origin: Float[Tensor, "row *image"],
        walk: Walk,
        noise: Float[Tensor, "probe *image"],
        rows: Int[Tensor, " live"],
        bounds: tuple[float, float],
    ) -> Walk:
        """One iteration for the rows named: normal, angle, bisection."""
        before = walk
        length = shrinking(walk.step[rows], self.smoothing, self.finest)
        tolerance = self.tolerance * length
        walk, plane = lay_planes(asks, origin, walk, noise, rows, bounds, smoothing=length)
        walk = remember(walk, plane)
        walk, angle, above = _along_arc(walk, plane)
        moved = angle > 0
        step = torch.where(moved, (AGAIN * angle).clamp(max=MOST), walk.step[rows] / 2)
        walk = walk.put(rows, step=step.clamp(min=LEAST))
        walk = settle(
            asks,
            origin,
            walk,
            rows[moved],
            expected=torch.maximum(angle * (above - angle), tolerance / 8)[moved],
            tolerance=tolerance[moved],
            bounds=bounds,
        )
        return count_misses(before, walk, rows, tolerance / 8)


def _along_arc(walk: Walk, plane: Plane) -> tuple[Walk, Tensor, Tensor]:
    """The largest angle found across, 0 for none, and the smallest above it that is not."""
    low = torch.zeros_like(plane.distance)
    high, refined = torch.full_like(low, torch.inf), torch.zeros_like(plane.rows)
    angle = walk.step[plane.rows].clamp(LEAST, MOST)
    for _ in range(TRIES):
        open_ = (refined < REFINEMENTS) & (low < MOST) & (walk.left[plane.rows] > 0)
        some = open_.nonzero()[:, 0]
        if not len(some):
            break
        tried = angle[some]
        bracketed = (low[some] > 0) & torch.isfinite(high[some])
        walk, hit = plane.turn(walk, some, tried, plane.distance[some] * tried.cos())
        low[some] = torch.where(hit, tried, low[some])
        high[some] = torch.where(hit, high[some], tried)
        refined[some] += bracketed
        middle, larger = (low[some] + high[some]) / 2, (tried * LARGER).clamp(max=MOST)
        narrower = torch.where(low[some] > 0, middle, tried * SMALLER)
        angle[some] = torch.where(torch.isfinite(high[some]), narrower, larger)
    return walk, low, torch.where(torch.isfinite(high), high, MOST)
