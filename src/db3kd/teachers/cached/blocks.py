"""Blocks of answers in the file, and what they hold, in memory."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from db3kd.errors import Damaged
from db3kd.teachers.cached.file import REPAIR
from db3kd.teachers.cached.records import KEY, Block, checksum


class Blocks:
    """The class of each key, by the number of its teacher, as far as the file was read.

    >>> from db3kd.teachers.cached.file import SCHEMA
    >>> base = sqlite3.connect(":memory:", isolation_level=None)
    >>> _ = base.execute(SCHEMA[1])
    >>> Blocks(base, Path("answers.db3kd")).append(1, [b"k" * 32], [4])
    1
    >>> Blocks(base, Path("answers.db3kd")).held(1)[b"k" * 32]
    4
    """

    def __init__(self, base: sqlite3.Connection, path: Path) -> None:
        self._base, self._path = base, path
        self._held: dict[int, dict[bytes, int]] = {}
        self._seen: dict[int, int] = {}  # last block that was looked at

    def held(self, teacher: int) -> dict[bytes, int]:
        """What is known, after a look at the blocks that other processes added."""
        held = self._held.setdefault(teacher, {})
        (last,) = self._base.execute("SELECT max(id) FROM answers").fetchone()
        seen = self._seen.get(teacher, 0)
        if last is None or last <= seen:
            return held
        for row in self._base.execute(
            "SELECT id, teacher, '', at, keys, classes, crc FROM answers"
            " WHERE teacher=? AND id>? AND id<=? ORDER BY id",
            (teacher, seen, last),
        ):
            block = self.unpacked(*row)
            held.update(zip(block.keys, block.classes, strict=True))
        self._seen[teacher] = last
        return held

    def unpacked(
        self, block: int, teacher: Any, identity: str, at: Any, keys: Any, classes: Any, crc: Any
    ) -> Block:
        """What a row of the file holds."""
        blobs = isinstance(keys, bytes) and isinstance(classes, bytes)
        if (
            not blobs
            or len(keys) != 8 * len(classes)
            or checksum(teacher, at, keys, classes) != crc
        ):
            raise Damaged(f"{self._path}, block {block} of answers is damaged; {REPAIR}")
        cut = [keys[start : start + KEY] for start in range(0, len(keys), KEY)]
        return Block(identity, at / 1000, cut, np.frombuffer(classes, "<u4").tolist())

    def append(self, teacher: int, keys: Sequence[bytes], classes: list[int]) -> int:
        """Write a block of the keys that are new; returns how many. `held` reads it back."""
        held = self.held(teacher)
        fresh: dict[bytes, int] = {}
        for key, value in zip(keys, classes, strict=True):
            if key not in held:
                fresh.setdefault(key, value)
        if fresh:
            whole, values = b"".join(fresh), np.array(list(fresh.values()), "<u4").tobytes()
            at = round(time.time() * 1000)
            self._base.execute(
                "INSERT INTO answers (teacher, at, keys, classes, crc) VALUES (?, ?, ?, ?, ?)",
                (teacher, at, whole, values, checksum(teacher, at, whole, values)),
            )
        return len(fresh)
