"""Images in parquet files, laid out as on the Hugging Face hub."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data._decode import Decoding
from db3kd.data._pixels import Form, Size
from db3kd.data.columns import Columns, column_of, listed, tell_unlabelled
from db3kd.data.digest import combined, of_file
from db3kd.data.labelled import DataSet
from db3kd.data.parquet_labels import describe, labels_in, reading
from db3kd.errors import InputError, plain

ROWS_IN_MEMORY = 2048  # encoded images of one row group kept at a time
OF_IMAGES = (
    *("image", "img", "pixel_values", "picture", "images", "imgs", "photo", "bytes"),
    *("png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"),  # as in web data sets
)


class ParquetImages:
    """Images of the parquet files of one split, decoded when they are read.

    The files have a column of encoded images (PNG, JPEG, BMP, WebP, PPM, TIFF, GIF): binary, or a
    struct whose `bytes` are. At most 2048 encoded images of one row group are in memory, whatever
    the size of the set. Rows in ascending order are read fastest.

    Grey images keep one channel, all others are read as RGB, turned as their EXIF says, and with
    white where they are transparent. Grey of more than 8 bits is rounded to 8: of 16 bits, or of
    the fewest bits that hold the first 64 images.

    - `size`: the image is resized until it covers a square of this side, or a box of (height,
      width), and its middle kept (bicubic, antialiased).
    - `channels`: 1 converts to grey, 3 to RGB.
    - `image`: the column; without it the only one with a usual name, such as image, img or png.

    Raises:
        InputError: a file is not such a parquet file, or there are no rows. `read`: an image cannot
            be decoded, or differs from the first in shape.

    >>> from io import BytesIO
    >>> import tempfile, torch, pyarrow, pyarrow.parquet, PIL.Image
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
        self,
        files: Sequence[Path],
        *,
        size: Size = None,
        channels: int | None = None,
        image: str | None = None,
    ) -> None:
        self._files, self._wanted = tuple(files), image
        self._digest = ""
        self._groups: list[tuple[Path, int, str]] = []  # file, its row group, its image column
        counts: list[int] = []
        for file in files:
            metadata, schema = describe(file)
            column = _image_column(schema, image, file)
            self.columns = (schema.names, column)
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
        self._decoding = Decoding(self._encoded, self._where, len(self), size, channels)
        self.shape = self._decoding.shape

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: everything but the block that is being read."""
        return self.__dict__ | {"_open": -1, "_block": (), "_blocks": iter(())}

    def __len__(self) -> int:
        return self._firsts[-1]

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
        words = self._decoding.form.words
        self._digest = self._digest or combined(words + self.part, map(of_file, self._files))
        return self._digest

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the images, in their order."""
        return tuple(self._files)

    @property
    def part(self) -> str:
        """Which part of these files they are, where it was named."""
        return f" of column {self._wanted}" if self._wanted is not None else ""

    @property
    def top(self) -> float | None:
        """What is white in grey images of more than 8 bits; None if the first is none."""
        return self._decoding.top

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


def _image_column(schema: Any, wanted: str | None, file: Path) -> str:
    """The column of images; without `wanted` one that holds bytes comes before one that cannot."""
    held = [name for name in schema.names if _is_binary(_bytes_of(schema.field(name).type))]
    name = column_of(schema.names if wanted else held, wanted, OF_IMAGES, "image", str(file))
    name = name or column_of(schema.names, None, OF_IMAGES, "image", str(file))
    if name is None:
        raise InputError(
            f"{file} has the columns {listed(schema.names)}; none is called as a column of images"
            f" usually is ({', '.join(OF_IMAGES[:4])} ...), so name it by image="
        )
    if name not in held:
        raise InputError(
            f"column {name!r} of {file} is {plain(schema.field(name).type, 60)}; give the encoded"
            " image as binary, or as a struct with `bytes`"
        )
    return name


def _bytes_of(kind: Any) -> Any:
    """The type of the bytes of images in a column of a type."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field(kind.get_field_index("bytes")).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as t

    fits = (t.is_binary, t.is_large_binary, t.is_fixed_size_binary, t.is_binary_view)
    return any(fit(kind) for fit in fits)


def _blocks(file: Path, group: int, column: str) -> Iterator[Any]:
    """Yield the encoded images of one row group in order, block by block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        reading(f"row group {group} of {file} cannot be read"),
        # Both options together stream a row group; without them all its bytes are read first.
        pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as opened,
    ):
        inner = pa.types.is_struct(opened.schema_arrow.field(column).type)
        for batch in opened.iter_batches(
            ROWS_IN_MEMORY,
            row_groups=[group],
            columns=[f"{column}.bytes" if inner else column],
            use_threads=False,
        ):
            yield batch.column(0).field("bytes") if inner else batch.column(0)
    raise InputError(f"row group {group} of {file} has fewer rows than the file says")


def load_parquet(files: Sequence[Path], form: Form, columns: Columns) -> DataSet:
    """Open the data set in the parquet files of one split; labels are read, images are not.

    Without a column of labels it has none, unless `columns` names one.

    Raises:
        InputError: a file cannot be read, or lacks a column of images, or the named one.
    """
    images = ParquetImages(files, size=form.size, channels=form.channels, image=columns.image)
    labels, classes = labels_in(files, columns.label)
    if labels is None:
        tell_unlabelled(*images.columns, str(files[0]))
    return DataSet(images, labels, classes)
