"""DFKD: images for soft labels from a normal distribution of features (Wang, AAAI 2021).

Tables 3 and 4 of the paper. The settings were not found, and descriptions differ. This draws what
the last layer gets (the publication's abstract has "the intermediate feature space"), where two
features go together as their weights in the last layer do, and makes scores of that by the last
layer. Everything else is as for ZSKD.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines import impressions as shared
from db3kd.paper.baselines.impressions import RELEASED, Making
from db3kd.paper.task import Scale, Task


@dataclass(frozen=True)
class Settings:
    """`making` is how images are made and learned from, `spread` the deviation of a feature.

    >>> Settings().spread
    1.0
    """

    making: Making = RELEASED
    spread: float = 1.0


def settings(data: str, scale: Scale) -> Settings:
    """The settings of a data set at a scale: as many images and steps as for ZSKD.

    >>> settings("mnist", "full").making.images
    24000
    """
    return Settings(shared.making(data, scale))


def drawn_features(
    weight: Float[Tensor, "classes feature"], count: int, spread: float, draw: Generator
) -> Float[Tensor, "row feature"]:
    """Draw features from N(0, s^2 R), R_ij = v_i . v_j / (|v_i| |v_j|) of the weights' columns v.

    R = V^T V has no higher rank than there are classes, and V^T z with z ~ N(0, 1) has exactly this
    covariance. Random: `draw`, a generator on the CPU.

    >>> weight = torch.tensor([[1.0, 2.0], [0.0, 0.0]])  # two features that always go together
    >>> first, second = drawn_features(weight, 5, 1.0, torch.Generator().manual_seed(0)).T
    >>> torch.equal(first, second)
    True
    """
    columns = F.normalize(weight.detach().cpu(), dim=0)
    return spread * torch.randn(count, len(columns), generator=draw) @ columns


def dfkd(task: Task, teacher: OpenNetwork, settings: Settings) -> nn.Module:
    """A student that learns from images made for soft labels of drawn features, without any data.

    Costs no query: the network is open. Random: noise, features, copies, the student and its
    training, all by the task's seed. What is made is kept in the task's folder.
    """
    making = settings.making

    def targets(rows: Tensor, seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        features = drawn_features(teacher.last.weight, len(rows), settings.spread, draw)
        with torch.no_grad():
            scores: Tensor = teacher.last(features.to(teacher.device))
        return (scores / making.temperature).softmax(1)

    return shared.taught(task, "dfkd", shared.made(task, "dfkd", teacher, making, targets), making)
