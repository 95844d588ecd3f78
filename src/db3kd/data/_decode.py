"""Decoding: from the encoded bytes of images to their pixels, the same for every kind of file."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from db3kd.data._pixels import (
    FULL,
    Form,
    Size,
    Unfit,
    depth_of,
    is_deep,
    pixels,
    shrunk,
    top_of,
    turned,
)
from db3kd.errors import InputError, described, plain

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "PPM", "TIFF", "GIF")
"""The only decoders that may read bytes from a file."""

KNOWN = "PNG, JPEG, BMP, WebP, PPM, TIFF or GIF"
MOVING = ("GIF", "TIFF", "WEBP", "PNG")  # of several frames, which are images of their own
TRIES = 16  # images that are looked at for one that decodes
SEEN = 64  # images that tell how many bits a set has

Content = Callable[[int], bytes]
"""Gives the encoded bytes of an image."""

_KINDS = (  # where they begin, how they do, what they are
    (0, b"\x89PNG", "a damaged PNG file"),
    (0, b"\xff\xd8\xff", "a damaged JPEG file"),
    (0, b"GIF8", "a damaged GIF file"),
    (0, b"RIFF", "no WebP file, or a damaged one"),
    (0, b"II*\0", "a damaged TIFF file"),
    (0, b"MM\0*", "a damaged TIFF file"),
    (0, b"BM", "a damaged BMP file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\0\0\x01\0", "an icon file"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (0, b"\0\x05\x16\x07", "what a Mac keeps beside a file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, so get it by `git lfs pull`"),
    (4, b"ftypavif", "an AVIF file"),
    (4, b"ftyphei", "a HEIC file"),
    (4, b"ftypmif1", "a HEIC file"),
)
Made = TypeVar("Made")
_log = logging.getLogger("db3kd")


def check_rows(rows: Tensor, count: int) -> None:
    """Refuse row numbers outside 0 to `count` - 1."""
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        outside = int(rows[(rows < 0) | (rows >= count)][0])
        raise InputError(f"row {outside} was asked for; there are {count:,} rows, counted from 0")


def decoded(encoded: Content, where: Callable[[int], str], row: int, form: Form) -> Any:
    """Decode one image to uint8 of shape (channels, height, width).

    Raises:
        InputError: it cannot be decoded; the text names it by `where`.
    """
    return _made(where, row, lambda row: pixels(turned(_opened(encoded(row))), form))


class Decoding:
    """How the images of one set are decoded: all to the same shape, and to the same white.

    `encoded` gives the bytes of an image, `where` its name. The shape is that of the first image
    that decodes, of at most 16; `damaged` finds the others. The first 64 images tell how many bits
    a set of more than 8 bits has.

    Raises:
        InputError: none of the first images can be decoded; `size` or `channels` cannot be.

    >>> def png(row):
    ...     from PIL import Image
    ...     file = BytesIO(); Image.new("L", (2, 2), 255 * row).save(file, "PNG")
    ...     return file.getvalue()
    >>> decoding = Decoding(png, "image {}".format, 2, None, None)
    >>> decoding.shape, decoding.read(torch.tensor([1]))[0, 0, 0]
    ((1, 2, 2), tensor([1., 1.]))
    """

    def __init__(
        self,
        encoded: Content,
        where: Callable[[int], str],
        count: int,
        size: Size,
        channels: int | None,
    ) -> None:
        self._encoded, self._where, self._count = encoded, where, count
        self._moving = False  # whether further frames were told of
        self.form = Form(size, channels)
        self.top: float | None = None  # what is white, if the first image has more than 8 bits
        first, self.shape = self._first()
        if is_deep(first):
            self.top = self._top()
            self.form = replace(self.form, top=self.top)

    def read(self, rows: Tensor) -> Tensor:
        """Decode each wanted row once, in ascending order, so that each block is read once.

        Uses one thread. Decoding takes 45 microseconds an image, so several threads would only wait
        for each other, and were twice as slow.
        """
        check_rows(rows, self._count)
        wanted, place = torch.unique(rows.cpu(), return_inverse=True)
        found = np.empty((len(wanted), *self.shape), dtype=np.uint8)
        for at, row in enumerate(wanted.tolist()):
            found[at] = self._pixels(row)
        return torch.from_numpy(found)[place].float().div_(255)

    def fault(self, row: int) -> str | None:
        """Why an image cannot be used, in one sentence; None if it can."""
        try:
            self._pixels(row)
        except InputError as error:
            return str(error)
        return None

    def photograph(self, row: int, channels: int, side: int) -> Any:
        """One image in its own size, but no finer than `side`; see `photographs.Photograph`.

        Raises:
            InputError: it cannot be decoded.
        """
        form = Form(None, channels, self.form.top)
        return _made(
            self._where, row, lambda row: shrunk(pixels(self._image(row, side), form), side)
        )

    def _pixels(self, row: int) -> Any:
        found = _made(self._where, row, lambda row: pixels(self._image(row), self.form))
        if found.shape != self.shape:
            raise InputError(
                f"{self._where(row)} has shape {found.shape} but the first image has {self.shape}"
                " (channels, height, width); convert them with size= or channels="
            )
        return found

    def _image(self, row: int, side: int | None = None) -> "Image":
        """An image, turned; with `side`, a JPEG file may be read at a fraction of its size."""
        image = _opened(self._encoded(row))
        if side is not None:
            scale = 2 * side / min(image.size)  # twice as fine as wanted, for the filter
            image.draft(None, (round(scale * image.width), round(scale * image.height)))
        if not self._moving and image.format in MOVING:
            with suppress(Exception):  # damaged frames behind the first, which is well
                self._moving = bool(getattr(image, "is_animated", False))
            if self._moving:
                _log.warning(
                    "%s has several frames; of such images only the first is taken",
                    self._where(row),
                )
        return turned(image)

    def _first(self) -> tuple["Image", tuple[int, int, int]]:
        """The first image that can be used, and its shape."""

        def tried(row: int) -> tuple["Image", tuple[int, int, int]]:
            image = self._image(row)
            return image, pixels(image, self.form).shape

        faults = []
        for row in range(min(self._count, TRIES)):
            try:
                return _made(self._where, row, tried)
            except InputError as error:
                faults.append(str(error))
        if len(faults) == 1:
            raise InputError(faults[0])
        raise InputError(f"none of the first {len(faults)} images can be used: {faults[0]}")

    def _top(self) -> float:
        """What is white in a set of more than 8 bits, and a word about it."""
        top = top_of(self._depths())
        if top != FULL:
            _log.warning(
                "%s has more than 8 bits, but the first images of the set hold nothing above %g, so"
                " %g is taken as white in all of them",
                self._where(0),
                top,
                top,
            )
        return top

    def _depths(self) -> Iterator[tuple[float, bool]]:
        def seen(row: int) -> tuple[float, bool] | None:
            image = self._image(row)
            return depth_of(image) if is_deep(image) else None

        for row in range(min(self._count, SEEN)):
            with suppress(InputError):  # `fault` names it
                depth = _made(self._where, row, seen)
                if depth is not None:
                    yield depth


def _opened(content: bytes) -> "Image":
    """Open an image by what it is, not by its name."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise Unfit("cannot be decoded: it is empty")
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Unfit(f"cannot be decoded: it is {_kind(content)}; give {KNOWN}") from None


def _kind(content: bytes) -> str:
    """What a file is that is no image."""
    for at, begin, kind in _KINDS:
        if content[at:].startswith(begin):
            return kind
    words = content[:512].lstrip().lower()
    if words.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if words.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML file"
    return f"no known image (it begins with {content[:8]!r})"


def _made(where: Callable[[int], str], row: int, make: Callable[[int], Made]) -> Made:
    """What is made of an image; whatever a decoder raises becomes one sentence."""
    from PIL import Image

    try:
        return make(row)
    except InputError:
        raise
    except Unfit as error:
        raise InputError(f"{where(row)} {error}") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{where(row)} is too large: {plain(error)}") from None
    except Exception as error:  # decoders raise nearly anything if bytes are damaged
        raise InputError(f"{where(row)} cannot be decoded: {described(error)}") from None
