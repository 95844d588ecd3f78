"""The training loop of students and teachers (Eq. 1)."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn

from db3kd.config.settings import Training, settled
from db3kd.config.types import validated
from db3kd.data import content_digest
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.progress import Progress, silent
from db3kd.seeds import derive_seed
from db3kd.storage.files import Json
from db3kd.student.augmenting import Augmenter
from db3kd.student.batches import batches_of, on_device, spans
from db3kd.student.checkpoints import resumed, save_checkpoint
from db3kd.student.evaluate import classes_of, device_of
from db3kd.student.fast import fast_form, laid_out_plainly, plain_form
from db3kd.student.files import digest_of
from db3kd.student.loss import distillation_loss
from db3kd.student.optimisers import Schedule, optimisers_of, suits_sgd
from db3kd.student.precision import mixed_on
from db3kd.student.ranks import Alone, Ranks
from db3kd.student.soft_labels import temper
from db3kd.student.steps import steps_of

OWN_PASSES = 20
"""How often each own image is seen, at least, if most images are grown and the steps allow it."""
FEW_ANSWERS = 10_000
"""With fewer, SGD teaches more beside an ensemble's labels than Muon, which fits answers closer."""
CHECKPOINT_SECONDS = 20.0
"""A checkpoint is written at the end of an epoch, once this much time has passed since the last."""
REPORT_SECONDS = 1.0  # between two reports within an epoch
EARLIER: Json = {
    "optimiser": "adamw",
    "warmup": 0.0,
    "average": 0.0,
    "smoothing": 0.0,
    "augment": [],
}
EARLIER_EPOCHS = 100
"""The trainer of earlier versions: what it had no word for, and its default of a word it had."""
LATER: Json = {"label_weight": 1.0, "drops": [0.5, 0.75], "drop": 0.1, "devices": 1}
"""Words that came after those of `EARLIER`, each of which is silent where it changes nothing."""


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

    - `progress`: called about once a second and after each epoch, with stage "training", how many
      steps are done, and the mean loss of the epoch so far.
    - `on_epoch`: called after that with the number of epochs done and the network, in evaluation
      mode.
    - `checkpoint`: a file that is written from time to time at the end of an epoch. If it exists at
      the start, training continues from it. The caller removes it afterwards.
    - `identity`: what `training_identity` says of this training, if the caller knows it already.

    Costs no query. Random: the order of the images and dropout, both drawn for each epoch from
    (seed, epoch), and augmentation, drawn for each step from (seed, step). On a CPU, a training
    that is stopped at any moment and started again therefore gives the same network, to the bit, as
    one that is not stopped. The number of threads must be the same.

    With `training.devices`, that many processes train it together, and each sees its share of every
    batch. A process that `torchrun` has started is one of them; otherwise they are started here.

    Raises:
        InputError: a setting is out of range, the set is empty, the network's classes do not fit
            the labels, the device does not exist, batch normalisation would see single images, or
            the loss is not finite.
        Damaged: the checkpoint cannot be read, or another training wrote it.
        RunError: one of several processes has ended.

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
    training = settled(fitting(validated(training), transfer, network))
    if training.devices == 1:
        return taught(
            Alone(),
            network,
            transfer,
            training,
            seed=seed,
            device=device_of(device),
            progress=progress,
            checkpoint=checkpoint,
            identity=identity,
            on_epoch=on_epoch,
        )
    from db3kd.student.together import Task, trained_together  # which train by `taught`

    task = Task(network, transfer, training, seed, str(device), checkpoint, identity)
    return trained_together(task, progress, on_epoch)


def taught(
    ranks: Ranks,
    network: nn.Module,
    transfer: TransferSet,
    training: Training,
    *,
    seed: int,
    device: torch.device,
    progress: Progress,
    checkpoint: Path | None,
    identity: Mapping[str, str] | None,
    on_epoch: Callable[[int, nn.Module], None] | None,
) -> nn.Module:
    """Train as one of `ranks`; the rest is that of `train`, and `training` is settled."""
    network.to(device)
    _check_fit(network, transfer, training)
    if identity is None:
        identity = training_identity(network, transfer, training, seed) if checkpoint else {}
    plainly = laid_out_plainly(network)
    loop = _Loop.of(ranks, network, transfer, training, device, seed)
    first = 0
    if checkpoint and checkpoint.exists():
        first = resumed(checkpoint, network, loop.optimisers, loop.mean, identity)
    resident = on_device(transfer.images, device)
    order = _order(transfer, training)
    each = len(spans(len(order), training.batch))
    epochs = -(-loop.steps // each)
    saved = time.monotonic()
    for epoch in range(first, epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        batches = batches_of(transfer.images, resident, order, training.batch, device, generator)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            _reseed(device, derive_seed(seed, "dropout", epoch, *ranks.words()))
            left = islice(batches, loop.steps - epoch * each)
            loss = loop.epoch(left, epoch * each, progress)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} in epoch {epoch + 1}; lower rate (it is {training.rate})"
            )
        if checkpoint and not ranks.rank and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            save_checkpoint(checkpoint, network, loop.optimisers, loop.mean, identity, epoch + 1)
            saved = time.monotonic()
        progress("training", min((epoch + 1) * each, loop.steps), loop.steps, {"loss": loss})
        if on_epoch is not None:
            on_epoch(epoch + 1, network.eval())
    if loop.mean:
        network.load_state_dict(loop.mean, strict=False)
    return (plain_form(network) if plainly else network).eval()


def _order(transfer: TransferSet, training: Training) -> Tensor:
    """The samples of one pass over the set, before they are shuffled."""
    order = torch.arange(len(transfer))
    more = repeats(transfer, training) - 1
    return torch.cat([order, order[: transfer.first].repeat(more)]) if more else order


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
    if own is None or training.epochs is not None or not 0 < own < len(transfer):
        return 1
    others, seen = len(transfer) - own, steps_of(training, len(transfer)) * training.batch
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


@dataclass
class _Loop:
    """What is the same in every step; `mean` is the mean of the weights, if they are averaged."""

    network: nn.Module
    fast: nn.Module
    training: Training
    steps: int
    labels: Tensor
    soft: _Soft | None
    optimisers: list[torch.optim.Optimizer]
    schedule: Schedule
    mixed: bool
    augmenter: Augmenter | None
    seed: int
    ranks: Ranks
    mean: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        ranks: Ranks,
        network: nn.Module,
        transfer: TransferSet,
        training: Training,
        device: torch.device,
        seed: int,
    ) -> "_Loop":
        steps, optimisers = steps_of(training, len(transfer)), optimisers_of(network, training)
        return cls(
            network,
            ranks.joined(fast_form(network, device)),
            training,
            steps,
            transfer.labels.to(device),
            _Soft.of(transfer, training.temperature, device),
            optimisers,
            Schedule(optimisers, training, steps=steps),
            training.mixed_precision and mixed_on(device, network),
            Augmenter(training.augment, transfer.images.shape) if training.augment else None,
            seed,
            ranks,
        )

    def epoch(
        self, batches: Iterator[tuple[Tensor, Tensor]], step: int, progress: Progress
    ) -> float:
        """Train for one epoch, or for the batches that are left; return the mean loss."""
        told = time.monotonic()
        self.network.train()
        self.fast.train()
        total, seen = torch.zeros((), device=self.labels.device), 0
        for number, (images, rows) in enumerate(batches, step):
            self.schedule.set(number)
            for weight in self.network.parameters():
                weight.grad = None
            images, rows, factor = self.ranks.part(images, rows)
            loss = self._loss(images, rows, number)
            self.ranks.backward(loss if factor == 1 else loss * factor)
            for optimiser in self.optimisers:
                optimiser.step()
            self._average(number)
            total += loss.detach() * len(rows)  # no .item() here: it would wait for the GPU
            seen += len(rows)
            if time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                progress("training", number + 1, self.steps, {"loss": float(total) / seen})
        lost, count = self.ranks.total(torch.stack([total, total.new_tensor(seen)])).tolist()
        return float(lost / count)

    def _loss(self, images: Tensor, rows: Tensor, step: int) -> Tensor:
        """Eq. 1 on a batch; where images were joined, of both labels by their shares."""
        partner = share = None
        if self.augmenter is not None:
            words = self.ranks.words()
            made = self.augmenter(images, derive_seed(self.seed, "augment", step, *words))
            images, partner, share = made.images, made.partner, made.share
        with torch.autocast(self.labels.device.type, dtype=torch.bfloat16, enabled=self.mixed):
            logits = self.fast(images)
        loss = self._of_labels(logits.float(), rows, share)
        if partner is not None and share is not None:
            loss = loss + self._of_labels(logits.float(), rows[partner], 1 - share)
        return loss

    def _of_labels(self, logits: Tensor, rows: Tensor, share: Tensor | None) -> Tensor:
        wanted, softened = (None, None) if self.soft is None else self.soft.of_rows(rows)
        return distillation_loss(
            logits,
            self.labels[rows],
            wanted,
            temperature=self.training.temperature,
            weight=self.training.weight,
            softened=softened,
            label_weight=self.training.label_weight,
            smoothing=self.training.smoothing,
            share=share,
        )

    def _average(self, step: int) -> None:
        """Add the weights after a step to the mean, if it is one of the last ones."""
        first = self.steps - round(self.training.average * self.steps)
        if step < first:
            return
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                mean = self.mean.setdefault(name, value.clone())
                mean.lerp_(value, 1 / (step - first + 1))


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


def fitting(training: Training, transfer: TransferSet, network: nn.Module) -> Training:
    """The same training with the optimiser for these samples and network, where none is named.

    It is SGD where an ensemble has labelled images beside fewer than `FEW_ANSWERS` answers, and the
    network `suits_sgd`.

    >>> from db3kd.data import TensorImages
    >>> images, rows = TensorImages(torch.zeros(2, 1, 1, 1)), torch.tensor([0, 1])
    >>> mixed = TransferSet(images, rows, rows, torch.tensor([0, -1]), torch.zeros(2, 2))
    >>> network = nn.Linear(1, 2)
    >>> [fitting(each, mixed, network).optimiser for each in (Training(), Training(rate=0.1))]
    ['sgd', None]
    >>> soft = TransferSet(images, rows, rows, torch.tensor([-1, -1]), torch.zeros(2, 2))
    >>> fitting(Training(), soft, network).optimiser  # there are no answers
    """
    if training.optimiser is not None or training.rate is not None:
        return training
    answered = int((transfer.labels >= 0).sum())
    few = 0 < answered < min(len(transfer), FEW_ANSWERS)
    if few and suits_sgd(network):
        return msgspec.structs.replace(training, optimiser="sgd")
    return training


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
    words = _words(fitting(training, transfer, network), len(transfer))
    return {
        "format": "db3kd training 2",
        "own images shown": str(repeats(transfer, training)),
        "seed": str(seed),
        "training": json.dumps(words, sort_keys=True),
        "network": digest_of(network.state_dict(), {"network": repr(network)}),
        "transfer set": digest_of(tensors, {"images": content_digest(transfer.images)}),
    }


def _words(training: Training, samples: int) -> Json:
    """All that a training does, in the words of earlier versions where they could have done it."""
    whole = settled(training)
    if whole.epochs is None:
        whole = msgspec.structs.replace(whole, steps=steps_of(whole, samples))
    words: Json = json.loads(msgspec.json.encode(whole))
    words = {name: value for name, value in words.items() if (name, value) not in LATER.items()}
    if all(words[name] == value for name, value in EARLIER.items()):
        words = {name: value for name, value in words.items() if name not in EARLIER}
        words["epochs"] = words["epochs"] or EARLIER_EPOCHS
    return words
