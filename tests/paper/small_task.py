"""A task on scikit-learn's digits, and a teacher for it, made once for all tests of a process."""

from functools import cache
from pathlib import Path

import torch
from msgspec.structs import replace
from torch import nn

from db3kd.config.settings import Training
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.task import Task
from db3kd.progress import Progress, silent
from db3kd.student import accuracy, predict, train
from db3kd.student.networks import seeded

SHORT = Training(steps=60, batch=32, optimiser="adam", rate=0.02)
FEW = Training(steps=4, batch=32, optimiser="adam")
"""For tests in which nothing has to be learned."""
KNOWN = 240  # images that students may learn from


@cache
def digits() -> tuple[TransferSet, TransferSet]:
    """The first 900 digits and the other 897."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).long()
    first, other = (
        TransferSet(TensorImages(pixels[at]), torch.arange(1797)[at], labels[at], labels[at])
        for at in (slice(0, 900), slice(900, 1797))
    )
    return first, other


def student(seed: int) -> nn.Module:
    """A network that learns digits in a few steps."""
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@cache
def teacher() -> nn.Module:
    return train(student(7), digits()[0], replace(SHORT, steps=100), seed=7, device="cpu")


def task(
    folder: Path,
    training: Training = SHORT,
    *,
    known: int = KNOWN,
    progress: Progress = silent,
    seed: int = 1,
) -> Task:
    samples = digits()[0].select(torch.arange(known))
    return Task(samples, 10, student, training, seed, folder, progress=progress)


def score(network: nn.Module) -> float:
    test = digits()[1]
    return accuracy(predict(network, test.images, device="cpu"), test.labels)


def identical(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(Exception):
    """What stops a system in a test."""


def killed_at(stage: str, done: int) -> Progress:
    """Progress that stops the work once so much of a stage is done."""

    def progress(name: str, so_far: int, total: int, figures: object, /) -> None:
        if name == stage and so_far >= done:
            raise Killed

    return progress
