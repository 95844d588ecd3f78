"""What lies where in the folder of a run, and which names there are its own."""

import re
from pathlib import Path

from db3kd.errors import Damaged

_NUMBERED = re.compile(r"[0-9]{5,9}")  # of a shard, as `f"{shard:05}"` writes it


def numbered(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    """The shards (".safetensors") or tapes (".tape") of a stage, with their numbers, in order.

    Files of other names are not the run's, and are left alone. A stage that has not begun has no
    folder.

    Raises:
        Damaged: the folder of the stage, or a shard, is something else; the text names it.

    >>> import tempfile
    >>> stage = Path(tempfile.mkdtemp())
    >>> for name in ("00001.tape", "foo.tape", "00000.safetensors"):
    ...     _ = (stage / name).write_bytes(b"")
    >>> [number for number, _ in numbered(stage, ".tape")]
    [1]
    """
    if not _is_folder(folder):
        return []
    found = [
        (int(path.stem), path)
        for path in folder.iterdir()
        if path.suffix == suffix and _NUMBERED.fullmatch(path.stem)
    ]
    for _, path in found:
        if not path.is_file() and (path.is_symlink() or path.exists()):  # else it is gone by now
            raise Damaged(f"{path} is not a file; {_AWAY}")
    return sorted(found)


def check_journal(path: Path) -> None:
    """Refuse a journal that is not a file; one that is not there yet is fine.

    Raises:
        Damaged: the text names it.

    >>> import tempfile
    >>> check_journal(Path(tempfile.mkdtemp()))
    Traceback (most recent call last):
    ...
    db3kd.errors.Damaged: ... is not a file; remove it, or put the right one in its place
    """
    if path.exists() and not path.is_file():
        raise Damaged(f"{path} is not a file; {_AWAY}")


_AWAY = "remove it, or put the right one in its place"


def _is_folder(path: Path) -> bool:
    if path.exists() and not path.is_dir():
        raise Damaged(f"{path} is not a folder; {_AWAY}")
    return path.is_dir()
