"""One file that holds the answers of teachers, and the books of what they cost."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.errors import BudgetExhausted, Db3kdError, InputError
from db3kd.teachers.cached.account import Account
from db3kd.teachers.cached.blocks import Blocks
from db3kd.teachers.cached.file import check_process, opened, plainly, transaction
from db3kd.teachers.cached.owners import Owner, is_alive, sweep
from db3kd.teachers.cached.records import Block, Imported, checked
from db3kd.teachers.cached.tables import read_table, write_table
from db3kd.teachers.parts import Classes

_BOOKS = ("answered", "failed", "retried", "lost", "hits", "imported")
NOBODY = Account()


class Store:
    """The answers of teachers in one SQLite file, each kept before it is used.

    An answer is found by the teacher's `identity`, a plain string that the caller makes (never put
    a secret into it), and by a key of 32 bytes, the SHA-256 digest of what was sent. The first
    answer to a key stays; later ones are counted but not kept. Threads and processes of one
    machine may share a file (network drives cannot: SQLite's write-ahead log needs shared memory).
    A forked child must open it again. While it is open, more files lie next to it, `-wal`, `-shm`
    and a hidden one for each process that asks; copy the store only when it is closed.

    An image is claimed before it is sent, by one question at a time, and settled afterwards. What a
    process had claimed when it died is lost.

    What a method writes is on the disk when it returns; what `settle` and `hit` write is with the
    operating system, which outlives a killed process, and the next write takes it to the disk.
    Keys of the identities in use are held in memory, about 140 bytes for each answer.

    Costs no query. Nothing is random. Nothing is unpickled.

    Raises:
        InputError: the file is not a store, or is a newer one, or was closed; wrong keys or
            classes.
        Damaged: it is a store, but cut or altered; the text names the block.
        Busy: another process held it for longer than `patience` seconds.
        RunError: the disk is full; what was saved before is safe.

    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()) / "answers.db3kd")
    >>> cat, dog = b"c" * 32, b"d" * 32
    >>> first = Account("first")
    >>> store.claim("pets-v1", [cat, dog], first), store.claim("pets-v1", [dog])
    ([0, 1], [])
    >>> store.settle("pets-v1", [cat], [7], first, failed=[dog])
    >>> store.known("pets-v1", [dog, cat])
    tensor([-1,  7])
    >>> store.books()["answered"], store.books()["failed"], store.books()["in_flight"]
    (1, 1, 0)
    >>> store.close()
    """

    def __init__(self, path: str | Path, *, patience: float = 60.0) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._owner = os.getpid()
        self._base = opened(self.path, patience)
        self._blocks = Blocks(self._base, self.path)
        self._owner_lock: Owner | None = None
        self._number = 0  # of this process as an owner; 0: it has claimed nothing yet
        self._active: set[tuple[int, bytes]] = set()  # claims of questions on their way here

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the last to close it folds the `-wal` file into it."""
        with self._lock:
            if self._owner_lock is not None and os.getpid() == self._owner:
                with suppress(Db3kdError), self._writing() as base:
                    base.execute("DELETE FROM owners WHERE id=?", (self._number,))
                self._owner_lock.leave()
                self._owner_lock = None
            self._base.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, plainly(self.path):
            check_process(self.path, self._owner)
            yield self._base

    @contextmanager
    def _writing(self, *, sync: bool = True) -> Iterator[sqlite3.Connection]:
        with self._reading() as base, transaction(base, sync=sync):
            yield base

    def _teacher(self, identity: str) -> int | None:
        found = self._base.execute("SELECT id FROM teachers WHERE identity=?", (identity,))
        row = found.fetchone()
        return None if row is None else int(row[0])

    def _new_teacher(self, identity: str) -> int:
        if not identity:
            raise InputError("the identity of a teacher is empty; name the model and its version")
        self._base.execute("INSERT OR IGNORE INTO teachers (identity) VALUES (?)", (identity,))
        teacher = self._teacher(identity)
        assert teacher is not None
        return teacher

    def known(self, identity: str, keys: Sequence[bytes]) -> Int[Tensor, " row"]:
        """Class of each key, -1 where not known; int64 on the CPU."""
        with self._reading():
            teacher = self._teacher(identity)
            held = {} if teacher is None else self._blocks.held(teacher)
            found = np.fromiter(map(held.get, keys, repeat(-1)), np.int64, len(keys))
        return torch.from_numpy(found)

    def claim(self, identity: str, keys: Sequence[bytes], account: Account = NOBODY) -> list[int]:
        """Put images on the books before they are sent; returns which of the keys may be sent.

        The others have an answer by now, or another question has claimed them, here or in another
        process. It is on the disk when this returns, so nothing that was sent is forgotten.

        Raises:
            BudgetExhausted: they would be more than the account's budget, or cost more than its
                purse has; none may be sent.
        """
        checked(keys, (0,) * len(keys))
        with self._lock, self._writing() as base:
            teacher, owner = self._new_teacher(identity), self._own()
            held = self._blocks.held(teacher)
            mine = [at for at, key in enumerate(keys) if key not in held]
            if base.execute("SELECT EXISTS (SELECT 1 FROM claims)").fetchone()[0]:
                taken = "SELECT 1 FROM claims WHERE teacher=? AND key=?"
                mine = [
                    at for at in mine if base.execute(taken, (teacher, keys[at])).fetchone() is None
                ]
            self._check_budget(identity, account, len(mine))
            self._check_purse(account, len(mine))
            base.executemany(
                "INSERT INTO claims (teacher, key, run, owner) VALUES (?, ?, ?, ?)",
                [(teacher, keys[at], account.run, owner) for at in mine],
            )
            self._active.update((teacher, keys[at]) for at in mine)
        return mine

    def _check_budget(self, identity: str, account: Account, asked: int) -> None:
        if account.budget is not None:
            books = self.books(identity, run=account.run)
            spent = books["answered"] + books["lost"] + books["in_flight"]
            if spent + asked > account.budget:
                raise BudgetExhausted(spent=spent, asked=asked, budget=account.budget)

    def _check_purse(self, account: Account, asked: int) -> None:
        if account.purse is not None and account.purse.most is not None:
            charged = sum(account.purse.charged(self.books(run=run)) for run in account.runs)
            account.purse.check(charged, asked=asked)

    def settle(
        self,
        identity: str,
        keys: Sequence[bytes],
        classes: Classes,
        account: Account = NOBODY,
        *,
        failed: Sequence[bytes] = (),
        retried: int = 0,
    ) -> None:
        """Keep answers and book them, in one transaction; not synced to the disk.

        `failed`: keys whose call failed for good; those of them that are claimed are booked.
        `retried`: images that are going to be sent once more.

        Raises:
            MoneyExhausted: to send images once more would cost more than the purse has.
        """
        values = checked(keys, classes)
        with self._writing(sync=False):
            teacher = self._new_teacher(identity)
            if retried and account.purse is not None and account.purse.price.failed:
                self._check_purse(account, retried)
            self._end(teacher, keys)
            gone = self._end(teacher, failed)
            self._blocks.append(teacher, keys, values)
            self._book(teacher, account.run, answered=len(keys), failed=gone, retried=retried)

    def release(self, identity: str, keys: Sequence[bytes]) -> None:
        """Take back claims of images that were not sent; keys that are not claimed are left."""
        with self._writing(sync=False):
            self._end(self._new_teacher(identity), keys)

    def abandon(self, identity: str, keys: Sequence[bytes]) -> None:
        """Give up claims that nobody here will settle any more; `bury` books them as lost."""
        if keys:
            with self._reading():
                teacher = self._teacher(identity)
                self._active.difference_update((teacher, key) for key in keys if teacher)

    def _end(self, teacher: int, keys: Sequence[bytes]) -> int:
        """End claims of this process; returns how many there were."""
        claims = [(teacher, key) for key in keys]
        done = self._base.executemany(
            f"DELETE FROM claims WHERE teacher=? AND key=? AND owner={self._number}", claims
        )
        self._active.difference_update(claims)
        return max(0, done.rowcount)

    def sync(self) -> None:
        """Make everything that was written so far outlast a power cut."""
        with self._writing() as base:
            base.execute("UPDATE about SET value=value WHERE name='id'")

    def waiting_for(self, identity: str, keys: Sequence[bytes]) -> list[bytes]:
        """Those of the keys that are on their way for another question.

        What the owners that have died since had on its way is booked as lost, and free again.
        """
        self.bury()
        with self._reading() as base:
            teacher = self._teacher(identity)
            taken = "SELECT 1 FROM claims WHERE teacher=? AND key=?"
            return [k for k in keys if base.execute(taken, (teacher, k)).fetchone() is not None]

    def bury(self) -> None:
        """Book as lost what nobody can have the answer of: claims whose owner has died.

        So is a claim of this process that no question of it knows any more: it could not be
        settled.
        """
        with self._reading() as base:
            owners = base.execute("SELECT id, token FROM owners").fetchall()
            claims = base.execute("SELECT owner, teacher, key, run FROM claims").fetchall()
        sweep(self.path, [token for _, token in owners])
        own = None if self._owner_lock is None else self._owner_lock.token
        here = {number for number, token in owners if token == own}
        dead = {
            number
            for number, token in owners
            if number not in here and not is_alive(self.path, token)
        }
        known = {number for number, _ in owners}
        gone = [
            (teacher, key, owner, run)
            for owner, teacher, key, run in claims
            if owner in dead
            or owner not in known
            or (owner in here and (teacher, key) not in self._active)
        ]
        if not gone and not dead:
            return
        with self._writing() as base:
            for *claim, run in gone:
                done = base.execute(
                    "DELETE FROM claims WHERE teacher=? AND key=? AND owner=?", claim
                )
                if done.rowcount:  # else another process booked it meanwhile
                    self._book(claim[0], run, lost=1)
            base.executemany("DELETE FROM owners WHERE id=?", [(number,) for number in dead])

    def _own(self) -> int:
        """The number of this process as an owner of claims."""
        if self._owner_lock is None:
            self._owner_lock = Owner(self.path)
        token = self._owner_lock.token
        self._base.execute("INSERT OR IGNORE INTO owners (token) VALUES (?)", (token,))
        found = self._base.execute("SELECT id FROM owners WHERE token=?", (token,)).fetchone()
        self._number = int(found[0])
        return self._number

    @property
    def identity(self) -> str:
        """The name of this store, wherever its file lies."""
        with self._reading() as base:
            found = base.execute("SELECT value FROM about WHERE name='id'").fetchone()
        return str(found[0])

    def rename_run(self, old: str, new: str) -> None:
        """Add the books of one run to those of another."""
        sums = ", ".join(f"{name}={name}+excluded.{name}" for name in _BOOKS)
        columns = ", ".join(_BOOKS)
        with self._writing() as base:
            base.execute(
                f"INSERT INTO books (teacher, run, {columns})"
                f" SELECT teacher, ?, {columns} FROM books WHERE run=?"
                f" ON CONFLICT (teacher, run) DO UPDATE SET {sums}",
                (new, old),
            )
            base.execute("DELETE FROM books WHERE run=?", (old,))
            base.execute("UPDATE claims SET run=? WHERE run=?", (new, old))

    def runs(self) -> tuple[str, ...]:
        """The names of all runs that have books here."""
        with self._reading() as base:
            rows = base.execute("SELECT DISTINCT CAST(run AS TEXT) FROM books").fetchall()
        return tuple(run for (run,) in rows)

    def _book(self, teacher: int, run: str, **counts: int) -> None:
        added = [counts.get(name, 0) for name in _BOOKS]
        self._base.execute(
            "INSERT OR IGNORE INTO books (teacher, run) VALUES (?, ?)", (teacher, run)
        )
        self._base.execute(
            f"UPDATE books SET {', '.join(f'{name}={name}+?' for name in _BOOKS)}"
            " WHERE teacher=? AND run=?",
            (*added, teacher, run),
        )

    def hit(self, identity: str, count: int, *, run: str = "") -> None:
        """Book `count` images that were answered without asking; not synced to the disk."""
        with self._writing(sync=False):
            self._book(self._new_teacher(identity), run, hits=count)

    def books(self, identity: str | None = None, *, run: str | None = None) -> dict[str, int]:
        """What was asked and what was not, in images, of a teacher and a run or of all.

        "answered": asked and answered. "failed": asked, but the call failed. "retried": asked once
        more. "lost": asked by a process that died before it had the answer. "in_flight": on its way
        now. "hits": answered without asking. "imported": taken from tables. All but the last two
        may cost money.
        """
        some = (
            " WHERE (?1 IS NULL OR teacher=(SELECT id FROM teachers WHERE identity=?1))"
            " AND (?2 IS NULL OR run=?2)"
        )
        with self._reading() as base:
            sums = ", ".join(f"sum({name})" for name in _BOOKS)
            booked = base.execute(
                f"SELECT {sums}, (SELECT count(*) FROM claims{some}) FROM books{some}",
                (identity, run),
            ).fetchone()
        return dict(zip((*_BOOKS, "in_flight"), (int(n or 0) for n in booked), strict=True))

    def identities(self) -> tuple[str, ...]:
        """Every teacher in the store, oldest first."""
        with self._reading() as base:
            rows = base.execute(
                "SELECT CAST(identity AS TEXT) FROM teachers ORDER BY id"
            ).fetchall()
        return tuple(identity for (identity,) in rows)

    def names(self, identity: str) -> tuple[str, ...]:
        """Class names learned for a teacher; class i is the i-th."""
        with self._reading() as base:
            rows = base.execute(
                "SELECT CAST(name AS TEXT) FROM names WHERE teacher=? ORDER BY class",
                (self._teacher(identity),),
            ).fetchall()
        return tuple(name for (name,) in rows)

    def learn(self, identity: str, names: Sequence[str]) -> tuple[str, ...]:
        """Append those names that are new, and return all of them, whose order is the classes'.

        Learn before settling, and count classes by what is returned: another process may have
        learned other names meanwhile.
        """
        with self._writing() as base:
            teacher, learned = self._new_teacher(identity), list(self.names(identity))
            for name in names:
                if name not in learned:
                    base.execute(
                        "INSERT INTO names VALUES (?, ?, ?)", (teacher, len(learned), name)
                    )
                    learned.append(name)
        return tuple(learned)

    def keep(
        self, identity: str, keys: Sequence[bytes], classes: Classes, *, run: str = ""
    ) -> Imported:
        """Keep answers that were bought elsewhere; they are booked as imported alone."""
        values = checked(keys, classes)
        with self._lock:
            with self._writing():
                teacher = self._new_teacher(identity)
                added = self._blocks.append(teacher, keys, values)
                self._book(teacher, run, imported=added)
            kept = self.known(identity, keys).tolist()
        differ = sum(one != other for one, other in zip(kept, values, strict=True))
        return Imported(added, len(keys) - added, differ)

    def blocks(self, identity: str | None = None) -> Iterator[Block]:
        """Answers as they were kept, oldest first, of a teacher or of all."""
        last = 0
        while True:
            with self._reading() as base:
                row = base.execute(
                    "SELECT answers.id, teacher, identity, at, keys, classes, crc FROM answers"
                    " JOIN teachers ON teachers.id=teacher WHERE answers.id>?1"
                    " AND (?2 IS NULL OR identity=?2) ORDER BY answers.id LIMIT 1",
                    (last, identity),
                ).fetchone()
            if row is None:
                return
            last = row[0]
            yield self._blocks.unpacked(*row)

    def import_table(
        self,
        file: str | Path,
        identity: str,
        key: Callable[[Tensor], Sequence[bytes]],
        *,
        index: Callable[[str | int], int] | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> Imported:
        """Keep the answers of a parquet table for the teacher `identity`.

        Either the table is an export of a store: rows of other identities are skipped, and class
        names that were learned are learned here, and classes renumbered where the order differs. Or
        it has the columns `image` (the bytes of a PNG, JPEG, BMP or WebP file, or a struct whose
        `bytes` are) and `label`. Images are read as float32 (row, channels, height, width) within
        `bounds`, and `key` says under which keys they are looked for: give the one of the
        `CachedTeacher` that will ask. `index` maps a label to a class (None: labels are classes).

        Raises:
            InputError: the file is not such a table; images differ in shape; a label is not a
                class. Rows before the wrong ones, 4,096 at a time, are kept.
        """
        rows = read_table(
            Path(file), identity, key, index, bounds, lambda names: self.learn(identity, names)
        )
        done = [self.keep(identity, keys, classes) for keys, classes in rows]
        return Imported(
            sum(part.added for part in done),
            sum(part.known for part in done),
            sum(part.differ for part in done),
        )

    def export(self, file: str | Path, identity: str | None = None) -> int:
        """Write answers to a parquet table, oldest first; returns how many. Replaces an old file.

        Columns: key (32 bytes), class (whole number), name (of the class, empty where none was
        learned), time (UTC), identity. `identity` None: those of all teachers.

        Raises:
            RunError: the file cannot be written.
        """
        wanted = [one for one in self.identities() if identity in (None, one)]
        return write_table(
            Path(file), self.blocks(identity), {one: self.names(one) for one in wanted}
        )
