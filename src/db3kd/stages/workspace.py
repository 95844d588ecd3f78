"""The workspace of a run: shards are bought once, kept whole, put on the books and found again.

A stage is cut into shards. A shard is the unit of work, of randomness and of resuming. `table`
lists the stages. The workspace has what they share: the folder and its lock, the journal and its
checks, the tape of the shard in progress, and the meter.
"""

import copy
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import msgspec
import torch
from torch import Tensor, nn

from db3kd.config.settings import Budget
from db3kd.config.types import differences
from db3kd.data.digest import of_file
from db3kd.errors import Busy, ConfigurationDiffers, Damaged, RunError
from db3kd.progress import Progress
from db3kd.seeds import derive_seed
from db3kd.stages.accounts import add_up, bounds, finished
from db3kd.stages.digests import Digests
from db3kd.stages.formats import FORMAT, check_format, configurations
from db3kd.stages.identity import agree_on_teacher
from db3kd.stages.table import NAMES, STAGES, shards_of
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.versions import versions
from db3kd.storage.files import Json, writing
from db3kd.storage.journal import OPEN_AGAIN, WAIT, Journal
from db3kd.storage.layout import check_journal, numbered
from db3kd.storage.shards import read_shard, write_shard
from db3kd.storage.tape import Drifted, Tape
from db3kd.teachers.base import Teacher, identity_of
from db3kd.teachers.meter import Meter
from db3kd.teachers.parts import Ledger

_log = logging.getLogger("db3kd")
Work = Callable[[ReplayTeacher, Tensor, int], tuple[dict[str, Tensor], Json]]
"""The work of one shard: its teacher, rows and number give tensors to keep, and facts."""


class Workspace:
    """A folder, held by this process alone; arguments and errors are those of `Run`.

    >>> import tempfile
    >>> from db3kd.progress import silent
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    >>> workspace = Workspace(Path(tempfile.mkdtemp()), bright, None, seed=0, device="cpu",
    ...                 configuration={}, redo_damaged=False, progress=silent)
    >>> def work(teacher, rows, shard):
    ...     return {"own": teacher.labels(rows.float().reshape(-1, 1, 1, 1))}, {}
    >>> workspace.work("answers", 3, 2, 1, work)
    >>> workspace.meter.spent, workspace.pending("answers", 3, 2)
    (3, [])
    >>> workspace.read(workspace.done("answers")[1])
    {'own': tensor([1])}
    >>> workspace.close()
    """

    def __init__(
        self,
        folder: Path,
        teacher: Teacher,
        budget: Budget | None,
        *,
        seed: int,
        device: str,
        configuration: Mapping[str, Any],
        redo_damaged: bool,
        progress: Progress,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.seed, self.device, self.progress = folder, seed, device, progress
        self._prefix = ""  # before the names of stages
        self.digests = Digests(self.folder / "digests.json", progress)
        self._lock = filelock.FileLock(self.folder / "lock")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise Busy(f"another process is working in {self.folder}; {WAIT}") from None
        self._owner = os.getpid()
        self._done_with: list[Path] = []  # tapes of finished shards
        try:
            check_journal(self.folder / "journal.jsonl")
            self.journal = Journal(self.folder / "journal.jsonl")
            try:
                known = identity_of(teacher) if identity is None else identity
                self._open(teacher, budget, dict(configuration), redo_damaged, known)
            except BaseException:
                self.journal.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _open(
        self,
        teacher: Teacher,
        budget: Budget | None,
        configuration: Json,
        redo: bool,
        known: Mapping[str, str],
    ) -> None:
        check_format(self.folder, self.journal)
        self._check_nothing_forgotten()
        self.agree(
            "run",
            {
                "format": FORMAT,
                "seed": self.seed,
                "device": self.device,
                "classes": teacher.classes,
                "bounds": list(teacher.bounds),
                **configuration,
            },
        )
        self._sweep()
        if redo:
            self._redo_damaged()
        self.meter = Meter(teacher, budget)
        ledger: Ledger | None = self.meter.ledger
        if ledger is None:
            self._keep_booked(teacher.classes)
        else:
            self._book_lost(ledger)
        books = add_up(self.folder, self.journal, teacher.classes)
        spent = books.spent
        agree_on_teacher(self.folder, self.journal, known, answered=books.answered > 0)
        self.meter.by_stage.update(spent)
        self._bounds = bounds(self.journal)  # of shards in progress; kept as the journal grows
        self._say_what_differs()
        budget_now = msgspec.to_builtins(self.meter.budget)
        self.journal.append("opened", versions=versions(), budget=budget_now, spent=spent)

    @property
    def identity(self) -> str:
        """Which run this is, wherever its folder lies."""
        for record in self.journal.all("name"):
            return str(record["run"])
        identity = uuid.uuid4().hex
        self.journal.append("name", run=identity)
        return identity

    def close(self) -> None:
        """Release the folder; a process that was forked from the one that holds it does not."""
        self.journal.close()
        if os.getpid() == self._owner:
            self._forget_tapes()
            self._lock.release()

    def within(self, name: str) -> "Workspace":
        """The same workspace for a part of the run, whose "grow" is "trial/grow" on the books.

        The part has its own seed.
        """

        def progress(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
            self.progress(f"{name}/{stage}", done, total, figures)

        part = copy.copy(self)
        part._prefix, part.seed = f"{self._prefix}{name}/", derive_seed(self.seed, name)
        part.progress = progress
        return part

    def named(self, stage: str) -> str:
        """The name of a stage on the books."""
        return self._prefix + stage

    # Shards

    def read(self, record: Json) -> dict[str, Tensor]:
        """The tensors of a finished shard.

        Raises:
            Damaged: its file is missing, cut or altered.
        """
        return read_shard(self.folder / record["file"], record["sha256"])

    def pending(self, stage: str, samples: int, size: int) -> list[int]:
        """The shards of a stage that are not finished; each holds at most `size` samples."""
        done = self.done(stage)
        return [shard for shard in range(shards_of(samples, size)) if shard not in done]

    def work(self, stage: str, samples: int, size: int, price: int, work: Work) -> None:
        """Do every shard of a stage that is not done.

        `price` is the most that a sample costs. It is used only to report progress.

        Raises:
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
            Damaged: a tape cannot be trusted, or the work asks different questions each time.
            RunError: a file cannot be written.
        """
        pending = self.pending(stage, samples, size)
        ready = samples - sum(min(size, samples - shard * size) for shard in pending)
        for shard in pending:
            rows = torch.arange(shard * size, min(samples, (shard + 1) * size))

            def report(used: int, ready: int = ready, most: int = len(rows) * price) -> None:
                figures = {"queries": float(self.meter.spent)}
                self.progress(stage, ready * price + min(used, most), samples * price, figures)

            report(0)
            self.shard(stage, shard, rows, work, report)
            ready += len(rows)
        if pending:
            self.progress(
                stage, samples * price, samples * price, {"queries": float(self.meter.spent)}
            )

    def shard(
        self, stage: str, shard: int, rows: Tensor, work: Work, report: Callable[[int], None]
    ) -> None:
        """Do one shard: replay its tape, ask for the rest, write it whole, put it on the books.

        Raises:
            BudgetExhausted, TeacherError, Damaged, RunError: as `work`.
        """
        stage = self._prefix + stage
        file = f"{stage}/{shard:05}.safetensors"
        path = self.folder / file
        started = time.perf_counter()
        if os.getpid() != self._owner:
            raise RunError(f"{self.folder} was opened by another process; {OPEN_AGAIN}")
        for _ in range(2):
            tape = self._tape(stage, shard)
            teacher = ReplayTeacher(self.meter, tape, report)
            try:
                with self.meter.stage(stage), torch.no_grad():
                    tensors, facts = work(teacher, rows, shard)
                break
            except Drifted:
                _log.warning(
                    "%s was begun where numbers are rounded differently; its %s answers cannot be"
                    " used and stay on the books as lost",
                    tape.path,
                    f"{tape.booked:,}",
                )
                tape.discard()
            finally:
                tape.close()
        else:
            raise Damaged(
                f"{tape.path} gets different questions each time; is the teacher's code"
                " deterministic?"
            )
        facts = {
            "wall_s": round(time.perf_counter() - started, 3),
            "queries": tape.booked,
            "lost": tape.booked - teacher.used,
            **facts,
        }
        digest = write_shard(path, tensors)
        self.journal.append(
            "shard", stage=stage, shard=shard, samples=len(rows), file=file, sha256=digest, **facts
        )
        self._bounds.pop((stage, shard), None)
        self._forget_tapes()
        self._done_with.append(tape.path)

    def _forget_tapes(self) -> None:
        """Remove the tapes of finished shards, one line later: a power cut can take the last."""
        while self._done_with:
            with suppress(OSError):  # Windows: somebody reads it; the next opening removes it
                self._done_with.pop().unlink(missing_ok=True)

    def _tape(self, stage: str, shard: int) -> Tape:
        """The tape of a shard; the journal hears how much is allowed to be asked."""

        def allow(bound: int) -> None:
            self.journal.append("tape", stage=stage, shard=shard, bound=bound)
            self._bounds[stage, shard] = bound

        return Tape(
            self.folder / stage / f"{shard:05}.tape",
            classes=self.meter.classes,
            allowed=self._bounds.get((stage, shard), 0),
            allow=allow,
        )

    # Networks that learn between rounds

    def recall(self, stage: str, number: int, network: nn.Module) -> int:
        """Load the newest fit up to `number` into a network; returns which it is, -1 for none.

        Raises:
            Damaged: its file cannot be trusted.
        """
        known = self.surrogates(stage)
        there = [n for n in known if n <= number and (self.folder / known[n]["file"]).exists()]
        if there:
            network.load_state_dict(self.read(known[max(there)]))
        network.eval()
        return max(there, default=-1)

    def keep(self, stage: str, number: int, network: nn.Module, **facts: Any) -> None:
        """Keep a network after a fit, in the folder of the stage's shards."""
        stage = self._prefix + stage
        file = f"{stage}/surrogate-{number:02}.safetensors"
        state = {name: part.cpu().contiguous() for name, part in network.state_dict().items()}
        digest = write_shard(self.folder / file, state)
        self.journal.append(
            "surrogate", stage=stage, round=number, file=file, sha256=digest, **facts
        )

    def surrogates(self, stage: str) -> dict[int, Json]:
        """The records of the networks that were kept, by number."""
        return {
            record["round"]: record
            for record in self.journal.all("surrogate")
            if record.get("stage", "rounds") == self._prefix + stage
        }

    # The journal

    @property
    def samples(self) -> int:
        """How many own images there are; 0 before any was asked."""
        return int(self.configuration("answers").get("samples", 0))

    def _check_nothing_forgotten(self) -> None:
        """Refuse a journal that is missing or cut: shards would be bought twice, but booked once.

        A shard is written before it is in the journal, and its tape is removed only after that. So
        a shard that is not in the journal must have a tape, or the journal a bound of what it cost.
        """
        known = {(record["stage"], record["shard"]) for record in self.journal.all("shard")}
        known |= set(bounds(self.journal))
        for stage in NAMES:
            for shard, path in numbered(self.folder / stage, ".safetensors"):
                if (stage, shard) in known or path.with_suffix(".tape").exists():
                    continue
                raise Damaged(
                    f"{self.journal.path} does not know {path}, so its end is missing; put a copy"
                    " of the journal back, or use another folder"
                )

    def _sweep(self) -> None:
        """Remove what killed processes left: drafts, and tapes of shards that are finished.

        A shard that is not what the journal says, as a power cut may leave it, is made again from
        its tape.
        """
        written = {record.get("file"): record.get("sha256") for record in self.journal.records}
        for draft in self.folder.rglob(".*.part"):
            target = draft.with_name(draft.name[1:].rsplit(".", 2)[0])
            digest = written.get(target.relative_to(self.folder).as_posix())
            if digest and not target.exists() and of_file(draft) == digest:
                draft.replace(target)  # a power cut took back its name
            draft.unlink(missing_ok=True)
        for stage in NAMES:
            for shard, record in self.done(stage).items():
                tape = self.folder / stage / f"{shard:05}.tape"
                if not tape.exists():
                    continue
                try:
                    self.read(record)
                except Damaged as error:
                    _log.warning("%s; it is made again from its tape", error)
                    self.journal.append("undone", stage=stage, shard=shard)
                else:
                    tape.unlink(missing_ok=True)

    def _keep_booked(self, classes: int) -> None:
        """Book as lost what was on the books when the run was last opened, and is not any more."""
        opened = list(self.journal.all("opened"))
        known = opened[-1]["spent"] if opened else {}
        spent = add_up(self.folder, self.journal, classes).spent
        for stage, before in known.items():
            self._lose(stage, before - spent[stage])

    def _book_lost(self, ledger: Ledger) -> None:
        """Book what a teacher with its own books says that earlier processes have lost.

        It belongs to the stage whose question was on its way.

        Raises:
            ConfigurationDiffers: these are other books than those that the run was begun with.
        """
        kept = [record["name"] for record in self.journal.all("books")]
        if not kept:
            self.journal.append("books", name=ledger.name)
        elif kept[-1] != ledger.name:
            raise ConfigurationDiffers(
                f"the answers of {self.folder} are kept in another store than the one that is named"
                " now, and so is what they cost; name that store (teacher.store), or use another"
                " folder"
            )
        ledger.begin(self.identity, str(self.folder), self.meter.budget.queries)
        booked = sum(
            record["queries"] for record in self.journal.all("lost") if record.get("ledger")
        )
        begun = [stage for stage in NAMES if self.configuration(stage)] or [NAMES[0]]
        open_ = add_up(self.folder, self.journal, self.meter.classes).open
        asking = [stage for stage in NAMES if open_[stage]] or begun[-1:]
        self._lose(asking[0], ledger.lost() - booked, ledger=True)

    def _lose(self, stage: str, queries: int, *, ledger: bool = False) -> None:
        if queries > 0:
            _log.warning(
                "the answers to %s queries of %s are gone; they stay on the books as lost",
                f"{queries:,}",
                stage,
            )
            self.journal.append("lost", stage=stage, queries=queries, ledger=ledger)

    def _say_what_differs(self) -> None:
        """Say where numbers may be rounded otherwise than in the process before."""
        opened = list(self.journal.all("opened"))
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

    def agree(self, stage: str, configuration: Json) -> None:
        """Record the configuration of a stage, or insist on the recorded one.

        Raises:
            ConfigurationDiffers: another one is recorded; the text shows each difference.
        """
        recorded = self.configuration(stage)
        if not recorded:
            self.journal.append("stage", stage=self._prefix + stage, configuration=configuration)
            return
        differing = differences(recorded, json.loads(json.dumps(configuration)))
        if differing:
            raise ConfigurationDiffers(
                f"{self.folder} was made with other settings ({'; '.join(differing)}); use them, or"
                " another folder"
            )

    def configuration(self, stage: str) -> Json:
        """What `agree` recorded, in today's words; empty if the stage has not begun."""
        return configurations(self.journal).get(self._prefix + stage, {})

    def done(self, stage: str) -> dict[int, Json]:
        """The records of the finished shards of a stage, by number."""
        return finished(self.journal, self._prefix + stage)

    def _redo_damaged(self) -> None:
        """Mark damaged shards to be bought again; their price stays on the books."""
        for row in STAGES:
            for shard, record in self.done(row.name).items():
                try:
                    self.read(record)
                except Damaged as error:
                    _log.warning("%s: to be bought again", error)
                    self.journal.append("redo", stage=row.name, shard=shard)
