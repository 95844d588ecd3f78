"""Images in files of their own: in folders, in archives, or in a list."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data._decode import Decoding
from db3kd.data._pixels import Size, Unfit
from db3kd.data.archives import opened
from db3kd.data.classes import Found, images_at
from db3kd.data.digest import combined
from db3kd.data.trees import Folder, Tree
from db3kd.errors import InputError


class FolderImages:
    """Images in files of a folder or of an archive, decoded when they are read.

    `folder` holds one folder for each class, or images without classes (see
    `db3kd.data.classes.images_at`). Colour, `size` and `channels` are as in `ParquetImages`.
    `labels` holds the class number of each image, or is None; `classes` the names of the classes.
    An archive (zip, tar) is read where it is. `found` says which files of a tree are taken instead.

    Raises:
        InputError: there is no such folder, it has no images, or one of the classes has none.
            `read`: an image cannot be decoded, or differs from the first in shape.

    >>> import tempfile, PIL.Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (Path(folder) / name).mkdir()
    ...         PIL.Image.new("RGB", (2, 2), "red").save(Path(folder) / name / "0.png")
    ...     images = FolderImages(Path(folder))
    ...     images.classes, images.read(torch.tensor([1]))[0, :, 0, 0].tolist()
    (('cat', 'dog'), [1.0, 0.0, 0.0])
    """

    eight_bit = True

    def __init__(
        self,
        folder: Path | Tree,
        *,
        size: Size = None,
        channels: int | None = None,
        found: Found | None = None,
    ) -> None:
        if isinstance(folder, Path):
            if not folder.exists():
                raise InputError(f"there is no folder {folder}; give one of images, or an archive")
            folder = opened(folder)
        found = images_at(folder, "") if found is None else found
        self._tree, self._names = folder, found.names
        self._digest = ""
        self.classes = found.classes
        self.labels = None if found.labels is None else torch.tensor(found.labels).long()
        self._decoding = Decoding(self._encoded, self._where, len(self), size, channels)
        self.shape = self._decoding.shape

    def __len__(self) -> int:
        return len(self._names)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows, in any order and with repeats if wanted."""
        return self._decoding.read(rows)

    def fault(self, row: int) -> str | None:
        """Why an image cannot be used, in one sentence; None if it can."""
        return self._decoding.fault(row)

    def photograph(self, row: int, channels: int, side: int) -> Any:
        """One image in its own size; see `db3kd.data.photographs.Photograph`."""
        return self._decoding.photograph(row, channels, side)

    def digest(self) -> str:
        """SHA-256 of the files, `size` and `channels`; each file is read once."""
        contents = (hashlib.sha256(self.encoded(row)).hexdigest() for row in range(len(self)))
        self._digest = self._digest or combined(self._decoding.form.words, contents)
        return self._digest

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the images, in their order."""
        if isinstance(self._tree, Folder):
            return tuple(self._tree.path / name for name in self._names)
        return (self._tree.path,)

    @property
    def part(self) -> str:
        """Which part of these files they are, where it is not all of them."""
        return "" if isinstance(self._tree, Folder) else f" of {combined('names', self._names)}"

    @property
    def top(self) -> float | None:
        """What is white in grey images of more than 8 bits; None if the first is none."""
        return self._decoding.top

    def encoded(self, row: int) -> bytes:
        """The bytes of one image as they are kept; rows in ascending order are read fastest."""
        try:
            return self._encoded(row)
        except Unfit as error:
            raise InputError(f"{self._where(row)} {error}") from None

    def _where(self, row: int) -> str:
        return f"image {row} ({self._tree.path / self._names[row]})"

    def _encoded(self, row: int) -> bytes:
        return self._tree.read(self._names[row])
