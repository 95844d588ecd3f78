"""What is known of the boundary around each image: the nearest confirmed point of every class."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import norm
from db3kd.search.joint.points import Points, blocks_of
from db3kd.search.robustness import References


@dataclass(frozen=True)
class Front:
    """For each image and class, the nearest point that the teacher is known to give that class.

    `point` has that point (the image itself for its own class), `distance` says how far it lies,
    +inf where none is known; `spent` counts the queries asked for the sake of that row, `tried` its
    references so far. One answer serves all: a point that was asked for one class counts for the
    class it turned out to have. `learn` writes into the tensors, so that a front of many images is
    never copied. Pixels are held of points that were found, not of those that are references.

    >>> white = References(torch.ones(1, 1, 2, 2), torch.tensor([1]),
    ...                    torch.zeros(2, dtype=torch.bool))
    >>> front = Front.at_references(torch.zeros(1, 1, 2, 2), torch.tensor([0]), white)
    >>> front.distance
    tensor([[0., 2.]])
    >>> front.learn(torch.full((1, 1, 2, 2), 0.6), torch.tensor([0]), torch.tensor([1]))
    tensor([0])
    >>> front.distance
    tensor([[0.0000, 1.2000]])
    """

    origin: Float[Tensor, "sample *image"]
    teacher_labels: Int[Tensor, " sample"]
    point: Points
    distance: Float[Tensor, "sample classes"]
    spent: Int[Tensor, "sample classes"]
    tried: Int[Tensor, "sample classes"]

    @classmethod
    def at_references(
        cls,
        images: Float[Tensor, "sample *image"],
        teacher_labels: Int[Tensor, " sample"],
        known: References,
    ) -> "Front":
        """Start at the nearest reference of every class; costs no query."""
        nearest = known.nearest_first(images)[:, :, 0]
        rows = torch.arange(len(images), device=images.device)
        nearest[rows, teacher_labels] = -1
        distance = torch.full(nearest.shape, torch.inf, device=images.device)
        distance[rows, teacher_labels] = 0.0
        sample, target = (nearest >= 0).nonzero(as_tuple=True)
        for some in blocks_of(len(sample), images[:1]):
            row = (sample[some], target[some])
            distance[row] = norm(known.images[nearest[row]] - images[row[0]])
        none = torch.zeros_like(nearest)
        point = Points(images, known.images, nearest)
        return cls(images, teacher_labels, point, distance, none, none.clone())

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.distance.shape[1]

    def learn(
        self,
        points: Float[Tensor, "probe *image"],
        sample: Int[Tensor, " probe"],
        answers: Int[Tensor, " probe"],
    ) -> Int[Tensor, " some"]:
        """Take in what the teacher called some points that were made around these samples.

        Returns which of them are the nearest known point of their class now.
        """
        row = sample * self.classes + answers
        apart = norm(points - self.origin[sample])
        flat = self.distance.view(-1)
        flat.scatter_reduce_(0, row, apart, "amin")
        best = (apart == flat[row]).nonzero()[:, 0]
        ordered, order = row[best].sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        chosen = best[order[first]].sort().values
        self.point.put(sample[chosen], answers[chosen], points[chosen])
        return chosen
