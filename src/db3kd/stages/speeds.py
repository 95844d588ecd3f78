"""How long a step of training, a look at an image and the like take here, measured in seconds.

A throw-away copy of each network is trained for a few steps on random images, by the trainer that a
run uses, in batches as large as there. Nothing of a run is read or changed.
"""

import time
from collections.abc import Callable

import msgspec
import torch
from torch import nn

from db3kd.config.settings import AugmentationName, Grow, Training
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.search.joint.gradients import nearest
from db3kd.search.joint.surrogate import BATCH, Ensemble, Known, teach
from db3kd.stages.ahead import Learner, Source, Task
from db3kd.student.fast import fast_form
from db3kd.student.networks import Shape, build, inference_batch
from db3kd.student.training import train
from db3kd.synthesis.augmentation import grow
from db3kd.synthesis.latent import latents
from db3kd.synthesis.shapes import drawn, numbers, shapes

MOST, PART = 0.5, 0.03  # seconds of one measurement, and its share of what is measured, at most
FEWEST, CLEARLY = 4, 3.0  # units done at once; how much longer than one alone they must take
DDN, SHOWN, MADE = 4, 64, 128  # steps and images of a measured gradient; images made at once


class Speeds:
    """Seconds for what tasks are made of, each measured when it is first needed.

    `student` makes the network of the run's students, which `training` trains. A measurement takes
    about half a second, or less where less than that is forecast. Costs no query; the caller's
    random numbers stay as they are.

    >>> speeds = Speeds((1, 8, 8), 10, "cpu", lambda: build("small", (1, 8, 8), 10, seed=0),
    ...                 Training(batch=32))
    >>> task = Task("ce-0", "students", answers=1, steps=100, learner=Learner(batch=32))
    >>> 0 < speeds.of(task, 0.0) < speeds.of(task, 1.0) < 60
    True
    """

    def __init__(
        self,
        shape: Shape,
        classes: int,
        device: str,
        student: Callable[[], nn.Module],
        training: Training,
        *,
        augmentations: tuple[AugmentationName, ...] = Grow().augmentations,
    ) -> None:
        self.shape, self.classes, self.device = shape, classes, device
        self.student, self.training = student, training
        self.augmentations = augmentations
        self._known: dict[tuple[str, object], float] = {}

    def of(self, task: Task, answer: float) -> float:
        """How many seconds a task takes, where an answer of the teacher takes `answer`."""
        seconds = task.answers * answer
        if task.drawn:
            seconds += task.drawn * self._unit("drawn", task.source, task.drawn)
        for kind in ("steps", "looked", "slopes"):
            count = getattr(task, kind)
            if count and task.learner is not None:
                seconds += count * self._unit(kind, task.learner, count)
        return seconds

    def _unit(self, kind: str, what: Learner | Source, count: int) -> float:
        """Seconds of one unit of a kind."""
        if (kind, what) not in self._known:
            devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
            with torch.random.fork_rng(devices=devices):
                if isinstance(what, Learner):
                    work, units = self._works(kind, what)
                else:
                    work, units = self._making(what)
                self._known[kind, what] = _timed(work, count / units) / units
        return self._known[kind, what]

    def _works(self, kind: str, learner: Learner) -> tuple[Callable[[int], None], int]:
        """Work to measure, done as often as it is told to, and how many units it has."""
        if kind == "steps":
            return (self._student(learner) if learner.own_loop else self._surrogate(learner)), 1
        network = self._network(learner).to(self.device).eval()
        if kind == "looked":
            some = self._images(inference_batch(self.shape)).to(self.device)

            def look(times: int) -> None:
                with torch.no_grad():
                    for _ in range(times):
                        network(some)[0, 0].item()

            return look, len(some)
        some = self._images(min(SHOWN, inference_batch(self.shape))).to(self.device)
        target = self._labels(len(some)).to(self.device)

        def slope(times: int) -> None:
            for _ in range(times):
                nearest([network], some, target, steps=DDN, bounds=(0.0, 1.0))[0].sum().item()

        return slope, DDN * len(some)

    def _student(self, learner: Learner) -> Callable[[int], None]:
        """Training as a student's, of the student's network or another one."""
        network, images = self._network(learner), self._images(2 * learner.batch)
        labels = self._labels(len(images))
        known = TransferSet(TensorImages(images), torch.arange(len(images)), labels, labels)
        training = self.training if not learner.network else Training(batch=learner.batch)

        def work(steps: int) -> None:
            wanted = msgspec.structs.replace(training, steps=steps, batch=learner.batch, devices=1)
            train(network, known, wanted, seed=0, device=self.device)

        return work

    def _surrogate(self, learner: Learner) -> Callable[[int], None]:
        """Training as a surrogate's; larger batches hold probes as well."""
        ensemble = Ensemble(learner.network, self.shape, self.classes, members=1, seed=0)
        images, probes = self._images(BATCH), 2 * BATCH if learner.batch > BATCH else 0
        known = Known(
            TensorImages(images),
            self._labels(len(images)),
            self._images(probes).half(),
            self._labels(probes),
        )

        def work(steps: int) -> None:
            teach(ensemble, known, steps=steps, seed=0, device=self.device)

        return work

    def _network(self, learner: Learner) -> nn.Module:
        if not learner.network:
            return self.student()
        made = build(learner.network, self.shape, self.classes, learner.width, seed=0)
        return fast_form(made, self.device)

    def _making(self, source: Source) -> tuple[Callable[[int], None], int]:
        draw, block = torch.Generator().manual_seed(0), self._images(MADE)
        rows, shape = torch.arange(MADE), self.shape
        ends = torch.stack([torch.full((MADE,), -1), rows], 1)

        def work(times: int) -> None:
            for _ in range(times):
                if source == "own":
                    grow(block, rows, self.augmentations, bounds=(0.0, 1.0), draw=draw)
                elif source == "shapes":
                    shapes(MADE, shape, draw)
                elif source == "latents":
                    drawn(latents(ends, ends[:0], numbers(shape)), shape)
                else:
                    torch.randn(MADE, *shape, generator=draw)

        return work, MADE

    def _images(self, count: int) -> torch.Tensor:
        return torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(0))

    def _labels(self, count: int) -> torch.Tensor:
        return torch.arange(count) % self.classes


def _timed(work: Callable[[int], None], units: float) -> float:
    """Seconds of one unit of work, without what each call takes beyond its units.

    Ever more units are done at once, until they clearly take longer than one does alone. The least
    of several times counts, since other processes only ever add to them.
    """
    once = min(_seconds(work, 1) for _ in range(3))
    most = min(MOST, PART * once * units)
    if once > most / FEWEST:
        return once
    count, spent = FEWEST, 0.0
    while True:
        times = [_seconds(work, count) for _ in range(2)]
        took, spent = min(times), spent + sum(times)
        if took >= CLEARLY * once or spent >= most:
            break
        count *= 2
    return (took - once) / (count - 1) if took > once else took / count


def _seconds(work: Callable[[int], None], count: int) -> float:
    started = time.perf_counter()
    work(count)
    return time.perf_counter() - started
