"""Files that are written whole or not at all, whatever happens to the process."""

import errno
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from db3kd.errors import RunError, plain

if sys.platform != "win32":
    import fcntl

Json = dict[str, Any]
_ROOM, _OTHER = "run again once there is room", "name another folder or file"
_RIGHTS = "get the right to write there, or name another folder"
_ADVICE: dict[int | None, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG), _OTHER),
}
"""What to do about a write that failed, by the number of its error."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write (a full disk, no permission) into one sentence.

    >>> with writing(Path("shard")):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    ...
    db3kd.errors.RunError: shard cannot be written (No space left on device); what was saved before
    is safe; run again once there is room
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{plain(path)} cannot be written ({plain(error.strerror)}); what was saved before is"
            f" safe; {_ADVICE.get(error.errno, 'run again once that is mended')}"
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
        mine = f"{os.getpid()}-{secrets.token_hex(4)}"  # two machines may know one number
        draft = path.with_name(f".{path.name}.{mine}.part")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                sync_data(file.fileno())
            rename(draft, path)
        finally:
            draft.unlink(missing_ok=True)


def rename(path: Path, target: Path) -> None:
    """Give a file another name, also through a power cut; a file of that name is replaced.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_bytes(b"one")
    >>> rename(folder / "a", folder / "b"); [path.name for path in folder.iterdir()]
    ['b']
    """
    path.replace(target)
    _sync_folder(target.parent)


def sync_data(descriptor: int) -> None:
    """Make the content of an open file last through a power cut.

    `fdatasync` writes no more than reading it back needs. macOS and Windows do not have it: there
    it is `fsync`.

    >>> import tempfile
    >>> with tempfile.TemporaryFile() as file:
    ...     sync_data(file.fileno())
    """
    if sys.platform == "darwin":  # where fsync leaves it in the drive's own memory
        with suppress(OSError):  # not every file system can
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    getattr(os, "fdatasync", os.fsync)(descriptor)


def lock_file(descriptor: int) -> bool:
    """Lock an open file for this process, or say that another one has it.

    Where files cannot be locked while others read them (Windows), it is always True.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file, open(file.name) as again:
    ...     lock_file(file.fileno()), lock_file(again.fileno())
    (True, False)
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


REPAIR = "put a copy of it back, or run again with --redo-damaged to buy its answers a second time"
