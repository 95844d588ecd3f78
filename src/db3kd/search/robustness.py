"""Sample robustness: SD, BD and MBD, three ways to fill a `RobustnessMap` (section 3.2.1).

A sample's own class is what the teacher answers. The metrics nest: MBD starts where BD ends, BD
where SD ends, so on one set of references MBD <= BD <= SD for every row.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.config.methods import Metric


class Status(IntEnum):
    """How the search of one (sample, class) row ended.

    OWN: the sample's own class, nothing to search. CONVERGED: nothing nearer can be found. LIMIT:
    the row's query limit is reached, the distance is the best confirmed so far. NO_REFERENCE: there
    is no image of that class to start from. REFERENCE_REJECTED: there are some, but the teacher
    calls all of them something else. SAMPLE_REJECTED: the teacher calls the sample something else
    than its expected class. In the last three the distance is +inf.

    >>> Status(2).name
    'LIMIT'
    """

    OWN = 0
    CONVERGED = 1
    LIMIT = 2
    NO_REFERENCE = 3
    REFERENCE_REJECTED = 4
    SAMPLE_REJECTED = 5


@dataclass(frozen=True)
class References:
    """Images that serve as starts, each asked once: `answers` is what the teacher called them.

    `rejected` marks the classes that had images, all of them called something else.

    >>> References(torch.zeros(2, 1, 4, 4), torch.tensor([0, 2]), torch.zeros(3, dtype=torch.bool))
    References(2 images of 2 classes)
    """

    images: Float[Tensor, "reference *image"]
    answers: Int[Tensor, " reference"]
    rejected: Bool[Tensor, " classes"]

    def __repr__(self) -> str:
        return (
            f"References({len(self.answers)} images of {len(set(self.answers.tolist()))} classes)"
        )

    def nearest_first(
        self, images: Float[Tensor, "sample *image"]
    ) -> Int[Tensor, "sample classes place"]:
        """Number the references of each class for each image, nearest first.

        Where a class has no more references, the number is -1. There is at least one place. Costs
        no query.

        >>> two = References(torch.tensor([[0.0], [0.9], [0.7]]), torch.tensor([0, 1, 1]),
        ...                  torch.zeros(2, dtype=torch.bool))
        >>> two.nearest_first(torch.tensor([[0.1]]))
        tensor([[[ 0, -1],
                 [ 2,  1]]])
        """
        counts = torch.bincount(self.answers, minlength=len(self.rejected))
        places = (len(images), len(counts), max(1, int(counts.max())))
        order = torch.full(places, -1, device=images.device)
        nearest = distances(images, self.images).argsort(dim=1, stable=True)
        by_class = nearest.gather(1, self.answers[nearest].argsort(dim=1, stable=True))
        alike, place = grouped(self.answers)
        order[:, self.answers[alike], place] = by_class
        return order


def distances(
    images: Float[Tensor, "sample *image"], others: Float[Tensor, "other *image"]
) -> Float[Tensor, "sample other"]:
    """Euclidean distance from each image to each of the others.

    It is taken from the differences of the pixels: a matrix product is faster, but loses the last
    digits of a small distance, and with them the order of near images.

    >>> distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[5., 1.]])
    """
    return torch.cdist(
        images.flatten(1), others.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )


def choose_references(
    answers: Int[Tensor, " sample"],
    *,
    classes: int,
    per_class: int,
    generator: torch.Generator,
    expected: Int[Tensor, " sample"] | None = None,
) -> tuple[Int[Tensor, " reference"], Bool[Tensor, " classes"]]:
    """Draw at most `per_class` images of each class among those that the teacher calls so.

    Returns their row numbers (by class, then ascending) and which classes are rejected: with
    `expected` labels, an image serves only where the teacher agrees. Costs no query: the answers
    are already there. The draw is random.

    >>> draw = torch.Generator().manual_seed(0)
    >>> choose_references(torch.tensor([0, 1, 1, 0]), classes=3, per_class=1, generator=draw)
    (tensor([0, 1]), tensor([False, False, False]))
    """
    agreed = (answers >= 0) & (answers < classes)
    rejected = torch.zeros(classes, dtype=torch.bool)
    order = torch.randperm(len(answers), generator=generator)
    if expected is not None:
        rejected[expected[(expected >= 0) & (expected < classes)]] = True
        agreed &= answers == expected
    usable = order[agreed[order]]
    rejected[answers[usable]] = False
    by_class, place = grouped(answers[usable])
    chosen = usable[by_class[place < per_class]].sort().values
    return chosen[answers[chosen].argsort(stable=True)], rejected


def grouped(kinds: Int[Tensor, " row"]) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Number rows by their kind, those of one kind in order; and the place of each in its kind.

    >>> grouped(torch.tensor([3, 0, 3, 3]))
    (tensor([1, 0, 2, 3]), tensor([0, 0, 1, 2]))
    """
    order, counts = kinds.argsort(stable=True), torch.bincount(kinds)
    first = counts.cumsum(0) - counts
    return order, torch.arange(len(kinds), device=kinds.device) - first[kinds[order]]


@dataclass(frozen=True)
class RobustnessMap:
    """Distances of samples to the teacher's boundary, with their price and how they ended.

    `distance[sample, class]` is Euclidean, in the units of the image, 0 for the own class and +inf
    where nothing was found. `queries` counts the answers each row cost, `status` holds `Status`
    values. `curve[sample, class, k]` is the best distance within the k-th checkpoint's queries.
    `points` are the points themselves, where they were asked for. `seconds` is what the metric
    took, those before it included.

    >>> from db3kd.search.rows import sample_distance
    >>> white = References(torch.ones(1, 1, 2, 2), torch.tensor([1]),
    ...                    torch.zeros(2, dtype=torch.bool))
    >>> sd = sample_distance(torch.zeros(1, 1, 2, 2), torch.tensor([0]), white)
    >>> sd.distance, sd.queries
    (tensor([[0., 2.]]), tensor([[0, 0]]))
    """

    metric: Metric
    teacher_labels: Int[Tensor, " sample"]
    distance: Float[Tensor, "sample classes"]
    queries: Int[Tensor, "sample classes"]
    status: Int[Tensor, "sample classes"]
    curve: Float[Tensor, "sample classes checkpoint"]
    points: Float[Tensor, "sample classes *image"] | None = None
    seconds: float = 0.0


def wide_labels(labels: Int[Tensor, " row"], width: int, classes: int) -> Int[Tensor, " row"]:
    """Classes of a search of fewer classes, of which the last is the last of all.

    >>> wide_labels(torch.tensor([0, 2]), 3, 101)
    tensor([  0, 100])
    """
    return torch.where(labels == width - 1, classes - 1, labels)


def widened(found: RobustnessMap, classes: int) -> RobustnessMap:
    """A map of fewer classes with columns for all: nothing was found of the others.

    Points are left out.

    >>> small = RobustnessMap("sd", torch.tensor([1]), torch.tensor([[2.0, 0.0]]),
    ...                       *torch.zeros(2, 1, 2).long(), torch.zeros(1, 2, 0))
    >>> widened(small, 4).distance, widened(small, 4).teacher_labels
    (tensor([[2., inf, inf, 0.]]), tensor([3]))
    """
    width = found.distance.shape[1]
    if width == classes:
        return found

    def wide(values: Tensor, fill: float | int) -> Tensor:
        whole = values.new_full((len(values), classes, *values.shape[2:]), fill)
        whole[:, : width - 1], whole[:, -1] = values[:, :-1], values[:, -1]
        return whole

    return replace(
        found,
        teacher_labels=wide_labels(found.teacher_labels, width, classes),
        distance=wide(found.distance, torch.inf),
        queries=wide(found.queries, 0),
        status=wide(found.status, int(Status.NO_REFERENCE)),
        curve=wide(found.curve, torch.inf),
        points=None,
    )
