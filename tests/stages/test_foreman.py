"""Workers do what one process does: the same shards, within the budget, and nothing twice.

The workers are those of `db3kd.stages.hand`, as an engine runs them, but in threads.
"""

import pickle
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from db3kd.config.cluster import Cluster
from db3kd.config.settings import Budget, Grow, Search, Training
from db3kd.data import TensorImages
from db3kd.errors import BudgetExhausted, InputError, TeacherError
from db3kd.run import Run
from db3kd.stages import crew as crew_module
from db3kd.stages import ray_crew
from db3kd.stages.accounts import status
from db3kd.stages.crew import Crew, Lost, News, Ready
from db3kd.stages.executor import Executor
from db3kd.stages.foreman import Foreman
from db3kd.stages.hand import Failed, Hand, Helper, Order, Train
from db3kd.stages.students import Untrained
from db3kd.stages.through_leader import Described, ThroughLeader
from db3kd.stages.workspace import Workspace
from db3kd.student.networks import build
from db3kd.teachers.base import Teacher
from db3kd.teachers.cached import CachedTeacher, Store
from db3kd.teachers.noisy import Voting

SEARCH = Search(
    strategy="rows", queries=16, probes=6, references=2, shard=3, checkpoints=(), metric="mbd"
)
GROW = Grow(per_image=9, shard=12, rounds=2, choose="random")
SEED = 3


def pictures() -> TensorImages:
    return TensorImages(torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)))


@dataclass
class Counted:
    """Three classes by mean brightness; counts all that it is shown, over all threads."""

    classes: int = 3
    bounds: tuple[float, float] = (0.0, 1.0)
    asked: list[int] = field(default_factory=list)
    before: Callable[[int], None] = lambda asked: None

    def labels(self, images: Tensor) -> Tensor:
        self.before(len(images))
        self.asked.append(len(images))
        return (images.flatten(1).mean(1) - 0.4).mul(15).long().clamp(0, 2)

    @property
    def total(self) -> int:
        return sum(self.asked)


@contextmanager
def helping(folder: Path, teacher: Teacher, executor: Executor) -> Iterator[Helper]:
    workspace = Workspace.followed(
        folder, teacher, seed=SEED, device="cpu", parts={}, executor=executor
    )

    def follow(stage: str) -> None:
        run = Run.within(workspace)
        calls = {
            "distances": partial(run.measure, search=SEARCH),
            "grow": partial(run.grow, settings=GROW),
        }
        calls.get(stage, run.answers)(pictures())

    def train(name: str, seed: int) -> None:
        for student in untrained(Run.within(workspace), (seed,)):
            Run.within(workspace).distill(
                student.network, student.transfer, student.training, seed=seed, name=name
            )

    yield Helper(workspace, follow, train)


def untrained(run: Run, seeds: Sequence[int] = (0, 1, 2)) -> Iterator[Untrained]:
    """Students of the answers, before their training."""
    for seed in seeds:
        network = build("small", (1, 8, 8), 3, seed=seed)
        transfer = run.transfer_set(pictures(), "ce")
        yield Untrained(network, transfer, Training(steps=30, batch=4), seed, "ce")


def taught(run: Run) -> list[dict[str, Tensor]]:
    """The students' weights, as the run has them in the end."""
    run.answers(pictures())
    run.train_elsewhere(untrained(run))
    return [
        run.distill(s.network, s.transfer, s.training, seed=s.seed, name=s.name).state_dict()
        for s in untrained(run)
    ]


@dataclass
class Threads:
    """A crew whose workers are threads; one that is given up goes on as a ghost."""

    open_run: Callable[[Executor], object]
    count: int = 2
    hands: dict[str, Hand] = field(default_factory=dict)
    answers: "queue.Queue[tuple[str, Hand, News]]" = field(default_factory=queue.Queue)
    given_up: int = 0

    def start(self, folder: Path, word: str) -> Sequence[str]:
        self.greeting = (folder, word)
        names = [str(number) for number in range(self.count)]
        for name in names:
            self.hire(name)
        return names

    def hire(self, name: str) -> None:
        hand = self.hands[name] = Hand(self.open_run, Path.cwd(), torch.get_num_threads(), 0.2)  # type: ignore[arg-type]
        self._call(name, hand, lambda: Ready(hand.greet(*self.greeting)))

    def send(self, name: str, order: Order) -> None:
        hand = self.hands[name]
        self._call(name, hand, lambda: hand.turn(order))

    def _call(self, name: str, hand: Hand, what: Callable[[], News]) -> None:
        def answer() -> None:
            try:
                self.answers.put((name, hand, what()))
            except InputError as error:
                self.answers.put((name, hand, Failed("InputError", str(error))))

        threading.Thread(target=answer, daemon=True).start()

    def news(self, seconds: float) -> list[tuple[str, News]]:
        try:
            name, hand, found = self.answers.get(timeout=seconds)
        except queue.Empty:
            return []
        return [(name, found)] if self.hands.get(name) is hand else []

    def lose(self, name: str) -> None:
        """The foreman hears that a worker has ended; it has not."""
        self.given_up += 1
        self.answers.put((name, self.hands[name], Lost("no route to host")))

    def replace(self, name: str) -> None:
        self.hire(name)

    def close(self) -> None:
        self.hands.clear()


def shards(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


def led(folder: Path, teacher: Teacher, crew: Crew | None, budget: int | None = None) -> Run:
    executor = None if crew is None else Foreman(crew, patience=30.0)
    return Run(
        folder, teacher, budget=Budget(queries=budget), seed=SEED, executor=executor, progress=False
    )


def buy(run: Run) -> None:
    run.measure(pictures(), SEARCH)
    run.grow(pictures(), GROW)


@dataclass(frozen=True)
class Alone:
    shards: dict[str, bytes]
    asked: int


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder, teacher = tmp_path_factory.mktemp("alone"), Counted()
    with led(folder, teacher, None) as run:
        buy(run)
        assert run.meter.spent == teacher.total
    return Alone(shards(folder), teacher.total)


@pytest.mark.parametrize("count", [1, 3])
def test_the_same_as_alone(tmp_path: Path, alone: Alone, count: int) -> None:
    teacher = Counted()
    with led(tmp_path, teacher, Threads(partial(helping, tmp_path, teacher), count)) as run:
        buy(run)
        assert run.meter.spent == teacher.total == alone.asked
    assert shards(tmp_path) == alone.shards
    left = [
        path.name for path in tmp_path.rglob("*") if path.suffix in (".tape", ".fenced", ".part")
    ]
    assert left + [path.name for path in tmp_path.glob(".word*")] == []
    with led(tmp_path, teacher, None) as run:
        assert run.meter.spent == alone.asked


def test_a_budget_is_used_up_and_not_exceeded(tmp_path: Path, alone: Alone) -> None:
    teacher = Counted()
    for budget in (alone.asked // 5, alone.asked // 2, alone.asked - 1):
        crew = Threads(partial(helping, tmp_path, teacher), 3)
        with led(tmp_path, teacher, crew, budget) as run:
            with pytest.raises(BudgetExhausted):
                buy(run)
            assert run.meter.spent == teacher.total <= budget
            assert budget - teacher.total < 40  # the largest question here
    with led(tmp_path, teacher, None, alone.asked) as run:  # and goes on in one process
        buy(run)
    assert (teacher.total, shards(tmp_path)) == (alone.asked, alone.shards)


def test_a_ghost_changes_nothing(tmp_path: Path, alone: Alone) -> None:
    """A worker is given up as it asks, and comes back while another is at its shard."""
    teacher, crew = Counted(), Threads(partial(helping, tmp_path, Counted()))
    held, back = threading.Event(), threading.Event()

    def before(asked: int) -> None:
        name = next((n for n, hand in crew.hands.items() if hand._used > 40), None)
        if name is not None and not held.is_set() and threading.current_thread().daemon:
            held.set()
            crew.lose(name)
            crew.lose(next(n for n in crew.hands if n != name))
            back.wait(5.0)
        elif held.is_set() and not back.is_set() and len(teacher.asked) > count + 20:
            back.set()
        time.sleep(0.001)

    count = 30
    teacher.before = before
    crew.open_run = partial(helping, tmp_path, teacher)
    with led(tmp_path, teacher, crew) as run:
        buy(run)
        assert held.is_set()
        assert crew.given_up == 2
        back.set()
        time.sleep(0.2)
        assert teacher.total <= run.meter.spent <= teacher.total + 2 * 40
        spent = run.meter.spent
    assert shards(tmp_path) == alone.shards
    with led(tmp_path, teacher, None) as run:
        assert run.meter.spent == spent


def test_an_error_of_the_teacher_ends_the_run_and_keeps_what_was_bought(
    tmp_path: Path, alone: Alone
) -> None:
    teacher = Counted()

    def fail(asked: int) -> None:
        if teacher.total > 150:
            raise TeacherError("the model is gone")

    teacher.before = fail
    crew = Threads(partial(helping, tmp_path, teacher))
    with led(tmp_path, teacher, crew) as run, pytest.raises(TeacherError, match="is gone"):
        buy(run)
    teacher.before = lambda asked: None
    with led(tmp_path, teacher, None) as run:
        buy(run)
        assert teacher.total == alone.asked
        assert 0 <= run.meter.spent - alone.asked <= 2 * 40
    assert shards(tmp_path) == alone.shards


def test_workers_that_differ_are_refused_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Counted()
    crew = Threads(partial(helping, tmp_path, teacher))
    monkeypatch.setattr(crew_module, "versions", lambda: {"db3kd": "9.9"})
    text = r"the worker on .* has db3kd .*, but this process has 9.9; install the same everywhere"
    with led(tmp_path, teacher, crew) as run, pytest.raises(InputError, match=text):
        run.answers(pictures())
    assert teacher.total == 0


def test_workers_that_see_another_folder_are_refused(tmp_path: Path) -> None:
    teacher = Counted()
    other = tmp_path / "other"
    crew = Threads(partial(helping, tmp_path, teacher))
    start = crew.start
    crew.start = lambda folder, word: start(other, word)  # type: ignore[method-assign]
    text = f"does not see {re.escape(str(other))}; put the folders of run, images and teacher where"
    with led(tmp_path / "run", teacher, crew) as run, pytest.raises(InputError, match=text):
        run.answers(pictures())
    assert teacher.total == 0
    other.mkdir()

    def elsewhere(folder: Path, word: str) -> Sequence[str]:
        (other / f".word-{word}").write_text("another")
        return start(other, word)

    crew.start = elsewhere  # type: ignore[method-assign]
    with (
        led(tmp_path / "run", teacher, crew) as run,
        pytest.raises(InputError, match="sees another"),
    ):
        run.answers(pictures())
    assert teacher.total == 0


def test_without_ray_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_crew, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'engine = "ray" needs the package ray; .*install'):
        ray_crew.RayCrew(Cluster(engine="ray"), partial(helping, tmp_path, Counted()))


# Students


def students_of(run: Run) -> list[tuple[str, int]]:
    return [(r["name"], r["seed"]) for r in run.journal.all("student")]


def test_students_are_trained_by_workers_as_alone(tmp_path: Path) -> None:
    """By one worker: threads share random numbers and what traces networks; processes do not."""
    teacher = Counted()
    with led(tmp_path / "alone", teacher, None) as run:
        alone = taught(run)
    crew = Threads(partial(helping, tmp_path / "led", teacher), 1)
    with led(tmp_path / "led", teacher, crew) as run:
        run.answers(pictures())
        run.train_elsewhere(untrained(run))
        assert sorted(students_of(run)) == [("ce", 0), ("ce", 1), ("ce", 2)]
        asked = teacher.total
        found = taught(run)
        assert sorted(students_of(run)) == [("ce", 0), ("ce", 1), ("ce", 2)]  # none anew
        assert teacher.total == asked
    for mine, theirs in zip(found, alone, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    names = [p.name for p in sorted((tmp_path / "alone" / "students").iterdir())]
    assert [p.name for p in sorted((tmp_path / "led" / "students").iterdir())] == names
    records = list(run.journal.all("student"))
    assert all(r["losses"] and r["seconds"] > 0 for r in records)


def test_a_student_whose_worker_ends_is_trained_by_another(tmp_path: Path) -> None:
    teacher = Counted()
    crew = Threads(partial(helping, tmp_path / "led", teacher), 1)
    send, ended = crew.send, list[str]()

    def sent(name: str, order: Order) -> None:
        if isinstance(order, Train) and len(ended) < 2:
            ended.append(name)
            crew.answers.put((name, crew.hands[name], Lost("no route to host")))
            return
        send(name, order)

    crew.send = sent  # type: ignore[method-assign]
    with led(tmp_path / "led", teacher, crew) as run:
        run.answers(pictures())
        run.train_elsewhere(untrained(run))
        assert len(ended) == 2
        assert sorted(students_of(run)) == [("ce", 0), ("ce", 1), ("ce", 2)]


def test_what_a_student_lacks_is_told_by_the_leading_process(tmp_path: Path) -> None:
    teacher = Counted()

    @contextmanager
    def broken(folder: Path, executor: Executor) -> Iterator[Helper]:
        def train(name: str, seed: int) -> None:
            raise InputError(f"the network of {name} takes other images")

        with helping(folder, teacher, executor) as helper:
            yield replace(helper, train=train)

    crew = Threads(partial(broken, tmp_path / "led"), 2)
    with led(tmp_path / "led", teacher, crew) as run:
        run.answers(pictures())
        with pytest.raises(InputError, match="the network of ce takes other images"):
            run.train_elsewhere(untrained(run))


# Teachers that the leading process asks


@contextmanager
def helping_without_teacher(folder: Path, led: Described, executor: Executor) -> Iterator[Helper]:
    teacher = ThroughLeader(led)
    with helping(folder, teacher, executor) as helper:
        yield replace(helper, led=teacher)


@contextmanager
def owned(
    folder: Path, teacher: Counted, count: int = 3
) -> Iterator[tuple[CachedTeacher, Threads]]:
    """A teacher with a store, and workers that may not ask it."""
    with Store(folder / "answers.db3kd") as store:
        kept = CachedTeacher(teacher, store, "three greys")
        led = Described.of(kept, {})
        again = pickle.loads(pickle.dumps(led))  # as it travels
        assert again == led
        yield kept, Threads(partial(helping_without_teacher, folder / "run", again), 3)


def test_one_process_owns_the_store(tmp_path: Path) -> None:
    single, several = Counted(), Counted()
    with (
        Store(tmp_path / "alone.db3kd") as store,
        led(tmp_path / "alone", CachedTeacher(single, store, "three greys"), None) as run,
    ):
        buy(run)
        spent = run.meter.spent
    with owned(tmp_path, several) as (kept, crew), led(tmp_path / "run", kept, crew) as run:
        buy(run)
        assert run.meter.spent == spent
        assert kept.lost() == 0
    assert shards(tmp_path / "run") == shards(tmp_path / "alone")
    assert several.total == single.total  # each image is paid once, as by one process
    assert several.total < spent


def test_a_budget_holds_where_one_process_owns_the_store(tmp_path: Path, alone: Alone) -> None:
    teacher, spent = Counted(), 0
    for budget in (alone.asked // 3, alone.asked - 1, None):
        with (
            owned(tmp_path, teacher) as (kept, crew),
            led(tmp_path / "run", kept, crew, budget) as run,
        ):
            if budget is None:
                buy(run)
            else:
                with pytest.raises(BudgetExhausted):
                    buy(run)
                assert run.meter.spent <= budget
            spent = run.meter.spent
    assert spent == alone.asked
    with owned(tmp_path, teacher) as (kept, _), led(tmp_path / "run", kept, None) as run:
        assert run.meter.spent == spent
        asked = teacher.total
        buy(run)
        assert (run.meter.spent, teacher.total) == (spent, asked)


def test_a_lost_worker_costs_nothing_where_one_process_owns_the_store(tmp_path: Path) -> None:
    teacher = Counted()
    with owned(tmp_path, teacher) as (kept, crew):

        def before(asked: int) -> None:
            name = next((n for n, hand in crew.hands.items() if hand._used > 40), None)
            if name is not None and crew.given_up < 3:
                crew.lose(name)

        teacher.before = before
        with led(tmp_path / "run", kept, crew) as run:
            buy(run)
            assert crew.given_up == 3
            assert status(tmp_path / "run")["queries"]["lost"] == 0
            spent = run.meter.spent
    alone = Counted()
    with (
        Store(tmp_path / "alone.db3kd") as store,
        led(tmp_path / "alone", CachedTeacher(alone, store, "three greys"), None) as run,
    ):
        buy(run)
        assert run.meter.spent == spent
    assert shards(tmp_path / "run") == shards(tmp_path / "alone")
    assert alone.total == teacher.total


def test_votes_are_counted_once_for_all_workers(tmp_path: Path) -> None:
    """Without a store the worker's tape has the claim; the vote is the leading process's."""
    single, several = Counted(), Counted()

    def votes(teacher: Counted) -> Voting:
        return Voting(teacher, most=5, margin=3, again=lambda number: teacher)

    with led(tmp_path / "alone", votes(single), None) as run:
        buy(run)
        spent = run.meter.spent
    vote = votes(several)
    crew = Threads(partial(helping_without_teacher, tmp_path / "run", Described.of(vote, {})), 2)
    with led(tmp_path / "run", vote, crew) as run:
        buy(run)
        assert run.meter.spent == spent
    assert shards(tmp_path / "run") == shards(tmp_path / "alone")
    assert several.total == single.total > spent
