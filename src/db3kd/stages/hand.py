"""What a worker does: it helps the run of another process, a shard at a time.

A worker is a run that was opened in the middle. It opens the recipe's images and teacher itself,
does what the run does, and so comes to the very work that the run is at. There it does
the shards that it is told to, on tapes that it is lent. It notes nothing: the process that holds
the folder keeps the books.
"""

import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from db3kd.errors import Db3kdError, InputError, RunError, described
from db3kd.stages.executor import Executor, Part, Tell, Work
from db3kd.stages.recovery import WORD
from db3kd.stages.taped import ReplayTeacher, facts_of
from db3kd.stages.through_leader import ThroughLeader
from db3kd.stages.versions import versions
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json, write_atomically
from db3kd.storage.shards import write_shard
from db3kd.storage.tape import Drifted, Fenced, Tape


@dataclass(frozen=True)
class Begin:
    """Do a shard; `task` numbers the calls of `Executor.do`."""

    task: int
    stage: str  # on the books
    shard: int
    tape: Path
    draft: Path
    bound: int  # what the tape may ask in all


@dataclass(frozen=True)
class Train:
    """Train a student of the recipe."""

    name: str
    seed: int


@dataclass(frozen=True)
class Grant:
    """So much may be asked in all."""

    bound: int


@dataclass(frozen=True)
class Go:
    """Go on, and tell how far you are."""


@dataclass(frozen=True)
class Stop:
    """Stop before the next question."""


@dataclass(frozen=True)
class Answer:
    """What the teacher says of the images of `Ask`."""

    classes: Tensor


Order: TypeAlias = Begin | Train | Grant | Go | Stop | Answer


@dataclass(frozen=True)
class Alive:
    """At work; so many answers were used."""

    used: int


@dataclass(frozen=True)
class Need:
    """The next question needs a bound of `least`; `most` would save asking again soon."""

    least: int
    most: int


@dataclass(frozen=True)
class Ask:
    """Images for a teacher that the leading process asks; leave for them was granted."""

    images: Tensor


@dataclass(frozen=True)
class Done:
    """The shard is written, under the name of its draft."""

    sha256: str
    facts: Json


@dataclass(frozen=True)
class Trained:
    """The student's file is written; what the books are to say of it, unless it was there."""

    record: Json | None


@dataclass(frozen=True)
class Stopped:
    """The tape is closed, and the shard is not done; `drifted`: its questions are others now."""

    drifted: bool = False


@dataclass(frozen=True)
class Failed:
    """It cannot go on: an error of db3kd by its `kind`, or any other one."""

    kind: str
    text: str


Event: TypeAlias = Alive | Need | Ask | Done | Trained | Stopped | Failed


@dataclass(frozen=True)
class Helper:
    """A run as a worker has it: `follow` does what the run does to come to a stage.

    - `train`: trains a student of the recipe, by name and seed.
    - `led`: its teacher, if the leading process asks it.
    """

    workspace: Workspace
    follow: Callable[[str], None]
    train: Callable[[str, int], None]
    led: ThroughLeader | None = None


Opener = Callable[[Executor], AbstractContextManager[Helper]]
"""Opens images, teacher and folder of a run where the worker is."""


class Found(BaseException):
    """The work that the run is at; not an error, so nobody on the way may take it for one."""

    def __init__(self, workspace: Workspace, stage: str, parts: Sequence[Part], work: Work) -> None:
        super().__init__(stage)
        self.workspace, self.stage, self.work = workspace, workspace.named(stage), work
        self.parts = {part.shard: part for part in parts}

    def at(self, stage: str) -> dict[int, Part]:
        """The shards, if they are those of this stage."""
        return self.parts if self.stage == stage else {}


class Finder:
    """An executor that does nothing, but raises what it was to do."""

    apart = False

    def do(
        self, workspace: Any, stage: str, parts: Sequence[Part], work: Work, tell: Tell, apart: bool
    ) -> None:
        """Raise the work."""
        raise Found(workspace, stage, parts, work)

    def train(self, workspace: Any, students: Sequence[tuple[str, int]]) -> None:
        """A worker trains what it is told to."""

    def figures(self) -> dict[str, float]:
        """There is nothing to report."""
        return {}

    def close(self) -> None:
        """There is nothing to let go of."""


class _Halt(BaseException):
    """The worker was told to stop."""


@dataclass
class Hand:
    """A worker: told by `turn` what to do, it answers what became of it.

    - `start`: the current directory of the run.
    - `threads`: how many threads of torch it has; only where these are as many, numbers are rounded
      the same.
    - `beat`: seconds after which it answers that it goes on, if there is nothing else.
    """

    open_run: Opener
    start: Path
    threads: int
    beat: float
    _events: "queue.Queue[Event]" = field(default_factory=queue.Queue)
    _grants: "queue.Queue[int | None]" = field(default_factory=queue.Queue)
    _answers: "queue.Queue[Tensor | None]" = field(default_factory=queue.Queue)
    _orders: "queue.Queue[Begin | Train]" = field(default_factory=queue.Queue)
    _at_work: "threading.Thread | None" = None
    _halted: bool = False
    _used: int = 0
    _task: int = -1
    _found: "Found | None" = None

    def greet(self, folder: Path, word: str) -> dict[str, str]:
        """Open everything; returns what this worker computes with, and where it is.

        Its `word` is read in the folder and written into another file there, so that both sides
        know that they see the same folder.

        Raises:
            InputError: they do not.
            Db3kdError: images or teacher cannot be opened here.
        """
        where = f"{platform.node()}, process {os.getpid()}"
        try:
            os.chdir(self.start)
            told = (folder / f"{WORD}{word}").read_text()
        except OSError:
            raise InputError(
                f"the worker on {platform.node()} does not see {folder.absolute()}; put the folders"
                " of run, images and teacher where all machines have them under the same names"
            ) from None
        write_atomically(folder / f"{WORD}{word}-{told}", b"")
        opening = self.open_run(Finder())
        try:
            self._helper = opening.__enter__()
        except Db3kdError as error:
            raise type(error)(f"the worker on {platform.node()}: {error}") from None
        self._opening = opening  # for as long as this process lives
        if self._helper.led is not None:
            self._helper.led.ask = self._asked
        return {**versions(), "where": where}

    def turn(self, order: Order) -> Event:
        """Do what is told; returns what became of it, or that it goes on."""
        if isinstance(order, Begin | Train):
            self._halted, self._used = False, 0
            self._orders.put(order)
            if self._at_work is None:  # one for all shards: a thread of its own starts slowly
                self._at_work = threading.Thread(target=self._work, daemon=True)
                self._at_work.start()
        elif isinstance(order, Grant):
            self._grants.put(order.bound)
        elif isinstance(order, Answer):
            self._answers.put(order.classes)
        elif isinstance(order, Stop):
            self._halted = True
            self._grants.put(None)
            self._answers.put(None)
        try:
            return self._events.get(timeout=self.beat)
        except queue.Empty:
            return Alive(self._used)

    def _work(self) -> None:
        """Do one shard after another, or one student."""
        torch.set_num_threads(self.threads)
        while True:
            self._begin(self._orders.get())

    def _begin(self, order: Begin | Train) -> None:
        """Do a shard or a student, and tell what became of it."""
        for left in (self._grants, self._answers):
            while not left.empty():
                left.get()
        try:
            made = self._do(order) if isinstance(order, Begin) else self._train(order)
            self._events.put(made)
        except (_Halt, Fenced):
            self._events.put(Stopped())
        except Drifted:
            self._events.put(Stopped(drifted=True))
        except Db3kdError as error:
            self._events.put(Failed(type(error).__name__, str(error)))
        except BaseException as error:
            self._events.put(Failed("", described(error)))

    def _do(self, order: Begin) -> Done:
        found = self._find(order)
        part, meter = found.parts[order.shard], found.workspace.meter
        started = time.perf_counter()
        tape = Tape(
            order.tape,
            classes=meter.classes,
            allowed=order.bound,
            allow=lambda bound: self._allowed(bound, bound, tape),
            leased=True,
        )

        def lease(asked: int) -> None:
            least = tape.booked + asked
            self._allowed(least, max(least, 2 * tape.booked), tape)

        meter.lease = lease
        teacher = ReplayTeacher(meter, tape, self._report)
        try:
            with meter.stage(order.stage), torch.no_grad():
                tensors, facts = found.work(teacher, part.rows, part.shard)
        finally:
            meter.lease = None
            tape.close()
        facts = facts_of(started, tape, teacher, facts)
        return Done(write_shard(order.draft, tensors), facts)

    def _train(self, order: Train) -> Trained:
        workspace, notes = self._helper.workspace, list[Json]()
        workspace.notes, workspace.progress = notes, self._trains
        workspace.look_again()
        self._helper.train(order.name, order.seed)
        return Trained(notes[-1] if notes else None)

    def _trains(self, *_: object) -> None:
        if self._halted:
            raise _Halt

    def _find(self, order: Begin) -> Found:
        """The work that the run is at; kept for its other shards.

        Raises:
            RunError: the folder shows something else than to the process that holds it.
        """
        if self._task != order.task:
            self._helper.workspace.look_again()
            try:
                self._helper.follow(order.stage)
            except Found as work:
                self._found, self._task = work, order.task
        found = self._found
        if self._task != order.task or found is None or order.shard not in found.at(order.stage):
            raise RunError(
                f"the worker on {platform.node()} sees another state of"
                f" {self._helper.workspace.folder} than the process that holds it; use a file"
                " system that shows all machines the same"
            )
        return found

    def _allowed(self, least: int, most: int, tape: Tape) -> None:
        """Get leave to ask up to `least` in all; what more there is, is on its way to be used."""
        if least <= tape.allowed:
            return
        self._events.put(Need(least, most))
        bound = self._grants.get()
        if bound is None:
            raise _Halt
        tape.raise_to(bound)

    def _asked(self, images: Tensor) -> Tensor:
        """Have the leading process ask; returns its teacher's answers."""
        self._events.put(Ask(images))
        classes = self._answers.get()
        if classes is None:
            raise _Halt
        return classes

    def _report(self, used: int) -> None:
        self._used = used
        if self._halted:
            raise _Halt
