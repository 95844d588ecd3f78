"""Training by a loss of a system's own, which is stopped at any step and continued alike."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from db3kd.config.settings import Training, settled
from db3kd.config.types import validated
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.paper.task import Task
from db3kd.seeds import derive_seed
from db3kd.student.augmenting import Augmenter
from db3kd.student.batches import batches_of, on_device, spans
from db3kd.student.checkpoints import resumed, save_checkpoint
from db3kd.student.evaluate import device_of
from db3kd.student.files import load_network, save_network
from db3kd.student.networks import seeded
from db3kd.student.optimisers import Schedule, optimisers_of
from db3kd.student.steps import steps_of
from db3kd.student.training import CHECKPOINT_SECONDS, REPORT_SECONDS, training_identity

Loss = Callable[[Tensor, Tensor], Tensor]
"""From images, changed as the training says, and their rows in the set."""


def taught_by(
    task: Task,
    name: str,
    network: nn.Module,
    samples: TransferSet,
    training: Training,
    loss: Loss,
    *,
    about: str,
) -> nn.Module:
    """Train a network in place by a loss; what was begun or done is kept, as by `Task.taught`.

    Optimiser, schedule, batches and augmentation are those of `db3kd.student.training.train`, and
    the weights of Eq. 1 are not used. The trainer continues from the end of an epoch; this does so
    from any step, since an epoch of several forward passes an image can take hours. `about` says
    all else that the loss depends on. The network is in evaluation mode, on the task's device.

    Costs no query. Random: the order of the images, augmentation and dropout, from the task's seed
    and the step. On a CPU, a training that was stopped gives the same network, to the bit.

    Raises:
        InputError: the loss is not finite.
        Damaged: another training wrote the checkpoint, or it cannot be read.
    """
    file, checkpoint = (task.folder / f"{name}.{end}" for end in ("safetensors", "checkpoint"))
    device, seed = device_of(task.device), task.seed_of(name)
    training = settled(validated(training))
    network.to(device)
    if file.exists():
        return load_network(file, network).eval()
    task.folder.mkdir(parents=True, exist_ok=True)
    identity = {**training_identity(network, samples, training, seed), "loss": about}
    optimisers, steps = optimisers_of(network, training), steps_of(training, len(samples))
    schedule = Schedule(optimisers, training, steps=steps)
    first = resumed(checkpoint, network, optimisers, {}, identity) if checkpoint.exists() else 0
    network.train()
    saved = told = time.monotonic()
    for step, (images, rows) in enumerate(_batches(samples, training, device, seed, first), first):
        if step >= steps:
            break
        schedule.set(step)
        with seeded(derive_seed(seed, "dropout", step)):
            value = _step(network, optimisers, loss, images, rows)
        now = time.monotonic()
        if now - told >= REPORT_SECONDS or step + 1 == steps:
            told = now
            task.progress(name, step + 1, steps, {"loss": _finite(value, step, training)})
        if now - saved >= CHECKPOINT_SECONDS:
            _finite(value, step, training)
            save_checkpoint(checkpoint, network, optimisers, {}, identity, step + 1)
            saved = now
    save_network(file, network)
    checkpoint.unlink(missing_ok=True)
    return network.eval()


def _step(
    network: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    loss: Loss,
    images: Tensor,
    rows: Tensor,
) -> Tensor:
    for weight in network.parameters():
        weight.grad = None
    value = loss(images, rows)
    torch.autograd.backward(value)
    for optimiser in optimisers:
        optimiser.step()
    return value.detach()


def _batches(
    samples: TransferSet, training: Training, device: torch.device, seed: int, first: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches from a step on, without end, each with its rows in the set."""
    images, order = samples.images, torch.arange(len(samples))
    resident = on_device(images, device)
    change = Augmenter(training.augment, images.shape) if training.augment else None
    epoch, done = divmod(first, len(spans(len(samples), training.batch)))
    step = first
    while True:
        draw = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        batches = batches_of(images, resident, order, training.batch, device, draw)
        for pixels, rows in islice(batches, done, None):
            if change is not None:
                pixels = change(pixels, derive_seed(seed, "augment", step)).images
            yield pixels, rows
            step += 1
        epoch, done = epoch + 1, 0


def _finite(value: Tensor, step: int, training: Training) -> float:
    known = float(value)
    if not math.isfinite(known):
        raise InputError(
            f"the loss is {known} in step {step + 1}; lower rate (it is {training.rate})"
        )
    return known
