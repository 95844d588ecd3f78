"""The SQLite file of a store: how it is made, recognised, opened and locked.

Answers lie in blocks that are only ever appended. A table with a row for each answer, sorted by
key, rewrites a page for nearly every answer once it is large: at a million answers it took 46
microseconds for one more, blocks below 5.
"""

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from db3kd.errors import Busy, Damaged, InputError, RunError

APPLICATION = 0x64623372  # "db3r"; at byte 68 of the file
VERSION = 2
_BOOKS = (
    "CREATE TABLE books (teacher INTEGER NOT NULL, run TEXT NOT NULL,"
    " answered INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,"
    " retried INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,"
    " hits INTEGER NOT NULL DEFAULT 0, imported INTEGER NOT NULL DEFAULT 0,"
    " PRIMARY KEY (teacher, run)) WITHOUT ROWID"
)
_SINCE_2 = (
    # an image on its way: whose run pays for it, and which process has asked
    "CREATE TABLE claims (teacher INTEGER NOT NULL, key BLOB NOT NULL, run TEXT NOT NULL,"
    " owner INTEGER NOT NULL, PRIMARY KEY (teacher, key)) WITHOUT ROWID",
    # AUTOINCREMENT: no number is given twice
    "CREATE TABLE owners (id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT NOT NULL UNIQUE)",
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
SCHEMA = (
    "CREATE TABLE teachers (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE)",
    # at: milliseconds since 1970; keys: 32 bytes for each answer; classes: 4, little-endian;
    # crc: see `checksum`
    "CREATE TABLE answers (id INTEGER PRIMARY KEY, teacher INTEGER NOT NULL, at INTEGER NOT NULL,"
    " keys BLOB NOT NULL, classes BLOB NOT NULL, crc INTEGER NOT NULL)",
    _BOOKS,
    "CREATE TABLE names (teacher INTEGER NOT NULL, class INTEGER NOT NULL, name TEXT NOT NULL,"
    " PRIMARY KEY (teacher, class)) WITHOUT ROWID",
    *_SINCE_2,
)
REPAIR = "put a copy of it back, or give another file to begin a new store"
_MAGIC = b"SQLite format 3\0"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def plainly(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into one sentence for the user.

    Raises:
        Busy: another process held the file for too long.
        Damaged: the file is cut or altered.
        InputError: the store was closed.
        RunError: the disk is full, or the file cannot be written.

    >>> with plainly(Path("answers.db3kd")):
    ...     raise sqlite3.ProgrammingError("Cannot operate on a closed database.")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: answers.db3kd was closed; open it again
    """
    try:
        yield
    except UnicodeDecodeError:
        raise Damaged(f"{path} is damaged (text in it is none); {REPAIR}") from None
    except sqlite3.ProgrammingError:
        raise InputError(f"{path} was closed; open it again") from None
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _LOCKED:
            raise Busy(f"{path} is held by another process; try again once that is done") from error
        if code in _DAMAGED:
            raise Damaged(f"{path} is damaged ({error}); {REPAIR}") from error
        raise RunError(
            f"{path} cannot be read or written ({error}); what was saved before is safe,"
            " run again once that is repaired"
        ) from error


def opened(path: Path, patience: float) -> sqlite3.Connection:
    """Open or create the file of a store; nothing is written to a file that is not one.

    `patience`: seconds to wait for other processes.

    Raises:
        InputError: the file is not a store, or was made by a newer db3kd.
        Damaged: it is one, but cut or altered.
        Busy: another process held it for longer than `patience`.

    >>> import tempfile
    >>> note = Path(tempfile.mkdtemp()) / "note.txt"
    >>> note.write_text("hello")
    5
    >>> opened(note, 1.0)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: ...note.txt is not a store of answers; give another file name ...
    """
    _check_head(path)
    with plainly(path):
        connection = sqlite3.connect(
            path, timeout=patience, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA trusted_schema=OFF")
            _create(connection)
            _renew(connection)
            _check(connection, path)
            _write_ahead(connection, patience)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_head(path: Path) -> None:
    """Refuse foreign files before SQLite touches them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path} cannot be opened as a store ({error.strerror})") from None
    if head.startswith(_MAGIC) and len(head) < 100:
        raise Damaged(f"{path} is cut after {len(head)} bytes; {REPAIR}")
    ours = int.from_bytes(head[68:72], "big") == APPLICATION
    if head and not (head.startswith(_MAGIC) and ours):
        raise InputError(
            f"{path} is not a store of answers; give another file name to make a new one"
        )
    aside = (path.with_name(path.name + end) for end in ("-wal", "-journal"))
    page = int.from_bytes(head[16:18], "big") or 1
    if head and path.stat().st_size % page and not any(file.exists() for file in aside):
        raise Damaged(f"{path} is cut in the middle of a page; {REPAIR}")


def _create(connection: sqlite3.Connection) -> None:
    """Make all tables and the mark in one transaction, unless another process did."""
    if _pragma(connection, "application_id"):
        return
    with transaction(connection):
        if not _pragma(connection, "application_id"):
            for statement in SCHEMA:
                connection.execute(statement)
            _name(connection)
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute(f"PRAGMA application_id={APPLICATION}")


def _name(connection: sqlite3.Connection) -> None:
    """Give the store a name of its own, by which a run knows it again."""
    connection.execute("INSERT INTO about VALUES ('id', ?)", (uuid.uuid4().hex,))


def _renew(connection: sqlite3.Connection) -> None:
    """Turn a store of version 1 into one of today; what its processes left in flight is lost."""
    if _pragma(connection, "user_version") != 1:
        return
    with transaction(connection):
        if _pragma(connection, "user_version") != 1:
            return  # another process did it meanwhile
        columns = "teacher, run, answered, failed, retried, hits, imported"
        books = connection.execute(f"SELECT {columns} FROM books").fetchall()
        flying = connection.execute(
            "SELECT unsettled, teacher, run FROM tickets WHERE unsettled>0"
        ).fetchall()
        for statement in ("DROP TABLE books", "DROP TABLE tickets", _BOOKS, *_SINCE_2):
            connection.execute(statement)
        connection.executemany(f"INSERT INTO books ({columns}) VALUES (?,?,?,?,?,?,?)", books)
        for lost, teacher, run in flying:
            connection.execute(
                "INSERT OR IGNORE INTO books (teacher, run) VALUES (?, ?)", (teacher, run)
            )
            connection.execute(
                "UPDATE books SET lost=lost+? WHERE teacher=? AND run=?", (lost, teacher, run)
            )
        _name(connection)
        connection.execute(f"PRAGMA user_version={VERSION}")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = _pragma(connection, "user_version")
    if version != VERSION:
        raise InputError(
            f"{path} is a store of version {version}; this db3kd reads {VERSION}, so use the one"
            " that made it, or give another file"
        )
    found = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    made = [sql for (sql,) in found if not sql.startswith("CREATE TABLE sqlite_sequence")]
    if sorted(made) != sorted(SCHEMA):
        raise Damaged(f"{path} is damaged (its tables are others); {REPAIR}")
    (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        raise Damaged(f"{path} is damaged ({said}); {REPAIR}")


def _write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    """Switch the file to a write-ahead log; SQLite does not wait here, so this does."""
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _LOCKED or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


@contextmanager
def transaction(connection: sqlite3.Connection, *, sync: bool = True) -> Iterator[None]:
    """All of it or nothing; without `sync` it outlives the process, but not yet a power cut.

    A later transaction with `sync` takes everything before it to the disk as well.

    >>> base = sqlite3.connect(":memory:", isolation_level=None)
    >>> with transaction(base):
    ...     _ = base.execute("CREATE TABLE new (x)")
    >>> base.in_transaction
    False
    """
    connection.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def check_process(path: Path, owner: int) -> None:
    """Refuse a connection that a forked child inherited: SQLite would damage the file.

    Raises:
        InputError: this is another process than the one that opened it.

    >>> check_process(Path("answers.db3kd"), owner=0)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: answers.db3kd was opened by another process; open it again in this one
    """
    if os.getpid() != owner:
        raise InputError(f"{path} was opened by another process; open it again in this one")
