"""The loss of distillation: cross-entropy, and divergence from soft labels."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from db3kd import student
from db3kd.student.soft_labels import temper

LOG = math.log


def loss(logits: Tensor, labels: Tensor, soft: Tensor | None, tau: float, weight: float) -> float:
    return float(student.distillation_loss(logits, labels, soft, temperature=tau, weight=weight))


def test_loss_by_hand() -> None:
    # Logits (0, ln 3): P_s = (1/4, 3/4), CE at class 1 = ln(4/3).
    # tau 1, P_t = (1/2, 1/2): KL = 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3); with weight 2: ln(4/3).
    logits, labels, soft = torch.tensor([[0.0, LOG(3)]]), torch.tensor([1]), torch.full((1, 2), 0.5)
    assert loss(logits, labels, None, 1.0, 2.0) == pytest.approx(LOG(4 / 3))
    assert loss(logits, labels, soft, 1.0, 0.0) == pytest.approx(LOG(4 / 3))
    assert loss(logits, labels, soft, 1.0, 2.0) == pytest.approx(2 * LOG(4 / 3))
    # tau 1/2: logits / tau = (0, ln 9), P_s = (1/10, 9/10), KL = 1/2 ln 5 + 1/2 ln(5/9) = ln(5/3).
    # No factor tau^2: it would be a quarter of that.
    assert loss(logits, labels, soft, 0.5, 1.0) == pytest.approx(LOG(4 / 3) + LOG(5 / 3))


def test_a_certain_teacher_is_a_second_cross_entropy() -> None:
    # P_t = (0, 1): 0 ln 0 counts as 0, KL = -ln P_s(1) = ln(4/3), the cross-entropy.
    logits, labels, soft = torch.tensor([[0.0, LOG(3)]]), torch.tensor([1]), torch.eye(2)[1:]
    assert loss(logits, labels, soft, 1.0, 1.0) == pytest.approx(2 * LOG(4 / 3))


@given(st.integers(0, 1000), st.floats(0.1, 20))
@settings(deadline=None, max_examples=30)
def test_the_divergence_is_zero_where_both_agree_and_positive_elsewhere(
    seed: int, tau: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    other = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (4,), generator=generator)
    plain = loss(logits, labels, None, tau, 1.0)
    assert loss(logits, labels, temper(logits, tau), tau, 1.0) == pytest.approx(plain, abs=1e-12)
    assert loss(logits, labels, temper(other, tau), tau, 1.0) > plain


def test_both_terms_are_means_over_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator)
    labels, soft = torch.tensor([0, 1, 2]), temper(torch.randn(3, 4, generator=generator), 0.3)
    twice = loss(logits.repeat(2, 1), labels.repeat(2), soft.repeat(2, 1), 0.3, 1.0)
    assert twice == pytest.approx(loss(logits, labels, soft, 0.3, 1.0), rel=1e-5)


@pytest.mark.parametrize("tau", [0.3, 1.0, 20.0])
def test_gradient_agrees_with_finite_differences_and_with_its_closed_form(tau: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2])
    soft = temper(torch.randn(3, 4, generator=generator, dtype=torch.float64), tau)

    def function(values: Tensor) -> Tensor:
        return student.distillation_loss(values, labels, soft, temperature=tau, weight=2.0)

    assert torch.autograd.gradcheck(function, (logits,))
    torch.autograd.backward(function(logits))
    with torch.no_grad():
        hard = torch.softmax(logits, dim=1) - nn.functional.one_hot(labels, 4)
        distilled = 2.0 / tau * (temper(logits, tau) - soft)
    torch.testing.assert_close(logits.grad, (hard + distilled) / 3)


# Labels and soft labels side by side


def test_a_sample_without_a_soft_label_has_its_cross_entropy_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 3, generator=draw), torch.tensor([0, 1, 2, 0, 1])
    soft = torch.randn(5, 3, generator=draw).softmax(1)
    has = torch.tensor([True, False, True, False, False])

    def loss(rows: list[int], soft: Tensor | None, softened: Tensor | None = None) -> float:
        return float(
            student.distillation_loss(
                logits[rows], labels[rows], soft, temperature=0.3, weight=2.0, softened=softened
            )
        )

    both = sum(loss([row], soft[[row]]) for row in (0, 2))
    plain = sum(loss([row], None) for row in (1, 3, 4))
    assert loss([0, 1, 2, 3, 4], soft, has) == pytest.approx((both + plain) / 5, rel=1e-5)


def test_a_sample_without_a_label_has_its_divergence_alone() -> None:
    # P_s = (1/4, 3/4), P_t = (1/2, 1/2): KL = 1/2 ln(4/3); a second sample: CE = ln(4/3) besides.
    logits, soft = torch.tensor([[0.0, LOG(3)]] * 2), torch.full((2, 2), 0.5)
    assert loss(logits[:1], torch.tensor([-1]), soft[:1], 1.0, 1.0) == pytest.approx(LOG(4 / 3) / 2)
    both = loss(logits, torch.tensor([-1, 1]), soft, 1.0, 1.0)
    assert both == pytest.approx((LOG(4 / 3) / 2 + LOG(4 / 3) * 3 / 2) / 2)


def test_without_a_weight_for_labels_soft_labels_are_all_there_is() -> None:
    logits, soft = torch.tensor([[0.0, LOG(3)]]), torch.full((1, 2), 0.5)
    for label in (0, 1):
        found = student.distillation_loss(
            logits, torch.tensor([label]), soft, temperature=1.0, weight=2.0, label_weight=0.0
        )
        assert float(found) == pytest.approx(LOG(4 / 3))
