"""DFMS-HL with drawn shapes: a GAN of shape images, led to all classes by the clone it trains."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from db3kd.seeds import derive_seed
from db3kd.student.networks import Shape
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.rivals.generator import (
    LATENT,
    RATE,
    ImageGenerator,
    asked_at_once,
    descend,
    fixed,
    imbalance,
    learning,
    portions,
    seeded,
    teach,
    within,
)
from db3kd.synthesis.way import Report, Task

BATCH = 128  # images in a step of the GAN, and at most asked a round; the authors have 64
FIGURES = 4  # ellipses, rectangles and triangles in an image
SHARE = 0.2  # of all queries, for shapes; the authors' 50,000 of 8 million would be 0.006
GAN_STEPS = 200  # before the first query; the authors have 200 passes over 50,000 images
GENERATOR_STEPS = 3  # a round; there are hundreds of rounds here, not a hundred thousand
CLONE_STEPS = 30  # a round
DIVERSITY = 500.0  # the authors' weight of class diversity for 10 classes
DIVERSITY_100 = 100.0  # and for 100 classes
MOMENTA = (0.5, 0.999)  # of Adam, as usual for a GAN


class Dfms:
    """Learn a clone from shapes, then from a GAN (DFMS-HL: Sanyal et al., CVPR 2022).

    A GAN learns shape images before the first query. The first `SHARE` of the queries asks shape
    images. In each round after that, the GAN learns shapes further, and its generator also raises
    the entropy of the clone's mean probabilities, with a weight from `diversity`. A batch of its
    images is asked, and the clone learns from all answers so far. Unlike the authors, this uses no
    augmentation and never restarts the clone.

    Costs one query an image. Random: the weights, shapes, latents, and the order of lessons, all
    from the seeds. Errors: those of `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> from db3kd.teachers import function
    >>> task = Task((1, 8, 8), 2, queries=100, device="cpu",
    ...             student=lambda seed: build("small", (1, 8, 8), 2, seed=seed))
    >>> bright = function(lambda images: images.mean((1, 2, 3)) > 0.5, classes=2)
    >>> pool = Pool(100, task.shape, bright, eight_bit=True)
    >>> pool.add(torch.zeros(20, 1, 8, 8), torch.zeros(20, dtype=torch.int64))  # shapes
    >>> pool.allow(80)
    >>> Dfms(task, seed=0).spend(pool, seed=1, report=lambda what, done, total: None)
    >>> len(pool), pool.rest
    (100, 0)
    """

    def __init__(self, task: Task, *, seed: int) -> None:
        self.task, self._asked = task, asked_at_once(task.queries, BATCH)
        self.networks = nn.ModuleDict(
            {
                "student": task.student(derive_seed(seed, "dfms clone")),
                "generator": seeded(
                    lambda: ImageGenerator(task.shape), derive_seed(seed, "dfms generator")
                ),
                "critic": seeded(lambda: critic(task.shape), derive_seed(seed, "dfms critic")),
            }
        ).to(task.device)

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        total = pool.rest
        with learning(self.task.device, derive_seed(seed, "dfms")) as draw:
            self.networks.train()
            clone = self.networks["student"]
            optimiser = torch.optim.Adam(clone.parameters(), lr=RATE)
            gan = _Gan(self.networks, self.task, pool.bounds)
            if not len(pool):
                gan.learn(GAN_STEPS, 0.0, draw)
            first = min(total, max(0, math.ceil(SHARE * self.task.queries) - len(pool)))
            for count in portions(first, self._asked):
                drawn = shapes(count, self.task.shape, draw).to(self.task.device)
                pool.ask(within(drawn, pool.bounds))
                teach(clone, optimiser, pool, steps=CLONE_STEPS, draw=draw)
                report("DFMS-HL: shapes", total - pool.rest, total)
            for count in portions(total - first, self._asked):
                gan.learn(GENERATOR_STEPS, diversity(self.task.classes), draw)
                pool.ask(gan.images(BATCH, draw)[:count].detach())
                teach(clone, optimiser, pool, steps=CLONE_STEPS, draw=draw)
                report("DFMS-HL", total - pool.rest, total)


class _Gan:
    """The two networks that compete, with optimisers that last for one call of `spend`."""

    def __init__(self, networks: nn.ModuleDict, task: Task, bounds: tuple[float, float]) -> None:
        self.clone, self.task, self.bounds = networks["student"], task, bounds
        self.generator, self.critic = networks["generator"], networks["critic"]
        self.paints, self.judges = (
            torch.optim.Adam(network.parameters(), lr=RATE, betas=MOMENTA)
            for network in (self.generator, self.critic)
        )

    def images(self, count: int, draw: Generator) -> Tensor:
        latents = torch.randn(count, LATENT, generator=draw).to(self.task.device)
        return within(self.generator(latents), self.bounds)

    def learn(self, steps: int, weight: float, draw: Generator) -> None:
        """Train critic and generator in turn; `weight` is that of class diversity."""
        for _ in range(steps):
            drawn = shapes(BATCH, self.task.shape, draw).to(self.task.device)
            painted = self.images(BATCH, draw)
            real = self.critic(within(drawn, self.bounds))
            fake = self.critic(painted.detach())
            descend(self.judges, F.softplus(-real).mean() + F.softplus(fake).mean())
            with fixed(self.critic, self.clone):
                loss = F.softplus(-self.critic(painted)).mean()
                if weight:
                    loss = loss + weight * imbalance(self.clone(painted).softmax(1))
                descend(self.paints, loss)


def diversity(classes: int) -> float:
    """Return the weight of class diversity: the authors' 500 for 10 classes and 100 for 100.

    A power law goes through both numbers. Below 10 classes the weight stays at 500.

    >>> diversity(2), diversity(10), round(diversity(100), 6)
    (500.0, 500.0, 100.0)
    """
    power = math.log10(DIVERSITY / DIVERSITY_100)
    return float(DIVERSITY * min(1.0, (10 / classes) ** power))


def critic(shape: Shape) -> nn.Sequential:
    """Make the GAN's discriminator: two convolutions of stride 2, and one logit for each image.

    Weights are drawn from PyTorch's global generator.

    >>> critic((1, 13, 17))(torch.rand(2, 1, 13, 17)).shape
    torch.Size([2, 1])
    """
    channels, height, width = shape
    rows, columns = (-(-length // 4) for length in (height, width))
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64 * rows * columns, 1),
    )


def shapes(count: int, shape: Shape, draw: Generator) -> Float[Tensor, "row channels height width"]:
    """Draw turned ellipses, rectangles and triangles of random colours on a random background.

    Values are in [0, 1]. There are `FIGURES` figures in each image, the later ones in front. Costs
    no query. Random: `draw`, a generator on the CPU.

    >>> images = shapes(3, (3, 8, 9), torch.Generator().manual_seed(0))
    >>> images.shape, bool(((images >= 0) & (images <= 1)).all())
    (torch.Size([3, 3, 8, 9]), True)
    """
    channels, height, width = shape

    def between(low: float, high: float) -> Tensor:
        return torch.rand(count, FIGURES, 1, 1, generator=draw) * (high - low) + low

    x, y = between(-0.8, 0.8), between(-0.8, 0.8)
    across, down, angle = between(0.15, 0.8), between(0.15, 0.8), between(-math.pi, math.pi)
    kind = torch.randint(3, (count, FIGURES, 1, 1), generator=draw)
    colours = torch.rand(count, FIGURES + 1, channels, 1, 1, generator=draw)
    down_to, across_to = torch.meshgrid(_places(height), _places(width), indexing="ij")
    right, below = across_to - x, down_to - y
    u = (right * angle.cos() + below * angle.sin()) / across
    v = (below * angle.cos() - right * angle.sin()) / down
    covered = _inside(kind, u, v)
    images = colours[:, 0].expand(-1, -1, height, width)
    for figure in range(FIGURES):
        images = torch.where(covered[:, figure, None], colours[:, figure + 1], images)
    return images


def _places(size: int) -> Tensor:
    """The centres of the pixels, from -1 to 1."""
    return (torch.arange(size) + 0.5) * 2 / size - 1


def _inside(kind: Tensor, u: Tensor, v: Tensor) -> Bool[Tensor, "row figure height width"]:
    """Whether a point is inside the ellipse, rectangle or triangle that reaches from -1 to 1."""
    rectangle = (u.abs() < 1) & (v.abs() < 1)
    triangle = (v < 1) & (2 * u.abs() < v + 1)
    rest = torch.where(kind == 1, rectangle, triangle)
    return torch.where(kind == 0, u.square() + v.square() < 1, rest)
