"""The tape of a shard in progress: every answer is kept as it comes, so none is bought twice.

A torn last frame is kept on the books; damage anywhere else is an error that names the place. Torch
is imported where answers are read or written, so that the books can be added up without it.
"""

import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from db3kd.errors import Damaged
from db3kd.storage.files import REPAIR, sync_data, write_atomically, writing

if TYPE_CHECKING:
    from torch import Tensor

_HEAD = struct.Struct("<4sIII")  # what, how many images, key of the question, checksum of these
_ASKED, _LOST = b"ask:", b"lost"


@dataclass(frozen=True)
class _Frame:
    count: int
    key: int
    answers: bytes | None  # None: asked, but the answers never arrived


def _width(classes: int) -> int:
    """Bytes of an answer: a byte where that tells all classes apart, else a 32-bit integer."""
    return 1 if classes <= 256 else 4


def _frames(content: bytes, width: int, path: Path) -> Iterator[tuple[_Frame, int, bool]]:
    """Each frame of a tape, where the good part ends after it, and whether it has its answers."""
    at = 0
    while at + _HEAD.size <= len(content):
        what, count, key, checksum = _HEAD.unpack_from(content, at)
        if checksum != zlib.crc32(content[at : at + 12]) or what not in (_ASKED, _LOST):
            raise Damaged(f"{path}, byte {at} is damaged; {REPAIR}")
        body = at + _HEAD.size
        at = body + count * width + 4
        if what == _LOST:
            at = body
            yield _Frame(count, key, None), at, True
            continue
        if at > len(content):
            yield _Frame(count, key, None), body, False
            return
        answers, checksum = content[body : at - 4], content[at - 4 : at]
        if zlib.crc32(answers) != int.from_bytes(checksum, "little"):
            raise Damaged(f"{path}, byte {body} is damaged; {REPAIR}")
        yield _Frame(count, key, answers), at, True


class Tape:
    """The answers of one shard in progress, in the order they were bought, so none is bought twice.

    A question is reserved before it is sent and settled after. `take` hands out the answers of an
    earlier process, question by question; once they are used up, `reserve` and `settle` record new
    ones. A reserved question without answers stays on the books as lost. Data is synced about once
    a second: a killed process loses nothing, a power cut at most that second.

    Raises:
        Damaged: a frame other than a torn last one cannot be trusted.

    >>> import tempfile, torch
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
        self._width = _width(classes)
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
        found = list(_frames(content, self._width, self.path))
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

    def take(self, count: int, *, key: int) -> "Tensor | None":
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
            return _tensor(frame.answers, self._width)
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

    def settle(self, answers: "Tensor") -> None:
        """Record the answers to the question reserved last."""
        body = _bytes(answers, self._width)
        self._write(body + zlib.crc32(body).to_bytes(4, "little"))
        self._pending = None
        if time.monotonic() - self._synced > 1:
            sync_data(self._file.fileno())
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
            for frame, _, _ in _frames(content, _width(classes), path):
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


def _tensor(answers: bytes, width: int) -> "Tensor":
    import numpy as np
    import torch

    kind = np.uint8 if width == 1 else np.int32
    return torch.from_numpy(np.frombuffer(answers, kind).astype(np.int64))


def _bytes(answers: "Tensor", width: int) -> bytes:
    import numpy as np

    return answers.cpu().numpy().astype(np.uint8 if width == 1 else np.int32).tobytes()
