"""QEDG: images near the student's boundary, asked only if the student is not sure of them."""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from db3kd.seeds import derive_seed
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.rivals.generator import (
    LATENT,
    LESSON,
    RATE,
    ImageGenerator,
    asked_at_once,
    descend,
    fixed,
    learning,
    moved,
    painted,
    portions,
    seeded,
    targets,
)
from db3kd.synthesis.way import Report, Task

BATCH, ROUNDS = 256, 20  # images asked a round, at most, and rounds; the authors' for MNIST
SPREAD = 10.0  # the authors' weight of the spread of the student's probabilities
DIVERSITY = 0.1  # the authors' weight of the likeness of images with the same target
DOUBTFUL = 0.7  # images that the student is surer of than this are not asked
SURE = 0.95  # a mirror image keeps its answer if the student gives it more than this
FLIPS = 0.05  # share of the images whose mirror image is tried in a lesson
TURN = (math.pi / 2, math.pi)  # how far images are turned, as the authors do with MNIST
WRONG = 2.0  # weight of images that the student gets wrong; the authors have 1.5 to 3
TRIES = 3  # how often images are made for one question before the least sure ones are asked
GENERATOR_STEPS = 100  # a try, as the authors have
PASSES, STUDENT_STEPS = 20, 400  # a round: passes over the pool, as the authors; steps at most


class Qedg:
    """Learn a student from images near its own boundary (QEDG: Pei et al., AAAI 2025).

    In each round a new generator is fitted. Its loss has three terms. The first is the
    cross-entropy to balanced targets. The second is `SPREAD` times the standard deviation of the
    student's probabilities, so that images come to lie between classes. The third is `DIVERSITY`
    times the likeness of images with the same target. In each step the images are shifted,
    mirrored, and turned by `TURN`, and once more before they are asked. The authors' changes of
    colours are left out.

    Images that the student is more than `DOUBTFUL` sure of are not asked. If too few are left,
    more images are made, in at most `TRIES` tries. If there are still too few, the least sure of
    the others are asked. See `lesson` for what the student learns.

    Costs one query an image. Mirror images of lessons are never asked, and not put into the pool.
    Random: the weights, latents, targets, shifts and turns, and the order of lessons, all from the
    seeds. Errors: those of `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> from db3kd.teachers import function
    >>> task = Task((1, 8, 8), 2, queries=10, device="cpu",
    ...             student=lambda seed: build("small", (1, 8, 8), 2, seed=seed))
    >>> bright = function(lambda images: images.mean((1, 2, 3)) > 0.5, classes=2)
    >>> pool = Pool(10, task.shape, bright, eight_bit=True)
    >>> pool.allow(10)
    >>> Qedg(task, seed=0).spend(pool, seed=1, report=lambda what, done, total: None)
    >>> len(pool), pool.rest
    (10, 0)
    """

    def __init__(self, task: Task, *, seed: int) -> None:
        self.task, self._asked = task, asked_at_once(task.queries, BATCH, ROUNDS)
        self.networks = nn.ModuleDict({"student": task.student(derive_seed(seed, "qedg student"))})
        self.networks.to(task.device)

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        student, total = self.networks["student"], pool.rest
        with learning(self.task.device, derive_seed(seed, "qedg")) as draw:
            student.train()
            optimiser = torch.optim.Adam(student.parameters(), lr=RATE)
            for turn, count in enumerate(portions(total, self._asked)):
                pool.ask(
                    self._doubtful(count, pool, derive_seed(seed, "qedg generator", turn), draw)
                )
                for _ in range(min(STUDENT_STEPS, max(1, PASSES * len(pool) // LESSON))):
                    descend(optimiser, lesson(student, *pool.batch(LESSON, draw), draw))
                report("QEDG", total - pool.rest, total)

    def _doubtful(
        self, count: int, pool: Pool, seed: int, draw: Generator
    ) -> Float[Tensor, "row *image"]:
        """`count` images that the student is not sure of, as far as they are found."""
        device, student = self.task.device, self.networks["student"]
        shape = self.task.shape
        generator = seeded(lambda: ImageGenerator(shape, contrast=False), seed).to(device)
        made, sure = [], []
        with fixed(student):
            for _ in range(TRIES):
                wanted = targets(count, self.task.classes, draw).to(device)
                latents = torch.randn(count, LATENT, generator=draw).to(device)

                def loss(images: Tensor, wanted: Tensor = wanted) -> Tensor:
                    images = _moved(images, pool.bounds, draw)
                    logits: Tensor = student(images)
                    spread = logits.softmax(1).std(1, correction=0).mean()
                    near = DIVERSITY * likeness(images, wanted)
                    return F.cross_entropy(logits, wanted) + SPREAD * spread + near

                images = painted(
                    generator, latents, loss, steps=GENERATOR_STEPS, bounds=pool.bounds
                )
                images = _moved(images, pool.bounds, draw)
                made.append(images)
                with torch.no_grad():  # on the image as the teacher will see it
                    sure.append(student(pool.rounded(images)[1]).softmax(1).amax(1))
                if int((torch.cat(sure) <= DOUBTFUL).sum()) >= count:
                    break
        return torch.cat(made)[chosen(torch.cat(sure), count)]


def _moved(images: Tensor, bounds: tuple[float, float], draw: Generator) -> Tensor:
    return moved(images, draw, low=bounds[0], turn=TURN, upside=True)


def chosen(sure: Float[Tensor, " row"], count: int) -> Int[Tensor, " chosen"]:
    """Rows of the first `count` images that are not sure; then the least sure of the others.

    >>> chosen(torch.tensor([0.9, 0.6, 0.5, 0.8]), 3)
    tensor([1, 2, 3])
    """
    return sure.clamp_min(DOUBTFUL).sort(stable=True).indices[:count]


def likeness(images: Float[Tensor, "row *image"], wanted: Int[Tensor, " row"]) -> Float[Tensor, ""]:
    """Mean cosine between two images of one target, minus the mean image; 0 without such a pair.

    >>> black, white = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    >>> images = torch.cat([black, black, white, white])
    >>> [round(float(likeness(images, torch.tensor(c))), 3) for c in ([0, 0, 1, 1], [0, 1, 0, 1])]
    [1.0, -1.0]
    """
    flat = F.normalize(images.flatten(1) - images.flatten(1).mean(0), dim=1)
    pairs = (wanted[:, None] == wanted) & ~torch.eye(
        len(wanted), dtype=torch.bool, device=images.device
    )
    total: Tensor = ((flat @ flat.T) * pairs).sum()
    return total / pairs.sum().clamp_min(1)


def lesson(
    student: nn.Module,
    images: Float[Tensor, "row *image"],
    answers: Int[Tensor, " row"],
    draw: Generator,
) -> Float[Tensor, ""]:
    """Weighted cross-entropy to the answers, on images some of which are mirrored.

    For a share `FLIPS` of the images the mirror image is tried. It replaces its image, with the
    same answer, if the student gives that answer more than `SURE`. An image on which the student
    contradicts the teacher weighs `WRONG`, every other one 1. Costs no query. Random: which images
    are tried, from `draw`.

    >>> sure = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> sure[1].weight.data = torch.tensor([[5.0] * 4, [-5.0] * 4])
    >>> draw = torch.Generator().manual_seed(0)
    >>> lesson(sure, torch.ones(1, 1, 2, 2), torch.tensor([1]), draw).item()  # twice 40
    80.0
    """
    with fixed(student), torch.no_grad():
        mirrored = images.flip(-1)
        kept = student(mirrored).softmax(1).gather(1, answers[:, None])[:, 0] > SURE
        tried = torch.rand(len(images), generator=draw).to(images.device) < FLIPS
        images = torch.where((kept & tried)[:, None, None, None], mirrored, images)
    logits = student(images)
    loss = F.cross_entropy(logits, answers, reduction="none")
    return torch.where(logits.argmax(1) == answers, loss, WRONG * loss).mean()
