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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import msgspec
import torch
from torch import Tensor, nn

from db3kd.config.settings import Budget
from db3kd.config.types import differences, whole
from db3kd.errors import Busy, ConfigurationDiffers, Damaged, InputError, RunError
from db3kd.progress import Progress, silent
from db3kd.seeds import derive_seed
from db3kd.stages import recovery
from db3kd.stages.accounts import add_up, classes_of_run, finished
from db3kd.stages.digests import Digests
from db3kd.stages.executor import Executor, InThisProcess, Part, Tell, Work
from db3kd.stages.formats import FORMAT, check_format, configurations, in_todays_words
from db3kd.stages.identity import agree_on_teacher, check_teacher
from db3kd.stages.table import shards_of
from db3kd.stages.taped import ReplayTeacher, changing, facts_of
from db3kd.stages.versions import versions
from db3kd.storage.files import Json, writing
from db3kd.storage.journal import OPEN_AGAIN, WAIT, Journal
from db3kd.storage.layout import check_journal
from db3kd.storage.leases import tape_of
from db3kd.storage.shards import read_shard, write_shard
from db3kd.storage.tape import Drifted, Tape
from db3kd.teachers.base import Teacher, identity_of, met_of
from db3kd.teachers.found import Found
from db3kd.teachers.meter import Meter
from db3kd.teachers.parts import Ledger

_log = logging.getLogger("db3kd")


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
        executor: Executor | None = None,
    ) -> None:
        self.folder, self.device, self.progress = folder, device, progress
        self.seed = whole(seed, "seed")
        self._prefix = ""  # before the names of stages
        self.executor: Executor = executor or InThisProcess()
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
        self.notes: list[Json] | None = None  # of a worker, for the journal of another process
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

    @classmethod
    def followed(
        cls,
        folder: Path,
        teacher: Teacher,
        *,
        seed: int,
        device: str,
        parts: Mapping[str, str],
        executor: Executor,
    ) -> "Workspace":
        """The workspace of another process, as one that helps it sees it: nothing can be noted.

        `parts`: what the teacher is known by here; it must be the teacher of the run.

        Raises:
            ConfigurationDiffers: it is another one.
            Damaged: the journal cannot be trusted.
        """
        self = cls.__new__(cls)
        self.folder, self.seed, self.device, self.progress = folder, seed, device, silent
        self._prefix, self.executor = "", executor
        self._owner, self._done_with = os.getpid(), []
        self.digests, self.meter = Digests(folder / "digests.json"), Meter(teacher)
        self.notes = []
        self.look_again()
        check_teacher(folder, self.journal, parts)
        return self

    def look_again(self) -> None:
        """Read the journal of another process as it is now."""
        self.journal = Journal(self.folder / "journal.jsonl", read_only=True)

    def note(self, kind: str, **facts: Any) -> None:
        """Put something in the journal; a worker keeps it in `notes` for the leading process."""
        if self.notes is None:
            self.journal.append(kind, **facts)
        else:
            self.notes.append({"kind": kind, **facts})

    def _open(
        self,
        teacher: Teacher,
        budget: Budget | None,
        configuration: Json,
        redo: bool,
        known: Mapping[str, str],
    ) -> None:
        check_format(self.folder, self.journal)
        recovery.take_all_back(self.folder)
        recovery.check_nothing_forgotten(self.folder, self.journal)
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
        recovery.sweep(self.folder, self.journal)
        if redo:
            recovery.redo_damaged(self.folder, self.journal)
        if met_of(teacher) is not None:
            teacher = self._found(teacher)
        self.meter = Meter(teacher, budget)
        ledger: Ledger | None = self.meter.ledger
        if ledger is None:
            recovery.keep_booked(self.folder, self.journal, teacher.classes)
        else:
            recovery.book_lost(self.folder, self.journal, ledger, self.meter, run=self.identity)
        books = add_up(self.folder, self.journal, teacher.classes)
        spent = books.spent
        agree_on_teacher(self.folder, self.journal, known, answered=books.answered > 0)
        self.meter.by_stage.update(spent)
        recovery.say_what_differs(self.journal)
        budget_now = msgspec.to_builtins(self.meter.budget)
        self.journal.append("opened", versions=versions(), budget=budget_now, spent=spent)

    def _found(self, teacher: Teacher) -> Teacher:
        """The teacher with the classes that the run has met, in its order; more are noted."""
        if self.executor.apart:
            raise InputError(
                "the classes of this teacher are found as it answers, which one process alone can"
                ' do; give them (teacher.classes), or set cluster.engine = "none"'
            )

        def remember(names: tuple[str, ...]) -> None:
            before = classes_of_run(self.journal)
            for _ in range(2):  # a power cut can take the last line
                self.journal.append("classes", names=[*before, *names])

        return Found(teacher, classes_of_run(self.journal), remember)

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
        if os.getpid() == self._owner:
            self.executor.close()
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

    def work(
        self,
        stage: str,
        samples: int,
        size: int,
        price: int,
        work: Work,
        *,
        shards: range | None = None,
        apart: bool = False,
    ) -> None:
        """Do every shard of a stage that is not done, or of some of its `shards`.

        `price` is the most that a sample costs. It is used only to report progress, which counts
        samples where they cost nothing. `apart`: each shard can be done without the others, so they
        may be done elsewhere.

        Raises:
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
            Damaged: a tape cannot be trusted, or the work asks different questions each time.
            RunError: a file cannot be written.
        """

        def span_of(shard: int) -> range:
            return range(shard * size, min(samples, (shard + 1) * size))

        price = max(1, price)
        pending = self.pending(stage, samples, size)
        ready = samples - sum(len(span_of(shard)) for shard in pending)
        wanted = [shard for shard in pending if shards is None or shard in shards]
        if not wanted:
            return
        parts = [Part(shard, span := span_of(shard), len(span) * price) for shard in wanted]

        def tell(done: int) -> None:
            figures = {"queries": float(self.meter.spent), **self.executor.figures()}
            self.progress(stage, ready * price + done, samples * price, figures)

        self.do(stage, parts, work, tell, apart=apart)
        tell(sum(part.most for part in parts))

    def do(
        self, stage: str, parts: Sequence[Part], work: Work, tell: Tell, *, apart: bool = False
    ) -> None:
        """Do some shards of a stage; `apart`, `tell` and errors are as those of `work`."""
        self.executor.do(self, stage, parts, work, tell, apart)

    def shard(
        self, stage: str, shard: int, rows: Tensor, work: Work, report: Callable[[int], None]
    ) -> None:
        """Do one shard: replay its tape, ask for the rest, write it whole, put it on the books.

        Raises:
            BudgetExhausted, TeacherError, Damaged, RunError: as `work`.
        """
        stage = self._prefix + stage
        started = time.perf_counter()
        if os.getpid() != self._owner:
            raise RunError(f"{self.folder} was opened by another process; {OPEN_AGAIN}")
        for _ in range(2):
            tape = self.tape(stage, shard)
            teacher = ReplayTeacher(self.meter, tape, report)
            try:
                with self.meter.stage(stage), torch.no_grad():
                    tensors, facts = work(teacher, rows, shard)
                break
            except Drifted:
                self.drifted(tape)
            finally:
                tape.close()
        else:
            raise Damaged(changing(tape.path))
        facts = facts_of(started, tape, teacher, facts)
        digest = write_shard(self.folder / f"{stage}/{shard:05}.safetensors", tensors)
        self.book(stage, shard, rows, digest, facts, tape.path)

    def drifted(self, tape: Tape) -> None:
        """Give up what a tape recorded, as its questions are asked otherwise now."""
        _log.warning(
            "%s was begun where numbers are rounded differently; its %s answers cannot be"
            " used and stay on the books as lost",
            tape.path,
            f"{tape.booked:,}",
        )
        tape.discard()

    def book(
        self, stage: str, shard: int, rows: Tensor, digest: str, facts: Json, tape: Path
    ) -> None:
        """Put a shard that is written on the books; `stage` is its name there."""
        self.journal.append(
            "shard",
            stage=stage,
            shard=shard,
            samples=len(rows),
            file=f"{stage}/{shard:05}.safetensors",
            sha256=digest,
            **facts,
        )
        self._forget_tapes()
        self._done_with.append(tape)

    def _forget_tapes(self) -> None:
        """Remove the tapes of finished shards, one line later: a power cut can take the last."""
        while self._done_with:
            with suppress(OSError):  # Windows: somebody reads it; the next opening removes it
                self._done_with.pop().unlink(missing_ok=True)

    def tape(self, stage: str, shard: int) -> Tape:
        """The tape of a shard; the journal hears how much is allowed to be asked."""

        def allow(bound: int) -> None:
            self.allow(stage, shard, bound)

        return Tape(
            tape_of(self.folder / stage, shard),
            classes=self.meter.classes,
            allowed=self.journal.bounds.get((stage, shard), 0),
            allow=allow,
        )

    def allow(self, stage: str, shard: int, bound: int) -> None:
        """Make it last that a shard may ask so much in all; `stage` is its name on the books."""
        self.journal.append("tape", stage=stage, shard=shard, bound=bound)

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

    def agree(self, stage: str, configuration: Json) -> None:
        """Record the configuration of a stage, or insist on the recorded one.

        Raises:
            ConfigurationDiffers: another one is recorded; the text shows each difference.
        """
        recorded = self.configuration(stage)
        if not recorded:
            self.journal.append("stage", stage=self._prefix + stage, configuration=configuration)
            return
        wanted = in_todays_words(stage, json.loads(json.dumps(configuration)))
        differing = differences(recorded, wanted)
        if differing:
            raise ConfigurationDiffers(
                f"{self.folder} was made with other settings ({'; '.join(differing)}); use them, or"
                " another folder"
            )

    def configuration(self, stage: str) -> Json:
        """What `agree` recorded, in today's words; empty if the stage has not begun."""
        return configurations(self.journal).get(self._prefix + stage, {})

    def done(self, stage: str) -> Mapping[int, Json]:
        """The records of the finished shards of a stage, by number, as they are at any moment."""
        return finished(self.journal, self._prefix + stage)
