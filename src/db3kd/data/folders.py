"""Images in one folder per class."""

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data._decode import Form, check_rows, decoded, read_rows
from db3kd.data.digest import combined, of_file
from db3kd.errors import InputError

LARGEST_FILE = 2**28  # bytes of one encoded image
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class FolderImages:
    """Images of a folder with one subfolder per class, decoded when they are read.

    Classes and files are in the order of their names. Files that do not end in .png, .jpg, .jpeg,
    .bmp or .webp are left out. Colour, `size` and `channels` are as in `ParquetImages`. `labels`
    holds the class number of each image, `classes` the names of the classes.

    Raises:
        InputError: there is no such folder, it has no subfolders, or one of them has no images.
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
        self, folder: Path, *, size: int | None = None, channels: int | None = None
    ) -> None:
        self._form = Form(size, channels)
        self._digest = ""
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}; give one with a folder for each class")
        names = class_folders(folder)
        if not names:
            raise InputError(f"{folder} has no subfolders; give one folder of images per class")
        files = [_image_files(folder / name) for name in names]
        for name, some in zip(names, files, strict=True):
            if not some:
                raise InputError(
                    f"{folder / name} holds no images ({', '.join(EXTENSIONS)}); add some, or"
                    " remove this class"
                )
        self.classes = tuple(names)
        self.labels = torch.tensor([label for label, some in enumerate(files) for _ in some])
        self._files = [file for some in files for file in some]
        self.shape: tuple[int, int, int] = decoded(self._encoded, self._where, 0, self._form).shape

    def __len__(self) -> int:
        return len(self._files)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows, in any order and with repeats if wanted."""
        check_rows(rows, len(self))
        return read_rows(self._encoded, self._where, rows, self._form, self.shape)

    def digest(self) -> str:
        """SHA-256 of the files, `size` and `channels`; each file is read once."""
        self._digest = self._digest or combined(f"{self._form}", map(of_file, self._files))
        return self._digest

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the images, in their order."""
        return tuple(self._files)

    def encoded(self, row: int) -> bytes:
        """The bytes of one image as they are kept; rows in ascending order are read fastest."""
        return self._encoded(row)

    def _where(self, row: int) -> str:
        return f"image {row} ({self._files[row]})"

    def _encoded(self, row: int) -> bytes:
        file = self._files[row]
        if file.stat().st_size > LARGEST_FILE:
            raise InputError(f"{self._where(row)} has more than {LARGEST_FILE:,} bytes")
        return file.read_bytes()


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders, in order; hidden folders are left out."""
    return sorted(at.name for at in folder.iterdir() if at.is_dir() and at.name[0] != ".")


def _image_files(folder: Path) -> list[Path]:
    return sorted(at for at in folder.iterdir() if at.suffix.lower() in EXTENSIONS and at.is_file())
