"""DIP-KD: structured image priors, made to differ by a primer student (arXiv 2604.25794, 2026).

Written from the abstract and outline of the paper. Neither its settings nor its code were at hand,
so the numbers below are ours.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from db3kd.seeds import derive_seed
from db3kd.student.networks import Shape
from db3kd.synthesis.augmentation import warped
from db3kd.synthesis.chosen import lesson, teach_all
from db3kd.synthesis.fields import between, field, often, points
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.way import Report, Task

BATCH = 256  # images that are made to differ from each other and asked together
CUT = 0.5  # share of the images that are cut together with another one
UPDATES, UPDATE = 5, 0.02  # steps of the contrastive update, and their length in each pixel
HEAT = 0.2  # temperature of the contrast


class DipKd:
    """Learn from multi-scale noise that was moved so that a primer student tells the images apart.

    The primer learns all answers after each shard. Before a batch is asked, a few sign steps make
    the primer's outputs for its images less alike. In the paper the final student also learns the
    primer's soft labels; here it learns the answers only.

    Costs one query an image. Random: the primer's first weights, from `seed`; the images and the
    order of lessons, from the seed of `spend`. Errors: those of `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu",
    ...             student=lambda seed: build("small", (1, 4, 4), 2, seed=seed))
    >>> list(DipKd(task, seed=0).networks)
    ['student']
    """

    def __init__(self, task: Task, *, seed: int) -> None:
        self.task = task
        self.networks = nn.ModuleDict({"student": task.student(derive_seed(seed, "primer"))})

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        draw = torch.Generator().manual_seed(derive_seed(seed, "images"))
        primer, (low, high), more = self.networks["student"], pool.bounds, pool.rest > 0
        primer.to(pool.device).eval()
        while pool.rest:
            count = min(BATCH, pool.rest)
            images = multi_scale(count, pool.shape, draw).to(pool.device)
            pool.ask(apart(primer, images).mul(high - low).add_(low))
        if more:
            training = lesson(len(pool), long=True)
            teach_all([primer], pool, training, seed=seed, device=self.task.device, report=report)


def multi_scale(
    count: int, shape: Shape, draw: Generator
) -> Float[Tensor, "row channels height width"]:
    """Uniform noise on grids of 1, 2, 4, ... points, mixed with random weights, turned and cut.

    Values are in [0, 1]. Costs no query. Random: `draw`, a generator on the CPU.

    >>> images = multi_scale(3, (3, 9, 7), torch.Generator().manual_seed(0))
    >>> images.shape, bool((images >= 0).all() and (images <= 1).all())
    (torch.Size([3, 3, 9, 7]), True)
    """
    channels, height, width = shape
    images = torch.zeros(count, *shape)
    for power in range(max(height, width).bit_length()):
        side = 2**power
        grid = torch.rand(count, channels, min(side, height), min(side, width), generator=draw)
        noise = functional.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
        images.addcmul_(between(count, 0.0, 1.0, draw).pow(3), noise)
    flat = images.flatten(1)
    least, most = flat.min(1).values, flat.max(1).values
    flat = (flat - least[:, None]) / (most - least).clamp_min(1e-6)[:, None]
    images, _ = warped(flat.reshape(count, *shape), ("rotate", "scale", "shear", "crop"), draw)
    order = torch.randperm(count, generator=draw)
    sharp = between(count, 2.0, 10.0, draw)
    mask = (field(count, (1, height, width), points(6, draw), draw) * sharp).sigmoid_()
    return torch.lerp(images, images.index_select(0, order), mask * often(count, CUT, draw))


def apart(primer: nn.Module, images: Float[Tensor, "row *image"]) -> Float[Tensor, "row *image"]:
    """Move images by a few sign steps so that the primer tells them apart better.

    Images and result are in [0, 1]. Costs no query. Nothing is random.

    >>> images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> moved = apart(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), images)
    >>> bool(((moved - images).abs() <= UPDATES * UPDATE + 1e-6).all())
    True
    """
    if len(images) < 2:
        return images
    moved, own = images, torch.arange(len(images), device=images.device)
    for _ in range(UPDATES):
        with torch.enable_grad():
            moved = moved.detach().requires_grad_()
            views = functional.normalize(functional.log_softmax(primer(moved), 1), dim=1)
            loss = functional.cross_entropy(views @ views.T / HEAT, own)
            (slope,) = torch.autograd.grad(loss, moved)
        moved = (moved.detach() - UPDATE * slope.sign()).clamp_(0, 1)
    return moved.detach()
