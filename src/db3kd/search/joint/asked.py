"""What a round asked: kept as rays, from which every probe is made again, bit by bit."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import per_row, shown
from db3kd.search.joint.front import Front
from db3kd.search.joint.points import blocks_of


@dataclass(frozen=True)
class Asked:
    """The probes of a round, and what the teacher called them.

    Probe p was `share[p]` along the ray `ray[p]`, whose `direction` has half precision, from the
    image `sample[p]` of the front. `best[sample, class]` is the probe that became the nearest known
    point of a class, -1 where the round found none that is nearer.
    """

    direction: Float[Tensor, "ray *image"]
    ray: Int[Tensor, " probe"]
    share: Float[Tensor, " probe"]
    sample: Int[Tensor, " probe"]
    answers: Int[Tensor, " probe"]
    best: Int[Tensor, "sample classes"]

    def probes(
        self, origin: Float[Tensor, "sample *image"], bounds: tuple[float, float]
    ) -> Float[Tensor, "probe *image"]:
        """The very points that the teacher was shown, made from the images of the front."""
        parts = [part for _, part in self.blocks(origin, bounds)]
        return torch.cat([origin[:0], *parts])

    def blocks(
        self, origin: Float[Tensor, "sample *image"], bounds: tuple[float, float]
    ) -> Iterator[tuple[slice, Float[Tensor, "some *image"]]]:
        """The same points, in order, a few at a time, each part with its place among all."""
        for some in blocks_of(len(self.ray), origin[:1]):
            direction = self.direction[self.ray[some]]
            yield some, at(origin[self.sample[some]], direction, self.share[some], bounds)


def at(
    origin: Float[Tensor, "row *image"],
    direction: Float[Tensor, "row *image"],
    share: Float[Tensor, " row"],
    bounds: tuple[float, float],
) -> Float[Tensor, "row *image"]:
    """The points at `share` along rays in half precision, as they are `shown`.

    Product and sum are rounded one after the other, so that a point is the same bits wherever it
    stands in a batch.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> at(one / 4, one.half(), torch.tensor([0.5]), (0.0, 1.0))
    tensor([[[[0.7500]]]])
    """
    move = direction.to(origin.dtype).mul_(per_row(share, origin))
    return shown(move.add_(origin), bounds)


class Record:
    """Takes down the rays and probes of a round.

    >>> from db3kd.search.joint.points import Points
    >>> front = Front(torch.zeros(1, 1, 1, 1), torch.tensor([0]),
    ...               Points.origins(torch.zeros(1, 1, 1, 1), 2), torch.tensor([[0.0, 3.0]]),
    ...               *torch.zeros(2, 1, 2, dtype=torch.int64))
    >>> record, one, far = Record(front), torch.tensor([1]), torch.tensor([2.0])
    >>> ray = record.rays(torch.ones(1, 1, 1, 1).half())
    >>> points = at(front.origin, torch.ones(1, 1, 1, 1), far, (0.0, 9.0))
    >>> record.answered(front, points, one - 1, one, ray=ray, share=far)
    >>> asked = record.asked()
    >>> asked.best, torch.equal(asked.probes(front.origin, (0.0, 9.0)), points)
    (tensor([[-1,  0]]), True)
    """

    def __init__(self, front: Front) -> None:
        none = front.teacher_labels[:0]
        self._directions = [front.origin[:0].half()]
        self._probes = [(none, front.distance[:0, 0], none, none)]
        self._best = torch.full_like(front.spent, -1)
        self._rays = self._asked = 0

    def rays(self, direction: Float[Tensor, "ray *image"]) -> Int[Tensor, " ray"]:
        """The numbers of some new rays."""
        first, self._rays = self._rays, self._rays + len(direction)
        self._directions.append(direction)
        return torch.arange(first, self._rays, device=direction.device)

    def answered(
        self,
        front: Front,
        points: Float[Tensor, "probe *image"],
        sample: Int[Tensor, " probe"],
        answers: Int[Tensor, " probe"],
        *,
        ray: Int[Tensor, " probe"],
        share: Float[Tensor, " probe"],
    ) -> None:
        """Let the front learn some answers, and take them down."""
        chosen = front.learn(points, sample, answers)
        self._best[sample[chosen], answers[chosen]] = self._asked + chosen
        self._probes.append((ray, share, sample, answers))
        self._asked += len(points)

    def asked(self) -> Asked:
        """Everything that was asked, in order."""
        columns = zip(*self._probes, strict=True)
        ray, share, sample, answers = (torch.cat(column) for column in columns)
        return Asked(torch.cat(self._directions), ray, share, sample, answers, self._best)
