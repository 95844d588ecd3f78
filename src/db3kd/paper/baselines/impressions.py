"""What ZSKD and DFKD share: noise is changed until the teacher gives it chosen soft labels."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from db3kd.config.settings import AugmentationName, Training
from db3kd.data import TensorImages, eight_bits
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.access import OpenNetwork, ScoreTeacher
from db3kd.paper.task import Scale, Task
from db3kd.student.networks import Shape
from db3kd.synthesis.augmentation import grow
from db3kd.synthesis.rivals.generator import descend

REPORT_SECONDS = 1.0

Targets = Callable[[Int[Tensor, " row"], int], Float[Tensor, "row classes"]]
"""The soft labels, after the temperature, of the images with these numbers, by a seed."""
Report = Callable[[int, float], None]
"""Told how many steps are done, and the loss."""


@dataclass(frozen=True)
class Making:
    """How images are made and learned from; the defaults are those of ZSKD's release for CIFAR-10.

    - `images`: how many are made, `batch` at once, which are kept as one piece.
    - `steps`, `rate`: Adam's on their pixels.
    - `temperature`: of the teacher, here and when the student learns.
    - `copies`: how many changed copies of each image the teacher labels too, and `changes`: by what
      they differ (`db3kd.synthesis.augmentation.grow`). The release makes about a hundred anew for
      each batch, and turns and scales them further.
    - `student_rate`, `epochs`, `lesson`: Adam's of the student, how often it sees each image and
      each copy, and in batches of how many. The release has 500 epochs; 50 of 10 versions are as
      many.

    >>> Making().images
    40000
    """

    images: int = 40_000
    batch: int = 100
    steps: int = 1_500
    rate: float = 1e-3
    temperature: float = 20.0
    copies: int = 9
    changes: tuple[AugmentationName, ...] = ("shift", "rotate", "scale", "flip", "noise")
    student_rate: float = 1e-3
    epochs: int = 50
    lesson: int = 64

    @property
    def training(self) -> Training:
        """The student's: soft labels alone, and the factor tau^2."""
        return Training(
            optimiser="adam",
            rate=self.student_rate,
            schedule="constant",
            epochs=self.epochs,
            batch=self.lesson,
            temperature=self.temperature,
            weight=self.temperature**2,
            label_weight=0.0,
        )


RELEASED = Making()
PUBLISHED = {"mnist": 24_000, "fashion_mnist": 48_000}
"""How many images ZSKD's authors make of the data sets that do not have 40,000."""


def making(data: str, scale: Scale) -> Making:
    """How many images a data set gets, and how long each is changed, at a scale.

    >>> making("fashion_mnist", "full").images, making("mnist", "smoke").images
    (48000, 40)
    """
    if scale == "full":
        return Making(PUBLISHED.get(data, 40_000))
    if scale == "smoke":
        return Making(40, batch=20, steps=20, rate=0.02, copies=1, epochs=2)
    if data in PUBLISHED:
        return Making(14_000, steps=120, rate=0.02, epochs=4)
    return Making(3_000, steps=100, rate=0.02, epochs=4)


def impressed(
    teacher: OpenNetwork,
    targets: Float[Tensor, "row classes"],
    shape: Shape,
    making: Making,
    *,
    draw: Generator,
    report: Report = lambda done, loss: None,
) -> Float[Tensor, "row *image"]:
    """Make one image for each soft label: x <- x - Adam's step along grad CE(p, softmax(f(x) / T)).

    Images start as uniform noise in [0, 1]. After each step each one is scaled so that its least
    and greatest values are 0 and 1; the release does so for a batch together. The loss is a sum,
    so that images depend on each other by nothing. Costs no query; `making.steps` passes through
    the teacher, forward and back. Random: `draw`, a generator on the CPU.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> network[1].weight.data = torch.tensor([[9.0, 9, -9, -9], [-9.0, -9, 9, 9]])
    >>> making, draw = Making(steps=50, rate=0.1), torch.Generator().manual_seed(0)
    >>> images = impressed(OpenNetwork(network), torch.eye(2), (1, 2, 2), making, draw=draw)
    >>> images[0].round().flatten()
    tensor([1., 1., 0., 0.])
    """
    images = torch.rand(len(targets), *shape, generator=draw).to(teacher.device)
    images.requires_grad_(True)
    targets = targets.to(teacher.device)
    optimiser, told = torch.optim.Adam([images], making.rate), time.monotonic()
    for step in range(making.steps):
        _, scores = teacher.features_and_scores(images)
        loss = F.cross_entropy(scores / making.temperature, targets, reduction="sum")
        descend(optimiser, loss)
        with torch.no_grad():
            images.copy_(_spread(images))
        if time.monotonic() - told >= REPORT_SECONDS:
            told = time.monotonic()
            report(step + 1, loss.item() / len(images))
    return images.detach()


def _spread(images: Tensor) -> Tensor:
    """Each image between 0 and 1."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def scores_of(
    teacher: OpenNetwork, images: Float[Tensor, "row *image"]
) -> Float[Tensor, "row classes"]:
    """An open teacher's scores, a part of the images at a time and without gradients.

    >>> teacher = OpenNetwork(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    >>> scores_of(teacher, torch.ones(3, 1, 2, 2)).shape
    torch.Size([3, 2])
    """
    return ScoreTeacher(teacher.network, device=teacher.device).scores(images)


@dataclass(frozen=True)
class Made:
    """Impressions and their changed copies, with the teacher's scores of each, on the CPU."""

    images: UInt8[Tensor, "image *shape"]
    scores: Float[Tensor, "image classes"]
    copies: UInt8[Tensor, "copy *shape"]
    copy_scores: Float[Tensor, "copy classes"]

    def labelled(self) -> tuple[Float[Tensor, "image *shape"], Int[Tensor, " image"]]:
        """The impressions as floats in [0, 1], and the class that the teacher gives each."""
        return self.images.float() / 255, self.scores.argmax(1)

    def transfer(self) -> TransferSet:
        """All of them as a transfer set with soft labels alone."""
        scores = torch.cat([self.scores, self.copy_scores])
        return TransferSet(
            TensorImages(torch.cat([self.images, self.copies])),
            torch.arange(len(scores)),
            scores.argmax(1),
            torch.full((len(scores),), -1),
            scores,
        )


def made(task: Task, name: str, teacher: OpenNetwork, making: Making, targets: Targets) -> Made:
    """Make the images of a system, `making.batch` at a time; kept pieces are not made again.

    They are rounded to 8 bits. Costs no query. Random: noise, targets and copies, by the seed and
    the number of the piece.
    """
    cuts = torch.split(torch.arange(making.images), making.batch)
    pieces: list[dict[str, Tensor]] = []
    for number, rows in enumerate(cuts):

        def piece(number: int = number, rows: Tensor = rows) -> dict[str, Tensor]:
            def report(step: int, loss: float) -> None:
                done = number * making.steps + step
                task.progress(name.upper(), done, len(cuts) * making.steps, {"loss": loss})

            draw = task.draw(name, "images", number)
            wanted = targets(rows, task.seed_of(name, "targets", number))
            shape = task.known.images.shape
            images = impressed(teacher, wanted, shape, making, draw=draw, report=report).cpu()
            return _labelled(teacher, images, making, draw)

        pieces.append(task.kept(f"{name}-{number:04}", piece))
    return Made(*(torch.cat([each[key] for each in pieces]) for key in Made.__annotations__))


def _labelled(
    teacher: OpenNetwork, images: Tensor, making: Making, draw: Generator
) -> dict[str, Tensor]:
    """A piece of `Made`: images and copies as 8 bits, and the teacher's scores of both."""
    kept, shown = eight_bits(images)
    parents = torch.arange(len(shown)).repeat(making.copies)
    block = shown[parents]
    changed = grow(block, parents, making.changes, bounds=(0.0, 1.0), draw=draw).images
    copies, seen = eight_bits(changed)
    scores = scores_of(teacher, torch.cat([shown, seen]))
    return {
        "images": kept,
        "scores": scores[: len(kept)],
        "copies": copies,
        "copy_scores": scores[len(kept) :],
    }


def taught(task: Task, name: str, found: Made, making: Making) -> nn.Module:
    """A student of the task that learns from the images by KL at the temperature, times tau^2."""
    network = task.student(task.seed_of(name, "student"))
    return task.taught(f"{name}-student", network, found.transfer(), making.training)
