"""The tape of a shard in progress: every answer is kept as it comes, so none is bought twice.

Rows of a question are on the tape before they are sent, and their answers before they are used.
Whatever becomes of the end of the file, what was asked stays on the books: the head of the file
counts it, and the journal knows a bound. Torch is imported where answers are handed out, so that
the books can be added up without it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db3kd.errors import Damaged, RunError, TeacherError
from db3kd.storage.files import REPAIR, sync_data, write_atomically, writing
from db3kd.storage.frames import BEGIN, Head, frame, head, read_frames, read_head
from db3kd.storage.old_tape import is_old, read_old
from db3kd.storage.runs import COUNT, PAIR, bytes_of, packed, runs_of

if TYPE_CHECKING:
    from torch import Tensor

_QUESTION, _SENT, _ANSWERED, _LOST, _REOPENED = b"Q", b"S", b"A", b"L", b"O"
_OPEN, _FLYING, _DONE = 0, 1, 2  # of a row: not sent, sent, answered
ROOM = 65_536  # bytes that are taken from the disk at once, so that a full one is met before asking
SYNC_SECONDS = 1.0
Rows = Sequence[int]
_log = logging.getLogger("db3kd")


class Tape:
    """The answers of one shard in progress, in the order they were bought, so none is bought twice.

    `question` gives each question with the answers that are there already. Others are claimed
    before they are sent and settled after; see `Question`. What was claimed and never settled is
    lost, once the process that claimed it has ended, and stays on the books.

    - `allowed`: how much was allowed to be asked, as the journal has it. Where the tape is gone,
      or its end may be, that is what was asked.
    - `allow`: is called before more is asked than was ever allowed. It must make the new bound
      last through a power cut.
    - `leased`: the file was lent to this process (`db3kd.storage.leases`). It must be there, and
      nothing is claimed once it was taken back.

    A killed process loses the answers on their way. A power cut may also take those of the last
    second.

    Raises:
        Damaged: the file cannot be read.
        RunError: it cannot be written.
        Fenced: it was lent, and is taken back.

    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "0.tape"
    >>> tape = Tape(path, classes=10)
    >>> question = tape.question(3, key=5)
    >>> question.claim([0, 1]), question.settle([0, 1], torch.tensor([3, 1])), question.claim([2])
    ([0, 1], None, [2])
    >>> tape.close()  # and here the process dies
    >>> again = Tape(path, classes=10)
    >>> (again.booked, again.lost), again.question(3, key=5).open
    ((3, 1), 1)
    >>> again.close()
    """

    def __init__(
        self,
        path: Path,
        *,
        classes: int,
        read_only: bool = False,
        allowed: int = 0,
        allow: Callable[[int], None] = lambda bound: None,
        leased: bool = False,
    ) -> None:
        self.path, self._leased = path, leased
        self.width = 1 if classes <= 256 else 4  # bytes of an answer
        self._allowed, self._allow = allowed, allow
        self._questions: list[Question] = []
        self._next = 0
        self.asked = 0  # rows that were sent, those that are lost included
        self._written_off = 0
        self._lock = threading.Lock()
        self._descriptor = -1
        content = self._content()
        known, end = self._replay(content)
        gone = self._gone(known)
        if read_only:
            self._written_off += gone
            self.asked += gone
            return
        self._open(content, known, end, gone)

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:  # also where its shard is finished just now
            return b""
        except OSError as error:
            raise Damaged(f"{self.path} cannot be read ({error.strerror}); {REPAIR}") from None

    # Reading

    def _replay(self, content: bytes) -> tuple[Head | None, int]:
        """Take up what the file holds; its head, and where the last good frame ends."""
        end = BEGIN
        if is_old(content):
            self._replay_old(content)
            return Head(self.asked, sure=True), end
        for body, after in read_frames(content):
            self._take_up(body[:1], memoryview(body)[1:])
            end = after
        return read_head(content), end

    def _replay_old(self, content: bytes) -> None:
        found, self._written_off = read_old(content, self.width)
        self.asked = self._written_off
        for count, key, answers in found:
            question = Question(self, count, key)
            question.sent, question._recorded = count, True
            question._keep([(0, count)], answers)
            self._questions.append(question)
            self.asked += count

    def _take_up(self, what: bytes, told: memoryview) -> None:
        if what == _QUESTION:
            self._begin(Question(self, *PAIR.unpack(told)))
            self._questions[-1]._recorded = True
        elif what == _LOST:
            (lost,) = COUNT.unpack(told)
            self._written_off += lost
            self.asked += lost
        elif what == _REOPENED:
            for question in self._questions:
                question._land()
        elif self._questions:
            (parts,) = COUNT.unpack(told[: COUNT.size])
            cut = COUNT.size + parts * PAIR.size
            runs = list(PAIR.iter_unpack(told[COUNT.size : cut]))
            if what == _SENT:
                self._questions[-1]._send(runs)
                self.asked += sum(length for _, length in runs)
            else:
                self._questions[-1]._keep(runs, bytes(told[cut:]))

    def _gone(self, known: Head | None) -> int:
        """How much was asked that the frames do not tell of, at most."""
        if known is not None and known.sure:
            return max(0, known.asked - self.asked)
        return max(0, self._allowed - self.asked, 0 if known is None else known.asked - self.asked)

    # The books

    @property
    def booked(self) -> int:
        """Queries that were asked or used, answered or not, by this process and those before."""
        kept = sum(question.count for question in self._questions if question.elsewhere)
        return self.asked + kept

    @property
    def lost(self) -> int:
        """Queries that were asked but whose answers will never arrive."""
        answered = sum(question.sent and question.answered for question in self._questions)
        flying = sum(question.flying for question in self._questions)
        return self.asked - answered - flying

    @property
    def in_flight(self) -> int:
        """Queries that were asked and may still be answered; 0 if no process is at work."""
        return sum(question.flying for question in self._questions)

    @property
    def reserved(self) -> int:
        """Images of a question that a teacher with its own books has not answered yet."""
        last = self._questions[-1:]
        return sum(q.open for q in last if not q.sent)

    # Writing

    def _open(self, content: bytes, known: Head | None, end: int, gone: int) -> None:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if is_old(content):
                write_atomically(self.path, self._renewed())
                end = self.path.stat().st_size
            made = 0 if self._leased else os.O_CREAT
            try:
                descriptor = os.open(self.path, os.O_RDWR | made | _BINARY, 0o644)
            except FileNotFoundError:
                if self._leased:
                    raise Fenced(str(self.path)) from None
                raise
        self._descriptor, self._end, self._room = descriptor, end, 0
        self._synced = time.monotonic()
        try:
            with writing(self.path):
                os.ftruncate(descriptor, end)
            news = frame(_LOST + COUNT.pack(gone)) if gone else b""
            if self.in_flight:
                news += frame(_REOPENED)
                for question in self._questions:
                    question._land()
            if news:
                self._append(news)
            if gone:
                _log.warning(
                    "%s is damaged or gone; the answers to %s queries stay on the books as lost",
                    self.path,
                    f"{gone:,}",
                )
            self.asked += gone
            self._written_off += gone
            self._put_head()
            if known is not None:  # the old head says less than what will be asked
                self._sync()
        except BaseException:
            self._release()
            raise

    def _renewed(self) -> bytes:
        """The whole tape in today's frames."""
        parts = [head(self.asked, closed=False)]
        if self._written_off:
            parts.append(frame(_LOST + COUNT.pack(self._written_off)))
        for question in self._questions:
            runs = [(0, question.count)]
            parts.append(frame(_QUESTION + PAIR.pack(question.count, question.key)))
            parts.append(frame(_SENT + packed(runs)))
            parts.append(frame(_ANSWERED + packed(runs) + question._values))
        return b"".join(parts)

    def question(self, count: int, *, key: int) -> "Question":
        """The next question, with the answers that are recorded of it.

        Raises:
            Drifted: the recorded question is another one.
        """
        while count and self._next < len(self._questions):
            found = self._questions[self._next]
            self._next += 1
            gave_up = found.open and found is not self._questions[-1]
            if (found.count, found.key) == (count, key) and not gave_up:
                return found
            if found.count and not found.open:
                raise Drifted(str(self.path))
        last = self._questions[-1] if self._questions else None
        if last is not None and last.open and (last.count, last.key) == (count, key):
            return last  # it failed, and is asked again
        new = Question(self, count, key)
        if count:
            self._begin(new)
            self._next = len(self._questions)
        return new

    def _begin(self, question: "Question") -> None:
        """Take up a new question; nothing of the one before it is on its way any more."""
        for before in self._questions[-1:]:
            before._land()
        self._questions.append(question)

    def _record(self, question: "Question", what: bytes, content: bytes, room: int = 0) -> None:
        """Append a frame about a question, and its own frame where it has none; locked."""
        news = frame(what + content) if what else b""
        if not question._recorded:
            news = frame(_QUESTION + PAIR.pack(question.count, question.key)) + news
        self._make_room(len(news) + room)
        self._append(news)
        question._recorded = True

    def _ask(self, rows: int) -> None:
        """Allow more to be asked, before it is."""
        if self.asked + rows > self._allowed:
            bound = max(self.asked + rows, 2 * self.asked)
            self._allow(bound)
            self._allowed = bound

    @property
    def allowed(self) -> int:
        """How much may be asked in all without a new bound."""
        return self._allowed

    def raise_to(self, bound: int) -> None:
        """Note that so much may be asked by now; whoever says so has made it last."""
        self._allowed = max(self._allowed, bound)

    def _check_lease(self) -> None:
        """Refuse to go on with a file that has its name no more.

        What is claimed is in the file by now. Who takes the file back gives it another name first,
        and reads it then. So either they read of the claim, or it is not sent.
        """
        if not self._leased:
            return
        mine = os.fstat(self._descriptor)
        try:
            there = os.stat(self.path)
        except OSError:
            raise Fenced(str(self.path)) from None
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise Fenced(str(self.path))

    def _append(self, content: bytes) -> None:
        with writing(self.path):
            written = 0
            try:
                while written < len(content):
                    written += _write_at(self._descriptor, content[written:], self._end + written)
            except OSError:
                with suppress(OSError):  # what was written of it cannot be read, nor be in the way
                    os.ftruncate(self._descriptor, self._end)
                    self._room = 0
                raise
            self._end += len(content)

    def _make_room(self, need: int) -> None:
        """Take room on the disk, so that what was paid for can be kept."""
        if self._end + need <= self._room or not hasattr(os, "posix_fallocate"):
            return
        with writing(self.path):
            try:
                os.posix_fallocate(self._descriptor, self._end, need + ROOM)
                self._room = self._end + need + ROOM
            except OSError:
                os.posix_fallocate(self._descriptor, self._end, need)
                self._room = self._end + need

    def _put_head(self, *, closed: bool = False) -> None:
        with writing(self.path):
            _write_at(self._descriptor, head(self.asked, closed=closed), 0)

    def _sync(self) -> None:
        with writing(self.path):
            sync_data(self._descriptor)
        self._synced = time.monotonic()

    def discard(self) -> None:
        """Give up every recorded answer: all that was asked is lost, and stays on the books."""
        booked = self.booked
        self._release()
        lost = frame(_LOST + COUNT.pack(booked))
        write_atomically(self.path, head(booked, closed=True) + lost)

    def close(self) -> None:
        """Close the file; all of it is on the disk then."""
        if self._descriptor < 0:
            return
        try:
            with suppress(RunError):  # then it counts as not closed, which loses nothing
                with writing(self.path):
                    os.ftruncate(self._descriptor, self._end)
                self._sync()
                self._put_head(closed=True)
                self._sync()
        finally:
            self._release()

    def _release(self) -> None:
        self._allow = _not_any_more  # a tape and its questions know each other, but nobody else
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Question:
    """A question on a tape, and those of its answers that are there.

    It is a `db3kd.teachers.parts.Keeper`: rows are claimed before they are sent and settled after.
    """

    def __init__(self, tape: Tape, count: int, key: int) -> None:
        self.count, self.key, self._tape = count, key, tape
        self.sent = 0  # rows that were sent, each as often as it was
        self._state = bytearray(count)
        self._values = bytearray(count * tape.width)
        self._recorded = False

    @property
    def open(self) -> int:
        """How many rows have no answer."""
        return self.count - self.answered

    @property
    def answered(self) -> int:
        """How many rows have an answer."""
        return self._state.count(_DONE)

    @property
    def flying(self) -> int:
        """How many rows were sent and are not answered."""
        return self._state.count(_FLYING)

    @property
    def elsewhere(self) -> bool:
        """Whether all its answers came from a teacher that keeps its own books."""
        return not self.sent and not self.open

    def reserve(self) -> None:
        """Record the question, for a teacher that keeps its own books; others claim rows."""
        with self._tape._lock:
            self._tape._record(self, b"", b"", self._tape.width * self.count + 64)

    def claim(self, rows: Rows, /) -> Rows:
        """Put those of the rows that have no answer on the tape as sent; returns them.

        Raises:
            RunError: the tape cannot be written; nothing may be sent.
            Fenced: the tape was lent, and is taken back; nothing may be sent.
        """
        with self._tape._lock:
            state = self._state
            mine = rows if not self.answered else [row for row in rows if state[row] != _DONE]
            if not len(mine):
                return mine
            runs, tape = runs_of(mine), self._tape
            tape._ask(len(mine))
            tape._record(self, _SENT, packed(runs), tape.width * len(mine) + 8 * len(mine) + 64)
            self._send(runs)
            tape.asked += len(mine)
            tape._put_head()
            tape._check_lease()
            return mine

    def settle(self, rows: Rows, classes: Any, /, *, failed: Rows = (), retried: int = 0) -> None:
        """Keep the answers of these rows; `failed` ones stay lost.

        Raises:
            TeacherError: a row was answered before, or is not in the question.
            RunError: the tape cannot be written.
        """
        places = [int(row) for row in rows]
        if not places:
            return
        with self._tape._lock:
            for row in places:
                if not 0 <= row < self.count or self._state[row] == _DONE:
                    raise TeacherError(
                        f"the teacher answered image {row} of {self.count} twice or out of place"
                    )
            runs, values = runs_of(places), bytes_of(classes, self._tape.width)
            self._tape._record(self, _ANSWERED, packed(runs) + values)
            self._keep(runs, values)
            if time.monotonic() - self._tape._synced > SYNC_SECONDS:
                self._tape._sync()

    def answers(self) -> "Tensor":
        """The answer to each row, once none is open."""
        import numpy as np
        import torch

        kind = np.uint8 if self._tape.width == 1 else np.int32
        return torch.from_numpy(np.frombuffer(bytes(self._values), kind).astype(np.int64))

    def _send(self, runs: list[tuple[int, int]]) -> None:
        for start, length in runs:
            self._state[start : start + length] = bytes([_FLYING]) * length
            self.sent += length

    def _keep(self, runs: list[tuple[int, int]], values: bytes) -> None:
        width, at = self._tape.width, 0
        for start, length in runs:
            self._state[start : start + length] = bytes([_DONE]) * length
            self._values[start * width : (start + length) * width] = values[
                at : at + length * width
            ]
            at += length * width

    def _land(self) -> None:
        """Nothing of it is on its way any more: the process that sent it has ended."""
        self._state = self._state.replace(bytes([_FLYING]), bytes([_OPEN]))


def _not_any_more(bound: int) -> None:
    """What a closed tape is allowed to ask."""
    raise RunError("a tape that is closed cannot be asked")


class Drifted(Exception):
    """A resumed shard asks another question than the one recorded; its answers cannot be used."""


class Fenced(Exception):
    """A tape that was lent is taken back; whoever has it still may ask and write nothing more."""


_BINARY = getattr(os, "O_BINARY", 0)  # Windows would change line ends


def _write_at(descriptor: int, content: bytes, place: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, content, place)
    os.lseek(descriptor, place, os.SEEK_SET)
    return os.write(descriptor, content)
