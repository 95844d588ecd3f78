"""Meta-KD: images that give the activations which a teacher's release says it once had (Table 3).

Lopes et al., "Data-free knowledge distillation for deep neural networks" (2017), with the metadata
of the top layer: the mean and the covariance of the teacher's scores before softmax, for each
class, over the data it learned from. A target is drawn from them, and an image is made for it,

    t = relu(mean_c + root_c z),   z ~ N(0, I),   min_x |relu(scores(x)) - t|^2,

from Gaussian noise by Adam. Some images never reach their target, since a score below zero has no
gradient through ReLU. The student learns the teacher's scores for all of them, whatever they are.
The paper of the table does not say which of the authors' kinds of metadata its figure is of; images
are kept within [0, 1] here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from db3kd.config.settings import Training
from db3kd.errors import InputError
from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines.samples import open_scores, scored
from db3kd.paper.task import Scale, Task

MEAN, DEVIATION = 0.15, 0.1  # of the noise that an image begins as
PIECE = 512  # images that are made and kept together: 2 minutes of LeNet-5
EVERY = 10  # steps between two reports
TRAINING = Training(
    optimiser="adam",
    rate=1e-3,
    schedule="constant",
    epochs=10,
    temperature=8.0,
    weight=64.0,
    label_weight=0.0,
)
"""The authors' optimiser, epochs and temperature; the rate is Adam's usual one."""


@dataclass(frozen=True)
class Settings:
    """How many images are made, and how.

    - `images`: how many of each class.
    - `steps`: how many steps of Adam each gets.
    - `rate`: Adam's.
    - `training`: how the student learns from them.
    """

    images: int = 6_400
    steps: int = 1_000
    rate: float = 0.07
    training: Training = TRAINING


_GREY = ("mnist", "fashion_mnist")
_PER_CLASS = {"mnist": 6_400, "fashion_mnist": 6_400, "cifar10": 6_400, "cifar100": 640}
_PER_CLASS["flowers102"] = 640


def settings(data: str, scale: Scale) -> Settings:
    """The settings for a data set; the authors' own are those of MNIST.

    >>> settings("mnist", "full") == Settings(), settings("mnist", "cpu").images
    (True, 640)
    """
    images = _PER_CLASS[data]
    change = partial(msgspec.structs.replace, TRAINING)
    if scale == "full":
        return Settings(images)
    if scale == "cpu":
        shown, steps = (images // 10, 300) if data in _GREY else (images // 50, 200)
        return Settings(shown, steps, training=change(epochs=30))
    return Settings(10, steps=40, training=change(epochs=20, batch=16, rate=5e-3))


@dataclass(frozen=True)
class Metadata:
    """What a release of the teacher says of its scores, for each class.

    `mean`; and `root`, a matrix whose product with its transpose is the covariance.
    """

    mean: Float[Tensor, "class score"]
    root: Float[Tensor, "class score score"]

    def targets(
        self, labels: Int[Tensor, "row"], *, generator: torch.Generator
    ) -> Float[Tensor, "row score"]:
        """Draw what images of these classes shall give after ReLU. Random: `generator`.

        >>> draw = torch.Generator().manual_seed(0)
        >>> known = Metadata(torch.tensor([[2.0, -1.0]]), torch.zeros(1, 2, 2))
        >>> known.targets(torch.tensor([0]), generator=draw)
        tensor([[2., 0.]])
        """
        normal = torch.randn(len(labels), self.mean.shape[1], 1, generator=generator)
        return F.relu(self.mean[labels] + (self.root[labels] @ normal).squeeze(2))


def metadata(
    scores: Float[Tensor, "sample score"], labels: Int[Tensor, "sample"], classes: int
) -> Metadata:
    """Mean and covariance of scores, class by class.

    Costs no query. Nothing is random.

    Raises:
        InputError: a class has no sample.

    >>> found = metadata(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]), 1)
    >>> found.mean, (found.root @ found.root.mT).round(decimals=4)
    (tensor([[2., 0.]]), tensor([[[2., 0.], [0., 0.]]]))
    """
    means, roots = [], []
    for label in range(classes):
        own = scores[labels == label].double()
        if not len(own):
            raise InputError(f"class {label} has no image whose scores could be recorded")
        mean = own.mean(0)
        away = own - mean
        values, vectors = torch.linalg.eigh(away.T @ away / max(1, len(own) - 1))
        means.append(mean)
        roots.append(vectors * values.clamp_min(0).sqrt())
    return Metadata(torch.stack(means).float(), torch.stack(roots).float())


def meta_kd(task: Task, teacher: OpenNetwork, settings: Settings) -> nn.Module:
    """Teach a student by images made to fit the metadata of its teacher.

    The known images serve for the metadata alone. Costs no query: the teacher is open. Random: the
    targets, the noise, the student's weights and its training, from the task's seed.

    Raises:
        InputError: a class has no known image.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from db3kd.data import TensorImages
    >>> from db3kd.data.transfer_set import TransferSet
    >>> from db3kd.student.networks import build
    >>> draw, rows = torch.Generator().manual_seed(0), torch.arange(40)
    >>> labels = rows % 2
    >>> images = TensorImages(torch.rand(40, 1, 8, 8, generator=draw))
    >>> small = lambda seed: build("small", (1, 8, 8), 2, width=0.1, seed=seed)
    >>> task = Task(TransferSet(images, rows, labels, labels), 2, small, Training(), 0,
    ...             Path(tempfile.mkdtemp()))
    >>> meta_kd(task, OpenNetwork(small(1)), settings("mnist", "smoke")).training
    False
    """
    known = Metadata(**task.kept("metadata", partial(_recorded, task, teacher)))
    total = settings.images * task.classes
    made = [
        task.kept(
            f"images-{first // PIECE}", partial(_piece, task, teacher, known, settings, first)
        )
        for first in range(0, total, PIECE)
    ]
    images = torch.cat([each["images"] for each in made])
    student = task.student(task.seed_of("student"))
    samples = scored(images, open_scores(teacher, images))
    return task.taught("student", student, samples, settings.training)


def _recorded(task: Task, teacher: OpenNetwork) -> dict[str, Tensor]:
    images, rows = task.known.images, torch.arange(len(task.known))
    scores = torch.cat(
        [open_scores(teacher, images.read(part)) for part in torch.split(rows, PIECE)]
    )
    found = metadata(scores, task.known.labels, task.classes)
    return {"mean": found.mean, "root": found.root}


def _piece(
    task: Task, teacher: OpenNetwork, known: Metadata, settings: Settings, first: int
) -> dict[str, Tensor]:
    total = settings.images * task.classes
    labels = torch.arange(first, min(first + PIECE, total)) % task.classes
    draw = task.draw("images", first // PIECE)
    targets = known.targets(labels, generator=draw)
    noise = torch.randn(len(labels), *task.known.images.shape, generator=draw)

    def report(step: int, loss: float) -> None:
        done = first + len(labels) * step // settings.steps
        task.progress("images from metadata", done, total, {"loss": loss})

    return {"images": fitted(teacher, MEAN + DEVIATION * noise, targets, settings, report)}


def fitted(
    teacher: OpenNetwork,
    images: Float[Tensor, "row channels height width"],
    targets: Float[Tensor, "row score"],
    settings: Settings,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Float[Tensor, "row channels height width"]:
    """Change images by Adam until the teacher's scores, after ReLU, are the targets.

    The loss of an image is the mean of its squared errors; no image changes another one. After each
    step the images are cut to [0, 1]. `report` hears from time to time of the step and the mean
    loss. Returns them on the CPU. Costs no query. Nothing is random.

    >>> teacher = OpenNetwork(nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False)))
    >>> with torch.no_grad():
    ...     _ = teacher.last.weight.fill_(1.0)
    >>> image, target = torch.full((1, 1, 1, 1), 0.2), torch.tensor([[0.7]])
    >>> fitted(teacher, image, target, Settings(steps=200)).round(decimals=2)
    tensor([[[[0.7000]]]])
    """
    images = images.to(teacher.device, copy=True).clamp_(0, 1).requires_grad_()
    targets = targets.to(teacher.device)
    optimiser = torch.optim.Adam([images], lr=settings.rate)
    for step in range(1, settings.steps + 1):
        _, scores = teacher.features_and_scores(images)
        losses = (F.relu(scores) - targets).square().mean(1)
        (images.grad,) = torch.autograd.grad(losses.sum(), images)
        optimiser.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        if step % EVERY == 0 or step == settings.steps:
            report(step, float(losses.detach().mean()))
    return images.detach().cpu()
