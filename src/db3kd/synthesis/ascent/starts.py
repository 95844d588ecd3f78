"""Noise inputs of every class: where the growth of pseudo samples begins (section 3.3).

The paper starts from "random noise inputs" of each class and does not say how a class is found that
noise does not hit; the released code draws until it is, without end and without counting. Here
three sources are asked, one after the other, within one hard limit, and whatever was not found is
reported:
- noise: each image with its own brightness, contrast and share of Gaussian noise;
- structured images, if the caller has a source of them: more classes are among these;
- walks: bisection between found images of different classes, since a segment crosses third
  classes on the way, and found images of the rarest classes with a little noise on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.errors import InputError
from db3kd.search.boundary import as_seen
from db3kd.student.networks import Shape
from db3kd.teachers.base import Teacher

Prior = Callable[[int, Generator], Tensor]
"""(count, draw) -> that count of structured images, within the teacher's bounds."""

BATCH = 100  # images asked at once, at most
IDLE = 4  # rounds in a row in which nothing could be kept, and a source is left
NOISE_SHARE, PRIOR_SHARE = 0.25, 0.5  # of the limit, at most, until the next source has its turn
DEPTH = 6  # halvings of a segment between two classes


@dataclass(frozen=True)
class Starts:
    """Images with what the teacher called them, by class, and what they cost.

    `found` counts the images of each class, at most as many as were wanted; `queries` the images
    that were asked, kept or not.

    >>> Starts(torch.zeros(1, 1, 2, 2), torch.tensor([1]), torch.tensor([0, 1, 0]), 5).missing
    tensor([0, 2])
    """

    images: Float[Tensor, "row *image"]
    teacher_labels: Int[Tensor, " row"]
    found: Int[Tensor, " classes"]
    queries: int

    @property
    def missing(self) -> Int[Tensor, " missing"]:
        """The classes for which nothing was found."""
        return (self.found == 0).nonzero()[:, 0]


def find_starts(
    teacher: Teacher,
    shape: Shape,
    wanted: int,
    *,
    most: int,
    draw: Generator,
    prior: Prior | None = None,
) -> Starts:
    """Images that the teacher calls each class, at most `wanted` of each (o_0^m of section 3.3).

    Costs at most `most` queries, fewer where all is found or nothing new is. Random: `draw`, a
    generator on the device where the images are to be.

    Raises:
        InputError: less than one image is wanted, or less than no query allowed.
        BudgetExhausted, TeacherError: from the teacher.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> starts = find_starts(bright, (1, 4, 4), 3, most=500, draw=Generator().manual_seed(0))
    >>> starts.teacher_labels, len(starts.missing), starts.queries
    (tensor([0, 0, 0, 1, 1, 1]), 0, 100)
    """
    if wanted < 1 or most < 0:
        raise InputError(f"at least 1 image a class and 0 queries, got {wanted} and {most}")
    stored = _Shelf(teacher, wanted, most, [[] for _ in range(teacher.classes)])
    share = PRIOR_SHARE if prior is None else NOISE_SHARE
    _draw_until(stored, int(share * most), lambda n: noise(n, shape, draw, teacher.bounds))
    if prior is not None:
        _draw_until(stored, int(PRIOR_SHARE * most), lambda n: prior(n, draw))
    _walk(stored, draw)
    images = [image for row in stored.kept for image in row]
    return Starts(
        torch.stack(images) if images else torch.zeros(0, *shape, device=draw.device),
        torch.arange(teacher.classes, device=draw.device).repeat_interleave(stored.found()),
        stored.found(),
        stored.asked,
    )


def noise(
    count: int, shape: Shape, draw: Generator, bounds: tuple[float, float]
) -> Float[Tensor, "row *image"]:
    """Uniform and Gaussian noise in one, each image with its own brightness and shares of both.

    Costs no query. Random: `draw`.

    >>> images = noise(5, (1, 4, 4), Generator().manual_seed(0), (0.0, 1.0))
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    (torch.Size([5, 1, 4, 4]), True)
    """
    place = draw.device
    level, flat, normal = torch.rand(3, count, *[1] * len(shape), generator=draw, device=place)
    uniform = torch.rand(count, *shape, generator=draw, device=place) - 0.5
    gaussian = torch.randn(count, *shape, generator=draw, device=place)
    images: Tensor = level + flat * uniform + 0.5 * normal * gaussian
    return images.clamp_(0, 1).mul_(bounds[1] - bounds[0]).add_(bounds[0]).clamp_(*bounds)


@dataclass
class _Shelf:
    """What was found so far, and the only place where the teacher is asked."""

    teacher: Teacher
    wanted: int
    most: int
    kept: list[list[Tensor]]
    asked: int = field(default=0)

    def found(self) -> Tensor:
        """Images of each class."""
        place = next((row[0].device for row in self.kept if row), None)
        return torch.tensor([len(row) for row in self.kept], device=place)

    def complete(self) -> bool:
        """Whether nothing is wanted any more, or nothing may be asked."""
        return self.asked >= self.most or all(len(row) >= self.wanted for row in self.kept)

    def ask(self, images: Tensor) -> tuple[Tensor, int]:
        """Answers, as many as may still be asked for, and how many images were kept."""
        images = as_seen(images[: self.most - self.asked], self.teacher.bounds)
        if not len(images):
            return torch.zeros(0, dtype=torch.long, device=images.device), 0
        self.asked += len(images)
        answers, kept = self.teacher.labels(images), 0
        for image, answer in zip(images, answers.tolist(), strict=True):
            if len(self.kept[answer]) < self.wanted:
                self.kept[answer].append(image.clone())
                kept += 1
        return answers, kept


def _draw_until(stored: _Shelf, most: int, source: Callable[[int], Tensor]) -> None:
    """Ask images of a source until all is found, its share is spent or it brings nothing new."""
    idle = 0
    while idle < IDLE and stored.asked < most and not stored.complete():
        _, kept = stored.ask(source(min(BATCH, most - stored.asked)))
        idle = 0 if kept else idle + 1


def _walk(stored: _Shelf, draw: Generator) -> None:
    """From image to image, from the rarest classes to all others, until nothing new is met."""
    idle = 0
    while idle < IDLE and not stored.complete() and int((stored.found() > 0).sum()) > 1:
        kept = _bisect(stored, draw) + _around(stored, draw)
        idle = 0 if kept else idle + 1


def _bisect(stored: _Shelf, draw: Generator) -> int:
    """Halve segments from images of rare classes to images of others; keep what is met."""
    near, teacher_labels = _some(stored, BATCH // 2, draw, rare=True)
    far, other = _some(stored, BATCH // 2, draw, rare=False)
    apart = teacher_labels != other
    near, teacher_labels, far = near[apart], teacher_labels[apart], far[apart]
    kept = 0
    for _ in range(DEPTH):
        middle = (near + far) / 2
        answers, new = stored.ask(middle)
        kept += new
        if len(answers) < len(middle) or not len(middle):
            break
        same = (answers == teacher_labels).reshape(-1, *[1] * (near.ndim - 1))
        near, far = torch.where(same, middle, near), torch.where(same, far, middle)
    return kept


def _around(stored: _Shelf, draw: Generator) -> int:
    """Ask images of the rarest classes with noise on them, from a little to much."""
    images, _ = _some(stored, BATCH, draw, rare=True)
    low, high = stored.teacher.bounds
    size = torch.rand(len(images), *[1] * (images.ndim - 1), generator=draw, device=draw.device)
    gaussian = torch.randn(images.shape, generator=draw, device=draw.device)
    _, kept = stored.ask((images + 0.3 * (high - low) * size * gaussian).clamp_(low, high))
    return kept


def _some(stored: _Shelf, count: int, draw: Generator, *, rare: bool) -> tuple[Tensor, Tensor]:
    """Kept images with their classes, drawn class by class; the rare ones more often if so."""
    found = stored.found()
    weight = (found > 0).double()
    if rare:
        weight = weight / found.clamp(min=1)
    teacher_labels = torch.multinomial(weight, count, replacement=True, generator=draw)
    share = torch.rand(count, generator=draw, device=draw.device)
    number = (share * found[teacher_labels]).long().clamp(max=found[teacher_labels] - 1)
    pairs = zip(teacher_labels.tolist(), number.tolist(), strict=True)
    return torch.stack([stored.kept[k][n] for k, n in pairs]), teacher_labels
