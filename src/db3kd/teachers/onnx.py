"""An ONNX file as a teacher, run by ONNX Runtime."""

import mmap
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.config.remote import Encoding
from db3kd.data.digest import combined, of_file
from db3kd.errors import InputError, TeacherError, plain
from db3kd.teachers.base import Teacher
from db3kd.teachers.classes import Classes, Unknown, classes_of, read_said
from db3kd.teachers.encoding import Entry
from db3kd.teachers.function import Asking
from db3kd.teachers.onnx_model import Model, encoding_for, open_model
from db3kd.teachers.outputs import UNTOLD, top


def onnx(
    file: str | Path,
    *,
    classes: int | Sequence[str] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch: int = 256,
    threads: int = 0,
    encoding: Encoding | None = None,
    output: str | None = None,
    unknown: Unknown = "refuse",
) -> Teacher:
    """Hide an ONNX model behind the label-only door.

    Much is read from the file: the type of its input (float, float16, double, or uint8 of 0 to
    255), whether channels are its first or its last axis (first, where both could be), whether
    images are flattened, how many go in at once, and the names of its classes in its metadata
    ("names", "classes", "class_names" or "labels"). `encoding` says what the file does not: size,
    channels, units, and a layout that it leaves open.

    Of several outputs it reads the one called `output`, or else the labels, or the only scores. It
    may hold scores (row, classes), of which only the argmax leaves; labels, whole numbers or texts;
    maps from labels to scores; or one score for two classes, which is class 1 above 0.5 after a
    sigmoid, and above 0 where a linear layer gives it.
    `classes` is how many there are, or their names; it may be None where the file says it.
    `unknown` says what -1 and texts that are no names mean. `threads` limits ONNX Runtime (0: all
    cores).

    Raises:
        InputError: the extra is not installed, the file cannot be loaded, or it contradicts what
            is said of it or leaves it open.
        TeacherError: when asked, if images do not fit, or the model fails or answers anything else.

    >>> onnx("no-such.onnx", classes=10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: no-such.onnx is not an ONNX model that can be loaded: ...
    """
    count, _ = read_said(classes)
    model = open_model(file, output=output, classes=count, threads=threads)
    known = classes_of(classes, model.told, unknown=unknown)
    return of_model(model, known, Entry(encoding_for(model, encoding), bounds), batch, Path(file))


def of_model(model: Model, known: Classes, entry: Entry, batch: int, file: Path) -> Teacher:
    """The teacher that asks a model which was opened from a file."""
    last = entry.encoding is not None and entry.encoding.layout == "hwc"

    def ask(images: Tensor) -> Int[Tensor, " row"]:
        returned = model.run(model.taken(images, last=last))
        return _classes(returned, len(images), known, model)

    return Asking(ask, known, entry, batch, lambda: onnx_parts(file))


def _classes(returned: Any, rows: int, known: Classes, model: Model) -> Int[Tensor, " row"]:
    """Class indices of what a model returned: scores, answers, or maps from answers to scores."""
    if isinstance(returned, list):
        return known.indices([_highest(scores) for scores in returned], rows)
    if model.leave.picks:
        wide = [size for size in returned.shape[1:] if size != 1]
        if len(wide) <= (model.leave.maker != "ArgMax"):
            return known.indices(returned.reshape(rows, -1)[:, 0].astype(np.int64), rows)
    if returned.dtype.kind in "OUS":
        return known.indices(returned.reshape(rows), rows)

    def border() -> float:
        if model.border is None:
            raise TeacherError(f"the output {model.leave} {UNTOLD}")
        return model.border

    return top(torch.from_numpy(returned), rows, known, border, "the model")


def _highest(scores: Any) -> Any:
    if not isinstance(scores, dict) or not scores:
        raise TeacherError(f"the model returned {plain(scores, 60)} for an image, no scores")
    if any(np.isnan(score) for score in scores.values()):
        raise TeacherError("the model returned scores that are not a number")
    return max(scores, key=scores.__getitem__)


def onnx_parts(file: Path, digest: Callable[[Path], str] = of_file) -> dict[str, str]:
    r"""A digest of an ONNX file, and one of the files that hold its weights, if it has such.

    `digest` gives that of one file.

    Raises:
        InputError: a file cannot be read.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> entry = b"\x0a\x08location\x12\x05t.bin"  # as ONNX names a file of weights
    >>> (folder / "t.onnx").write_bytes(entry), (folder / "t.bin").write_bytes(b"weights")
    (17, 7)
    >>> list(onnx_parts(folder / "t.onnx"))
    ['file t.onnx', 'data of the model']
    """
    try:
        parts = {f"file {file.name}": digest(file)}
        beside = [name for name in _external(file) if (file.parent / name).is_file()]
        if beside:
            each = (f"{name} {digest(file.parent / name)}" for name in beside)
            parts["data of the model"] = combined("external data", each)
    except OSError as error:
        raise InputError(f"{error.filename or file} cannot be read: {error.strerror}") from None
    return parts


def _external(file: Path) -> list[str]:
    """The names of the files that an ONNX file says to hold its weights, in order.

    Each is the value of an entry with the key "location" (`StringStringEntryProto` of onnx.proto):
    field 2, of a length in seven bits a byte, the lowest first.
    """
    names = set()
    if not file.stat().st_size:
        return []
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as model:
        for found in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]?[\x00-\x7f])", model):
            length = sum((byte & 127) << 7 * place for place, byte in enumerate(found[1]))
            name = model[found.end() : found.end() + length]
            if b"\0" not in name:
                names.add(os.fsdecode(name))
            del found  # it holds the model open
    return sorted(names)
