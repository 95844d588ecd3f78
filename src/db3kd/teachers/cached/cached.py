"""A teacher around a teacher: it answers from a store, and asks for what the store lacks."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import BudgetExhausted, InputError, TeacherError
from db3kd.teachers.base import Middleware, Teacher, check_answers
from db3kd.teachers.cached.store import Store
from db3kd.teachers.parts import Classes, InParts, Rows, Settle

WAVE = 4096
CHUNK = 1024


class CachedTeacher(Middleware):
    """A teacher around a teacher, which asks it for each image once and keeps every answer first.

    Not of the paper. After a crash, for another student or in another epoch nothing is asked twice.
    All answers to a question come from `store`, in order. Images that the store does not know are
    asked once each, duplicates together, `wave` at a time. A wave is reserved in the store, asked,
    and settled part by part. An `InParts` teacher says when a part arrived; any other is asked for
    `chunk` images at a time. A failure or a kill in the middle loses nothing that was settled, and
    a kill leaves at most one wave "in_flight" on the books.

    `identity` names the model, and everything that changes its answers; never put a secret into
    it. `key` gives 32 bytes for each image (row, *image), the digest of what will be sent to the
    teacher; images with the same key get the same answer. The books are kept under `run`.

    Costs one query for each image that the store does not know. Nothing is random.

    The disk is synced once a question. What was settled outlives a killed process at once. A power
    cut may take what was settled since the last sync; none of that was handed out yet.

    Raises:
        TeacherError: the teacher failed, left images without an answer, or answered a class that
            does not exist.
        InputError: `key` did not give one key of 32 bytes for each image; sizes below 1.
        RunError: the store cannot be read or written.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from db3kd.teachers.meter import Meter
    >>> from db3kd.teachers import function
    >>> meter = Meter(function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2))
    >>> store = Store(Path(tempfile.mkdtemp()) / "answers.db3kd")
    >>> teacher = CachedTeacher(meter, store, "bright-v1")
    >>> images = torch.tensor([0.9, 0.2, 0.9]).reshape(3, 1, 1, 1)
    >>> teacher.labels(images), meter.spent
    (tensor([1, 0, 1]), 2)
    >>> teacher.labels(images.flip(0)), meter.spent
    (tensor([1, 0, 1]), 2)
    >>> store.close()
    """

    def __init__(
        self,
        teacher: Teacher,
        store: Store,
        identity: str,
        *,
        key: Callable[[Tensor], Sequence[bytes]] | None = None,
        run: str = "",
        wave: int = WAVE,
        chunk: int = CHUNK,
    ) -> None:
        if not identity:
            raise InputError("the identity of a teacher is empty; name the model and its version")
        if wave < 1 or chunk < 1:
            raise InputError(f"wave and chunk must be at least 1, got {wave} and {chunk}")
        super().__init__(teacher)
        self._store, self._key = store, key or float_keys
        self._wave, self._chunk = wave, chunk
        self.identity, self.run = identity, run

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; one query for each unknown one; same device."""
        keys = self._key(images)
        if len(keys) != len(images):
            raise InputError(f"the key function gave {len(keys)} keys for {len(images)} images")
        answers = self._store.known(self.identity, keys)
        first: dict[bytes, int] = {}
        for row in (answers < 0).nonzero().flatten().tolist():
            first.setdefault(keys[row], row)
        rows = list(first.values())
        for begin in range(0, len(rows), self._wave):
            end = begin + self._wave
            self._ask(images, keys, rows[begin:end], last=end >= len(rows))
        if rows:
            answers = self._store.known(self.identity, keys)
        if len(rows) < len(images):
            self._store.hit(self.identity, len(images) - len(rows), run=self.run)
        answers = check_answers(answers, asked=len(images), classes=self.classes)
        return answers.to(images.device)

    def _ask(self, images: Tensor, keys: Sequence[bytes], rows: list[int], *, last: bool) -> None:
        """Reserve, ask and settle one wave."""
        if rows[-1] - rows[0] + 1 == len(rows):
            part = images[rows[0] : rows[-1] + 1]  # no copy
        else:
            part = images[torch.tensor(rows, device=images.device)]
        wave = _Wave(self._store, [keys[row] for row in rows], self.classes)
        try:
            self._store.reserve(self.identity, len(rows), run=self.run, told=wave.begin)
            wave.sent = True
            if isinstance(self._teacher, InParts):
                self._teacher.answer(part, wave.settle)
            else:
                self._in_chunks(part, wave.settle)
            if wave.left:
                raise TeacherError(
                    f"the teacher left {wave.left} of {len(rows)} images without an answer"
                )
        except BaseException:
            wave.give_up()
            raise
        self._store.close_ticket(wave.ticket, sync=last)

    def _in_chunks(self, images: Tensor, settle: Settle) -> None:
        for first in range(0, len(images), self._chunk):
            part = images[first : first + self._chunk]
            rows = range(first, first + len(part))
            rest = len(images) - rows.stop
            try:
                answers = check_answers(
                    self._teacher.labels(part), asked=len(part), classes=self.classes
                )
            except BudgetExhausted:  # nothing was asked
                settle((), (), unsent=len(part) + rest)
                raise
            except BaseException:
                settle((), (), failed=len(part), unsent=rest)
                raise
            settle(rows, answers)


class _Wave:
    """Images that were reserved together, and which of them were settled."""

    def __init__(self, store: Store, keys: list[bytes], classes: int) -> None:
        self._store, self._keys, self._classes = store, keys, classes
        self.ticket, self.sent = 0, False
        self._lock = threading.Lock()
        self._done = bytearray(len(keys))
        self._failed, self._unsent = 0, 0

    def begin(self, ticket: int) -> None:
        """Take the ticket by which they were reserved."""
        self.ticket = ticket

    @property
    def left(self) -> int:
        """Images without an answer."""
        return self._done.count(0)

    def settle(
        self,
        rows: Rows,
        classes: Classes,
        /,
        *,
        failed: int = 0,
        retried: int = 0,
        unsent: int = 0,
    ) -> None:
        """Keep a part; see `Settle`."""
        places = rows.tolist() if isinstance(rows, Tensor) else list(rows)
        answers = check_answers(
            classes if len(places) else torch.zeros(0, dtype=torch.int64),
            asked=len(places),
            classes=self._classes,
        )
        with self._lock:
            done = self._done.copy()
            for place in places:
                if not 0 <= place < len(done) or done[place]:
                    raise TeacherError(
                        f"the teacher answered image {place} of {len(done)} twice or out of place"
                    )
                done[place] = 1
            keys = [self._keys[place] for place in places]
            self._store.settle(
                self.ticket, keys, answers, failed=failed, retried=retried, sync=False
            )
            self._done = done
            self._failed += failed
            self._unsent += unsent

    def give_up(self) -> None:
        """Book what may have been sent as failed, and close the ticket."""
        lost = max(0, self.left - self._failed - self._unsent) if self.sent else 0
        self._store.close_ticket(self.ticket, failed=lost)


def float_keys(images: Float[Tensor, "row *image"]) -> list[bytes]:
    """SHA-256 of the bytes of each image, its type and shape: the keys for a local teacher.

    Costs no query. Nothing is random. The same numbers have the same key on every device.

    >>> one, two = float_keys(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    >>> len(one), one != two
    (32, True)
    """
    pixels = images.detach().cpu().contiguous().numpy()
    tail = f"{pixels.dtype.str} {pixels.shape[1:]}".encode()
    rows = pixels.reshape(len(pixels), -1) if len(pixels) else ()
    return [_digest(row, tail) for row in rows]


def _digest(row: Any, tail: bytes) -> bytes:
    digest = hashlib.sha256(row)
    digest.update(tail)
    return digest.digest()
