"""Structured images without any data: soft shapes and strokes with a texture, on a background.

One definition serves grey and colour images of any size. Nothing in it was fitted to a data set. It
follows what is known of photographs and drawings in general: neighbouring pixels are alike, one
object lies in front of another, and objects are in the middle and often symmetric. (Baradad et al.
2021 learn from such images; DIP-KD, 2026, uses them as priors of a hard-label distillation.)

An image is a function of its *latent*, a row of independent standard normal numbers. A latent that
is moved a little, and keeps this distribution, gives a similar image that is no less likely.

Shapes that are drawn together come in families whose noise has the same scales. Each single image
has the same distribution as without families. If there are few answers, students learn a little
more from families.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.student.networks import Shape, inference_batch
from db3kd.synthesis.fields import blended, counted

STROKES, SYMMETRIC, CENTRED = 0.4, 0.35, 0.7  # shares of the images
DARK, BRIGHT = 0.55, 0.1  # shares of the images whose background is the lowest, the highest value
FAMILY = 64  # neighbouring images whose noise has the same scales


def shapes(
    count: int, shape: Shape, draw: Generator, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, "row channels height width"]:
    """Draw `count` images of shapes on a background, within the bounds, in families.

    Costs no query. Random: `draw`, a generator on the CPU.

    >>> images = shapes(3, (3, 9, 7), torch.Generator().manual_seed(0))
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    (torch.Size([3, 3, 9, 7]), True)
    """
    made = torch.empty(count, *shape)
    for block in torch.split(made, inference_batch(shape)):
        latents = torch.randn(len(block), numbers(shape), generator=draw)
        block.copy_(drawn(latents, shape, bounds=bounds, family=FAMILY))
    return made


def numbers(shape: Shape) -> int:
    """How many numbers the latent of an image of this shape has.

    >>> numbers((1, 28, 28)), numbers((3, 32, 32))
    (1395, 5669)
    """
    most = _most(shape)
    mask = 10 + 2 * (2 + most * most)
    return mask + 1 + _of_texture(shape, most) + _of_texture(shape, 2 * most)


def drawn(
    latents: Float[Tensor, "row number"],
    shape: Shape,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    family: int = 1,
) -> Float[Tensor, "row channels height width"]:
    """Draw the images of some latents, within the bounds, on the device of the latents.

    `family` neighbouring images share the scales of noise of the first one.

    Costs no query. Nothing is random.

    >>> latents = torch.zeros(1, numbers((1, 5, 5)))
    >>> drawn(latents, (1, 5, 5))[0, 0, 2].round(decimals=2)
    tensor([0.0100, 0.6600, 0.7200, 0.6600, 0.0100])
    """
    low, high = bounds
    read, most = _Reader(latents, family), _most(shape)
    mask = _mask(read, shape, most)
    ground = _ground(read, shape, most)
    images = ground.lerp_(_texture(read, shape, 2 * most, (-1.0, 3.0)), mask.expand_as(ground))
    return images.mul_(high - low).add_(low).clamp_(low, high)


class _Reader:
    """Reads the numbers of some latents one after the other, the same ones of each."""

    def __init__(self, latents: Tensor, family: int) -> None:
        self.latents, self.family, self.place = latents, family, 0

    def normal(self, *size: int) -> Tensor:
        """The next numbers as they are, of this size for each image."""
        first, self.place = self.place, self.place + math.prod(size)
        return self.latents[:, first : self.place].reshape(-1, *size)

    def between(self, low: float, high: float) -> Float[Tensor, "row 1 1 1"]:
        """The next number of each image, made uniform from `low` to `high`."""
        even: Tensor = torch.special.ndtr(self.normal(1, 1, 1))
        return even.mul_(high - low).add_(low)

    def often(self, share: float) -> Tensor:
        """True for about this share of the images."""
        return self.between(0.0, 1.0) < share

    def points(self, most: int) -> Int[Tensor, " row"]:
        """How many points a grid has: from 2 to `most`, small numbers more often, by family."""
        share = self.between(0.0, 1.0).flatten()
        shared = share[:: self.family].repeat_interleave(self.family)[: len(share)]
        return counted(shared, most)

    def field(self, channels: int, shape: Shape, most: int) -> Tensor:
        """Band-limited noise, with scales of its own for each family."""
        points = self.points(most), self.points(most)
        return blended(self.normal(channels, most, most), points, shape[1:])

    def part(self, rows: Tensor, length: int) -> "_Reader":
        """A reader of the next `length` numbers of some images; they count as read for all."""
        first, self.place = self.place, self.place + length
        return _Reader(self.latents[rows, first : self.place], self.family)


def _most(shape: Shape) -> int:
    """The most points of a grid, down or across; the object's texture has up to twice as many."""
    return max(3, min(shape[1:]) // 2)


def _mask(read: _Reader, shape: Shape, most: int) -> Tensor:
    """Where the object is: all that is above a level of the noise, or a band along that level."""
    noise = read.field(1, shape, most)
    noise.addcmul_(read.between(0.0, 1.0), read.field(1, shape, most))
    mirrored = (noise + noise.flip(3)).div_(math.sqrt(2))
    noise = torch.where(read.often(SYMMETRIC), mirrored, noise)
    noise.addcmul_(read.often(CENTRED).float(), _hill(read, shape))
    noise.sub_(read.between(-1.0, 1.2))
    sharp = read.between(math.log(1.5), math.log(15)).exp_()
    band = noise.abs().neg_().add_(read.between(0.15, 0.6)).mul_(2)
    return torch.where(read.often(STROKES), band, noise).mul_(sharp).sigmoid_()


def _hill(read: _Reader, shape: Shape) -> Tensor:
    """A hill in the middle, with a height and a steepness of its own for each image."""
    _, height, width = shape
    down, across = (
        torch.linspace(-1, 1, side, device=read.latents.device).square() for side in (height, width)
    )
    away = down[:, None] * read.between(0.5, 2.0) + across * read.between(0.5, 2.0)
    return away.neg_().add_(0.7).mul_(read.between(0.5, 2.5))


def _ground(read: _Reader, shape: Shape, most: int) -> Tensor:
    """The background: the lowest value, the highest value, or a texture."""
    kind = read.between(0.0, 1.0)
    ground = (kind >= DARK).float().repeat(1, *shape)
    soft = (kind >= DARK + BRIGHT).flatten().nonzero()[:, 0]
    part = read.part(soft, _of_texture(shape, most))
    if len(soft):
        ground[soft] = _texture(part, shape, most, (-3.0, 2.0))
    return ground


def _texture(read: _Reader, shape: Shape, most: int, levels: tuple[float, float]) -> Tensor:
    """A level, a tint, and noise around them; part of the noise differs between the colours."""
    channels = shape[0]
    level, rough = read.between(*levels), read.between(0.0, 1.5)
    noise = read.field(1, shape, most)
    if channels > 1:
        noise = noise + read.between(0.0, 1.0) * read.field(channels, shape, most)
        level = level + read.normal(channels, 1, 1) * read.between(0.0, 1.0)
    return noise.mul_(rough).add_(level).sigmoid_()


def _of_texture(shape: Shape, most: int) -> int:
    """How many numbers of a latent a texture reads."""
    channels, grid = shape[0], most * most
    own = channels * grid + 2 + 2 + channels if channels > 1 else 0
    return 2 + 2 + grid + own
