"""Which processes are alive that have images on their way.

An owner holds a lock on a file of its own, next to the store. The system releases it when the
process ends, in whatever way, so no clock is needed to tell a dead owner from a slow one.
"""

import glob
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import filelock


class Owner:
    """This process as one that has images on their way.

    >>> import tempfile
    >>> store = Path(tempfile.mkdtemp()) / "answers.db3kd"
    >>> owner = Owner(store)
    >>> is_alive(store, owner.token)
    True
    >>> owner.leave()
    >>> is_alive(store, owner.token)
    False
    """

    def __init__(self, store: Path) -> None:
        while True:
            self.token = uuid.uuid4().hex
            self._file = _file(store, self.token)
            self._lock = filelock.FileLock(self._file, thread_local=False)
            with suppress(filelock.Timeout):  # somebody sweeps it away
                self._lock.acquire(timeout=0)
                if self._file.exists():
                    return
                self._lock.release()

    def leave(self) -> None:
        """Release the lock, and remove its file."""
        self._lock.release()
        self._file.unlink(missing_ok=True)


def is_alive(store: Path, token: str) -> bool:
    """Whether an owner still runs; the file of one that does not is removed."""
    file = _file(store, token)
    if not file.exists():
        return False
    lock = filelock.FileLock(file, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, PermissionError):  # it is locked, or another user's
        return True
    with suppress(PermissionError):  # Windows removes no open file
        file.unlink(missing_ok=True)  # before it can be locked again
    lock.release()
    file.unlink(missing_ok=True)
    return False


def sweep(store: Path, known: Collection[str]) -> None:
    """Remove the files of owners that died before the store knew them.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / ".answers.db3kd.abc.owner").touch()
    >>> sweep(folder / "answers.db3kd", ())
    >>> list(folder.iterdir())
    []
    """
    for file in store.parent.glob(f".{glob.escape(store.name)}.*.owner"):
        token = file.name.rpartition(".")[0].rpartition(".")[2]
        if token not in known:
            is_alive(store, token)


def _file(store: Path, token: str) -> Path:
    return store.with_name(f".{store.name}.{token}.owner")
