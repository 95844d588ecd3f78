"""Where probes come from: all pixels, or the smooth images among them.

Neighbouring pixels of an image move a network's answer together, so most of the boundary's normal
lies in few low frequencies, and fewer probes find it there (Li et al., QEBA, CVPR 2020). Every
subspace gives images of norm sqrt(pixels), on average or exactly, so that they can be exchanged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

LARGE = 64  # pixels of the shorter side beyond which a block is a quarter of it, not half

Draw = Callable[[int], torch.Generator]
"""The generator of the k-th draw."""
Shape = tuple[int, ...]


@runtime_checkable
class Subspace(Protocol):
    """A source of probe directions: settings only, randomness comes as numbered generators."""

    def directions(
        self, step: int, before: int, count: int, shape: Shape, draw: Draw
    ) -> Float[Tensor, "probe *image"]:
        """`count` images for this step; `before` were taken in all the steps before it."""


@dataclass(frozen=True)
class Full:
    """Independent Gaussian noise over all pixels, as in Eq. 4 of the paper.

    >>> seeded = lambda k: torch.Generator().manual_seed(k)
    >>> Full().directions(0, 0, 1000, (1, 4, 4), seeded).std().round(decimals=1)
    tensor(1.)
    """

    def directions(
        self, step: int, before: int, count: int, shape: Shape, draw: Draw
    ) -> Float[Tensor, "probe *image"]:
        """Gaussian images; they depend on the step alone."""
        del before
        generator = draw(step)
        return torch.randn(count, *shape, generator=generator, device=generator.device)


@dataclass(frozen=True)
class Smooth:
    """Independent Gaussian coefficients of a smooth image with fewer degrees of freedom.

    "dct": the lowest frequencies of the discrete cosine transform (QEBA-F). "bilinear": a small
    image, upsampled (QEBA-S). The block is half as wide as the image, a quarter beyond 64 pixels.

    >>> seeded = lambda k: torch.Generator().manual_seed(k)
    >>> taken = Smooth("dct").directions(0, 0, 1000, (3, 8, 8), seeded)
    >>> like_its_neighbour = (taken[..., 1:] * taken[..., :-1]).mean()
    >>> taken.std().round(decimals=1), like_its_neighbour.round(decimals=1)
    (tensor(1.), tensor(0.6000))
    """

    kind: Literal["dct", "bilinear"]

    def directions(
        self, step: int, before: int, count: int, shape: Shape, draw: Draw
    ) -> Float[Tensor, "probe *image"]:
        """Smooth images; they depend on the step alone."""
        del before
        generator = draw(step)
        whole = image_shape(shape)
        small = block(whole, 0.5 if min(whole[1:]) <= LARGE else 0.25)
        drawn = torch.randn(count, *small, generator=generator, device=generator.device)
        if self.kind == "dct":
            smooth = from_frequencies(drawn, whole) / math.sqrt(math.prod(small))
        else:
            smooth = interpolate(drawn, size=whole[1:], mode="bilinear", align_corners=False)
            smooth = smooth / smooth.flatten(1).square().sum(1).mean().sqrt()
        return smooth.reshape(-1, *shape) * math.sqrt(math.prod(shape))


@dataclass(frozen=True)
class Sweep:
    """Orthogonal directions, each taken once before any comes again: low frequencies, then all.

    n orthogonal directions in D dimensions, answered by signs, recover a share (2/pi) n/D of an
    unknown normal; n independent ones only n/(n + (pi/2) D), and what is taken in one step is
    not taken again in the next. `levels` are (width of the DCT block as a share of the image's,
    how often all its dimensions are swept); the last level goes on for ever. Sweep k is a DCT
    basis of the block's coefficients behind random signs and in random order, both drawn by the
    k-th generator, so any part of it is made without the rest.

    >>> seeded = lambda k: torch.Generator().manual_seed(k)
    >>> taken = Sweep(((1.0, 1),)).directions(0, 0, 16, (1, 4, 4), seeded).flatten(1)
    >>> torch.allclose(taken @ taken.T, 16 * torch.eye(16), atol=1e-4)
    True
    """

    levels: tuple[tuple[float, int], ...] = ((0.36, 1), (0.5, 2), (0.72, 2), (1.0, 1))

    def directions(
        self, step: int, before: int, count: int, shape: Shape, draw: Draw
    ) -> Float[Tensor, "probe *image"]:
        """The directions from number `before` on; they depend on that number alone."""
        del step
        whole = image_shape(shape)
        parts = []
        while count > 0:
            number, first, small = self._place(before, whole)
            taken = min(count, math.prod(small) - first)
            rows = _rotation(math.prod(small), first, taken, draw(number))
            parts.append(from_frequencies(rows.reshape(taken, *small), whole))
            before, count = before + taken, count - taken
        return torch.cat(parts).reshape(-1, *shape) * math.sqrt(math.prod(shape))

    def _place(self, before: int, shape: Shape) -> tuple[int, int, Shape]:
        """Which sweep the direction belongs to, its number in that sweep, and the sweep's block."""
        number = 0
        for share, times in self.levels[:-1]:
            small = block(shape, share)
            size = math.prod(small)
            if before < times * size:
                return number + before // size, before % size, small
            before, number = before - times * size, number + times
        small = block(shape, self.levels[-1][0])
        return number + before // math.prod(small), before % math.prod(small), small


def image_shape(shape: Shape) -> Shape:
    """Any shape as (channels, height, width), for those who need neighbours.

    >>> image_shape((5,)), image_shape((2, 3, 4))
    ((1, 1, 5), (2, 3, 4))
    """
    return (math.prod(shape[:-2]), *(1, *shape)[-2:])


def block(shape: Shape, share: float) -> Shape:
    """The lowest frequencies of each channel: this share of height and width, at least one.

    >>> block((3, 28, 28), 0.5), block((1, 1, 5), 0.5)
    ((3, 14, 14), (1, 1, 3))
    """
    return (shape[0], *(max(1, math.floor(share * side + 0.5)) for side in shape[1:]))


def from_frequencies(
    coefficients: Float[Tensor, "probe channels low_height low_width"], shape: Shape
) -> Float[Tensor, "probe channels height width"]:
    """Images from their lowest DCT frequencies; lengths and angles stay as they are.

    >>> bright = from_frequencies(torch.ones(1, 1, 1, 1), (1, 2, 2))
    >>> [round(pixel, 3) for pixel in bright.flatten().tolist()]
    [0.5, 0.5, 0.5, 0.5]
    """
    high, wide = (
        _cosines(side, 0, small, coefficients.device)
        for side, small in zip(shape[1:], coefficients.shape[2:], strict=True)
    )
    return high.T @ coefficients @ wide


def _rotation(size: int, first: int, count: int, generator: torch.Generator) -> Tensor:
    """Rows of a random rotation, from the first one wanted."""
    device = generator.device
    order = torch.randperm(size, generator=generator, device=device)[first : first + count]
    signs = torch.randint(0, 2, (size,), generator=generator, device=device) * 2.0 - 1
    return _cosines(size, order, count, device) * signs


def _cosines(size: int, first: int | Tensor, count: int, device: torch.device) -> Tensor:
    """Rows of the orthonormal DCT-II matrix: `count` from the first, or those of the numbers."""
    row = first if isinstance(first, Tensor) else torch.arange(first, first + count, device=device)
    column = 2 * torch.arange(size, device=device) + 1
    angle = (row[:, None] * column) % (4 * size)  # whole numbers: exact for any size
    scale = torch.where(row == 0, 1.0, math.sqrt(2.0)) / math.sqrt(size)
    return (torch.cos(angle.double() * (math.pi / (2 * size))) * scale[:, None]).float()
