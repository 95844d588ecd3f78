"""Soft labels from distances to the teacher's boundary: Eq. 6, Eq. 7 and the temperature.

There are three pure functions, listed in the order in which they are applied. `soft_labels` applies
all three. Rows are independent of each other. Renaming the classes only permutes the result.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.errors import InputError

CERTAIN = 1e4
"""Activation of a sample's own class if no other class was found at any distance."""


def reciprocal_activations(
    distance: Float[Tensor, "sample classes"], teacher_labels: Int[Tensor, "sample"]
) -> Float[Tensor, "sample classes"]:
    r"""Turn distances into activations that fall with distance and are largest at the own class.

    Eq. 6: a^_n = 1 / r_n for n != m, and a^_m = sum over i != m of 1 / r_i.

    - `distance[s, n]`: the distance of sample s to class n, in the units of the image. +inf means
      that nothing was found, and gives a zero. The column of the own class m is not read.
    - `teacher_labels[s]`: the teacher's answer m, the own class of sample s.

    The own entry is strictly the largest only if at least two other classes were found. With a
    single one the sum equals its reciprocal, which is a tie.

    A distance of zero would make the label infinite. It means that an image and a reference of
    another class are the same picture, so the row is wrong rather than extreme, and it is refused.
    A caller who wants a floor can set one (`distance.clamp(min=floor)`).

    Costs no query. Nothing is random.

    Raises:
        InputError: a distance to another class is zero, negative, NaN, or so small that its
            reciprocal is infinite; or `teacher_labels` has another length, or a label that is not a
            class.

    >>> distance = torch.tensor([[0.0, 2.0, 4.0]])
    >>> reciprocal_activations(distance, torch.tensor([0]))
    tensor([[0.7500, 0.5000, 0.2500]])
    """
    mask = _own_mask(distance, teacher_labels)
    reciprocal = distance.reciprocal().masked_fill(mask, 0.0)
    wrong = ~torch.isfinite(reciprocal) | (distance.masked_fill(mask, 1.0) <= 0)
    if bool(wrong.any()):
        row, column = (int(i) for i in wrong.nonzero()[0])
        raise InputError(
            f"distance to another class must be above zero, got {float(distance[row, column])} for"
            f" row {row}, class {column}; drop that reference or raise the distance to a floor"
        )
    return torch.where(mask, reciprocal.sum(dim=1, keepdim=True), reciprocal)


def concentrate(
    activations: Float[Tensor, "sample classes"], teacher_labels: Int[Tensor, "sample"]
) -> Float[Tensor, "sample classes"]:
    r"""Rescale the activations of Eq. 6 so that samples far from the boundary are surer.

    Eq. 7: a_n = a^_n / S^2 with S = sum over i != m of 1 / r_i, so that a_m = 1 / S and
    a_n = (1 / r_n) / S^2.

    If all distances are multiplied by c, so are all activations. Section 3.2.2 states three
    requirements:

    1. "The own entry is the largest" holds, with a tie if only one other class was found. With two
       classes in all, every label is therefore one half each; the method needs three classes.
    2. "Farther classes get smaller entries" holds.
    3. "A larger *sum of distances* gives a larger own entry" does not hold as the paper words it,
       since a_m = 1 / S is the *harmonic* sum. Distances (1, 9) sum to 10 and give 0.9, distances
       (4, 4) sum to 8 and give 2. Two weaker statements hold. If one distance grows and none
       shrinks, a_m grows. Of two rows that differ only by a factor, the one with the larger sum has
       the larger a_m.

    If no other class was found (S = 0), the result is the limit, cut off to be finite: a_m is
    `CERTAIN` and all others are 0. This is one-hot after any temperature below about 90.

    Takes the result of `reciprocal_activations`, and has the same shapes. Costs no query. Nothing
    is random.

    Raises:
        InputError: `teacher_labels` has another length, or a label that is not a class.

    >>> concentrate(torch.tensor([[0.75, 0.5, 0.25]]), torch.tensor([0]))
    tensor([[1.3333, 0.8889, 0.4444]])
    """
    mask = _own_mask(activations, teacher_labels)
    total = activations.masked_fill(mask, 0.0).sum(dim=1, keepdim=True)
    found = total > 0
    divisor = torch.where(found, total, torch.ones_like(total))
    # Twice, because the square of a large sum overflows where the quotient does not.
    return torch.where(found, activations / divisor / divisor, mask * CERTAIN)


def temper(
    activations: Float[Tensor, "sample classes"], temperature: float
) -> Float[Tensor, "sample classes"]:
    r"""Turn activations into probabilities.

    Section 3.1: P^tau = softmax(a / tau). The paper uses tau = 0.3 on the activations of Eq. 7.

    Each row of activations gives one row of probabilities. Costs no query. Nothing is random.

    Raises:
        InputError: the temperature is not a finite number above zero.

    >>> temper(torch.tensor([[0.0, math.log(3.0)]]), 1.0)
    tensor([[0.2500, 0.7500]])
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(
            f"temperature must be a finite number above 0, got {temperature}; the paper uses 0.3"
        )
    return torch.softmax(activations / temperature, dim=1)


def soft_labels(
    distance: Float[Tensor, "sample classes"],
    teacher_labels: Int[Tensor, "sample"],
    temperature: float,
) -> Float[Tensor, "sample classes"]:
    r"""Turn distances into probabilities: Eq. 6, Eq. 7 and the temperature in one call.

    Shapes, units and limits are those of the three functions. Costs no query. Nothing is random.

    Raises:
        InputError: as in the three functions.

    >>> soft_labels(torch.tensor([[0.0, 2.0, 4.0]]), torch.tensor([0]), 1.0)
    tensor([[0.4873, 0.3124, 0.2003]])
    """
    return temper(
        concentrate(reciprocal_activations(distance, teacher_labels), teacher_labels), temperature
    )


def _own_mask(
    values: Float[Tensor, "sample classes"], teacher_labels: Int[Tensor, "sample"]
) -> Bool[Tensor, "sample classes"]:
    """Mark the entry of each row that belongs to the teacher's label."""
    samples, classes = values.shape
    if len(teacher_labels) != samples:
        raise InputError(
            f"teacher_labels must have one class for each of {samples} rows,"
            f" got {len(teacher_labels)}"
        )
    wrong = ((teacher_labels < 0) | (teacher_labels >= classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"teacher_labels must be classes from 0 to {classes - 1},"
            f" got {int(teacher_labels[row])} in row {row}"
        )
    return teacher_labels[:, None] == torch.arange(classes, device=teacher_labels.device)
