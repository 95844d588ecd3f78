"""BBKD: few images, mixed where the student is least sure (Wang et al., CVPR 2020; Tables 3, 4).

"Neural networks are more productive teachers than human raters". The student learns from a
teacher's probabilities for a few images. Then, in rounds, all pairs of these images are mixed,

    x = w x_i + (1 - w) x_j,   w = 0.30, 0.34, ..., 0.70,

of each pair the weight counts of which the student is least sure, the pairs of which it is least
sure are asked and added, and the student learns on from where it is.

How many queries the paper allowed on each data set was not found for all of them; 24,000 are used
for all. The authors' script takes the best epoch on test images and plain momentum; this takes the
last epoch and, as db3kd does, Nesterov's momentum.
"""

from dataclasses import dataclass
from functools import partial

import msgspec
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.errors import InputError
from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.samples import few, scored
from db3kd.paper.task import Scale, Task
from db3kd.student.networks import inference_batch

LOWEST, HIGHEST, WEIGHTS = 0.30, 0.70, 11
PIECE = 100_000  # pairs whose confidence is kept together: half a minute of LeNet-5
TRAINING = Training(
    optimiser="sgd",
    rate=0.01,
    schedule="steps",
    drops=(0.4, 0.7, 0.9),  # after 80, 60 and 40 of 200 epochs
    warmup=0.0,
    epochs=200,
    batch=128,
    weight_decay=5e-4,
    temperature=1.0,
    label_weight=0.0,
)
"""The script's training, with the soft cross-entropy of the teacher's probabilities alone."""


@dataclass(frozen=True)
class Settings:
    """How much is mixed and asked.

    - `images`: how many of the known images are used.
    - `queries`: how many images the teacher is shown in all, these and the mixed ones.
    - `chosen`: how many pairs are asked in a round; the last round asks what is left.
    - `pairs`: how many pairs are candidates, the images beside each other first; None: all.
    - `training`: how the student learns in each round.
    """

    images: int = 2_000
    queries: int = 24_000
    chosen: int = 10_000
    pairs: int | None = None
    training: Training = TRAINING

    @property
    def candidates(self) -> int:
        """How many pairs may be asked."""
        every = self.images * (self.images - 1) // 2
        return every if self.pairs is None else min(self.pairs, every)


_GREY = ("mnist", "fashion_mnist")
_IMAGES = {"mnist": 2_000, "fashion_mnist": 2_000, "cifar10": 2_000, "cifar100": 2_000}
_IMAGES["flowers102"] = 1_000


def settings(data: str, scale: Scale) -> Settings:
    """The settings for a data set; colour images are cropped and flipped while training.

    >>> settings("mnist", "full").candidates, settings("cifar10", "full").training.augment
    (1999000, ('crop', 'flip'))
    """
    images = _IMAGES[data]
    augment = () if data in _GREY else ("crop", "flip")
    change = partial(msgspec.structs.replace, TRAINING, augment=augment)
    if scale == "full":
        return Settings(images, training=change())
    if scale == "smoke":
        return Settings(20, 60, 25, training=change(epochs=15, rate=0.1, batch=16))
    if data in _GREY:
        return Settings(images, chosen=11_000, pairs=200_000, training=change(epochs=50))
    return Settings(images, chosen=11_000, pairs=40_000, training=change(epochs=15))


def bbkd(task: Task, teacher: ScoreTeacher, settings: Settings) -> nn.Module:
    """Teach a student by active mixup, from scores for a few images and mixtures of them.

    Costs `settings.queries` queries; what was asked before a kill is not asked again. Random: which
    images are used, the student's weights and its training, from the task's seed.

    Raises:
        InputError: the task has too few images, or there are too few pairs for the queries.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from db3kd.data import TensorImages
    >>> from db3kd.data.transfer_set import TransferSet
    >>> from db3kd.student.networks import build
    >>> draw, rows = torch.Generator().manual_seed(0), torch.arange(20)
    >>> known = TransferSet(TensorImages(torch.rand(20, 1, 8, 8, generator=draw)), rows, rows, rows)
    >>> small = lambda seed: build("small", (1, 8, 8), 2, width=0.1, seed=seed)
    >>> task = Task(known, 2, small, Training(), 0, Path(tempfile.mkdtemp()))
    >>> teacher = ScoreTeacher(small(1))
    >>> student = bbkd(task, teacher, settings("mnist", "smoke"))
    >>> teacher.asked, student.training
    (60, False)
    """
    _check(settings)
    images = few(task, settings.images).images.read(torch.arange(settings.images))
    samples = scored(images, task.kept("scores-0", partial(_asked, teacher, images))["scores"])
    student = task.student(task.seed_of("student"))
    student = task.taught("student-0", student, samples, settings.training)
    free = torch.ones(settings.candidates, dtype=torch.bool)
    left, number = settings.queries - settings.images, 0
    while left:
        number += 1
        confidence, place = _confidences(task, student, images, free, number)
        pairs = least(confidence, min(left, settings.chosen))
        mixed = mixtures(images, pairs, weights()[place[pairs].long()])
        scores = task.kept(f"scores-{number}", partial(_asked, teacher, mixed))["scores"]
        samples = samples.joined(scored(mixed, scores))
        student = task.taught(f"student-{number}", student, samples, settings.training)
        free[pairs] = False
        left -= len(pairs)
    return student


def _check(settings: Settings) -> None:
    wanted = settings.queries - settings.images
    if not 0 <= wanted <= settings.candidates:
        raise InputError(
            f"{settings.queries:,} queries do not fit {settings.images:,} images and"
            f" {settings.candidates:,} pairs of them; each is asked once"
        )
    if settings.chosen < 1:
        raise InputError(f"chosen must be at least 1, got {settings.chosen}")


def _asked(teacher: ScoreTeacher, images: Tensor) -> dict[str, Tensor]:
    return {"scores": teacher.scores(images)}


def weights() -> Float[Tensor, "weight"]:
    """The shares that the first image of a pair can have.

    >>> weights()[:3]
    tensor([0.3000, 0.3400, 0.3800])
    """
    return torch.linspace(LOWEST, HIGHEST, WEIGHTS)


def partners(
    pairs: Int[Tensor, "pair"], images: int
) -> tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]:
    """Which two images the pairs of these numbers are: all images with those 1 after them, then 2.

    The numbers from 0 to n (n - 1) / 2 give every pair of n images once.

    >>> first, second = partners(torch.arange(6), 4)
    >>> list(zip(first.tolist(), second.tolist()))
    [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)]
    """
    first = pairs % images
    return first, (first + pairs // images + 1) % images


def mixtures(
    images: Float[Tensor, "image channels height width"],
    pairs: Int[Tensor, "pair"],
    share: Float[Tensor, "pair"],
) -> Float[Tensor, "pair channels height width"]:
    """Mix pairs of images; `share` is that of the first of each pair.

    >>> mixtures(torch.eye(2).reshape(2, 1, 1, 2), torch.tensor([0]), torch.tensor([0.25]))
    tensor([[[[0.2500, 0.7500]]]])
    """
    first, second = partners(pairs, len(images))
    return torch.lerp(images[second], images[first], share.reshape(-1, 1, 1, 1))


def least(confidence: Float[Tensor, "pair"], count: int) -> Int[Tensor, "chosen"]:
    """The pairs of which a student is least sure, the least sure first; of equals the earlier.

    >>> least(torch.tensor([0.9, 0.2, 0.5, 0.2]), 3)
    tensor([1, 3, 2])
    """
    return confidence.sort(stable=True).indices[:count]


def least_sure(
    student: nn.Module,
    images: Float[Tensor, "image channels height width"],
    pairs: Int[Tensor, "pair"],
) -> tuple[Float[Tensor, "pair"], UInt8[Tensor, "pair"]]:
    """Of each pair the mixture of which the student is least sure.

    The first is max_k p_k of that mixture, the second its place in `weights`. The student is in
    evaluation mode and on the images' device. Costs no query. Nothing is random.

    >>> network = nn.Flatten()  # shows its images as scores
    >>> confidence, place = least_sure(network, torch.eye(2).reshape(2, 1, 1, 2), torch.arange(1))
    >>> confidence, weights()[place.long()]  # halfway
    (tensor([0.5000]), tensor([0.5000]))
    """
    sure = [
        student(mixtures(images, pairs, share.expand(len(pairs)))).softmax(1).amax(1)
        for share in weights().to(images.device)
    ]
    found = torch.stack(sure).min(0)
    return found.values, found.indices.to(torch.uint8)


def _confidences(
    task: Task, student: nn.Module, images: Tensor, free: Tensor, number: int
) -> tuple[Tensor, Tensor]:
    """The confidence of all candidates, in kept pieces; infinity for those asked already."""
    near = images.to(task.device)

    def piece(first: int) -> dict[str, Tensor]:
        end, found = min(first + PIECE, len(free)), []
        with torch.inference_mode():
            for pairs in torch.split(torch.arange(first, end), inference_batch(images.shape[1:])):
                found.append(least_sure(student, near, pairs.to(task.device)))
                done = int(pairs[-1]) + 1
                task.progress(f"mixing, round {number}", done, len(free), {})
        return {
            "confidence": torch.cat([each[0] for each in found]),
            "place": torch.cat([each[1] for each in found]),
        }

    kept = [
        task.kept(f"confidence-{number}-{first // PIECE}", partial(piece, first))
        for first in range(0, len(free), PIECE)
    ]
    confidence = torch.cat([each["confidence"] for each in kept])
    place = torch.cat([each["place"] for each in kept])
    return confidence.masked_fill(~free, torch.inf), place
