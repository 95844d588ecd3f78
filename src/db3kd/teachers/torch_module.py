"""A torch module as a teacher."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from db3kd.config.remote import Encoding
from db3kd.data.digest import of_state
from db3kd.errors import InputError, TeacherError, described, plain
from db3kd.teachers.base import Teacher
from db3kd.teachers.classes import Classes, Told, Unknown, classes_of
from db3kd.teachers.encoding import Entry
from db3kd.teachers.faster import CPU_BATCH, Variant, faster
from db3kd.teachers.function import Asking
from db3kd.teachers.outputs import UNTOLD, picked, top
from db3kd.teachers.parts import Keeper, ask

GPU_BATCH = 8192

_log = logging.getLogger("db3kd")


def torch_module(
    module: nn.Module,
    *,
    classes: int | Sequence[str],
    bounds: tuple[float, float] = (0.0, 1.0),
    batch: int | None = None,
    device: str | torch.device | None = None,
    fast: bool = True,
    encoding: Encoding | None = None,
    output: str | None = None,
    unknown: Unknown = "refuse",
) -> "TorchTeacher":
    """Hide a torch module that returns scores behind the label-only door.

    The module is put into evaluation mode and moved to `device` (None: where it is). It takes
    float32 images (row, channel, height, width), or what `encoding` makes of them, in the type of
    its weights. It returns scores (row, classes); only their argmax leaves.
    `classes` is how many there are, or their names.
    Where it returns an object, a dict or a tuple, `output` names the scores in it; without it they
    are "logits", or the only scores of that many classes, or the first in a tuple.
    One score (row) or (row, 1) for two classes is class 1 above 0, or above 0.5 if the module ends
    in a sigmoid. Whole numbers (row) are class indices, and `unknown` says what -1 means.
    `batch` images are asked at once (None: at most 256 on a CPU, 8,192 on a GPU).

    With `fast`, on a CPU, the first question finds a faster way to ask the very same function
    (`db3kd.teachers.faster`): a copy of the module is traced, rewritten and compared with it on
    noise images, once, in well under a second; these are no queries. `chosen` and the log "db3kd"
    say what was taken. A module that cannot be rewritten, or with hooks, is asked as written.
    The choice is by rule, not by timing, and stays for all questions of that image shape, large or
    small; so a run that is killed and goes on meets the same teacher on a machine of that kind.
    Rewrites leave all bits of the scores as they are, or (channels_last) all but the last few: then
    an image whose two best scores are equal to about 1e-6 may get either class.
    The module's weights are watched: after they are changed (by an optimizer, `load_state_dict`, a
    new layer) the next question finds another way. A write through `weight.data` is not seen, and
    what `forward` does besides computing (prints, pauses) is not repeated: give `fast=False`.

    Raises:
        InputError: no module, a device that cannot be used, fewer than two classes, names twice,
            empty bounds, or an encoding as a file.
        TeacherError: when asked, if the module fails, or its scores are not numbers or misshapen.

    >>> teacher = torch_module(nn.Flatten(), classes=4)  # each pixel is a score
    >>> teacher.labels(torch.tensor([[0.1, 0.7], [0.2, 0.0]]).reshape(1, 1, 2, 2))
    tensor([1])
    """
    known, entry = classes_of(classes, unknown=unknown), Entry(encoding, bounds)
    prepare(module, device)
    return TorchTeacher(module, known, entry, batch, fast, output)


class TorchTeacher:
    """A torch module behind the label-only door; `torch_module` makes one.

    >>> net = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.MaxPool2d(2),
    ...                     nn.Flatten(), nn.Linear(45, 3))
    >>> teacher = torch_module(net, classes=3)
    >>> teacher.chosen
    'nothing yet: the first question decides'
    >>> answers = teacher.labels(torch.zeros(2, 1, 8, 8))
    >>> teacher.chosen
    'pool before ReLU, 2x2 pools as maxima, channels_last; batches of 256'
    """

    def __init__(
        self,
        module: nn.Module,
        known: Classes,
        entry: Entry,
        batch: int | None,
        fast: bool,
        output: str | None,
    ) -> None:
        self._module, self._batch, self._fast = module, batch, fast
        self._known, self._entry, self._output = known, entry, output
        self._place = next((p.device for p in module.parameters()), torch.device("cpu"))
        self._key: object = None
        self._shelves: list[dict[str, Any]] = []
        self._teacher: Teacher | None = None
        self.classes, self.bounds = known.count, entry.bounds
        self.names, self.unsure = known.called, known.unsure
        self.chosen = "nothing yet: the first question decides"

    def __repr__(self) -> str:
        return f"torch_module({type(self._module).__name__}: {self.chosen})"

    @property
    def identity(self) -> dict[str, str]:
        """A digest of the module's parts and weights as they are now; {} if they have none."""
        parts = self._module.named_modules()
        kinds = [f"{name} {type(part).__qualname__}" for name, part in parts]
        try:
            return {"weights of the module": of_state(kinds, self._module.state_dict())}
        except (RuntimeError, NotImplementedError, TypeError, ValueError):  # no plain tensors
            return {}

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; costs one query for each; same device as the images."""
        with _evaluating(self._module):
            return self._ready(images).labels(images)

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        """The same for a keeper, in parts of one batch."""
        with _evaluating(self._module):
            ask(self._ready(images), images, keeper)

    def _ready(self, images: Tensor) -> Teacher:
        """The way to ask about images of this shape, by the weights as they are now."""
        key = (images.shape[1:], _stamps(self._shelves))
        if self._teacher is None or (self._fast and key != self._key):
            self._shelves = _shelves(self._module)
            self._key = images.shape[1:], _stamps(self._shelves)
            self._teacher = self._choose(tuple(images.shape[1:]))
        return self._teacher

    def _choose(self, shape: tuple[int, ...]) -> Teacher:
        """Find out how to ask about images of this shape."""
        if self._place.type != "cpu":
            default = GPU_BATCH if self._place.type == "cuda" else CPU_BATCH
            way = Variant(self._module, default, f"as written: on {self._place.type}")
        elif not self._fast:
            way = Variant(self._module, CPU_BATCH, "as written: fast=False")
        else:
            way = faster(self._module, *self._entry.range(shape))
        batch = self._batch if self._batch is not None else way.batch
        self.chosen = f"{way.what}; batches of {batch}"
        _log.info("torch module %s: %s", type(self._module).__name__, self.chosen)
        place, net, known, output = self._place, way.net, self._known, self._output
        cast = _cast(self._module)

        def scored(images: Tensor) -> Int[Tensor, " row"]:
            with torch.inference_mode():
                shown = images.to(place, cast if images.is_floating_point() else None)
                scores = picked(net(shown), len(images), known.width, output)
                border = partial(_border, self._module, shown[:1], output)
                return top(scores, len(images), known, border, "the module")

        return Asking(scored, known, self._entry, batch)


def told(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    device: str | torch.device | None = None,
    encoding: Encoding | None = None,
    output: str | None = None,
) -> Told:
    """What a module says of its classes, when it is shown one blank image of this shape.

    That is no query. `config.id2label`, as modules of the package transformers have it, names them.
    A module that fails on the image says nothing.

    Raises:
        InputError: it is no module that can be asked, or the device cannot be used.

    >>> told(nn.Flatten(), (1, 2, 2)).count
    4
    """
    prepare(module, device)
    weight = next(module.parameters(), torch.zeros(0))
    blank = torch.full((1, *shape), bounds[0])
    try:
        with torch.inference_mode():
            shown = Entry(encoding, bounds)(blank)
            cast = _cast(module) if shown.is_floating_point() else None
            scores = picked(module(shown.to(weight.device, cast)), 1, None, output)
    except KeyboardInterrupt:
        raise
    except BaseException:  # the first question says what is wrong
        return Told()
    if not scores.is_floating_point() or scores.shape[:1] != (1,):
        return Told()
    width = max(2, scores.numel())
    labels = getattr(getattr(module, "config", None), "id2label", None)
    names = None
    if isinstance(labels, dict) and sorted(labels, key=str) == sorted(range(width), key=str):
        names = tuple(str(labels[place]) for place in range(width))
        if names == tuple(f"LABEL_{place}" for place in range(width)) or len(set(names)) < width:
            names = None
    return Told(width=width, names=names)


def prepare(module: object, device: str | torch.device | None) -> None:
    """Put a module into evaluation mode and onto a device.

    Raises:
        InputError: it is none, has no weights yet, or the device cannot be used.

    >>> prepare(nn.LazyLinear(2), None)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the module LazyLinear has layers whose weights are not made yet; ...
    """
    if not isinstance(module, nn.Module):
        kind = module.__name__ if isinstance(module, type) else type(module).__name__
        raise InputError(
            f"the teacher is {'the class' if isinstance(module, type) else 'a'} {plain(kind, 60)};"
            " a torch module is expected, with its weights loaded"
        )
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        raise InputError(
            f"the module {plain(type(module).__name__, 60)} has layers whose weights are not made"
            " yet; show it an image and load its weights first"
        )
    _evaluate(module)
    try:
        if device is not None:
            module.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"the module cannot be moved to the device {plain(device, 40)!r}: {described(error)}"
        ) from None


def _evaluate(module: nn.Module) -> None:
    with suppress(NotImplementedError):  # a program of torch.export has no other mode
        module.eval()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Ask in evaluation mode, whatever mode the user's own code has put the module into since."""
    training = [part for part in module.modules() if part.training]
    if training:
        _evaluate(module)
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _cast(module: nn.Module) -> torch.dtype | None:
    """The type of the weights that images are cast to; None if they are float32, or there are none.

    >>> _cast(nn.Linear(2, 2).half())
    torch.float16
    """
    kinds = (weight.dtype for weight in module.parameters() if weight.is_floating_point())
    kind = next(kinds, torch.float32)
    return None if kind == torch.float32 else kind


_SHAPES = {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice"}
_SHAPES |= {"Alias", "Clone", "ToCopy", "T", "Permute"}


def _border(module: nn.Module, image: Tensor, output: str | None) -> float:
    """Where class 1 begins in a module's one score: 0.5 after a sigmoid, 0 for a logit.

    Raises:
        TeacherError: it cannot be told.
    """
    with torch.inference_mode(False), torch.enable_grad():
        shown = image.clone()
        if shown.is_floating_point():
            shown.requires_grad_(True)
        step = picked(module(shown), 1, 2, output).grad_fn
    while step is not None and step.name().partition("Backward")[0] in _SHAPES:
        step = step.next_functions[0][0]
    last = "" if step is None else step.name()
    if last.startswith("SigmoidBackward"):
        return 0.5
    if not last or "Sigmoid" in last or "Softmax" in last or last.startswith("Differentiable"):
        raise TeacherError(f"the module {UNTOLD}")
    return 0.0


def _shelves(module: nn.Module) -> list[dict[str, Any]]:
    """Where a module keeps its weights and parts: `module.parameters()` takes far longer."""
    found = [(part._parameters, part._buffers, part._modules) for part in module.modules()]
    return [stored for shelves in found for stored in shelves if stored]


def _stamps(shelves: list[dict[str, Any]]) -> list[object]:
    """Where each weight lies and how often it was written to, and which parts there are."""
    things = [thing for stored in shelves for thing in stored.values()]
    return [_stamp(thing) if isinstance(thing, Tensor) else id(thing) for thing in things]


def _stamp(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
