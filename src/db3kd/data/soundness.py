"""Which images are damaged, found before anything is paid for them."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from db3kd.data.content import Tell
from db3kd.data.images import Images, Joined, Rows

BLOCK = 256  # images after which is told how far it is


@runtime_checkable
class Checked(Protocol):
    """Images that can say of each one why it cannot be used."""

    def fault(self, row: int) -> str | None:
        """Why an image cannot be used, in one sentence; None if it can."""


def damaged(images: Images, tell: Tell = lambda done, total: None) -> list[tuple[int, str]]:
    """The rows of images that cannot be used, and why, in one sentence each.

    Images in files are all decoded once; others are not read. An image cannot be used if it cannot
    be decoded, or differs in shape from the first that can. `tell` is told how much is done. Costs
    no query.

    >>> import tempfile, PIL.Image
    >>> from pathlib import Path
    >>> from db3kd.data import load
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in "abc":
    ...     PIL.Image.new("L", (2, 2)).save(folder / f"{name}.png")
    >>> _ = (folder / "b.png").write_bytes(b"")
    >>> damaged(load(str(folder), "train").images)
    [(1, 'image 1 (...b.png) cannot be decoded: it is empty')]
    """
    found = []
    for done, (row, reason) in enumerate(_faults(images, torch.arange(len(images)))):
        if done % BLOCK == 0:
            tell(done, len(images))
        if reason is not None:
            found.append((row, reason))
    return sorted(found)


def _faults(images: Images, rows: Tensor) -> Iterator[tuple[int, str | None]]:
    """For each place among `rows` why the image cannot be used; each image is decoded once."""
    if isinstance(images, Rows):
        yield from _faults(images.images, images.rows.cpu()[rows])
    elif isinstance(images, Joined):
        late = rows >= len(images.first)
        first, second, count = images.first, images.second, len(images.first)
        for part, some, less in ((first, ~late, 0), (second, late, count)):
            places = some.nonzero()[:, 0].tolist()
            for at, reason in _faults(part, rows[some] - less):
                yield places[at], reason
    elif isinstance(images, Checked):
        order = rows.argsort(stable=True).tolist()  # files are read fastest in ascending order
        last, reason = -1, None
        for place in order:
            row = int(rows[place])
            reason = reason if row == last else images.fault(row)
            last = row
            yield place, reason
