"""The nearest boundary point of each row of an ascent: searched afresh, remembered, or followed."""

from dataclasses import replace

import torch
from torch import Tensor

from db3kd.config.settings import AscentPlan, Search
from db3kd.search.boundary import Asks, along, bisect, finest, halvings, norm, per_row
from db3kd.search.descent import Walk, descend
from db3kd.search.descent.seen import JUST_BELOW, just_below
from db3kd.search.descent.settings import descent_of, noise_of
from db3kd.search.descent.tangent import unit
from db3kd.search.descent.walk import LEAST_LEFT
from db3kd.search.robustness import distances
from db3kd.seeds import derive_seed
from db3kd.synthesis.ascent.state import Ascent


def nearest(
    plan: AscentPlan,
    asks: Asks,
    state: Ascent,
    rows: Tensor,
    starts: tuple[Tensor, Tensor],
    seed: int,
    bounds: tuple[float, float],
) -> Ascent:
    """The nearest boundary point of each row, within the limits of iteration and row (Eq. 8, 5)."""
    number, before = state.iteration, state.walk.spent
    offset = torch.full_like(before, plan.search)  # rows that are not named have nothing left
    offset[rows] -= state.walk.left[rows].clamp(max=plan.search)
    walk = replace(state.walk, limit=plan.search, spent=offset)
    if plan.restart_every != 1:
        walk = _recall(plan, state, walk, rows)
    if number == 0 or (plan.restart_every > 0 and number % plan.restart_every == 0):
        fresh = _start_over(plan, asks, state, walk, rows, starts, seed, bounds)
        kept = rows[walk.distance[rows] <= fresh.distance[rows]]
        if plan.restart_every == 1:
            kept = kept[:0]
        parts = ("point", "distance", "step", "memory")
        walk = fresh.put(kept, **{part: getattr(walk, part)[kept] for part in parts})
    else:
        walk = _walk_on(plan, asks, state, walk, seed, bounds)
    spent = before + walk.spent - offset
    return replace(state, walk=replace(walk, limit=state.walk.limit, spent=spent))


def _start_over(
    plan: AscentPlan,
    asks: Asks,
    state: Ascent,
    walk: Walk,
    rows: Tensor,
    starts: tuple[Tensor, Tensor],
    seed: int,
    bounds: tuple[float, float],
) -> Walk:
    """From T starts, whatever was found before: Eq. 8, then Eq. 4 and 5."""
    walk = walk.put(rows, distance=torch.full_like(walk.distance[rows], torch.inf))
    walk = _towards(plan, asks, state, walk, rows, starts, bounds)
    blank = torch.zeros_like(walk.misses)
    idle = torch.where(torch.isfinite(walk.distance), 0, walk.left)  # nowhere to descend from
    walk = replace(walk, spent=walk.spent + idle, misses=blank)
    walk, _ = descend(
        descent_of(search_of(plan)),
        asks,
        state.image,
        replace(walk, memory=torch.zeros_like(walk.point)),
        noise=noise_of(search_of(plan), state.image, derive_seed(seed, "anew", state.iteration)),
        bounds=bounds,
        after_step=_nothing,
    )
    return replace(walk, spent=walk.spent - idle)


def _recall(plan: AscentPlan, state: Ascent, walk: Walk, rows: Tensor) -> Walk:
    """The remembered point that is the nearest now, where it is nearer than the present one."""
    away = _away(state, rows)
    if not away.shape[1]:
        return walk
    nearest, number = torch.linalg.vector_norm(away.flatten(2), dim=2).min(1)
    nearer = nearest < JUST_BELOW * walk.distance[rows]
    rows, nearest, number = rows[nearer], nearest[nearer], number[nearer]
    return walk.put(
        rows,
        point=state.past[rows, number],
        distance=nearest,
        step=torch.full_like(nearest, descent_of(search_of(plan)).first_step),
        memory=torch.zeros_like(state.image[rows]),
    )


def _away(state: Ascent, rows: Tensor) -> Tensor:
    """From the images of some rows to the points they remember (some past *image)."""
    known = min(state.iteration, state.past.shape[1])
    return state.past[rows, :known] - state.image[rows, None]


def remember(state: Ascent, rows: Tensor) -> Ascent:
    """Keep the nearest points of this iteration, in the place of the oldest ones."""
    if not state.past.shape[1]:
        return state
    past = state.past.clone()
    past[rows, state.iteration % past.shape[1]] = state.walk.point[rows]
    return replace(state, past=past)


def rays(plan: AscentPlan, state: Ascent, rows: Tensor) -> Tensor:
    """Unit rays to the nearest points, and to those remembered that are nearly as near."""
    rays, away = unit(state.walk.point[rows] - state.image[rows]), _away(state, rows)
    if not plan.spread:
        return rays
    for one in away.unbind(1):
        farther = norm(one) / state.distance[rows] - 1
        weight = torch.exp(-farther / plan.spread).clamp(max=1.0)
        rays = rays + per_row(weight, one) * unit(one)
    return unit(rays)


def search_of(plan: AscentPlan) -> Search:
    """What the descents need to know of the plan."""
    return Search(
        probes=plan.walk_probes,
        tolerance=plan.tolerance,
        smoothing=plan.smoothing,
        descent=plan.descent,
        subspace=plan.subspace,
    )


def _nothing(walk: Walk) -> None:
    """Between the steps of a descent there is nothing to keep."""


def _walk_on(
    plan: AscentPlan,
    asks: Asks,
    state: Ascent,
    walk: Walk,
    seed: int,
    bounds: tuple[float, float],
) -> Walk:
    """Some steps of a descent from where it ended last time, for the rows that can pay for it."""
    search = search_of(plan)
    noise = noise_of(search, state.image, derive_seed(seed, "on"))
    first = state.iteration * plan.walk_steps
    for number in range(first, first + plan.walk_steps):
        rows = ((walk.left >= LEAST_LEFT) & (walk.distance > 0)).nonzero()[:, 0]
        if not len(rows):
            break
        drawn = noise(number, number * plan.walk_probes, plan.walk_probes)
        walk = descent_of(search).step(asks, state.image, walk, drawn, rows, bounds)
    return walk


def _towards(
    plan: AscentPlan,
    asks: Asks,
    state: Ascent,
    walk: Walk,
    rows: Tensor,
    starts: tuple[Tensor, Tensor],
    bounds: tuple[float, float],
) -> Walk:
    """Eq. 8: bisect towards the T nearest images of other classes, each asked once before."""
    others, answers = starts
    order = _nearest_first(state, others, answers, plan.starts)
    for number in range(order.shape[1]):
        live = rows[(order[rows, number] >= 0) & (walk.left[rows] > 0)]
        origin, far = state.image[live], others[order[live, number]]
        length = norm(far - origin)
        known = length < walk.distance[live]  # its answer was paid for long ago
        share = torch.where(known, 1.0, just_below(walk.distance[live], bounds) / length)
        there = along(origin, far - origin, share, bounds)
        across = known.clone()
        across[~known] = asks(there[~known], live[~known])
        walk = walk.put(live, spent=walk.spent[live] + ~known)
        nearer = across & (norm(there - origin) < walk.distance[live])
        walk = halve(plan, asks, state.image, walk, live[nearer], there[nearer], bounds)
    return walk


def _nearest_first(state: Ascent, others: Tensor, answers: Tensor, most: int) -> Tensor:
    """Which images of other classes are the nearest of each row; -1 where there are no more."""
    apart = distances(state.image, others)
    apart[answers == state.teacher_labels[:, None]] = torch.inf
    apart, order = apart.sort(dim=1, stable=True)
    return torch.where(torch.isfinite(apart) & (apart > 0), order, -1)[:, :most]


def halve(
    plan: AscentPlan,
    asks: Asks,
    image: Tensor,
    walk: Walk,
    rows: Tensor,
    across: Tensor,
    bounds: tuple[float, float],
) -> Walk:
    """Bring new points that are across to the boundary; they become the rows' own."""
    origin = image[rows]
    bracket = bisect(
        asks,
        origin,
        across,
        near=torch.zeros_like(walk.distance[rows]),
        rows=rows,
        times=torch.minimum(
            halvings(norm(across - origin), finest(plan.tolerance, bounds)), walk.left[rows]
        ),
        bounds=bounds,
    )
    return walk.put(
        rows,
        point=bracket.point,
        distance=norm(bracket.point - origin),
        step=torch.full_like(walk.step[rows], descent_of(search_of(plan)).first_step),
        spent=walk.spent[rows] + bracket.asked,
        memory=torch.zeros_like(origin),
    )
