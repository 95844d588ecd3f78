"""What the descents share: the boundary's tangent from signs of probes, and the way to a crossing.

The ray through a row's point and the tangent found there span a plane; the descents differ in how
they move within it. Three things here are ours, not the papers', and made the difference (see
docs/differences.md): probes are tangential to the sphere around the origin, since only the ray's
direction is sought; a pixel that the walk presses against a bound is *held*, not probed, since
clipped noise there pushes every probe to one side and says nothing; and a pixel is pressed
where the running sum of tangents (`Walk.memory`) points out of the bounds, so that it is let go
when that no longer holds.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import (
    Asks,
    along,
    bisect,
    halvings,
    level_of,
    norm,
    per_row,
    shown,
)
from db3kd.search.descent.seen import asks_nearer, just_below
from db3kd.search.descent.walk import Walk

CPU_POINTS, GPU_POINTS = 512, 16384  # probes asked at once, at most: full batches for the teacher
CPU_BYTES = 16 * 2**20  # of these probes, at most, unless one row takes more
SHARE = 0.2  # of a step, that a probe is long
LEVELS = 3.0  # by which a probe moves a pixel, at least: rounding is then a tenth of that
REMEMBERED = 0.9  # of the memory, from one step to the next
DEEPENINGS = 8  # how often the bracket of a crossing is widened, twice as wide each time


def tangents(
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    walk: Walk,
    noise: Float[Tensor, "probe *image"],
    rows: Int[Tensor, " live"],
    count: Int[Tensor, " live"],
    bounds: tuple[float, float],
    *,
    smoothing: Tensor | float,
    free: Tensor | None = None,
) -> Float[Tensor, "live *image"]:
    """Eq. 4 and 5: the mean of signed probes around each row's point, tangential part only.

    The first `count` noise images serve a row; `smoothing` is their length as a share of the row's
    distance, one for all or one each; `free` (live *image) is zero at pixels that are not probed.
    The mean sign is subtracted: the probes have mean zero, so the expectation stays, and where
    nearly all probes fall on one side the noise is far smaller. A probe moves a pixel by some
    grey levels at least, where the teacher sees no less. Costs `count` queries a row. On a
    CPU products are taken row by row, so that no rounding depends on the neighbours.
    """
    flat, size, shape = noise.flatten(1), len(noise), origin.shape[1:]
    centre, distance = walk.point.index_select(0, rows).flatten(1), walk.distance[rows][:, None]
    ray = (centre - origin.index_select(0, rows).flatten(1)) / distance
    relative = smoothing[:, None] if isinstance(smoothing, Tensor) else smoothing
    length = (relative / flat.shape[1] ** 0.5) * distance  # in each pixel, on the average
    length = length.clamp_min(LEVELS * level_of(bounds))
    weight = length if free is None else length * free.flatten(1)
    share = _row_by_row(ray, flat.T)
    inwards = -length * share
    used = torch.arange(size, device=rows.device) < count[:, None]
    signs, counts = torch.zeros_like(share), count.tolist()
    at_once = max(1, _most_points(origin) // size)
    for first in range(0, len(rows), at_once):
        here = slice(first, first + at_once)
        points = torch.addcmul(centre[here, None], weight[here, None], flat)
        points.addcmul_(inwards[here, :, None], ray[here, None])
        asked = shown(_firsts(points, counts[here]).reshape(-1, *shape), bounds)
        across = asks(asked, rows[here].repeat_interleave(count[here]))
        signs[here].masked_scatter_(used[here], torch.where(across, 1.0, -1.0).to(flat.dtype))
    many = count.clamp_min(1)[:, None]
    balance = signs.sum(1, keepdim=True) / many
    signs = torch.where(used, signs - balance, 0.0) / many
    mean = _row_by_row(signs, flat)
    mean -= _dots(signs, share)[:, None] * ray
    return mean.reshape(-1, *shape)


def _most_points(origin: Tensor) -> int:
    """How many probes are asked at once: results do not depend on it."""
    if origin.is_cuda:
        return GPU_POINTS
    return min(CPU_POINTS, CPU_BYTES // (origin[0].numel() * origin.element_size()))


def _firsts(points: Tensor, counts: list[int]) -> Tensor:
    """So many of the first points of each row, one after the other."""
    if min(counts) == points.shape[1]:
        return points.flatten(0, 1)
    return torch.cat([some[:count] for some, count in zip(points, counts, strict=True)])


def _row_by_row(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply; on a CPU one row at a time, whose rounding then is its own.

    A product's rounding depends on where its numbers lie in memory: hence the copies.
    """
    if rows.is_cuda:
        return rows @ matrix
    transposed = matrix.T
    return torch.stack([torch.mv(transposed, row.clone()) for row in rows.unbind()])


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """The product of each row with the other's; on a CPU likewise one at a time."""
    if one.is_cuda:
        return (one * other).sum(1)
    pairs = zip(one.unbind(), other.unbind(), strict=True)
    return torch.stack([torch.dot(a.clone(), b.clone()) for a, b in pairs])


@dataclass(frozen=True)
class Plane:
    """The planes of some rows: `ray` from the origin to the point, and a unit `tangent`.

    `rows` are the numbers of these rows in the walk, `origin` is theirs only; `distance` is that of
    the point when the plane was laid; `fresh` is the tangent before the bounds cut it.
    """

    asks: Asks
    origin: Float[Tensor, "live *image"]
    rows: Int[Tensor, " live"]
    ray: Float[Tensor, "live *image"]
    tangent: Float[Tensor, "live *image"]
    fresh: Float[Tensor, "live *image"]
    distance: Float[Tensor, " live"]
    bounds: tuple[float, float]

    def turn(
        self, walk: Walk, some: Int[Tensor, " some"], angle: Tensor, radius: Tensor
    ) -> tuple[Walk, Tensor]:
        """Ask once for each of some rows: turn the ray by the angle, go out to the radius.

        A point that is across and nearer becomes the row's; returns where that was so. A ray that
        does not cross at the present radius is thus rejected after one query, or none
        (`asks_nearer`).
        """
        row, origin = self.rows[some], self.origin.index_select(0, some)
        if level_of(self.bounds):
            radius = torch.minimum(radius, just_below(walk.distance[row], self.bounds))
        span = per_row(angle.cos(), origin) * self.ray.index_select(0, some)
        span.addcmul_(per_row(angle.sin(), origin), self.tangent.index_select(0, some))
        point = along(origin, span, radius, self.bounds)
        distance = norm(point - origin)
        nearer = distance < walk.distance[row]
        across, spent = asks_nearer(self.asks, point, row, nearer, self.bounds)
        hit = across & nearer
        walk = walk.put(row, spent=walk.spent[row] + spent)
        moved = hit.nonzero()[:, 0]
        point = point.index_select(0, moved)
        return walk.put(row[moved], point=point, distance=distance[moved]), hit


def lay_planes(
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    walk: Walk,
    noise: Float[Tensor, "probe *image"],
    rows: Int[Tensor, " live"],
    bounds: tuple[float, float],
    *,
    smoothing: Tensor | float,
) -> tuple[Walk, Plane]:
    """Probe the boundary at each row's point and lay the plane.

    Costs as many queries a row as there are noise images, at most half of what it has left.
    """
    count = (walk.left[rows] // 2).clamp(max=len(noise))
    point, distance = walk.point.index_select(0, rows), walk.distance[rows]
    start = origin.index_select(0, rows)
    free = ~pressed(point, walk.memory.index_select(0, rows), bounds)
    fresh = tangents(asks, origin, walk, noise, rows, count, bounds, smoothing=smoothing, free=free)
    fresh = unit(fresh)
    tangent = torch.where(free & ~pressed(point, fresh, bounds), fresh, 0.0)
    ray = (point - start) / per_row(distance, point)
    walk = walk.put(rows, spent=walk.spent[rows] + count)
    return walk, Plane(asks, start, rows, ray, unit(tangent), fresh, distance, bounds)


def remember(walk: Walk, plane: Plane) -> Walk:
    """Add the planes' tangents to the running sum of their rows."""
    memory = walk.memory.index_select(0, plane.rows)
    return walk.put(plane.rows, memory=REMEMBERED * memory + plane.fresh)


def shrinking(step: Float[Tensor, " live"], most: float, least: float) -> Float[Tensor, " live"]:
    """The length of a probe: a share of the row's step, so that late probes are finer.

    >>> shrinking(torch.tensor([0.5, 0.1, 0.001]), 0.05, 0.002)
    tensor([0.0500, 0.0200, 0.0020])
    """
    return (SHARE * step).clamp(least, most)


def growing(first: int, most: int, step: int) -> int:
    """Probes of a step: the first's times the square root of its number, at most `most`.

    >>> [growing(30, 200, step) for step in (0, 3, 99)]
    [30, 60, 200]
    """
    return max(1, min(most, round(first * math.sqrt(step + 1))))


def pressed(
    point: Float[Tensor, "row *image"],
    push: Float[Tensor, "row *image"],
    bounds: tuple[float, float],
) -> Tensor:
    """Which pixels are at a bound and pushed out of it.

    >>> pressed(torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([[-1.0, 1.0, -1.0]]), (0.0, 1.0))
    tensor([[ True, False, False]])
    """
    return (point <= bounds[0]) & (push < 0) | (point >= bounds[1]) & (push > 0)


def unit(images: Float[Tensor, "row *image"]) -> Float[Tensor, "row *image"]:
    """Each image at length one; zero stays zero.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length = norm(images)
    return images / per_row(torch.where(length > 0, length, 1.0), images)


def settle(
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    walk: Walk,
    rows: Int[Tensor, " some"],
    *,
    expected: Float[Tensor, " some"],
    tolerance: Tensor | float,
    bounds: tuple[float, float],
) -> Walk:
    """Bring the points of some rows inwards along their rays, to the boundary (Eq. 3).

    `expected` is the share of the distance within which the crossing should lie, at most. One
    query verifies it; where the ray is still across there, the row moves in and the bracket is
    doubled. Then it is halved until it is `tolerance` of the distance wide, or one grey level.
    """
    level = level_of(bounds)
    if level:
        finest = level / walk.distance[rows]
        expected = torch.maximum(finest, expected)
        tolerance = torch.maximum(finest, torch.as_tensor(tolerance, device=finest.device))
    near = (1 - expected).clamp(min=0.0)
    start, far = origin.index_select(0, rows), walk.point.index_select(0, rows)
    asked, left = torch.zeros_like(rows), walk.left[rows]
    live = torch.arange(len(rows), device=rows.device)
    for _ in range(DEEPENINGS):
        live = live[(asked[live] < left[live]) & (near[live] > 0)]
        if not len(live):
            break
        begin = start.index_select(0, live)
        point = along(begin, far.index_select(0, live) - begin, near[live], bounds)
        across = asks(point, rows[live]).nonzero()[:, 0]
        asked[live] += 1
        live, point, begin = live[across], point.index_select(0, across), begin[across]
        if level:
            held = per_row(norm(point - begin) < norm(far[live] - begin), point)
            point = torch.where(held, point, far[live])
        far.index_copy_(0, live, point)
        near[live] = (1 - 2 * (1 - near[live])).clamp(min=0.0)
    times = torch.minimum(halvings(1 - near, tolerance), left - asked)
    bracket = bisect(asks, start, far, near=near, rows=rows, times=times, bounds=bounds)
    distance, spent = norm(bracket.point - start), walk.spent[rows] + asked + bracket.asked
    return walk.put(rows, point=bracket.point, distance=distance, spent=spent)


def count_misses(
    before: Walk, after: Walk, rows: Int[Tensor, " live"], tolerance: Tensor | float
) -> Walk:
    """Book a miss for each of the rows that gained no more than a share of its distance."""
    gained = before.distance[rows] - after.distance[rows] > tolerance * before.distance[rows]
    return after.put(rows, misses=torch.where(gained, 0, before.misses[rows] + 1))
