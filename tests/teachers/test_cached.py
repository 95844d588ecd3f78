"""Answers are kept before they are used: nothing that was paid is asked again, whatever happens."""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_teachers import Conforms, linear_module
from torch import Tensor

from db3kd import teachers
from db3kd.config.remote import Price
from db3kd.config.settings import Budget
from db3kd.errors import (
    BudgetExhausted,
    Busy,
    Damaged,
    Db3kdError,
    InputError,
    MoneyExhausted,
    RunError,
)
from db3kd.errors import TeacherError as Failure
from db3kd.teachers.base import Teacher
from db3kd.teachers.cached import Account, CachedTeacher, Imported, Purse, Store, float_keys
from db3kd.teachers.meter import Meter
from db3kd.teachers.parts import InParts, Keeper

CLASSES = 7


def pictures(numbers: Sequence[int]) -> Tensor:
    """One image for each number, which it shows."""
    return (torch.tensor(numbers, dtype=torch.float32) / 4096).reshape(-1, 1, 1, 1)


def shown(images: Tensor) -> list[int]:
    return [round(value) for value in (images.flatten() * 4096).tolist()]


def truth(numbers: Sequence[int]) -> list[int]:
    return [number * number % CLASSES for number in numbers]


KEYS = float_keys(pictures(range(2000)))


class Logging:
    """A teacher that remembers what it was shown, and fails at some numbers."""

    classes, bounds = CLASSES, (0.0, 1.0)

    def __init__(self, fails_at: frozenset[int] = frozenset()) -> None:
        self.seen: list[int] = []
        self.calls: list[int] = []
        self.fails_at = fails_at

    def labels(self, images: Tensor, /) -> Tensor:
        numbers = shown(images)
        self.seen += numbers
        self.calls.append(len(numbers))
        if self.fails_at & set(numbers):
            raise Failure("the line is dead")
        return torch.tensor(truth(numbers), dtype=torch.int64)


class Parts(Logging):
    """The same, in parts of three, out of order, from four threads."""

    def answer(self, images: Tensor, keeper: Keeper) -> None:
        rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))

        def part(some: Tensor) -> None:
            mine = list(keeper.claim(some.tolist()))
            if not mine:
                return
            try:
                answers = self.labels(images[mine])
            except Failure:
                keeper.settle((), (), failed=mine)
                raise
            keeper.settle(mine, answers)

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(part, rows[at : at + 3]) for at in range(0, len(rows), 3)]
        for future in done:
            future.result()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.db3kd") as opened:
        yield opened


class TestCachedTeacher(Conforms):
    """Whatever holds for a teacher holds for a cached one."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Callable[[int], Teacher]:
        def made(batch: int) -> Teacher:
            net = teachers.torch_module(linear_module(), classes=3)
            file = Store(tmp_path / "answers.db3kd")
            return CachedTeacher(net, file, "linear", chunk=batch)

        return made

    def test_names_the_shape_of_images_that_do_not_fit(self, teacher: Teacher) -> None:
        with pytest.raises(Failure, match=r"1, 2, 4, 4"):  # of two equal ones, one is asked
            teacher.labels(torch.zeros(2, 2, 4, 4))


# What is asked


numbers = st.lists(st.integers(0, 40), max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    questions=st.lists(numbers, min_size=1, max_size=4),
    fails_at=st.frozensets(st.integers(0, 40), max_size=2),
    kind=st.sampled_from([Logging, Parts]),
    chunk=st.integers(1, 20),
)
def test_each_image_is_asked_until_it_is_answered_and_never_again(
    tmp_path_factory: pytest.TempPathFactory,
    questions: list[list[int]],
    fails_at: frozenset[int],
    kind: type[Logging],
    chunk: int,
) -> None:
    teacher = kind(fails_at)
    with Store(tmp_path_factory.mktemp("store") / "answers.db3kd") as store:
        cached = CachedTeacher(teacher, store, "squares", chunk=chunk)
        handed = 0
        for question in questions:
            before, seen = kept(store), len(teacher.seen)
            try:
                answers = cached.labels(pictures(question))
            except Failure:
                assert fails_at & set(question)
            else:
                assert answers.tolist() == truth(question)
                assert set(question) <= kept(store)
                handed += len(question) - len(teacher.seen[seen:])
            new = teacher.seen[seen:]
            assert len(new) == len(set(new))  # duplicates are asked once
            assert not set(new) & before
            assert set(new) <= set(question)
        books = store.books("squares")
        assert books["answered"] == len(kept(store))
        assert books["answered"] + books["failed"] == len(teacher.seen)
        assert (books["in_flight"], books["lost"], books["hits"]) == (0, 0, handed)


def kept(store: Store) -> set[int]:
    """Numbers whose answers are in the store; all of them are checked."""
    answers = store.known("squares", KEYS).tolist()
    found = [number for number in range(len(KEYS)) if answers[number] >= 0]
    assert truth(found) == [answers[number] for number in found]
    return set(found)


def test_answers_are_in_the_file_before_they_are_handed_out(store: Store) -> None:
    cached = CachedTeacher(Logging(), store, "squares", chunk=2)
    cached.labels(pictures(range(20)))
    with Store(store.path) as other:
        assert kept(other) == set(range(20))


def test_a_plain_teacher_is_asked_in_chunks_and_a_known_image_not_at_all(store: Store) -> None:
    teacher = Logging()
    cached = CachedTeacher(teacher, store, "squares", chunk=3)
    cached.labels(pictures([5, 6]))
    cached.labels(pictures([*range(12), 3, 3]))
    assert teacher.calls == [2, 3, 3, 3, 1]
    assert store.books()["hits"] == 4


def test_another_identity_is_another_teacher(store: Store) -> None:
    first, second = Logging(), Logging()
    CachedTeacher(first, store, "squares-v1").labels(pictures([1, 2]))
    CachedTeacher(second, store, "squares-v2").labels(pictures([1, 2]))
    assert first.seen == second.seen == [1, 2]
    assert store.identities() == ("squares-v1", "squares-v2")


def test_a_failing_part_costs_nothing_that_was_answered(store: Store) -> None:
    teacher = Parts(fails_at=frozenset([4]))
    with pytest.raises(Failure, match="dead"):
        CachedTeacher(teacher, store, "squares").labels(pictures(range(30)))
    assert store.books()["failed"] == 3
    assert len(kept(store)) == 27


def test_what_a_budget_refused_is_not_counted(store: Store) -> None:
    meter = Meter(Logging(), Budget(queries=5))
    with pytest.raises(BudgetExhausted):
        CachedTeacher(meter, store, "squares", chunk=4).labels(pictures(range(10)))
    books = store.books()
    assert (books["answered"], books["failed"], books["in_flight"]) == (0, 0, 0)


class Bad(Logging):
    """A teacher in parts that does as it is told."""

    def __init__(self, does: Callable[[Keeper], None]) -> None:
        super().__init__()
        self.does = does

    def answer(self, images: Tensor, keeper: Keeper) -> None:
        keeper.claim(range(3))
        self.does(keeper)


@pytest.mark.parametrize(
    ("does", "says", "lost"),
    [
        (lambda keeper: keeper.settle([0], [1]), "left 3 of 4", 2),
        (lambda keeper: keeper.settle([0], [CLASSES]), "class 7", 3),
        (lambda keeper: keeper.settle([0, 1], [1]), r"shape \(1,\)", 3),
        (lambda keeper: keeper.settle([4], [1]), "image 4 of 4", 3),
        (lambda keeper: keeper.settle([3], [1]), "image 3 of 4", 3),  # it was not claimed
        (lambda keeper: keeper.settle([1, 1], [1, 1]), "image 1 of 4 twice", 3),
        (lambda keeper: keeper.settle((), (), failed=[1]), "left 4 of 4", 2),
    ],
)
def test_a_teacher_that_settles_nonsense(
    store: Store, does: Callable[[Keeper], None], says: str, lost: int
) -> None:
    teacher = Bad(does)
    assert isinstance(teacher, InParts)
    with pytest.raises(Failure, match=says):
        CachedTeacher(teacher, store, "squares").labels(pictures(range(4)))
    store.bury()  # what was claimed and not settled may have been answered
    assert store.books()["lost"] == lost
    assert store.books()["failed"] == (says == "left 4 of 4")
    assert store.books()["in_flight"] == 0


def test_keys_are_of_bytes_type_and_shape() -> None:
    images = torch.rand(2, 1, 4, 6)
    assert float_keys(images) == float_keys(images.clone())
    assert float_keys(images.transpose(2, 3)) == float_keys(images.transpose(2, 3).contiguous())
    every = [*float_keys(images), *float_keys(images.reshape(2, 1, 6, 4))]
    assert len(set(every)) == 4
    assert float_keys(images[:0]) == []


def test_a_key_function_that_is_wrong(store: Store) -> None:
    for key, says in ((lambda images: [b"k" * 32], "1 keys for 2"), (lambda i: [b"k"] * 2, "32")):
        with pytest.raises(InputError, match=says):
            CachedTeacher(Logging(), store, "squares", key=key).labels(pictures([1, 2]))
    with pytest.raises(InputError, match="at least 1"):
        CachedTeacher(Logging(), store, "squares", chunk=0)
    with pytest.raises(InputError, match="identity"):
        CachedTeacher(Logging(), store, "")


def test_threads_share_a_store(store: Store) -> None:
    cached = CachedTeacher(Parts(), store, "squares")
    with ThreadPoolExecutor(6) as pool:
        asked = [list(range(start, start + 60)) for start in range(0, 120, 10)]
        found = list(pool.map(lambda question: cached.labels(pictures(question)), asked))
    assert [answers.tolist() for answers in found] == [truth(question) for question in asked]
    assert store.books()["answered"] == len(cached._teacher.seen)  # type: ignore[attr-defined]


# The accounts


A, B, C = (letter.encode() * 32 for letter in "abc")


def test_what_was_claimed_and_never_settled_is_lost_once_its_owner_is_gone(store: Store) -> None:
    first = Account("first")
    with Store(store.path) as other:
        assert other.claim("squares", [A, B, C], first) == [0, 1, 2]
        other.settle("squares", [A], [3], first, failed=[B], retried=5)
        assert store.claim("squares", [A, B, C]) == [1]  # A has an answer, C is on its way
        assert store.waiting_for("squares", [A, B, C]) == [B, C]
        assert other.books("squares", run="first") == {
            "answered": 1,
            "failed": 1,
            "retried": 5,
            "lost": 0,
            "hits": 0,
            "imported": 0,
            "in_flight": 1,
        }
        assert sum(other.books("squares", run="second").values()) == 0
        assert sum(other.books("circles").values()) == 0
        store.settle("squares", [B], [1])
    assert store.waiting_for("squares", [C]) == []
    books = store.books("squares", run="first")
    assert (books["lost"], books["in_flight"]) == (1, 0)
    assert store.claim("squares", [C]) == [0]  # and is asked by another
    assert not list(store.path.parent.glob(f".*{store.path.name}*owner"))[1:]


def test_a_claim_that_could_not_be_settled_does_not_stay_on_its_way_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Logging()
    cached = CachedTeacher(teacher, store, "squares")
    with monkeypatch.context() as patch:
        patch.setattr(store, "settle", lambda *args, **more: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cached.labels(pictures([1, 2]))
    store._active.clear()  # no question has them any more
    assert cached.labels(pictures([1, 2])).tolist() == truth([1, 2])
    assert store.books()["lost"] == 2
    assert teacher.seen == [1, 2, 1, 2]


def test_answers_that_came_and_could_not_be_kept_are_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were paid; calls that failed may be free."""

    def full(*_: object) -> None:
        raise RunError("the disk is full")

    teacher = Logging()
    cached = CachedTeacher(teacher, store, "squares")
    with monkeypatch.context() as patch:
        patch.setattr(store._blocks, "append", full)
        with pytest.raises(RunError):
            cached.labels(pictures([1, 2]))
    assert cached.lost() == 2
    assert cached.labels(pictures([1, 2])).tolist() == truth([1, 2])
    books = store.books()
    assert [books[name] for name in ("answered", "failed", "lost", "in_flight")] == [2, 0, 2, 0]


@pytest.mark.parametrize("when", ["claim", "settle"])
def test_an_interrupt_on_the_way_back_from_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    real = getattr(Store, when)

    def interrupted(*args: Any, **more: Any) -> None:
        real(*args, **more)
        raise KeyboardInterrupt

    teacher, images = Logging(), pictures(range(5))
    cached = CachedTeacher(teacher, store, "squares")
    with monkeypatch.context() as patch:
        patch.setattr(Store, when, interrupted)
        with pytest.raises(KeyboardInterrupt):
            cached.labels(images)
    assert cached.labels(images).tolist() == truth(range(5))
    assert len(teacher.seen) == 5
    books = store.books()
    assert (books["answered"], books["failed"], books["in_flight"]) == (5, 0, 0)


def test_a_purse_pays_for_claims_and_repeats_and_no_image_more(store: Store) -> None:
    each, images = Price(per_1000=10.0, failed=True), pictures(range(3))
    account = Account("first", Purse(each, most=4))
    assert store.claim("squares", float_keys(images), account) == [0, 1, 2]
    with pytest.raises(MoneyExhausted):
        store.settle("squares", (), (), account, retried=2)
    store.settle("squares", (), (), account, retried=1)
    for run in ("first", "check of first"):
        with pytest.raises(MoneyExhausted):
            store.claim("squares", [A], Account(run, account.purse))
    assert store.claim("squares", [A], Account("second", account.purse)) == [0]
    books = store.books(run="first")
    assert (books["in_flight"], books["retried"]) == (3, 1)


def test_the_books_of_a_run_get_the_name_of_the_run(store: Store, tmp_path: Path) -> None:
    place = str(tmp_path / "runs" / "a")
    for run in (place, f"check of {place}", str(tmp_path / "runs" / "b")):
        store.claim("squares", [A], Account(run))
        store.settle("squares", [A], [1], Account(run))
    cached = CachedTeacher(Logging(), store, "squares")
    cached.begin("4711", f"{tmp_path}/x/../runs/a", None)
    assert cached.account.run == "4711"
    assert set(store.runs()) == {"4711", "check of 4711", str(tmp_path / "runs" / "b")}
    assert (store.books("squares", run="4711")["answered"], cached.lost()) == (1, 0)
    cached.begin("4711", f"{tmp_path}/runs/a", 3)
    cached.labels(pictures([1, 2]))
    with pytest.raises(BudgetExhausted, match="3 are spent"):
        cached.labels(pictures([3]))
    assert cached.labels(pictures([1, 2])).tolist() == truth([1, 2])


@pytest.mark.parametrize(
    ("keys", "classes", "says"),
    [
        ([b"a" * 31], [1], "32 bytes"),
        ([A], [-1], "got -1"),
        ([A], [2**32], "got 4294967296"),
        ([A], [1, 2], "2 classes for 1 keys"),
    ],
)
def test_answers_that_do_not_fit(
    store: Store, keys: list[bytes], classes: list[int], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        store.settle("squares", keys, classes)
    with pytest.raises(InputError, match="identity"):
        store.claim("", [A])


def test_the_first_answer_stays(store: Store) -> None:
    with Store(store.path) as other:
        for one, number in ((store, 1), (other, 2), (store, 3)):
            one.settle("squares", [A], [number])
        assert store.known("squares", [A]).tolist() == [1]
        assert other.known("squares", [A]).tolist() == [1]
    assert store.books()["answered"] == 3  # all were paid


OLD = (
    "CREATE TABLE teachers (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE)",
    "CREATE TABLE answers (id INTEGER PRIMARY KEY, teacher INTEGER NOT NULL, at INTEGER NOT NULL,"
    " keys BLOB NOT NULL, classes BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE tickets (id INTEGER PRIMARY KEY AUTOINCREMENT, teacher INTEGER NOT NULL,"
    " run TEXT NOT NULL, at REAL NOT NULL, unsettled INTEGER NOT NULL)",
    "CREATE TABLE books (teacher INTEGER NOT NULL, run TEXT NOT NULL,"
    " answered INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,"
    " retried INTEGER NOT NULL DEFAULT 0, hits INTEGER NOT NULL DEFAULT 0,"
    " imported INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (teacher, run)) WITHOUT ROWID",
    "CREATE TABLE names (teacher INTEGER NOT NULL, class INTEGER NOT NULL, name TEXT NOT NULL,"
    " PRIMARY KEY (teacher, class)) WITHOUT ROWID",
    "INSERT INTO teachers VALUES (1, 'squares')",
    "INSERT INTO books VALUES (1, 'runs/a', 40, 1, 2, 3, 4)",
    "INSERT INTO tickets VALUES (9, 1, 'runs/a', 1.5, 5), (10, 1, 'runs/b', 2.5, 6)",
    "PRAGMA user_version=1",
    f"PRAGMA application_id={0x64623372}",
)


def test_a_store_of_version_1_goes_on_and_what_was_in_flight_is_lost(tmp_path: Path) -> None:
    path = foreign(tmp_path / "old.db3kd", *OLD)
    for _ in range(2):
        with Store(path) as store:
            assert store.books(run="runs/a") == {
                "answered": 40,
                "failed": 1,
                "retried": 2,
                "lost": 5,
                "hits": 3,
                "imported": 4,
                "in_flight": 0,
            }
            assert store.books("squares", run="runs/b")["lost"] == 6
            assert len(store.identity) == 32


def test_names_are_learned_in_one_order_by_all(store: Store) -> None:
    with Store(store.path) as other:
        assert store.learn("pets", ["cat"]) == ("cat",)
        assert other.learn("pets", ["dog", "cat"]) == ("cat", "dog")
        assert store.learn("pets", ["eel"]) == ("cat", "dog", "eel") == other.names("pets")
    assert store.names("cars") == ()


def test_nothing_but_the_file_name_is_in_the_repr(store: Store) -> None:
    assert repr(store) == f"Store({str(store.path)!r})"


# Tables


def test_an_export_comes_back_whole(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [rng.bytes(32) for _ in range(9000)]
    for first in range(0, 9000, 700):
        store.keep(
            "a",
            keys[first : first + 700],
            [number % 5 for number in range(first, first + len(keys[first : first + 700]))],
        )
    store.keep("b", keys[:3], [4, 4, 4])
    table = tmp_path / "answers.parquet"
    assert store.export(table) == 9003
    with Store(tmp_path / "other.db3kd") as other:
        assert other.import_table(table, "a", float_keys) == Imported(9000, 0, 0)
        assert other.import_table(table, "a", float_keys) == Imported(0, 9000, 0)
        assert torch.equal(other.known("a", keys), store.known("a", keys))
        assert other.books()["imported"] == 9000
        assert other.known("b", keys[:1]).tolist() == [-1]
        assert store.export(table, "b") == 3
        other.keep("b", keys[:1], [1])
        assert other.import_table(table, "b", float_keys) == Imported(2, 1, 1)
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_tables_without_their_extra_are_refused_in_one_sentence(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep("model", [b"k" * 32], [1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"^parquet files need the extra: .*parquet"):
        store.export(tmp_path / "answers.parquet")
    with pytest.raises(InputError, match=r"^parquet files need the extra: .*parquet"):
        store.import_table(tmp_path / "answers.parquet", "model", float_keys)
    assert list(tmp_path.glob("*.parquet*")) == []


def test_names_of_an_export_count_even_in_another_order(store: Store, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    store.learn("pets", ["cat", "dog"])
    store.keep("pets", [b"c" * 32, b"d" * 32], [0, 1])
    table = tmp_path / "answers.parquet"
    store.export(table)
    assert pq.read_table(table)["name"].to_pylist() == ["cat", "dog"]
    with Store(tmp_path / "other.db3kd") as other:
        other.learn("pets", ["dog"])
        other.import_table(table, "pets", float_keys)
        assert other.names("pets") == ("dog", "cat")
        assert other.known("pets", [b"c" * 32, b"d" * 32]).tolist() == [1, 0]


@pytest.mark.parametrize("struct", [True, False])
def test_a_table_of_images_is_not_asked_again(store: Store, tmp_path: Path, struct: bool) -> None:
    images = torch.randint(0, 256, (5, 1, 4, 4), generator=torch.Generator().manual_seed(1))
    rows: list[Any] = [png(image) for image in images]
    table = write(
        tmp_path, image=[{"bytes": row} for row in rows] if struct else rows, label=range(5)
    )
    assert store.import_table(table, "squares", float_keys).added == 5
    teacher = Logging()
    assert CachedTeacher(teacher, store, "squares").labels(images / 255).tolist() == [0, 1, 2, 3, 4]
    assert teacher.seen == []
    assert store.books() | {"imported": 5, "hits": 5} == store.books()


def test_labels_that_are_names(store: Store, tmp_path: Path) -> None:
    grey = png(torch.zeros(1, 4, 4))
    table = write(tmp_path, image=[grey], label=["dog"])
    with pytest.raises(InputError, match="'dog' is a name; say by index="):
        store.import_table(table, "pets", float_keys)
    store.import_table(table, "pets", float_keys, index=["cat", "dog"].index)  # type: ignore[arg-type]
    assert store.known("pets", float_keys(torch.zeros(1, 1, 4, 4))).tolist() == [1]


def test_tables_that_do_not_fit(store: Store, tmp_path: Path) -> None:
    grey, wide = png(torch.zeros(1, 4, 4)), png(torch.zeros(1, 4, 5))
    for columns, says in (
        ({"picture": [grey], "label": [1]}, "columns picture, label"),
        ({"image": [grey, wide], "label": [1, 1]}, r"image 1 .* shape \(1, 4, 5\)"),
        ({"image": [b"hello"], "label": [1]}, "image 0 .* cannot be decoded"),
        ({"image": [None, grey], "label": [1, 1]}, "image 0 .* is empty"),
        ({"image": [grey], "label": [1.5]}, "label 0 .* is 1.5"),
        ({"image": [grey], "label": [-3]}, "got -3"),
        ({"key": [b"k"], "class": [1], "identity": ["pets"]}, "32 bytes"),
        ({"key": [b"k" * 32], "class": ["a"], "identity": ["pets"]}, "not a whole number"),
    ):
        with pytest.raises(InputError, match=says):
            store.import_table(write(tmp_path, **columns), "pets", float_keys)
    (tmp_path / "table.parquet").write_text("hello")
    with pytest.raises(InputError, match="cannot be read as a parquet file"):
        store.import_table(tmp_path / "table.parquet", "pets", float_keys)
    with pytest.raises(RunError, match="cannot be written"):
        store.export(tmp_path / "no-such-folder" / "answers.parquet")


def png(pixels: Tensor) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels[0].to(torch.uint8).numpy()).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, **columns: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / "table.parquet"
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), file)
    return file


# Files that are not as they should be


def filled(path: Path) -> Path:
    with Store(path) as store:
        for first in range(0, 400, 20):
            CachedTeacher(Logging(), store, "squares").labels(pictures(range(first, first + 20)))
        store.learn("squares", ["a", "b"])
        store.claim("squares", [bytes([number]) * 32 for number in range(30)])
        store._owner_lock = None  # as if the process died
    return path


def foreign(path: Path, *statements: str) -> Path:
    base = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        base.execute(statement)
    base.close()
    return path


def test_foreign_files_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("hello" * 100)
    theirs = foreign(tmp_path / "theirs.sqlite", "PRAGMA journal_mode=WAL", "CREATE TABLE x (y)")
    for file in (notes, theirs):
        before = file.read_bytes()
        with pytest.raises(InputError, match="is not a store of answers; give another file name"):
            Store(file)
        assert file.read_bytes() == before
        assert not list(tmp_path.glob("*-wal"))
    with pytest.raises(InputError, match="cannot be opened"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("statement", "error", "says"),
    [
        ("PRAGMA user_version=3", InputError, "version 3; this db3kd reads 2"),
        ("CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END", Damaged, "tab"),
        ("ALTER TABLE names RENAME TO words", Damaged, "its tables are others"),
        ("UPDATE answers SET classes=zeroblob(length(classes)) WHERE id=3", Damaged, "block 3"),
        ("UPDATE answers SET keys='text' WHERE id=3", Damaged, "block 3"),
        ("UPDATE answers SET at=at+1 WHERE id=3", Damaged, "block 3"),
    ],
)
def test_altered_stores_are_refused(
    tmp_path: Path, statement: str, error: type[Db3kdError], says: str
) -> None:
    file = foreign(filled(tmp_path / "answers.db3kd"), statement)

    def used() -> None:
        with Store(file) as store:
            kept(store)

    with pytest.raises(error, match=says):
        used()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("whole") / "answers.db3kd")


@pytest.mark.parametrize("length", [1, 15, 16, 60, 100, 4095, 4096, 20_000, -4096, -1])
def test_cut_stores_are_refused(tmp_path: Path, whole: Path, length: int) -> None:
    file = tmp_path / "answers.db3kd"
    file.write_bytes(whole.read_bytes()[:length])
    with pytest.raises((Damaged, InputError), match=r"answers.db3kd is (cut|damaged|not a store)"):
        Store(file)


def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "answers.db3kd").touch()
    with Store(tmp_path / "answers.db3kd") as store:
        assert store.identities() == ()


places = st.integers(0, 2**20) | st.integers(0, 4096)


@settings(max_examples=60, deadline=None)
@given(changes=st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4))
def test_no_altered_byte_gives_a_wrong_answer_or_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(whole.read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    file = tmp_path_factory.mktemp("altered") / "answers.db3kd"
    file.write_bytes(content)
    try:
        with Store(file, patience=0.1) as store:
            kept(store)  # checks that what is known is true
            store.books()
            store.names("squares")
            store.bury()
            store.export(file.with_name("answers.parquet"))
            CachedTeacher(Logging(), store, "squares").labels(pictures(range(380, 410)))
            kept(store)
    except Db3kdError:
        pass


def test_a_full_disk_loses_nothing_that_was_kept(store: Store) -> None:
    cached = CachedTeacher(Logging(), store, "squares", chunk=64)
    cached.labels(pictures(range(100)))
    (pages,) = store._base.execute("PRAGMA page_count").fetchone()
    store._base.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(RunError, match=r"full.*what was saved before is safe"):
        cached.labels(pictures(range(1000)))
    assert kept(store) >= set(range(100))
    store._base.execute("PRAGMA max_page_count=100000")
    assert cached.labels(pictures(range(1000))).tolist() == truth(range(1000))


def test_a_store_that_another_holds_is_busy(tmp_path: Path) -> None:
    with Store(tmp_path / "a") as store, Store(tmp_path / "a", patience=0.05) as other:
        store._base.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match="held by another process"):
            other.claim("squares", [A])
        assert other.known("squares", [b"a" * 32]).tolist() == [-1]  # reading does not wait
        store._base.execute("ROLLBACK")
        other.claim("squares", [A])


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    for use in (store.books, lambda: store.known("a", []), lambda: store.claim("a", [A])):
        with pytest.raises(InputError, match="was closed; open it again"):
            use()
    store.close()


def test_a_forked_child_must_open_it_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(InputError, match="opened by another process; open it again in this one"):
        store.books()
