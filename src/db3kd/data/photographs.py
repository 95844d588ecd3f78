"""Photographs of any size, decoded once and kept small, and random crops of them."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from db3kd.data._pixels import shrunk
from db3kd.data.content import Tell
from db3kd.data.images import Images, Joined, Rows
from db3kd.errors import InputError

FINE, LARGE = 4, 256  # what is kept of a shorter side: 4 times the image's, if that is at most 256
SMALLEST = 0.5  # of the image's side: smaller crops would be blurs
ROOM = 2**28  # bytes of photographs in memory
FIRST = 64  # photographs that tell how large they are
NAMED = 3  # damaged photographs in a message
_log = logging.getLogger("db3kd")


@runtime_checkable
class Photograph(Protocol):
    """Images in files that can give each one in its own size."""

    def photograph(self, row: int, channels: int, side: int) -> Any:
        """One image of Pillow, "L" or "RGB" by its channels, its shorter side at most `side`.

        Raises:
            InputError: it cannot be decoded.
        """


@dataclass(frozen=True)
class Photographs:
    """Photographs in memory, each of its own size: "L" or "RGB" of Pillow.

    - `shape`: channels, height and width of the crops that are made of them.
    - `kept`: the photographs.
    - `damaged`: how many could not be used.

    >>> from db3kd.data import TensorImages
    >>> some = TensorImages(torch.rand(2, 3, 90, 40))
    >>> found = photographs(some, (1, 8, 8), torch.Generator().manual_seed(0))
    >>> [image.size for image in found.kept]
    [(32, 72), (32, 72)]
    >>> found.crops(5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 1, 8, 8])
    """

    shape: tuple[int, int, int]
    kept: Sequence[Any]
    damaged: int = 0

    def crops(self, count: int, draw: Generator) -> Float[Tensor, "row channels height width"]:
        """Cut random crops: of any photograph, size and place, half of them mirrored.

        The logarithm of the size is uniform, from half of the image's pixels to all that fits.
        Values are k/255, from 0 to 1. Costs no query. Random: `draw`.
        """
        rows = torch.randint(len(self.kept), (count,), generator=draw).tolist()
        even = torch.rand(count, 4, generator=draw, dtype=torch.float64).tolist()
        found = np.empty((count, *self.shape), dtype=np.uint8)
        for at, (row, numbers) in enumerate(zip(rows, even, strict=True)):
            _cut(found[at], self.kept[row], *numbers)
        return torch.from_numpy(found).float().div_(255)


def photographs(
    images: Images,
    shape: tuple[int, int, int],
    draw: Generator,
    *,
    room: int = ROOM,
    tell: Tell = lambda done, total: None,
) -> Photographs:
    """Decode photographs in a random order, as many as fit into `room` bytes, and keep them small.

    `images`: of any size; those in files are decoded in their own, whatever `images.shape` is. A
    shorter side keeps four times the pixels of a side of `shape`, or up to 256 if that is less.
    Those that cannot be decoded are left out and named in a warning. Costs no query. Random:
    `draw`, which photographs are taken where there are too many.

    Raises:
        InputError: there are none, or none can be decoded.
    """
    if not len(images):
        raise InputError("there are no photographs; name some in synthesis.images")
    least = max(shape[1:])
    side = min(FINE * least, max(LARGE, least))
    order, channels = torch.randperm(len(images), generator=draw), shape[0]
    first = order[:FIRST].sort().values
    found = list(_decoded(images, first, channels, side))
    sizes = [_bytes(image) for image in found if not isinstance(image, str)]
    fit = max(1, room * max(1, len(sizes)) // max(1, sum(sizes)))  # by the mean of the first ones
    rest = order[FIRST : max(FIRST, fit)].sort().values  # in ascending order, which is fastest
    for image in _decoded(images, rest, channels, side):
        found.append(image)
        tell(len(found), len(first) + len(rest))
    faults = [image for image in found if isinstance(image, str)]
    kept = [image for image in found if not isinstance(image, str)]
    if faults:
        more = f" (and {len(faults) - NAMED:,} more)" if len(faults) > NAMED else ""
        told = f"{len(faults):,} of {len(found):,} photographs cannot be used"
        if not kept:
            raise InputError(f"{told}, and there are no others: {faults[0]}")
        _log.warning("%s and are left out: %s%s", told, "; ".join(faults[:NAMED]), more)
    if len(found) < len(images):
        used, whole = f"{len(found):,}", f"{len(images):,}"
        _log.info("%s of %s photographs are used, which fill the memory for them", used, whole)
    return Photographs(shape, kept, len(faults))


def _decoded(images: Images, rows: Tensor, channels: int, side: int) -> Iterator[Any]:
    """Each of these rows as it is kept, or in words why it cannot be used."""
    if isinstance(images, Rows):
        yield from _decoded(images.images, images.rows.cpu()[rows], channels, side)
    elif isinstance(images, Joined):
        late = rows >= len(images.first)
        yield from _decoded(images.first, rows[~late], channels, side)
        yield from _decoded(images.second, rows[late] - len(images.first), channels, side)
    else:
        for row in rows.tolist():
            try:
                yield _one(images, row, channels, side)
            except InputError as error:
                yield str(error)


def _one(images: Images, row: int, channels: int, side: int) -> Any:
    if isinstance(images, Photograph):
        return images.photograph(row, channels, side)

    values = images.read(torch.tensor([row]))[0].cpu()
    if not bool(values.isfinite().all()):
        raise InputError(f"photograph {row} has values that are not finite")
    if len(values) not in (1, 3):
        raise InputError(f"photograph {row} has {len(values)} channels; give 1 or 3")
    pixels = values.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return shrunk(pixels.numpy(), side).convert("L" if channels == 1 else "RGB")


def _bytes(image: Any) -> int:
    """How many bytes the pixels of an image take."""
    return int(image.width * image.height * len(image.getbands()))


def _cut(
    out: Any, photograph: Any, size: float, down: float, across: float, mirrored: float
) -> None:
    """Fill `out` with a crop; size, place and mirroring are given as numbers from 0 to 1."""
    from PIL import Image

    high, wide = out.shape[1:]
    width, height = photograph.size
    most = min(height / high, width / wide)  # pixels of the photograph for one of the crop
    least = min(SMALLEST, most)
    scale = least * math.exp(size * math.log(most / least))
    top, left = down * (height - scale * high), across * (width - scale * wide)
    box = (left, top, min(width, left + scale * wide), min(height, top + scale * high))
    found = np.asarray(photograph.resize((wide, high), Image.Resampling.BICUBIC, box))
    found = found[None] if found.ndim == 2 else found.transpose(2, 0, 1)
    out[...] = found[:, :, ::-1] if mirrored < 0.5 else found
