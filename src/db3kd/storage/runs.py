"""Rows of a question as a tape writes them: runs of neighbours, and bytes."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

PAIR = struct.Struct("<II")
COUNT = struct.Struct("<Q")


def runs_of(rows: Sequence[int]) -> list[tuple[int, int]]:
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
    """Runs as bytes: how many there are, and each.

    >>> len(packed([(4, 3), (2, 1)]))
    24
    """
    return COUNT.pack(len(runs)) + b"".join(PAIR.pack(*run) for run in runs)


def bytes_of(answers: Any, width: int) -> bytes:
    r"""Answers as bytes, `width` for each; torch is imported here.

    >>> bytes_of([1, 2], 1)
    b'\x01\x02'
    """
    import numpy as np
    import torch

    kind = np.uint8 if width == 1 else np.int32
    return bytes(torch.as_tensor(answers).cpu().numpy().astype(kind).tobytes())
