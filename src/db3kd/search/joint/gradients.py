"""Where a surrogate thinks the boundary is: proposals for the teacher to verify.

A surrogate is any module that gives scores and gradients. Nothing here is believed: a proposal only
says in which direction, and from what distance on, the teacher is asked.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from db3kd.search.boundary import norm, per_row
from db3kd.student.networks import inference_batch

TINY = 1e-12
LAST = 5  # steps whose mean is the direction
COLD, WARM = 0.7, 0.35  # length of the first step, as a share of the norm
FINE = 0.01  # that of the last step
COLD_SHRINK, WARM_SHRINK = 0.15, 0.05  # by how much the first step changes a norm
FINE_SHRINK = 0.03  # and the last one


def nearest(
    models: Sequence[nn.Module],
    origin: Float[Tensor, "row *image"],
    target: Int[Tensor, " row"],
    *,
    steps: int,
    bounds: tuple[float, float],
    start: Float[Tensor, "row *image"] | None = None,
) -> Float[Tensor, "row *image"]:
    """The models' own nearest point of a class, found by DDN (Rony et al., CVPR 2019).

    Direction and norm are decoupled: each step follows the gradient of the cross-entropy, then the
    norm shrinks where the point has the class and grows where it has not. Unlike there, a step is a
    share of the norm, and so is what the norm changes by, both large at first; the norm begins
    where the first gradient says that the cross-entropy is log 2. So a fifth of the steps is
    enough, at any scale. `start` holds points near the boundary to begin at instead, for rows where
    it is not the origin.

    The models take turns, a step each, so that many cost no more than one; what the last steps have
    in common is returned (their mean), since only its direction matters. Costs no query, and
    `steps` gradients a row; nothing is random.

    >>> brighter = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> brighter[1].weight.data = torch.tensor([[0.0] * 4, [1.0] * 4])
    >>> brighter[1].bias.data = torch.tensor([3.0, 0.0])  # class 1 where the mean is above 3/4
    >>> found = nearest([brighter], torch.full((1, 1, 2, 2), 0.5), torch.tensor([1]), steps=50,
    ...                 bounds=(0.0, 1.0))
    >>> found.flatten().round(decimals=2)
    tensor([0.7500, 0.7500, 0.7500, 0.7500])
    """
    some = inference_batch(origin.shape[1:])
    begin = origin if start is None else start
    parts = zip(*(torch.split(rows, some) for rows in (origin, target, begin)), strict=True)
    found = [_ddn(models, here, wanted, near, steps, bounds) for here, wanted, near in parts]
    return torch.cat(found) if found else origin.clone()


def _ddn(
    models: Sequence[nn.Module],
    origin: Tensor,
    target: Tensor,
    start: Tensor,
    steps: int,
    bounds: tuple[float, float],
) -> Tensor:
    mean, move = torch.zeros_like(origin), start - origin
    length = norm(move)
    cold = length == 0
    share, change = torch.where(cold, COLD, WARM), torch.where(cold, COLD_SHRINK, WARM_SHRINK)
    for done in range(steps):
        scores, slope = _slope(models[done % len(models)], origin + move, target)
        size, late = norm(slope).clamp(min=TINY), done / steps
        shrink = _falling(change, FINE_SHRINK, late)
        there = scores.argmax(1) == target
        length = length * torch.where(there, 1 - shrink, 1 + shrink)
        if not done:
            above = functional.cross_entropy(scores, target, reduction="none") - math.log(2)
            length = torch.where(cold, above.clamp(min=0.05) / size, length)
        move = move - per_row(length * _falling(share, FINE, late) / size, slope) * slope
        move = move * per_row(length / norm(move).clamp(min=TINY), move)
        move = (origin + move).clamp(*bounds) - origin
        if done >= steps - LAST:
            mean += move / min(LAST, steps)
    return origin + mean


def _falling(first: Tensor, last: float, done: float) -> Tensor:
    """From the first values to the last, along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def tangent(
    surrogate: nn.Module,
    origin: Float[Tensor, "row *image"],
    point: Float[Tensor, "row *image"],
    target: Int[Tensor, " row"],
) -> Float[Tensor, "row *image"]:
    """The nearest point of the plane through a boundary point with the surrogate's normal there.

    The point is the teacher's own, so only the direction of the surrogate's gradient is trusted,
    not where it thinks the boundary is. It is the foot of the perpendicular, the end of CGBA's
    semicircle (Reza et al., 2023). No query; nothing is random.

    >>> brighter = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    >>> _ = nn.init.zeros_(brighter[1].weight), nn.init.constant_(brighter[1].weight[1][:1], 1.0)
    >>> tangent(brighter, torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.5, 0.7]]]]),
    ...         torch.tensor([1]))
    tensor([[[[0.5000, 0.0000]]]])
    """
    some = inference_batch(point.shape[1:])
    parts = zip(torch.split(point, some), torch.split(target, some), strict=True)
    slopes = [_slope(surrogate, here, wanted)[1] for here, wanted in parts]
    normal = -torch.cat(slopes)
    normal = normal / per_row(norm(normal).clamp(min=TINY), normal)
    height = (normal * (point - origin)).flatten(1).sum(1)
    return origin + per_row(height, normal) * normal


def _slope(surrogate: nn.Module, points: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scores, and the gradient of each row's cross-entropy."""
    with torch.enable_grad():
        points = points.detach().requires_grad_(True)
        scores = surrogate(points)
        loss = functional.cross_entropy(scores, target, reduction="sum")
        (slope,) = torch.autograd.grad(loss, points)
    return scores.detach(), slope
