"""Ways that learn nothing: plain noise and structured images, each image asked once."""

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from db3kd.seeds import derive_seed
from db3kd.student.networks import Shape
from db3kd.synthesis.earlier import noise_of_floats, shapes_of_latents
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import shapes
from db3kd.synthesis.way import Report, Task

ASKED = 1024  # images in one question, at most
LEVELS = 2**16  # of the values of a pixel of noise, evenly spaced, the ends included


@runtime_checkable
class Source(Protocol):
    """Draws images within the bounds."""

    def __call__(
        self, count: int, shape: Shape, draw: Generator, *, bounds: tuple[float, float]
    ) -> Float[Tensor, "row channels height width"]:
        """Draw `count` images."""


def noise(
    count: int, shape: Shape, draw: Generator, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, "row channels height width"]:
    """Images of independent uniform pixels within the bounds, the baseline "noise input".

    Costs no query. Random: `draw`, a generator on the CPU.

    >>> images = noise(1000, (1, 4, 4), torch.Generator().manual_seed(0))
    >>> round(float(images.mean()), 2), round(float(images.std()), 2)
    (0.5, 0.29)
    """
    low, high = bounds
    pixels = count * math.prod(shape)
    # Four pixels from a number of 64 bits, for a fifth of the time of `torch.rand`.
    bits = torch.empty(-(-pixels // 4), dtype=torch.int64).random_(-(2**63), None, generator=draw)
    found = bits.view(torch.int16)[:pixels].float()  # from -32,768 to 32,767
    found.add_(LEVELS // 2).mul_((high - low) / (LEVELS - 1)).add_(low).clamp_(low, high)
    return found.reshape(count, *shape)


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
        while pool.rest:
            images = self.source(pool.next(ASKED), pool.shape, draw, bounds=pool.bounds)
            pool.ask(images.to(pool.device))


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
    return AtRandom(task, noise_of_floats if task.earlier else noise)


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
    return AtRandom(task, shapes_of_latents if task.earlier else shapes)
