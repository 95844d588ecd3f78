"""The journal of a run: JSON lines that are appended, synced and replayed.

A torn last line is cut off before the next append. Damage before it is an error that names the
line.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from db3kd.errors import Damaged, RunError
from db3kd.storage.files import Json, writing


class Journal:
    """An append-only file of JSON lines, each with its own checksum.

    Opening replays it: `records` holds every line so far. A torn last line is cut off before the
    next append. `read_only` leaves the file as it is.

    Raises:
        Damaged: a line other than a torn last one cannot be trusted; the text names file and line.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
    >>> journal = Journal(path)
    >>> journal.append("shard", shard=0, queries=1800)
    >>> journal.close()
    >>> Journal(path, read_only=True).records[0]["queries"]
    1800
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.records: list[Json] = []
        self._file: BinaryIO = BytesIO()  # for a read-only journal, so that `close` works
        content = path.read_bytes() if path.exists() else b""
        good = 0
        lines = content.split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            self.records.append(self._parse(line, number))
            good += len(line) + 1
        if not read_only:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("ab", buffering=0)
                self._file.truncate(good)

    def _parse(self, line: bytes, number: int) -> Json:
        try:
            record = json.loads(line)
            checksum = record.pop("crc")
        except (ValueError, KeyError, AttributeError, TypeError):
            checksum, record = None, {}
        if checksum != _checksum(record):
            raise Damaged(f"{self.path}, line {number} is damaged; put a copy of the file back")
        return dict(record)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record and sync it to the disk.

        Raises:
            RunError: it cannot be written; the journal stays as it was.
        """
        record = json.loads(json.dumps({"kind": kind, "time": round(time.time(), 3), **fields}))
        line = json.dumps({**record, "crc": _checksum(record)}, sort_keys=True).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            with writing(self.path):
                if self._file.write(line) != len(line):
                    raise OSError(28, "No space left on device")
                os.fsync(self._file.fileno())
        except RunError:
            self._file.truncate(end)
            raise
        self.records.append(record)

    def all(self, kind: str) -> Iterator[Json]:
        """Every record of one kind, oldest first."""
        return (record for record in self.records if record["kind"] == kind)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _checksum(record: Json) -> str:
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"
