"""A small world in which processes die between any two steps; see `test_flights.py`.

Real runs, tapes, journals and stores work in threads of one process, one at a time. Each write,
each transaction and each thing that the teacher does is a step. Before a step another process may
go on, or the one at work may be killed: it does nothing more from then on, and a write may be half
done. What the teacher was shown is on a list of its own, which is the judge.
"""

import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import db3kd.stages.workspace
import db3kd.storage.journal
import db3kd.storage.shards
import db3kd.storage.tape
import db3kd.teachers.cached.cached
import db3kd.teachers.cached.store
from db3kd.config.remote import Price
from db3kd.config.settings import Budget
from db3kd.errors import TeacherError
from db3kd.progress import silent
from db3kd.stages.accounts import status
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.storage.journal import Journal
from db3kd.storage.tape import Question, Tape
from db3kd.teachers.base import Teacher
from db3kd.teachers.cached import Account, CachedTeacher, Purse, Store
from db3kd.teachers.parts import Keeper, ask_part

CLASSES = 5
PART = 2  # images in a call
LANES = 2  # calls at once
SAMPLES, SHARD = 5, 3


class Killed(BaseException):
    """The process is gone."""


def picture(number: int) -> Tensor:
    return torch.tensor([number / 1024]).reshape(1, 1, 1)


def truth(number: int) -> int:
    return (number * 7 + 3) % CLASSES


def plan(rows: list[int], ask: Callable[[list[int]], list[int]]) -> list[int]:
    """The questions of a shard: the second and third follow from the answers before."""
    first = ask([10 + row for row in rows])
    second = ask([100 + 10 * row + answer for row, answer in zip(rows, first, strict=True)])
    third = ask([200 + sum(second), 201 + sum(first), 200 + sum(second)])
    return [*first, *second, *third]


@dataclass(frozen=True)
class Kind:
    """What a history is about."""

    store: bool
    money: bool = False
    a_day: int | None = None  # calls


@dataclass
class Process:
    """A process that works in one run, as a thread that goes on when it is told to."""

    number: int
    run: Path
    dead: bool = False
    turn: threading.Event = field(default_factory=threading.Event)
    over: bool = False
    end: BaseException | None = None
    flying: set[Any] = field(default_factory=set)


class World:
    """Everything that outlives a process, and the hand that decides who goes on."""

    def __init__(self, folder: Path, kind: Kind, draw: random.Random) -> None:
        self.folder, self.kind, self.draw = folder, kind, draw
        self.shown: list[tuple[str, int]] = []  # which run's process showed which number
        self.calls_today = 0
        self.here: Process | None = None
        self.back = threading.Event()
        self.kills_left = 0
        self.kills: Counter[str] = Counter()
        self.allowance: Counter[str] = Counter()
        self.lock = threading.local()

    # Steps

    def step(self, what: str) -> None:
        """Before something happens: another may go on first, or this process is killed."""
        process = self.current
        if process is None:
            return
        if process.dead:
            raise Killed
        if self.draw.random() < 0.15:
            self._yield(process)
        if process.dead:
            raise Killed
        if self.kills_left and self.draw.random() < 0.02:
            self.kill(process, what)
            raise Killed

    def kill(self, process: Process, what: str) -> None:
        """It does nothing more; what it had on its way may have been paid."""
        self.kills_left -= 1
        self.kills[what.split()[0]] += 1
        self.allowance[process.run.name] += len(process.flying)
        process.dead = True

    @property
    def current(self) -> Process | None:
        found: Process | None = getattr(self.lock, "process", None)
        return found

    def _yield(self, process: Process) -> None:
        process.turn.clear()
        self.back.set()
        process.turn.wait()

    def rest(self) -> None:
        """A process that waits for others lets them go on."""
        process = self.current
        assert process is not None
        self._yield(process)
        self.step("wait")

    # The teacher

    def classify(self, numbers: list[int]) -> list[int]:
        process = self.current
        assert process is not None
        if process.dead:
            raise Killed
        self.shown += [(process.run.name, number) for number in numbers]
        return [truth(number) for number in numbers]

    def allowed(self) -> None:
        if self.kind.a_day is not None and self.calls_today >= self.kind.a_day:
            raise TeacherError("the calls of today are used up")

    def run_all(self, processes: list[Process], work: Callable[[Process], None]) -> None:
        """Let processes go on in turns until all have ended."""

        def live(process: Process) -> None:
            self.lock.process = process
            process.turn.wait()
            try:
                work(process)
            except BaseException as error:
                process.end = error
            process.over = True
            self.back.set()

        threads = [threading.Thread(target=live, args=(p,), daemon=True) for p in processes]
        for thread in threads:
            thread.start()
        while left := [process for process in processes if not process.over]:
            self.back.clear()
            self.draw.choice(left).turn.set()
            self.back.wait()
        for thread in threads:
            thread.join()


class Remote:
    """A teacher behind a line: calls of `PART` images, `LANES` at once."""

    classes, bounds = CLASSES, (0.0, 1.0)

    def __init__(self, world: World) -> None:
        self.world = world

    def labels(self, images: Tensor, /) -> Tensor:
        raise NotImplementedError

    def answer(self, images: Tensor, keeper: Keeper, /) -> None:
        numbers = numbers_of(images)
        parts = [range(at, min(at + PART, len(numbers))) for at in range(0, len(numbers), PART)]
        for lane in range(0, len(parts), LANES):
            sent, error = [], None
            for part in parts[lane : lane + LANES]:
                self.world.step("limit")
                try:
                    self.world.allowed()
                except TeacherError as found:  # what is on its way comes home first
                    error = found
                    break
                rows = keeper.claim(part)
                if len(rows):
                    self.world.calls_today += 1
                    sent.append((rows, [numbers[row] for row in rows]))
            self.world.draw.shuffle(sent)
            for rows, shown in sent:
                self.world.step("send")
                answers = self.world.classify(shown)
                self.world.step("reply")
                keeper.settle(rows, answers)
            if error is not None:
                raise error


def numbers_of(images: Tensor) -> list[int]:
    return [round(value) for value in (images.flatten() * 1024).tolist()]


class Local:
    """A teacher on this machine, asked `PART` images at a time."""

    classes, bounds = CLASSES, (0.0, 1.0)

    def __init__(self, world: World) -> None:
        self.world = world

    def labels(self, images: Tensor, /) -> Tensor:
        self.world.step("ask")
        answers = self.world.classify(numbers_of(images))
        self.world.step("answer")
        return torch.tensor(answers)

    def answer(self, images: Tensor, keeper: Keeper, /) -> None:
        for at in range(0, len(images), PART):
            ask_part(self, images, range(at, min(at + PART, len(images))), keeper)


# Real files, with steps between what is done to them


@contextmanager
def stepping(world: World) -> Iterator[None]:  # noqa: C901
    """Put steps into the code that writes."""
    patch = pytest.MonkeyPatch()
    tape, store = db3kd.storage.tape, db3kd.teachers.cached.store
    write_at, transaction = tape._write_at, store.transaction
    write_whole = db3kd.storage.shards.write_atomically
    append, close_tape, close_store = Journal.append, Tape.close, Store.close
    claim_rows, settle_rows = Question.claim, Question.settle
    claim_keys, settle_keys = Store.claim, Store.settle

    def half(content: bytes) -> bytes:
        return content[: world.draw.randrange(len(content) + 1)]

    def torn(what: str, content: bytes, write: Callable[[bytes], Any]) -> None:
        process = world.current
        try:
            world.step(what)
        except Killed:
            if process is not None and not getattr(process, "torn", False):
                process.torn = True  # type: ignore[attr-defined]
                write(half(content))
            raise

    def stepped_write(descriptor: int, content: bytes, place: int) -> int:
        if place:  # the head is smaller than anything that a kill can tear
            torn("tape", content, lambda some: write_at(descriptor, some, place))
        else:
            world.step("head")
        return write_at(descriptor, content, place)

    @contextmanager
    def stepped_transaction(connection: Any, *, sync: bool = True) -> Iterator[None]:
        world.step("transaction")
        with transaction(connection, sync=sync):
            yield
        world.step("committed")

    def stepped_append(self: Journal, kind: str, **fields: Any) -> None:
        torn(
            "journal",
            b'{"kind": "shard", "sta\n{',
            lambda some: os.write(self._file.fileno(), some),
        )
        append(self, kind, **fields)
        world.step("appended")

    def stepped_whole(path: Path, content: bytes) -> None:
        draft = path.with_name(f".{path.name}.1.part")
        path.parent.mkdir(exist_ok=True)
        torn("shard", content, draft.write_bytes)
        write_whole(path, content)
        world.step("written")

    def gone(self: Any) -> bool:
        return world.current is not None and world.current.dead

    def dead_tape(self: Tape) -> None:
        self._release() if gone(self) else close_tape(self)

    def dead_store(self: Store) -> None:
        if not gone(self):
            close_store(self)
            return
        self._base.close()
        if self._owner_lock is not None:
            self._owner_lock._lock.release()

    # What is on its way: what may have been sent, and has no answer on the books.

    def flying() -> set[Any]:
        return set() if world.current is None else world.current.flying

    def claimed_rows(self: Question, rows: Any, /) -> Any:
        flying().update((id(self), row) for row in rows)
        mine = claim_rows(self, rows)
        flying().difference_update({(id(self), r) for r in rows} - {(id(self), r) for r in mine})
        return mine

    def settled_rows(self: Question, rows: Any, classes: Any, /, **more: Any) -> None:
        settle_rows(self, rows, classes, **more)
        flying().difference_update((id(self), row) for row in rows)

    def claimed_keys(self: Store, identity: str, keys: Any, *more: Any) -> list[int]:
        flying().update(keys)
        mine = claim_keys(self, identity, keys, *more)
        flying().difference_update(set(keys) - {keys[at] for at in mine})
        return mine

    def settled_keys(self: Store, identity: str, keys: Any, *args: Any, **more: Any) -> None:
        settle_keys(self, identity, keys, *args, **more)
        flying().difference_update(keys)

    patch.setattr(Question, "claim", claimed_rows)
    patch.setattr(Question, "settle", settled_rows)
    patch.setattr(Store, "claim", claimed_keys)
    patch.setattr(Store, "settle", settled_keys)
    patch.setattr(db3kd.teachers.cached.cached.time, "sleep", lambda seconds: world.rest())
    patch.setattr(tape, "_write_at", stepped_write)
    patch.setattr(store, "transaction", stepped_transaction)
    patch.setattr(db3kd.storage.shards, "write_atomically", stepped_whole)
    patch.setattr(Journal, "append", stepped_append)
    patch.setattr(Tape, "close", dead_tape)
    patch.setattr(Store, "close", dead_store)
    try:
        yield
    finally:
        patch.undo()


# A history


def asked_by(rows: list[int]) -> tuple[list[int], list[int]]:
    """Which numbers a shard asks for, in order, and what it keeps."""
    asked: list[int] = []

    def ask(numbers: list[int]) -> list[int]:
        asked.extend(numbers)
        return [truth(number) for number in numbers]

    return asked, plan(rows, ask)


SHARDS = [list(range(at, min(at + SHARD, SAMPLES))) for at in range(0, SAMPLES, SHARD)]
PLAN = sum(len(asked_by(rows)[0]) for rows in SHARDS)
DISTINCT = len({number for rows in SHARDS for number in asked_by(rows)[0]})
KEPT = [asked_by(rows)[1] for rows in SHARDS]


def live(world: World, process: Process) -> None:
    """Open the run and do what is left of it, as a command does."""
    name, kind, more = process.run.name, world.kind, world.allowance[process.run.name]
    teacher: Any = Local(world)
    store = None
    try:
        if kind.store:
            store = Store(world.folder / "answers.db3kd")
            purse = Purse(Price(per_1000=1.0), DISTINCT + more) if kind.money else None
            teacher = CachedTeacher(Remote(world), store, "remote", account=Account(name, purse))
        workspace = Workspace(
            process.run,
            teacher,
            Budget(queries=PLAN + more),
            seed=0,
            device="cpu",
            configuration={},
            redo_damaged=False,
            progress=silent,
        )
        try:

            def work(asking: Teacher, rows: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
                def ask(numbers: list[int]) -> list[int]:
                    return asking.labels(torch.stack([picture(n) for n in numbers])).tolist()

                return {"own": torch.tensor(plan(rows.tolist(), ask))}, {}

            if not workspace.configuration("answers"):
                workspace.agree("answers", {"samples": SAMPLES})
            workspace.work("answers", SAMPLES, SHARD, 5, work)
        finally:
            workspace.close()
    finally:
        if store is not None:
            store.close()


def history(folder: Path, seed: int) -> Counter[str]:
    """One to four runs from their beginning to their end; what was killed where.

    Raises:
        AssertionError: a law does not hold.
    """
    draw = random.Random(seed)
    kind = draw.choice(KINDS)
    world = World(folder, kind, draw)
    world.kills_left = draw.randrange(6)
    runs = [folder / f"run{number}" for number in range(draw.randint(1, 4))]
    left = list(runs)
    with stepping(world):
        for _ in range(60):
            if not left:
                break
            processes = [Process(number, run) for number, run in enumerate(left)]
            world.run_all(processes, lambda process: live(world, process))
            for process in processes:
                if process.end is None:
                    left.remove(process.run)
                elif isinstance(process.end, TeacherError):
                    assert kind.a_day is not None, process.end
                elif not isinstance(process.end, Killed):
                    raise process.end
            world.calls_today = 0
            check_books(world, runs)
    assert not left, "it never ends"
    check_end(world, runs)
    return world.kills


KINDS = (
    Kind(store=False),
    Kind(store=True),
    Kind(store=True, money=True),
    Kind(store=True, money=True, a_day=4),
)


def check_books(world: World, runs: list[Path]) -> None:
    """What was really asked is on the books, and they are within the budget."""
    shown = Counter(name for name, _ in world.shown)
    store = Store(world.folder / "answers.db3kd") if world.kind.store else None
    for run in runs:
        if (
            not (run / "journal.jsonl").exists()
            or b'"opened"' not in (run / "journal.jsonl").read_bytes()
        ):
            assert not shown[run.name]
            continue
        queries = status(run)["queries"]
        if store is None:
            assert shown[run.name] <= queries["spent"] <= PLAN + world.allowance[run.name]
        if store is not None:
            books = [store.books(run=one) for one in {run.name, identity(run)}]
            paid = sum(b["answered"] + b["lost"] + b["in_flight"] + b["failed"] for b in books)
            assert shown[run.name] <= paid
            assert shown[run.name] <= PLAN + world.allowance[run.name]
            if world.kind.money:
                assert shown[run.name] <= DISTINCT + world.allowance[run.name]
    if store is not None:
        store.close()


def identity(run: Path) -> str:
    journal = Journal(run / "journal.jsonl", read_only=True)
    return str(next(journal.all("name"))["run"])


def check_end(world: World, runs: list[Path]) -> None:
    """All runs ended as if nothing had been, and nothing was paid twice but what was lost."""
    for run in runs:
        found = status(run)
        files = sorted((run / "answers").glob("*"))
        assert [file.name for file in files] == ["00000.safetensors", "00001.safetensors"]
        kept = [db3kd.storage.shards.safetensors.torch.load_file(f)["own"].tolist() for f in files]
        assert kept == KEPT
        queries = found["queries"]
        assert queries["spent"] - queries["lost"] == PLAN
        assert queries["lost"] <= world.allowance[run.name]
    times = Counter(number for _, number in world.shown)
    if world.kind.store:
        with Store(world.folder / "answers.db3kd") as store:
            store.bury()
            books = store.books()
        assert books["answered"] == len(times) == DISTINCT
        assert books["in_flight"] == 0
        assert DISTINCT <= len(world.shown) <= DISTINCT + books["lost"]
        assert books["lost"] <= world.allowance.total()


def histories(folder: Path, seeds: range) -> Counter[str]:
    """Many histories, each in a folder of its own; where the kills fell."""
    kills: Counter[str] = Counter()
    for seed in seeds:
        place = folder / str(seed)
        try:
            kills += history(place, seed)
        except BaseException as error:
            error.add_note(f"history {seed}")
            raise
        shutil.rmtree(place, ignore_errors=True)
    return kills
