from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from db3kd.config.settings import Budget
from db3kd.errors import BudgetExhausted, InputError, TeacherError
from db3kd.teachers import function
from db3kd.teachers.base import Teacher, check_answers, micro_batches
from db3kd.teachers.meter import Meter

IMAGE = torch.zeros(1, 1, 2, 2)


class Counted:
    """A teacher of two classes that keeps the size of every question."""

    classes, bounds = 2, (0.0, 1.0)

    def __init__(self, answers: object = None) -> None:
        self.asked: list[int] = []
        self.answers = answers

    def labels(self, images: Tensor, /) -> Any:
        self.asked.append(len(images))
        return self.answers if self.answers is not None else torch.zeros(len(images)).long()


def images(count: int) -> Tensor:
    return IMAGE.expand(count, -1, -1, -1)


# Meter


def test_a_meter_is_a_teacher_with_the_classes_and_bounds_of_its_own() -> None:
    meter = Meter(function(lambda x: x, classes=7, bounds=(-1.0, 2.0)))
    assert isinstance(meter, Teacher)
    assert (meter.classes, meter.bounds, meter.spent) == (7, (-1.0, 2.0), 0)


def test_every_image_counts_each_time_it_is_shown() -> None:
    teacher = Counted()
    meter = Meter(teacher)
    for count in (3, 1, 0, 3):
        assert meter.labels(images(count)).tolist() == [0] * count
    assert meter.spent == sum(teacher.asked) == 7


def test_a_budget_may_be_spent_to_the_last_query_but_not_beyond() -> None:
    teacher = Counted()
    meter = Meter(teacher, Budget(queries=5))
    meter.labels(images(3))
    with pytest.raises(BudgetExhausted) as caught:
        meter.labels(images(3))
    error = caught.value
    assert (error.spent, error.asked, error.budget, error.stage) == (3, 3, 5, "")
    assert teacher.asked == [3]  # the refused question never reached the teacher
    meter.labels(images(2))
    assert (meter.spent, teacher.asked) == (5, [3, 2])
    meter.labels(images(0))
    with pytest.raises(BudgetExhausted):
        meter.labels(images(1))


def test_a_budget_of_nothing_allows_nothing() -> None:
    teacher = Counted()
    with pytest.raises(BudgetExhausted):
        Meter(teacher, Budget(queries=0)).labels(IMAGE)
    assert teacher.asked == []


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 40))
@settings(deadline=None, max_examples=50)
def test_no_order_of_questions_exceeds_a_budget(questions: list[int], budget: int) -> None:
    teacher = Counted()
    meter = Meter(teacher, Budget(queries=budget))
    for count in questions:
        before = meter.spent
        try:
            meter.labels(images(count))
        except BudgetExhausted:
            assert before + count > budget
            assert meter.spent == before
        assert meter.spent == sum(teacher.asked) <= budget


def test_stages_have_accounts_and_limits_of_their_own() -> None:
    teacher = Counted()
    meter = Meter(teacher, Budget(queries=10, stages={"answers": 4, "distances": 9}))
    with meter.stage("answers"):
        meter.labels(images(4))
        with pytest.raises(BudgetExhausted) as caught:
            meter.labels(images(1))
        assert (caught.value.stage, caught.value.spent, caught.value.budget) == ("answers", 4, 4)
    with meter.stage("distances"):
        meter.labels(images(5))
        with pytest.raises(BudgetExhausted) as caught:  # within the stage's 9, beyond the whole 10
            meter.labels(images(2))
        assert (caught.value.stage, caught.value.spent, caught.value.budget) == ("", 9, 10)
    meter.labels(images(1))
    assert meter.by_stage == {"answers": 4, "distances": 5, "": 1}
    assert meter.spent == sum(teacher.asked) == 10


def test_a_stage_ends_where_its_block_ends_even_by_an_error_and_may_be_nested() -> None:
    meter = Meter(Counted())
    with pytest.raises(KeyError), meter.stage("answers"):
        raise KeyError
    meter.book(1)
    with meter.stage("distances"):
        with meter.stage("evaluate"):
            meter.book(20)
        meter.book(300)
    assert meter.by_stage == {"": 1, "evaluate": 20, "distances": 300}


def test_accounts_of_an_earlier_process_count_and_are_copied() -> None:
    earlier = {"answers": 8}
    meter = Meter(Counted(), Budget(queries=10), spent=earlier)
    with pytest.raises(BudgetExhausted):
        meter.labels(images(3))
    with meter.stage("answers"):
        meter.labels(images(2))
    assert (meter.spent, meter.by_stage, earlier) == (10, {"answers": 10}, {"answers": 8})


def test_a_question_that_fails_has_been_counted() -> None:
    def fail(_: Tensor) -> Tensor:
        raise OSError("the line is dead")

    meter = Meter(function(fail, classes=2))
    with pytest.raises(TeacherError, match="the line is dead"):
        meter.labels(images(4))
    assert meter.spent == 4


def test_a_meter_checks_the_answers_of_any_teacher() -> None:
    for answers in ([0, 1], torch.tensor([0, 1, 2]), torch.tensor([0.0, 1.0, 0.0])):
        with pytest.raises(TeacherError):
            Meter(Counted(answers)).labels(images(3))


def test_a_budget_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="queries"):
        Meter(Counted(), Budget(queries=-1))
    with pytest.raises(InputError, match="stages"):
        Meter(Counted(), Budget(stages={"answer": 3}))  # type: ignore[dict-item]


# check_answers


@pytest.mark.parametrize(
    "answers",
    [
        [2, 0],
        (2, 0),
        np.array([2, 0]),
        np.array([2, 0], dtype=np.uint8),
        np.array([2, 0], dtype=np.uint64),
        np.array([9, 2, 0])[1:],
        torch.tensor([2, 0], dtype=torch.int32),
        torch.tensor([2, 0], dtype=torch.uint8),
        [[2], [0]],
        np.array([[2], [0]]),
    ],
)
def test_whole_numbers_of_any_kind_are_answers(answers: object) -> None:
    checked = check_answers(answers, asked=2, classes=3)
    assert checked.dtype == torch.int64
    assert checked.tolist() == [2, 0]


def test_truth_values_are_the_classes_0_and_1() -> None:
    assert check_answers([True, False], asked=2, classes=2).tolist() == [1, 0]
    assert check_answers(torch.tensor([True]), asked=1, classes=2).tolist() == [1]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([[0.1, 0.9], [0.8, 0.2]], r"shape \(2, 2\) to 2 image.*argmax"),
        ([[0.0], [1.0]], "float32"),
        ([[0], [1], [2]], r"shape \(3, 1\) to 2"),
        ([0], r"shape \(1,\) to 2"),
        ([0, 1, 1], r"shape \(3,\) to 2"),
        (1, r"shape \(\)"),
        ([0.0, 1.0], "float32"),
        (np.array([0.5, 1.5]), "float64"),
        ([0, float("nan")], "float32"),
        (torch.tensor([0j, 1j]), "complex"),
        (["cat", "dog"], "list.*cat.*names if classes has them"),
        (np.array(["cat", "dog"]), "cat"),
        (np.array([0, "dog"], dtype=object), "dog"),
        ("01", "str"),
        (None, "NoneType"),
        ([0, None], "None"),
        ([[0], [0, 1]], "list"),
        ({0: 1}, "dict"),
        ([0, 2**70], "list"),
        ([0, 3], "class 3; it was said to have 3"),
        ([-1, 0], "class -1"),
        (np.array([2**63, 0], dtype=np.uint64), "class"),
    ],
)
def test_anything_else_is_an_error_that_says_what_came(answers: object, says: str) -> None:
    with pytest.raises(TeacherError, match=says):
        check_answers(answers, asked=2, classes=3)


def test_no_answers_to_no_images() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert check_answers(nothing, asked=0, classes=3).shape == (0,)
    with pytest.raises(TeacherError):
        check_answers([1], asked=0, classes=3)


# micro_batches


@given(st.integers(0, 60), st.integers(1, 70))
@settings(deadline=None, max_examples=60)
def test_parts_are_few_nearly_equal_and_in_order(count: int, batch: int) -> None:
    whole = torch.arange(float(count)).reshape(count, 1)
    parts = list(micro_batches(whole, batch))
    assert torch.equal(torch.cat(parts), whole)
    sizes = [len(part) for part in parts]
    assert len(parts) == max(1, -(-count // batch))
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_below_one_is_refused(batch: int) -> None:
    with pytest.raises(InputError, match=f"whole number from 1, got {batch}"):
        list(micro_batches(images(2), batch))
