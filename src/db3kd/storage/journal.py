"""The journal of a run: JSON lines that are appended, synced and replayed.

What follows the last good line is what a power cut left; it is cut off before the next append.
Damage before that is an error that names the line.
"""

import json
import logging
import os
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from db3kd.errors import Busy, Damaged, RunError
from db3kd.storage.files import Json, lock_file, writing

WAIT = "wait for it or stop it first"
OPEN_AGAIN = "a process that was forked must open the run again"


_log = logging.getLogger("db3kd")


class Journal:
    """An append-only file of JSON lines, each with its own checksum.

    Opening replays it: `records` holds every line so far, a line that is there twice only once. A
    damaged end is cut off before the next append. `read_only` leaves the file as it is; otherwise
    the file is locked, where the system can (POSIX).

    What is asked for again and again is kept as the journal grows: the records of `finished` shards
    by stage and number, and the `bounds` of those in progress. Nobody else changes these.

    Raises:
        Damaged: a line before the last good one cannot be trusted; the text names file and line.
        Busy: another process has it open.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
    >>> journal = Journal(path)
    >>> journal.append("shard", shard=0, queries=1800)
    >>> journal.close()
    >>> Journal(path, read_only=True).records[0]["queries"]
    1800
    >>> journal = Journal(path.with_name("another.jsonl"))
    >>> for shard, bound in (0, 10), (1, 10), (1, 20):
    ...     journal.append("tape", stage="answers", shard=shard, bound=bound)
    >>> journal.append("shard", stage="answers", shard=0)
    >>> journal.bounds
    {('answers', 1): 20}
    >>> journal.close()
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path, self._read_only = path, read_only
        self.records: list[Json] = []
        self.finished: defaultdict[str, dict[int, Json]] = defaultdict(dict)
        self.bounds: dict[tuple[str, int], int] = {}
        self._kinds: dict[str, list[Json]] = {}
        self._owner = os.getpid()
        self._file: BinaryIO = BytesIO()  # for a read-only journal, so that `close` works
        if read_only:
            try:
                self._replay(path.read_bytes() if path.exists() else b"")
            except OSError as error:
                raise Damaged(f"{path} cannot be read ({error.strerror})") from None
            return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        try:
            if not lock_file(self._file.fileno()):
                raise Busy(f"another process is working in {path.parent}; {WAIT}")
            self._file.seek(0)
            content = self._file.read()
            good = self._replay(content)
            if good < len(content):
                _log.warning(
                    "the last %s bytes of %s are damaged and cut off; what they told is found out"
                    " again",
                    f"{len(content) - good:,}",
                    path,
                )
            with writing(path):
                self._file.truncate(good)
        except BaseException:
            self._file.close()
            raise

    def _replay(self, content: bytes) -> int:
        """Take up every line; returns where the last good one ends."""
        good, at, bad = 0, 0, 0
        seen: set[bytes] = set()
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            at += len(line) + 1
            record = _parsed(line)
            if record is None:
                bad = bad or number
                continue
            if bad:
                raise Damaged(f"{self.path}, line {bad} is damaged; put a copy of the file back")
            if line not in seen:
                self._take_up(record)
            seen.add(line)
            good = at
        return good

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record and sync it to the disk.

        Raises:
            RunError: it cannot be written, or it is closed, or this process was forked from the one
                that opened it; the journal stays as it was.
        """
        if os.getpid() != self._owner:
            raise RunError(f"{self.path} was opened by another process; {OPEN_AGAIN}")
        if self._read_only:
            raise RunError(f"{self.path} is only read here, so nothing ({kind!r}) can be noted")
        if self._file.closed:
            raise RunError(f"{self.path.parent} is closed; open the run again to go on")
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
        self._take_up(record)

    def _take_up(self, record: Json) -> None:
        """Keep a record, and what follows from it."""
        self.records.append(record)
        kind, stage, shard = record["kind"], record.get("stage", ""), record.get("shard", -1)
        self._kinds.setdefault(kind, []).append(record)
        if kind == "shard":
            self.finished[stage][shard] = record
        elif kind in ("redo", "undone"):
            self.finished[stage].pop(shard, None)
        if kind == "tape":
            self.bounds[stage, shard] = record["bound"]
        elif kind in ("shard", "redo"):
            self.bounds.pop((stage, shard), None)

    def all(self, kind: str) -> Iterator[Json]:
        """Every record of one kind so far, oldest first."""
        return iter(tuple(self._kinds.get(kind, ())))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _parsed(line: bytes) -> Json | None:
    """The record of a line; None if it cannot be trusted."""
    try:
        record = json.loads(line)
        checksum = record.pop("crc")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return dict(record) if checksum == _checksum(record) and "kind" in record else None


def _checksum(record: Json) -> str:
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"
