"""A task of scikit-learn's 8x8 digits for the systems of the paper, and a teacher of them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.task import Task
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.networks import build
from db3kd.student.training import train


class Killed(Exception):
    """Stands for a kill while a system works."""


@cache
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    known = load_digits()
    images = torch.from_numpy(known.images).float()[:, None] / 16
    return images, torch.from_numpy(known.target).long()


def small(seed: int, width: float = 0.5) -> nn.Module:
    return build("small", (1, 8, 8), 10, width=width, seed=seed)


def known(count: int) -> TransferSet:
    images, labels = digits()
    rows = torch.arange(count)
    return TransferSet(TensorImages(images[:count]), rows, labels[:count], labels[:count])


@cache
def _weights() -> dict[str, Tensor]:
    training = Training(steps=150, rate=0.01, batch=64)
    return train(small(9, 1.0), known(900), training, seed=0, device="cpu").state_dict()


def teacher() -> nn.Module:
    """A teacher of its own for every test, so that none can change that of another."""
    network = small(9, 1.0)
    network.load_state_dict(_weights())
    return network.eval()


def digit_task(folder: Path, *, images: int = 40, killed_at: tuple[str, int] | None = None) -> Task:
    """A task that is killed when a stage reports for the given time."""
    seen = 0

    def progress(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        nonlocal seen
        seen += killed_at is not None and stage.startswith(killed_at[0])
        if killed_at is not None and seen == killed_at[1]:
            raise Killed

    return Task(known(images), 10, small, Training(), 3, folder, progress=progress)


def right(student: nn.Module) -> float:
    """The share of 400 unseen digits that a student knows; chance is 0.1."""
    images, labels = digits()
    return accuracy(predict(student, TensorImages(images[-400:]), device="cpu"), labels[-400:])


def same(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks are the same to the bit."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)
