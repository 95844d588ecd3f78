"""Images on demand: Hugging Face parquet folders, folders of images per class, and tensors.

Every set gives float32 images in [0, 1] and hides nothing: no mean is taken off, nothing is
resized or recoloured unless `size` or `channels` ask for it. Encoded images are decoded when they
are read, so memory grows with what is read at a time and not with the set.

This file is long because the two loaders share one decoder, and a reader wants them side by side.
"""

import json
import os
import re
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from db3kd.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS_IN_MEMORY = 2048  # encoded images of one row group that are kept at a time
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # decoders that may see bytes from a file


@runtime_checkable
class Images(Protocol):
    """Images on demand: float32 of shape (channels, height, width), in [0, 1] unless said.

    `shape` is that of one image. `eight_bit` says that every value is k/255 with a whole k.

    >>> images: Images = TensorImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    >>> len(images), images.shape, images.eight_bit
    (2, (1, 4, 4), True)
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    @property
    def eight_bit(self) -> bool:
        """Whether every value is k/255 with a whole k."""

    def __len__(self) -> int: ...

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows; any order, repeats allowed."""


@dataclass(frozen=True)
class TensorImages:
    """Images that are in memory.

    `values`: shape (sample, channels, height, width); uint8 is read as value / 255, float32 is read
    as it is and may have other bounds than [0, 1].

    Raises:
        InputError: `values` is not of four dimensions, or neither uint8 nor float32.

    >>> images = TensorImages(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8))
    >>> images.read(torch.tensor([2, 0])).unique().tolist()
    [0.20000000298023224]
    """

    values: UInt8[Tensor, "..."] | Float[Tensor, "..."]

    def __post_init__(self) -> None:
        if self.values.ndim != 4:
            raise InputError(
                f"images have shape {tuple(self.values.shape)}; give four dimensions:"
                " (sample, channels, height, width)"
            )
        if self.values.dtype not in (torch.uint8, torch.float32):
            raise InputError(
                f"images are {self.values.dtype}; give float32, or uint8 of 0..255 for k/255"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        _, channels, height, width = self.values.shape
        return channels, height, width

    @property
    def eight_bit(self) -> bool:
        """Whether every value is k/255 with a whole k."""
        return self.values.dtype == torch.uint8

    def __len__(self) -> int:
        return len(self.values)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows; any order, repeats allowed."""
        _check_rows(rows, len(self))
        block = self.values[rows.to(self.values.device)]
        return block.float().div_(255) if self.eight_bit else block


@dataclass(frozen=True)
class Rows:
    """Some rows of other images, in the order given; nothing is read or copied here.

    Raises:
        InputError: a row is not in the images.

    >>> ramp = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    >>> view = Rows(TensorImages(ramp), torch.tensor([3, 1]))
    >>> (view.read(torch.tensor([0, 1])) * 255).flatten().tolist()
    [3.0, 1.0]
    """

    images: Images
    rows: Int[Tensor, " sample"]

    def __post_init__(self) -> None:
        _check_rows(self.rows, len(self.images))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.images.shape

    @property
    def eight_bit(self) -> bool:
        """Whether every value is k/255 with a whole k."""
        return self.images.eight_bit

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows; any order, repeats allowed."""
        _check_rows(rows, len(self))
        return self.images.read(self.rows[rows.to(self.rows.device)])


class ParquetImages:
    """Images of the parquet files of one split, decoded when they are read.

    The files have one column `image` or `img`, a struct whose `bytes` hold a PNG, JPEG, BMP or WebP
    file. At most 2048 encoded images of one row group are in memory, whatever the size of the
    set; rows in ascending order are read fastest. Grey images keep one channel, all others are RGB;
    16-bit grey is rounded to 8 bits; transparency and EXIF orientation are ignored. `size`: the
    shorter side is resized to it (bicubic, antialiased) and the centre square is kept. `channels`:
    1 or 3 converts.

    Raises:
        InputError: a file is no such parquet file, or holds no rows. `read`: an image cannot be
            decoded, or differs from the first in shape.

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
        self._form = _Form(size, channels)
        self._groups: list[tuple[Path, int, str]] = []  # file, its row group, its image column
        counts: list[int] = []
        for file in files:
            metadata, schema = _describe(file)
            column = _image_column(schema, file)
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group, column))
                counts.append(metadata.row_group(group).num_rows)
        self._firsts = [0, *accumulate(counts)]  # of each row group, and the end
        if not len(self):
            raise InputError(f"no images: {', '.join(map(str, files)) or 'no file was given'}")
        self._open = -1  # row group whose blocks are being read
        self._first = 0  # row of the first image of the block
        self._block: Any = ()  # encoded images
        self._blocks: Iterator[Any] = iter(())
        self.shape: tuple[int, int, int] = _pixels(self._encoded, self._where, 0, self._form).shape

    def __len__(self) -> int:
        return self._firsts[-1]

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows; any order, repeats allowed."""
        _check_rows(rows, len(self))
        return _read(self._encoded, self._where, rows, self._form, self.shape)

    def _group(self, row: int) -> int:
        return bisect_right(self._firsts, row) - 1

    def _where(self, row: int) -> str:
        group = self._group(row)
        return f"image {row} ({self._groups[group][0]}, row group {self._groups[group][1]})"

    def _encoded(self, row: int) -> bytes:
        """Return the encoded image, from the block in memory or the block that holds it."""
        group = self._group(row)
        if group != self._open or row < self._first:
            self._blocks = _blocks(*self._groups[group])
            self._open, self._first, self._block = group, self._firsts[group], ()
        while row >= self._first + len(self._block):
            # -1 until the next block is there: a read that fails starts anew next time
            self._open, self._first, self._block = -1, self._first + len(self._block), ()
            self._block = next(self._blocks)
            self._open = group
        encoded = self._block[row - self._first].as_py()
        if encoded is None:
            raise InputError(f"{self._where(row)} is empty; every row needs the bytes of an image")
        return bytes(encoded)


class FolderImages:
    """Images of a folder with one subfolder per class, decoded when they are read.

    Classes and files are in the order of their names; files that do not end in .png, .jpg, .jpeg,
    .bmp or .webp are left out. Colour, `size` and `channels` are as in `ParquetImages`.
    `labels` are the classes' numbers, `classes` their names.

    Raises:
        InputError: the folder is missing, has no subfolders, or one without images. `read`: an
            image cannot be decoded, or differs from the first in shape.

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
        self._form = _Form(size, channels)
        names = _class_folders(folder)
        if not names:
            raise InputError(f"{folder} has no subfolders; give one of images for each class")
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
        self.shape: tuple[int, int, int] = _pixels(self._encoded, self._where, 0, self._form).shape

    def __len__(self) -> int:
        return len(self._files)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows; any order, repeats allowed."""
        _check_rows(rows, len(self))
        return _read(self._encoded, self._where, rows, self._form, self.shape)

    def _where(self, row: int) -> str:
        return f"image {row} ({self._files[row]})"

    def _encoded(self, row: int) -> bytes:
        return self._files[row].read_bytes()


@dataclass(frozen=True)
class DataSet:
    """Images with their labels (int64, shape (sample,)) and the names of all classes.

    Raises:
        InputError: images and labels differ in number, or a label is no class.

    >>> data = DataSet(TensorImages(torch.zeros(2, 1, 4, 4)), torch.tensor([0, 1]), ("cat", "dog"))
    >>> len(data)
    2
    """

    images: Images
    labels: Int[Tensor, " sample"]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.images):
            raise InputError(
                f"{len(self.images):,} images have {len(self.labels):,} labels; give one for each"
            )
        if self.labels.dtype != torch.int64:
            raise InputError(f"labels are {self.labels.dtype}; give int64, by labels.long()")
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"image {row} has the label {int(self.labels[row])}; with {len(self.classes)}"
                f" classes a label is 0 to {len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels)


def data_root() -> Path | None:
    """Return the folder of data sets: DB3KD_DATA, else ../shared/data if it is there, else None.

    >>> root = data_root()
    >>> root is None or isinstance(root, Path)
    True
    """
    named = os.environ.get("DB3KD_DATA")
    if named:
        return Path(named).expanduser()
    beside = Path("..") / "shared" / "data"
    return beside if beside.is_dir() else None


def load(name: str, split: str, *, size: int | None = None, channels: int | None = None) -> DataSet:
    """Open a data set; its labels are read, its images are left in their files.

    `name`: a folder; else a folder in `data_root`; else a hub id "owner/name" or
    "owner/name/config", whose files of this split are downloaded (needs `db3kd[hub]`). A folder
    holds parquet files as the Hugging Face hub has them (`data/train-00000-of-00001.parquet`), or
    one folder of images for each class, below a folder named as the split or at once; the latter
    is the split "train", or the one that the folder is named as. `split`: "train", or some of its
    rows, "train[:300]" or "train[1000:2000]". `size` and `channels` are as in `ParquetImages`.

    Raises:
        InputError: the name, the split or these rows are not there, or a file is not as it should
            be.

    >>> import tempfile, PIL.Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/cat", "train/dog"):
    ...         (Path(folder) / name).mkdir(parents=True)
    ...         PIL.Image.new("L", (2, 2)).save(Path(folder) / name / "0.png")
    ...     data = load(folder, "train[1:]", channels=3)
    >>> data.labels.tolist(), data.images.shape
    ([1], (3, 2, 2))
    """
    split, first, end = _parse_split(split)
    folder = _find(name, split)
    files = _split_files(folder)
    if files:
        whole = _load_parquet(_choose(files, split, folder), size, channels)
    else:
        images = FolderImages(_class_root(folder, split), size=size, channels=channels)
        whole = DataSet(images, images.labels, images.classes)
    if first == 0 and end is None:
        return whole
    last = len(whole) if end is None else end
    if not first < last <= len(whole):
        raise InputError(
            f"rows [{first}:{'' if end is None else end}] of split {split!r} of {name!r}: it has"
            f" {len(whole):,} rows; give 0 <= first < end <= {len(whole)}"
        )
    return subset(whole, torch.arange(first, last))


def subset(data: DataSet, rows: Int[Tensor, " row"]) -> DataSet:
    """Return these rows of a data set, in this order; no image is read.

    Raises:
        InputError: a row is not in the data set.

    >>> data = DataSet(TensorImages(torch.zeros(2, 1, 4, 4)), torch.tensor([0, 1]), ("cat", "dog"))
    >>> subset(data, torch.tensor([1])).labels.tolist()
    [1]
    """
    images = Rows(data.images, rows)
    return DataSet(images, data.labels[rows.to(data.labels.device)], data.classes)


def in_memory(images: Images) -> TensorImages:
    """Read all images, 1024 at a time; 8-bit images are kept as uint8, a quarter of float32.

    >>> in_memory(Rows(TensorImages(torch.ones(3, 1, 2, 2)), torch.tensor([2]))).values.shape
    torch.Size([1, 1, 2, 2])
    """
    if isinstance(images, TensorImages):
        return images
    like = images.read(torch.arange(0))  # no rows, but the device
    kind = torch.uint8 if images.eight_bit else torch.float32
    values = like.new_empty((len(images), *images.shape), dtype=kind)
    for first in range(0, len(images), 1024):
        end = min(first + 1024, len(images))
        block = images.read(torch.arange(first, end))
        values[first:end] = (block * 255).round() if images.eight_bit else block
    return TensorImages(values)


def check_images(images: Tensor, bounds: tuple[float, float]) -> None:
    """Refuse images that are not float32 of four dimensions, finite and in `bounds`.

    Raises:
        InputError: says what is wrong, and names the first such row.

    >>> check_images(torch.full((2, 1, 4, 4), 1.5), (0.0, 1.0))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: image 0 has a value of 1.5, out of the bounds [0.0, 1.0]; ...
    """
    if images.dtype != torch.float32:
        raise InputError(f"images are {images.dtype}; give float32, by images.float()")
    if images.ndim != 4:
        raise InputError(
            f"images have shape {tuple(images.shape)}; give four dimensions:"
            " (row, channels, height, width)"
        )
    low, high = bounds
    wrong = ~(images.isfinite() & (images >= low) & (images <= high))
    if wrong.any():
        row = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        value = float(images[row][wrong[row]][0])
        if not np.isfinite(value):
            raise InputError(f"image {row} has a value of {value}; give finite values")
        raise InputError(
            f"image {row} has a value of {value:.9g}, out of the bounds [{low}, {high}]; scale the"
            " images into the bounds, or give the bounds that the teacher expects"
        )


# Decoding


@dataclass(frozen=True)
class _Form:
    """What the user asked images to be made into."""

    size: int | None
    channels: int | None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise InputError(
                f"size is {self.size}; give the side of the image, at least 1, or None"
            )
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}; give 1 (grey), 3 (RGB) or None")


def _check_rows(rows: Tensor, count: int) -> None:
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        outside = int(rows[(rows < 0) | (rows >= count)][0])
        raise InputError(f"row {outside} was asked for; there are {count:,} rows, counted from 0")


def _read(
    encoded: Callable[[int], bytes],
    where: Callable[[int], str],
    rows: Tensor,
    form: _Form,
    shape: tuple[int, int, int],
) -> Tensor:
    """Decode each wanted row once, in ascending order, so that each block is read once.

    One thread: at 45 microseconds an image, threads only wait for each other (twice as slow).
    """
    wanted, place = torch.unique(rows.cpu(), return_inverse=True)
    pixels = np.empty((len(wanted), *shape), dtype=np.uint8)
    for at, row in enumerate(wanted.tolist()):
        image = _pixels(encoded, where, row, form)
        if image.shape != shape:
            raise InputError(
                f"{where(row)} has shape {image.shape} but the first image has {shape} (channels,"
                " height, width); make them alike by size= or channels="
            )
        pixels[at] = image
    return torch.from_numpy(pixels)[place].float().div_(255)


def _pixels(
    encoded: Callable[[int], bytes], where: Callable[[int], str], row: int, form: _Form
) -> Any:
    """Return one image as uint8 (channels, height, width)."""
    from PIL import Image

    try:
        with Image.open(BytesIO(encoded(row)), formats=FORMATS) as image:
            pixels = np.asarray(_formed(image, form))
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise InputError(f"{where(row)} cannot be decoded: {error}") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{where(row)} is too large: {error}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _formed(image: "Image", form: _Form) -> "Image":
    """Make it grey or RGB of 8 bits, then of the wanted size."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # PIL would cut at 255
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else PIL warns
    grey = image.mode in ("L", "1") if form.channels is None else form.channels == 1
    mode = "L" if grey else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    if form.size is None or image.size == (form.size, form.size):
        return image
    short = min(image.size)
    width, height = (max(form.size, round(side * form.size / short)) for side in image.size)
    left, top = (width - form.size) // 2, (height - form.size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + form.size, top + form.size))


# Parquet files


def _describe(file: Path) -> tuple[Any, Any]:
    """Return metadata and Arrow schema of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            return opened.metadata, opened.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as a parquet file: {error}") from None


def _image_column(schema: Any, file: Path) -> str:
    import pyarrow as pa

    name = next((name for name in ("image", "img") if name in schema.names), None)
    if name is None:
        raise InputError(
            f"{file} has the columns {', '.join(schema.names)}; one must be called image or img"
        )
    kind = schema.field(name).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise InputError(
            f"column {name!r} of {file} is {kind}; give a struct with `bytes`, the encoded image"
        )
    return name


def _blocks(file: Path, group: int, column: str) -> Iterator[Any]:
    """Read the encoded images of one row group, some at a time, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # these two together stream a row group; without, all of its bytes are read first
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as opened:
            for batch in opened.iter_batches(
                ROWS_IN_MEMORY, row_groups=[group], columns=[f"{column}.bytes"], use_threads=False
            ):
                yield batch.column(0).field("bytes")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"row group {group} of {file} cannot be read: {error}") from None
    raise InputError(f"row group {group} of {file} has fewer rows than the file says")


def _load_parquet(files: Sequence[Path], size: int | None, channels: int | None) -> DataSet:
    images = ParquetImages(files, size=size, channels=channels)
    labels, classes = _labels(files)
    return DataSet(images, labels, classes)


def _labels(files: Sequence[Path]) -> tuple[Tensor, tuple[str, ...]]:
    """Return all labels, and the names of the classes or "0", "1", ... where there are none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[Any] = []
    names: tuple[str, ...] = ()
    for file in files:
        _, schema = _describe(file)
        column = next((name for name in ("label", "fine_label") if name in schema.names), None)
        if column is None or not pa.types.is_integer(schema.field(column).type):
            raise InputError(
                f"{file} has the columns {', '.join(schema.names)}; one of whole numbers must be"
                " called label or fine_label"
            )
        names = _class_names(schema, column) if not parts else names
        with pq.ParquetFile(file) as opened:
            part = opened.read(columns=[column]).column(0)
        if part.null_count:
            raise InputError(
                f"column {column!r} of {file} has empty rows; give every image a label"
            )
        parts.append(part.to_numpy().astype(np.int64))
    labels = torch.from_numpy(np.concatenate(parts))
    return labels, names or tuple(str(label) for label in range(int(labels.max()) + 1))


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the names that the Hugging Face metadata gives, or none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


# Names, splits and folders


def _parse_split(split: str) -> tuple[str, int, int | None]:
    """Split "train[10:20]" into name, first row and end."""
    match = re.fullmatch(r"(\w[\w.]*)(?:\[(\d*):(\d*)\])?", split, flags=re.ASCII)
    if match is None:
        raise InputError(
            f"split is {split!r}; give a name, or a name and rows: train, train[:300], train[10:20]"
        )
    name, first, end = match.groups()
    return name, int(first or 0), int(end) if end else None


def _find(name: str, split: str) -> Path:
    """Return the folder of a data set; downloads it where only the hub can know it."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    root = data_root()
    if root is not None and name and (root / name).is_dir():
        return root / name
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+(/\w[\w.-]*)?", name, flags=re.ASCII):
        return _download(name, split)
    names = (
        sorted(at.name for at in root.iterdir() if at.is_dir()) if root and root.is_dir() else []
    )
    raise InputError(
        f"no data set {name!r}; give a folder, a hub id (owner/name), or one of"
        f" {', '.join(names) or '(none)'} in DB3KD_DATA, which is {root or 'not set'}"
    )


def _download(name: str, split: str) -> Path:
    """Return the hub's local copy of the parquet files of one split."""
    owner, repository, *config = name.split("/")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"there is no folder {name!r}; to take it from the Hugging Face hub, install db3kd[hub]"
        ) from None
    pattern = f"{config[0]}/{split}-*.parquet" if config else f"*{split}-*.parquet"
    try:
        snapshot = snapshot_download(
            f"{owner}/{repository}", repo_type="dataset", allow_patterns=[pattern]
        )
    except Exception as error:  # the client raises its own, the network's and the system's
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"there is no folder {name!r}, and the Hugging Face hub did not give it: {reason}"
        ) from error
    folder = Path(snapshot, *config)
    if not _split_files(folder):
        raise InputError(
            f"{name!r} on the Hugging Face hub has no parquet files of split {split!r}"
        )
    return folder


def _split_files(folder: Path) -> dict[str, dict[Path, list[Path]]]:
    """Return the parquet files of each split, by the folder (configuration) they are in."""
    found: dict[str, dict[Path, list[Path]]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
        split = file.stem.partition("-")[0]
        found.setdefault(split, {}).setdefault(file.parent, []).append(file)
    return found


def _choose(found: dict[str, dict[Path, list[Path]]], split: str, folder: Path) -> list[Path]:
    """Return the files of one split in order, all of them and of one configuration."""
    if split not in found:
        raise InputError(f"no split {split!r} in {folder}; it has {', '.join(sorted(found))}")
    places = found[split]
    if len(places) > 1:
        raise InputError(
            f"split {split!r} is in several folders; name one: {', '.join(map(str, places))}"
        )
    ((place, files),) = places.items()
    totals = [re.search(r"-of-0*(\d+)", file.stem) for file in files]
    if any(total is not None and int(total[1]) != len(files) for total in totals):
        raise InputError(
            f"split {split!r} in {place} has {len(files)} parquet files, but {files[0].name} counts"
            " another number; add the missing ones, or remove those of another version"
        )
    return files


def _class_root(folder: Path, split: str) -> Path:
    """Return the folder whose subfolders are the classes of a split."""
    inner = _class_folders(folder)
    splits = [name for name in inner if _class_folders(folder / name)]
    if split in splits:
        return folder / split
    if splits:
        raise InputError(f"no split {split!r} in {folder}; it has {', '.join(splits)}")
    if split not in ("train", folder.resolve().name):
        raise InputError(
            f"no split {split!r} in {folder}; it has train only (its subfolders are classes)"
        )
    return folder


def _class_folders(folder: Path) -> list[str]:
    return sorted(at.name for at in folder.iterdir() if at.is_dir() and at.name[0] != ".")


def _image_files(folder: Path) -> list[Path]:
    return sorted(at for at in folder.iterdir() if at.suffix.lower() in EXTENSIONS and at.is_file())
