"""The pool: what was asked, as the teacher saw it; and how students choose for it."""

import pytest
import torch
from torch import Tensor

import db3kd.synthesis.chosen as chosen
from closed_form import Watched, prototypes
from db3kd.data import TensorImages
from db3kd.errors import InputError
from db3kd.student.networks import build
from db3kd.synthesis.acquisition import balanced
from db3kd.synthesis.earlier import parents_of_all
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


def of_classes(answers: Tensor, *, classes: int) -> Pool:
    pool = Pool(
        len(answers), (1, 1, 1), function(lambda x: x.sum(1), classes=classes), eight_bit=True
    )
    for part in torch.split(answers, 7):
        pool.add(torch.zeros(len(part), 1, 1, 1), part)
    return pool


def test_parents_are_even_over_classes_and_within_them() -> None:
    answers = torch.tensor([0] * 50 + [3, 1] * 10 + [0] * 30 + [3] * 5)
    pool, draw = of_classes(answers, classes=5), torch.Generator().manual_seed(0)
    assert torch.equal(pool.counts(), answers.bincount(minlength=5))
    rows = pool.balanced(60_000, draw)
    drawn = rows.bincount(minlength=len(answers)).double() / 60_000
    weight = (1 / pool.counts().double())[answers] / 3  # three classes were answered
    assert float(((drawn - weight).square() / weight).sum() * 60_000) < 170  # chi-squared, 104
    old = parents_of_all(pool, 60_000, draw).bincount(minlength=len(answers)).double() / 60_000
    assert float((drawn - old).abs().max()) < 0.01


def test_parents_are_drawn_from_more_than_a_float_can_count() -> None:
    """A draw by one weight for each image ends at 2^24 images."""
    many = 2**24 + 5
    pool = Pool(many, (1, 1, 1), function(lambda x: x.sum(1), classes=2), eight_bit=True, room=0)
    pool.settle(TensorImages(torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(many, 1, 1, 1)))
    pool.add(None, torch.zeros(many, dtype=torch.int64))
    rows = pool.balanced(100_000, torch.Generator().manual_seed(0))
    assert int(rows.max()) < many
    assert 0.4 < float((rows % 2).float().mean()) < 0.6
    assert len(rows.unique()) > 99_000


def test_a_pool_forgets_what_is_settled_and_reads_it_elsewhere() -> None:
    draw = torch.Generator().manual_seed(0)
    whole = Pool(12, SHAPE, corners(), eight_bit=True)
    part = Pool(12, SHAPE, corners(), eight_bit=True, room=4)
    for start in (0, 4, 8):
        images = torch.rand(4, *SHAPE, generator=draw)
        for pool in (whole, part):
            pool.allow(4)
            pool.ask(images)
            assert len(pool) == start + 4
        rows = torch.randint(len(whole), (30,), generator=draw)
        assert torch.equal(part.read(rows), whole.read(rows))
        assert torch.equal(part.values, whole.values[-4:])
        part.settle(TensorImages(whole.values.clone()))
        assert torch.equal(part.read(rows), whole.read(rows))
        assert not len(part.values)
    assert torch.equal(part.answers, whole.answers)
    with pytest.raises(InputError, match="4 images, but 12 were asked"):
        part.settle(TensorImages(whole.values[:4]))
