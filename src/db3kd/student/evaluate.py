"""What a network answers, how often it is right, and how often two networks agree."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from db3kd.data import Images
from db3kd.errors import InputError, described, plain
from db3kd.student.networks import inference_batch


def predict(
    network: nn.Module, images: Images, *, device: str | torch.device, batch: int | None = None
) -> Int[Tensor, "sample"]:
    """Return the network's top-1 class of every image, on the CPU.

    The network is moved to the device. Its mode, training or evaluation, is restored afterwards.
    `batch`: how many images are read and shown at a time; default `networks.inference_batch`.

    Costs no query. Nothing is random.

    Raises:
        InputError: the device does not exist, or `batch` is below 1.

    >>> from db3kd.data import TensorImages
    >>> network = nn.Flatten()
    >>> predict(network, TensorImages(torch.eye(3).reshape(3, 1, 1, 3)), device="cpu")
    tensor([0, 1, 2])
    """
    found = [part.argmax(dim=1).cpu() for part in _shown(network, images, device, batch)]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *found])


def logits(
    network: nn.Module, images: Images, *, device: str | torch.device, batch: int | None = None
) -> Float[Tensor, "sample classes"]:
    """Return what the network gives for every image, on the CPU; otherwise as `predict`.

    Costs no query. Nothing is random.

    Raises:
        InputError: as `predict`; or there are no images.

    >>> from db3kd.data import TensorImages
    >>> logits(nn.Flatten(), TensorImages(torch.ones(1, 1, 1, 2)), device="cpu")
    tensor([[1., 1.]])
    """
    if not len(images):
        raise InputError("there are no images")
    return torch.cat([part.cpu() for part in _shown(network, images, device, batch)])


def _shown(
    network: nn.Module, images: Images, device: str | torch.device, batch: int | None
) -> Iterator[Tensor]:
    """What a network gives for the images, a batch at a time."""
    if batch is None:
        batch = inference_batch(images.shape)
    if batch < 1:
        raise InputError(f"batch must be at least 1, got {batch}")
    torch_device = device_of(device)
    mode = network.training
    network.to(torch_device).eval()
    try:
        with torch.no_grad():
            for start in range(0, len(images), batch):
                rows = torch.arange(start, min(start + batch, len(images)))
                yield network(images.read(rows).to(torch_device))
    finally:
        network.train(mode)


def accuracy(answers: Int[Tensor, "sample"], labels: Int[Tensor, "sample"]) -> float:
    """Return the share of answers, from 0 to 1, that equal the true label.

    Raises:
        InputError: there are no answers, or answers and labels differ in number.

    >>> accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 0]))
    0.75
    """
    return agreement(answers, labels)


def agreement(first: Int[Tensor, "sample"], second: Int[Tensor, "sample"]) -> float:
    """Return the share of samples, from 0 to 1, on which two models give the same answer.

    Raises:
        InputError: there are no answers, or the two models differ in the number of answers.

    >>> agreement(torch.tensor([1, 2]), torch.tensor([1, 1]))
    0.5
    """
    if len(first) != len(second) or not len(first):
        raise InputError(
            f"answers must be of the same samples, at least one; got {len(first)} and {len(second)}"
        )
    return int((first == second.to(first.device)).sum()) / len(first)


def interval(share: float, count: int) -> tuple[float, float]:
    """The Wilson interval of 95 % of a share that was seen in `count` samples.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> low, high = interval(0.9, 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    z = 1.959964
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def device_of(device: str | torch.device) -> torch.device:
    """Return the device with its number; refuse one that does not exist."""
    try:
        torch_device = torch.device(device)
    except RuntimeError:
        raise InputError(f'device must be "cpu", "cuda" or "cuda:N", got {device!r}') from None
    if torch_device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (torch_device.index or 0) >= count:
            raise InputError(
                f'there is no device {torch_device}; GPUs found: {count}; give "cpu" or another one'
            )
        return (
            torch_device
            if torch_device.index is not None
            else torch.device("cuda", torch.cuda.current_device())
        )
    return torch_device


def check_trainable(network: object, shape: tuple[int, int, int]) -> None:
    """Refuse what cannot be trained, before anything is asked; costs no query.

    A copy is shown two black images in training mode, which may return something else.

    Raises:
        InputError: it is no torch module, has no weights that can be trained, or does not return
            one row of scores for each image.

    >>> check_trainable(nn.Flatten(), (1, 8, 8))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the network Flatten has no weights that can be trained; give one that
    can learn
    """
    if not isinstance(network, nn.Module):
        kind = network.__name__ if isinstance(network, type) else type(network).__name__
        raise InputError(
            f"the network is {'the class' if isinstance(network, type) else 'a'} {plain(kind, 60)};"
            " give a torch module"
        )
    name = plain(type(network).__name__, 60)
    if any(map(is_lazy, (*network.parameters(), *network.buffers()))):
        raise InputError(
            f"the network {name} has layers whose weights are not made yet; show it an image first"
        )
    if not any(weight.requires_grad for weight in network.parameters()):
        raise InputError(
            f"the network {name} has no weights that can be trained; give one that can learn"
        )
    if any(weight.is_meta for weight in network.parameters()):
        raise InputError(f"the network {name} is on the device meta and has no values; fill it")
    scores = _in_training(network, shape)
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != 2:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(
            f"in training mode the network {name} must return a tensor (images, classes), got"
            f" {plain(got, 60)} for two images; let it return its scores alone"
        )


def _in_training(network: nn.Module, shape: tuple[int, int, int]) -> Any:
    """What a copy of a network returns in training mode."""
    place = next(network.parameters()).device
    with (
        _told(f"in training mode on two images of shape {shape}"),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        return copy.deepcopy(network).train()(torch.zeros(2, *shape, device=place))


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Say in a sentence that the user's own code fails, and where."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = plain(error, 200) if isinstance(error, RuntimeError) else described(error, 200)
        raise InputError(f"the network fails {where}: {reason}") from error


def classes_of(network: nn.Module, images: Images) -> int:
    """How many classes a network tells apart, found by showing it the first image.

    Its mode is restored. Costs no query.

    Raises:
        InputError: the network fails on the image, or does not return one row of scores for it.

    >>> from db3kd.data import TensorImages
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
        with _told(f"on an image of shape {images.shape}"), torch.no_grad():
            scores = network.eval()(image)
    finally:
        for part, mode in modes:
            part.training = mode
    if not isinstance(scores, Tensor):
        raise InputError(
            f"the network must return a tensor (images, classes), got"
            f" {plain(type(scores).__name__, 60)}"
        )
    found = tuple(scores.shape)
    if len(found) != 2 or found[0] != 1:
        raise InputError(f"the network must return (images, classes), got {found} for one image")
    return int(found[1])
