"""New images in the shards of a run, read on demand."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data._decode import check_rows
from db3kd.data.digest import combined, of_file
from db3kd.errors import Damaged

MOST_HEADER = 2**20  # bytes of what a file says of itself


@dataclass(frozen=True)
class StoredImages:
    """Images in safetensors files, one file after the other.

    Only the rows asked for are read, neighbouring rows together, so millions of images never sit in
    memory.

    - `counts`: how many images each file holds.
    - `eight_bit`: whether the files hold uint8, read as k/255; otherwise they hold float32.
    - `column`: the name of the images in each file.
    - `digests`: the SHA-256 of each file, if known; otherwise `digest` reads the files.

    Raises:
        InputError: `read`: a row is not in the files.
        Damaged: `read`: a file cannot be read.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> file = Path(tempfile.mkdtemp()) / "0.safetensors"
    >>> save_file({"images": torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)}, file)
    >>> stored = StoredImages((file,), (3,), (1, 2, 2), eight_bit=True)
    >>> (stored.read(torch.tensor([2, 0])) * 255)[:, 0, 0, 0].tolist()
    [8.0, 0.0]
    """

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    shape: tuple[int, int, int]
    eight_bit: bool
    column: str = "images"
    digests: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        folder: Path,
        records: Iterable[Mapping[str, Any]],
        shape: tuple[int, int, int],
        *,
        eight_bit: bool,
        column: str = "images",
    ) -> "StoredImages":
        """The images in the shards that these records of a run's journal name, in their order."""
        known = list(records)
        files = tuple(folder / record["file"] for record in known)
        counts = tuple(record["samples"] for record in known)
        digests = tuple(record["sha256"] for record in known)
        return cls(files, counts, shape, eight_bit, column, digests)

    def __len__(self) -> int:
        return sum(self.counts)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows, in any order and with repeats if wanted."""
        rows = rows.cpu()
        check_rows(rows, len(self))
        kind = torch.uint8 if self.eight_bit else torch.float32
        # The wanted rows in the order of the files, each once, cut where one file ends.
        wanted, places = torch.unique(rows, return_inverse=True)
        found = torch.empty((len(wanted), *self.shape), dtype=kind)
        ends = torch.tensor(self.counts).cumsum(0)
        numbers, many = torch.unique_consecutive(
            torch.searchsorted(ends, wanted, right=True), return_counts=True
        )
        for number, some, part in zip(
            numbers.tolist(),
            torch.split(wanted, many.tolist()),
            torch.split(found, many.tolist()),
            strict=True,
        ):
            first = int(ends[number]) - self.counts[number]
            _read(self.files[number], self.column, some - first, part)
        found = found.index_select(0, places)
        return found.float().div_(255) if self.eight_bit else found

    def digest(self) -> str:
        """SHA-256 of the column, the counts and the digests of the files."""
        digests = self.digests or tuple(map(of_file, self.files))
        return combined(f"{self.column} {self.counts}", digests)


def _read(file: Path, column: str, rows: Tensor, out: Tensor) -> None:
    """Fill `out` with rows of a file, in ascending order; neighbours are read together."""
    cuts = (rows.diff() != 1).nonzero()[:, 0].add(1).tolist()
    starts = [0, *cuts]
    firsts = rows[starts].tolist()
    pixels = out.numpy().data.cast("B")
    each = len(pixels) // len(rows)
    try:
        with file.open("rb", buffering=0) as opened:
            begin = _begin(opened, column, out, int(rows[-1]) + 1)
            for first, start, stop in zip(firsts, starts, [*cuts, len(rows)], strict=True):
                opened.seek(begin + first * each)
                _fill(opened, pixels[start * each : stop * each])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{file} cannot be read: {error}") from error


def _begin(opened: FileIO, column: str, out: Tensor, least: int) -> int:
    """Where a column of `least` images like those of `out` begins in an open safetensors file.

    The library itself takes ten times as long for rows here and there.
    """
    length = int.from_bytes(opened.read(8), "little")
    if length > MOST_HEADER:
        raise ValueError("it is no safetensors file")
    header = bytearray(length)
    _fill(opened, memoryview(header))
    told = json.loads(header)[column]
    kind = "U8" if out.dtype == torch.uint8 else "F32"
    count, *shape = told["shape"]
    if told["dtype"] != kind or shape != list(out.shape[1:]) or count < least:
        raise ValueError(f"it holds {count} {column} of {told['dtype']} {shape}")
    return 8 + length + int(told["data_offsets"][0])


def _fill(opened: FileIO, room: memoryview) -> None:
    while room:
        read = opened.readinto(room)
        if not read:
            raise ValueError("its end is missing")
        room = room[read:]
