"""Band-limited noise, from which structured images are made: numbers on a grid, interpolated."""

import math
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.student.networks import Shape

LEAST = 1e-3  # of a standard deviation: less is rounding, in noise of few pixels


@cache
def blend(size: int, points: int) -> Float[Tensor, "pixel point"]:
    """Weights in each pixel of evenly spaced points, smooth between two neighbouring points.

    >>> blend(4, 2).sum(1)
    tensor([1., 1., 1., 1.])
    """
    place = (torch.arange(size) + 0.5) / size * points - 0.5
    away = (place[:, None] - torch.arange(points)).abs().clamp_max(1)
    weights = 1 - away * away * (3 - 2 * away)
    return weights / weights.sum(1, keepdim=True)


@cache
def blends(size: int, most: int) -> Float[Tensor, "points pixel point"]:
    """The same for every number of points up to `most`, filled up with points of weight 0.

    >>> blends(4, 3).shape, bool((blends(4, 3)[2, :, :2] == blend(4, 2)).all())
    (torch.Size([4, 4, 3]), True)
    """
    table = torch.zeros(most + 1, size, most)
    for points in range(1, most + 1):
        table[points, :, :points] = blend(size, points)
    return table


def standard(noise: Float[Tensor, "row channels height width"]) -> Tensor:
    """Scale each image and channel, in place, to mean 0 and standard deviation 1.

    >>> standard(torch.tensor([[[[1.0, 3.0]]]]))
    tensor([[[[-1.,  1.]]]])
    """
    flat = noise.flatten(2)
    flat.sub_(flat.mean(2, keepdim=True))
    # Not `std`, which is ten times as slow on a CPU.
    deviation = torch.linalg.vector_norm(flat, dim=2, keepdim=True) / math.sqrt(flat.shape[2])
    return flat.div_(deviation.clamp_min_(1e-6)).reshape(noise.shape)


class Noise(NamedTuple):
    """Band-limited noise as it was interpolated, and what standardises each image and channel.

    `values * scale + move` has mean 0 and standard deviation 1.
    """

    values: Float[Tensor, "row channels height width"]
    scale: Float[Tensor, "row channels 1 1"]
    move: Float[Tensor, "row channels 1 1"]


def noise_of(values: Float[Tensor, "row channels height width"]) -> Noise:
    """Measure noise, so that whoever scales it further need not touch each pixel twice.

    >>> noise = noise_of(torch.tensor([[[[1.0, 3.0]]]]))
    >>> (noise.values * noise.scale + noise.move).round(decimals=3)
    tensor([[[[-1.,  1.]]]])
    """
    flat = values.flatten(2)
    pixels, total = flat.shape[2], flat.sum(2, keepdim=True)
    # Not `std`, which is ten times as slow on a CPU.
    square = torch.linalg.vector_norm(flat, dim=2, keepdim=True).square_()
    scale = square.addcmul_(total, total, value=-1 / pixels).clamp_min_(pixels * LEAST**2).rsqrt_()
    scale = scale.mul_(math.sqrt(pixels)).unsqueeze_(3)
    return Noise(values, scale, total.unsqueeze_(3).mul_(scale).mul_(-1 / pixels))


def blended(
    grid: Float[Tensor, "row channels most most"],
    points: tuple[Int[Tensor, " row"], Int[Tensor, " row"]],
    size: tuple[int, int],
) -> Float[Tensor, "row channels height width"]:
    """Interpolate a grid per image, of which `points` (down, across) are used; `size` in pixels.

    >>> grid = torch.tensor([[[[1.0, 3.0, 9.0], [1.0, 3.0, 9.0], [9.0, 9.0, 9.0]]]])
    >>> blended(grid, (torch.tensor([2]), torch.tensor([2])), (1, 2))
    tensor([[[[1., 3.]]]])
    """
    most, place = grid.shape[3], grid.device
    down, across = (
        blends(side, most).to(place)[count][:, None]
        for side, count in zip(size, points, strict=True)
    )
    return down @ grid @ across.mT


def interpolated(
    grid: Float[Tensor, "row down across"], out: Float[Tensor, "row height width"]
) -> None:
    """The same for grids of one size, all of whose points are used; `out` is overwritten.

    >>> out = torch.empty(1, 1, 2)
    >>> interpolated(torch.tensor([[[1.0, 3.0], [1.0, 3.0]]]), out), out
    (None, tensor([[[1., 3.]]]))
    """
    count, down, across = grid.shape
    tall, wide = _sides(count, *out.shape[1:], down, across)
    torch.bmm(tall, (grid.reshape(-1, across) @ wide).view(count, down, -1), out=out)


@cache
def _sides(count: int, height: int, width: int, down: int, across: int) -> tuple[Tensor, Tensor]:
    """The matrices of `interpolated`, as it multiplies by them; the first is one for all images."""
    return blend(height, down).expand(count, height, down), blend(width, across).T.contiguous()


def field(
    count: int, shape: Shape, points: tuple[int, int], draw: Generator
) -> Float[Tensor, "row channels height width"]:
    """Band-limited noise from random grids of `points` (down, across).

    Each image and channel has mean 0 and standard deviation 1. Random: `draw`.

    >>> noise = field(2, (1, 8, 8), (2, 3), torch.Generator().manual_seed(0))
    >>> noise.shape, bool(noise.mean().abs() < 1e-6)
    (torch.Size([2, 1, 8, 8]), True)
    """
    channels, height, width = shape
    grid = torch.randn(count, channels, *points, generator=draw)
    return standard(blend(height, points[0]) @ grid @ blend(width, points[1]).T)


def points(most: int, draw: Generator) -> tuple[int, int]:
    """Draw how many points a grid has, down and across: 2 to `most`, small numbers more often.

    Random: `draw`.

    >>> all(2 <= count <= 14 for count in points(14, torch.Generator().manual_seed(0)))
    True
    """
    down, across = counted(torch.rand(2, generator=draw), most).tolist()
    return down, across


def counted(share: Float[Tensor, "*row"], most: int) -> Int[Tensor, "*row"]:
    """Turn shares from 0 to 1 into numbers from 2 to `most`, every octave equally often.

    >>> counted(torch.tensor([0.0, 0.5, 1.0]), 8)
    tensor([2, 4, 8])
    """
    return (2 * (share * math.log(max(most, 2) / 2)).exp()).round().long()


def between(count: int, low: float, high: float, draw: Generator) -> Float[Tensor, "row 1 1 1"]:
    """Draw a number for each image, uniform from `low` to `high`. Random: `draw`.

    >>> numbers = between(1000, 2.0, 4.0, torch.Generator().manual_seed(0)).flatten()
    >>> torch.stack([numbers.min(), numbers.mean(), numbers.max()]).round(decimals=1)
    tensor([2., 3., 4.])
    """
    return torch.rand(count, 1, 1, 1, generator=draw) * (high - low) + low


def often(count: int, share: float, draw: Generator) -> Float[Tensor, "row 1 1 1"]:
    """1 for about this share of the images, 0 for the others. Random: `draw`.

    >>> often(3, 1.0, torch.Generator().manual_seed(0)).flatten()
    tensor([1., 1., 1.])
    """
    return (torch.rand(count, 1, 1, 1, generator=draw) < share).float()
