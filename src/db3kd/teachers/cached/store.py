"""One file that holds the answers of teachers, and the books of what they cost."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.errors import InputError
from db3kd.teachers.cached.blocks import Blocks
from db3kd.teachers.cached.file import check_process, opened, plainly, transaction
from db3kd.teachers.cached.records import Block, Imported, OpenTicket, check_count, checked
from db3kd.teachers.cached.tables import read_table, write_table
from db3kd.teachers.parts import Classes

_BOOKS = ("answered", "failed", "retried", "hits", "imported")


class Store:
    """The answers of teachers in one SQLite file, each kept before it is used.

    An answer is found by the teacher's `identity`, a plain string that the caller makes (never put
    a secret into it), and by a key of 32 bytes, the SHA-256 digest of what was sent. The first
    answer to a key stays; later ones are counted but not kept. Threads and processes of one
    machine may share a file (network drives cannot: SQLite's write-ahead log needs shared memory).
    A forked child must open it again. While it is open, two more files lie next to it, `-wal` and
    `-shm`; copy the store only when it is closed.

    What a method writes is on the disk when it returns; with `sync=False` it is with the operating
    system, which outlives a killed process, and the next write with `sync` takes it to the disk.
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
    >>> ticket = store.reserve("pets-v1", 2, run="first")
    >>> store.settle(ticket, [cat], [7], failed=1)
    >>> store.close_ticket(ticket)
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

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the last to close it folds the `-wal` file into it."""
        with self._lock:
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

    def reserve(
        self,
        identity: str,
        count: int,
        *,
        run: str = "",
        told: Callable[[int], None] = lambda ticket: None,
    ) -> int:
        """Put `count` images on the books before they are sent; returns the number of a ticket.

        Images of a ticket that is never closed, because the process died, stay "in_flight". It is
        with the operating system when this returns; only a power cut may forget it. `told` hears
        the number before it counts, so that an interrupt on the way back cannot lose it.
        """
        check_count("count", count)
        with self._writing(sync=False) as base:
            done = base.execute(
                "INSERT INTO tickets (teacher, run, at, unsettled) VALUES (?, ?, ?, ?)",
                (self._new_teacher(identity), run, time.time(), count),
            )
            ticket = int(done.lastrowid or 0)
            told(ticket)
        return ticket

    def settle(
        self,
        ticket: int,
        keys: Sequence[bytes],
        classes: Classes,
        *,
        failed: int = 0,
        retried: int = 0,
        sync: bool = True,
    ) -> None:
        """Keep answers of a ticket and book them, in one transaction; may be called many times.

        `failed`: images of it whose call failed for good. `retried`: calls that were made again,
        counted in images; they are on no ticket.

        Raises:
            InputError: the ticket is closed, or has fewer images left; nothing was kept.
        """
        values = checked(keys, classes)
        check_count("failed", failed)
        check_count("retried", retried)
        with self._writing(sync=sync) as base:
            found = self._ticket(ticket)
            if found is None:
                raise InputError(f"ticket {ticket} is not open; reserve images before settling")
            teacher, run, unsettled = found
            count = len(keys) + failed
            if count > unsettled:
                raise InputError(f"ticket {ticket} has {unsettled} images left, got {count}")
            base.execute("UPDATE tickets SET unsettled=unsettled-? WHERE id=?", (count, ticket))
            self._blocks.append(teacher, keys, values)
            self._book(teacher, run, answered=len(keys), failed=failed, retried=retried)

    def _ticket(self, ticket: int) -> tuple[int, str, int] | None:
        """Teacher, run, and images left."""
        found: tuple[int, str, int] | None = self._base.execute(
            "SELECT teacher, run, CAST(unsettled AS INTEGER) FROM tickets WHERE id=?", (ticket,)
        ).fetchone()
        return found

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

    def close_ticket(self, ticket: int, *, failed: int = 0, sync: bool = True) -> None:
        """End a ticket; of the images on it that were not settled, `failed` at most were sent.

        The others come off the books as never sent.
        """
        with self._writing(sync=sync) as base:
            found = self._ticket(ticket) if failed else None
            if found is not None:
                teacher, run, unsettled = found
                self._book(teacher, run, failed=min(failed, unsettled))
            base.execute("DELETE FROM tickets WHERE id=?", (ticket,))

    def hit(self, identity: str, count: int, *, run: str = "") -> None:
        """Book `count` images that were answered without asking; not synced to the disk."""
        with self._writing(sync=False):
            self._book(self._new_teacher(identity), run, hits=count)

    def open_tickets(self) -> tuple[OpenTicket, ...]:
        """Waves on their way now, and those that processes left when they died."""
        with self._reading() as base:
            rows = base.execute(
                "SELECT tickets.id, identity, run, CAST(at AS REAL), CAST(unsettled AS INTEGER)"
                " FROM tickets"
                " JOIN teachers ON teachers.id=teacher ORDER BY tickets.id"
            ).fetchall()
        return tuple(OpenTicket(*row) for row in rows)

    def books(self, identity: str | None = None, *, run: str | None = None) -> dict[str, int]:
        """What was asked and what was not, in images, of a teacher and a run or of all.

        "answered": asked and answered. "failed": asked, but the call failed. "retried": asked once
        more. "in_flight": reserved, and neither settled nor closed. "hits": answered without
        asking. "imported": taken from tables. The first four may cost money.
        """
        some = (
            " WHERE (?1 IS NULL OR teacher=(SELECT id FROM teachers WHERE identity=?1))"
            " AND (?2 IS NULL OR run=?2)"
        )
        with self._reading() as base:
            sums = ", ".join(f"sum({name})" for name in _BOOKS)
            booked = base.execute(
                f"SELECT {sums}, (SELECT sum(unsettled) FROM tickets{some}) FROM books{some}",
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
