from pathlib import Path

import pytest
import torch
from torch import Tensor

from closed_form import as_references, linear, ordered_scores
from db3kd.config.settings import Budget, Search
from db3kd.errors import BudgetExhausted, TeacherError
from db3kd.search.robustness import RobustnessMap
from db3kd.search.rows import measure
from db3kd.stages.taped import ReplayTeacher, question_key
from db3kd.storage.tape import Drifted, Tape
from db3kd.teachers import function
from db3kd.teachers.base import Teacher
from db3kd.teachers.cached import CachedTeacher, Store
from db3kd.teachers.meter import Meter

DRAW = torch.Generator().manual_seed(4)
WEIGHTS = torch.randn(3, 6, generator=DRAW)
IMAGES = torch.randn(2, 1, 2, 3, generator=DRAW)
STARTS = torch.randn(9, 1, 2, 3, generator=DRAW)
PLAIN = linear(WEIGHTS, torch.zeros(3))
OWN, REFERENCES = PLAIN.labels(IMAGES), as_references(PLAIN, STARTS)
SEARCH = Search(queries=30, probes=8, tolerance=0.05)


class Killed(BaseException):
    """The process dies here."""


class Mortal:
    """A teacher that keeps every question and dies within question number `dies`."""

    classes, bounds = 3, PLAIN.bounds

    def __init__(self, dies: int | None = None) -> None:
        self.dies = dies
        self.asked: list[int] = []

    def labels(self, images: Tensor, /) -> Tensor:
        self.asked.append(len(images))
        if len(self.asked) - 1 == self.dies:
            raise Killed
        return ordered_scores(images, WEIGHTS, torch.zeros(3)).argmax(1)


def search(teacher: Teacher) -> RobustnessMap:
    return measure(teacher, IMAGES, OWN, REFERENCES, SEARCH, noise_seed=3)["mbd"]


def shard(teacher: Teacher, path: Path, *, budget: int | None = None) -> RobustnessMap:
    """One process works at the shard: accounts first, then the search through the tape."""
    tape = Tape(path, classes=3)
    meter = Meter(teacher, Budget(queries=budget), spent={"": tape.booked})
    try:
        return search(ReplayTeacher(meter, tape))
    finally:
        tape.close()


def same(one: RobustnessMap, other: RobustnessMap) -> bool:
    return torch.equal(one.distance, other.distance) and torch.equal(one.queries, other.queries)


def test_a_taped_teacher_is_a_teacher(tmp_path: Path) -> None:
    tape = Tape(tmp_path / "0.tape", classes=3)
    taped = ReplayTeacher(Meter(PLAIN), tape)
    assert isinstance(taped, Teacher)
    assert (taped.classes, taped.bounds) == (3, PLAIN.bounds)
    assert taped.labels(IMAGES).tolist() == OWN.tolist()
    tape.close()


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_in_any_question_nothing_answered_is_asked_twice(tmp_path: Path, every: int) -> None:
    whole = Mortal()
    result = shard(whole, tmp_path / "whole.tape")
    assert len(whole.asked) > 15
    assert sum(whole.asked) == int(result.queries.sum())
    for dies in range(0, len(whole.asked), every):
        path = tmp_path / f"{dies}.tape"
        first, second = Mortal(dies), Mortal()
        with pytest.raises(Killed):
            shard(first, path)
        assert same(shard(second, path), result)
        # The second process asks what the first did not, and the one question that was lost.
        assert [*first.asked[:-1], *second.asked] == whole.asked
        tape = Tape(path, classes=3, read_only=True)
        assert tape.booked == sum(first.asked) + sum(second.asked)
        assert tape.lost == whole.asked[dies]


def test_killed_again_and_again(tmp_path: Path) -> None:
    path, whole, asked = tmp_path / "0.tape", Mortal(), 0
    result = shard(whole, tmp_path / "whole.tape")
    for _ in range(len(whole.asked)):
        mortal = Mortal(1)  # each process lives for one question and dies in the next
        try:
            last = shard(mortal, path)
        except Killed:
            continue
        finally:
            asked += sum(mortal.asked)
            assert Tape(path, classes=3, read_only=True).booked == asked
        assert same(last, result)
        break
    else:
        pytest.fail("it never ended")
    third = Mortal()
    assert same(shard(third, path), result)
    assert third.asked == []  # a finished tape answers everything


def test_a_budget_is_checked_before_anything_is_reserved(tmp_path: Path) -> None:
    path, whole = tmp_path / "0.tape", Mortal()
    result = shard(whole, tmp_path / "whole.tape")
    needed = sum(whole.asked)
    first = Mortal()
    with pytest.raises(BudgetExhausted) as caught:
        shard(first, path, budget=needed - 1)
    tape = Tape(path, classes=3, read_only=True)
    assert tape.booked == caught.value.spent == sum(first.asked) <= needed - 1
    assert tape.lost == 0
    before = path.read_bytes()
    with pytest.raises(BudgetExhausted):  # the same budget again: nothing is asked or written
        shard(second := Mortal(), path, budget=needed - 1)
    assert (second.asked, path.read_bytes()) == ([], before)
    third = Mortal()
    assert same(shard(third, path, budget=needed), result)
    assert sum(first.asked) + sum(third.asked) == needed


def test_a_teacher_that_fails_is_paid_and_asked_again(tmp_path: Path) -> None:
    fails = [True]

    def ask(images: Tensor) -> Tensor:
        if fails.pop():
            fails.append(False)
            raise ConnectionError("gone")
        fails.append(False)
        return images.flatten(1)[:, 0] > 0

    path = tmp_path / "0.tape"
    tape = Tape(path, classes=2)
    meter = Meter(function(ask, classes=2))
    taped = ReplayTeacher(meter, tape)
    with pytest.raises(TeacherError):
        taped.labels(IMAGES)
    expected = (IMAGES.flatten(1)[:, 0] > 0).long().tolist()
    assert taped.labels(IMAGES).tolist() == expected
    tape.close()
    assert meter.spent == 4
    again = Tape(path, classes=2, read_only=True)
    assert (again.booked, again.lost) == (4, 2)


def test_another_question_is_a_drift_and_is_not_asked(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    shard(Mortal(), path)
    size = path.stat().st_size
    for images in (IMAGES + 0.001, IMAGES.flip(0), IMAGES[:1]):
        tape, teacher = Tape(path, classes=3), Mortal()
        with pytest.raises(Drifted):
            ReplayTeacher(Meter(teacher), tape).labels(images)
        tape.close()
        assert (teacher.asked, path.stat().st_size) == ([], size)


def test_used_counts_every_answer_bought_or_taken(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    for process in range(2):
        tape, meter = Tape(path, classes=3), Meter(PLAIN)
        taped = ReplayTeacher(meter, tape)
        taped.labels(IMAGES)
        taped.labels(STARTS)
        assert taped.used == 11
        assert meter.spent == (0 if process else 11)
        tape.close()


def test_a_question_is_known_by_its_pixels() -> None:
    images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert question_key(images) == question_key(images.clone())
    assert question_key(images) == question_key(images.transpose(2, 3).contiguous().transpose(2, 3))
    assert 0 <= question_key(images[:0]) < 2**32
    for other in (images.flip(0), images.flip(3), images + 1e-6, images[:63]):
        assert question_key(other) != question_key(images)


@pytest.mark.parametrize("count", [1, 2, 3, 64, 128, 200, 256, 1000])
def test_images_with_a_black_frame_are_known_by_what_is_inside(count: int) -> None:
    # As handwritten digits are: every pixel of the outer four rows and columns is zero.
    draw = torch.Generator().manual_seed(0)
    images = torch.zeros(2, count, 1, 28, 28)
    images[..., 4:24, 4:24] = torch.rand(2, count, 1, 20, 20, generator=draw)
    assert question_key(images[0]) != question_key(images[1])


def test_answers_that_a_store_has_of_a_question_leave_room_for_the_rest(tmp_path: Path) -> None:
    """A budget that is the plan is enough, whatever was answered before the process was killed."""
    images, left = torch.rand(40, 1, 2, 3, generator=DRAW), [32]

    def ask(shown: Tensor) -> Tensor:
        left[0] -= len(shown)
        if left[0] < 0:
            raise KeyboardInterrupt
        return torch.zeros(len(shown), dtype=torch.int64)

    for killed in (True, False):
        tape = Tape(tmp_path / "0.tape", classes=3)
        with Store(tmp_path / "answers.db3kd") as store:
            cached = CachedTeacher(function(ask, classes=3, batch=8), store, "zero")
            cached.begin("run", str(tmp_path), 40 + 8 * (not killed))
            taped = ReplayTeacher(Meter(cached, Budget(queries=40)), tape)
            if killed:
                with pytest.raises(KeyboardInterrupt):
                    taped.labels(images)
            else:
                left[0] = 8
                assert taped.labels(images).tolist() == [0] * 40
        tape.close()
