"""What a student is unsure of goes to its teacher, within the budget, and the curve says why."""

import logging
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from db3kd import Budget, Cascade, Meter, Student, StudentCard, cascade_curve
from db3kd.config.remote import Price
from db3kd.data import TensorImages
from db3kd.errors import InputError, TeacherError
from db3kd.student.calibration import cascade_report, fit_temperature, probabilities
from db3kd.teachers import function
from db3kd.teachers.cached import Account, CachedTeacher, Purse, Store

NAMES = ("cat", "dog", "owl")


class Scaled(nn.Module):
    """The three pixels of an image are its logits, times six."""

    def forward(self, images: Tensor) -> Tensor:
        return 6 * images.flatten(1)


def student(names: tuple[str, ...] | int = NAMES) -> Student:
    return Student(Scaled(), StudentCard(shape=(1, 1, 3), classes=names))


def images(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows).reshape(len(rows), 1, 1, 3)


class Owls:
    """A teacher to whom everything is its class `said`, and who remembers what it was shown."""

    bounds = (0.0, 1.0)

    def __init__(self, names: tuple[str, ...] | None = NAMES, said: int = 2, classes: int = 3):
        self.names, self.said, self.classes = names, said, classes
        self.shown: list[Tensor] = []

    def labels(self, pixels: Tensor) -> Tensor:
        self.shown.append(pixels)
        return torch.full((len(pixels),), self.said)


SURE, LESS, LEAST = (1.0, 0.0, 0.0), (0.3, 0.0, 0.0), (0.1, 0.0, 0.0)  # all cats to the student


def test_only_what_is_below_the_threshold_is_passed_on() -> None:
    teacher = Owls()
    cascade = Cascade(student(), teacher, 0.9)
    found = cascade.ask(images(SURE, LEAST, SURE, LESS))
    assert [NAMES[at] for at in found.classes] == ["cat", "owl", "cat", "owl"]
    assert found.by_teacher.tolist() == [False, True, False, True]
    assert not found.over.any()
    assert cascade.meter.by_stage == {"predict": 2}
    # The least sure first, exactly once each.
    assert torch.equal(torch.cat(teacher.shown), images(LEAST, LESS))
    # What the student gives the class that is said: softmax of (6, 0, 0), and of (0.6, 0, 0).
    assert float(found.probability[0]) == pytest.approx(0.995067, abs=1e-6)
    assert float(found.probability[1]) == pytest.approx(0.261543, abs=1e-4)


def test_the_threshold_is_not_passed_on_itself() -> None:
    given = images(LESS)
    score = float(probabilities(6 * given.flatten(1)).max())
    for threshold, asked in ((score, 0), (score + 1e-9, 1), (0.0, 0)):
        cascade = Cascade(student(), Owls(), threshold)
        cascade.predict(given)
        assert cascade.meter.spent == asked


def test_the_temperature_decides_who_is_sure() -> None:
    # softmax of (6, 0, 0) is 0.995; of (1.5, 0, 0), at temperature 4, it is 0.691.
    assert Cascade(student(), Owls(), 0.9).predict(images(SURE)) == ["cat"]
    assert Cascade(student(), Owls(), 0.9, temperature=4.0).predict(images(SURE)) == ["owl"]


def test_what_is_over_the_budget_is_the_students_and_said(caplog: Any) -> None:
    teacher = Owls()
    cascade = Cascade(student(), teacher, 0.9, budget=Budget(queries=1))
    with caplog.at_level(logging.WARNING, "db3kd"):
        assert cascade.predict(images(SURE, LESS, LEAST)) == ["cat", "cat", "owl"]
    assert "1 of 2 images below the threshold were not passed on" in caplog.text
    assert cascade.predict(images(LEAST)) == ["cat"]
    assert sum(map(len, teacher.shown)) == cascade.meter.spent == 1


@given(budget=st.integers(0, 40), count=st.integers(0, 40))
def test_the_budget_is_used_up_and_never_exceeded(budget: int, count: int) -> None:
    teacher = Owls()
    cascade = Cascade(student(), teacher, 0.9, budget=Budget(queries=budget))
    found = cascade.ask(images(*[(k / 400, 0.0, 0.0) for k in range(count)]))
    assert int(found.by_teacher.sum()) == min(budget, count) == sum(map(len, teacher.shown))
    assert int(found.over.sum()) == max(0, count - budget)
    assert found.by_teacher.tolist() == [k < budget for k in range(count)]  # least sure first


def test_a_meter_that_is_given_is_the_one_that_counts() -> None:
    meter = Meter(Owls(), Budget(queries=3))
    meter.labels(images(SURE, SURE))
    cascade = Cascade(student(), meter, 0.9)
    assert cascade.predict(images(LESS, LEAST)) == ["cat", "owl"]
    assert meter.by_stage == {"": 2, "predict": 1}
    with pytest.raises(InputError, match="leave budget out"):
        Cascade(student(), meter, 0.9, budget=Budget(queries=1))


def test_money_buys_to_its_end_and_what_is_kept_costs_nothing(tmp_path: Any) -> None:
    teacher = Owls()
    purse = Purse(Price(per_1000=1.0, currency="EUR"), most=5)
    with Store(tmp_path / "answers.db3kd") as store:
        account = Account("r", purse)
        cached = CachedTeacher(teacher, store, "owls", account=account, chunk=2)
        shown = images(*[(k / 400, 0.0, 0.0) for k in range(9)])
        cascade = Cascade(student(), cached, 0.9)
        found = cascade.ask(shown)
        assert int(found.by_teacher.sum()) == 5 == sum(map(len, teacher.shown))
        assert store.books(run="r")["answered"] == 5 == cascade.meter.spent
        again = Cascade(student(), cached, 0.9).ask(shown)
        assert torch.equal(again.by_teacher, found.by_teacher)
        assert sum(map(len, teacher.shown)) == 5


def test_a_teacher_that_does_not_know_leaves_the_students_answer() -> None:
    teacher = function(lambda pixels: [-1] * len(pixels), classes=NAMES, unknown="drop")
    found = Cascade(student(), teacher, 0.9).ask(images(LESS))
    assert (found.classes.tolist(), found.by_teacher.tolist()) == ([0], [False])
    assert not found.over.any()


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (NAMES, ("owl", "cat", "dog"), "dog"),  # by name, not by place
        (NAMES, None, "owl"),
        (3, NAMES, "2"),
        (("1", "2", "0"), ("0", "1", "2"), "2"),
        (("cat", "crane (1)", "crane (2)"), ("cat", "crane", "crane"), "crane (2)"),
        (("Owl", "cat", "dog"), ("cat", "dog", "owl"), "Owl"),
    ],
)
def test_classes_match_by_name(mine: Any, theirs: Any, said: str) -> None:
    assert Cascade(student(mine), Owls(theirs), 1.0).predict(images(LESS)) == [said]


@pytest.mark.parametrize(
    ("mine", "theirs", "said"),
    [
        (NAMES, ("cat", "dog", "fox"), "'owl', which the teacher does not know"),
        (("a", "b"), NAMES, "the student knows 2 classes, but the teacher 3"),
        (("cat", "CAT", "dog"), ("cat", "Dog", "owl"), "are one of the teacher"),
    ],
)
def test_other_classes_are_refused(mine: Any, theirs: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Cascade(student(mine), Owls(theirs), 0.5)


def test_numbers_out_of_range_and_other_teachers_are_refused() -> None:
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="threshold is a probability"):
            Cascade(student(), Owls(), threshold)
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match="temperature must be above 0"):
            Cascade(student(), Owls(), 0.5, temperature=temperature)
    wide = function(lambda pixels: [0] * len(pixels), classes=3, bounds=(0.0, 255.0))
    with pytest.raises(InputError, match="takes images of 0 to 255"):
        Cascade(student(), wide, 0.5)


def test_errors_of_the_teacher_come_through() -> None:
    def fail(_: Tensor) -> Tensor:
        raise OSError("gone")

    cascade = Cascade(student(), function(fail, classes=3), 0.9)
    with pytest.raises(TeacherError, match="gone"):
        cascade.predict(images(LESS))
    assert cascade.meter.spent == 1  # it may have been paid


def test_many_images_in_blocks_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db3kd.student.cascade.BATCHES", 2)
    teacher = Owls()
    shown = torch.rand(2500, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    found = Cascade(student(), teacher, 1.0).ask(TensorImages(shown))
    assert [len(some) for some in teacher.shown] == [1024, 1024, 452]
    assert (found.classes == 2).all()
    assert len(Cascade(student(), teacher, 1.0).ask([]).classes) == 0


# The curve


def test_a_curve_worked_by_hand() -> None:
    # By score: 0.2 wrong, 0.4 right, 0.4 wrong, 0.8 right. Two are equal, so they go together.
    scores = torch.tensor([0.8, 0.4, 0.2, 0.4], dtype=torch.float64)
    mine, theirs = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 1, 1, 1])
    curve = cascade_curve(scores, mine, theirs)
    assert curve.thresholds.tolist() == [0.2, 0.4, 0.8]
    assert curve.passed.tolist() == [0.0, 0.25, 0.75]
    assert curve.agreement.tolist() == [0.5, 0.75, 1.0]
    assert (curve.at(0.5).passed, curve.at(0.5).threshold) == (0.25, 0.4)
    assert curve.at(0.0).agreement == 0.5


@given(seed=st.integers(0, 1000), count=st.integers(1, 60), levels=st.integers(1, 20))
def test_the_curve_is_what_a_cascade_does(seed: int, count: int, levels: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, levels, (count, 1, 1, 3), generator=draw) / 20
    theirs = torch.randint(0, 3, (count,), generator=draw)
    logits = student().logits(TensorImages(pixels))
    mine = logits.argmax(1)
    curve = cascade_curve(probabilities(logits).amax(1), mine, theirs)
    place = seed % len(curve.thresholds)
    teacher = function(lambda some: theirs[: len(some)], classes=3)
    found = Cascade(student(), teacher, float(curve.thresholds[place])).ask(TensorImages(pixels))
    assert int(found.by_teacher.sum()) == round(float(curve.passed[place]) * count)
    reached = torch.where(found.by_teacher, theirs, mine) == theirs
    assert float(reached.double().mean()) == pytest.approx(float(curve.agreement[place]))
    assert bool((curve.agreement.diff() >= 0).all())


def test_a_curve_of_nothing_is_refused() -> None:
    some = torch.tensor([0, 1])
    with pytest.raises(InputError, match="got 2, 2 and 1"):
        cascade_curve(torch.ones(2), some, some[:1])
    with pytest.raises(InputError, match="got 0"):
        cascade_curve(torch.ones(0), some[:0], some[:0])
    with pytest.raises(InputError, match="not finite"):
        cascade_curve(torch.tensor([0.5, float("nan")]), some, some)


# Calibration


def test_the_temperature_that_made_the_answers_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(20_000, 5, generator=draw)
    answers = torch.multinomial((logits / 2.5).softmax(1), 1, generator=draw)[:, 0]
    assert fit_temperature(logits, answers) == pytest.approx(2.5, rel=0.03)
    assert fit_temperature(logits / 10, answers) == pytest.approx(0.25, rel=0.03)


def test_the_temperature_is_the_best_of_a_grid() -> None:
    draw = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(300, 4, generator=draw)
    answers = torch.where(torch.rand(300, generator=draw) < 0.8, logits.argmax(1), 0)
    target = torch.full((300, 4), 1 / 302 / 3, dtype=torch.float64)
    target[torch.arange(300), answers] = 301 / 302

    def loss(temperature: float) -> float:
        return float(nn.functional.cross_entropy(logits.double() / temperature, target))

    best = min((loss(t), t) for t in torch.linspace(0.1, 10, 1000).tolist())[1]
    assert fit_temperature(logits, answers) == pytest.approx(best, abs=0.011)


def test_a_student_that_is_always_right_is_not_made_certain() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0]]).repeat(98, 1)
    temperature = fit_temperature(logits, torch.zeros(98, dtype=torch.int64))
    # Its optimum is the target itself: 99 of 100.
    assert float(probabilities(logits, temperature)[0, 0]) == pytest.approx(0.99, abs=1e-6)


def test_calibration_and_report_have_no_image_in_common() -> None:
    """Answers of the images that are reported change no temperature, and the other way round."""
    draw = torch.Generator().manual_seed(2)
    logits = 5 * torch.randn(500, 3, generator=draw)
    answers = torch.where(torch.rand(500, generator=draw) < 0.7, logits.argmax(1), 1)
    first = cascade_report(logits, answers, seed=7)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(7))
    assert (first.fitted_on, first.samples) == (100, 400)
    changed = answers.clone()
    changed[order[100:]] = (answers[order[100:]] + 1) % 3
    second = cascade_report(logits, changed, seed=7)
    assert second.temperature == first.temperature
    assert second.points != first.points
    scores = probabilities(logits[order[100:]], first.temperature).amax(1)
    for point in first.points:  # the threshold is in the units of --ask-teacher-below
        below = scores < point.threshold
        assert float(below.double().mean()) == point.passed == point.share
        agree = below | (logits.argmax(1) == answers)[order[100:]]
        assert float(agree.double().mean()) == pytest.approx(point.agreement)


def test_too_few_images_are_all_measured() -> None:
    logits = torch.randn(99, 3, generator=torch.Generator().manual_seed(0))
    report = cascade_report(logits, logits.argmax(1), seed=0)
    assert (report.temperature, report.fitted_on, report.samples) == (1.0, 0, 99)
    assert [point.agreement for point in report.points] == [1.0] * 6
