"""Rows and answers as a tape holds them: runs of neighbours, packed."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

PAIR = struct.Struct("<II")
COUNT = struct.Struct("<Q")
Rows = Sequence[int]


def runs_of(rows: Rows) -> list[tuple[int, int]]:
    """Rows as runs of neighbours: where each begins, and how long it is.

    >>> runs_of([4, 5, 6, 2]), runs_of(range(3, 9))
    ([(4, 3), (2, 1)], [(3, 6)])
    """
    if isinstance(rows, range) and rows.step == 1:
        return [(rows.start, len(rows))]
    return list(_grouped(rows))


def _grouped(rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    begin = length = -1
    for row in rows:
        if row == begin + length:
            length += 1
            continue
        if length > 0:
            yield begin, length
        begin, length = int(row), 1
    if length > 0:
        yield begin, length


def packed(runs: list[tuple[int, int]]) -> bytes:
    """Runs as bytes: how many there are, and then each as a pair of numbers."""
    return COUNT.pack(len(runs)) + b"".join(PAIR.pack(*run) for run in runs)


def bytes_of(answers: Any, width: int) -> bytes:
    """Answers as bytes, each as a number of this many."""
    import numpy as np
    import torch

    kind = np.uint8 if width == 1 else np.int32
    return bytes(torch.as_tensor(answers).cpu().numpy().astype(kind).tobytes())
