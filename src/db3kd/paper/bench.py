"""One setup at one scale, at hand: its images, its teacher, and the runs that students share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from db3kd.config.settings import Search
from db3kd.data import DataSet, load, subset
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.paper.access import OpenNetwork, ScoreTeacher
from db3kd.paper.setups import Net, Setup, Size
from db3kd.paper.task import Scale, Task
from db3kd.progress import Progress, silent
from db3kd.run import Run
from db3kd.search.robustness import RobustnessMap
from db3kd.seeds import derive_seed
from db3kd.student.batches import resident
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.networks import build
from db3kd.teachers.base import Teacher
from db3kd.teachers.torch_module import torch_module

SEED = 0  # of the images, the teacher and the runs, which all students share


@dataclass(frozen=True)
class Bench:
    """One setup at one scale; everything is made when it is first needed, and kept in `folder`.

    >>> from db3kd.paper.setups import SETUPS
    >>> Bench(SETUPS["mnist"], "smoke", Path("runs")).size.samples
    40
    """

    setup: Setup
    scale: Scale
    folder: Path
    device: str = "cpu"
    progress: Progress = silent

    @property
    def size(self) -> Size:
        """How much of the setup this scale does."""
        return self.setup.sizes[self.scale]

    @cached_property
    def known(self) -> TransferSet:
        """The training images with their true labels, in memory if they fit."""
        data = self._images(self.setup.split, self.size.samples)
        assert data.labels is not None
        rows = torch.arange(len(data))
        return TransferSet(resident(data.images), rows, data.labels, data.labels)

    @cached_property
    def test(self) -> DataSet:
        """The test images, in memory if they fit."""
        data = self._images("test", self.size.tests)
        return DataSet(resident(data.images), data.labels, data.classes)

    def _images(self, split: str, most: int | None) -> DataSet:
        data = load(self.setup.data, split, size=self.size.side)
        if data.labels is None:
            raise InputError(f"the images of {self.setup.data} have no labels")
        rows, names = torch.arange(len(data)), data.classes
        if self.size.classes is not None:
            rows, names = rows[data.labels < self.size.classes], names[: self.size.classes]
        draw = torch.Generator().manual_seed(derive_seed(SEED, split, "images"))
        if most is not None and most < len(rows):
            rows = rows[torch.randperm(len(rows), generator=draw)[:most]].sort().values
        some = subset(data, rows)
        return DataSet(some.images, some.labels, names)

    def check(self) -> None:
        """Refuse a setup whose images are not there.

        Raises:
            InputError: they are not, or have no labels.
        """
        _ = self.known, self.test

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.test.classes)

    def network(self, net: Net, *, seed: int) -> nn.Module:
        """A network that is not trained yet."""
        name, width = net
        shape = self.known.images.shape
        return build(name, shape, self.classes, width * self.size.narrow, seed=seed)

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher's network, trained on all training images of the scale."""
        task = self.task(self.setup.teacher, SEED, "teacher")
        made = self.network(self.setup.teacher, seed=SEED)
        return task.taught("teacher", made, self.known, self.size.lesson)

    @cached_property
    def reached(self) -> float:
        """The teacher's accuracy on the test images, in percent."""
        return self.accuracy(self.teacher)

    def accuracy(self, network: nn.Module) -> float:
        """A network's accuracy on the test images, in percent."""
        assert self.test.labels is not None
        answers = predict(network, self.test.images, device=self.device)
        return 100 * accuracy(answers, self.test.labels)

    def task(self, student: Net, seed: int, *words: str) -> Task:
        """What a system is given to teach a student."""
        return Task(
            self.known,
            self.classes,
            lambda number: self.network(student, seed=number),
            self.size.training,
            seed,
            self.folder.joinpath(*words),
            self.device,
            self.progress,
        )

    @cached_property
    def labels(self) -> Teacher:
        """The teacher behind the door that all of db3kd asks: labels alone."""
        return torch_module(self.teacher, classes=self.classes, device=self.device)

    def scores(self) -> ScoreTeacher:
        """The teacher as far as scores tell, with a counter of its own."""
        return ScoreTeacher(self.teacher, device=self.device)

    def open(self) -> OpenNetwork:
        """The teacher with all that is in it."""
        return OpenNetwork(self.teacher, device=self.device)

    @contextmanager
    def run(self, name: str) -> Iterator[Run]:
        """A run of db3kd, which sees the teacher's labels alone."""
        folder = self.folder / "runs" / name
        with Run(folder, self.labels, seed=SEED, device=self.device, progress=self.progress) as run:
            yield run

    def measured(self, name: str, search: Search) -> tuple[RobustnessMap, Tensor, int]:
        """The distances of all training images, their soft labels, and what they cost in queries.

        Costs as `Run.measure`, once for all students. Random by a fixed seed.
        """
        with self.run(name) as run:
            run.measure(self.known.images, search)
            found = run.distances(search.metric)
            soft = run.transfer_set(self.known.images, search.metric).soft
            assert soft is not None
            return found, soft, run.meter.spent
