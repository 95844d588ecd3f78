"""How images were drawn in run folders that do not name a drawing.

A shard that was stopped there must make the same images again, or its answers would be lost. The
distributions are those of today, but images are drawn from other numbers, and more slowly.
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.student.networks import Shape, inference_batch
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import FAMILY, drawn, numbers


def shapes_of_latents(
    count: int, shape: Shape, draw: Generator, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, "row channels height width"]:
    """Images like those of `shapes`, each with a whole latent of its own. Random: `draw`.

    >>> shapes_of_latents(2, (1, 4, 4), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 4, 4])
    """
    made = torch.empty(count, *shape)
    for block in torch.split(made, inference_batch(shape)):
        latents = torch.randn(len(block), numbers(shape), generator=draw)
        block.copy_(drawn(latents, shape, bounds=bounds, family=FAMILY))
    return made


def noise_of_floats(
    count: int, shape: Shape, draw: Generator, *, bounds: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, "row channels height width"]:
    """Images like those of `noise`, from 24 random bits for each pixel. Random: `draw`.

    >>> noise_of_floats(2, (1, 4, 4), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 4, 4])
    """
    low, high = bounds
    return torch.rand(count, *shape, generator=draw).mul_(high - low).add_(low)


def parents_of_all(pool: Pool, count: int, draw: Generator) -> Int[Tensor, " row"]:
    """Rows like those of `Pool.balanced`, by a weight for each image. Random: `draw`.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten() > 0, classes=3)
    >>> pool = Pool(9, (1, 1, 1), bright, eight_bit=True)
    >>> pool.add(torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 0, 2]))
    >>> rows = parents_of_all(pool, 1000, Generator().manual_seed(0))
    >>> (rows == 3).float().mean().round(decimals=1)
    tensor(0.5000)
    """
    weight = 1 / pool.counts().clamp_min(1).double()
    return torch.multinomial(weight[pool.answers], count, replacement=True, generator=draw)
