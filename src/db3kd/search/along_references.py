"""BD: from each image towards its references, to the first crossing on the way (Eq. 3)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.search.boundary import (
    Asks,
    along,
    bisect,
    bisect_noisy,
    finest,
    halvings,
    level_of,
    norm,
    per_row,
    questions,
)
from db3kd.search.descent import Walk
from db3kd.search.descent.seen import asks_nearer

COARSE = 6  # halvings of a bracket, at most, while references are left to try


def along_references(
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    references: Float[Tensor, "reference *image"],
    order: Int[Tensor, "row place"],
    walk: Walk,
    *,
    tolerance: float,
    bounds: tuple[float, float],
    after_step: Callable[[Walk], None],
    flips: float,
) -> tuple[Walk, Bool[Tensor, " row"]]:
    """Eq. 3 over every reference of each row; also returns which rows tried all of them.

    `order` numbers a row's references, nearest first, -1 where there are no more; `walk` is at the
    nearest of them. `after_step` is shown each state. Where a share `flips` of the answers is
    wrong, all this only chooses the reference, and `bisect_noisy` then finds the crossing on its
    ray. Costs at most what a row has left of its limit. Nothing is random.

    A row asks one question at a time, so that batches stay full. It either tries its next reference
    at the best distance so far (`left` = 0), or halves the bracket (low, high) of one that was
    across there, `COARSE` times at most. The bracket held in the end is halved `rest` times more,
    down to the tolerance.

    >>> asks = lambda points, rows: points.flatten(1)[:, 0] > 0.5
    >>> start, two = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]], [[[1.0, 1.0]]]])
    >>> walk = Walk.at(two[:1], torch.tensor([1.0]), step=0.2, spent=torch.tensor([0]), limit=99)
    >>> walk, tried = along_references(
    ...     asks, start, two, torch.tensor([[0, 1]]), walk, tolerance=0.01, bounds=(0.0, 1.0),
    ...     after_step=lambda walk: None, flips=0.0)
    >>> round(walk.distance.item(), 2), tried.item()
    (0.51, True)
    """
    count = (order >= 0).sum(1)
    number, best = torch.zeros_like(count), torch.zeros_like(count)  # where it is, and was nearest
    low, high = torch.zeros_like(walk.distance), torch.ones_like(walk.distance)
    finish = finest(tolerance, bounds)
    rest = halvings(walk.distance, finish)
    left = rest.clamp(max=COARSE)  # the nearest one is across: no need to ask
    rest -= left
    point, distance, spent = walk.point.clone(), walk.distance.clone(), walk.spent.clone()
    for _ in range(walk.limit):
        more = ((left > 0) | (number + 1 < count)) & (distance > 0)
        row = (more & (spent < walk.limit)).nonzero()[:, 0]
        if not len(row):
            break
        trying, aim = left[row] == 0, (distance - level_of(bounds)).clamp_min(0.0)
        number[row] += trying
        start = origin.index_select(0, row)
        span = references.index_select(0, order[row, number[row]]) - start
        share = torch.where(trying, aim[row] / norm(span), (low[row] + high[row]) / 2)
        probe = along(start, span, share, bounds)
        nearer = norm(probe - start)
        useful = ~trying | (nearer < distance[row])
        across, asked = asks_nearer(asks, probe, row, useful, bounds)
        spent[row] += asked
        better = (across & (nearer < distance[row])).nonzero()[:, 0]
        point.index_copy_(0, row[better], probe.index_select(0, better))
        distance[row[better]] = nearer[better]
        best[row[better]] = number[row[better]]
        high[row] = torch.where(across, share, high[row])
        fresh, missed = trying & across, ~(trying | across)
        low[row] = torch.where(fresh, 0.0, torch.where(missed, share, low[row]))
        times = halvings(nearer, finish)
        coarse = times.clamp(max=COARSE)
        left[row] = torch.where(fresh, coarse, (left[row] - 1).clamp(min=0))
        rest[row] = torch.where(fresh, times - coarse, rest[row])
        after_step(replace(walk, point=point, distance=distance, spent=spent))
    tried = (left == 0) & (number + 1 >= count) & (rest <= walk.limit - spent)
    times = torch.minimum(rest, walk.limit - spent)
    rows = torch.arange(len(origin), device=origin.device)
    if flips:
        far = references.index_select(0, order[rows, best])
        walk = _along_one(asks, origin, far, walk, spent, finish, bounds, flips)
        after_step(walk)
        return walk, (number + 1 >= count) & (walk.left > 0)
    bracket = bisect(asks, origin, point, near=low / high, rows=rows, times=times, bounds=bounds)
    nearer = norm(bracket.point - origin)
    point = torch.where(per_row(nearer < distance, point), bracket.point, point)
    distance = torch.minimum(nearer, distance)
    walk = replace(walk, point=point, distance=distance, spent=spent + bracket.asked)
    after_step(walk)
    return walk, tried | (distance == 0)


def _along_one(
    asks: Asks,
    origin: Tensor,
    far: Tensor,
    walk: Walk,
    spent: Tensor,
    finish: Tensor | float,
    bounds: tuple[float, float],
    flips: float,
) -> Walk:
    """Eq. 3 over one reference for each row, from the origin on, since answers may be wrong."""
    length = norm(far - origin)
    times = torch.minimum(questions(halvings(length, finish), flips), walk.limit - spent)
    rows, near = torch.arange(len(far), device=far.device), torch.zeros_like(length)
    bracket = bisect_noisy(
        asks, origin, far, near=near, rows=rows, times=times, bounds=bounds, flips=flips
    )
    nearer = norm(bracket.point - origin)
    point = torch.where(per_row(nearer < walk.distance, far), bracket.point, walk.point)
    distance = torch.minimum(nearer, walk.distance)
    return replace(walk, point=point, distance=distance, spent=spent + bracket.asked)
