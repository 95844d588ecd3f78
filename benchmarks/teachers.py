"""The teachers that benchmarks ask, trained once, briefly, and kept in the temporary folder.

`trained` gives the networks. `digits` gives the support vector machine on scikit-learn's 8x8
digits.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

import common
from db3kd.config.settings import Training
from db3kd.data import DataSet, in_memory, load, subset
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Damaged, InputError
from db3kd.student.files import load_network, save_network
from db3kd.student.networks import build
from db3kd.student.training import train

FOLDER = Path(tempfile.gettempdir()) / "db3kd-benchmarks"
EARLIER = Training(optimiser="adamw", rate=1e-3, warmup=0.0)
ON_A_GPU = {"alexnet": (50_000, 30)}  # images and epochs; a CPU can teach these only briefly
DIGITS_OF_TEACHER = 600  # images that the support vector machine is fitted on


@dataclass(frozen=True)
class Lesson:
    """A network and what it is trained on; `name` is the benchmark's case.

    `training`: how. The default is that of earlier versions, so that teachers stay what they were.
    """

    name: str
    network: str
    data: str
    train: int  # images
    epochs: int
    device: str = "cpu"
    training: Training = EARLIER

    @property
    def path(self) -> Path:
        """The file of its weights."""
        kind = "" if self.device == "cpu" else f"-{self.device.partition(':')[0]}"
        return FOLDER / f"{self.name}-{self.train}-{self.epochs}{kind}.safetensors"

    def on(self, device: str) -> "Lesson":
        """The lesson on a device; on a GPU a longer one, for which a CPU would be too slow."""
        images, epochs = self.train, self.epochs
        if device != "cpu":
            images, epochs = ON_A_GPU.get(self.network, (images, epochs))
        return replace(self, train=images, epochs=epochs, device=device)


def trained(lesson: Lesson, data: DataSet) -> nn.Module:
    """Train briefly on the first images, or load the weights of an earlier benchmark."""
    net = build(lesson.network, data.images.shape, 10, seed=0)
    if lesson.path.exists():
        try:
            return load_network(lesson.path, net).eval()
        except (InputError, Damaged):
            common.say(f"{lesson.path} does not fit, training again")
    started = time.perf_counter()
    part = subset(data, torch.arange(lesson.train))
    transfer = TransferSet(part.images, torch.arange(lesson.train), part.labels, part.labels)
    training = msgspec.structs.replace(lesson.training, epochs=lesson.epochs)
    lesson.path.parent.mkdir(exist_ok=True)
    halfway = lesson.path.with_suffix(".checkpoint")
    train(net, transfer, training, seed=0, device=lesson.device, checkpoint=halfway)
    common.say(f"{lesson.name}: trained in {time.perf_counter() - started:.0f} s")
    save_network(lesson.path, net.cpu())
    halfway.unlink(missing_ok=True)
    return net.eval()


def training_images(lesson: Lesson, least: int) -> DataSet:
    """The first training images, in memory: as many as the lesson takes, but at least `least`."""
    data = load(lesson.data, f"train[:{max(lesson.train, least)}]")
    return DataSet(in_memory(data.images), data.labels, data.classes)


def digits() -> tuple[Any, Tensor, Tensor]:
    """An RBF support vector machine, and digits with labels that it was not fitted on."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(7))
    images = (torch.from_numpy(bunch.images).float() / 16)[order].unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()[order]
    theirs = slice(DIGITS_OF_TEACHER)
    machine = SVC(kernel="rbf", C=10).fit(images[theirs].flatten(1).numpy(), labels[theirs].numpy())
    return machine, images[DIGITS_OF_TEACHER:], labels[DIGITS_OF_TEACHER:]
