"""A network trained by several processes at once."""

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import nn

from db3kd.config.settings import Training
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError, RunError
from db3kd.student import load_network, train, training_identity
from db3kd.student.networks import build
from db3kd.student.together import FabricRanks, check_started_once, check_together

pytest.importorskip("lightning_fabric")

SGD = Training(steps=8, batch=64, optimiser="sgd", warmup=0.0, devices=2)


def samples(count: int = 200) -> TransferSet:
    draw = torch.Generator().manual_seed(0)
    images = TensorImages(torch.rand(count, 1, 8, 8, generator=draw))
    labels = torch.randint(10, (count,), generator=draw)
    return TransferSet(images, torch.arange(count), labels, labels)


def small() -> nn.Module:
    return build("small", (1, 8, 8), 10, seed=0)


def largest_difference(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def restless() -> nn.Module:
    """Return a network with all that processes might do otherwise: dropout and running means."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


class Failing(nn.Module):
    """A network that fails in another process alone, in a way of its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        self.how, self.home = how, os.getpid()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.home and self.how == "raises" and self.training and len(images) > 2:
            raise ValueError("no kernel for this")
        if os.getpid() != self.home and self.how == "dies" and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.getpid() != self.home and self.how == "dies late" and os.environ["RANK"] == "1":
            atexit.register(os.abort)
        return torch.as_tensor(self.inner(images))


def test_two_processes_train_what_one_does() -> None:
    # Of 201 samples in batches of 64, the last 9 are divided into 5 and 4.
    told: list[tuple[int, int]] = []

    def watch(stage: str, done: int, total: int, figures: Any) -> None:
        told.append((done, total))
        assert stage == "training"
        assert figures["loss"] > 0

    together = train(small(), samples(201), SGD, seed=0, device="cpu", progress=watch)
    alone = train(small(), samples(201), replace(SGD, devices=1), seed=0, device="cpu")
    assert largest_difference(together, small()) > 0.01
    assert largest_difference(together, alone) < 1e-5
    assert not together.training
    assert told[-1] == (8, 8)


@given(st.integers(1, 5), st.integers(1, 40))
def test_the_parts_of_a_batch_mean_what_the_batch_does(count: int, size: int) -> None:
    images, rows = torch.zeros(size, 1, 1, 1), torch.arange(size)
    value = (rows + 1.0) ** 2  # a loss of each sample
    ranks = [
        FabricRanks(SimpleNamespace(global_rank=rank, world_size=count)) for rank in range(count)
    ]
    parts = [each.part(images, rows) for each in ranks]
    mean = sum(float(value[mine].mean()) * factor for _, mine, factor in parts) / count
    assert mean == pytest.approx(float(value.mean()))
    assert all(len(some) == len(mine) for some, mine, _ in parts)
    assert min(len(mine) for _, mine, _ in parts) >= min(size, 2)
    assert {row for _, mine, _ in parts for row in mine.tolist()} == set(range(size))
    assert len({each.words() for each in ranks}) == count


def test_the_number_of_devices_identifies_a_student() -> None:
    known = [
        training_identity(small(), samples(), replace(SGD, devices=count), seed=0)["training"]
        for count in (1, 2)
    ]
    assert known[0] != known[1]
    assert "devices" not in known[0]  # students of earlier versions are found again


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("raises", "ValueError: no kernel for this"),
        pytest.param("dies", "has ended .by signal 9", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_fails_is_told_in_a_sentence(how: str, wanted: str) -> None:
    started = time.monotonic()
    with pytest.raises(RunError, match=wanted):
        train(Failing(how), samples(), SGD, seed=0, device="cpu")
    assert time.monotonic() - started < 120


@pytest.mark.slow
def test_a_process_that_dies_after_the_last_step_changes_nothing() -> None:
    trained = train(Failing("dies late"), samples(), SGD, seed=0, device="cpu")
    assert largest_difference(trained, Failing("dies late")) > 0


def test_what_cannot_be_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Local(nn.Linear):
        """Other processes cannot import it."""

    with pytest.raises(InputError, match="cannot be handed to other processes"):
        train(nn.Sequential(nn.Flatten(), Local(64, 10)), samples(), SGD, seed=0, device="cpu")
    with pytest.raises(InputError, match='needs the device "cpu" or "cuda"'):
        check_together(2, "cuda:0")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="this machine has 0 GPUs"):
            check_together(2, "cuda")
    with pytest.raises(InputError, match="on_epoch needs one device"):
        train(small(), samples(), SGD, seed=0, device="cpu", on_epoch=lambda *_: None)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"4 times; .* student.training.devices = 4"):
        check_started_once()
    with pytest.raises(InputError, match="devices is 2, but torchrun has started 4"):
        train(small(), samples(), SGD, seed=0, device="cpu")
    monkeypatch.setattr("db3kd.student.together.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the extra: .*fabric"):
        check_together(2, "cpu")


SCRIPT = """
import os, sys
from pathlib import Path
import db3kd.student.training as loop
from db3kd.config.settings import Training
from db3kd.student import save_network, train
from test_together import restless, samples

loop.CHECKPOINT_SECONDS = 0.0
folder, stop = Path(sys.argv[1]), int(sys.argv[2])
network = restless()

def at(epoch, network):
    if epoch == stop:
        os._exit(0)  # all processes, at the same place

training = Training(steps=20, average=0.3, devices=3, augment=("shift", "mixup"))
train(network, samples(), training, seed=0, device="cpu", checkpoint=folder / "checkpoint",
      on_epoch=at)
save_network(folder / f"{os.environ['RANK']}.safetensors", network)
"""


def started_by_torchrun(folder: Path, stop: int = 0) -> None:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    found = subprocess.run(
        [sys.executable, *words, str(script), str(folder), str(stop)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert not found.returncode, found.stderr[-3000:]


@pytest.mark.slow
def test_three_processes_end_with_equal_weights_however_often_they_were_stopped(
    tmp_path: Path,
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    started_by_torchrun(whole)
    for stop in (2, 4):
        started_by_torchrun(stopped, stop)
        assert not (stopped / "0.safetensors").exists()
    started_by_torchrun(stopped)
    files = [(folder / f"{rank}.safetensors") for folder in (whole, stopped) for rank in range(3)]
    assert files[0].read_bytes() == files[3].read_bytes()
    weights = [
        {
            name: value
            for name, value in load_network(file, restless()).state_dict().items()
            if "running" not in name
        }
        for file in files
    ]
    for other in weights[1:]:
        assert all(torch.equal(other[name], value) for name, value in weights[0].items())


@pytest.mark.slow
def test_processes_end_with_the_one_that_waits(tmp_path: Path) -> None:
    code = (
        "from test_together import *\n"
        "train(small(), samples(), replace(SGD, steps=10**7), seed=0, device='cpu',"
        " progress=lambda *told: print(told[1], flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        known = children()
        assert len(known) >= 2
        waiting.kill()
    until = time.monotonic() + 60
    while time.monotonic() < until and children() & known:
        time.sleep(0.5)
    assert not children() & known


def children() -> set[str]:
    """Processes that train as one of several."""
    found = set()
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"db3kd.student.together" in place.read_bytes():
                found.add(place.parent.name)
        except OSError:
            continue
    return found
