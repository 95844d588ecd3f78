"""Eq. 1, one training loop for students and teachers, predictions, and networks on disk.

This file is long because the loop and its checkpoints are one matter: what the loop changes is
exactly what a checkpoint must hold.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from db3kd.config.settings import Training
from db3kd.config.types import validated
from db3kd.data import Images, Rows, TensorImages, content_digest, in_memory
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Damaged, InputError
from db3kd.networks import at_once
from db3kd.progress import Progress, silent
from db3kd.seeds import derive_seed
from db3kd.soft_labels import temper
from db3kd.storage.files import write_atomically

RESIDENT_BYTES = 2 * 2**30
"""Images up to this size are kept in memory; on a GPU, up to a quarter of what is free."""
WINDOW_BYTES = 2**30
"""What is read at a time of larger sets, shuffled within."""
BLOCK = 64
"""Neighbouring images that are read together, so that files are not read at random places."""
OWN_PASSES = 20
"""So often is each own image seen at least, where most images are grown of them and steps allow."""
CHECKPOINT_SECONDS = 20.0
"""A checkpoint is written at the first end of an epoch after this much training."""


def distillation_loss(
    logits: Float[Tensor, "row classes"],
    labels: Int[Tensor, "row"],
    soft: Float[Tensor, "row classes"] | None,
    *,
    temperature: float,
    weight: float,
    softened: Bool[Tensor, "row"] | None = None,
) -> Float[Tensor, ""]:
    r"""Return the student's loss on a batch.

    Eq. 1: L = CE(P_s, y) + lambda KL(P_t^tau || P_s^tau), where P^tau = softmax(a / tau).

    Where only some samples have soft labels, `softened` says which. Both terms stay means over the
    whole batch: the label of every sample weighs 1, a soft label lambda more, and a sample without
    one, such as a grown image, nothing there. Nor does a label of -1, which is none.

    `soft` are the teacher's probabilities, the temperature already applied; the same temperature
    divides the student's logits here. Both terms are means over the batch, KL is summed over the
    classes. Hinton's factor tau^2 is left out, as Eq. 1 has none; it is there for large
    temperatures, where the gradient of KL shrinks, and at the paper's 0.3 it would only divide
    lambda by 11. On 300 images the difference was within the spread of three seeds. The authors'
    release sums KL over the batch instead, which makes lambda larger by the size of the batch.

    No queries. Nothing is random.

    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> loss = distillation_loss(
    ...     logits, torch.tensor([0]), torch.tensor([[0.5, 0.5]]), temperature=0.3, weight=1.0
    ... )
    >>> round(float(loss), 4)  # log 2, and no divergence
    0.6931
    """
    loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / len(labels)
    if soft is None:
        return loss
    log_student = F.log_softmax(logits / temperature, dim=1)
    if softened is None:
        return loss + weight * F.kl_div(log_student, soft, reduction="batchmean")
    divergence = F.kl_div(log_student, soft, reduction="none").sum(dim=1)
    return loss + weight * (divergence * softened).mean()


def train(
    network: nn.Module,
    transfer: TransferSet,
    training: Training,
    *,
    seed: int,
    device: str | torch.device,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train a network in place with Eq. 1 and return it, on the device and in evaluation mode.

    Section 3.2.3 and 4.1. With `transfer.soft` None the loss is cross-entropy alone, which is how
    teachers and the baseline "Student CE" are trained. The result is the network after the last
    step, never the best of several. A last batch of a single image is joined to the one before.

    `progress` is called with stage "training" after each epoch, with the mean loss of that epoch.
    `on_epoch` is then called with the number of epochs done and the network, in evaluation mode.
    `checkpoint`: a file that is written from time to time at the end of an epoch; if it is there at
    the start, training goes on from it. Removing it afterwards is the caller's part.

    Random are the order of the images and dropout, both drawn for each epoch from (seed, epoch).
    On a CPU a training that was stopped at any moment and started again therefore gives the same
    network, to the bit, as one that was not; the number of threads must be the same.

    Raises:
        InputError: the set is empty, the network's classes do not fit the labels, the device is
            not there, batch normalisation would see single images, or the loss is not finite.
        Damaged: the checkpoint cannot be read, or another training wrote it.

    >>> from db3kd.networks import build
    >>> labels = torch.tensor([0, 1] * 8)
    >>> images = TensorImages(labels.float().reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4))
    >>> plain = TransferSet(images, torch.arange(16), labels, labels)
    >>> network = build("small", (1, 4, 4), 2, seed=0)
    >>> network = train(network, plain, Training(epochs=30, rate=0.01), seed=0, device="cpu")
    >>> accuracy(predict(network, images, device="cpu"), labels)
    1.0
    """
    validated(training)
    place = _device(device)
    network.to(place)
    _check_fit(network, transfer, training)
    identity = training_identity(network, transfer, training, seed) if checkpoint else {}
    resident = _resident(transfer.images, place)
    labels = transfer.labels.to(place)
    soft = _Soft.of(transfer, training.temperature, place)
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
    each = len(_spans(len(order), training.batch))
    total = training.steps or training.epochs * each
    epochs = -(-total // each)
    for epoch in range(first, epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        batches = _batches(transfer.images, resident, order, training.batch, place, generator)
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            _reseed(place, derive_seed(seed, "dropout", epoch))
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
    """How often a pass over the set shows each of its own images; the others are shown once.

    1, unless the batches are so few that own images would be seen less than `OWN_PASSES` times;
    then as often as that takes, until they are half of what is seen. They are half, too, where the
    others have no label but a soft one.

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
    """The soft labels of a set, tempered, on the device of the training."""

    values: Tensor
    rows: Tensor | None

    @classmethod
    def of(cls, transfer: TransferSet, temperature: float, place: torch.device) -> "_Soft | None":
        if transfer.soft is None:
            return None
        rows = None if transfer.soft_rows is None else transfer.soft_rows.to(place)
        return cls(temper(transfer.soft, temperature).to(place), rows)

    def of_rows(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Soft labels of some samples, and which of them have one; None if all do."""
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
    """Train for one epoch, or what is left of it, and return the mean loss."""
    place = labels.device
    mixed = training.mixed_precision and place.type == "cuda"
    total, seen = torch.zeros((), device=place), 0
    for images, rows in batches:
        rate = next(rates)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(place.type, dtype=torch.bfloat16, enabled=mixed):
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


def predict(
    network: nn.Module, images: Images, *, device: str | torch.device, batch: int | None = None
) -> Int[Tensor, "sample"]:
    """Return the network's top-1 class of every image, on the CPU.

    The network is moved to the device; its mode (training or evaluation) is as before afterwards.
    `batch` images are read and shown at a time, `networks.at_once` without it. Nothing is random;
    no queries of the teacher.

    Raises:
        InputError: the device is not there, or `batch` is below 1.

    >>> network = nn.Flatten()
    >>> predict(network, TensorImages(torch.eye(3).reshape(3, 1, 1, 3)), device="cpu")
    tensor([0, 1, 2])
    """
    if batch is None:
        batch = at_once(images.shape)
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    place = _device(device)
    mode = network.training
    network.to(place).eval()
    answers = [torch.zeros(0, dtype=torch.int64)]
    try:
        with torch.no_grad():
            for start in range(0, len(images), batch):
                rows = torch.arange(start, min(start + batch, len(images)))
                answers.append(network(images.read(rows).to(place)).argmax(dim=1).cpu())
    finally:
        network.train(mode)
    return torch.cat(answers)


def resident(images: Images) -> Images:
    """The same images, in memory unless they are more than `RESIDENT_BYTES`.

    >>> resident(TensorImages(torch.zeros(2, 1, 4, 4))).shape
    (1, 4, 4)
    """
    small = len(images) * _image_bytes(images) <= RESIDENT_BYTES
    return in_memory(images) if small else images


def accuracy(answers: Int[Tensor, "sample"], labels: Int[Tensor, "sample"]) -> float:
    """Return the share of answers, 0 to 1, that are the true label.

    Raises:
        InputError: there are no answers, or not one for each label.

    >>> accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0]))
    0.75
    """
    return agreement(answers, labels)


def agreement(first: Int[Tensor, "sample"], second: Int[Tensor, "sample"]) -> float:
    """Return the share of samples, 0 to 1, on which two models give the same answer.

    Raises:
        InputError: there are no answers, or not the same number of both.

    >>> agreement(torch.tensor([1, 2]), torch.tensor([1, 1]))
    0.5
    """
    if len(first) != len(second) or not len(first):
        raise InputError(
            f"answers must be of the same samples, at least one; got {len(first)} and {len(second)}"
        )
    return int((first == second.to(first.device)).sum()) / len(first)


def save_network(path: Path, network: nn.Module) -> None:
    """Write a network's weights to a safetensors file; all of it or, if that fails, nothing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(Path(folder) / "student.safetensors", nn.Linear(2, 1))
    ...     [file.name for file in Path(folder).iterdir()]
    ['student.safetensors']
    """
    _write(path, _state(network), {"format": "db3kd network 1"})


def load_network(path: Path, network: nn.Module) -> nn.Module:
    """Fill a network, in place, with the weights of a safetensors file, and return it.

    Files of other programs fit too, if names and shapes do. No code in a file is ever run.

    Raises:
        InputError: there is no such file, or its tensors are not this network's; the text names
            the first that differs.
        Damaged: the file cannot be read, or differs from its checksum.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(Path(folder) / "student.safetensors", nn.Linear(2, 1))
    ...     load_network(Path(folder) / "student.safetensors", nn.Linear(3, 1))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: ...student.safetensors does not fit this network: weight is ...
    """
    tensors, _ = _read(path)
    difference = _difference(tensors, network.state_dict())
    if difference:
        raise InputError(f"{path} does not fit this network: {difference}")
    network.load_state_dict(tensors)
    return network


# The set: checks, what is kept in memory, and the order of the images


def _device(device: str | torch.device) -> torch.device:
    """Return the device with its number, if it is there."""
    try:
        place = torch.device(device)
    except RuntimeError:
        raise InputError(f'device must be "cpu", "cuda" or "cuda:N", got {device!r}') from None
    if place.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (place.index or 0) >= count:
            raise InputError(
                f'device {place} is not there, {count} GPUs are; give "cpu" or another'
            )
        return (
            place if place.index is not None else torch.device("cuda", torch.cuda.current_device())
        )
    return place


def classes_of(network: nn.Module, images: Images) -> int:
    """How many classes a network tells apart, found out by the first image; it stays as it is.

    Costs no query.

    Raises:
        InputError: it fails on the image, or returns anything but a row of scores for it.

    >>> images = TensorImages(torch.zeros(2, 1, 8, 8))
    >>> classes_of(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), images)
    3
    >>> classes_of(nn.Linear(64, 3), images)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the network fails on an image of shape (1, 8, 8): mat1 and mat2 ...
    """
    image = images.read(torch.tensor([0]))
    image = image.to(next((weight.device for weight in network.parameters()), image.device))
    modes = [(part, part.training) for part in network.modules()]
    try:
        with torch.no_grad():
            scores = network.eval()(image)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the network fails on an image of shape {images.shape}: {reason}"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode
    found = tuple(scores.shape)
    if len(found) != 2 or found[0] != 1:
        raise InputError(f"the network must return (images, classes), got {found} for one image")
    return int(found[1])


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


def _resident(images: Images, place: torch.device) -> Tensor | None:
    """Return all images on the device, encoded as they are kept, or None if they are too large."""
    if isinstance(images, TensorImages) and images.values.device == place:
        return images.values
    limit = RESIDENT_BYTES
    if place.type == "cuda":
        limit = torch.cuda.mem_get_info(place)[0] // 4
    if len(images) * _image_bytes(images) > limit:
        return None
    return in_memory(images).values.to(place)


def _image_bytes(images: Images) -> int:
    return math.prod(images.shape) * (1 if images.eight_bit else 4)


def _spans(count: int, batch: int) -> list[tuple[int, int]]:
    """Cut a set into batches; a last one of a single image joins the one before."""
    starts = list(range(0, count, batch))
    if batch > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def _batches(
    images: Images,
    resident: Tensor | None,
    order: Tensor,
    batch: int,
    place: torch.device,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each row of `order` once, as (images, rows) on the device, in an order drawn anew.

    A set in memory is shuffled as a whole. Otherwise blocks of neighbours are shuffled, as many as
    fit a window are read in file order, and the window is shuffled.
    """
    spans = _spans(len(order), batch)
    window = len(spans)
    if resident is None:
        blocks = torch.split(order, BLOCK)
        shuffled = torch.randperm(len(blocks), generator=generator).tolist()
        order = torch.cat([blocks[block] for block in shuffled])
        window = max(1, WINDOW_BYTES // (_image_bytes(images) * batch))
    for group in (spans[at : at + window] for at in range(0, len(spans), window)):
        first, last = group[0][0], group[-1][1]
        rows = order[first:last].sort().values
        values = in_memory(Rows(images, rows)).values if resident is None else resident
        shuffle = torch.randperm(len(rows), generator=generator)
        rows = rows[shuffle]
        places = (shuffle if resident is None else rows).to(values.device)
        rows = rows.to(place)
        for start, stop in group:
            pixels = values.index_select(0, places[start - first : stop - first]).to(place)
            scaled = pixels if pixels.is_floating_point() else pixels.float().div_(255)
            yield scaled, rows[start - first : stop - first]


# Randomness and schedule


def _reseed(place: torch.device, seed: int) -> None:
    """Seed the generators that dropout draws from, and no other device's."""
    torch.default_generator.manual_seed(seed)
    if place.type == "cuda":
        torch.cuda.default_generators[place.index].manual_seed(seed)


def _rate(training: Training, step: int, steps: int) -> float:
    if training.schedule == "constant":
        return training.rate
    return training.rate * 0.5 * (1 + math.cos(math.pi * step / steps))


# Checkpoints and files


def training_identity(
    network: nn.Module, transfer: TransferSet, training: Training, seed: int
) -> dict[str, str]:
    """What tells one training from every other: the network before it, the samples, the settings.

    Samples are known by the content of their images, their ids, labels and soft labels. Costs no
    query; images in memory are hashed, of others the files.

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
        "network": _digest(network.state_dict(), {"network": repr(network)}),
        "transfer set": _digest(tensors, {"images": content_digest(transfer.images)}),
    }


def _save_checkpoint(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, str],
    epoch: int,
) -> None:
    tensors = {f"network.{name}": value for name, value in _state(network).items()}
    for index, moments in optimiser.state_dict()["state"].items():
        for name, moment in moments.items():
            tensors[f"optimiser.{index}.{name}"] = moment.detach().to("cpu", copy=True).contiguous()
    _write(path, tensors, {**identity, "epoch": str(epoch)})


def _resume(
    path: Path,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, str],
) -> int:
    """Restore network and optimiser from a checkpoint; return the number of epochs done."""
    tensors, metadata = _read(path)
    for key, value in identity.items():
        if metadata.get(key) != value:
            raise Damaged(
                f"{path} is no checkpoint of this training: its {key} is {metadata.get(key)}, not"
                f" {value}; remove it to start anew"
            )
    state = {name[8:]: value for name, value in tensors.items() if name.startswith("network.")}
    difference = _difference(state, network.state_dict())
    if difference:
        raise Damaged(f"{path} is a checkpoint of another network: {difference}")
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = tensor
    network.load_state_dict(state)
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    return int(metadata["epoch"])


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in network.state_dict().items()
    }


def _difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Return in words the first tensor that differs in name or shape, or nothing."""
    for name in sorted(set(given) | set(wanted)):
        if name not in given:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} is unknown to it"
        shapes = tuple(given[name].shape), tuple(wanted[name].shape)
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} in the file and {shapes[1]} in the network"
    return ""


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all; equal content gives equal bytes."""
    known = {**metadata, "sha256": _digest(tensors, metadata)}
    one = {"db3kd": json.dumps(known, sort_keys=True)}  # several would come in any order
    write_atomically(path, safetensors.torch.save(tensors, one))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file and compare it with its checksum, where it has one."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(json.loads((file.metadata() or {}).get("db3kd", "{}")))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read: {error}; remove it or restore a copy") from None
    checksum = metadata.pop("sha256", None)
    if checksum is not None and checksum != _digest(tensors, metadata):
        raise Damaged(f"{path} differs from its checksum; remove it or restore a copy")
    return tensors, metadata
