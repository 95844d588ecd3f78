"""New images in the shards of a run, read on demand."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from db3kd.data._decode import check_rows
from db3kd.data.digest import combined, of_file
from db3kd.errors import Damaged


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
        found = torch.empty((len(rows), *self.shape), dtype=kind)
        first = 0
        for file, count in zip(self.files, self.counts, strict=True):
            here = ((rows >= first) & (rows < first + count)).nonzero()[:, 0]
            if len(here):
                found[here] = _read(file, self.column, rows[here] - first)
            first += count
        return found.float().div_(255) if self.eight_bit else found

    def digest(self) -> str:
        """SHA-256 of the column, the counts and the digests of the files."""
        digests = self.digests or tuple(map(of_file, self.files))
        return combined(f"{self.column} {self.counts}", digests)


def _read(file: Path, column: str, rows: Tensor) -> Tensor:
    """Read rows of one file; each run of neighbouring rows takes one access."""
    wanted, places = torch.unique(rows, return_inverse=True)
    cuts = (wanted.diff() != 1).nonzero()[:, 0].add(1).tolist()
    try:
        with safe_open(file, framework="pt") as kept:
            images = kept.get_slice(column)
            parts = [images[int(run[0]) : int(run[-1]) + 1] for run in _cut(wanted, cuts)]
    except Exception as error:  # the library's own and the system's
        raise Damaged(f"{file} cannot be read: {error}") from error
    return torch.cat(parts)[places]


def _cut(values: Tensor, cuts: list[int]) -> list[Tensor]:
    edges = [0, *cuts, len(values)]
    return [values[a:b] for a, b in pairwise(edges)]
