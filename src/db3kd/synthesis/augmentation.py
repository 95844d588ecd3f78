"""Augmentation: how new images are made from given ones, with one function for each kind of change.

All functions take images of any size and number of channels and a generator on the CPU. They return
images of the same shape. `grow` applies those that are switched on, in a fixed order. Geometry
comes first, in a single resampling. Then images are joined in pairs, then the light is changed,
then noise is added. Nothing here costs a query.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional

from db3kd.config.settings import AugmentationName

GEOMETRY: frozenset[AugmentationName] = frozenset(
    {"shift", "rotate", "scale", "shear", "crop", "flip"}
)
SHIFT = 0.11  # of the width and of the height, at most
ANGLE = math.pi / 12
SCALE = 0.15  # smaller or larger by this share, at most
SHEAR = 0.15
CROP = 0.6  # the smallest part of width and height that a crop leaves
LEAST_WEIGHT = 0.5  # of the first of two images that are mixed
PATCH = (0.2, 0.6)  # of width and height, smallest and largest
SHADE, GRID = 0.5, 4  # largest spread of the light's logarithm; grid points along a side
NOISE = 0.1
OFTEN = 0.5  # how often a change is made that happens or does not: crop, flip, mix, paste


def warped(
    images: Float[Tensor, "row channels height width"],
    names: Collection[AugmentationName],
    draw: Generator,
) -> tuple[Float[Tensor, "row channels height width"], Int[Tensor, " row"]]:
    """Shift, rotate, scale, shear, crop and flip, in one bilinear resampling.

    What is missing at the edges is filled with the nearest pixel. Also returns which images were
    flipped (0 or 1). Random: `draw`.

    >>> images = torch.arange(4.0).reshape(1, 1, 1, 4)
    >>> warped(images, (), torch.Generator())[0].flatten().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    count, _, height, width = images.shape

    def between(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=draw) * (high - low) + low

    one, zero = torch.ones(count), torch.zeros(count)
    angle = between(-ANGLE, ANGLE) if "rotate" in names else zero
    across, down = one, one
    if "scale" in names:
        across, down = between(1 - SCALE, 1 + SCALE), between(1 - SCALE, 1 + SCALE)
    shear = between(-SHEAR, SHEAR) if "shear" in names else zero
    x, y = zero, zero
    if "shift" in names:
        x, y = between(-2 * SHIFT, 2 * SHIFT), between(-2 * SHIFT, 2 * SHIFT)
    if "crop" in names:
        part = torch.where(between(0.0, 1.0) < OFTEN, between(CROP, 1.0), one)
        across, down = across * part, down * part
        x, y = x + between(-1.0, 1.0) * (1 - part), y + between(-1.0, 1.0) * (1 - part)
    flipped = between(0.0, 1.0) < OFTEN if "flip" in names else zero > 0
    across = torch.where(flipped, -across, across)
    matrix = placing(angle, across, down, x, y, ratio=height / width, shear=shear)
    if not GEOMETRY & set(names):
        return images, flipped.long()
    return resampled(images, matrix), flipped.long()


def placing(
    angle: Float[Tensor, " row"],
    across: Float[Tensor, " row"],
    down: Float[Tensor, " row"],
    x: Float[Tensor, " row"],
    y: Float[Tensor, " row"],
    *,
    ratio: float,
    shear: Float[Tensor, " row"] | float = 0.0,
) -> Float[Tensor, "row 2 3"]:
    """The matrix for `resampled` that rotates, scales across and down, shears and shifts.

    Angles are in radians. `ratio` is the height divided by the width, so that a rotation keeps the
    proportions of square pixels. Negative scales mirror.

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> placing(zero, -one, one, zero, zero, ratio=1.0).tolist()
    [[[-1.0, 0.0, 0.0], [-0.0, 1.0, 0.0]]]
    """
    return torch.stack(
        [
            torch.stack([angle.cos() * across, (shear - angle.sin()) * down * ratio, x], 1),
            torch.stack([angle.sin() * across / ratio, angle.cos() * down, y], 1),
        ],
        1,
    )


def resampled(
    images: Float[Tensor, "row channels height width"],
    matrix: Float[Tensor, "row 2 3"],
    *,
    padding: Literal["border", "zeros"] = "border",
) -> Float[Tensor, "row channels height width"]:
    """Sample bilinearly where the matrix sends each pixel; places are from -1 to 1.

    >>> images, mirror = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    >>> resampled(images, mirror).flatten().tolist()
    [2.0, 1.0]
    """
    count, _, height, width = images.shape
    # One product of (2 rows, 3) and (3, pixels), ten times as fast as `affine_grid`.
    grid = (
        (matrix.reshape(-1, 3) @ _places(height, width))
        .reshape(count, 2, height, width)
        .permute(0, 2, 3, 1)
    )
    return functional.grid_sample(
        images, grid.to(images.device), padding_mode=padding, align_corners=False
    )


@cache
def _places(height: int, width: int) -> Float[Tensor, "3 pixel"]:
    """Where each pixel is, from -1 to 1, across and down, and 1."""
    down = (torch.arange(height) + 0.5) * 2 / height - 1
    across = (torch.arange(width) + 0.5) * 2 / width - 1
    y, x = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(height * width)])


def mixed(
    images: Float[Tensor, "row *image"], others: Float[Tensor, "row *image"], draw: Generator
) -> Float[Tensor, "row *image"]:
    """Mix half of the images with another one, whose weight is at most equal. Random: `draw`.

    >>> white, black = torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    >>> float(mixed(white, black, torch.Generator().manual_seed(0)).min()) >= 0.5
    True
    """
    share = torch.rand(len(images), generator=draw) * (1 - LEAST_WEIGHT)
    share = share * (torch.rand(len(images), generator=draw) < OFTEN)
    return torch.lerp(images, others, _column(share, images))


def pasted(
    images: Float[Tensor, "row channels height width"],
    others: Float[Tensor, "row channels height width"],
    draw: Generator,
) -> Float[Tensor, "row channels height width"]:
    """Paste a rectangle of another image into half of the images, at the same place.

    Random: `draw`.

    >>> white, black = torch.ones(9, 1, 8, 8), torch.zeros(9, 1, 8, 8)
    >>> 0.5 < float(pasted(white, black, torch.Generator().manual_seed(0)).mean()) < 1
    True
    """
    count, _, height, width = images.shape

    def inside(size: int) -> Tensor:
        low, high = PATCH
        length = torch.rand(count, 1, generator=draw) * (high - low) + low
        start = torch.rand(count, 1, generator=draw) * (1 - length)
        place = (torch.arange(size) + 0.5) / size
        return (place > start) & (place < start + length)

    often = torch.rand(count, 1, generator=draw) < OFTEN
    down, across = inside(height) & often, inside(width)
    patch = (down[:, None, :, None] & across[:, None, None, :]).to(images.device)
    return torch.where(patch, others, images)


def shaded(
    images: Float[Tensor, "row channels height width"], low: float, draw: Generator
) -> Float[Tensor, "row channels height width"]:
    """Vary the light smoothly: multiply what is above `low` by a random field.

    The field is band-limited noise: log-normal numbers on a coarse grid, interpolated linearly.
    Each image has a strength of its own. All colours of an image share one field. Random: `draw`.

    >>> shaded(torch.zeros(2, 3, 8, 8), 0.0, torch.Generator()).unique()
    tensor([0.])
    """
    count, _, height, width = images.shape
    strength = torch.rand(count, 1, generator=draw) * SHADE
    points = (torch.randn(count, GRID * GRID, generator=draw) * strength).exp_()
    field = (points @ _blends(height, width)).reshape(count, 1, height, width).to(images.device)
    if not low:
        return images * field
    return torch.addcmul(images.new_tensor(low), images - low, field)


@cache
def _blends(height: int, width: int) -> Float[Tensor, "point pixel"]:
    """Weights of the grid's points in each pixel of an image."""
    return torch.einsum("ya,xb->abyx", _blend(height), _blend(width)).reshape(GRID * GRID, -1)


def _blend(size: int) -> Float[Tensor, "pixel point"]:
    """Weights of the grid's points in each pixel, linear between two neighbouring points."""
    place = (torch.arange(size) + 0.5) / size * (GRID - 1)
    return (1 - (place[:, None] - torch.arange(GRID)).abs()).clamp_min(0)


def noisy(
    images: Float[Tensor, "row *image"], span: float, draw: Generator
) -> Float[Tensor, "row *image"]:
    """Add uniform noise to every pixel, with a strength of its own for each image. Random: `draw`.

    >>> noisy(torch.zeros(1, 1, 2, 2), 1.0, torch.Generator().manual_seed(0)).abs().max() < NOISE
    tensor(True)
    """
    strength = torch.rand(len(images), generator=draw) * NOISE * span
    noise = torch.rand(images.shape, generator=draw) * 2 - 1
    return torch.addcmul(images, noise.to(images.device), _column(strength, images))


def _column(values: Tensor, images: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (images.ndim - 1)).to(images.device)


@dataclass(frozen=True)
class Grown:
    """New images and where they come from.

    `parents` and `partners` are the rows of the images that they were made from. If no change joins
    images, `partners` equals `parents`. `flipped` says which images were mirrored (0 or 1).
    """

    images: Float[Tensor, "row channels height width"]
    parents: Int[Tensor, " row"]
    partners: Int[Tensor, " row"]
    flipped: Int[Tensor, " row"]


def grow(
    block: Float[Tensor, "row channels height width"],
    parents: Int[Tensor, " row"],
    names: Collection[AugmentationName],
    *,
    bounds: tuple[float, float],
    draw: Generator,
) -> Grown:
    """Make one new image from each image of the block by the named changes, clipped to the bounds.

    If images are joined, the partner is another image of the block after its own geometry and
    before it is joined. Costs no query. Random: `draw`, a generator on the CPU.

    >>> block = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    >>> draw = torch.Generator().manual_seed(1)
    >>> grown = grow(block, torch.tensor([7, 9]), ("mix",), bounds=(0.0, 1.0), draw=draw)
    >>> grown.partners, grown.images.mean((1, 2, 3)) > 0.5
    (tensor([9, 7]), tensor([False,  True]))
    """
    low, high = bounds
    images, flipped = warped(block, names, draw)
    order = torch.randperm(len(block), generator=draw)
    others, joined = images.index_select(0, order.to(images.device)), False
    if "mix" in names:
        images, joined = mixed(images, others, draw), True
    if "paste" in names:
        images, joined = pasted(images, others, draw), True
    if "shade" in names:
        images = shaded(images, low, draw)
    if "noise" in names:
        images = noisy(images, high - low, draw)
    partners = parents[order] if joined else parents
    return Grown(images.clamp(low, high), parents, partners, flipped)
