import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from db3kd.errors import InputError
from db3kd.student.soft_labels import (
    CERTAIN,
    concentrate,
    reciprocal_activations,
    soft_labels,
    temper,
)

INF = math.inf


def activations(distance: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return concentrate(reciprocal_activations(distance, own), own)


@st.composite
def distances(draw: st.DrawFn, *, least: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    classes = draw(st.integers(least, 8))
    samples = draw(st.integers(1, 4))
    value = st.floats(1e-3, 1e3)
    table = draw(
        st.lists(
            st.lists(value, min_size=classes, max_size=classes),
            min_size=samples,
            max_size=samples,
        )
    )
    own = draw(st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples))
    return torch.tensor(table, dtype=torch.float64), torch.tensor(own)


def test_three_classes_by_hand() -> None:
    # own = 1, r = (2, -, 4): Eq. 6 gives (1/2, 3/4, 1/4), S = 3/4, S^2 = 9/16.
    # Eq. 7: (1/2)(16/9) = 8/9, (3/4)(16/9) = 4/3, (1/4)(16/9) = 4/9.
    distance = torch.tensor([[2.0, math.nan, 4.0]])
    own = torch.tensor([1])
    torch.testing.assert_close(
        reciprocal_activations(distance, own), torch.tensor([[0.5, 0.75, 0.25]])
    )
    torch.testing.assert_close(activations(distance, own), torch.tensor([[8 / 9, 4 / 3, 4 / 9]]))
    # tau = 4/9: exponents (2, 3, 1), so e^2, e^3, e^1 over their sum.
    weight = torch.tensor([[math.e**2, math.e**3, math.e]])
    torch.testing.assert_close(soft_labels(distance, own, 4 / 9), weight / weight.sum())


@pytest.mark.parametrize("radius", [0.5, 2.0, 5.0])
def test_nine_equal_distances_by_hand(radius: float) -> None:
    # Eq. 6: own 9/r, others 1/r, gap 8/r. Eq. 7: S^2 = 81/r^2, gap (8/r)(r^2/81) = 8r/81.
    distance, own = torch.full((1, 10), radius), torch.tensor([3])
    eq6 = reciprocal_activations(distance, own)
    eq7 = concentrate(eq6, own)
    assert (eq6[0, 3] - eq6[0, 0]).item() == pytest.approx(8 / radius)
    assert (eq7[0, 3] - eq7[0, 0]).item() == pytest.approx(8 * radius / 81)
    assert eq7[0, 3].item() == pytest.approx(radius / 9)
    # The published temperature leaves such a label nearly flat: e^(8r/81/0.3) against nine ones.
    share = math.exp(8 * radius / 81 / 0.3)
    top = soft_labels(distance, own, 0.3)[0, 3].item()
    assert top == pytest.approx(share / (share + 9), rel=1e-5)


@given(distances())
def test_requirement_1_own_class_is_strictly_largest(
    case: tuple[torch.Tensor, torch.Tensor],
) -> None:
    distance, own = case
    label = activations(distance, own)
    own_entry = label.gather(1, own[:, None])
    others = label.scatter(1, own[:, None], -INF)
    assert bool((own_entry[:, 0] > others.amax(dim=1)).all())


@given(distances())
def test_requirement_2_farther_classes_get_less(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    distance, own = case
    label = activations(distance, own)
    for row, m in enumerate(own.tolist()):
        for j in range(distance.shape[1]):
            for k in range(distance.shape[1]):
                if m in (j, k) or distance[row, j] <= distance[row, k] * (1 + 1e-12):
                    continue
                assert label[row, j] < label[row, k]


@given(distances(), st.integers(0, 7), st.floats(1.01, 100))
def test_requirement_3_holds_when_no_distance_shrinks(
    case: tuple[torch.Tensor, torch.Tensor], column: int, factor: float
) -> None:
    distance, own = case
    grown = distance * 1.001
    grown[:, column % distance.shape[1]] *= factor
    before, after = activations(distance, own), activations(grown, own)
    assert bool((after.gather(1, own[:, None]) > before.gather(1, own[:, None])).all())


@given(distances(least=2), st.floats(1e-2, 1e2))
def test_scaling_distances_scales_activations(
    case: tuple[torch.Tensor, torch.Tensor], factor: float
) -> None:
    # So requirement 3 holds between rows of the same spread: the larger sum is the larger factor.
    distance, own = case
    torch.testing.assert_close(
        activations(distance * factor, own), activations(distance, own) * factor
    )


def test_requirement_3_fails_for_plain_sums_of_distances() -> None:
    # Sums 1 + 9 = 10 > 4 + 4 = 8, but 1 / (1 + 1/9) = 0.9 < 1 / (1/4 + 1/4) = 2.
    distance, own = torch.tensor([[1.0, 1.0, 9.0], [1.0, 4.0, 4.0]]), torch.tensor([0, 0])
    torch.testing.assert_close(activations(distance, own)[:, 0], torch.tensor([0.9, 2.0]))


@given(distances(), st.randoms(use_true_random=False))
def test_renaming_classes_permutes_the_label(
    case: tuple[torch.Tensor, torch.Tensor], random: object
) -> None:
    distance, own = case
    order = list(range(distance.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    renamed = torch.tensor([order.index(m) for m in own.tolist()])
    torch.testing.assert_close(
        soft_labels(distance[:, order], renamed, 0.3), soft_labels(distance, own, 0.3)[:, order]
    )


@given(distances())
def test_rows_do_not_depend_on_each_other(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    distance, own = case
    whole = soft_labels(distance, own, 0.3)
    for row in range(len(own)):
        alone = soft_labels(distance[row : row + 1], own[row : row + 1], 0.3)
        torch.testing.assert_close(whole[row], alone[0])


def test_the_own_column_is_never_read() -> None:
    own = torch.tensor([0])
    results = [
        activations(torch.tensor([[value, 2.0, 4.0]]), own) for value in (0.0, -1.0, INF, math.nan)
    ]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_a_class_that_was_not_found_gets_zero() -> None:
    # r = (2, 4, inf): S = 3/4 as without the third class.
    label = activations(torch.tensor([[1.0, 2.0, 4.0, INF]]), torch.tensor([0]))
    torch.testing.assert_close(label, torch.tensor([[4 / 3, 8 / 9, 4 / 9, 0.0]]))


def test_a_single_class_found_ties_with_the_own_class() -> None:
    # r = 5 only: a_m = 1 / (1/5) = 5 and a_n = (1/5) / (1/25) = 5.
    label = activations(torch.tensor([[1.0, 5.0, INF]]), torch.tensor([0]))
    torch.testing.assert_close(label, torch.tensor([[5.0, 5.0, 0.0]]))


def test_nothing_found_is_the_plain_label() -> None:
    label = activations(torch.full((1, 3), INF), torch.tensor([2]))
    assert label.tolist() == [[0.0, 0.0, CERTAIN]]
    for temperature in (0.01, 0.3, 20.0):
        assert temper(label, temperature).tolist() == [[0.0, 0.0, 1.0]]


@given(st.floats(1e-30, 1e-20), st.floats(1e20, 1e30))
def test_extreme_distances_stay_finite(near: float, far: float) -> None:
    distance = torch.tensor([[1.0, near, far], [1.0, near, near], [1.0, far, far]])
    assert bool(torch.isfinite(activations(distance, torch.tensor([0, 0, 0]))).all())


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, -INF, math.nan, 1e-40])
def test_a_distance_that_is_no_distance_is_refused(value: float) -> None:
    distance = torch.tensor([[1.0, 1.0, 1.0], [1.0, value, 1.0]])
    with pytest.raises(InputError, match="row 1, class 1"):
        reciprocal_activations(distance, torch.tensor([0, 0]))


@pytest.mark.parametrize("own", [-1, 3])
def test_own_out_of_range_is_refused(own: int) -> None:
    with pytest.raises(InputError, match="from 0 to 2"):
        soft_labels(torch.ones(1, 3), torch.tensor([own]), 1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, INF, math.nan])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(InputError, match="temperature must be"):
        temper(torch.ones(1, 3), temperature)


def test_an_empty_set_gives_an_empty_result() -> None:
    assert soft_labels(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64), 0.3).shape == (0, 3)
