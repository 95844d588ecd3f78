"""The training loop of students and teachers (Eq. 1), and its checkpoints.

They belong together: a checkpoint must hold exactly what the loop changes.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.config.types import validated
from db3kd.data import content_digest
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Damaged, InputError
from db3kd.progress import Progress, silent
from db3kd.seeds import derive_seed
from db3kd.student.batches import batches_of, on_device, spans
from db3kd.student.evaluate import classes_of, device_of
from db3kd.student.files import digest_of, mismatch, read_tensors, state_of, write_tensors
from db3kd.student.loss import distillation_loss
from db3kd.student.soft_labels import temper

OWN_PASSES = 20
"""How often each own image is seen, at least, if most images are grown and the steps allow it."""
CHECKPOINT_SECONDS = 20.0
"""A checkpoint is written at the end of an epoch, once this much time has passed since the last."""


def train(
    network: nn.Module,
    transfer: TransferSet,
    training: Training,
    *,
    seed: int,
    device: str | torch.device,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    identity: Mapping[str, str] | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train a network in place with Eq. 1; return it on the device and in evaluation mode.

    Sections 3.2.3 and 4.1. If `transfer.soft` is None, the loss is cross-entropy alone, as for
    teachers and the baseline "Student CE". The result is the network after the last step, never the
    best of several. A last batch of a single image is joined to the one before it.

    - `progress`: called after each epoch with stage "training" and the mean loss of that epoch.
    - `on_epoch`: called after that with the number of epochs done and the network, in evaluation
      mode.
    - `checkpoint`: a file that is written from time to time at the end of an epoch. If it exists at
      the start, training continues from it. The caller removes it afterwards.
    - `identity`: what `training_identity` says of this training, if the caller knows it already.

    Costs no query. Random: the order of the images and dropout, both drawn for each epoch from
    (seed, epoch). On a CPU, a training that is stopped at any moment and started again therefore
    gives the same network, to the bit, as one that is not stopped. The number of threads must be
    the same.

    Raises:
        InputError: a setting is out of range, the set is empty, the network's classes do not fit
            the labels, the device does not exist, batch normalisation would see single images, or
            the loss is not finite.
        Damaged: the checkpoint cannot be read, or another training wrote it.

    >>> from db3kd.data import TensorImages
    >>> from db3kd.student.evaluate import accuracy, predict
    >>> from db3kd.student.networks import build
    >>> labels = torch.tensor([0, 1] * 8)
    >>> images = TensorImages(labels.float().reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4))
    >>> plain = TransferSet(images, torch.arange(16), labels, labels)
    >>> network = build("small", (1, 4, 4), 2, seed=0)
    >>> network = train(network, plain, Training(epochs=30, rate=0.01), seed=0, device="cpu")
    >>> accuracy(predict(network, images, device="cpu"), labels)
    1.0
    """
    validated(training)
    torch_device = device_of(device)
    network.to(torch_device)
    _check_fit(network, transfer, training)
    if identity is None:
        identity = training_identity(network, transfer, training, seed) if checkpoint else {}
    resident = on_device(transfer.images, torch_device)
    labels = transfer.labels.to(torch_device)
    soft = _Soft.of(transfer, training.temperature, torch_device)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=training.rate, weight_decay=training.weight_decay, fused=True
    )
    first = 0
    if checkpoint and checkpoint.exists():
        first = _resume(checkpoint, network, optimiser, identity)
    saved = time.monotonic()
    order = torch.arange(len(labels))
    more = repeats(transfer, training) - 1
    if more:
        order = torch.cat([order, order[: transfer.first].repeat(more)])
    each = len(spans(len(order), training.batch))
    total = training.steps or training.epochs * each
    epochs = -(-total // each)
    for epoch in range(first, epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        batches = batches_of(
            transfer.images, resident, order, training.batch, torch_device, generator
        )
        with torch.random.fork_rng(devices=[torch_device] if torch_device.type == "cuda" else []):
            _reseed(torch_device, derive_seed(seed, "dropout", epoch))
            left = islice(batches, total - epoch * each)
            rates = (_rate(training, step, total) for step in count(epoch * each))
            loss = _epoch(network.train(), left, labels, soft, optimiser, training, rates)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} in epoch {epoch + 1}; lower rate (it is {training.rate})"
            )
        if checkpoint and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            _save_checkpoint(checkpoint, network, optimiser, identity, epoch + 1)
            saved = time.monotonic()
        progress("training", epoch + 1, epochs, {"loss": loss})
        if on_epoch is not None:
            on_epoch(epoch + 1, network.eval())
    return network.eval()


def repeats(transfer: TransferSet, training: Training) -> int:
    """How often one pass over the set shows each own image; the others are shown once.

    Usually once. If there are too few batches to show own images `OWN_PASSES` times, each pass
    repeats them often enough for that, until they make up half of it. They also make up half of it
    if the others have a soft label only. Costs no query.

    >>> from db3kd.data import TensorImages
    >>> images = TensorImages(torch.zeros(310, 1, 4, 4))
    >>> zeros = torch.zeros(310, dtype=torch.int64)
    >>> grown = TransferSet(images, zeros, zeros, zeros, first=10)
    >>> [repeats(grown, Training(steps=steps, batch=10)) for steps in (1000, 100, 10)]
    [1, 8, 30]
    """
    own = transfer.first
    if own is None or training.steps is None or not 0 < own < len(transfer):
        return 1
    others, seen = len(transfer) - own, training.steps * training.batch
    most = max(1, others // own)
    if bool((transfer.labels[own:] < 0).all()):
        return most
    spare = seen - OWN_PASSES * own
    wanted = math.ceil(OWN_PASSES * others / spare) if spare > 0 else most
    return min(most, max(1, wanted))


@dataclass(frozen=True)
class _Soft:
    """The soft labels of a set, after the temperature, on the device of the training."""

    values: Tensor
    rows: Tensor | None

    @classmethod
    def of(
        cls, transfer: TransferSet, temperature: float, torch_device: torch.device
    ) -> "_Soft | None":
        if transfer.soft is None:
            return None
        rows = None if transfer.soft_rows is None else transfer.soft_rows.to(torch_device)
        return cls(temper(transfer.soft, temperature).to(torch_device), rows)

    def of_rows(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the soft labels of some samples, and which samples have one (None: all)."""
        if self.rows is None:
            return self.values[rows], None
        mine = self.rows[rows]
        return self.values[mine.clamp_min(0)], mine >= 0


def _epoch(
    network: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    labels: Tensor,
    soft: _Soft | None,
    optimiser: torch.optim.Optimizer,
    training: Training,
    rates: Iterator[float],
) -> float:
    """Train for one epoch, or for the batches that are left, and return the mean loss."""
    torch_device = labels.device
    mixed = training.mixed_precision and torch_device.type == "cuda"
    total, seen = torch.zeros((), device=torch_device), 0
    for images, rows in batches:
        rate = next(rates)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(torch_device.type, dtype=torch.bfloat16, enabled=mixed):
            logits = network(images)
        wanted, softened = (None, None) if soft is None else soft.of_rows(rows)
        loss = distillation_loss(
            logits.float(),
            labels[rows],
            wanted,
            temperature=training.temperature,
            weight=training.weight,
            softened=softened,
        )
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        total += loss.detach() * len(rows)  # no .item() here: it would wait for the GPU
        seen += len(rows)
    return float(total) / seen


def _check_fit(network: nn.Module, transfer: TransferSet, training: Training) -> None:
    """Refuse a set, a network and settings that do not fit each other."""
    if not len(transfer):
        raise InputError("the transfer set is empty; give at least one sample")
    single = min(len(transfer), training.batch) == 1
    if single and any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules()
    ):
        raise InputError(
            "batch normalisation cannot learn from single images, got"
            f" {len(transfer)} images in batches of {training.batch}; give at least 2"
        )
    classes = classes_of(network, transfer.images)
    wanted = int(transfer.labels.max()) + 1 if transfer.soft is None else transfer.soft.shape[1]
    if wanted > classes or (transfer.soft is not None and wanted != classes):
        raise InputError(f"the network has {classes} classes but the transfer set {wanted}")


def _reseed(torch_device: torch.device, seed: int) -> None:
    """Seed the generators that dropout draws from, and those of no other device."""
    torch.default_generator.manual_seed(seed)
    if torch_device.type == "cuda":
        torch.cuda.default_generators[torch_device.index].manual_seed(seed)


def _rate(training: Training, step: int, steps: int) -> float:
    if training.schedule == "constant":
        return training.rate
    return training.rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def training_identity(
    network: nn.Module, transfer: TransferSet, training: Training, seed: int
) -> dict[str, str]:
    """What identifies a training: the network at its start, the samples, the settings, the seed.

    Samples are identified by the content of their images, their ids, labels and soft labels. Images
    in memory are hashed; for images in files, the files are. Costs no query.

    >>> from db3kd.data import TensorImages
    >>> labels = torch.tensor([0, 1])
    >>> dark, light = (TensorImages(torch.full((2, 1, 1, 1), value)) for value in (0.0, 1.0))
    >>> sets = [TransferSet(images, labels, labels, labels) for images in (dark, light)]
    >>> known = [training_identity(nn.Linear(1, 2), each, Training(), 0) for each in sets]
    >>> known[0]["transfer set"] == known[1]["transfer set"]
    False
    """
    tensors = {"ids": transfer.ids, "labels": transfer.labels}
    if transfer.soft is not None:
        tensors["soft"] = transfer.soft
    if transfer.soft_rows is not None:
        tensors["soft_rows"] = transfer.soft_rows
    return {
        "format": "db3kd training 2",
        "own images shown": str(repeats(transfer, training)),
        "seed": str(seed),
        "training": json.dumps(msgspec.to_builtins(training), sort_keys=True),
        "network": digest_of(network.state_dict(), {"network": repr(network)}),
        "transfer set": digest_of(tensors, {"images": content_digest(transfer.images)}),
    }


def _save_checkpoint(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, str],
    epoch: int,
) -> None:
    tensors = {f"network.{name}": value for name, value in state_of(network).items()}
    for index, moments in optimiser.state_dict()["state"].items():
        for name, moment in moments.items():
            tensors[f"optimiser.{index}.{name}"] = moment.detach().to("cpu", copy=True).contiguous()
    write_tensors(path, tensors, {**identity, "epoch": str(epoch)})


def _resume(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, str],
) -> int:
    """Restore network and optimiser from a checkpoint; return the number of epochs done."""
    tensors, metadata = read_tensors(path)
    for key, value in identity.items():
        if metadata.get(key) != value:
            raise Damaged(
                f"{path} is not a checkpoint of this training: its {key} is {metadata.get(key)},"
                f" not {value}; remove it to start over"
            )
    state = {name[8:]: value for name, value in tensors.items() if name.startswith("network.")}
    wrong = mismatch(state, network.state_dict())
    if wrong:
        raise Damaged(f"{path} is a checkpoint of another network: {wrong}")
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = tensor
    network.load_state_dict(state)
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    return int(metadata["epoch"])
