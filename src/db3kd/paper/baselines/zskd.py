"""ZSKD: images for soft labels that follow how alike classes are (Nayak et al., 2019).

Tables 3 and 4 of the paper. The publication scales the similarities of each class to [0, 1] and
then by beta, and so does this; the release scales them to [0, 1] again after beta = 0.1, which
undoes it. In the release each batch of a class starts from the images of the batch before; here
each image starts from noise of its own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines import impressions as shared
from db3kd.paper.baselines.impressions import RELEASED, Making
from db3kd.paper.task import Scale, Task
from db3kd.student.networks import seeded

LEAST = 1e-4  # added to each concentration, as in the release


@dataclass(frozen=True)
class Settings:
    """`making` is how images are made and learned from, `betas` scale the similarities.

    Every class gets equally many images with each beta.

    >>> Settings().betas
    (1.0, 0.1)
    """

    making: Making = RELEASED
    betas: tuple[float, ...] = (1.0, 0.1)


def settings(data: str, scale: Scale) -> Settings:
    """The settings of a data set at a scale.

    >>> settings("mnist", "full").making.images, settings("cifar10", "full").making.images
    (24000, 40000)
    """
    return Settings(shared.making(data, scale))


def class_similarity(
    weight: Float[Tensor, "classes feature"],
) -> Float[Tensor, "classes classes"]:
    """How alike classes are: the cosine of their weights in the last layer, each row from 0 to 1.

    c_kj = w_k . w_j / (|w_k| |w_j|), and then (c_k - min c_k) / (max c_k - min c_k).

    >>> class_similarity(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))[0]
    tensor([1.0000, 0.5000, 0.0000])
    """
    unit = F.normalize(weight.detach().double().cpu(), dim=1)
    alike = unit @ unit.T
    low, high = alike.amin(1, keepdim=True), alike.amax(1, keepdim=True)
    return ((alike - low) / (high - low).clamp_min(1e-12)).float()


def dirichlet(
    similarity: Float[Tensor, "classes classes"],
    own: Int[Tensor, " row"],
    beta: Float[Tensor, " row"],
    *,
    seed: int,
) -> Float[Tensor, "row classes"]:
    """Draw a soft label for each class of `own`: y ~ Dirichlet(beta c_k + 0.0001).

    Random: the seed alone.

    >>> alike = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> dirichlet(alike, torch.tensor([0, 1]), torch.ones(2), seed=0).argmax(1)
    tensor([0, 1])
    """
    concentration = beta[:, None].double() * similarity[own].double() + LEAST
    with seeded(seed):
        drawn: Tensor = torch.distributions.Dirichlet(concentration).sample()
    return drawn.float()


def zskd(task: Task, teacher: OpenNetwork, settings: Settings) -> nn.Module:
    """A student that learns from images made for Dirichlet soft labels, without any data.

    Costs no query: the network is open. Random: noise, soft labels, copies, the student and its
    training, all by the task's seed. What is made is kept in the task's folder.
    """
    return shared.taught(task, "zskd", _made(task, teacher, settings), settings.making)


def impressions(
    task: Task, teacher: OpenNetwork, settings: Settings
) -> tuple[Float[Tensor, "image *shape"], Int[Tensor, " image"]]:
    """The images that `zskd` makes, in [0, 1], and the class that the teacher gives each.

    They are made if they are not kept yet, as by `zskd`.
    """
    return _made(task, teacher, settings).labelled()


def _made(task: Task, teacher: OpenNetwork, settings: Settings) -> shared.Made:
    similarity, betas = class_similarity(teacher.last.weight), torch.tensor(settings.betas)

    def targets(rows: Tensor, seed: int) -> Tensor:
        own, turn = rows % task.classes, rows // task.classes
        return dirichlet(similarity, own, betas[turn % len(betas)], seed=seed)

    return shared.made(task, "zskd", teacher, settings.making, targets)
