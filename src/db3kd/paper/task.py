"""What every system of the paper's tables is given, and where it keeps what takes long to make."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.data.transfer_set import TransferSet
from db3kd.progress import Progress, silent
from db3kd.seeds import derive_seed
from db3kd.student.files import load_network, read_tensors, save_network, write_tensors
from db3kd.student.training import train

Scale = Literal["smoke", "cpu", "full"]
"""How much is done: to prove the code within minutes, in some nights on two cores, as published."""


@dataclass(frozen=True)
class Task:
    """A student to be taught by one of the systems, and how.

    - `known`: the training images that the system may use, with their true labels as `labels` and
      no soft labels. Systems without data use its images' shape alone.
    - `classes`: how many there are.
    - `student(seed)`: makes the student's network, not trained yet.
    - `training`: how students are trained where the system's own paper does not say otherwise.
    - `seed`: of all that is random.
    - `folder`: where the system keeps what takes long to make, so that it can be stopped.

    >>> import tempfile
    >>> from db3kd.data import TensorImages
    >>> zero = torch.zeros(1, dtype=torch.long)
    >>> known = TransferSet(TensorImages(torch.zeros(1, 1, 4, 4)), zero, zero, zero)
    >>> task = Task(known, 2, lambda seed: nn.Flatten(), Training(), 0, Path(tempfile.mkdtemp()))
    >>> [float(task.kept("sum", lambda: {"sum": torch.ones(1)})["sum"]) for _ in range(2)]
    [1.0, 1.0]
    """

    known: TransferSet
    classes: int
    student: Callable[[int], nn.Module]
    training: Training
    seed: int
    folder: Path
    device: str = "cpu"
    progress: Progress = silent

    def seed_of(self, *words: str | int) -> int:
        """A seed for one of the things that are random."""
        return derive_seed(self.seed, *words)

    def draw(self, *words: str | int) -> torch.Generator:
        """A generator for one of the things that are random, on the CPU."""
        return torch.Generator().manual_seed(self.seed_of(*words))

    def kept(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `make` made the first time, read from a file after that; costs what it costs."""
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(
                file, {key: value.cpu().contiguous() for key, value in make().items()}, {}
            )
        return read_tensors(file)[0]

    def taught(
        self,
        name: str,
        network: nn.Module,
        samples: TransferSet,
        training: Training | None = None,
    ) -> nn.Module:
        """Train a network in place by the trainer of db3kd; what was begun or done is kept.

        It is in evaluation mode, on the task's device. Costs no query. Random: as `train`.
        """
        file, checkpoint = (self.folder / f"{name}.{end}" for end in ("safetensors", "checkpoint"))
        if file.exists():
            return load_network(file, network).to(self.device).eval()
        self.folder.mkdir(parents=True, exist_ok=True)
        train(
            network,
            samples,
            training or self.training,
            seed=self.seed_of(name),
            device=self.device,
            progress=self.progress,
            checkpoint=checkpoint,
        )
        save_network(file, network)
        checkpoint.unlink(missing_ok=True)
        return network
