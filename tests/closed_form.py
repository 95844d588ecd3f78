"""Teachers whose boundary distances have a closed form, and teachers that are exact row by row."""

import torch
from torch import Tensor, nn

from db3kd.search.robustness import References
from db3kd.teachers import function
from db3kd.teachers.base import Teacher

WIDE = (-50.0, 50.0)  # bounds that nothing here reaches


def half_space(normal: Tensor, offset: float, bounds: tuple[float, float] = WIDE) -> Teacher:
    """Class 1 where normal . x > offset, for a unit normal; the distance is offset - normal . x."""
    return function(lambda images: images.flatten(1) @ normal > offset, classes=2, bounds=bounds)


def ball(centre: Tensor, radius: float) -> Teacher:
    """Class 1 inside a ball; from outside the distance is |x - centre| - radius."""
    return function(
        lambda images: (images.flatten(1) - centre).norm(dim=1) < radius, classes=2, bounds=WIDE
    )


def prototypes(points: Tensor) -> Teacher:
    """The nearest prototype's class."""
    return function(
        lambda images: torch.cdist(images.flatten(1), points).argmin(1),
        classes=len(points),
        bounds=WIDE,
    )


class Watched:
    """A teacher that keeps all that it is shown; it may die at a question."""

    bounds = (0.0, 1.0)

    def __init__(self, teacher: Teacher, dies_at: int | None = None) -> None:
        self.shown: list[Tensor] = []
        self.teacher, self.classes, self.dies_at = teacher, teacher.classes, dies_at

    @property
    def asked(self) -> int:
        """How many images it was shown."""
        return sum(map(len, self.shown))

    def labels(self, images: Tensor, /) -> Tensor:
        """Class index of each image."""
        if len(self.shown) == self.dies_at:
            raise KeyboardInterrupt
        self.shown.append(images.clone())
        return self.teacher.labels(images)


class Watching(nn.Flatten):
    """A network whose scores are the first four pixels; writes down how many images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(len(images))
        return super().forward(images)[:, :4]


def to_largest(sample: Tensor, target: int, classes: int) -> float:
    """Distance to where coordinate `target` is the largest of the first `classes`.

    It is the cell of the nearest of the prototypes s * e_k. The nearest point has one height t at
    the target and at all coordinates above t; t is their mean.
    """
    others = sample[:classes].double()
    wanted = others[target].clone()
    others[target] = -torch.inf
    above = others.sort(descending=True).values
    height, used = wanted, 0
    while above[used] > height:
        used += 1
        height = (wanted + above[:used].sum()) / (used + 1)
    return float(((above[:used] - height).square().sum() + (wanted - height) ** 2).sqrt())


def to_half_space_in_box(sample: Tensor, normal: Tensor, offset: float) -> float:
    """Distance to normal . y >= offset within the box [0, 1].

    The nearest point is clamp(x + m normal) for the least m >= 0 that gets there.
    """
    x, direction = sample.flatten().double(), normal.double()
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        reached = (x + middle * direction).clamp(0, 1) @ direction >= offset
        low, high = (low, middle) if reached else (middle, high)
    return float(((x + high * direction).clamp(0, 1) - x).norm())


def ordered_scores(images: Tensor, weights: Tensor, offsets: Tensor) -> Tensor:
    """Linear scores, summed pixel by pixel, so that no row's rounding depends on the batch.

    In double precision: of two equal scores argmax takes the first, whatever the classes' names,
    and a bisection in single precision does meet scores that are equal in single precision.
    """
    pixels, weights = images.flatten(1).double(), weights.double()
    scores = offsets.double().expand(len(pixels), -1).clone()
    for d in range(pixels.shape[1]):
        scores = scores + pixels[:, d, None] * weights[:, d]
    return scores


def linear(weights: Tensor, offsets: Tensor, bounds: tuple[float, float] = WIDE) -> Teacher:
    """The class of the largest linear score, exact row by row."""
    return function(
        lambda images: ordered_scores(images, weights, offsets).argmax(1),
        classes=len(weights),
        bounds=bounds,
    )


def as_references(teacher: Teacher, images: Tensor) -> References:
    """Every image as a start of the class that the teacher calls it."""
    nothing_rejected = torch.zeros(teacher.classes, dtype=torch.bool)
    return References(images, teacher.labels(images), nothing_rejected)
