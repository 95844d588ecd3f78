"""Images in parquet files, laid out as on the Hugging Face hub."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data._decode import Form, check_rows, decoded, read_rows
from db3kd.data.digest import combined, of_file
from db3kd.data.images import DataSet
from db3kd.errors import InputError, described, plain

ROWS_IN_MEMORY = 2048  # encoded images of one row group kept at a time
MOST_CLASSES = 100_000  # where no names say how many there are


class ParquetImages:
    """Images of the parquet files of one split, decoded when they are read.

    The files have a column `image` or `img`, a struct whose `bytes` hold a PNG, JPEG, BMP or WebP
    file. At most 2048 encoded images of one row group are in memory, whatever the size of the set.
    Rows in ascending order are read fastest.

    Grey images keep one channel, all others are read as RGB. 16-bit grey is rounded to 8 bits.
    Transparency and EXIF orientation are ignored.

    - `size`: the shorter side is resized to it (bicubic, antialiased), and the central square kept.
    - `channels`: 1 converts to grey, 3 to RGB.

    Raises:
        InputError: a file is not such a parquet file, or there are no rows. `read`: an image cannot
            be decoded, or differs from the first in shape.

    >>> from io import BytesIO
    >>> import tempfile, pyarrow, pyarrow.parquet, PIL.Image
    >>> png = BytesIO(); PIL.Image.new("L", (4, 3), 255).save(png, "PNG")
    >>> table = pyarrow.table({"image": [{"bytes": png.getvalue()}] * 5})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "train-00000-of-00001.parquet"
    ...     pyarrow.parquet.write_table(table, file)
    ...     images = ParquetImages([file])
    ...     images.shape, float(images.read(torch.tensor([4, 4])).min())
    ((1, 3, 4), 1.0)
    """

    eight_bit = True

    def __init__(
        self, files: Sequence[Path], *, size: int | None = None, channels: int | None = None
    ) -> None:
        self._form, self._files = Form(size, channels), tuple(files)
        self._digest = ""
        self._groups: list[tuple[Path, int, str]] = []  # file, its row group, its image column
        counts: list[int] = []
        for file in files:
            metadata, schema = _describe(file)
            column = _image_column(schema, file)
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group, column))
                counts.append(metadata.row_group(group).num_rows)
        self._firsts = [0, *accumulate(counts)]  # first row of each row group, and the end
        if not len(self):
            raise InputError(f"no images: {', '.join(map(str, files)) or 'no file was given'}")
        self._open = -1  # row group that is being read block by block
        self._first = 0  # row of the first image in the block
        self._block: Any = ()  # encoded images
        self._blocks: Iterator[Any] = iter(())
        self.shape: tuple[int, int, int] = decoded(self._encoded, self._where, 0, self._form).shape

    def __len__(self) -> int:
        return self._firsts[-1]

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

    def _group(self, row: int) -> int:
        return bisect_right(self._firsts, row) - 1

    def _where(self, row: int) -> str:
        group = self._group(row)
        return f"image {row} ({self._groups[group][0]}, row group {self._groups[group][1]})"

    def _encoded(self, row: int) -> bytes:
        """Return an encoded image; read the block that holds it unless it is in memory."""
        group = self._group(row)
        if group != self._open or row < self._first:
            self._blocks = _blocks(*self._groups[group])
            self._open, self._first, self._block = group, self._firsts[group], ()
        while row >= self._first + len(self._block):
            # -1 until the next block is there, so that the row group is reopened after an error
            self._open, self._first, self._block = -1, self._first + len(self._block), ()
            self._block = next(self._blocks)
            self._open = group
        encoded = self._block[row - self._first].as_py()
        if encoded is None:
            raise InputError(f"{self._where(row)} is empty; every row needs the bytes of an image")
        return bytes(encoded)


def _describe(file: Path) -> tuple[Any, Any]:
    """Return the metadata and the Arrow schema of a parquet file."""
    import pyarrow.parquet as pq

    if file.exists() and not file.is_file():
        raise InputError(f"{file} is not a file; give one in parquet format")
    with _reading(f"{file} cannot be read as a parquet file"), pq.ParquetFile(file) as opened:
        return opened.metadata, opened.schema_arrow


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn whatever the library raises, if bytes are damaged, into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {described(error)}") from None


def _image_column(schema: Any, file: Path) -> str:
    import pyarrow as pa

    name = next((name for name in ("image", "img") if name in schema.names), None)
    if name is None:
        raise InputError(
            f"{file} has the columns {_columns(schema)}; one must be called image or img"
        )
    kind = schema.field(name).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise InputError(
            f"column {name!r} of {file} is {plain(kind)}; give a struct with `bytes`, the encoded"
            " image"
        )
    inner = kind.field(kind.get_field_index("bytes")).type
    inner = inner.value_type if pa.types.is_dictionary(inner) else inner
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if not any(fits(inner) for fits in (*binary, pa.types.is_binary_view)):
        raise InputError(
            f"column {name!r} of {file} holds `bytes` of {plain(inner, 60)}; give the encoded image"
            " as binary"
        )
    return name


def _columns(schema: Any) -> str:
    return plain(", ".join(map(str, schema.names)))


def _blocks(file: Path, group: int, column: str) -> Iterator[Any]:
    """Yield the encoded images of one row group in order, block by block."""
    import pyarrow.parquet as pq

    with (
        _reading(f"row group {group} of {file} cannot be read"),
        # Both options together stream a row group; without them all its bytes are read first.
        pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as opened,
    ):
        for batch in opened.iter_batches(
            ROWS_IN_MEMORY, row_groups=[group], columns=[f"{column}.bytes"], use_threads=False
        ):
            yield batch.column(0).field("bytes")
    raise InputError(f"row group {group} of {file} has fewer rows than the file says")


def load_parquet(files: Sequence[Path], size: int | None, channels: int | None) -> DataSet:
    """Open the data set in the parquet files of one split; labels are read, images are not.

    Raises:
        InputError: a file cannot be read, or lacks a column of images or of labels.
    """
    images = ParquetImages(files, size=size, channels=channels)
    labels, classes = _labels(files)
    return DataSet(images, labels, classes)


def _labels(files: Sequence[Path]) -> tuple[Tensor, tuple[str, ...]]:
    """Return all labels and the class names, which are "0", "1", ... if the files give none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[Any] = []
    names: tuple[str, ...] = ()
    for file in files:
        _, schema = _describe(file)
        column = next((name for name in ("label", "fine_label") if name in schema.names), None)
        if column is None or not pa.types.is_integer(schema.field(column).type):
            raise InputError(
                f"{file} has the columns {_columns(schema)}; one of whole numbers must be"
                " called label or fine_label"
            )
        names = _class_names(schema, column) if not parts else names
        with (
            _reading(f"column {column!r} of {file} cannot be read"),
            pq.ParquetFile(file) as opened,
        ):
            part = opened.read(columns=[column]).column(0)
            if part.null_count:
                raise InputError(
                    f"column {column!r} of {file} has empty rows; give every image a label"
                )
            parts.append(part.to_numpy().astype(np.int64))
    labels = torch.from_numpy(np.concatenate(parts))
    return labels, names or _counted(labels, files)


def _counted(labels: Tensor, files: Sequence[Path]) -> tuple[str, ...]:
    """The classes "0", "1", ... up to the largest label.

    Raises:
        InputError: it is so large that it cannot count classes.
    """
    largest = int(labels.max()) if len(labels) else 0
    if largest >= MOST_CLASSES:
        raise InputError(
            f"a label in {files[0].parent} is {largest}, but labels count classes from 0, at most"
            f" {MOST_CLASSES:,}; number the classes, or give their names"
        )
    return tuple(map(str, range(largest + 1)))


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the class names in the Hugging Face metadata; none if it has none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
        return tuple(map(str, names)) if isinstance(names, list) else ()
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
