"""Tapes that are lent to other processes, perhaps on other machines, and taken back for certain.

Of a shard there is one tape, `00007.tape`. To lend it is to name it `00007.3.12.tape`: the twelfth
lease of the third epoch. A name is never used twice. To take it back is to name it `.fenced` and to
read it after that. A borrower looks for the name after each claim is written and before it is sent
(`Tape`), so whatever it may ever send was read by then. No clock is involved, and it does not
matter whether the borrower is alive.

The folder must show a new name to all machines at once, as local disks and the file systems of
clusters do.
"""

import re
from pathlib import Path

from db3kd.errors import Damaged
from db3kd.storage.files import REPAIR, rename, write_atomically, writing
from db3kd.storage.tape import Tape

_LENT = re.compile(r"([0-9]{5,9})\.([0-9]+)\.([0-9]+)\.(tape|fenced)")


def tape_of(folder: Path, shard: int) -> Path:
    """The tape of a shard, in the folder of its stage.

    >>> tape_of(Path("answers"), 7).as_posix()
    'answers/00007.tape'
    """
    return folder / f"{shard:05}.tape"


def lend(tape: Tape, epoch: int, number: int) -> Path:
    """Lend the tape of a shard, which is closed; returns its name from now on.

    Raises:
        RunError: it cannot be given another name.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "answers"
    >>> path = lend(Tape(tape_of(folder, 7), classes=10), 3, 12)
    >>> path.name, lent(folder)[7] == path
    ('00007.3.12.tape', True)
    >>> take_back(path); [path.name for path in folder.iterdir()]
    ['00007.tape']
    """
    tape.close()
    path = tape.path.with_name(f"{tape.path.stem}.{epoch}.{number}.tape")
    with writing(path):
        rename(tape.path, path)
    return path


def take_back(path: Path) -> None:
    """Take a lent tape back; whoever has it open can claim nothing more.

    What it holds is copied, since the borrower may still write into the file. One that is gone is
    taken back already.

    Raises:
        Damaged, RunError: it cannot be read, or not written.
    """
    fenced = path.with_suffix(".fenced")
    with writing(path):
        if path.suffix == ".tape":
            try:
                rename(path, fenced)
            except FileNotFoundError:
                return
    own = path.with_name(f"{path.name.partition('.')[0]}.tape")
    if not own.exists():  # else it was copied, and the process ended just then
        try:
            content = fenced.read_bytes()
        except OSError as error:
            raise Damaged(f"{fenced} cannot be read ({error.strerror}); {REPAIR}") from None
        write_atomically(own, content)
    with writing(fenced):
        fenced.unlink(missing_ok=True)


def lent(folder: Path) -> dict[int, Path]:
    """The tapes of a stage that are lent, or not wholly taken back, by the number of their shard.

    >>> lent(Path("no-such-folder"))
    {}
    """
    if not folder.is_dir():
        return {}
    found: dict[int, tuple[int, int, Path]] = {}
    for path in folder.iterdir():
        named = _LENT.fullmatch(path.name)
        if named is not None:
            shard, lease = int(named[1]), (int(named[2]), int(named[3]), path)
            found[shard] = max(lease, found.get(shard, lease))
    return {shard: path for shard, (*_, path) in found.items()}
