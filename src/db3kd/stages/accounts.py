"""The books of a run, from journal and tapes: what was paid, what is there, what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from db3kd.errors import Damaged, InputError, plain
from db3kd.stages.formats import check_format, configurations
from db3kd.stages.table import FIRST, NAMES, stage
from db3kd.storage.files import Json
from db3kd.storage.journal import Journal
from db3kd.storage.layout import check_journal, numbered
from db3kd.storage.leases import lent, tape_of
from db3kd.storage.tape import Tape


@dataclass(frozen=True)
class Accounts:
    """What was paid: queries `spent` by stage, and how many of these are in flight or lost.

    `open`: images of questions on their way to a teacher with its own books, by stage. They are not
    spent yet.
    """

    spent: dict[str, int]
    reserved: int
    lost: int
    open: dict[str, int]

    @property
    def answered(self) -> int:
        """Queries whose answers are there."""
        return sum(self.spent.values()) + sum(self.open.values()) - self.reserved - self.lost


_FIGURE = ("name", "seed", "accuracy", "agreement", "teacher_accuracy")


def finished(journal: Journal, stage: str) -> Mapping[int, Json]:
    """The records of the finished shards of a stage, by number, as they are at any moment.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.jsonl")
    >>> for kind, shard in ("shard", 0), ("shard", 1), ("redo", 0):
    ...     journal.append(kind, stage="answers", shard=shard)
    >>> list(finished(journal, "answers"))
    [1]
    >>> journal.close()
    """
    return MappingProxyType(journal.finished[stage])


def classes_of_run(journal: Journal) -> list[str]:
    """The names of the classes that a run has met, in its order; none where they were known.

    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.jsonl")
    >>> journal.append("classes", names=["cat"])
    >>> journal.append("classes", names=["cat", "dog"])
    >>> classes_of_run(journal)
    ['cat', 'dog']
    >>> journal.close()
    """
    names: list[str] = []
    for record in journal.all("classes"):
        names = [str(name) for name in record["names"]]
    return names


def add_up(folder: Path, journal: Journal, classes: int) -> Accounts:
    """Add up every shard that was ever paid for, and every tape of a shard in progress.

    Raises:
        Damaged: a folder or a file is something else.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> journal = Journal(folder / "journal.jsonl")
    >>> for shard in (0, 1):
    ...     journal.append("shard", stage="answers", shard=shard, queries=10, lost=shard)
    >>> books = add_up(folder, journal, classes=10)
    >>> books.spent["answers"], books.lost
    (20, 1)
    >>> journal.close()
    """
    spent, lost, reserved = dict.fromkeys(NAMES, 0), 0, 0
    open_ = dict.fromkeys(NAMES, 0)
    for record in _paid(journal):
        spent[record["stage"]] += record["queries"]
        lost += record["lost"] if record["kind"] == "shard" else record["queries"]
    known = journal.bounds
    for name in NAMES:
        done = finished(journal, name)
        there = {shard for shard, _ in numbered(folder / name, ".tape")}
        away = lent(folder / name)
        begun = there | away.keys() | {number for some, number in known if some == name}
        for shard in sorted(begun):
            if shard in done:
                continue  # on the books already; the process died before it removed the tape
            own, bound = tape_of(folder / name, shard), known.get((name, shard), 0)
            path = own if shard in there else away.get(shard, own)
            tape = Tape(path, classes=classes, read_only=True, allowed=bound)
            spent[name] += tape.booked
            open_[name] += tape.reserved
            lost += tape.lost
            reserved += tape.in_flight + tape.reserved
    return Accounts(spent, reserved, lost, open_)


def by_stage(spent: Mapping[str, int]) -> dict[str, int]:
    """Queries by stage, where images that were asked first count as the others.

    Stages of an audit are named only where there is one.

    >>> by_stage({"first/answers": 100, "answers": 200, "trial/grow": 7})
    {'answers': 300, 'trial/grow': 7}
    """
    found: dict[str, int] = {}
    for name, count in spent.items():
        name = name.removeprefix(f"{FIRST}/")
        if count or not name.startswith("audit/"):
            found[name] = found.get(name, 0) + count
    return found


def _paid(journal: Journal) -> list[Json]:
    """The records of what was paid: shards, unless a tape has them again, and losses."""
    found: list[Json] = []
    for record in journal.records:
        if record["kind"] in ("shard", "lost"):
            found.append(record)
        elif record["kind"] == "undone":
            place = record["stage"], record["shard"]
            again = [r for r in found if (r["stage"], r.get("shard")) == place]
            found.remove(again[-1])
    return found


def status(folder: str | Path) -> Json:
    """What a run folder holds, read without touching it, even while another process works there.

    - `stage`: where the run is.
    - `stages`: shards done and pending of each stage that has begun.
    - `queries`: `spent` (with those lost), `reserved` (on their way; of a teacher with its own
      books not spent yet), `lost` (asked, but the answers never came or are gone), `budget` and
      `by_stage`.
    - `decision`: what a trial found, if there was one.
    - `students`, `figures`: what was trained, and how well it did.
    - `configuration`: the settings of each stage.

    Costs no query.

    Raises:
        InputError: there is no run in that folder, or it has not begun.
        Damaged: the journal or a tape cannot be trusted.
        RunError: a newer version made the folder.

    >>> status("no-such-folder")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: there is no run in no-such-folder
    """
    folder = Path(folder)
    path = folder / "journal.jsonl"
    try:
        check_journal(path)
        there = path.exists()
    except (OSError, ValueError) as error:  # a path that cannot be; no permission
        reason = plain(getattr(error, "strerror", None) or error)
        raise InputError(
            f"{plain(folder)} cannot be read ({reason}); give the folder of a run"
        ) from None
    if not there:
        raise InputError(f"there is no run in {folder}")
    journal, books = _snapshot(folder)
    settings = configurations(journal)
    opened = list(journal.all("opened"))
    begun = [name for name in NAMES if name in settings]
    within = {f"{FIRST}/{name}" for name in begun}  # parts of stages that have begun themselves
    shown = [name for name in begun if name not in within]
    stages = {name: _stage_status(journal, name, settings) for name in shown}
    figures: list[Json] = []
    for record in journal.all("evaluation"):
        figure = {name: record[name] for name in _FIGURE}
        if figure not in figures:  # a finished run that is run again finds the same
            figures.append(figure)
    students = list(journal.all("student"))
    decisions = [record["decision"] for record in journal.all("decision")]
    working = [name for name, stage in stages.items() if stage["pending"]]
    audits = [r["kind"] for r in journal.records if r["kind"] in ("audit", "audited")]
    ended = bool(figures) or audits[-1:] == ["audited"]
    if "spend" in settings and not decisions:
        working.append("trial")
    elif audits and not ended:
        working.append("audit")
    elif not students and not figures:
        copies = settings.get("ascent", {}).get("copies", 0)
        working += _ahead(stages, decisions[-1]["use"] if decisions else "mbd", copies=copies)
    return {
        "run": str(folder),
        "stage": working[0] if working else "done" if ended else "distill",
        "stages": stages,
        "queries": {
            "spent": sum(books.spent.values()),
            "reserved": books.reserved,
            "lost": books.lost,
            "budget": opened[-1]["budget"]["queries"] if opened else None,
            "by_stage": by_stage(books.spent),
        },
        "decision": decisions[-1] if decisions else None,
        "students": [
            {key: record[key] for key in ("name", "seed", "file", "samples", "seconds")}
            for record in students
        ],
        "figures": figures,
        "configuration": settings,
    }


def _snapshot(folder: Path) -> tuple[Journal, Accounts]:
    """Journal and books of one moment; read again if the journal grew while tapes were read."""
    path = folder / "journal.jsonl"
    for _ in range(20):
        journal = Journal(path, read_only=True)
        check_format(folder, journal)
        begun = [r for r in journal.all("stage") if r["stage"] == "run"]
        if not begun:
            raise InputError(f"the run in {folder} has not begun")
        books = add_up(folder, journal, begun[0]["configuration"]["classes"])
        if len(Journal(path, read_only=True).records) == len(journal.records):
            break
    return journal, books


def _ahead(stages: Json, use: str, *, copies: int) -> list[str]:
    """The next stage of a run that has trained nothing yet, if there is one."""
    if "ascent" in stages:
        return ["copies"] if copies and "copies" not in stages else []
    if "synthesis" in stages or "starts" in stages:
        return [] if "synthesis" in stages else ["ascent"]
    if "answers" not in stages:
        return ["answers"]
    bought = [name for name in stages if name not in ("answers", "evaluate")]
    if any(not name.startswith("trial/") for name in bought):
        return []
    return {"grown": ["grow"], "mbd": ["distances"]}.get(use, [])


def _stage_status(journal: Journal, name: str, settings: dict[str, Json]) -> Json:
    """The shards of one stage: how many there are, done and pending.

    Raises:
        Damaged: they follow from another stage, which the journal does not know.
    """
    try:
        total = stage(name).of(settings).shards
    except Damaged as error:
        raise Damaged(f"{journal.path}: {error}; put a copy of it back") from None
    done = len(finished(journal, name))
    return {"shards": total, "done": done, "pending": total - done}
