"""An ONNX file as a teacher, run by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from db3kd.errors import InputError, TeacherError, plain
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
        raise InputError("an ONNX teacher needs the extra: pip install 'db3kd[onnx]'") from None
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

    return function(ask, classes=classes, bounds=bounds, batch=batch)
