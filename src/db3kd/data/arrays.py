"""Arrays as images: which ones are taken, and what is to be done with the others."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from db3kd.errors import InputError

KINDS = "give float32, or uint8 of 0..255 for k/255"


def tensor_of(values: Any) -> Tensor:
    """A tensor or NumPy array of (sample, channels, height, width) as a tensor, uint8 or float32.

    It shares memory with the array where it can. float64 of NumPy becomes float32.

    Raises:
        InputError: `values` is something else, has another order, or is not finite where converted.

    >>> tensor_of(np.zeros((2, 1, 4, 4))).dtype
    torch.float32
    >>> tensor_of(np.zeros((2, 32, 32, 3), np.uint8))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: images have shape (2, 32, 32, 3), with channels last; give (sample,
    channels, height, width), by images.transpose(0, 3, 1, 2)
    """
    if not isinstance(values, Tensor | np.ndarray):
        raise InputError(
            f"images are {type(values).__name__}; give a tensor or a NumPy array of (sample,"
            " channels, height, width)"
        )
    _check_shape(values)
    if isinstance(values, Tensor):
        if values.dtype not in (torch.uint8, torch.float32):
            raise InputError(f"images are {values.dtype}; {KINDS}")
        if values.layout != torch.strided or values.is_meta:
            raise InputError(
                "images are a sparse tensor, or one without values; give one that holds all,"
                " by images.to_dense()"
            )
        return values.detach()
    kind = values.dtype.newbyteorder("=")
    if kind not in (np.uint8, np.float32, np.float64):
        raise InputError(f"images are {kind}; {KINDS}")
    if kind == np.float64:
        kind = np.dtype(np.float32)
        with np.errstate(over="ignore"):
            values = values.astype(kind)
        if not np.isfinite(values).all():
            raise InputError("images have values that are not finite; give finite ones")
    return torch.from_numpy(np.require(values, kind, ["C", "W"]))


def _check_shape(values: Any) -> None:
    shape = tuple(values.shape)
    if len(shape) == 3:
        raise InputError(
            f"images have shape {shape}; give (sample, channels, height, width): grey images by"
            " images[:, None], a single image by images[None]"
        )
    if len(shape) != 4:
        raise InputError(
            f"images have shape {shape}; give four dimensions: (sample, channels, height, width)"
        )
    _, channels, height, width = shape
    if channels not in (1, 3) and width in (1, 3, 4) and width < min(channels, height):
        name = "permute" if isinstance(values, Tensor) else "transpose"
        raise InputError(
            f"images have shape {shape}, with channels last; give (sample, channels, height,"
            f" width), by images.{name}(0, 3, 1, 2)"
        )
