"""What opening a folder has to mend: what killed processes left, and answers that were lost.

Nothing here asks a query. What is found is put on the books.
"""

import logging
from pathlib import Path

from db3kd.data.digest import of_file
from db3kd.errors import ConfigurationDiffers, Damaged
from db3kd.stages.accounts import add_up, finished
from db3kd.stages.formats import configurations
from db3kd.stages.table import NAMES, STAGES
from db3kd.stages.versions import versions
from db3kd.storage.journal import Journal
from db3kd.storage.layout import numbered
from db3kd.storage.leases import lent, take_back, tape_of
from db3kd.storage.shards import read_shard
from db3kd.teachers.meter import Meter
from db3kd.teachers.parts import Ledger

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

    A shard is written before it is in the journal, and its tape is removed only after that. So
    a shard that is not in the journal must have a tape, or the journal a bound of what it cost.
    """
    known = {(record["stage"], record["shard"]) for record in journal.all("shard")}
    known |= set(journal.bounds)
    for stage in NAMES:
        for shard, path in numbered(folder / stage, ".safetensors"):
            if (stage, shard) in known or path.with_suffix(".tape").exists():
                continue
            raise Damaged(
                f"{journal.path} does not know {path}, so its end is missing; put a copy"
                " of the journal back, or use another folder"
            )


def sweep(folder: Path, journal: Journal) -> None:
    """Remove what killed processes left: drafts, words, and tapes of shards that are finished.

    A shard that is not what the journal says, as a power cut may leave it, is made again from
    its tape.
    """
    for word in folder.glob(f"{WORD}*"):
        word.unlink(missing_ok=True)
    written = {record.get("file"): record.get("sha256") for record in journal.records}
    for draft in folder.rglob(".*.part"):
        target = draft.with_name(draft.name[1:].rsplit(".", 2)[0])
        digest = written.get(target.relative_to(folder).as_posix())
        if digest and not target.exists() and of_file(draft) == digest:
            draft.replace(target)  # a power cut took back its name
        draft.unlink(missing_ok=True)
    for stage in NAMES:
        for shard, record in list(finished(journal, stage).items()):
            tape = tape_of(folder / stage, shard)
            if not tape.exists():
                continue
            try:
                read_shard(folder / record["file"], record["sha256"])
            except Damaged as error:
                _log.warning("%s; it is made again from its tape", error)
                journal.append("undone", stage=stage, shard=shard)
            else:
                tape.unlink(missing_ok=True)


def keep_booked(folder: Path, journal: Journal, classes: int) -> None:
    """Book as lost what was on the books when the run was last opened, and is not any more."""
    opened = list(journal.all("opened"))
    known = opened[-1]["spent"] if opened else {}
    spent = add_up(folder, journal, classes).spent
    for stage, before in known.items():
        _lose(journal, stage, before - spent[stage])


def book_lost(folder: Path, journal: Journal, ledger: Ledger, meter: Meter, *, run: str) -> None:
    """Book what a teacher with its own books says that earlier processes have lost.

    It belongs to the stage whose question was on its way.

    Raises:
        ConfigurationDiffers: these are other books than those that the run was begun with.
    """
    kept = [record["name"] for record in journal.all("books")]
    if not kept:
        journal.append("books", name=ledger.name)
    elif kept[-1] != ledger.name:
        raise ConfigurationDiffers(
            f"the answers of {folder} are kept in another store than the one that is named"
            " now, and so is what they cost; name that store (teacher.store), or use another"
            " folder"
        )
    ledger.begin(run, str(folder), meter.budget.queries)
    booked = sum(record["queries"] for record in journal.all("lost") if record.get("ledger"))
    begun = [stage for stage in NAMES if configurations(journal).get(stage)] or [NAMES[0]]
    open_ = add_up(folder, journal, meter.classes).open
    asking = [stage for stage in NAMES if open_[stage]] or begun[-1:]
    _lose(journal, asking[0], ledger.lost() - booked, ledger=True)


def _lose(journal: Journal, stage: str, queries: int, *, ledger: bool = False) -> None:
    if queries > 0:
        _log.warning(
            "the answers to %s queries of %s are gone; they stay on the books as lost",
            f"{queries:,}",
            stage,
        )
        journal.append("lost", stage=stage, queries=queries, ledger=ledger)


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
            "this run was begun otherwise (%s), so numbers may be rounded otherwise, and"
            " students that are trained from here on may be slightly others",
            ", ".join(other),
        )


def redo_damaged(folder: Path, journal: Journal) -> None:
    """Mark damaged shards to be bought again; their price stays on the books."""
    for row in STAGES:
        for shard, record in list(finished(journal, row.name).items()):
            try:
                read_shard(folder / record["file"], record["sha256"])
            except Damaged as error:
                _log.warning("%s: to be bought again", error)
                journal.append("redo", stage=row.name, shard=shard)
