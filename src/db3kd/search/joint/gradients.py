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
LAST = 8  # steps whose mean is the direction


def nearest(
    models: Sequence[nn.Module],
    origin: Float[Tensor, "row *image"],
    target: Int[Tensor, " row"],
    *,
    steps: int,
    bounds: tuple[float, float],
    shrink: float = 0.05,
) -> Float[Tensor, "row *image"]:
    """The models' own nearest point of a class, found by DDN (Rony et al., CVPR 2019).

    Direction and norm are decoupled: each step follows the gradient of the cross-entropy, then the
    norm shrinks by `shrink` where the point has the class and grows where it has not. The models
    take turns, a step each, so that many cost no more than one; what the last steps have in common
    is returned (their mean), since only its direction matters. No query; nothing is random.

    >>> brighter = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> brighter[1].weight.data = torch.tensor([[0.0] * 4, [1.0] * 4])
    >>> brighter[1].bias.data = torch.tensor([3.0, 0.0])  # class 1 where the mean is above 3/4
    >>> found = nearest([brighter], torch.full((1, 1, 2, 2), 0.5), torch.tensor([1]), steps=50,
    ...                 bounds=(0.0, 1.0))
    >>> found.flatten().round(decimals=2)
    tensor([0.7500, 0.7500, 0.7500, 0.7500])
    """
    some = inference_batch(origin.shape[1:])
    parts = zip(torch.split(origin, some), torch.split(target, some), strict=True)
    found = [_ddn(models, start, wanted, steps, bounds, shrink) for start, wanted in parts]
    return torch.cat(found) if found else origin.clone()


def _ddn(
    models: Sequence[nn.Module],
    origin: Tensor,
    target: Tensor,
    steps: int,
    bounds: tuple[float, float],
    shrink: float,
) -> Tensor:
    move, mean = torch.zeros_like(origin), torch.zeros_like(origin)
    length = torch.ones_like(origin.flatten(1)[:, 0])
    for done in range(steps):
        scores, slope = _slope(models[done % len(models)], origin + move, target)
        step = 0.01 + 0.99 * (1 + math.cos(math.pi * done / steps)) / 2
        move = move - step * slope / per_row(norm(slope).clamp(min=TINY), slope)
        length = length * torch.where(scores.argmax(1) == target, 1 - shrink, 1 + shrink)
        move = move * per_row(length / norm(move).clamp(min=TINY), move)
        move = (origin + move).clamp(*bounds) - origin
        if done >= steps - LAST:
            mean += move / min(LAST, steps)
    return origin + mean


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
