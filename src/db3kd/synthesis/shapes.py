"""Structured images without any data: soft shapes and strokes with a texture, on a background.

One definition serves grey and colour images of any size. Nothing in it was fitted to a data set. It
follows what is known of photographs and drawings in general: neighbouring pixels are alike, one
object lies in front of another, and objects are in the middle and often symmetric. (Baradad et al.
2021 learn from such images; DIP-KD, 2026, uses them as priors of a hard-label distillation.)

An image is a function of its *latent*, a row of independent standard normal numbers. A latent that
is moved a little, and keeps this distribution, gives a similar image that is no less likely. An
image that nobody will move is drawn without a latent, from the few numbers that it needs.

Shapes that are drawn together come in families whose noise has the same scales. Each single image
has the same distribution as without families. If there are few answers, students learn a little
more from families, and one matrix product interpolates the noise of a whole family.
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from db3kd.student.networks import Shape, inference_batch
from db3kd.synthesis.fields import Noise, blended, counted, interpolated, noise_of

STROKES, SYMMETRIC, CENTRED = 0.4, 0.35, 0.7  # shares of the images
DARK, BRIGHT = 0.55, 0.1  # shares of the images whose background is the lowest, the highest value
EVEN, ROUGH = (0.0, 1.0), (0.0, 1.5)  # ranges of numbers; the deviation of a texture
GROUND, OBJECT = (-3.0, 2.0), (-1.0, 3.0)  # the level of a texture, before the sigmoid
DOWN, ACROSS, HEIGHT = (0.5, 2.0), (0.5, 2.0), (0.5, 2.5)  # how steep and how high a hill is
LEVEL, BAND = (-1.0, 1.2), (0.15, 0.6)  # of the noise where an object ends; half of a stroke
SHARP = math.log(1.5), math.log(15)  # the logarithm of how sharp its edge is
FAMILY = 64  # neighbouring images whose noise has the same scales
BLOCKS = 2  # how many times as many images are drawn at once as are shown to a network
SIGN = -(2**31)  # the bit of a 32-bit number that makes it negative


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
    for block in torch.split(made, BLOCKS * inference_batch(shape)) if count else ():
        _paint(block, _Fresh(len(block), draw), bounds)
    return made


def filled(
    textures: Float[Tensor, "row channels height width"],
    draw: Generator,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Float[Tensor, "row channels height width"]:
    """Draw shapes as `shapes` does, but each with a given texture of values from 0 to 1.

    Outlines and backgrounds are those of `shapes`. Costs no query. Random: `draw`, a generator on
    the CPU.

    >>> images = filled(torch.ones(3, 1, 9, 7), torch.Generator().manual_seed(0))
    >>> images.shape, bool(images.min() < 0.1), bool(images.max() > 0.9)
    (torch.Size([3, 1, 9, 7]), True, True)
    """
    made, shape = torch.empty_like(textures), (textures.shape[1], *textures.shape[2:])
    some = BLOCKS * inference_batch(shape)
    blocks = zip(torch.split(made, some), torch.split(textures, some), strict=True)
    for block, part in blocks if len(made) else ():
        _paint(block, _Fresh(len(block), draw), bounds, part)
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
    made = latents.new_empty(len(latents), *shape)
    _paint(made, _Reader(latents, family), bounds)
    return made


class _Reader:
    """Reads the numbers of some latents one after the other, the same ones of each."""

    def __init__(self, latents: Tensor, family: int) -> None:
        self.latents, self.family, self.place = latents, family, 0

    def normal(self, *size: int) -> Tensor:
        """The next numbers as they are, of this size for each image."""
        first, self.place = self.place, self.place + math.prod(size)
        return self.latents[:, first : self.place].reshape(-1, *size)

    def even(self, count: int) -> Float[Tensor, "count row"]:
        """The next numbers of each image, made uniform from 0 to 1."""
        even: Tensor = torch.special.ndtr(self.normal(count).T)
        return even

    def field(self, channels: int, shape: Shape, most: int) -> Noise:
        """Band-limited noise, with scales of its own for each family: small ones more often."""
        shares = self.even(2)[:, :: self.family].repeat_interleave(self.family, 1)
        down, across = counted(shares[:, : len(self.latents)], most)
        return noise_of(blended(self.normal(channels, most, most), (down, across), shape[1:]))

    def part(self, rows: Tensor, length: int) -> "_Reader":
        """A reader of the next `length` numbers of some images; they count as read for all."""
        first, self.place = self.place, self.place + length
        return _Reader(self.latents[rows, first : self.place], self.family)

    def between(self, *ranges: tuple[float, float]) -> tuple[Float[Tensor, "row 1 1 1"], ...]:
        """A number of each image for each range, uniform from its low to its high end."""
        even = self.even(len(ranges))
        low, high = even.new_tensor(ranges).T
        return even.mul_((high - low)[:, None]).add_(low[:, None])[..., None, None, None].unbind()


class _Fresh(_Reader):
    """Draws the numbers of new images instead, and none that is not needed."""

    def __init__(self, count: int, draw: Generator) -> None:
        self.count, self.draw = count, draw

    def normal(self, *size: int) -> Tensor:
        """Normal numbers, of this size for each image."""
        return torch.randn(self.count, *size, generator=self.draw)

    def even(self, count: int) -> Float[Tensor, "count row"]:
        """Numbers for each image, uniform from 0 to 1."""
        return torch.rand(count, self.count, generator=self.draw)

    def field(self, channels: int, shape: Shape, most: int) -> Noise:
        """Band-limited noise, with scales of its own for each family: small ones more often."""
        families = -(-self.count // FAMILY)
        points = counted(torch.rand(families, 2, generator=self.draw), most).tolist()
        rows = [min(FAMILY, self.count - k * FAMILY) for k in range(families)]
        sizes = [(many * channels, *sides) for many, sides in zip(rows, points, strict=True)]
        lengths = list(map(math.prod, sizes))
        grids = torch.split(torch.randn(sum(lengths), generator=self.draw), lengths)
        found = torch.empty(self.count * channels, *shape[1:])
        for grid, size, part in zip(
            grids, sizes, torch.split(found, FAMILY * channels), strict=True
        ):
            interpolated(grid.view(size), part)
        return noise_of(found.view(self.count, channels, *shape[1:]))

    def part(self, rows: Tensor, length: int) -> "_Fresh":
        """As many new images as there are rows."""
        del length
        return _Fresh(len(rows), self.draw)


def _most(shape: Shape) -> int:
    """The most points of a grid, down or across; the object's texture has up to twice as many."""
    return max(3, min(shape[1:]) // 2)


def _paint(
    made: Tensor, read: _Reader, bounds: tuple[float, float], texture: Tensor | None = None
) -> None:
    """Overwrite images by a texture where the object is, and by the background elsewhere."""
    (low, high), shape = bounds, (made.shape[1], made.shape[2], made.shape[3])
    most = _most(shape)
    mask = _mask(read, shape, most)
    _lay_ground(made, read, shape, most)
    inside = _texture(read, shape, 2 * most, OBJECT) if texture is None else texture
    made.lerp_(inside, mask)
    if (low, high) != (0.0, 1.0):
        made.mul_(high - low).add_(low)
    made.clamp_(low, high)


def _mask(read: _Reader, shape: Shape, most: int) -> Tensor:
    """Where the object is: all that is above a level of the noise, or a band along that level."""
    one, (share,), two = read.field(1, shape, most), read.between(EVEN), read.field(1, shape, most)
    mirrored, centred, down, across, high, level, sharp, band, strokes = read.between(
        EVEN, EVEN, DOWN, ACROSS, HEIGHT, LEVEL, SHARP, BAND, EVEN
    )
    mirrored, centred, strokes = mirrored < SYMMETRIC, centred < CENTRED, strokes < STROKES
    sharp = sharp.exp()
    # The sigmoid of s (n + hill - level), or of 2 s (band - |n + hill - level|) for a stroke. What
    # is one number for an image is multiplied before it meets the pixels.
    by = torch.where(strokes, 2 * sharp, sharp)
    # (n + mirror of n) / sqrt(2), which leaves the deviation as it is; two times its constant.
    spread = torch.where(mirrored, by * math.sqrt(0.5), by)
    noise = one.values.mul_(one.scale * spread).addcmul_(two.values, share * two.scale * spread)
    rows = mirrored.flatten().nonzero()[:, 0]
    half = noise.index_select(0, rows)
    noise.index_copy_(0, rows, half.flip(3).add_(half))
    high = high.mul_(by).mul_(centred)
    rest = (one.move + share * two.move) * spread * (1 + mirrored.float()) - level * by
    rows_down, columns = (_squares(side, noise) for side in shape[1:])
    noise.add_(torch.addcmul(rest + 0.7 * high, rows_down[:, None], -high * down))
    noise.addcmul_(columns, -high * across)
    noise.view(torch.int32).bitwise_or_(torch.where(strokes, SIGN, 0).to(torch.int32))
    return noise.add_(strokes * band * by).sigmoid_()


def _squares(side: int, like: Tensor) -> Float[Tensor, " pixel"]:
    """The square of the place of each pixel, which goes from -1 to 1."""
    return torch.linspace(-1, 1, side, device=like.device).square_()


def _lay_ground(made: Tensor, read: _Reader, shape: Shape, most: int) -> None:
    """Overwrite images by their background: the lowest value, the highest value, or a texture."""
    (kind,) = read.between(EVEN)
    made.copy_((kind >= DARK).float().expand_as(made))
    soft = (kind >= DARK + BRIGHT).flatten().nonzero()[:, 0]
    part = read.part(soft, _of_texture(shape, most))
    if len(soft):
        made.index_copy_(0, soft, _texture(part, shape, most, GROUND))


def _texture(read: _Reader, shape: Shape, most: int, levels: tuple[float, float]) -> Tensor:
    """A level, a tint, and noise around them; part of the noise differs between the colours."""
    channels = shape[0]
    level, rough = read.between(levels, ROUGH)
    noise = read.field(1, shape, most)
    found, move = noise.values.mul_(noise.scale * rough), noise.move * rough + level
    if channels > 1:
        (share,), own = read.between(EVEN), read.field(channels, shape, most)
        share = share * rough
        found = own.values.mul_(own.scale * share).add_(found)
        move = move + own.move * share + read.normal(channels, 1, 1) * read.between(EVEN)[0]
    return found.add_(move).sigmoid_()


def _of_texture(shape: Shape, most: int) -> int:
    """How many numbers of a latent a texture reads."""
    channels, grid = shape[0], most * most
    own = channels * grid + 2 + 2 + channels if channels > 1 else 0
    return 2 + 2 + grid + own
