"""DisGUIDE: a generator that seeks images on which two clones disagree."""

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
    descend,
    fixed,
    imbalance,
    learning,
    portions,
    seeded,
    within,
)
from db3kd.synthesis.way import Report, Task

BATCH = 256  # images in a step, and at most asked a round, as the authors have
DIVERSITY = 0.2  # the authors' weight of class diversity for CIFAR-10
GREY = 8  # one generated image in 8 is grey; the authors' setting, if that is its meaning
GENERATOR_STEPS = 1  # a round, as the authors have; their rate is 1e-4, but in 78,000 rounds
REPLAYS = 20  # lessons from the pool a round, after the one from new images; the authors have 3


class Disguide:
    """Learn two clones and a generator against them (DisGUIDE: Rosenthal et al., AAAI 2023).

    This is the hard-label mode. The generator raises the disagreement of the clones plus
    `DIVERSITY` times the entropy of their mean probabilities. A batch of its images is asked, and
    both clones learn the answers by cross-entropy. Then they learn batches of all answers so far.
    They see the same batches and differ in their first weights. One image in `GREY` is grey.

    Costs one query an image. Random: the weights, latents, and the order of lessons, all from the
    seeds. Errors: those of `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> from db3kd.teachers import function
    >>> task = Task((1, 8, 8), 2, queries=10, device="cpu",
    ...             student=lambda seed: build("small", (1, 8, 8), 2, seed=seed))
    >>> bright = function(lambda images: images.mean((1, 2, 3)) > 0.5, classes=2)
    >>> pool = Pool(10, task.shape, bright, eight_bit=True)
    >>> pool.allow(10)
    >>> Disguide(task, seed=0).spend(pool, seed=1, report=lambda what, done, total: None)
    >>> len(pool), pool.rest
    (10, 0)
    """

    def __init__(self, task: Task, *, seed: int) -> None:
        self.task, self._asked = task, asked_at_once(task.queries, BATCH)
        self._batch = max(2, min(BATCH, task.queries))
        self.networks = nn.ModuleDict(
            {
                "student": task.student(derive_seed(seed, "disguide clone", 0)),
                "second": task.student(derive_seed(seed, "disguide clone", 1)),
                "generator": seeded(
                    lambda: ImageGenerator(task.shape), derive_seed(seed, "disguide generator")
                ),
            }
        ).to(task.device)

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        total = pool.rest
        with learning(self.task.device, derive_seed(seed, "disguide")) as draw:
            self.networks.train()
            clones = [self.networks["student"], self.networks["second"]]
            learns = torch.optim.Adam([w for c in clones for w in c.parameters()], lr=RATE)
            paints = torch.optim.Adam(self.networks["generator"].parameters(), lr=RATE)
            for count in portions(total, self._asked):
                with fixed(*clones):
                    for _ in range(GENERATOR_STEPS):
                        descend(paints, _loss(clones, self._painted(pool.bounds, draw)))
                pool.ask(self._painted(pool.bounds, draw)[:count].detach())
                new = torch.arange(len(pool) - count, len(pool))
                # Repeated to a full batch: some networks cannot learn from a single image.
                new = new[torch.arange(self._batch) % count]
                _lesson(clones, learns, pool.read(new), pool.answers[new].to(self.task.device))
                for _ in range(REPLAYS):
                    _lesson(clones, learns, *pool.batch(self._batch, draw))
                report("DisGUIDE", total - pool.rest, total)

    def _painted(
        self, bounds: tuple[float, float], draw: Generator
    ) -> Float[Tensor, "row channels height width"]:
        """A batch of the generator's images, within the bounds, some of them grey."""
        latents = torch.randn(self._batch, LATENT, generator=draw).to(self.task.device)
        return greyed(within(self.networks["generator"](latents), bounds))


def disagreement(
    one: Float[Tensor, "row classes"], other: Float[Tensor, "row classes"]
) -> Float[Tensor, ""]:
    """Standard deviation of two clones' probabilities, averaged over classes and batch.

    For two numbers it is half their distance, which has a gradient even if they are equal. Costs no
    query. Nothing is random.

    >>> sure = torch.eye(2)
    >>> float(disagreement(sure, sure)), float(disagreement(sure, sure.flip(0)))
    (0.0, 0.5)
    """
    return (one - other).abs().mean() / 2


def greyed(
    images: Float[Tensor, "row channels height width"],
) -> Float[Tensor, "row channels height width"]:
    """Replace the colours of every `GREY`-th image, from the first on, by their mean.

    >>> red = torch.tensor([1.0, 0.0, 0.5]).reshape(1, 3, 1, 1).expand(2, 3, 1, 1)
    >>> greyed(red)[:, :, 0, 0].tolist()
    [[0.5, 0.5, 0.5], [1.0, 0.0, 0.5]]
    """
    grey = torch.arange(len(images), device=images.device) % GREY == 0
    return torch.where(grey[:, None, None, None], images.mean(1, keepdim=True), images)


def _loss(clones: list[nn.Module], images: Tensor) -> Tensor:
    """The generator's loss: low if the clones disagree, and predict all classes equally often."""
    one, other = (clone(images).softmax(1) for clone in clones)
    return DIVERSITY * imbalance((one + other) / 2) - disagreement(one, other)


def _lesson(
    clones: list[nn.Module], learns: torch.optim.Optimizer, images: Tensor, answers: Tensor
) -> None:
    """Train both clones for one step, independently of each other."""
    losses = [F.cross_entropy(clone(images), answers) for clone in clones]
    descend(learns, losses[0] + losses[1])
