"""What is known of the boundary around each image: the nearest confirmed point of every class."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import norm
from db3kd.search.robustness import References


@dataclass(frozen=True)
class Front:
    """For each image and class, the nearest point that the teacher is known to give that class.

    `point[sample, class]` is that point (the image itself for its own class), `distance` how far it
    lies, +inf where none is known; `spent` counts the queries asked for the sake of that row,
    `tried` its references so far. One answer serves all: a point that was asked for one class
    counts for the class it turned out to have. `learn` writes into the tensors, so that a front of
    many images is never copied.

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
    point: Float[Tensor, "sample classes *image"]
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
        classes = len(known.rejected)
        point = images[:, None].repeat(1, classes, *[1] * (images.ndim - 1))
        distance = torch.full((len(images), classes), torch.inf, device=images.device)
        nearest = known.nearest_first(images)[:, :, 0]
        for k in set(known.answers.tolist()):
            point[:, k] = known.images[nearest[:, k]]
            distance[:, k] = norm(point[:, k] - images)
        rows = torch.arange(len(images), device=images.device)
        point[rows, teacher_labels], distance[rows, teacher_labels] = images, 0.0
        none = torch.zeros_like(distance, dtype=torch.int64)
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
        order = torch.arange(len(best), device=row.device)
        first = torch.full_like(flat, len(best), dtype=torch.int64)
        first.scatter_reduce_(0, row[best], order, "amin")
        chosen = best[first[row[best]] == order]
        self.point.view(-1, *self.origin.shape[1:])[row[chosen]] = points[chosen]
        return chosen
