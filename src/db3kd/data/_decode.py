"""Decoding: from the encoded bytes of an image to pixels, the same for every kind of file."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from db3kd.errors import InputError, described, plain

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 8192  # pixels of a side that images are made into
MOST_PIXELS = 2**28  # of an image that is resized, before its edges are cut off
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # the only decoders that may read bytes from a file


@dataclass(frozen=True)
class Form:
    """The size and the colours that the user wants images converted to."""

    size: int | None
    channels: int | None

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= LARGEST:
            raise InputError(
                f"size is {self.size}; give the side of the image, at least 1 and at most"
                f" {LARGEST:,}, or None"
            )
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}; give 1 (grey), 3 (RGB) or None")


def check_rows(rows: Tensor, count: int) -> None:
    """Refuse row numbers outside 0 to `count` - 1."""
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        outside = int(rows[(rows < 0) | (rows >= count)][0])
        raise InputError(f"row {outside} was asked for; there are {count:,} rows, counted from 0")


def read_rows(
    encoded: Callable[[int], bytes],
    where: Callable[[int], str],
    rows: Tensor,
    form: Form,
    shape: tuple[int, int, int],
) -> Tensor:
    """Decode each wanted row once, in ascending order, so that each block is read once.

    Uses one thread. Decoding takes 45 microseconds an image, so several threads would only wait for
    each other, and were twice as slow.
    """
    wanted, place = torch.unique(rows.cpu(), return_inverse=True)
    pixels = np.empty((len(wanted), *shape), dtype=np.uint8)
    for at, row in enumerate(wanted.tolist()):
        image = decoded(encoded, where, row, form)
        if image.shape != shape:
            raise InputError(
                f"{where(row)} has shape {image.shape} but the first image has {shape} (channels,"
                " height, width); convert them with size= or channels="
            )
        pixels[at] = image
    return torch.from_numpy(pixels)[place].float().div_(255)


def decoded(
    encoded: Callable[[int], bytes], where: Callable[[int], str], row: int, form: Form
) -> Any:
    """Decode one image to uint8 of shape (channels, height, width)."""
    from PIL import Image

    try:
        with Image.open(BytesIO(encoded(row)), formats=FORMATS) as image:
            pixels = np.asarray(formed(image, form))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{where(row)} is too large: {plain(error)}") from None
    except Exception as error:  # decoders raise nearly anything if bytes are damaged
        raise InputError(f"{where(row)} cannot be decoded: {described(error)}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def formed(image: "Image", form: Form) -> "Image":
    """Convert an image to 8-bit grey or RGB, then resize and crop it to the wanted size."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # PIL would clip at 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise PIL warns
    grey = image.mode in ("L", "1") if form.channels is None else form.channels == 1
    mode = "L" if grey else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    if form.size is None or image.size == (form.size, form.size):
        return image
    short = min(image.size)
    width, height = (max(form.size, round(side * form.size / short)) for side in image.size)
    if width * height > MOST_PIXELS:
        raise InputError(
            f"an image of {image.size} pixels is too long to be resized to {form.size}"
        )
    left, top = (width - form.size) // 2, (height - form.size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + form.size, top + form.size))
