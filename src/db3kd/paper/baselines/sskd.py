"""SSKD: a student learns scores, and how alike turned images are to upright ones (Table 2).

Xu et al. (2020), "Knowledge distillation meets self-supervision". Its settings are those of the
authors' release for CIFAR-100, which stand here for every data set; but on MNIST and Fashion-MNIST
no image is cropped, and the student's rate is lower. The momentum is Nesterov's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from db3kd.config.settings import Training
from db3kd.errors import InputError
from db3kd.paper.access import OpenNetwork, features_and_scores, last_layer
from db3kd.paper.baselines.own_loss import taught_by
from db3kd.paper.task import Scale, Task
from db3kd.student.evaluate import device_of
from db3kd.student.files import digest_of
from db3kd.student.networks import seeded
from db3kd.student.precision import mixed_on

TURNS = 4
SGD: Mapping[str, Any] = {"optimiser": "sgd", "rate": 0.05, "schedule": "steps", "warmup": 0.0}
HEAD = Training(**SGD, epochs=60, drops=(0.5, 0.75), augment=("crop",))
STUDENT = Training(**SGD, epochs=240, drops=(0.625, 0.75, 0.875), augment=("crop",))
UNNORMALISED = 0.003
"""The student's rate for LeNet-5, which has no batch normalisation: at 0.05 it learns nothing."""
STEPS: Mapping[str, tuple[int, int]] = {
    "mnist": (2_000, 10_000),
    "fashion_mnist": (2_000, 10_000),
    "cifar10": (200, 1_200),
    "cifar100": (150, 650),
    "flowers102": (40, 180),
}
"""Steps of the head and of the student that take one core a quarter of an hour, 256 images each."""


@dataclass(frozen=True)
class Settings:
    """The four terms of the student's loss, and how head and student are trained.

    - `label_weight`, `score_weight`: of CE, and of KL to the teacher's scores, on upright images.
    - `turned_weight`: of KL to the teacher's scores on turned images.
    - `likeness_weight`: of KL between likenesses of turned to upright images.
    - `temperature`, `likeness_temperature`: of the scores and of the likenesses. Every KL is
      multiplied by the square of its temperature.
    - `turned_share`, `likeness_share`: how many of the rows that the teacher has wrong are kept,
      those that are least wrong.
    - `head`, `student`: the trainings.
    """

    label_weight: float = 0.1
    score_weight: float = 0.9
    turned_weight: float = 2.7
    likeness_weight: float = 10.0
    temperature: float = 4.0
    likeness_temperature: float = 0.5
    turned_share: float = 1.0
    likeness_share: float = 0.75
    head: Training = HEAD
    student: Training = STUDENT


def settings(data: str, scale: Scale) -> Settings:
    """As published at full scale, and fewer steps at the others.

    >>> settings("cifar100", "full").student.epochs, settings("cifar100", "cpu").student.steps
    (240, 650)
    """
    head, student = HEAD, STUDENT
    if scale != "full":
        counts = STEPS[data] if scale == "cpu" else (10, 40)
        head, student = (
            msgspec.structs.replace(each, epochs=None, steps=count)
            for each, count in zip((head, student), counts, strict=True)
        )
    if data in ("mnist", "fashion_mnist"):
        head = msgspec.structs.replace(head, augment=())
        student = msgspec.structs.replace(student, augment=(), rate=UNNORMALISED)
    return Settings(head=head, student=student)


def sskd(task: Task, teacher: OpenNetwork, settings: Settings) -> nn.Module:
    """Train a head on the teacher's features, then a student and its own head by four terms.

    L = a CE + b KL(upright scores) + c KL(turned scores) + d KL(likenesses), each a mean over the
    rows that it keeps. Each image is shown in four turns, so a step takes four times as long as
    another. The teacher is not changed. Costs no query in the sense of the tables, where it is
    open. Random: the first weights, order, augmentation and dropout, from the task's seed.

    Raises:
        InputError: the images are not square, the student has no `torch.nn.Linear` at its end, or
            the loss is not finite.
    """
    _, height, width = task.known.images.shape
    if height != width:
        raise InputError(f"a network for {height}x{width} pixels cannot see turned images")
    guide = teacher_head(task, teacher, settings)
    student = task.student(task.seed)
    pair = nn.ModuleList([student, _head(task, "student's head", last_layer(student).in_features)])
    labels = task.known.labels.to(device_of(task.device))
    mixed = settings.student.mixed_precision and mixed_on(labels.device, student)

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        shown = turned(images)
        features, scores = _seen(student, shown, mixed)
        alike = likeness(pair[1](features))
        with torch.no_grad():
            features, wanted = _seen(teacher.network, shown, mixed)
            wanted_alike = likeness(guide(features))
        return _loss(settings, scores, alike, wanted, wanted_alike, labels[rows])

    about = f"{settings} {digest_of(teacher.network.state_dict(), {})}"
    taught_by(task, "student and head", pair, task.known, settings.student, loss, about=about)
    return student


def teacher_head(task: Task, teacher: OpenNetwork, settings: Settings) -> nn.Module:
    """Train two layers on the teacher's features so that a turned image is like its upright one.

    CE over the cosines of each turned image to all upright ones of its batch. Costs no query.
    Random: the first weights, order and augmentation, from the task's seed.

    Raises:
        InputError: the loss is not finite.
    """
    head = _head(task, "teacher's head", teacher.last.in_features)
    mixed = settings.head.mixed_precision and mixed_on(teacher.device, teacher.network)

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            features, _ = _seen(teacher.network, turned(images), mixed)
        alike = likeness(head(features))
        return F.cross_entropy(alike, _upright(len(rows), alike.device))

    about = digest_of(teacher.network.state_dict(), {})
    return taught_by(task, "teacher's head", head, task.known, settings.head, loss, about=about)


def _head(task: Task, name: str, features: int) -> nn.Module:
    with seeded(task.seed_of(name, "weights")):
        return nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features)
        )


def _seen(network: nn.Module, images: Tensor, mixed: bool) -> tuple[Tensor, Tensor]:
    """Features and scores, computed in bfloat16 where that is wanted."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=mixed):
        features, scores = features_and_scores(network, images)
    return features.float(), scores.float()


def _loss(
    settings: Settings,
    scores: Tensor,
    alike: Tensor,
    wanted: Tensor,
    wanted_alike: Tensor,
    labels: Tensor,
) -> Tensor:
    """The four terms; of the scores, the first rows are those of the upright images."""
    count, temperature = len(labels), settings.temperature
    kept = trusted(wanted[count:], labels.repeat(TURNS - 1), settings.turned_share)
    kept_alike = trusted(wanted_alike, _upright(count, labels.device), settings.likeness_share)
    return (
        settings.label_weight * F.cross_entropy(scores[:count], labels)
        + settings.score_weight * _divergence(scores[:count], wanted[:count], temperature)
        + settings.turned_weight
        * _divergence(scores[count:][kept], wanted[count:][kept], temperature)
        + settings.likeness_weight
        * _divergence(alike[kept_alike], wanted_alike[kept_alike], settings.likeness_temperature)
    )


def _divergence(given: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """tau^2 KL(wanted || given) at a temperature, a mean over the rows; 0 if there are none."""
    wrong = F.kl_div(
        F.log_softmax(given / temperature, dim=1),
        F.log_softmax(wanted / temperature, dim=1),
        reduction="sum",
        log_target=True,
    )
    return temperature**2 * wrong / max(1, len(given))


def turned(
    images: Float[Tensor, "row channel side side"],
) -> Float[Tensor, "more channel side side"]:
    """The images upright, then all of them turned by 90, 180 and 270 degrees.

    >>> turned(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).flatten(1)[1]
    tensor([2., 4., 1., 3.])
    """
    return torch.cat([torch.rot90(images, turn, (2, 3)) for turn in range(TURNS)])


def likeness(vectors: Float[Tensor, "turned vector"]) -> Float[Tensor, "others upright"]:
    """Cosines of all turned images to all upright ones, of vectors in the order of `turned`.

    >>> likeness(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]]))
    tensor([[0.],
            [1.],
            [0.]])
    """
    unit = F.normalize(vectors, dim=1)
    count = len(unit) // TURNS
    return unit[count:] @ unit[:count].T


def _upright(count: int, device: torch.device) -> Tensor:
    """For every turned image, the column of its upright one."""
    return torch.arange(count, device=device).repeat(TURNS - 1)


def trusted(
    scores: Float[Tensor, "row classes"], right: Int[Tensor, "row"], share: float
) -> Bool[Tensor, "row"]:
    """Which rows to learn from: those with the right answer, and the least wrong of the others.

    A row is the more wrong, the more entries are above the right one; of rows alike, the first are
    kept. `share` of the wrong rows are kept, rounded down.

    >>> scores = torch.tensor([[0.1, 0.3, 0.6], [0.9, 0.0, 0.1], [0.1, 0.6, 0.3]])
    >>> trusted(scores, torch.tensor([0, 0, 2]), share=0.5)
    tensor([False,  True,  True])
    """
    above = (scores > scores.gather(1, right[:, None])).sum(dim=1)
    wrong = int((above > 0).sum())
    order = above.argsort(stable=True)
    kept = torch.zeros_like(right, dtype=torch.bool)
    kept[order[: len(right) - wrong + int(share * wrong)]] = True
    return kept
