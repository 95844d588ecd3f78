"""Ask what students are least sure of, among new shapes and shapes near those that were asked.

"Near" refers to the latent, the normal numbers from which an image of shapes is drawn. The latent
of a child is

    z' = sqrt(1 - e^2) z + e xi,    xi ~ N(0, 1),

so the child is as sharp and as likely as any other shape. An image that was shifted, mixed and
patched again and again is not. (This is the step with which Neal 1998 and Cotter et al. 2013 walk
through a Gaussian prior.)

A latent is longer than its image, so it is not kept. It is drawn again from the origin of the
image: the row of its parent, or -1, and the seed of its own xi and e.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.seeds import derive_seed
from db3kd.student.networks import inference_batch
from db3kd.synthesis.chosen import Chosen, Made
from db3kd.synthesis.earlier import parents_of_all
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import drawn, numbers
from db3kd.synthesis.way import Task

NEAREST, FARTHEST = 0.04, 0.5  # smallest and largest e; its logarithm is uniform
SEEDS = 2**32  # how many seeds PyTorch's generator tells apart


class Near:
    """A source for `Chosen`: new shapes, and children of asked ones, equally often of every class.

    Costs no query. Random: the latents, from `seed`; the parents, from the generator of the call.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pool, draw = Pool(4, (1, 4, 4), bright, eight_bit=True), Generator().manual_seed(0)
    >>> Near(seed=0)(pool, 0, 4, 0, draw).origins[:, 0]
    tensor([-1, -1, -1, -1])
    """

    def __init__(self, *, seed: int, earlier: bool = False) -> None:
        self.first = derive_seed(seed, "latents")
        self.parents = parents_of_all if earlier else Pool.balanced

    def __call__(self, pool: Pool, before: int, count: int, children: int, draw: Generator) -> Made:
        """Make `count` candidates with their origins, the last `children` from asked parents."""
        parents = torch.full((count,), -1)
        if children:
            parents[count - children :] = self.parents(pool, children, draw)
        seeds = (self.first % SEEDS + before + torch.arange(count)) % SEEDS
        origins = torch.stack([parents, seeds], 1)
        asked = origins[:0] if pool.origins is None else pool.origins
        length, made = numbers(pool.shape), [torch.empty(0, *pool.shape, device=pool.device)]
        for some in torch.split(origins, inference_batch(pool.shape)):
            z = latents(some, asked, length).to(pool.device)
            made.append(drawn(z, pool.shape, bounds=pool.bounds))
        return Made(torch.cat(made), origins)


def latents(
    origins: Int[Tensor, "row 2"], asked: Int[Tensor, "asked 2"], length: int
) -> Float[Tensor, "row number"]:
    """The latents of images with these origins; `asked` holds the origins of their ancestors.

    Each row has `length` numbers. The same origin always gives the same latent. Costs no query.

    >>> asked = torch.tensor([[-1, 7]])
    >>> both = latents(torch.tensor([[-1, 7], [0, 8]]), asked, 1000)
    >>> both.std(1).round(decimals=1), bool(torch.corrcoef(both)[0, 1] > 0.85)
    (tensor([1., 1.]), True)
    """
    found, draw = torch.zeros(len(origins), length), Generator()
    for z, (parent, seed) in zip(found, origins.tolist(), strict=True):
        share = 1.0
        while True:
            noise = torch.randn(1 + length, generator=draw.manual_seed(seed))
            if parent < 0:
                z.add_(noise[1:], alpha=share)
                break
            step = _step(float(noise[0]))
            z.add_(noise[1:], alpha=share * step)
            share *= math.sqrt(1 - step * step)
            parent, seed = asked[parent].tolist()
    return found


def _step(normal: float) -> float:
    """How far a child moves: e as a function of a normal number."""
    even = 0.5 * (1 + math.erf(normal / math.sqrt(2)))
    return NEAREST * math.exp(even * math.log(FARTHEST / NEAREST))


def latent_shapes(task: Task, *, seed: int) -> Chosen:
    """The way "latent": shapes, and neighbours in the latent of those that were asked.

    >>> from db3kd.teachers import function
    >>> from torch import nn
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu", student=lambda seed: nn.Flatten())
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pool = Pool(3, (1, 4, 4), bright, eight_bit=True)
    >>> pool.allow(2)
    >>> latent_shapes(task, seed=0).spend(pool, seed=0, report=print)
    >>> len(pool), pool.origins[:, 0]  # new shapes have no parent
    (2, tensor([-1, -1]))
    """
    return Chosen(task, Near(seed=seed, earlier=task.earlier), seed=seed)
