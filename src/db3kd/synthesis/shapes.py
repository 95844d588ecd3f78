"""Structured images without any data: soft shapes and strokes with a texture, on a ground.

One definition for grey and colour images of any size; nothing in it was fitted to a data set. It
follows what is known of all photographs and drawings: neighbouring pixels are alike, one thing lies
before another, things are in the middle and often symmetric. (Learning from such images: Baradad et
al. 2021; as priors of a hard-label distillation: DIP-KD, 2026.)
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from db3kd.networks import Shape
from db3kd.synthesis.fields import between, centre, field, often, points

FAMILY = 64  # images that share the grids of their noise
STROKES, SYMMETRIC, CENTRED = 0.4, 0.35, 0.7  # shares of the images
DARK, BRIGHT = 0.55, 0.1  # shares of the images whose ground is the lowest or the highest value


def shapes(
    count: int, shape: Shape, draw: Generator, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, "row channels height width"]:
    """So many images of shapes on a ground, within the bounds.

    Costs no query. Random: `draw`, a generator on the CPU.

    >>> images = shapes(3, (3, 9, 7), torch.Generator().manual_seed(0))
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    (torch.Size([3, 3, 9, 7]), True)
    """
    low, high = bounds
    families = [FAMILY] * (count // FAMILY) + ([count % FAMILY] if count % FAMILY else [])
    made = [torch.empty(0, *shape), *(_family(some, shape, draw) for some in families)]
    order = torch.randperm(count, generator=draw)
    return torch.cat(made).index_select(0, order).mul_(high - low).add_(low).clamp_(low, high)


def _family(count: int, shape: Shape, draw: Generator) -> Tensor:
    """Images whose noise is on the same grids."""
    _, height, width = shape
    most = max(3, min(height, width) // 2)
    mask = _mask(count, (1, height, width), most, draw)
    ground = _ground(count, shape, most, draw)
    fill = _texture(count, shape, 2 * most, between(count, -1.0, 3.0, draw), draw)
    return torch.lerp(ground, fill, mask.expand(-1, shape[0], -1, -1))


def _mask(count: int, shape: Shape, most: int, draw: Generator) -> Tensor:
    """Where the thing is: all that is above a level of the noise, or a band along that level."""
    noise = field(count, shape, points(most, draw), draw)
    noise.addcmul_(between(count, 0.0, 1.0, draw), field(count, shape, points(most, draw), draw))
    mirrored = (noise + noise.flip(3)).div_(math.sqrt(2))
    noise.lerp_(mirrored, often(count, SYMMETRIC, draw))
    noise.addcmul_(often(count, CENTRED, draw), centre(*shape[1:], count, draw))
    noise.sub_(between(count, -1.0, 1.2, draw))
    sharp = between(count, math.log(1.5), math.log(15), draw).exp_()
    band = noise.abs().neg_().add_(between(count, 0.15, 0.6, draw)).mul_(2)
    return noise.lerp_(band, often(count, STROKES, draw)).mul_(sharp).sigmoid_()


def _ground(count: int, shape: Shape, most: int, draw: Generator) -> Tensor:
    """What the thing lies on: the lowest value, the highest, or a texture."""
    kind = torch.rand(count, generator=draw)
    ground = (kind >= DARK).float().reshape(-1, 1, 1, 1).repeat(1, *shape)
    soft = (kind >= DARK + BRIGHT).nonzero()[:, 0]
    if len(soft):
        level = between(len(soft), -3.0, 2.0, draw)
        ground[soft] = _texture(len(soft), shape, most, level, draw)
    return ground


def _texture(count: int, shape: Shape, most: int, level: Tensor, draw: Generator) -> Tensor:
    """A level, a tint, and noise about them; part of the noise is each colour's own."""
    channels, height, width = shape
    noise = field(count, (1, height, width), points(most, draw), draw)
    if channels > 1:
        noise = noise + between(count, 0.0, 1.0, draw) * field(
            count, shape, points(most, draw), draw
        )
        tint = torch.randn(count, channels, 1, 1, generator=draw)
        level = level + tint * between(count, 0.0, 1.0, draw)
    return (level + noise * between(count, 0.0, 1.5, draw)).sigmoid_()
