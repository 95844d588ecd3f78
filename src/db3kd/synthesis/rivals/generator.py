"""What the rivals that learn a generator share: the generator, and how their networks are trained.

Nothing here asks the teacher.
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

LATENT = 64  # numbers of a latent; QEDG's authors have 512, fewer suit a CPU
WIDEST, NARROWEST = 48, 12  # channels at the smallest map, halved each time its sides are doubled
SMALLEST_MAP = 8  # its sides are at most this long
RATE = 1e-3  # Adam's, for generators and for the networks they are fitted to
LESSON = 128  # images in one step of a network that learns from the pool
ROUNDS, LEAST_ASKED = 100, 32  # least number of rounds, unless a round would ask fewer images
SHIFT = 1 / 7  # of a side: 4 of 28 pixels, as IDEAL's and QEDG's authors have

Made = TypeVar("Made", bound=nn.Module)


class ImageGenerator(nn.Module):
    """A small DCGAN (Radford et al., 2016) that turns latents into images in [0, 1].

    A linear layer makes a map of at most 8x8. Each stage then enlarges it to twice the sides, or
    one less, so that the last map has exactly the sides of the image, and convolves. `contrast`
    adds a batch normalisation before the sigmoid. It keeps images from being black or white all
    over, but also makes them about as light as dark. IDEAL's and QEDG's authors have none. For
    28x28 pixels there are 164,000 weights. `latent` and `widest` are `LATENT` and `WIDEST` of a
    larger one.

    Weights are drawn from PyTorch's global generator: see `seeded`.

    >>> generator = ImageGenerator((1, 13, 17))
    >>> images = generator(torch.randn(5, LATENT))
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    (torch.Size([5, 1, 13, 17]), True)
    """

    def __init__(
        self, shape: Shape, *, contrast: bool = True, latent: int = LATENT, widest: int = WIDEST
    ) -> None:
        super().__init__()
        channels, height, width = shape
        stages = max(1, math.ceil(math.log2(max(height, width) / SMALLEST_MAP)))
        sides = [(-(-height // 2**k), -(-width // 2**k)) for k in range(stages, -1, -1)]
        filters = [max(NARROWEST, widest >> k) for k in range(stages + 1)]
        self.first, self.sides = (filters[0], *sides[0]), sides[1:]
        self.linear = nn.Linear(latent, math.prod(self.first), bias=False)
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
        """Make one image for each latent."""
        hidden = self.start(self.linear(latents).reshape(-1, *self.first))
        for size, stage in zip(self.sides, self.stages, strict=True):
            hidden = stage(F.interpolate(hidden, size=size, mode="nearest"))
        return torch.sigmoid(self.contrast(self.last(hidden)))


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """Make a network whose weights depend on the seed alone; the global generator is unchanged.

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
    """Within this context gradients are on and dropout is drawn from the seed.

    Yields a generator on the CPU with the same seed. The global generators are left as they were.

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
    """Within this context networks have no dropout, and their weights no gradient.

    Afterwards they are in training mode, and all weights have a gradient.

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
    """Make one step of the optimiser that lowers the loss.

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
    """Fit a generator to a loss of its images for fixed latents; return the images.

    Each latent belongs to one image, so each image can have its own target, although the generator
    is not told the targets. The loss sees images within `bounds`. Nothing is random except what the
    loss draws.

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
    """Shift, mirror and turn each image in its own way; missing pixels become `low`.

    Shifts are up to `SHIFT` of the sides. Half of the images are mirrored. With `upside` half of
    them are also turned upside down. `turn` holds the smallest and the largest angle, in radians.
    The result has a gradient. Random: `draw`, a generator on the CPU.

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
    """Negative entropy of a batch's mean probabilities, lowest if all classes are equally frequent.

    >>> round(float(imbalance(torch.eye(2))), 4), float(imbalance(torch.eye(2)[:1]))
    (-0.6931, 0.0)
    """
    mean = probabilities.mean(0)
    return (mean * mean.clamp_min(1e-12).log()).sum()


def targets(count: int, classes: int, draw: Generator) -> Int[Tensor, " row"]:
    """Choose target classes, all equally often or once more; which ones is drawn from `draw`.

    >>> targets(5, 2, torch.Generator().manual_seed(0)).bincount().sort().values
    tensor([2, 3])
    """
    return torch.randperm(classes, generator=draw)[torch.arange(count) % classes]


def asked_at_once(queries: int, most: int, rounds: int = ROUNDS) -> int:
    """How many images a round asks: `most`, or fewer if there would be fewer than `rounds` rounds.

    A round asks at least `LEAST_ASKED`. The authors' budgets are hundreds of times larger than some
    budgets here. With only a few rounds, a rival's generator could not profit from the answers.

    >>> asked_at_once(25_000, 250), asked_at_once(5_000, 256), asked_at_once(500, 256)
    (250, 50, 32)
    """
    return min(most, max(LEAST_ASKED, -(-queries // rounds)))


def portions(total: int, most: int) -> list[int]:
    """Cut a number into as few, nearly equal parts as possible, none larger than `most`.

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
    """Train a network by cross-entropy to the teacher's answers on batches of the pool.

    Costs no query. Random: the images of each batch, drawn with replacement from all that were
    asked.

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
