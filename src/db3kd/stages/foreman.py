"""The process that holds a folder leads workers: it lends them tapes, and alone keeps the books.

A worker asks for leave before it asks the teacher. The bound that it gets is in the journal, and
within the budget, before it hears of it. A worker that ends, or gives no sign, is not waited for:
its tape is taken back (`db3kd.storage.leases`), what it has asked is counted, and another worker
goes on there.
"""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from db3kd.errors import (
    BudgetExhausted,
    Damaged,
    RunError,
)
from db3kd.stages.crew import MOST_ENDS, Crew, Lost, News, Workers
from db3kd.stages.executor import InThisProcess, Part, Tell, Work
from db3kd.stages.hand import (
    Alive,
    Answer,
    Ask,
    Begin,
    Done,
    Failed,
    Go,
    Grant,
    Need,
    Stop,
    Stopped,
)
from db3kd.stages.taped import changing
from db3kd.stages.teaching import taught
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import rename, writing
from db3kd.storage.leases import lend, take_back, tape_of
from db3kd.storage.tape import Tape
from db3kd.teachers.parts import interrupts_wait

STOP_S = 20.0  # workers may take to stop at their next question


@dataclass
class _Lease:
    """A shard that a worker is at: its tape is `path`, and `booked` queries are set aside."""

    part: Part
    path: Path
    draft: Path
    begun: int  # what the tape had booked before
    booked: int
    heard: float
    used: int = 0
    need: Need | None = None
    question: Tensor | None = None  # images for a teacher that this process asks


@dataclass
class _Task:
    """The shards of one call of `Executor.do`."""

    workspace: Workspace
    stage: str  # on the books
    parts: list[Part]
    tight: bool = False  # a worker was refused: the budget is nearly spent
    behind: int = 0
    ends: Counter[int] = field(default_factory=Counter)
    drifts: Counter[int] = field(default_factory=Counter)


class Foreman:
    """An `Executor` whose shards are done by a crew.

    `patience`: seconds without a sign of a worker, after which its shard goes to another.
    """

    apart = True

    def __init__(self, crew: Crew, patience: float) -> None:
        self._workers = Workers(crew, patience)
        self._crew, self._free, self._where = crew, self._workers.free, self._workers.where
        self._leases: dict[str, _Lease] = {}
        self._tasks = self._lent = 0

    def figures(self) -> dict[str, float]:
        """How many workers there are."""
        return {"workers": float(len(self._free) + len(self._leases))}

    def do(
        self, workspace: Any, stage: str, parts: Sequence[Part], work: Work, tell: Tell, apart: bool
    ) -> None:
        """Have workers do these shards; a single one, or those of a chain, are done here."""
        self._workers.start(workspace)
        if not apart or len(parts) == 1:
            InThisProcess().do(workspace, stage, parts, work, tell, apart)
            return
        self._tasks += 1
        task = _Task(workspace, workspace.named(stage), sorted(parts, key=lambda p: p.shard))
        try:
            while task.parts or self._leases:
                with interrupts_wait():
                    self._assign(task)
                news = self._crew.news(0.5)
                with interrupts_wait():
                    self._take_in(task, news)
                self._ask(task)
                tell(task.behind + sum(min(x.used, x.part.most) for x in self._leases.values()))
        except BaseException:
            self._call_back(task)
            raise

    def train(self, workspace: Any, students: Sequence[tuple[str, int]]) -> None:
        """Have workers train students, each one at a time."""
        taught(self._workers, workspace, students)

    def close(self) -> None:
        """End all workers."""
        self._workers.close()

    # Leases

    def _assign(self, task: _Task) -> None:
        """Lend tapes to workers that have none."""
        for name in list(self._free):
            if not task.parts or (task.tight and self._leases):
                return
            part, workspace, self._lent = task.parts.pop(0), task.workspace, self._lent + 1
            folder = workspace.folder / task.stage
            tape = workspace.tape(task.stage, part.shard)
            path = lend(tape, self._workers.epoch, self._lent)
            draft = folder / f".{part.shard:05}.safetensors.{self._workers.epoch}-{self._lent}.part"
            del self._free[name]
            self._leases[name] = _Lease(
                part, path, draft, tape.booked, tape.booked, time.monotonic()
            )
            bound = workspace.journal.bounds.get((task.stage, part.shard), 0)
            order = Begin(self._tasks, task.stage, part.shard, path, draft, bound)
            self._crew.send(name, order)

    def _take_in(self, task: _Task, news: list[tuple[str, News]]) -> None:
        """Take in what workers say, and miss those that say nothing."""
        for name, event in news:
            lease = self._leases.get(name)
            if lease is None:  # it has started again, or failed to
                self._workers.again(task.workspace, name, event, MOST_ENDS)
                continue
            lease.heard = time.monotonic()
            if isinstance(event, Lost):
                self._lose(task, name, event.why)
            else:
                self._hear(task, name, lease, event)
        for name, lease in list(self._leases.items()):
            waits = lease.need is not None or lease.question is not None
            if not waits and time.monotonic() - lease.heard > self._workers.patience:
                self._lose(task, name, f"no sign for {self._workers.patience:g} seconds")
        self._answer_needs(task)
        self._workers.check_left(len(self._leases))

    def _hear(self, task: _Task, name: str, lease: _Lease, event: News) -> None:
        if isinstance(event, Alive):
            lease.used = event.used
            self._crew.send(name, Go())
        elif isinstance(event, Need):
            lease.need = event
        elif isinstance(event, Ask):
            lease.question = event.images
        elif isinstance(event, Done):
            self._accept(task, name, event)
        elif isinstance(event, Stopped):
            self._back(task, name)
            self._free[name] = self._where[name]
            if event.drifted:
                self._drift(task, lease.part.shard)
        elif isinstance(event, Failed):
            self._back(task, name)
            self._free[name] = self._where[name]
            self._workers.fail(name, event)

    def _accept(self, task: _Task, name: str, event: Done) -> None:
        """Put a shard on the books that was done on the lease that is current."""
        lease, workspace = self._leases.pop(name), task.workspace
        self._free[name] = self._where[name]
        shard = lease.part.shard
        path = lease.path.with_name(f"{shard:05}.safetensors")
        with writing(path):
            rename(lease.draft, path)
        rows = lease.part.rows
        workspace.book(task.stage, shard, rows, event.sha256, event.facts, lease.path)
        with workspace.meter.stage(task.stage):
            workspace.meter.book(event.facts["queries"] - lease.booked)
        task.behind += lease.part.most

    def _back(self, task: _Task, name: str) -> int:
        """Take a tape back and give what was set aside but not asked; returns what was asked."""
        lease, workspace = self._leases.pop(name), task.workspace
        take_back(lease.path)
        shard = lease.part.shard
        tape = Tape(
            tape_of(workspace.folder / task.stage, shard),
            classes=workspace.meter.classes,
            read_only=True,
            allowed=workspace.journal.bounds.get((task.stage, shard), 0),
        )
        with workspace.meter.stage(task.stage):
            workspace.meter.book(tape.booked - lease.booked)
        task.parts = sorted([*task.parts, lease.part], key=lambda part: part.shard)
        return tape.booked

    def _lose(self, task: _Task, name: str, why: str) -> None:
        """Have another worker go on where one ended.

        Raises:
            RunError: too many have ended at this shard.
        """
        lease = self._leases[name]
        shard = lease.part.shard
        got_on = self._back(task, name) > lease.begun
        task.ends[shard] = 1 if got_on else task.ends[shard] + 1
        self._workers.gone(name, why, f"shard {shard} of {task.stage}")
        if task.ends[shard] > MOST_ENDS:
            raise RunError(
                f"{task.ends[shard]} workers one after the other have ended at shard {shard} of"
                f" {task.stage}, without a single answer; give each more memory, or take fewer"
            )

    def _drift(self, task: _Task, shard: int) -> None:
        tape = task.workspace.tape(task.stage, shard)
        task.drifts[shard] += 1
        if task.drifts[shard] > 1:
            tape.close()
            raise Damaged(changing(tape.path))
        task.workspace.drifted(tape)

    # Questions of workers that may not ask the teacher themselves

    def _ask(self, task: _Task) -> None:
        """Ask for the workers that wait, for all at once: so the teacher's limits hold over all.

        Raises:
            BudgetExhausted, TeacherError: from the teacher; what was answered is in its store.
        """
        waiting = {n: lease for n, lease in self._leases.items() if lease.question is not None}
        questions = [lease.question for lease in waiting.values() if lease.question is not None]
        if not questions:
            return
        with task.workspace.meter.stage(task.stage):
            classes = task.workspace.meter.leased(torch.cat(questions))
        with interrupts_wait():
            parts = torch.split(classes, [len(images) for images in questions])
            for (name, lease), part in zip(waiting.items(), parts, strict=True):
                lease.question = None
                self._crew.send(name, Answer(part.clone()))
            for lease in self._leases.values():  # nobody listened to the others meanwhile
                lease.heard = time.monotonic()

    # Budgets

    def _answer_needs(self, task: _Task) -> None:
        """Grant what the budget has; where all wait, the last ones give theirs back.

        Raises:
            BudgetExhausted: there is only one left, and it needs more than there is.
        """
        waiting = {name: lease for name, lease in self._leases.items() if lease.need is not None}
        for name, lease in waiting.items():
            if lease.need is not None and self._grant(task, name, lease, lease.need):
                lease.need = None
            else:
                task.tight = True
        held = {name: lease for name, lease in waiting.items() if lease.need is not None}
        if not held or len(held) < len(self._leases):
            return
        if len(held) > 1:
            name = max(held, key=lambda name: held[name].part.shard)
            held[name].need = None
            held[name].heard = time.monotonic()
            self._crew.send(name, Stop())
            return
        [(name, lease)] = held.items()
        assert lease.need is not None
        with task.workspace.meter.stage(task.stage):
            task.workspace.meter.check(lease.need.least - lease.booked)

    def _grant(self, task: _Task, name: str, lease: _Lease, need: Need) -> bool:
        """Give leave within the budget, once it is in the journal; whether there was room."""
        meter, shard = task.workspace.meter, lease.part.shard
        for bound in (need.most, need.least):
            more = max(0, bound - lease.booked)
            with meter.stage(task.stage), suppress(BudgetExhausted):
                meter.check(more)
                if meter.ledger is None:  # else the teacher's own books say what was asked
                    task.workspace.allow(task.stage, shard, bound)
                meter.book(more)
                lease.booked += more
                lease.heard = time.monotonic()
                self._crew.send(name, Grant(bound))
                return True
        return False

    # The end

    def _call_back(self, task: _Task) -> None:
        """Have all workers stop at their next question; what each has is kept."""
        until = time.monotonic() + STOP_S
        if task.workspace.meter.ledger is None:  # else they have not been sent, and cost nothing
            with suppress(Exception):
                self._ask(task)
        for name, lease in self._leases.items():
            lease.need = lease.question = None
            with suppress(Exception):
                self._crew.send(name, Stop())
        with suppress(Exception):
            while self._leases and time.monotonic() < until:
                for name, event in self._crew.news(0.5):
                    if name not in self._leases:
                        continue
                    if isinstance(event, Done):
                        self._accept(task, name, event)
                    elif isinstance(event, Alive | Need | Ask):
                        self._crew.send(name, Stop())
                    else:
                        self._back(task, name)
                        self._free[name] = self._where[name]
        for name in list(self._leases):
            with suppress(Exception):
                self._back(task, name)
                self._crew.replace(name)
