"""What a run writes down: a journal of JSON lines, shard files, and tapes of answers.

Knows nothing of teachers or images. Everything survives the death of the process at any moment:
a shard is written whole or not at all, a torn last line of a journal is cut before the next append,
a torn last frame of a tape is kept on the books. Damage anywhere else is an error that names the
place. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from db3kd.errors import Damaged, RunError

Json = dict[str, Any]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write (a full disk, no permission) into one sentence.

    >>> with writing(Path("shard")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    db3kd.errors.RunError: shard cannot be written (No space left on device); what was saved is safe
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror}); what was saved before is safe,"
            " run again once there is room"
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, sync, rename.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note"
    >>> write_atomically(target, b"whole"); target.read_bytes()
    b'whole'
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as one safetensors file, whole or not at all; returns its SHA-256.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "0.safetensors"
    >>> digest = write_shard(target, {"own": torch.tensor([1, 2])})
    >>> read_shard(target, digest)["own"]
    tensor([1, 2])
    """
    content = safetensors.torch.save({k: v.contiguous().cpu() for k, v in tensors.items()})
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_shard(path: Path, digest: str) -> dict[str, Tensor]:
    """Read a shard and check it against the digest that the journal holds.

    Raises:
        Damaged: the file is missing, or its content is not what was written.

    >>> read_shard(Path("no-such.safetensors"), "")
    Traceback (most recent call last):
    ...
    db3kd.errors.Damaged: no-such.safetensors is missing; ...
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is missing; {_REPAIR}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise Damaged(f"{path} is cut or altered ({len(content):,} bytes); {_REPAIR}")
    return safetensors.torch.load(content)


_REPAIR = "put a copy of it back, or run again with --redo-damaged to buy its answers a second time"


class Journal:
    """An append-only file of JSON lines, each with a checksum of its own.

    Opening replays it: `records` holds every line so far. A torn last line is cut before the next
    append. `read_only` leaves the file as it is.

    Raises:
        Damaged: a line other than a torn last one cannot be trusted; names file and line.

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
        self._file: BinaryIO = BytesIO()  # of a read-only journal: nothing to close
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
        """Write one record and sync it to the disk."""
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


_HEAD = struct.Struct("<4sIII")  # what, how many images, key of the question, checksum of these
_ASKED, _LOST = b"ask:", b"lost"


@dataclass(frozen=True)
class _Frame:
    count: int
    key: int
    answers: Tensor | None  # None: asked, but the answers never arrived


def _answer_type(classes: int) -> np.dtype[Any]:
    return np.dtype(np.uint8 if classes <= 256 else np.int32)


def _frames(content: bytes, kind: np.dtype[Any], path: Path) -> Iterator[tuple[_Frame, int, bool]]:
    """Each frame of a tape, where the good part ends after it, and whether it has its answers."""
    at = 0
    while at + _HEAD.size <= len(content):
        what, count, key, checksum = _HEAD.unpack_from(content, at)
        if checksum != zlib.crc32(content[at : at + 12]) or what not in (_ASKED, _LOST):
            raise Damaged(f"{path}, byte {at} is damaged; {_REPAIR}")
        body = at + _HEAD.size
        at = body + count * kind.itemsize + 4
        if what == _LOST:
            at = body
            yield _Frame(count, key, None), at, True
            continue
        if at > len(content):
            yield _Frame(count, key, None), body, False
            return
        answers, checksum = content[body : at - 4], content[at - 4 : at]
        if zlib.crc32(answers) != int.from_bytes(checksum, "little"):
            raise Damaged(f"{path}, byte {body} is damaged; {_REPAIR}")
        whole = torch.from_numpy(np.frombuffer(answers, kind).astype(np.int64))
        yield _Frame(count, key, whole), at, True


class Tape:
    """The answers of one shard in progress, in the order they were bought, so none is bought twice.

    A question is reserved before it is sent and settled after. `take` hands out the answers of an
    earlier process, question by question; once they are used up, `reserve` and `settle` record new
    ones. A reserved question without answers stays on the books as lost. Data is synced about once
    a second: a killed process loses nothing, a power cut at most that second.

    Raises:
        Damaged: a frame other than a torn last one cannot be trusted.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "0.tape"
    >>> tape = Tape(path, classes=10)
    >>> tape.reserve(2, key=5); tape.settle(torch.tensor([3, 1]))
    >>> tape.reserve(4, key=6); tape.close()  # and here the process dies
    >>> again = Tape(path, classes=10, read_only=True)
    >>> again.take(2, key=5), again.take(4, key=6), again.booked, again.lost
    (tensor([3, 1]), None, 6, 0)
    """

    def __init__(self, path: Path, *, classes: int, read_only: bool = False) -> None:
        self.path = path
        self._type = _answer_type(classes)
        self._frames, good, torn = self._read()
        self.in_flight = torn.count if torn is not None and read_only else 0
        self._next = 0
        self._synced = time.monotonic()
        self._pending: tuple[int, int, int] | None = None  # place, count, key of an open question
        self._reserved, self._lost = 0, 0  # queries that this process booked, and lost
        self._file: BinaryIO = BytesIO()  # of a read-only tape: nothing to close
        if read_only:
            return
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self._file = os.fdopen(descriptor, "r+b", buffering=0)
            self._file.truncate(good)
            if torn is not None:  # first cut the torn answers, then mark the question as lost
                self._file.seek(good - _HEAD.size)
                self._file.write(_head(_LOST, torn.count, torn.key))
            self._file.seek(0, os.SEEK_END)

    def _read(self) -> tuple[list[_Frame], int, _Frame | None]:
        """Every frame, where the good part ends, and the last frame if its answers are torn."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:  # also where its shard is finished just now
            content = b""
        found = list(_frames(content, self._type, self.path))
        _, good, whole = found[-1] if found else (None, 0, True)
        frames = [frame for frame, _, _ in found]
        return frames, good, None if whole else frames[-1]

    @property
    def booked(self) -> int:
        """Queries that were asked, answered or not, by this process and those before."""
        return sum(frame.count for frame in self._frames) + self._reserved

    @property
    def lost(self) -> int:
        """Queries that were asked but whose answers never arrived."""
        before = sum(frame.count for frame in self._frames if frame.answers is None)
        return before - self.in_flight + self._lost

    def take(self, count: int, *, key: int) -> Tensor | None:
        """The recorded answers to this question, or None if it has to be asked.

        Raises:
            Drifted: the recorded question is another one.
        """
        while self._next < len(self._frames):
            frame = self._frames[self._next]
            self._next += 1
            if frame.answers is None:
                continue
            if (frame.count, frame.key) != (count, key):
                raise Drifted(str(self.path))
            return frame.answers
        return None

    def reserve(self, count: int, *, key: int) -> None:
        """Put a question on the books before it is sent; an open one before it is lost."""
        if self._pending:
            place, lost, lost_key = self._pending
            self._file.truncate(place + _HEAD.size)
            self._file.seek(place)
            self._write(_head(_LOST, lost, lost_key))
            self._lost += lost
        self._pending = (self._file.tell(), count, key)
        self._reserved += count
        self._write(_head(_ASKED, count, key))

    def settle(self, answers: Tensor) -> None:
        """Record the answers to the question reserved last."""
        body = answers.cpu().numpy().astype(self._type).tobytes()
        self._write(body + zlib.crc32(body).to_bytes(4, "little"))
        self._pending = None
        if time.monotonic() - self._synced > 1:
            os.fdatasync(self._file.fileno())
            self._synced = time.monotonic()

    def _write(self, content: bytes) -> None:
        with writing(self.path):
            if self._file.write(content) != len(content):
                raise OSError(28, "No space left on device")

    def discard(self) -> None:
        """Give up every recorded answer: all that was asked is lost, and stays on the books."""
        booked = self.booked
        self.close()
        write_atomically(self.path, _head(_LOST, booked, 0))

    @classmethod
    def write_off(cls, path: Path, *, classes: int, most: int) -> None:
        """Replace a damaged tape by one that books all it can have held as lost.

        `most` is what its shard can cost; the part that can still be read may say more.
        """
        content, readable = path.read_bytes(), 0
        with suppress(Damaged):
            for frame, _, _ in _frames(content, _answer_type(classes), path):
                readable += frame.count
        write_atomically(path, _head(_LOST, readable + max(len(content), most), 0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Drifted(Exception):
    """A resumed shard asks another question than the one recorded; its answers cannot be used."""


def _head(what: bytes, count: int, key: int) -> bytes:
    head = _HEAD.pack(what, count, key, 0)[:12]
    return head + zlib.crc32(head).to_bytes(4, "little")
