"""What the rivals that learn to paint have in common: a generator, and how networks learn here.

None of it asks the teacher.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from db3kd.student.networks import Shape
from db3kd.synthesis.augmentation import placing, resampled
from db3kd.synthesis.pool import Pool

LATENT = 64  # QEDG's authors have 512; fewer for a CPU
WIDEST, NARROWEST = 48, 12  # channels at the smallest map, halved at each doubling of its sides
SMALLEST_MAP = 8  # its sides are at most this long
RATE = 1e-3  # Adam's, of generators and of what they are fitted to
LESSON = 128  # images in one step of a network that learns from the pool
ROUNDS, LEAST_ASKED = 100, 32  # so many rounds at least, unless that asks fewer images in each
SHIFT = 1 / 7  # of a side: 4 of 28 pixels, which IDEAL's and QEDG's authors have

Made = TypeVar("Made", bound=nn.Module)


class ImageGenerator(nn.Module):
    """Latent numbers in, images in [0, 1] out: a small DCGAN (Radford et al., 2016).

    A linear layer makes a map of at most 8x8, then each stage enlarges it to twice the sides (or
    one less, so that the last has exactly the image's) and convolves. With `contrast` a batch
    normalisation before the sigmoid keeps images from being black or white all over, but also about
    as light as dark; IDEAL's and QEDG's authors have none. For 28x28: 164,000 weights.

    Weights are drawn from PyTorch's global generator: see `seeded`.

    >>> generator = ImageGenerator((1, 13, 17))
    >>> images = generator(torch.randn(5, LATENT))
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    (torch.Size([5, 1, 13, 17]), True)
    """

    def __init__(self, shape: Shape, *, contrast: bool = True) -> None:
        super().__init__()
        channels, height, width = shape
        stages = max(1, math.ceil(math.log2(max(height, width) / SMALLEST_MAP)))
        sides = [(-(-height // 2**k), -(-width // 2**k)) for k in range(stages, -1, -1)]
        filters = [max(NARROWEST, WIDEST >> k) for k in range(stages + 1)]
        self.first, self.sides = (filters[0], *sides[0]), sides[1:]
        self.linear = nn.Linear(LATENT, math.prod(self.first), bias=False)
        self.start = nn.BatchNorm2d(filters[0])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.LeakyReLU(0.2),
            )
            for inputs, outputs in pairwise(filters)
        )
        self.last = nn.Conv2d(filters[-1], channels, 3, padding=1, bias=not contrast)
        self.contrast = nn.BatchNorm2d(channels) if contrast else nn.Identity()

    def forward(self, latents: Float[Tensor, "row latent"]) -> Float[Tensor, "row *image"]:
        """Paint one image for each latent."""
        hidden = self.start(self.linear(latents).reshape(-1, *self.first))
        for size, stage in zip(self.sides, self.stages, strict=True):
            hidden = stage(F.interpolate(hidden, size=size, mode="nearest"))
        return torch.sigmoid(self.contrast(self.last(hidden)))


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """Make a network whose weights depend on the seed alone.

    >>> one, same = (seeded(lambda: ImageGenerator((1, 8, 8)), 3) for _ in range(2))
    >>> torch.equal(one.linear.weight, same.linear.weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def within(
    images: Float[Tensor, "row *image"], bounds: tuple[float, float]
) -> Float[Tensor, "row *image"]:
    """Scale images from [0, 1] to the teacher's bounds.

    >>> within(torch.tensor([[0.0, 0.5]]), (-1.0, 1.0))
    tensor([[-1.,  0.]])
    """
    low, high = bounds
    return images * (high - low) + low


@contextmanager
def learning(device: str, seed: int) -> Iterator[Generator]:
    """Gradients on and dropout drawn from the seed, while it lasts; yields a generator on the CPU.

    The global generators are left as they were.

    >>> with torch.no_grad(), learning("cpu", 0) as draw:
    ...     torch.is_grad_enabled(), draw.initial_seed()
    (True, 0)
    """
    place = torch.device(device)
    with (
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
        torch.enable_grad(),
    ):
        torch.default_generator.manual_seed(seed)
        if place.type == "cuda":
            with torch.cuda.device(place):
                torch.cuda.manual_seed(seed)
        yield Generator().manual_seed(seed)


@contextmanager
def fixed(*networks: nn.Module) -> Iterator[None]:
    """Networks that are only looked at: no dropout, and no gradient for their weights.

    >>> network = nn.Linear(2, 2)
    >>> with fixed(network):
    ...     network.training, network.weight.requires_grad
    (False, False)
    >>> network.training, network.weight.requires_grad
    (True, True)
    """
    for network in networks:
        network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for network in networks:
            network.train().requires_grad_(True)


def descend(optimiser: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    """Make one step.

    >>> weight = nn.Parameter(torch.tensor(1.0))
    >>> descend(torch.optim.SGD([weight], lr=0.25), weight.square())
    >>> weight.item()
    0.5
    """
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()


def painted(
    generator: nn.Module,
    latents: Float[Tensor, "row latent"],
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    bounds: tuple[float, float],
) -> Float[Tensor, "row *image"]:
    """Fit a generator to a loss of its images, always of the same latents; return the images.

    One latent belongs to one image, so each image can have a target of its own although the
    generator is not told any. Nothing is random but what the loss draws.

    >>> generator = seeded(lambda: ImageGenerator((1, 8, 8)), 0)
    >>> latents = torch.randn(8, LATENT, generator=torch.Generator().manual_seed(0))
    >>> dark, darker = (
    ...     painted(generator, latents, lambda images: images.mean(), steps=n, bounds=(0.0, 1.0))
    ...     for n in (0, 20)
    ... )
    >>> bool(darker.mean() < dark.mean())
    True
    """
    optimiser = torch.optim.Adam(generator.parameters(), lr=RATE)
    for _ in range(steps):
        descend(optimiser, loss(within(generator(latents), bounds)))
    with torch.no_grad():
        return within(generator(latents), bounds)


def moved(
    images: Float[Tensor, "row channels height width"],
    draw: Generator,
    *,
    low: float,
    turn: tuple[float, float] = (0.0, 0.0),
    upside: bool = False,
) -> Float[Tensor, "row channels height width"]:
    """Images shifted, mirrored and turned, each in its own way; what is missing is `low`.

    Shifts are up to `SHIFT` of the sides; half of the images are mirrored, with `upside` half are
    upside down, too; `turn` is the least and the largest angle, in radians. Has a gradient. Random:
    `draw`, a generator on the CPU.

    >>> image = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]])
    >>> draw = torch.Generator().manual_seed(0)
    >>> round(float(moved(image, draw, low=0.0, turn=(1.6, 3.1), upside=True)[0, 0, 1, 1]), 1) > 0
    True
    """
    count, _, height, width = images.shape

    def between(least: float, most: float) -> Tensor:
        return torch.rand(count, generator=draw) * (most - least) + least

    angle = between(*turn)
    across = between(-1.0, 1.0).sign()
    down = between(-1.0, 1.0).sign() if upside else torch.ones(count)
    x, y = between(-2 * SHIFT, 2 * SHIFT), between(-2 * SHIFT, 2 * SHIFT)
    matrix = placing(angle, across, down, x, y, ratio=height / width)
    return resampled(images - low, matrix, padding="zeros") + low


def imbalance(probabilities: Float[Tensor, "row classes"]) -> Float[Tensor, ""]:
    """Negative entropy of the batch's mean probabilities: least where all classes are as frequent.

    >>> round(float(imbalance(torch.eye(2))), 4), float(imbalance(torch.eye(2)[:1]))
    (-0.6931, 0.0)
    """
    mean = probabilities.mean(0)
    return (mean * mean.clamp_min(1e-12).log()).sum()


def targets(count: int, classes: int, draw: Generator) -> Int[Tensor, " row"]:
    """Classes to aim at, all as often as possible, which of them once more drawn at random.

    >>> targets(5, 2, torch.Generator().manual_seed(0)).bincount().sort().values
    tensor([2, 3])
    """
    return torch.randperm(classes, generator=draw)[torch.arange(count) % classes]


def asked_at_once(queries: int, most: int, rounds: int = ROUNDS) -> int:
    """How many images a round asks: `most`, or fewer where that would leave few rounds.

    The authors' budgets are hundreds of times larger than some here; a rival that is given only a
    few rounds never sees what its generator makes of the answers.

    >>> asked_at_once(25_000, 250), asked_at_once(5_000, 256), asked_at_once(500, 256)
    (250, 50, 32)
    """
    return min(most, max(LEAST_ASKED, -(-queries // rounds)))


def portions(total: int, most: int) -> list[int]:
    """Cut a number into as few parts as possible, none larger than `most`, nearly equal.

    >>> portions(10, 4), portions(0, 4)
    ([4, 3, 3], [])
    """
    parts = -(-total // most)
    return [total // parts + (part < total % parts) for part in range(parts)]


def teach(
    networks: nn.Module,
    optimiser: torch.optim.Optimizer,
    pool: Pool,
    *,
    steps: int,
    draw: Generator,
) -> None:
    """Cross-entropy to the teacher's answers on batches of the pool; no queries.

    Random: which images, drawn with replacement from all that was asked.

    >>> from db3kd.teachers import function
    >>> pool = Pool(2, (1, 4, 4), function(lambda x: x.mean((1, 2, 3)) > 0.5, classes=2),
    ...             eight_bit=True)
    >>> pool.allow(2)
    >>> images = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    >>> answers = pool.ask(images)
    >>> network = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), 0)
    >>> optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    >>> teach(network, optimiser, pool, steps=10, draw=torch.Generator().manual_seed(0))
    >>> network(images).argmax(1)
    tensor([0, 1])
    """
    for _ in range(steps):
        images, answers = pool.batch(LESSON, draw)
        descend(optimiser, F.cross_entropy(networks(images), answers))
