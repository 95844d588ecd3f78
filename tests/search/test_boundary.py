import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from closed_form import linear
from db3kd.search.boundary import (
    MOST_HALVINGS,
    Asks,
    Criterion,
    Leaves,
    Reaches,
    asker,
    between,
    bisect,
    halvings,
    norm,
    per_row,
)
from db3kd.teachers import function

ANY = (-9.0, 9.0)


def points(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)


def crossing_at(*places: float) -> tuple[list[list[float]], Asks]:
    """Row r is across beyond its own place; every question is kept."""
    asked: list[list[float]] = []
    thresholds = torch.tensor(places)

    def asks(shown: Tensor, rows: Tensor) -> Tensor:
        asked.append(shown.flatten().tolist())
        return shown.flatten() > thresholds[rows]

    return asked, asks


def test_criteria_are_two_sides_of_the_same_search() -> None:
    answers, rows = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 0, 1, 1])
    of_row = torch.tensor([1, 2])
    reaches, leaves = Reaches(of_row), Leaves(of_row)
    assert isinstance(reaches, Criterion)
    assert isinstance(leaves, Criterion)
    assert reaches.met(answers, rows).tolist() == [False, True, True, False]
    assert leaves.met(answers, rows).tolist() == [True, False, False, True]


def test_asker_shows_exactly_the_points_and_hides_the_labels() -> None:
    shown: list[Tensor] = []

    def ask(images: Tensor) -> Tensor:
        shown.append(images.clone())
        return images.flatten() > 0.5

    asks = asker(function(ask, classes=2), Leaves(torch.tensor([1, 0])))
    assert asks(points(0.2, 0.9, 0.9), torch.tensor([0, 0, 1])).tolist() == [True, False, True]
    assert [s.flatten().tolist() for s in shown] == [pytest.approx([0.2, 0.9, 0.9])]


def test_asker_asks_nothing_about_nothing() -> None:
    def ask(_: Tensor) -> object:
        raise AssertionError("asked")

    asks = asker(function(ask, classes=2), Reaches(torch.tensor([1])))
    nothing = asks(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.long))
    assert (nothing.shape, nothing.dtype) == ((0,), torch.bool)


def test_norm_is_not_divided_by_the_dimension() -> None:
    # 3-4-5; and 12 ones: sqrt(12).
    assert norm(torch.tensor([[[[3.0, 4.0]]]])).tolist() == [5.0]
    assert norm(torch.ones(2, 3, 2, 2)).tolist() == pytest.approx([12**0.5] * 2)
    assert norm(torch.zeros(0, 1, 2, 2)).shape == (0,)


def test_per_row_multiplies_whole_images() -> None:
    scaled = per_row(torch.tensor([2.0, 3.0]), torch.ones(2, 1, 2, 2)) * torch.ones(2, 1, 2, 2)
    assert scaled.flatten(1).tolist() == [[2.0] * 4, [3.0] * 4]


def test_between_walks_the_segment_and_stays_within_the_bounds() -> None:
    start, far = points(0.0, 1.0, 0.5), points(1.0, 0.0, 4.0)
    share = torch.tensor([0.25, 0.25, 0.5])
    # 0 + 1/4, 1 - 1/4, and 0.5 + 3.5/2 = 2.25, cut to 1.
    assert between(start, far, share, (0.0, 1.0)).flatten().tolist() == [0.25, 0.75, 1.0]
    assert start.flatten().tolist() == [0.0, 1.0, 0.5]  # no argument is written to


@pytest.mark.parametrize(
    ("width", "tolerance", "times"),
    [
        (1.0, 0.125, 3),  # 2^-3
        (1.0, 0.12, 4),  # 2^-3 is too wide, 2^-4 is not
        (1.0, 1.0, 0),
        (0.5, 1.0, 0),
        (0.0, 1e-5, 0),
        (1e30, 1e-5, MOST_HALVINGS),
    ],
)
def test_halvings(width: float, tolerance: float, times: int) -> None:
    assert halvings(torch.tensor([width]), tolerance).tolist() == [times]


@given(st.floats(1e-3, 1e3), st.floats(1e-4, 1e2))
@settings(deadline=None, max_examples=100)
def test_halvings_are_enough_and_no_more_than_needed(width: float, tolerance: float) -> None:
    (times,) = halvings(torch.tensor([width]), tolerance).tolist()
    assert width / 2**times <= tolerance * 1.000001
    assert times == 0 or width / 2 ** (times - 1) >= tolerance * 0.999999


def test_bisection_by_hand() -> None:
    # Across beyond 0.3, bracket (0, 1), three halvings: 0.5 yes, 0.25 no, 0.375 yes.
    asked, asks = crossing_at(0.3)
    found = bisect(
        asks, points(0), points(1), near=torch.zeros(1), rows=torch.tensor([0]),
        times=torch.tensor([3]), bounds=ANY,
    )  # fmt: skip
    assert asked == [[0.5], [0.25], [0.375]]
    assert found.point.flatten().tolist() == [0.375]
    assert found.near.item() == pytest.approx(0.25 / 0.375)  # the near end, as a share of the new
    assert found.asked.tolist() == [3]


def test_each_row_is_halved_as_often_as_it_says() -> None:
    # Row 2 starts at share 0.5: 0.75 no. Row 0 never moves and is never asked.
    asked, asks = crossing_at(0.1, 0.1, 0.9)
    near, times = torch.tensor([0.0, 0.0, 0.5]), torch.tensor([0, 2, 1])
    far = points(1, 1, 1)
    found = bisect(
        asks, points(0, 0, 0), far, near=near, rows=torch.arange(3), times=times, bounds=ANY
    )
    assert asked == [[0.5, 0.75], [0.25]]
    assert found.point.flatten().tolist() == [1.0, 0.25, 1.0]
    assert found.near.tolist() == [0.0, 0.0, 0.75]
    assert found.asked.tolist() == times.tolist()
    assert far.flatten().tolist() == [1.0] * 3  # no argument is written to
    assert near.tolist() == [0.0, 0.0, 0.5]


def test_rows_keep_the_numbers_that_the_criterion_knows() -> None:
    _, asks = crossing_at(0.1, 0.6)
    found = bisect(
        asks, points(0), points(1), near=torch.zeros(1), rows=torch.tensor([1]),
        times=torch.tensor([4]), bounds=ANY,
    )  # fmt: skip
    assert found.point.item() == 0.625  # of 16ths, the first beyond 0.6


def test_bisection_of_nothing_asks_nothing() -> None:
    asked, asks = crossing_at(0.0)
    none, empty = torch.zeros(0, dtype=torch.long), torch.zeros(0, 1, 1, 1)
    found = bisect(asks, empty, empty, near=torch.zeros(0), rows=none, times=none, bounds=ANY)
    assert (asked, found.point.shape, found.asked.shape) == ([], (0, 1, 1, 1), (0,))


@given(st.integers(0, 10_000), st.integers(1, 24))
@settings(deadline=None, max_examples=40)
def test_bisection_ends_across_and_within_its_width(seed: int, times: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    normal = torch.randn(1, 8, generator=draw)
    teacher = linear(torch.cat([torch.zeros_like(normal), normal]), torch.zeros(2), ANY)
    side = torch.randn(6, 1, 2, 4, generator=draw)
    answers = teacher.labels(side)
    start, far = side[answers == 0], side[answers == 1]
    count = min(len(start), len(far))
    start, far, rows = start[:count], far[:count], torch.arange(count)
    found = bisect(
        asker(teacher, Reaches(torch.ones(count).long())), start, far, near=torch.zeros(count),
        rows=rows, times=torch.full((count,), times), bounds=ANY,
    )  # fmt: skip
    assert bool((teacher.labels(found.point) == 1).all())
    # A plane cuts a segment once: the crossing is at share -s(0) / (s(1) - s(0)) of its length.
    low, high = (start.flatten(1) @ normal[0]), (far.flatten(1) @ normal[0])
    exact = -low / (high - low) * norm(far - start)
    apart = norm(found.point - start) - exact
    assert bool((apart >= -1e-5).all())
    assert bool((apart <= norm(far - start) / 2**times + 1e-5).all())
