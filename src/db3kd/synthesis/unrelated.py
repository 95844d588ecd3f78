"""Unlabelled images of something else: asked at random, or where students are least sure.

This is a setting of its own, since it needs images. KnockoffNets (Orekondy et al. 2019) asks such
images at random or by a reward that needs scores. ActiveThief (Pal et al. 2020) asks those about
which the student is unsure.
"""

import torch
from torch import Generator

from db3kd.data import Images
from db3kd.errors import InputError
from db3kd.seeds import derive_seed
from db3kd.synthesis.chosen import ASKED, Chosen, Made
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.way import Report, Task


class Unrelated:
    """Ask images of a task's `images`; none comes up again before all have come up once.

    With `doubtful`, the first shard asks images at random. Later ones ask those candidates about
    which students are least sure.

    Costs one query an image. Random: the order of the images and the students' first weights, from
    `seed`; the order of images in training, from the seed of `spend`.

    Raises:
        InputError: the task has no images, or their shape is not that of the task. `spend` raises
            the errors of `Pool.ask`.

    >>> from db3kd.data import TensorImages
    >>> from db3kd.student.networks import build
    >>> from db3kd.teachers import function
    >>> images = TensorImages(torch.arange(4.0).reshape(4, 1, 1, 1).expand(4, 1, 4, 4) / 4)
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu", images=images,
    ...             student=lambda seed: build("small", (1, 4, 4), 2, seed=seed))
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.4, classes=2)
    >>> pool = Pool(4, (1, 4, 4), bright, eight_bit=False)
    >>> pool.allow(4)
    >>> Unrelated(task, seed=0).spend(pool, seed=0, report=print)
    >>> pool.counts()
    tensor([2, 2])
    """

    def __init__(self, task: Task, *, seed: int, doubtful: bool = False) -> None:
        if task.images is None:
            raise InputError("there are no unrelated images; name a data set in synthesis.images")
        if tuple(task.images.shape) != tuple(task.shape):
            raise InputError(
                f"the unrelated images are {tuple(task.images.shape)}, but the teacher's are"
                f" {tuple(task.shape)}"
            )
        self.images: Images = task.images
        draw = torch.Generator().manual_seed(derive_seed(seed, "order"))
        self.order = torch.randperm(len(self.images), generator=draw)
        self.doubtful, self.chosen = doubtful, Chosen(task, self._next, seed=seed)
        self.networks = self.chosen.networks if doubtful else torch.nn.Module()

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        if self.doubtful:
            self.chosen.spend(pool, seed=seed, report=report)
            return
        while pool.rest:
            made = self._next(pool, len(pool), pool.next(ASKED), 0, torch.Generator())
            pool.ask(made.images)

    def _next(self, pool: Pool, before: int, count: int, children: int, draw: Generator) -> Made:
        """The next `count` images, in the order drawn at the start."""
        del children, draw
        places = torch.arange(before, before + count) % len(self.order)
        low, high = pool.bounds
        images = self.images.read(self.order[places])
        return Made(images.mul(high - low).add_(low).to(pool.device))


def doubtful(task: Task, *, seed: int) -> Unrelated:
    """The way "unrelated_chosen": unrelated images about which students are least sure.

    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu", student=lambda seed: torch.nn.Flatten())
    >>> doubtful(task, seed=0)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: there are no unrelated images; name a data set in synthesis.images
    """
    return Unrelated(task, seed=seed, doubtful=True)
