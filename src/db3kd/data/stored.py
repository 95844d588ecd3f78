"""New images where they are kept: in the shards of a run, read when they are needed."""

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
    """Images in safetensors files, one after the other; `counts` says how many each holds.

    They are in the `column` of that name. `digests`: those of the files, where they are known.

    Only the rows that are asked for are read, so that millions never sit in memory; neighbours are
    read together. They are uint8, k/255, where `eight_bit`, else float32.

    Raises:
        InputError: a row is not on the shelf.
        Damaged: a file cannot be read.

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
        """The shards of a run that these records of its journal name, in their order."""
        known = list(records)
        files = tuple(folder / record["file"] for record in known)
        counts = tuple(record["samples"] for record in known)
        digests = tuple(record["sha256"] for record in known)
        return cls(files, counts, shape, eight_bit, column, digests)

    def __len__(self) -> int:
        return sum(self.counts)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows; any order, repeats allowed."""
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
        """SHA-256 of the files' digests."""
        digests = self.digests or tuple(map(of_file, self.files))
        return combined(f"{self.column} {self.counts}", digests)


def _read(file: Path, column: str, rows: Tensor) -> Tensor:
    """Rows of one file: runs of neighbours, each with one access."""
    wanted, places = torch.unique(rows, return_inverse=True)
    cuts = (wanted.diff() != 1).nonzero()[:, 0].add(1).tolist()
    try:
        with safe_open(file, framework="pt") as kept:
            images = kept.get_slice(column)
            parts = [images[int(run[0]) : int(run[-1]) + 1] for run in _cut(wanted, cuts)]
    except Exception as error:  # the library raises its own, and the system's
        raise Damaged(f"{file} cannot be read: {error}") from error
    return torch.cat(parts)[places]


def _cut(values: Tensor, cuts: list[int]) -> list[Tensor]:
    edges = [0, *cuts, len(values)]
    return [values[a:b] for a, b in pairwise(edges)]
