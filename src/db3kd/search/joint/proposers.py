"""What each row asks next: its surrogate's proposals, or the references one after the other."""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.search.boundary import norm, per_row
from db3kd.search.joint.front import Front
from db3kd.search.joint.gradients import nearest, tangent
from db3kd.search.joint.rays import WORTH_ASKING, Rays
from db3kd.search.joint.surrogate import Ensemble
from db3kd.search.robustness import References

LEAST_STEP = 0.2  # of the way to the foot of the perpendicular
DDN_STEPS = 16


class ByModel:
    """Proposes the surrogate's nearest point first, then steps along its normals.

    After the first round, that point is looked for from the nearest one that is confirmed.

    In the first round, rows whose class did not appear on that ray go towards their reference.
    A step that was not across is halved; a row for which the surrogate sees nothing nearer rests.
    The surrogate is asked for a normal again only where a row has moved.
    """

    def __init__(
        self,
        model: nn.Module,
        front: Front,
        sample: Int[Tensor, " row"],
        target: Int[Tensor, " row"],
        *,
        first: bool,
        bounds: tuple[float, float],
    ) -> None:
        self.model = model
        self.members = list(model.members) if isinstance(model, Ensemble) else [model]
        self.front, self.sample, self.target = front, sample, target
        self.first, self.bounds = first, bounds
        self.step = torch.ones(len(sample), device=sample.device)
        self.foot = torch.zeros_like(front.origin[sample])  # of the perpendicular, where known,
        self.seen_from = torch.full_like(self.step, torch.nan)  # and the distance of its point
        self.helped = torch.zeros_like(sample, dtype=torch.bool)  # by a reference

    def __call__(
        self, rows: Int[Tensor, " some"], number: Int[Tensor, " some"], won: Tensor
    ) -> Rays:
        """The next ray of each row; `number` counts its rays so far."""
        rays = Rays.none(self.front.origin[self.sample[rows]])
        begin = (number == 0).nonzero()[:, 0]
        rays.put(begin, self._nearest(rows[begin]))
        again = (number > 0).nonzero()[:, 0]
        teacher_labels = rows[again]
        halved = torch.where(number[again] == 1, 1.0, self.step[teacher_labels] / 2)
        self.step[teacher_labels] = torch.where(
            won[again], (self.step[teacher_labels] * 2).clamp(max=1), halved
        )
        rays.put(again, self._tangent(teacher_labels))
        if self.first:
            lost = again[(number[again] == 1) & ~won[again]]
            self.helped[rows[lost]] = True
            rays.put(lost, self._reference(rows[lost]))
        return rays

    def _nearest(self, rows: Tensor) -> Rays:
        sample, target = self.sample[rows], self.target[rows]
        origin, point = self.front.origin[sample], self.front.point.of(sample, target)
        found = nearest(
            self.members,
            origin,
            target,
            steps=DDN_STEPS,
            bounds=self.bounds,
            start=origin if self.first else point,
        )
        growth = 1.35 if self.first else 1.15
        return Rays.towards(origin, found, guess=1.02, floor=0.85, growth=growth)

    def _tangent(self, rows: Tensor) -> Rays:
        sample, target = self.sample[rows], self.target[rows]
        origin, point = self.front.origin[sample], self.front.point.of(sample, target)
        best = self.front.distance[sample, target]
        idle = (self.step[rows] < LEAST_STEP) | best.isinf()
        new = rows[~idle & (self.seen_from[rows] != best)]
        if len(new):
            self._look_from(new)
        goal = point + per_row(self.step[rows], point) * (self.foot[rows] - point)
        there = norm(goal - origin)
        rays = Rays.towards(origin, goal, guess=1.0, floor=0.97, growth=1.0)
        idle |= there > WORTH_ASKING * best
        return rays.starting(torch.where(idle, torch.inf, (there + best) / 2))

    def _look_from(self, rows: Tensor) -> None:
        """Find the feet of some rows, from the nearest points that they have now."""
        sample, target = self.sample[rows], self.target[rows]
        origin, point = self.front.origin[sample], self.front.point.of(sample, target)
        self.foot[rows] = tangent(self.model, origin, point, target)
        self.seen_from[rows] = self.front.distance[sample, target]

    def _reference(self, rows: Tensor) -> Rays:
        sample = self.sample[rows]
        point = self.front.point.of(sample, self.target[rows])
        return Rays.towards(self.front.origin[sample], point, guess=0.5, floor=0.0, growth=1.4)


class ByReferences:
    """Proposes the references of the row's class, nearest first, each once in a search."""

    def __init__(
        self,
        references: References,
        front: Front,
        sample: Int[Tensor, " row"],
        target: Int[Tensor, " row"],
    ) -> None:
        self.references, self.front, self.sample, self.target = references, front, sample, target
        images, which = torch.unique(sample, return_inverse=True)
        self.order = references.nearest_first(front.origin[images])[which, target]
        self.helped = torch.zeros_like(sample, dtype=torch.bool)

    def __call__(
        self, rows: Int[Tensor, " some"], number: Int[Tensor, " some"], won: Tensor
    ) -> Rays:
        """The next ray of each row."""
        origin = self.front.origin[self.sample[rows]]
        row = (self.sample[rows], self.target[rows])
        place = self.front.tried[row]
        self.front.tried[row] = place + 1
        there = place < self.order.shape[1]
        chosen = self.order[rows, place.clamp(max=self.order.shape[1] - 1)]
        rays = Rays.towards(
            origin, self.references.images[chosen], guess=1.0, floor=0.0, growth=1.4
        )
        best = self.front.distance[row]
        guess = torch.where(place == 0, best / 2, WORTH_ASKING * best)
        return rays.starting(torch.where(there & (chosen >= 0), guess, torch.inf))
