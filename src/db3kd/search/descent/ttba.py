"""TtBA: a blend of ray and normal, two thirds of the way to the bridge (ICML 2025).

With the new direction k normal + (1 - k) ray, k_bridge is where it meets the boundary at the
present distance. For a flat boundary the nearest point lies between 0 and k_bridge.

Where this differs from the paper: what `tangent` says of all the descents; k_bridge is bracketed
by single queries to a sixteenth, beginning with the row's last one.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import Asks
from db3kd.search.descent.seen import JUST_BELOW
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

TRIES, REFINEMENTS = 8, 2  # queries for the bridge, at most; of these, halvings of its bracket
LONG, SHORT, FEW = 2 / 3, 0.9, 0.1  # shares of the bridge; of bridges shorter than FEW
LEAST, MOST = 1e-3, 0.9  # of k


@dataclass(frozen=True)
class Ttba:
    """Estimate the normal, find the bridge, go two thirds of the way, bisect, repeat.

    `probes` is the most of a step, the first has `first_probes` and step t sqrt(t) times as many.
    A probe is a fifth of a step long, between `finest` and `smoothing`, shares of the distance;
    `tolerance` is the final width of a bracket, as a share of a probe's length. `first_step` is
    the first k, `patience` the steps without gain after which a row cannot be further minimised.

    >>> Ttba().probes_at(3)
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
        """One iteration for the rows named: normal, bridge, bisection."""
        before = walk
        length = shrinking(walk.step[rows], self.smoothing, self.finest)
        tolerance = self.tolerance * length
        walk, plane = lay_planes(asks, origin, walk, noise, rows, bounds, smoothing=length)
        walk = remember(walk, plane)
        walk, bridge = _bridge(walk, plane)
        met = bridge > 0
        step = torch.where(met, bridge, walk.step[rows] / 4).clamp(LEAST, MOST)
        walk = walk.put(rows, step=step)
        some = (met & (walk.left[rows] > 0)).nonzero()[:, 0]
        share = torch.where(bridge < FEW, SHORT, LONG) * bridge
        distance = JUST_BELOW * walk.distance[rows[some]]
        walk, _ = plane.turn(walk, some, _angle(share[some]), distance)
        walk = settle(
            asks,
            origin,
            walk,
            rows[met],
            expected=torch.maximum(1.5 * (1 - (_angle(bridge) / 2).cos()), tolerance / 8)[met],
            tolerance=tolerance[met],
            bounds=bounds,
        )
        return count_misses(before, walk, rows, tolerance / 8)


def _angle(blend: Tensor) -> Tensor:
    """By how much k normal + (1 - k) ray turns the ray."""
    return torch.atan2(blend, 1 - blend)


def _bridge(walk: Walk, plane: Plane) -> tuple[Walk, Tensor]:
    """The largest k whose ray is found across at the present distance, 0 for none."""
    low = torch.zeros_like(plane.distance)
    high, refined = torch.full_like(low, torch.inf), torch.zeros_like(plane.rows)
    blend = walk.step[plane.rows].clamp(LEAST, MOST)
    for _ in range(TRIES):
        open_ = (refined < REFINEMENTS) & (low < MOST) & (walk.left[plane.rows] > 0)
        some = open_.nonzero()[:, 0]
        if not len(some):
            break
        tried = blend[some]
        bracketed = (low[some] > 0) & torch.isfinite(high[some])
        distance = JUST_BELOW * walk.distance[plane.rows[some]]
        walk, hit = plane.turn(walk, some, _angle(tried), distance)
        low[some] = torch.where(hit, tried, low[some])
        high[some] = torch.where(hit, high[some], tried)
        refined[some] += bracketed
        middle, larger = (low[some] + high[some]) / 2, (2 * tried).clamp(max=MOST)
        narrower = torch.where(low[some] > 0, middle, tried / 4)
        blend[some] = torch.where(torch.isfinite(high[some]), narrower, larger)
    return walk, low
