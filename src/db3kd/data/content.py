"""What images are, whatever file holds them: digests of each one's content, in their order."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.data._pixels import FULL
from db3kd.data.images import Images, Joined, Rows
from db3kd.errors import InputError

BLOCK = 1024  # images that are read at once

Tell = Callable[[int, int], None]
"""What is told how much is done, and of how much."""


@runtime_checkable
class Encoded(Protocol):
    """Images in files that can give each one's bytes as they are kept, without decoding them."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that hold the images."""

    @property
    def part(self) -> str:
        """Which part of these files they are, where it is not all of them; otherwise ""."""

    @property
    def top(self) -> float | None:
        """What is white in grey images of more than 8 bits; None if the first is none."""

    def encoded(self, row: int) -> bytes:
        """The bytes of one image; rows in ascending order are read fastest."""


def unfolded(images: Images) -> tuple[Images, Int[Tensor, " row"]]:
    """The images that a view is of, and its rows.

    >>> from db3kd.data import TensorImages
    >>> view = Rows(TensorImages(torch.zeros(4, 1, 2, 2)), torch.tensor([3, 1]))
    >>> unfolded(Rows(view, torch.tensor([1])))[1]
    tensor([1])
    """
    if not isinstance(images, Rows):
        return images, torch.arange(len(images))
    source, rows = unfolded(images.images)
    return source, rows[images.rows.cpu()]


def white_of(several: Iterable[Images]) -> float | None:
    """What is white in sets of grey images of more than 8 bits; None if none of them is one.

    Raises:
        InputError: it is not the same in all of them, so that equal pixels would differ.

    >>> white_of([])
    """
    found: set[float] = set()
    for images in several:
        source, _ = unfolded(images)
        if isinstance(source, Joined):
            white = white_of([source.first, source.second])
        else:
            white = source.top if isinstance(source, Encoded) else None
        found |= set() if white is None else {white}
    if len(found) > 1:
        raise InputError(
            "the images have more than 8 bits, and their highest values take"
            f" {' for white in one set and '.join(f'{white:g}' for white in sorted(found))} in"
            " another; convert all of them to 8 bits by one scale"
        )
    return found.pop() if found else None


def content_of(
    images: Images, rows: Int[Tensor, " row"], size: int, tell: Tell = lambda done, total: None
) -> str:
    """A word that says what was digested, and a digest of every `size` rows in their order.

    - "encoded": the bytes of files or of a column. They do not depend on names, on how images are
      spread over files, on labels, or on images that are not among the rows. They depend on what
      is white in a set of more than 8 bits, unless it is that of 16.
    - "values": the pixels, of images that are not in files.

    Digests compare only if their words are the same. `tell` is told how much is done. Costs no
    query.

    Raises:
        InputError: an image cannot be read.

    >>> from db3kd.data import TensorImages
    >>> same = TensorImages(torch.zeros(4, 1, 2, 2, dtype=torch.uint8))
    >>> word, first, second = content_of(same, torch.arange(4), 2).split()
    >>> word, first == second
    ('values', True)
    """
    if isinstance(images, Encoded):
        word, digests = "encoded", _of_encoded(images, rows, tell)
    else:
        word, digests = "values", _of_values(images, rows, tell)
    found, whole = [word], hashlib.sha256()
    for place, digest in enumerate(digests, start=1):
        whole.update(digest)
        if place % size == 0 or place == len(rows):
            found.append(whole.hexdigest())
            whole = hashlib.sha256()
    return " ".join(found)


def _of_encoded(images: Encoded, rows: Tensor, tell: Tell) -> Iterator[bytes]:
    """A digest of each row; each image is read once, in ascending order."""
    wanted, places = torch.unique(rows, return_inverse=True)
    digests = []
    white = b"" if images.top in (None, FULL) else f"{images.top:.9g}".encode()
    for done, row in enumerate(wanted.tolist()):
        if done % BLOCK == 0:
            tell(done, len(wanted))
        try:
            digests.append(hashlib.sha256(images.encoded(row) + white).digest())
        except OSError as error:
            raise InputError(f"image {row} cannot be read: {error}") from None
    return (digests[place] for place in places.tolist())


def _of_values(images: Images, rows: Tensor, tell: Tell) -> Iterator[bytes]:
    for first in range(0, len(rows), BLOCK):
        tell(first, len(rows))
        block = images.read(rows[first : first + BLOCK]).cpu()
        exact = block.mul(255).round_().to(torch.uint8) if images.eight_bit else block
        for values in exact.contiguous().numpy():
            yield hashlib.sha256(values.data).digest()
