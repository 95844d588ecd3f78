"""Ways that learn nothing: plain noise and structured images, each image asked once."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from db3kd.seeds import derive_seed
from db3kd.student.networks import Shape
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import shapes
from db3kd.synthesis.way import Report, Task

ASKED = 1024  # images in one question, at most
Source = Callable[[int, Shape, Generator], Tensor]
"""(count, shape, generator) -> images in [0, 1]."""


def noise(count: int, shape: Shape, draw: Generator) -> Tensor:
    """Images of independent uniform pixels in [0, 1], the baseline "noise input".

    Costs no query. Random: `draw`, a generator on the CPU.

    >>> images = noise(1000, (1, 4, 4), torch.Generator().manual_seed(0))
    >>> round(float(images.mean()), 2), round(float(images.std()), 2)
    (0.5, 0.29)
    """
    return torch.rand(count, *shape, generator=draw)


class AtRandom:
    """Images of one source, asked in the order in which they come.

    Costs one query an image. Random: the images, from the seed of `spend`. Errors: those of
    `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> from db3kd.teachers import function
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu",
    ...             student=lambda seed: build("small", (1, 4, 4), 2, seed=seed))
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pool = Pool(3, (1, 4, 4), bright, eight_bit=True)
    >>> pool.allow(3)
    >>> AtRandom(task, noise).spend(pool, seed=0, report=print)
    >>> len(pool)
    3
    """

    def __init__(self, task: Task, source: Source) -> None:
        del task
        self.source, self.networks = source, nn.Module()

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        del report
        draw = torch.Generator().manual_seed(derive_seed(seed, "images"))
        low, high = pool.bounds
        while pool.rest:
            images = self.source(pool.next(ASKED), pool.shape, draw)
            pool.ask(images.mul(high - low).add_(low).to(pool.device))


def plain_noise(task: Task, *, seed: int) -> AtRandom:
    """The way "noise": independent uniform pixels.

    >>> from db3kd.teachers import function
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu", student=lambda seed: nn.Flatten())
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pool = Pool(3, (1, 4, 4), bright, eight_bit=True)
    >>> pool.allow(2)
    >>> plain_noise(task, seed=0).spend(pool, seed=0, report=print)
    >>> len(pool), pool.rest
    (2, 0)
    """
    del seed
    return AtRandom(task, noise)


def plain_shapes(task: Task, *, seed: int) -> AtRandom:
    """The way "shapes": structured images at random.

    >>> from db3kd.teachers import function
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu", student=lambda seed: nn.Flatten())
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pool = Pool(3, (1, 4, 4), bright, eight_bit=True)
    >>> pool.allow(2)
    >>> plain_shapes(task, seed=0).spend(pool, seed=0, report=print)
    >>> len(pool), pool.rest
    (2, 0)
    """
    del seed
    return AtRandom(task, shapes)
