"""An ONNX file, and what it says of itself: what it takes, what it returns, its classes."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from db3kd.config.remote import Encoding
from db3kd.data.names import listed_names
from db3kd.errors import InputError, TeacherError, hint, plain
from db3kd.teachers.classes import Told
from db3kd.teachers.onnx_graph import Graph, read_graph

LONGEST_NAMES = 2**22  # characters of the names of classes in a file's metadata
NAMED = (
    "names",
    "classes",
    "class_names",
    "labels",
    "character",
)  # keys of the metadata that hold them
EIGHT_BIT = "tensor(uint8)"
BEST = "TopK"  # makes the best scores in their order, and the numbers of their classes
_KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    EIGHT_BIT: np.uint8,
}
_WHOLE = tuple(f"tensor({sign}int{bits})" for sign in ("", "u") for bits in (8, 16, 32, 64))
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Port:
    """An input or an output: its name, its type in ONNX, and its axes, None where they vary.

    `maker`: the operator of an output (`Graph.maker`).

    >>> Port("x", "tensor(float)", (None, 8, 8, 3)).last
    True
    """

    name: str
    kind: str
    shape: Shape
    maker: str = ""

    def __str__(self) -> str:
        axes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{plain(self.name, 60)} ({axes})"

    @property
    def last(self) -> bool | None:
        """Whether channels are the last axis of four; None if both ways are possible."""
        if len(self.shape) != 4:
            return False
        first, last = (self.shape[axis] in (1, 3) for axis in (1, 3))
        if first == last:
            return None if first or self.shape[1] is None else False
        return last

    @property
    def answers(self) -> bool:
        """Whether it holds one answer for each image: whole numbers or texts."""
        rest = self.shape[1:]
        said = self.kind in _WHOLE or self.kind == "tensor(string)"
        return self.picks or (said and bool(self.shape) and rest == (1,) * len(rest))

    @property
    def picks(self) -> bool:
        """Whether it holds the numbers of the best classes, the very best first."""
        return self.maker in ("ArgMax", BEST + ":1")

    @property
    def maps(self) -> bool:
        """Whether it holds a map from labels to scores for each image."""
        return self.kind.startswith("seq(map(")

    @property
    def width(self) -> int | None:
        """How many scores it has for each image, 0 if these are none; None if that varies."""
        wide = [size for size in self.shape[1:] if size != 1]
        if self.kind not in _KINDS or self.maker == BEST or self.picks or len(wide) > 1:
            return 0
        if not self.shape:
            return None
        return wide[0] if wide else 1


@dataclass(frozen=True)
class Model:
    """A model that can be run: one input, the output that is read, and what is known of them.

    - `told`: what the file says of its classes.
    - `border`: where class 1 begins if it has one score; None if that cannot be told.
    """

    session: Any
    entry: Port
    leave: Port
    told: Told
    border: float | None

    def run(self, pixels: NDArray[Any]) -> Any:
        """What the model returns for images as it takes them: an array, or a list of maps.

        Images go in parts of the file's own batch, if it has one; the last part is filled up.
        """
        fixed = self.entry.shape[0] if self.entry.shape else None
        size = fixed or len(pixels)
        found = []
        for first in range(0, len(pixels), size):
            part = pixels[first : first + size]
            short = size - len(part)
            filled = np.concatenate([part, np.repeat(part[-1:], short, 0)]) if short else part
            (answers,) = self.session.run([self.leave.name], {self.entry.name: filled})
            if len(answers) != size:
                raise TeacherError(
                    f"the model returned {len(answers)} rows in {self.leave} for {size} images"
                )
            found.append(answers[: len(part)])
        if isinstance(found[0], list):
            return [row for part in found for row in part]
        return np.concatenate(found)

    def taken(self, images: torch.Tensor, *, last: bool) -> NDArray[Any]:
        """Images (row, channel, height, width) in the layout and the type that the model takes.

        `last`: their channels are the last axis already.

        Raises:
            TeacherError: the model takes images of another shape.
        """
        rank, given = len(self.entry.shape), tuple(images.shape)
        shown = images
        if rank == 2:
            shown = images.flatten(1)
        elif len(given) == 4 and self.entry.last and not last:
            shown = images.permute(0, 2, 3, 1)
        elif len(given) == 4 and rank == 3 and 1 in (given[1], given[3]):
            shown = images.squeeze(3 if last else 1)
        wanted = self.entry.shape[1:]
        fits = not rank or len(wanted) == shown.ndim - 1
        pairs = zip(wanted, shown.shape[1:], strict=False)
        if not fits or any(size not in (None, got) for size, got in pairs):
            raise TeacherError(self._misfit(given, last=last))
        return np.ascontiguousarray(shown.cpu().numpy().astype(_KINDS[self.entry.kind], copy=False))

    def _misfit(self, given: tuple[int, ...], *, last: bool) -> str:
        text = f"images of shape {given} do not fit the model, which takes {self.entry}"
        if len(self.entry.shape) != 4 or len(given) != 4:
            return f"{text}; say by encoding what it takes"
        theirs = [self.entry.shape[axis] for axis in ((3, 1, 2) if self.entry.last else (1, 2, 3))]
        mine = [given[3], given[1], given[2]] if last else [given[1], given[2], given[3]]
        advice = []
        size = [want or have for want, have in zip(theirs[1:], mine[1:], strict=True)]
        if size != mine[1:]:
            advice.append(f"size = {size}")
        if theirs[0] not in (None, mine[0]):
            advice.append('channels = "grey"' if theirs[0] == 1 else 'channels = "rgb" or "bgr"')
        return f"{text}; have them adapted by encoding: {', '.join(advice)}"


def open_model(
    file: str | Path, *, output: str | None = None, classes: int | None = None, threads: int = 0
) -> Model:
    """Load an ONNX file. `classes`: how many it is said to have, which tells outputs apart.

    Raises:
        InputError: the extra is not installed, or the file cannot be loaded, or it is not known
            what to give it or which of its outputs to read.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"an ONNX teacher needs the extra: {hint('onnx')}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=onnxruntime.get_available_providers()
        )
        graph = read_graph(Path(file))
    except Exception as error:
        raise InputError(
            f"{file} is not an ONNX model that can be loaded: {plain(error)}"
        ) from error
    entry = _entry(_ports(session.get_inputs()), str(file))
    leave = _leave(_ports(session.get_outputs(), graph), output, classes, str(file))
    told = _told(leave, graph.labels, session.get_modelmeta().custom_metadata_map)
    return Model(session, entry, leave, told, graph.border(leave.name))


def encoding_for(model: Model, encoding: Encoding | None) -> Encoding | None:
    """What images are made into for a model: as the user says, or else as the file says.

    Raises:
        InputError: they contradict each other.
    """
    whole = model.entry.kind == EIGHT_BIT
    if encoding is None:
        return Encoding(kind="uint8") if whole else None
    if whole and encoding.kind == "float32":
        raise InputError(
            f'encoding.kind is "float32", but the model takes {model.entry} as uint8; set it to'
            ' "uint8"'
        )
    if encoding.layout == "hwc" and model.entry.last is False and len(model.entry.shape) == 4:
        raise InputError(
            f'encoding.layout is "hwc", but the model takes {model.entry}, channels first; remove'
            " the layout"
        )
    if encoding.layout == "flat" and len(model.entry.shape) not in (0, 2):
        raise InputError(
            f'encoding.layout is "flat", but the model takes {model.entry}; remove the layout'
        )
    return encoding


def _ports(found: Sequence[Any], graph: Graph | None = None) -> list[Port]:
    return [
        Port(
            port.name,
            port.type,
            tuple(size if isinstance(size, int) and size > 0 else None for size in port.shape),
            "" if graph is None else graph.maker(port.name),
        )
        for port in found
    ]


def _entry(entries: list[Port], file: str) -> Port:
    if len(entries) != 1:
        names = ", ".join(map(str, entries[:6]))
        raise InputError(
            f"{file} has {len(entries)} inputs ({names}); a model of one input, the images, is"
            " expected"
        )
    [entry] = entries
    if entry.kind not in _KINDS:
        raise InputError(
            f"{file} takes {entry} as {entry.kind}; float, float16, double or uint8 is expected"
        )
    if len(entry.shape) not in (0, 2, 3, 4):
        raise InputError(f"{file} takes {entry}; images of two to four axes are expected")
    return entry


def _leave(leaves: list[Port], output: str | None, classes: int | None, file: str) -> Port:
    """The output that is read, unless nobody can tell of which classes its scores are."""
    found = _wanted(leaves, output, classes, file)
    if found.maker == BEST:
        raise InputError(
            f"the output {found} of {file} holds the best scores in their order, not one for each"
            " class; name by output the one with the numbers of their classes, or give a file with"
            " all scores"
        )
    return found


def _wanted(leaves: list[Port], output: str | None, classes: int | None, file: str) -> Port:
    """The output that is named, or the only one, labels, or scores."""
    all_of_them = ", ".join(map(str, leaves[:8]))
    if output is not None:
        named = [leave for leave in leaves if leave.name == output]
        if not named:
            raise InputError(
                f"{file} has no output {plain(output, 60)!r}; it has {all_of_them}; correct output"
            )
        return named[0]
    if len(leaves) == 1:
        return leaves[0]
    answers = [leave for leave in leaves if leave.answers]
    if len(answers) == 1:
        return answers[0]
    scores = [leave for leave in leaves if leave.width != 0]
    if classes is not None and len(scores) > 1:
        scores = [leave for leave in scores if leave.width == classes] or scores
    if len(scores) == 1 and not answers:
        return scores[0]
    raise InputError(
        f"{file} has the outputs {all_of_them}; say by output which of them holds the scores or the"
        " labels"
    )


def _told(leave: Port, labels: tuple[str, ...], metadata: Mapping[str, str]) -> Told:
    """What a file says of its classes, for the output that is read."""
    width: int | None = 2 if leave.width == 1 else leave.width or None
    if leave.answers or leave.maps:
        width = len(labels) or None
    if not labels or width not in (None, len(labels)):
        labels = ()
    elif labels == tuple(map(str, range(len(labels)))):
        width, labels = len(labels), ()  # they say no more than their number
    names = _names(metadata)
    if names is not None and len(names) != (len(labels) or width or len(names)):
        names = None
    return Told(width, labels or None, names)


def _names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names of classes in a file's metadata.

    They are JSON, or what Python writes of a list or dict, or a name in each line.
    """
    for key in NAMED:
        text = metadata.get(key, "")
        if not 0 < len(text) <= LONGEST_NAMES:
            continue
        for read in (json.loads, ast.literal_eval, str.splitlines):
            try:
                found = read(text)
                names = tuple(listed_names(list(found) if isinstance(found, tuple) else found))
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
            if len(names) > 1 and len(set(names)) == len(names) and all(names):
                return names
    return None
