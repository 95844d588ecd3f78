"""ARS-OPT: accelerated random search over ray directions ((P)ARS-OPT, AAAI 2026).

With f(theta) the boundary's distance along a ray, q probes, d pixels and the boundary's smoothness
L, one iteration is

    y = (1 - a) theta + a m,  a^2 = zeta gamma (1 - a),   zeta = c^2 / L,
    g1 = f'(y; v) v,          g2 = g1 / c,                c = ((2/pi) (q - 1) + 1) / d,
    theta = y - g1 / L,       m = m - (zeta / a) g2,      gamma = (1 - a) gamma,

where v is the signed mean of q orthonormal directions at y.

Where this differs from the paper: what `tangent` says of all the descents; f is measured in units
of the row's present distance, so that one L serves all rows; a look-ahead y or a step that is not
across at the present distance is given up after one query; a momentum that does not help starts
over. The point is the best one confirmed, so it never goes back.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import Asks, along, norm, per_row
from db3kd.search.descent.seen import JUST_BELOW, asks_nearer, just_below
from db3kd.search.descent.tangent import Plane, count_misses, growing, lay_planes, settle
from db3kd.search.descent.walk import Walk

STEEPEST = 3.0  # slope of the boundary against the sphere that a bracket expects at most
FINER = 16  # times finer than other brackets: how a difference is measured


@dataclass(frozen=True)
class ArsOpt:
    """Look ahead, estimate v from signs, take one difference along v, step, keep momentum.

    `probes` is the most of a step, the first has `first_probes` and step t sqrt(t) times as many;
    `smoothing` is the length of a probe and `tolerance` the final width of a bracket, both as
    shares of the distance; `smoothness` is L, `first_step` gamma / L at first, `longest` the
    longest step in radians; `patience` the steps without gain after which a row cannot be further
    minimised.

    >>> ArsOpt().probes_at(3)
    60
    """

    probes: int = 200
    smoothing: float = 0.05
    tolerance: float = 1e-3
    first_probes: int = 30
    first_step: float = 1.0
    patience: int = 20
    smoothness: float = 1.0
    longest: float = 1.0

    def probes_at(self, step: int) -> int:
        """The paper's q is constant; growing ones serve early steps better."""
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
        """One iteration for the rows named: look-ahead, signs, difference, step."""
        before, size = walk, origin[0].numel()
        share = min(1.0, ((2 / torch.pi) * (len(noise) - 1) + 1) / size)  # c
        gamma = walk.step[rows] * share**2  # zeta times gamma
        ahead = ((gamma.square() + 4 * gamma).sqrt() - gamma) / 2  # a
        walk, momentum = self._look_ahead(asks, origin, walk, rows, ahead, bounds)
        probed = walk.left[rows] >= 2  # the others have no tangent
        walk, plane = lay_planes(
            asks, origin, walk, _orthonormal(noise), rows, bounds, smoothing=self.smoothing
        )
        walk, slope = self._difference(asks, origin, walk, plane, probed)
        walk = self._move(asks, origin, walk, plane, slope)
        gain = slope * share / (self.smoothness * ahead)
        memory = momentum + per_row(gain, momentum) * plane.tangent
        walk = walk.put(rows, memory=memory, step=(1 - ahead) * walk.step[rows])
        return count_misses(before, walk, rows, self.tolerance / 8)

    def _look_ahead(
        self,
        asks: Asks,
        origin: Tensor,
        walk: Walk,
        rows: Tensor,
        ahead: Tensor,
        bounds: tuple[float, float],
    ) -> tuple[Walk, Tensor]:
        """Go to y where that is across at the present distance; else the momentum is the ray."""
        point, start = walk.point[rows], origin[rows]
        ray = (point - start) / per_row(walk.distance[rows], point)
        fresh = norm(walk.memory[rows]) == 0
        some = (~fresh & (walk.left[rows] > 2)).nonzero()[:, 0]
        part = per_row(ahead[some], ray[some])
        span = (1 - part) * ray[some] + part * walk.memory[rows[some]]
        length = norm(span)
        radius = just_below(walk.distance[rows[some]], bounds) / length
        seen = along(start[some], span, radius, bounds)
        distance = norm(seen - start[some])
        nearer = distance < walk.distance[rows[some]]
        across, spent = asks_nearer(asks, seen, rows[some], nearer, bounds)
        across &= nearer
        walk = walk.put(rows[some], spent=walk.spent[rows[some]] + spent)
        there = rows[some[across]]
        walk = walk.put(there, point=seen[across], distance=distance[across])
        walk = settle(
            asks,
            origin,
            walk,
            there,
            expected=torch.full_like(distance[across], 4 * self.tolerance),
            tolerance=self.tolerance,
            bounds=bounds,
        )
        helps = torch.zeros_like(fresh)
        helps[some[across]] = True
        kept = per_row(helps.to(ray.dtype), ray) > 0
        return walk, torch.where(kept, walk.memory[rows], ray)

    def _difference(
        self, asks: Asks, origin: Tensor, walk: Walk, plane: Plane, probed: Tensor
    ) -> tuple[Walk, Tensor]:
        """How fast the distance falls along v, as a share of it and per radian; 0 if it grows."""
        some = (probed & (walk.left[plane.rows] > 0)).nonzero()[:, 0]
        angle = torch.full_like(plane.distance, self.smoothing)
        walk, hit = plane.turn(walk, some, angle[some], JUST_BELOW * plane.distance[some])
        nearer = some[hit]
        walk = settle(
            asks,
            origin,
            walk,
            plane.rows[nearer],
            expected=STEEPEST * angle[nearer] / 4,
            tolerance=self.tolerance / FINER,
            bounds=plane.bounds,
        )
        fallen = 1 - walk.distance[plane.rows] / plane.distance
        return walk, fallen / self.smoothing

    def _move(self, asks: Asks, origin: Tensor, walk: Walk, plane: Plane, slope: Tensor) -> Walk:
        """The step g1 / L, where it is across at the present distance."""
        angle = (slope / self.smoothness).clamp(max=self.longest)
        longer = (angle > self.smoothing) & (walk.left[plane.rows] > 0)
        some = longer.nonzero()[:, 0]
        distance = JUST_BELOW * walk.distance[plane.rows[some]]
        walk, hit = plane.turn(walk, some, angle[some], distance)
        nearer = some[hit]
        return settle(
            asks,
            origin,
            walk,
            plane.rows[nearer],
            expected=angle[nearer].square() / 2,
            tolerance=self.tolerance,
            bounds=plane.bounds,
        )


def _orthonormal(noise: Tensor) -> Tensor:
    """The same span from directions at right angles, where there are not more than pixels."""
    flat = noise.flatten(1)
    if len(flat) > flat.shape[1]:
        return noise
    basis: Tensor = torch.linalg.qr(flat.T).Q.T * flat.shape[1] ** 0.5
    return basis.reshape(noise.shape)
