"""DAFL: a generator learns beside the student, both from the open teacher (Chen et al., 2019).

Tables 3 and 4 of the paper. The generator is that of db3kd's rivals: it has half as many channels
in its second and later stages as the published one, and ends in a sigmoid instead of tanh and a
normalisation without weights, since images here are in [0, 1]. Features are what the teacher's
last layer gets; for LeNet-5 the release takes those of the layer before. Fashion-MNIST and
Flowers-102 are not in the publication, and have the settings of MNIST and of CIFAR-100.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from msgspec.structs import replace as changed
from torch import Tensor, nn
from torch.nn import functional as F

from db3kd.config.settings import Training
from db3kd.errors import InputError
from db3kd.paper.access import OpenNetwork
from db3kd.paper.task import Scale, Task
from db3kd.student.checkpoints import resumed, save_checkpoint
from db3kd.student.files import load_network, save_network
from db3kd.student.loss import distillation_loss
from db3kd.student.networks import inference_batch
from db3kd.student.optimisers import Schedule, optimisers_of
from db3kd.student.soft_labels import temper
from db3kd.synthesis.rivals.generator import ImageGenerator, imbalance, learning, seeded

CHECKPOINT_SECONDS = 60.0
REPORT_SECONDS = 1.0

MNIST = Training(
    optimiser="adam",
    rate=2e-3,
    schedule="constant",
    steps=200 * 120,
    batch=512,
    temperature=1.0,
    label_weight=0.0,
)
"""How the publication's student learns on MNIST; on CIFAR it differs by this."""
CIFAR = changed(
    MNIST,
    optimiser="sgd",
    rate=0.1,
    schedule="steps",
    drops=(0.4, 0.8),
    steps=2_000 * 120,
    batch=1024,
)


@dataclass(frozen=True)
class Settings:
    """What is drawn, and how both networks learn; the defaults are the publication's for MNIST.

    - `training`: of the student, with its `steps`. The generator makes as many, and each batch is
      new. Augmentation, averages and mixed precision are not used.
    - `generator_rate`: Adam's for the generator.
    - `latent`, `widest`: the generator's, see `ImageGenerator`.
    - `one_hot`, `balance`, `activation`: the weights of the generator's three losses.
    - `images`: how many images `impressions` returns.

    >>> Settings().training.steps
    24000
    """

    training: Training = MNIST
    generator_rate: float = 0.2
    latent: int = 100
    widest: int = 128
    one_hot: float = 1.0
    balance: float = 5.0
    activation: float = 0.1
    images: int = 10_000


FULL = {
    "mnist": Settings(),
    "fashion_mnist": Settings(),
    "cifar10": Settings(CIFAR, 0.02, latent=1000, one_hot=0.05, balance=5.0, activation=0.01),
    "cifar100": Settings(CIFAR, 0.02, latent=1000, one_hot=0.5, balance=20.0, activation=0.1),
}


def settings(data: str, scale: Scale) -> Settings:
    """The settings of a data set at a scale.

    >>> settings("cifar10", "full").training.batch, settings("mnist", "smoke").training.batch
    (1024, 16)
    """
    full = FULL.get(data, FULL["cifar100"])
    if scale == "full":
        return full
    if scale == "smoke":
        training = changed(full.training, steps=20, batch=16)
        return replace(full, training=training, latent=16, widest=12, images=40)
    if data in ("mnist", "fashion_mnist"):
        training = changed(full.training, steps=5_000, batch=128)
    else:
        training = changed(full.training, steps=2_500, batch=64, rate=0.05)
    return replace(full, training=training, latent=100, widest=48)


def generator_loss(
    features: Float[Tensor, "row feature"], scores: Float[Tensor, "row classes"], wanted: Settings
) -> Float[Tensor, ""]:
    """The loss of the generator's images: likely classes, equally many of each, strong features.

    L = oh CE(y, argmax y) + ie sum_k p_k log10 p_k - a mean |f|, where p is the batch's mean
    probability. The decimal logarithm is that of the release, for which the weights were chosen.

    >>> sure, alike = 50 * torch.eye(10), torch.zeros(10, 10)
    >>> wanted, none = Settings(), torch.zeros(10, 3)
    >>> round(float(generator_loss(none, sure, wanted)), 3)
    -5.0
    >>> float(generator_loss(none, sure, wanted)) < float(generator_loss(none, alike, wanted))
    True
    """
    certain = F.cross_entropy(scores, scores.argmax(1))
    even = imbalance(scores.softmax(1)) / math.log(10)
    strong = features.abs().mean()
    return wanted.one_hot * certain + wanted.balance * even - wanted.activation * strong


def dafl(task: Task, teacher: OpenNetwork, settings: Settings) -> nn.Module:
    """A student that learns beside a generator, without any data, from the teacher's scores.

    Each step draws new latents. The generator makes a step on `generator_loss`, and the student one
    on KL between its scores and the teacher's for the same images. Costs no query: the network is
    open. Random: both networks' weights, the latents and dropout of each step, all by the task's
    seed. A checkpoint is written about once a minute, from which a stopped training continues.

    Raises:
        InputError: `settings.training` does not say how many steps.
        Damaged: the checkpoint is of other settings, or cannot be read.
    """
    return _learned(task, teacher, settings)["student"]


def impressions(
    task: Task, teacher: OpenNetwork, settings: Settings
) -> tuple[Float[Tensor, "image *shape"], Int[Tensor, " image"]]:
    """Images of the generator after the last step, in [0, 1], and the teacher's class of each.

    The generator is trained if it is not yet, as by `dafl`. Random: the latents, by the task's
    seed.
    """
    generator, draw = _learned(task, teacher, settings)["generator"], task.draw("dafl images")
    latents = torch.randn(settings.images, settings.latent, generator=draw)
    images, labels = [], []
    with torch.no_grad():
        for part in torch.split(latents, inference_batch(task.known.images.shape)):
            made = generator(part.to(task.device))
            images.append(made.cpu())
            labels.append(teacher.features_and_scores(made)[1].argmax(1).cpu())
    return torch.cat(images), torch.cat(labels)


def _learned(task: Task, teacher: OpenNetwork, settings: Settings) -> nn.ModuleDict:
    """The generator and the student after the last step, from their file where they are done."""
    shape = task.known.images.shape
    both = nn.ModuleDict(
        {
            "generator": seeded(
                lambda: ImageGenerator(shape, latent=settings.latent, widest=settings.widest),
                task.seed_of("dafl", "generator"),
            ),
            "student": task.student(task.seed_of("dafl", "student")),
        }
    )
    file = task.folder / "dafl.safetensors"
    if file.exists():
        load_network(file, both)
    else:
        task.folder.mkdir(parents=True, exist_ok=True)
        checkpoint = task.folder / "dafl.checkpoint"
        _Loop(both.to(task.device), task, teacher, settings).run(checkpoint)
        save_network(file, both)
        checkpoint.unlink(missing_ok=True)
    return both.to(task.device).eval()


class _Loop:
    """What changes in the steps of the two networks."""

    def __init__(
        self, both: nn.ModuleDict, task: Task, teacher: OpenNetwork, wanted: Settings
    ) -> None:
        self.both, self.task, self.teacher, self.wanted = both, task, teacher, wanted
        paint = Training(optimiser="adam", rate=wanted.generator_rate)
        pupils = optimisers_of(both["student"], wanted.training)
        self.optimisers = [*optimisers_of(both["generator"], paint), *pupils]
        if wanted.training.steps is None:
            raise InputError("DAFL has no images to count epochs of; give training.steps")
        self.steps = wanted.training.steps
        self.schedule = Schedule(pupils, wanted.training, steps=self.steps)
        self.identity = {"settings": repr(wanted), "seed": str(task.seed)}

    def run(self, checkpoint: Path) -> None:
        """Make all steps that are left."""
        first = 0
        if checkpoint.exists():
            first = resumed(checkpoint, self.both, self.optimisers, {}, self.identity)
        saved = told = time.monotonic()
        self.both.train()
        for step in range(first, self.steps):
            losses = self._step(step)
            now = time.monotonic()
            if now - saved >= CHECKPOINT_SECONDS:
                saved = now
                save_checkpoint(checkpoint, self.both, self.optimisers, {}, self.identity, step + 1)
            if now - told >= REPORT_SECONDS:
                told = now
                figures = {name: loss.item() for name, loss in losses.items()}
                self.task.progress("DAFL", step + 1, self.steps, figures)

    def _step(self, step: int) -> dict[str, Tensor]:
        """One step of both; latents and dropout are drawn for it alone, so it can be the first."""
        self.schedule.set(step)
        training, wanted = self.wanted.training, self.wanted
        with learning(self.task.device, self.task.seed_of("dafl", step)) as draw:
            latents = torch.randn(training.batch, wanted.latent, generator=draw)
            images = self.both["generator"](latents.to(self.task.device))
            features, scores = self.teacher.features_and_scores(images)
            painting = generator_loss(features, scores, wanted)
            scores = scores.detach()
            pupil = distillation_loss(
                self.both["student"](images.detach()),
                scores.argmax(1),
                temper(scores, training.temperature),
                temperature=training.temperature,
                weight=training.weight,
                label_weight=training.label_weight,
            )
            for weight in self.both.parameters():
                weight.grad = None
            torch.autograd.backward([painting, pupil])
            for optimiser in self.optimisers:
                optimiser.step()
        return {"loss": pupil.detach(), "generator": painting.detach()}
