"""What earlier processes left in the folder of a run, and what is missing there."""

import logging
from pathlib import Path

from db3kd.data.digest import of_file
from db3kd.errors import Damaged
from db3kd.stages.table import NAMES
from db3kd.stages.versions import versions
from db3kd.storage.journal import Journal
from db3kd.storage.layout import numbered
from db3kd.storage.leases import lent, take_back

WORD = ".word-"  # begins the names of files by which workers know the folder
_log = logging.getLogger("db3kd")


def take_all_back(folder: Path) -> None:
    """Take back the tapes that earlier processes have lent; their workers can ask nothing more.

    Raises:
        Damaged, RunError: from `take_back`.
    """
    for stage in NAMES:
        for path in lent(folder / stage).values():
            take_back(path)


def check_nothing_forgotten(folder: Path, journal: Journal) -> None:
    """Refuse a journal that is missing or cut: shards would be bought twice, but booked once.

    A shard is written before it is in the journal, and its tape is removed only after that. So a
    shard that is not in the journal must have a tape, or the journal a bound of what it cost.

    Raises:
        Damaged: a shard has neither.
    """
    known = {(record["stage"], record["shard"]) for record in journal.all("shard")}
    known |= set(journal.bounds)
    for stage in NAMES:
        for shard, path in numbered(folder / stage, ".safetensors"):
            if (stage, shard) in known or path.with_suffix(".tape").exists():
                continue
            raise Damaged(
                f"{journal.path} does not know {path}, so its end is missing; put a copy of the"
                " journal back, or use another folder"
            )


def sweep_drafts(folder: Path, journal: Journal) -> None:
    """Remove drafts, and the words of workers; a draft whose name a power cut took gets it back."""
    for word in folder.glob(f"{WORD}*"):
        word.unlink(missing_ok=True)
    written = {record.get("file"): record.get("sha256") for record in journal.records}
    for draft in folder.rglob(".*.part"):
        target = draft.with_name(draft.name[1:].rsplit(".", 2)[0])
        digest = written.get(target.relative_to(folder).as_posix())
        if digest and not target.exists() and of_file(draft) == digest:
            draft.replace(target)
        draft.unlink(missing_ok=True)


def say_what_differs(journal: Journal) -> None:
    """Say where numbers may be rounded otherwise than in the process before."""
    opened = list(journal.all("opened"))
    before, now = opened[-1]["versions"] if opened else {}, versions()
    other = [
        f"{name} {before[name]} -> {now[name]}"
        for name in ("torch", "threads", "machine")
        if before.get(name, now[name]) != now[name]
    ]
    if other:
        _log.warning(
            "this run was begun otherwise (%s), so numbers may be rounded otherwise, and students"
            " that are trained from here on may be slightly others",
            ", ".join(other),
        )
