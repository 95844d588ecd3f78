"""IDEAL: each epoch fits a new generator to the student alone, and asks its images once."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from db3kd.seeds import derive_seed
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.rivals.generator import (
    LATENT,
    RATE,
    ImageGenerator,
    asked_at_once,
    fixed,
    learning,
    moved,
    painted,
    portions,
    seeded,
    targets,
    teach,
)
from db3kd.synthesis.way import Report, Task

BATCH = 250  # images asked an epoch, at most; the authors' number for MNIST, with 100 epochs
INFORMATION = 5.0  # the authors' weight of p log p, averaged over images and classes
GENERATOR_STEPS = 30  # an epoch, as the authors have for MNIST
STUDENT_STEPS = 60  # an epoch; passes over the whole pool would take minutes on a CPU


class Ideal:
    """Learn a student and a generator in turn (IDEAL: Zhang et al., ICLR 2023).

    In each epoch a new generator is fitted to the student. Its loss is the cross-entropy of its
    images to balanced targets, plus `INFORMATION` times p log p of each image. The images are
    shifted and mirrored at random in each step. Then they are asked, and the student learns from
    all answers so far.

    Costs one query an image, at most `BATCH` an epoch. The released code mirrors its whole pool
    and asks it again in every epoch, which costs B E (E + 1) / 2 queries instead of B E; this does
    not. Random: the student's and the generators' weights, latents, targets, shifts, and the order
    of lessons, all from the seeds. Errors: those of `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> from db3kd.teachers import function
    >>> task = Task((1, 8, 8), 2, queries=10, device="cpu",
    ...             student=lambda seed: build("small", (1, 8, 8), 2, seed=seed))
    >>> bright = function(lambda images: images.mean((1, 2, 3)) > 0.5, classes=2)
    >>> pool = Pool(10, task.shape, bright, eight_bit=True)
    >>> pool.allow(10)
    >>> Ideal(task, seed=0).spend(pool, seed=1, report=lambda what, done, total: None)
    >>> len(pool), pool.rest
    (10, 0)
    """

    def __init__(self, task: Task, *, seed: int) -> None:
        self.task, self._asked = task, asked_at_once(task.queries, BATCH)
        self.networks = nn.ModuleDict({"student": task.student(derive_seed(seed, "ideal student"))})
        self.networks.to(task.device)

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        student, total = self.networks["student"], pool.rest
        with learning(self.task.device, derive_seed(seed, "ideal")) as draw:
            student.train()
            optimiser = torch.optim.Adam(student.parameters(), lr=RATE)
            for epoch, count in enumerate(portions(total, self._asked)):
                weights = derive_seed(seed, "ideal generator", epoch)
                pool.ask(self._images(count, pool.bounds, weights, draw))
                teach(student, optimiser, pool, steps=STUDENT_STEPS, draw=draw)
                report("IDEAL", total - pool.rest, total)

    def _images(
        self, count: int, bounds: tuple[float, float], seed: int, draw: Generator
    ) -> Float[Tensor, "row *image"]:
        """Images fitted to target classes of the student, all classes equally often."""
        device, student = self.task.device, self.networks["student"]
        shape = self.task.shape
        generator = seeded(lambda: ImageGenerator(shape, contrast=False), seed).to(device)
        latents = torch.randn(count, LATENT, generator=draw).to(device)
        wanted = targets(count, self.task.classes, draw).to(device)

        def loss(images: Tensor) -> Tensor:
            logits = student(moved(images, draw, low=bounds[0]))
            sure = F.log_softmax(logits, 1)
            return F.cross_entropy(logits, wanted) + INFORMATION * (sure.exp() * sure).mean()

        with fixed(student):
            return painted(generator, latents, loss, steps=GENERATOR_STEPS, bounds=bounds)
