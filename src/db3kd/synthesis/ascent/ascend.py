"""Growing pseudo samples away from the boundary: Eq. 8, 4 and 5 turned round (section 3.3).

Where this differs from the letter of the paper, and why:
- At the nearest boundary point the normal is the ray from the image; and where bounds keep the
  point from being there, it is still the ray along which the distance changes fastest. So with
  `probes` = 0 the ascent goes along the ray, and the probes that the descent asks to turn the ray
  serve both steps. With `probes` > 0 it is Eq. 4, as in the paper.
- The T other images of Eq. 8 are the nearest ones, nearest first; each is asked once at the best
  distance so far, and bisected only if it is across there. A descent starts from the best one
  alone, not from each of the T.
- With `restart_every` other than 1, the search for the nearest point starts over only then. The
  others begin at the point of the iteration before, which is known to be across whatever the image
  did since, and follow the image by a step of the descent. Starting over matters: a point that is
  only followed stays on its part of the boundary, and the image runs into another.
- Points of earlier iterations are `remembered`: one that the image has come nearest to is the
  nearest point again, for no query; and the ascent goes away from all that are nearly as near
  (`spread`), not to and fro between two.
- A step that leaves the own class is halved; its answers are not lost: they bracket another part
  of the boundary, which is the row's nearest point then, if it is nearer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.settings import AscentPlan
from db3kd.data import check_images
from db3kd.errors import InputError
from db3kd.search.boundary import Asks, Leaves, along, asker, norm, per_row
from db3kd.search.descent import Walk
from db3kd.search.descent.settings import noise_of
from db3kd.search.descent.tangent import tangents, unit
from db3kd.search.descent.walk import LEAST_LEFT
from db3kd.seeds import derive_seed
from db3kd.synthesis.ascent.nearest import halve, nearest, rays, remember, search_of
from db3kd.synthesis.ascent.state import Ascent, Ending
from db3kd.teachers.base import Teacher


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

    >>> from db3kd.synthesis.ascent.state import begin
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
    asks = asker(teacher, Leaves(state.teacher_labels))
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
    state = nearest(plan, asks, state, rows, (others, answers), seed, bounds)
    state = _judge_start(state, rows)
    rows = (state.status == Ending.GROWING).nonzero()[:, 0]
    state = _count_gain(plan, state, rows)
    if len(rows):
        state, gradient = _gradient(plan, asks, state, rows, seed, bounds)
        state = remember(state, rows)
        state = _Move(plan, asks, state, rows, gradient, bounds).run()
    spent = (state.walk.left < LEAST_LEFT) & (state.status == Ending.GROWING)
    status = torch.where(spent, int(Ending.LIMIT), state.status)
    return replace(state, status=status, iteration=state.iteration + 1)


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
    gradient = rays(plan, state, rows)
    count = (walk.left[rows] // 2).clamp(max=plan.probes)
    if not int(count.max()):
        return state, gradient
    asked = count > 0
    noise = noise_of(search_of(plan), state.image, derive_seed(seed, "gradient"))
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
        return halve(self.plan, self.asks, image, walk, rows, far, self.bounds)

    def _judge(self, state: Ascent, doubtful: Tensor) -> Ascent:
        """Ask for the image itself where every step left its class."""
        rows = self.rows[doubtful & (state.walk.left[self.rows] > 0)]
        gone = rows[self.asks(state.image[rows], rows)]
        walk = state.walk.put(rows, spent=state.walk.spent[rows] + 1)
        status = state.status.clone()
        status[gone] = Ending.LOST
        return replace(state, walk=walk, status=status)
