"""An ONNX file as a teacher, run by ONNX Runtime."""

import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from db3kd.data.digest import combined, of_file
from db3kd.errors import InputError, TeacherError, hint, plain
from db3kd.teachers.base import Teacher
from db3kd.teachers.function import function


def onnx(
    file: str | Path,
    *,
    classes: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch: int = 256,
    threads: int = 0,
) -> Teacher:
    """Hide an ONNX model behind the label-only door.

    The first input takes float32 images (row, channel, height, width), or flattened ones if it has
    two axes. The first output is either whole class indices (row) or scores (row, classes); of
    scores only the argmax leaves. `threads` limits ONNX Runtime (0: all cores).

    Raises:
        InputError: the extra is not installed, or the file cannot be loaded.
        TeacherError: when asked, if the model fails or answers anything else.

    >>> onnx("no-such.onnx", classes=10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: no-such.onnx is not an ONNX model that can be loaded: ...
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
    except Exception as error:
        raise InputError(
            f"{file} is not an ONNX model that can be loaded: {plain(error)}"
        ) from error
    entry, leave = session.get_inputs()[0], session.get_outputs()[0]
    flat = len(entry.shape) == 2

    def ask(images: Float[Tensor, "row *image"]) -> Any:
        pixels = images.flatten(1) if flat else images
        (answers,) = session.run([leave.name], {entry.name: pixels.cpu().numpy()})
        if answers.ndim != 2 or answers.shape[1] != classes:
            return answers
        if np.isnan(answers).any():
            raise TeacherError("the model returned scores that are not a number")
        return answers.argmax(1)

    return function(
        ask,
        classes=classes,
        bounds=bounds,
        batch=batch,
        identify=lambda: onnx_parts(Path(file)),
    )


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
