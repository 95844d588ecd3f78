"""The pool: what was asked, as the teacher saw it; and how students choose for it."""

import pytest
import torch
from torch import Tensor

import db3kd.synthesis.chosen as chosen
from closed_form import Watched, prototypes
from db3kd.errors import InputError
from db3kd.student.networks import build
from db3kd.synthesis.acquisition import balanced
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.way import Task
from db3kd.teachers import function

SHAPE = (1, 4, 4)


def corners() -> Watched:
    return Watched(prototypes(torch.eye(16)[:4]))


def test_a_pool_keeps_what_the_teacher_saw_and_no_more_than_it_may() -> None:
    teacher = corners()
    pool = Pool(9, SHAPE, teacher, eight_bit=True)
    pool.allow(5)
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    answers = pool.ask(images)
    assert torch.equal(pool.read(torch.arange(4)), teacher.shown[0])
    assert torch.equal(pool.answers, answers)
    assert (teacher.shown[0] - images).abs().max() <= 0.5 / 255 + 1e-6
    assert pool.counts().sum() == 4
    with pytest.raises(InputError, match="only 1 may still be asked"):
        pool.ask(images)
    assert teacher.asked == 4


def test_large_images_are_asked_a_few_at_a_time() -> None:
    pool = Pool(
        2,
        (3, 224, 224),
        function(lambda images: images[:, 0, 0, 0] > 0.5, classes=2),
        eight_bit=True,
    )
    assert pool.next(1024) == 0  # nothing may be asked yet
    pool.allow(20_000)
    image = 4 * 3 * 224 * 224
    for candidates in (1, 4):
        count = pool.next(1024, candidates)
        assert count * candidates * image <= 2**28 < (count + 1) * candidates * image
    assert pool.next(10) == 10
    assert pool.next(1024, 10_000) == 1  # one goes always


def test_a_pool_of_a_teacher_with_other_bounds_keeps_floats() -> None:
    bright = function(lambda images: images.flatten(1).mean(1) > 0, classes=2, bounds=(-1.0, 1.0))
    pool = Pool(2, SHAPE, bright, eight_bit=False)
    pool.allow(2)
    pool.ask(torch.full((2, *SHAPE), -0.123))
    assert torch.equal(pool.read(torch.arange(2)), torch.full((2, *SHAPE), -0.123))


def test_chosen_asks_what_its_students_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def watched(scores: Tensor, seen: Tensor, wanted: int) -> Tensor:
        rows = balanced(scores, seen, wanted)
        asked.append(scores[rows].mean() - scores.mean())
        return rows

    monkeypatch.setattr("db3kd.synthesis.acquisition.balanced", watched)
    monkeypatch.setattr(chosen, "LEAST_STEPS", 20)
    monkeypatch.setattr(chosen, "MOST_STEPS", 20)
    monkeypatch.setattr(chosen, "ASKED", 16)
    task = Task(SHAPE, 4, 80, "cpu", lambda seed: build("small", SHAPE, 4, seed=seed))
    pool, way = Pool(80, SHAPE, corners(), eight_bit=True), chosen.chosen_shapes(task, seed=0)
    for _ in range(2):
        pool.allow(40)
        with torch.no_grad():
            way.spend(pool, seed=0, report=lambda what, done, total: None)
    assert len(asked) == 3
    assert all(float(gain) > 0 for gain in asked)
