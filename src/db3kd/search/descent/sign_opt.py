"""The paper's descent: Eq. 4 and 5, the iteration of Fig. 3, after Sign-OPT (Cheng et al., 2019).

Where this differs from the letter of section 3.2.1, and why (docs/differences.md has the numbers):
- Only the part of a probe that is tangential to the ray is kept. Fig. 3 moves the *direction* of
  the ray, which the radial part of Eq. 4's Gaussians cannot change; it only drowns the answer.
- One step of fixed length along the gradient cannot come to rest. The step is the row's own: xi_d
  at first, doubled while the distance shrinks, quartered while it does not.
- A candidate ray is asked once at the present distance, and bisected only if it is across there.
- The mean sign of a row's probes is subtracted before averaging: the probes have mean zero, so the
  expectation is Eq. 4's, and where nearly all probes fall on one side the noise is far smaller.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import (
    Asks,
    along,
    between,
    bisect,
    finest,
    halvings,
    norm,
    per_row,
)
from db3kd.search.descent.seen import asks_nearer, just_below
from db3kd.search.descent.tangent import tangents
from db3kd.search.descent.walk import Walk, replaced

QUARTERINGS, SCALINGS = 5, 8  # at most, in one step
COARSE = 2.0**-6  # of its width: to where a bracket is halved while steps are compared
STEEPEST = 3.0  # slope of the boundary against the sphere that a bracket expects at most


@dataclass(frozen=True)
class SignOpt:
    """Estimate the boundary's gradient from the signs of random probes, step, bisect, repeat.

    `probes` is Q of Eq. 4, `first_step` xi_d, `tolerance` the final width of a bracket (both in the
    units of the image), `smoothing` the length of a probe as a share of the distance, `patience`
    the steps without gain after which a row cannot be further minimised.

    >>> SignOpt().probes
    200
    """

    probes: int = 200
    first_step: float = 0.2
    tolerance: float = 1e-5
    smoothing: float = 0.01
    patience: int = 3

    def probes_at(self, step: int) -> int:
        """Q of Eq. 4, in every step."""
        del step
        return self.probes

    def step(
        self,
        asks: Asks,
        origin: Float[Tensor, "row *image"],
        walk: Walk,
        noise: Float[Tensor, "probe *image"],
        rows: Int[Tensor, " live"],
        bounds: tuple[float, float],
    ) -> Walk:
        """One iteration of Fig. 3 for the rows named: gradient, step, bisection."""
        count = (walk.left[rows] // 2).clamp(max=len(noise))
        normal = tangents(asks, origin, walk, noise, rows, count, bounds, smoothing=self.smoothing)
        search = _LineSearch(self, asks, origin[rows], rows, normal, bounds)
        moved = search.run(_part(walk, rows, spent=count))
        gained = walk.distance[rows] - moved.distance > self.tolerance
        misses = torch.where(gained, 0, walk.misses[rows] + 1)
        return walk.put(
            rows,
            point=moved.point,
            distance=moved.distance,
            step=moved.step,
            spent=moved.spent,
            misses=misses,
        )


@dataclass(frozen=True)
class _LineSearch:
    """The step of Fig. 3 for some rows: find a length that brings the boundary nearer, then bisect.

    `origin` and `normal` are of these rows only; `rows` are their numbers for the criterion.
    """

    settings: SignOpt
    asks: Asks
    origin: Tensor
    rows: Tensor
    normal: Tensor
    bounds: tuple[float, float]

    def run(self, walk: Walk) -> Walk:
        start, near = walk.point, torch.zeros_like(walk.distance)
        walk, near, found = self._first(start, walk, near)
        walk, near, doubled = self._scale(start, walk, near, found, 2.0)
        walk, near, _ = self._scale(start, walk, near, found[~doubled], 0.5)
        width = (1 - near[found]) * walk.distance[found]
        walk, near = self._bisect(walk, near, found, width, self.settings.tolerance)
        return walk

    def _first(self, start: Tensor, walk: Walk, near: Tensor) -> tuple[Walk, Tensor, Tensor]:
        """Quarter the step until the new ray is across at the present distance."""
        live = (walk.left > 0).nonzero()[:, 0]
        step, found = walk.step.clone(), []
        for _ in range(QUARTERINGS + 1):
            walk, near, hit = self._try(start, walk, near, live, step[live])
            found.append(live[hit])
            live = live[~hit]
            step[live] *= 0.25
            live = live[walk.left[live] > 0]
            if not len(live):
                break
        step[live] = self.settings.first_step  # nothing helped: start over next time
        return replace(walk, step=step), near, torch.cat(found)

    def _scale(
        self, start: Tensor, walk: Walk, near: Tensor, rows: Tensor, factor: float
    ) -> tuple[Walk, Tensor, Tensor]:
        """Lengthen or shorten the step for as long as that brings the boundary nearer still."""
        moved = torch.zeros_like(rows, dtype=torch.bool)
        live = rows
        for tries in range(SCALINGS):
            live = live[walk.left[live] > 0]
            if not len(live):
                break
            wanted = walk.step[live] * factor
            walk, near, hit = self._try(start, walk, near, live, wanted)
            live = live[hit]
            step = walk.step.clone()
            step[live] = wanted[hit]
            walk = replace(walk, step=step)
            if tries == 0:
                moved = torch.isin(rows, live)
        return walk, near, moved

    def _try(
        self, start: Tensor, walk: Walk, near: Tensor, rows: Tensor, step: Tensor
    ) -> tuple[Walk, Tensor, Tensor]:
        """Ask each new ray once at the present distance; bracket its crossing where it is across.

        A step that turns the ray by a small angle gains about that angle times the slope of the
        boundary, so the bracket is sought just below the present distance and sized by the step.
        """
        move = self.normal[rows]
        move = per_row(step, move) * move
        origin = self.origin[rows]
        span = start[rows] + move - origin
        share = just_below(walk.distance[rows], self.bounds) / norm(span)
        there = along(origin, span, share, self.bounds)
        distance = norm(there - origin)
        nearer = distance <= walk.distance[rows]
        across, spent = asks_nearer(self.asks, there, self.rows[rows], nearer, self.bounds)
        hit = across & nearer
        found = rows[hit]
        walk = walk.put(rows, spent=walk.spent[rows] + spent)
        walk = walk.put(found, point=there[hit], distance=distance[hit])
        floor = (1 - STEEPEST * norm(move[hit]) / distance[hit]).clamp(min=0.0)
        walk, floor = self._floor(walk, found, floor)
        near = replaced(near, found, floor)
        width = (1 - floor) * walk.distance[found]
        walk, near = self._bisect(walk, near, found, width, width * COARSE)
        return walk, near, hit

    def _floor(self, walk: Walk, rows: Tensor, floor: Tensor) -> tuple[Walk, Tensor]:
        """Ask at the floor of each bracket; where it is across, the bracket is all below it."""
        asked = (floor > 0) & (walk.left[rows] > 0)
        row = rows[asked]
        low = between(self.origin[row], walk.point[row], floor[asked], self.bounds)
        distance = norm(low - self.origin[row])
        nearer = distance < walk.distance[row]
        across, spent = asks_nearer(self.asks, low, self.rows[row], nearer, self.bounds)
        walk = walk.put(row, spent=walk.spent[row] + spent)
        deeper = row[across]
        walk = walk.put(deeper, point=low[across], distance=distance[across])
        floor = replaced(torch.where(asked, floor, 0.0), asked.nonzero()[:, 0][across], 0.0)
        return walk, floor

    def _bisect(
        self, walk: Walk, near: Tensor, rows: Tensor, width: Tensor, tolerance: Tensor | float
    ) -> tuple[Walk, Tensor]:
        """Halve the bracket of each row down to the tolerance."""
        bracket = bisect(
            self.asks,
            self.origin[rows],
            walk.point[rows],
            near=near[rows],
            rows=self.rows[rows],
            times=torch.minimum(halvings(width, finest(tolerance, self.bounds)), walk.left[rows]),
            bounds=self.bounds,
        )
        distance = norm(bracket.point - self.origin[rows])
        spent = walk.spent[rows] + bracket.asked
        walk = walk.put(rows, point=bracket.point, distance=distance, spent=spent)
        return walk, replaced(near, rows, bracket.near)


def _part(walk: Walk, rows: Tensor, *, spent: Tensor) -> Walk:
    """The rows named, with more queries on their books."""
    return Walk(
        walk.point[rows],
        walk.distance[rows],
        walk.step[rows],
        walk.spent[rows] + spent,
        walk.limit,
        walk.misses[rows],
        walk.memory[rows],
    )
