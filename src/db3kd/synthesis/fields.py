"""Band-limited noise, which structured images are made of."""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from db3kd.networks import Shape


@cache
def blend(size: int, points: int) -> Float[Tensor, "pixel point"]:
    """Weights of so many points, evenly spread, in each pixel: smooth, between two neighbours.

    >>> blend(4, 2).sum(1)
    tensor([1., 1., 1., 1.])
    """
    place = (torch.arange(size) + 0.5) / size * points - 0.5
    away = (place[:, None] - torch.arange(points)).abs().clamp_max(1)
    weights = 1 - away * away * (3 - 2 * away)
    return weights / weights.sum(1, keepdim=True)


def field(
    count: int, shape: Shape, points: tuple[int, int], draw: Generator
) -> Float[Tensor, "row channels height width"]:
    """Band-limited noise: normal numbers on a grid of so many points down and across, blended.

    Each image and channel has mean 0 and standard deviation 1. Random: `draw`.

    >>> noise = field(2, (1, 8, 8), (2, 3), torch.Generator().manual_seed(0))
    >>> noise.shape, bool(noise.mean().abs() < 1e-6)
    (torch.Size([2, 1, 8, 8]), True)
    """
    channels, height, width = shape
    grid = torch.randn(count * channels, *points, generator=draw)
    noise = (blend(height, points[0]) @ grid @ blend(width, points[1]).T).flatten(1)
    noise = noise.sub_(noise.mean(1, keepdim=True))
    # Not `std`, which is ten times as slow on a CPU.
    deviation = torch.linalg.vector_norm(noise, dim=1, keepdim=True) / math.sqrt(height * width)
    return noise.div_(deviation.clamp_min_(1e-6)).reshape(count, *shape)


def points(most: int, draw: Generator) -> tuple[int, int]:
    """How many points a grid has, down and across: from 2 to `most`, small ones more often.

    >>> all(2 <= count <= 14 for count in points(14, torch.Generator().manual_seed(0)))
    True
    """
    power = torch.rand(2, generator=draw) * math.log(max(most, 2) / 2)
    down, across = (2 * power.exp()).round().int().tolist()
    return down, across


def between(count: int, low: float, high: float, draw: Generator) -> Float[Tensor, "row 1 1 1"]:
    """A number of its own for each image, evenly spread.

    >>> between(3, 2.0, 4.0, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 1, 1, 1])
    """
    return torch.rand(count, 1, 1, 1, generator=draw) * (high - low) + low


def often(count: int, share: float, draw: Generator) -> Float[Tensor, "row 1 1 1"]:
    """1 for about that share of the images, 0 for the others.

    >>> often(3, 1.0, torch.Generator().manual_seed(0)).flatten()
    tensor([1., 1., 1.])
    """
    return (torch.rand(count, 1, 1, 1, generator=draw) < share).float()


def centre(height: int, width: int, count: int, draw: Generator) -> Float[Tensor, "row 1 y x"]:
    """A hill in the middle, of a height and steepness of its own for each image.

    >>> hill = centre(5, 5, 1, torch.Generator().manual_seed(0))
    >>> bool(hill[0, 0, 2, 2] > hill[0, 0, 0, 0])
    True
    """
    down = torch.linspace(-1, 1, height).square().reshape(1, 1, -1, 1)
    across = torch.linspace(-1, 1, width).square().reshape(1, 1, 1, -1)
    away = down * between(count, 0.5, 2.0, draw) + across * between(count, 0.5, 2.0, draw)
    return away.neg_().add_(0.7).mul_(between(count, 0.5, 2.5, draw))
