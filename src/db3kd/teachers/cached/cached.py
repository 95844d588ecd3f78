"""A teacher around a teacher: it answers from a store, and asks for what the store lacks."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import Middleware, Teacher, check_answers
from db3kd.teachers.cached.account import CHECKS, Account
from db3kd.teachers.cached.store import Store
from db3kd.teachers.parts import CHUNK, Classes, Rows, ask

WAITING = (0.01, 0.5)  # seconds between two looks at what others have on their way
SAID_AFTER = 2.0  # seconds of waiting

_log = logging.getLogger("db3kd")


class CachedTeacher(Middleware):
    """A teacher around a teacher, which asks it for each image once and keeps every answer first.

    Not of the paper. After a crash, for another student or in another epoch nothing is asked twice.
    All answers to a question come from `store`, in order. Images that the store does not know are
    asked once each, duplicates together, in the parts of the teacher's own, or `chunk` at a time.
    A part is claimed in the store before it is sent, and settled when it is answered. So a failure
    or a kill loses nothing that was settled, and a kill the parts on their way at most. What
    another question has on its way, here or in another process, is waited for and not paid again.

    `identity` names the model, and everything that changes its answers; never put a secret into
    it. `key` gives 32 bytes for each image (row, *image), the digest of what will be sent to the
    teacher; images with the same key get the same answer. The books are kept under `account`.
    `met` says the names that the store has, where the teacher's classes are found.

    Costs one query for each image that the store does not know. Nothing is random.

    What was sent is never forgotten, not even in a power cut. The disk is synced with each part
    that is sent; a power cut may take answers since then, none of which was handed out yet.

    Raises:
        TeacherError: the teacher failed, left images without an answer, or answered a class that
            does not exist.
        InputError: `key` did not give one key of 32 bytes for each image; sizes below 1.
        MoneyExhausted: the account's purse does not pay for the next part; it was not sent.
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
        account: Account | None = None,
        chunk: int = CHUNK,
        met: Callable[[], tuple[str, ...]] | None = None,
    ) -> None:
        if not identity:
            raise InputError("the identity of a teacher is empty; name the model and its version")
        if chunk < 1:
            raise InputError(f"chunk must be at least 1, got {chunk}")
        super().__init__(teacher)
        self._store, self._key, self._chunk = store, key or float_keys, chunk
        self.identity, self._met = identity, met
        self.account = account or Account()

    @property
    def met(self) -> tuple[str, ...] | None:
        """The names met so far, by any run with this store; None if the classes are known."""
        within = super().met
        return within if within is None or self._met is None else self._met()

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; one query for each unknown one; same device."""
        keys = self._key(images)
        if len(keys) != len(images):
            raise InputError(f"the key function gave {len(keys)} keys for {len(images)} images")
        answers = self._store.known(self.identity, keys)
        asked = 0
        while rows := _first_unknown(keys, answers):
            asked += self._ask(images, keys, rows)
            answers = self._store.known(self.identity, keys)
        if asked:
            self._store.sync()
        if asked < len(images):
            self._store.hit(self.identity, len(images) - asked, run=self.account.run)
        answers = check_answers(answers, asked=len(images), classes=self.classes)
        return answers.to(images.device)

    def _ask(self, images: Tensor, keys: Sequence[bytes], rows: list[int]) -> int:
        """Ask for some rows, wait for those that others ask for; returns how many were asked."""
        if rows[-1] - rows[0] + 1 == len(rows):
            part = images[rows[0] : rows[-1] + 1]  # no copy
        else:
            part = images[torch.tensor(rows, device=images.device)]
        wanted = _Wanted(self._store, self.identity, self.account, keys, rows, self.classes)
        try:
            ask(self._teacher, part, wanted, chunk=self._chunk)
        finally:
            wanted.give_up()
        elsewhere = wanted.elsewhere
        if wanted.open > len(elsewhere):
            raise TeacherError(
                f"the teacher left {wanted.open - len(elsewhere)} of {len(rows)} images without an"
                " answer"
            )
        self._wait(elsewhere)
        return wanted.settled

    def _wait(self, keys: Sequence[bytes]) -> None:
        """Wait until none of the keys is on its way for another question."""
        pause, began, said = WAITING[0], time.monotonic(), False
        while keys := self._store.waiting_for(self.identity, keys):
            if not said and time.monotonic() - began > SAID_AFTER:
                _log.info("waiting for %s answers that another run has asked for", f"{len(keys):,}")
                said = True
            time.sleep(pause)
            pause = min(2 * pause, WAITING[1])

    # The books, as a run asks for them

    @property
    def ledger(self) -> "CachedTeacher":
        """This teacher: it keeps its own books."""
        return self

    @property
    def name(self) -> str:
        """Which store this is, wherever its file lies."""
        return self._store.identity

    def begin(self, run: str, folder: str, budget: int | None) -> None:
        """Book under the identity of a run from now on; what was booked under its folder, too."""
        self.account.run, self.account.budget = run, budget
        place = Path(folder).resolve()
        for name in self._store.runs():
            bare = name.removeprefix(CHECKS)
            if bare and bare != run and Path(bare).resolve() == place:
                self._store.rename_run(name, name.removesuffix(bare) + run)

    def lost(self) -> int:
        """Images that this run sent and that nobody can have the answers of any more."""
        self._store.bury()
        return self._store.books(self.identity, run=self.account.run)["lost"]


def _first_unknown(keys: Sequence[bytes], answers: Int[Tensor, " row"]) -> list[int]:
    """The first row of each key that has no answer."""
    first: dict[bytes, int] = {}
    for row in (answers < 0).nonzero().flatten().tolist():
        first.setdefault(keys[row], row)
    return list(first.values())


class _Wanted:
    """The keeper of images that the store does not know; see `db3kd.teachers.parts.Keeper`."""

    def __init__(
        self,
        store: Store,
        identity: str,
        account: Account,
        keys: Sequence[bytes],
        rows: list[int],
        classes: int,
    ) -> None:
        self._store, self._identity, self._account = store, identity, account
        self._keys, self._classes = [keys[row] for row in rows], classes
        self._lock = threading.Lock()
        self._claimed: set[int] = set()  # rows that were sent and are not settled
        self._done = bytearray(len(rows))
        self._refused: set[int] = set()  # rows that others have, or have on their way
        self.settled = 0

    @property
    def open(self) -> int:
        return self._done.count(0)

    @property
    def elsewhere(self) -> list[bytes]:
        """Keys that others have, or have on their way."""
        return [self._keys[row] for row in sorted(self._refused)]

    def claim(self, rows: Rows, /) -> Rows:
        with self._lock:
            wanted = [row for row in rows if row not in self._claimed and not self._done[row]]
            keys = [self._keys[row] for row in wanted]
            try:
                mine = [wanted[at] for at in self._store.claim(self._identity, keys, self._account)]
            except BaseException:
                self._store.release(self._identity, keys)
                raise
            self._claimed.update(mine)
            self._refused.update(set(wanted) - set(mine))
            return mine if len(mine) < len(rows) else rows

    def settle(
        self, rows: Rows, classes: Classes, /, *, failed: Rows = (), retried: int = 0
    ) -> None:
        places = list(rows)
        answers = check_answers(
            classes if places else torch.zeros(0, dtype=torch.int64),
            asked=len(places),
            classes=self._classes,
        )
        with self._lock:
            wrong = [p for p in places if p not in self._claimed]
            if wrong or len(set(places)) < len(places):
                raise TeacherError(
                    f"the teacher answered image {(wrong or places)[0]} of {len(self._done)} twice"
                    " or out of place"
                )
            self._store.settle(
                self._identity,
                [self._keys[place] for place in places],
                answers,
                self._account,
                failed=[self._keys[row] for row in failed if row in self._claimed],
                retried=retried,
            )
            self._claimed.difference_update(places, failed)
            self.settled += len(places)
            for place in places:
                self._done[place] = 1

    def give_up(self) -> None:
        """Leave what was sent and never settled: it may have been answered, and is lost."""
        with self._lock:
            self._store.abandon(self._identity, [self._keys[row] for row in self._claimed])
            self._claimed.clear()


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
