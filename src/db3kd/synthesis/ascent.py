"""Growing pseudo samples away from the boundary: Eq. 8, 4 and 5 turned round (section 3.3).

Where this differs from the letter of the paper, and why:
- At the nearest boundary point the normal is the ray from the image; and where bounds keep the
  point from being there, it is still the ray along which the distance changes fastest. So with
  `probes` = 0 the ascent goes along the ray, and the probes that the descent asks to turn the ray
  serve both steps. With `probes` > 0 it is Eq. 4, as in the paper.
- The T other images of Eq. 8 are the nearest ones, nearest first; each is asked once at the best
  distance so far, and bisected only if it is across there. A descent starts from the best one
  alone, not from each of the T.
- With `anew` other than 1, only every so many iterations look for the nearest point anew. The
  others begin at the point of the iteration before, which is known to be across whatever the image
  did since, and follow the image by a step of the descent. Looking anew matters: a point that is
  only followed stays on its part of the boundary, and the image runs into another.
- Points of earlier iterations are `remembered`: one that the image has come nearest to is the
  nearest point again, for no query; and the ascent goes away from all that are nearly as near
  (`spread`), not to and fro between two.
- A step that leaves the own class is halved; its answers are not lost: they bracket another part
  of the boundary, which is the row's nearest point then, if it is nearer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.boundary import Asks, Leaves, along, asker, bisect, halvings, norm, per_row
from db3kd.data import check_images
from db3kd.descent import Walk, descend
from db3kd.descent.tangent import JUST_BELOW, tangents, unit
from db3kd.descent.walk import LEAST_LEFT
from db3kd.errors import InputError
from db3kd.robustness import descent_of, mix, noise_of
from db3kd.settings import Descents, Search, Subspaces
from db3kd.teacher import Teacher


class Ending(IntEnum):
    """How the ascent of one row stands, or ended.

    GROWING: it may still gain; so it stands when the iterations are over. CONVERGED: its distance
    cannot be further maximised. LIMIT: its query limit is reached. LOST: the teacher no longer
    calls the image its class, or the boundary is at the image. NO_START: no image of another class
    is known, so no boundary either, and nothing was asked.

    >>> Ending(3).name
    'LOST'
    """

    GROWING = 0
    CONVERGED = 1
    LIMIT = 2
    LOST = 3
    NO_START = 4


@dataclass(frozen=True)
class AscentPlan:
    """How rows are pushed away from the boundary: by default cheaply; `paper_plan` is the paper's.

    `starts`: T of Eq. 8. `iterations`: the most. `queries`: the limit of a row in all. `search`:
    the limit of a row's search for its nearest boundary point in one iteration. `anew`: every how
    many iterations it begins at the T starts; 1 is always, 0 at first only. `walk_steps`: steps of
    the descent in the iterations between; `walk_probes`: the most probes of a step. `remembered`:
    how many points of earlier iterations are kept. `spread`: a remembered point weighs
    exp(-(d - d0) / (spread d0)) in the ray, at distance d where the nearest is at d0; 0 for the
    nearest alone. `probes`: Q of Eq. 4 for the
    ascent's own gradient, 0 to go along the ray. `step`: xi_o, the length of a step of the ascent;
    `halvings` of it, at most, where it leaves the class. `gain`: what counts as one, as a share of
    the distance; `patience`: so many iterations without one, and the row has converged.
    `tolerance`: final width of a bisection. `smoothing`: length of a probe, as a share of the
    distance. `descent` and `subspace` as in `Search`. Lengths are in the units of the image.

    >>> AscentPlan().probes, paper_plan().probes
    (0, 200)
    """

    starts: int = 20
    iterations: int = 40
    queries: int = 4_000
    search: int = 400
    anew: int = 8
    walk_steps: int = 1
    walk_probes: int = 24
    remembered: int = 20
    spread: float = 0.3
    probes: int = 0
    step: float = 0.5
    halvings: int = 4
    gain: float = 1e-3
    patience: int = 20
    tolerance: float = 1e-3
    smoothing: float = 0.01
    descent: Descents = "cgba_h"
    subspace: Subspaces = "dct"


def paper_plan() -> AscentPlan:
    """Section 4.5's setting for MNIST: every iteration anew, 5,000 queries each, Q = 200.

    Which T is not said there; 20 is that of the released code.

    >>> paper_plan().iterations * paper_plan().search
    200000
    """
    return AscentPlan(
        queries=40 * 5_300,
        search=5_000,
        anew=1,
        walk_probes=200,
        remembered=0,
        spread=0.0,
        probes=200,
        patience=40,
        tolerance=1e-5,
        descent="sign_opt",
        subspace="full",
    )


@dataclass(frozen=True)
class Ascent:
    """Where each row stands after `iteration` iterations.

    `image` was shown to the teacher, which called it `own`. `walk` has the nearest confirmed point
    across, its distance, and what the row spent of its limit in all. `step` is the length of its
    last step, 0 where none held its class, `best` the largest distance found by a search, `misses`
    the iterations in a row without gain, `status` an `Ending`. `past` has the nearest points of
    earlier iterations, that of iteration i at i modulo their number.

    >>> begin(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), AscentPlan())
    Ascent(2 rows after 0 iterations)
    """

    image: Float[Tensor, "row *image"]
    own: Int[Tensor, " row"]
    walk: Walk
    step: Float[Tensor, " row"]
    best: Float[Tensor, " row"]
    misses: Int[Tensor, " row"]
    status: Int[Tensor, " row"]
    iteration: int
    past: Float[Tensor, "row past *image"]

    def __repr__(self) -> str:
        return f"Ascent({len(self.own)} rows after {self.iteration} iterations)"

    @property
    def distance(self) -> Float[Tensor, " row"]:
        """From each image to its nearest known point across; +inf where there is none."""
        return self.walk.distance

    @property
    def spent(self) -> Int[Tensor, " row"]:
        """Queries of each row so far."""
        return self.walk.spent


def begin(
    images: Float[Tensor, "row *image"], own: Int[Tensor, " answer"], plan: AscentPlan
) -> Ascent:
    """Images and what the teacher called them, before the first iteration; costs no query.

    Raises:
        InputError: not as many answers as images.

    >>> begin(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), AscentPlan()).spent
    tensor([0, 0])
    """
    if len(images) != len(own):
        raise InputError(f"{len(images)} images need as many answers, got {len(own)}")
    nothing = torch.zeros_like(own)
    far = torch.full((len(own),), torch.inf, dtype=images.dtype, device=images.device)
    walk = Walk.at(images, far, step=0.0, spent=nothing, limit=plan.queries)
    zero = torch.zeros_like(far)
    past = torch.zeros_like(images)[:, None].repeat(1, plan.remembered, *[1] * (images.ndim - 1))
    return Ascent(images, own, walk, zero, zero, nothing, nothing, 0, past)


def ascend(
    teacher: Teacher,
    state: Ascent,
    others: Float[Tensor, "other *image"],
    answers: Int[Tensor, " answer"],
    plan: AscentPlan,
    *,
    seed: int,
    after: Callable[[Ascent], None] | None = None,
) -> Ascent:
    """Push images away from the boundary until none gains or the iterations are over (section 3.3).

    `state` is from `begin`, or of an earlier call that it continues. `others` are images of any
    class with what the teacher called them: starts of Eq. 8. `after` is shown the state of each
    iteration. Costs at most `plan.queries` a row. The probes are random, drawn from `seed` and the
    iteration, the same for every row, so that a row does not depend on its neighbours.

    Raises:
        InputError: images and answers do not fit together.
        BudgetExhausted, TeacherError: from the teacher; the last state shown can be continued.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    >>> dark = torch.tensor([0.45, 0.5, 0.5, 0.5]).reshape(1, 1, 2, 2)
    >>> state = begin(dark, torch.tensor([0]), AscentPlan())
    >>> state = ascend(bright, state, 1 - dark, torch.tensor([1]), AscentPlan(step=0.2), seed=0)
    >>> round(state.distance.item(), 1), Ending(state.status.item()).name
    (0.5, 'CONVERGED')
    """
    check_images(others, teacher.bounds)
    if len(others) != len(answers) or others.shape[1:] != state.image.shape[1:]:
        raise InputError(
            f"{len(answers)} answers and {len(others)} other images of shape"
            f" {tuple(others.shape[1:])} cannot serve images of {tuple(state.image.shape[1:])}"
        )
    asks = asker(teacher, Leaves(state.own))
    for _ in range(state.iteration, plan.iterations):
        if not bool((state.status == Ending.GROWING).any()):
            break
        state = step(plan, asks, state, others, answers, seed=seed, bounds=teacher.bounds)
        if after is not None:
            after(state)
    return state


def step(
    plan: AscentPlan,
    asks: Asks,
    state: Ascent,
    others: Float[Tensor, "other *image"],
    answers: Int[Tensor, " other"],
    *,
    seed: int,
    bounds: tuple[float, float],
) -> Ascent:
    """One iteration of the rows still growing: nearest point, gradient, step (section 3.3).

    Costs at most `plan.search` + `plan.probes` and a few queries a row, never more than it has left
    of `plan.queries`. Random as `ascend`.
    """
    rows = (state.status == Ending.GROWING).nonzero()[:, 0]
    state = _nearest(plan, asks, state, rows, (others, answers), seed, bounds)
    state = _judge_start(state, rows)
    rows = (state.status == Ending.GROWING).nonzero()[:, 0]
    state = _count_gain(plan, state, rows)
    if len(rows):
        state, gradient = _gradient(plan, asks, state, rows, seed, bounds)
        state = _remember(state, rows)
        state = _Move(plan, asks, state, rows, gradient, bounds).run()
    spent = (state.walk.left < LEAST_LEFT) & (state.status == Ending.GROWING)
    status = torch.where(spent, int(Ending.LIMIT), state.status)
    return replace(state, status=status, iteration=state.iteration + 1)


def _nearest(
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
    if plan.anew != 1:
        walk = _recall(plan, state, walk, rows)
    if number == 0 or (plan.anew > 0 and number % plan.anew == 0):
        fresh = _look_anew(plan, asks, state, walk, rows, starts, seed, bounds)
        kept = rows[walk.distance[rows] <= fresh.distance[rows]]
        if plan.anew == 1:
            kept = kept[:0]
        parts = ("point", "distance", "step", "memory")
        walk = fresh.put(kept, **{part: getattr(walk, part)[kept] for part in parts})
    else:
        walk = _walk_on(plan, asks, state, walk, seed, bounds)
    spent = before + walk.spent - offset
    return replace(state, walk=replace(walk, limit=state.walk.limit, spent=spent))


def _look_anew(
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
        descent_of(_search(plan)),
        asks,
        state.image,
        replace(walk, memory=torch.zeros_like(walk.point)),
        noise=noise_of(_search(plan), state.image, mix(seed, "anew", state.iteration)),
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
        step=torch.full_like(nearest, descent_of(_search(plan)).first_step),
        memory=torch.zeros_like(state.image[rows]),
    )


def _away(state: Ascent, rows: Tensor) -> Tensor:
    """From the images of some rows to the points they remember (some past *image)."""
    known = min(state.iteration, state.past.shape[1])
    return state.past[rows, :known] - state.image[rows, None]


def _remember(state: Ascent, rows: Tensor) -> Ascent:
    """Keep the nearest points of this iteration, in the place of the oldest ones."""
    if not state.past.shape[1]:
        return state
    past = state.past.clone()
    past[rows, state.iteration % past.shape[1]] = state.walk.point[rows]
    return replace(state, past=past)


def _rays(plan: AscentPlan, state: Ascent, rows: Tensor) -> Tensor:
    """Unit rays to the nearest points, and to those remembered that are nearly as near."""
    rays, away = unit(state.walk.point[rows] - state.image[rows]), _away(state, rows)
    if not plan.spread:
        return rays
    for one in away.unbind(1):
        farther = norm(one) / state.distance[rows] - 1
        weight = torch.exp(-farther / plan.spread).clamp(max=1.0)
        rays = rays + per_row(weight, one) * unit(one)
    return unit(rays)


def _search(plan: AscentPlan) -> Search:
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
    search = _search(plan)
    noise = noise_of(search, state.image, mix(seed, "on"))
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
        share = torch.where(known, 1.0, JUST_BELOW * walk.distance[live] / length)
        there = along(origin, far - origin, share, bounds)
        across = known.clone()
        across[~known] = asks(there[~known], live[~known])
        walk = walk.put(live, spent=walk.spent[live] + ~known)
        nearer = across & (norm(there - origin) < walk.distance[live])
        walk = _halve(plan, asks, state.image, walk, live[nearer], there[nearer], bounds)
    return walk


def _nearest_first(state: Ascent, others: Tensor, answers: Tensor, most: int) -> Tensor:
    """Which images of other classes are the nearest of each row; -1 where there are no more."""
    apart = torch.cdist(
        state.image.flatten(1),
        others.flatten(1),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    apart[answers == state.own[:, None]] = torch.inf
    apart, order = apart.sort(dim=1, stable=True)
    return torch.where(torch.isfinite(apart) & (apart > 0), order, -1)[:, :most]


def _halve(
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
        times=torch.minimum(halvings(norm(across - origin), plan.tolerance), walk.left[rows]),
        bounds=bounds,
    )
    return walk.put(
        rows,
        point=bracket.point,
        distance=norm(bracket.point - origin),
        step=torch.full_like(walk.step[rows], descent_of(_search(plan)).first_step),
        spent=walk.spent[rows] + bracket.asked,
        memory=torch.zeros_like(origin),
    )


def _judge_start(state: Ascent, rows: Tensor) -> Ascent:
    """No start, no boundary; a boundary at the image itself, no class."""
    status = state.status.clone()
    status[rows[~torch.isfinite(state.distance[rows])]] = Ending.NO_START
    status[rows[state.distance[rows] == 0]] = Ending.LOST
    return replace(state, status=status)


def _count_gain(plan: AscentPlan, state: Ascent, rows: Tensor) -> Ascent:
    """Compare what the search found with the best so far: go on, or the row has converged."""
    distance, best, misses = state.distance[rows], state.best.clone(), state.misses.clone()
    status = state.status.clone()
    gained = distance > best[rows] * (1 + plan.gain)
    misses[rows] = torch.where(gained, 0, misses[rows] + 1)
    best[rows] = torch.maximum(best[rows], distance)
    status[rows[misses[rows] >= plan.patience]] = Ending.CONVERGED
    return replace(state, best=best, misses=misses, status=status)


def _gradient(
    plan: AscentPlan,
    asks: Asks,
    state: Ascent,
    rows: Tensor,
    seed: int,
    bounds: tuple[float, float],
) -> tuple[Ascent, Tensor]:
    """The unit direction towards the boundary: Eq. 4 at the nearest point, or the ray to it."""
    walk = state.walk
    gradient = _rays(plan, state, rows)
    count = (walk.left[rows] // 2).clamp(max=plan.probes)
    if not int(count.max()):
        return state, gradient
    asked = count > 0
    noise = noise_of(_search(plan), state.image, mix(seed, "gradient"))
    # Seen from the point itself every direction is a tangent: nothing is taken off the probes.
    mean = tangents(
        asks,
        walk.point,
        walk,
        noise(state.iteration, state.iteration * plan.probes, plan.probes),
        rows[asked],
        count[asked],
        bounds,
        smoothing=plan.smoothing,
    )
    known = norm(mean) > 0  # zero where all the probes fell on one side: the ray then
    gradient[asked] = torch.where(per_row(known, mean), unit(mean), gradient[asked])
    walk = walk.put(rows, spent=walk.spent[rows] + count)
    return replace(state, walk=walk), gradient


@dataclass(frozen=True)
class _Move:
    """The step away from the boundary, halved where it leaves the class (o <- o - xi_o grad)."""

    plan: AscentPlan
    asks: Asks
    state: Ascent
    rows: Tensor
    gradient: Tensor  # of these rows only
    bounds: tuple[float, float]

    def run(self) -> Ascent:
        """Move the rows whose class holds, and see whether the others still have one."""
        state, rows = self.state, self.rows
        image, walk, far = state.image.clone(), state.walk, state.image[rows]
        length = torch.full_like(state.step[rows], self.plan.step)
        moved = torch.zeros_like(rows, dtype=torch.bool)
        crossed, live = moved.clone(), torch.arange(len(rows), device=rows.device)
        for _ in range(self.plan.halvings + 1):
            row = rows[live]
            there = along(state.image[row], -self.gradient[live], length[live], self.bounds)
            can = (walk.left[row] > 0) & (norm(there - state.image[row]) > 0)
            live, row, there = live[can], row[can], there[can]
            if not len(live):
                break
            across = self.asks(there, row)
            walk = walk.put(row, spent=walk.spent[row] + 1)
            image[row[~across]], far[live[across]] = there[~across], there[across]
            moved[live[~across]], crossed[live[across]] = True, True
            live = live[across]
            length[live] /= 2
        walk = self._learn(image, walk, far, crossed)
        length = state.step.clone().index_copy_(0, rows, torch.where(moved, length, 0.0))
        state = replace(state, image=image, walk=walk, step=length)
        return self._judge(state, crossed & ~moved)

    def _learn(self, image: Tensor, walk: Walk, far: Tensor, crossed: Tensor) -> Walk:
        """Distances of where the rows are now; steps that left the class bracket a boundary."""
        walk = walk.put(self.rows, distance=norm(walk.point[self.rows] - image[self.rows]))
        nearer = crossed & (norm(far - image[self.rows]) < walk.distance[self.rows])
        rows, far = self.rows[nearer], far[nearer]
        return _halve(self.plan, self.asks, image, walk, rows, far, self.bounds)

    def _judge(self, state: Ascent, doubtful: Tensor) -> Ascent:
        """Ask for the image itself where every step left its class."""
        rows = self.rows[doubtful & (state.walk.left[self.rows] > 0)]
        gone = rows[self.asks(state.image[rows], rows)]
        walk = state.walk.put(rows, spent=state.walk.spent[rows] + 1)
        status = state.status.clone()
        status[gone] = Ending.LOST
        return replace(state, walk=walk, status=status)
