"""A network trained by several devices at once, each with its share of every batch.

Lightning Fabric gives each process its device and averages the gradients (PyTorch's
DistributedDataParallel). `torchrun` starts the processes; one that it has started already takes
part itself. The first process writes checkpoints and says how far it is; the network comes back in
a file.
"""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError, InputError, RunError, described, error_of, hint, plain
from db3kd.progress import Progress, silent
from db3kd.student.files import load_network, save_network
from db3kd.student.training import taught

MARK = "\x1edb3kd "  # begins a line that is for the process that waits
TRAINED = "trained.safetensors"
STOP_SECONDS = 10.0  # a process that is asked to end may take


@dataclass(frozen=True)
class Task:
    """A training, as it goes to other processes; arguments are those of `train`."""

    network: nn.Module
    transfer: TransferSet
    training: Training
    seed: int
    device: str
    checkpoint: Path | None
    identity: Mapping[str, str] | None


class FabricRanks:
    """The processes that a Fabric connects."""

    def __init__(self, fabric: Any) -> None:
        self._fabric, self.rank = fabric, int(fabric.global_rank)
        self._count = int(fabric.world_size)

    def joined(self, module: nn.Module) -> nn.Module:
        """The module in DistributedDataParallel, if there are several ranks."""
        return self._fabric.setup_module(module)  # type: ignore[no-any-return]

    def part(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """Every n-th image; of a batch with fewer than two for each rank, all images."""
        count = self._count
        if len(rows) < 2 * count:
            return images, rows, 1.0
        mine = rows[self.rank :: count]
        return images[self.rank :: count], mine, len(mine) * count / len(rows)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients, and average them over the ranks."""
        self._fabric.backward(loss)

    def total(self, value: Tensor) -> Tensor:
        """The sum over the ranks."""
        return self._fabric.all_reduce(value, reduce_op="sum")  # type: ignore[no-any-return]

    def words(self) -> tuple[int, ...]:
        """The number of the rank, but of the first."""
        return (self.rank,) if self.rank else ()


def check_together(devices: int, device: str | torch.device) -> None:
    """Refuse to train with several devices where that cannot be, before anything is asked.

    Raises:
        InputError: Lightning Fabric is missing, or there are fewer devices.

    >>> check_together(2, "mps")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: training.devices = 2 needs the device "cpu" or "cuda", got 'mps'
    """
    place = torch.device(device)
    if str(place) not in ("cpu", "cuda"):
        raise InputError(
            f'training.devices = {devices} needs the device "cpu" or "cuda", got {str(device)!r}'
        )
    if find_spec("lightning_fabric") is None:
        raise InputError(f"training with {devices} devices needs the extra: {hint('fabric')}")
    if place.type == "cuda" and torch.cuda.device_count() < devices and not _started():
        raise InputError(
            f"training.devices is {devices}, and this machine has {torch.cuda.device_count()} GPUs"
        )


def check_started_once() -> None:
    """Refuse a run that `torchrun` has started several times: they would exclude each other.

    Raises:
        InputError: it has.
    """
    count = os.environ.get("WORLD_SIZE", "1") if _started() else "1"
    if count != "1":
        raise InputError(
            f"torchrun has started this run {count} times; start it once, without torchrun, and set"
            f" student.training.devices = {plain(count, 8)}"
        )


def trained_together(
    task: Task, progress: Progress, on_epoch: Callable[[int, nn.Module], None] | None
) -> nn.Module:
    """Train with `task.training.devices` devices; see `db3kd.student.train`.

    Raises:
        InputError: see `check_together`; or the network cannot be handed to other processes.
        RunError: a process has ended.
        Db3kdError: as of one device.
    """
    check_together(task.training.devices, task.device)
    if _started():
        return _taken_part(task, progress, on_epoch)
    if on_epoch is not None:
        raise InputError("on_epoch needs one device; leave training.devices out")
    network = task.network
    with TemporaryDirectory(prefix="db3kd-") as name:
        folder = Path(name)
        _hand_over(folder, replace(task, network=network.cpu()))
        _launch(folder, task.training.devices, progress)
        load_network(folder / TRAINED, network)
    return network.to(torch.device(task.device)).eval()


def fabric_of(device: str, devices: int) -> FabricRanks:
    """Connect this process with the others that `torchrun` has started, or with none.

    Raises:
        InputError: there is another number of processes.
    """
    from lightning_fabric import Fabric

    count = int(os.environ.get("WORLD_SIZE", "1")) if _started() else 1
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _started() else 1
    if count != devices:
        raise InputError(f"training.devices is {devices}, but torchrun has started {count}")
    # With unused parameters looked for, gradients are added up in the same order in every step, so
    # a training that is continued gives the same bits.
    strategy = "ddp_find_unused_parameters_true" if count > 1 else "auto"
    fabric = Fabric(
        accelerator=torch.device(device).type,
        devices=local,
        num_nodes=count // local,
        strategy=strategy,
    )
    fabric.launch()
    return FabricRanks(fabric)


def _started() -> bool:
    """Whether `torchrun` has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _taken_part(
    task: Task, progress: Progress, on_epoch: Callable[[int, nn.Module], None] | None
) -> nn.Module:
    """Train as one of the processes that `torchrun` has started."""
    ranks = fabric_of(task.device, task.training.devices)
    device = torch.device(task.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return taught(
        ranks,
        task.network,
        task.transfer,
        task.training,
        seed=task.seed,
        device=device,
        progress=progress,
        checkpoint=task.checkpoint,
        identity=task.identity,
        on_epoch=on_epoch,
    )


def _hand_over(folder: Path, task: Task) -> None:
    """Write a task where the processes find it: a new folder that is this user's alone.

    Raises:
        InputError: it cannot be written.
    """
    try:
        written = pickle.dumps(task)
    except Exception as error:  # of a class of the user's
        raise InputError(
            "the network or its samples cannot be handed to other processes"
            f" ({described(error, 120)}); leave training.devices out"
        ) from error
    (folder / "task").write_bytes(written)


def _launch(folder: Path, devices: int, progress: Progress) -> None:
    """Start the processes, tell how far they are, and wait for them.

    Raises:
        RunError: one has ended.
        Db3kdError: what they met.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // devices)),
        "PYTHONUNBUFFERED": "1",
    }
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(devices)]
    child = ["-m", "db3kd.student.together", str(folder)]
    with (
        (folder / "said").open("wb") as said,
        subprocess.Popen(
            [sys.executable, *words, *child],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is told to this process alone
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(MARK):
                    _take_in(json.loads(line[len(MARK) :]), progress)
        finally:
            _end(process)
    if not (folder / TRAINED).exists():  # else all steps are done, whatever happened then
        raise RunError(f"a process that trained the network has ended ({_why(folder / 'said')})")


def _take_in(told: Mapping[str, Any], progress: Progress) -> None:
    """Pass on what the first process says.

    Raises:
        Db3kdError: what a process met.
    """
    if "error" in told:
        raise error_of(told["error"], told["text"])
    progress(told["stage"], told["done"], told["total"], told["figures"])


def _end(process: "subprocess.Popen[str]") -> None:
    """Have the processes end, and wait for it."""
    with suppress(ProcessLookupError):  # they have ended
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return
        os.killpg(process.pid, signal.SIGKILL)


def _why(path: Path) -> str:
    """Why the first process has ended, from what all said; the others lose their connection."""
    text = path.read_text(errors="replace")
    killed = re.search(r"exitcode *: -(?!15\b)(\d+)", text)  # 15 is what ends the others
    if killed:
        return f"by signal {killed[1]}; perhaps there was too little memory"
    raised = re.search(r"^(?:\[rank\d+\]:)? *(\w+(?:Error|Exception)\b.*)", text, re.MULTILINE)
    return plain(raised[1] if raised else text[-200:], 200)


def main(folder: Path) -> int:
    """Train as one of the processes that `trained_together` has started."""
    # Written by this user's own process, into a folder that is nobody else's.
    task = pickle.loads((folder / "task").read_bytes())

    def tell(**told: Any) -> None:
        print(MARK + json.dumps(told), flush=True)  # noqa: T201

    def report(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        tell(stage=stage, done=done, total=total, figures=dict(figures))

    first = os.environ["RANK"] == "0"
    try:
        trained = _taken_part(task, report if first else silent, None)
    except Db3kdError as error:
        tell(error=type(error).__name__, text=str(error))
        return 1
    if first:
        save_network(folder / TRAINED, trained)
    torch.distributed.barrier()  # who leaves first breaks the connections of the others
    torch.distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
