"""Ask those images of a source about which students are least sure.

The first round asks images as they come. Before each later round the students learn all answers.
`candidates` times as many images are then made as are asked. Those with the smallest margin between
the students' two likeliest classes are asked, in turns over the classes that the students see. So
each round asks near the boundary as students see it, and rare classes get their share.

db3kd's own way makes half of the candidates as new shapes. The other half descends from images that
were asked before, with equal numbers of every class.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

from db3kd.config.settings import AugmentationName, Training
from db3kd.data.transfer_set import TransferSet
from db3kd.seeds import derive_seed
from db3kd.student.batches import resident
from db3kd.student.networks import inference_batch
from db3kd.student.training import train
from db3kd.synthesis.acquisition import acquire, margin, rare
from db3kd.synthesis.augmentation import grow
from db3kd.synthesis.earlier import parents_of_all, shapes_of_latents
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import shapes
from db3kd.synthesis.way import Report, Task

ASKED = 1024  # images in one question, at most
PIECE = 512  # descendants made at once
DESCENDED = 0.5  # share of the candidates that descend from what was asked
CHANGES: tuple[AugmentationName, ...] = ("shift", "rotate", "scale", "shear", "mix", "paste")
LESSON = Training(batch=64)  # of one student, before each round but the first
ROOT, LEAST_STEPS, MOST_STEPS = 4, 200, 4000
LONG = Training(batch=64, optimiser="adamw", rate=1e-3, warmup=0.0)  # of earlier versions
LONG_PASSES, LONG_LEAST, LONG_MOST = 3, 1200, 4000


@dataclass(frozen=True)
class Made:
    """Images within a pool's bounds; `origins` is as in `Pool`.

    `parents`: the row of the pool that each descends from, or -1; None if none does.
    """

    images: Float[Tensor, "row *image"]
    origins: Int[Tensor, "row 2"] | None = None
    parents: Int[Tensor, " row"] | None = None


Source = Callable[[Pool, int, int, int, Generator], Made]
"""(pool, candidates made before, count, children, generator) -> `count` candidates.

The last `children` of them descend from images that were asked, if the source has descendants."""
_New = Callable[..., Tensor]  # as `shapes`
_Parents = Callable[[Pool, int, Generator], Tensor]


class Chosen:
    """Ask those images of a source about which students are least sure.

    Costs one query an image. Random: the students' first weights, from `seed`; the images and
    their order in training, from the seed of `spend`. Errors: those of `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu",
    ...             student=lambda seed: build("small", (1, 4, 4), 2, seed=seed))
    >>> len(Chosen(task, descendants, seed=0).networks)
    2
    """

    def __init__(self, task: Task, source: Source, *, seed: int) -> None:
        self.task, self.source = task, source
        self.networks = nn.ModuleList(
            task.student(derive_seed(seed, "member", k)) for k in range(task.members)
        )

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        draw = torch.Generator().manual_seed(derive_seed(seed, "images"))
        lessons, each = self.task.lessons, self.task.candidates
        first = self.is_first(pool)
        if not first and (lessons is None or len(pool) in lessons):
            teach_all(
                list(self.networks),
                pool,
                lesson(len(pool), long=self.task.long_lessons),
                seed=seed,
                device=self.task.device,
                report=report,
            )
        while pool.rest:
            count, before = pool.next(ASKED, each), len(pool) * each
            wanted = count if first else count * each
            made = self.source(pool, before, wanted, 0 if first else children(wanted), draw)
            shown, origins = pool.rounded(made.images)[1], made.origins
            if not first:
                seen = thoughts(self.networks, shown)
                rows = acquire(seen, margin, count, sought=self._sought(pool, made))
                shown, origins = shown[rows], None if origins is None else origins[rows.cpu()]
            pool.ask(shown, origins)

    def _sought(self, pool: Pool, made: Made) -> Tensor | None:
        """Where classes are found, the class of each candidate's parent if that is a rare one.

        Students do not see a class that was just met; what descends from its images may show more.
        """
        if not self.task.finding or made.parents is None:
            return None
        counts = pool.counts()
        counts[-1] = 0  # "I do not know"
        few = torch.cat([rare(counts), torch.tensor([False])])  # the last is of what has no parent
        called = torch.where(made.parents < 0, len(counts), pool.answers[made.parents])
        return torch.where(few[called], called, -1)

    def is_first(self, pool: Pool) -> bool:
        """Whether students have not learned yet, so that images are asked as they come."""
        lessons = self.task.lessons
        return len(pool) < (1 if lessons is None else min(lessons, default=self.task.queries))


def lesson(asked: int, *, long: bool = False) -> Training:
    """How one student is taught, after this many answers; `long`: as in earlier versions.

    >>> [lesson(asked).steps for asked in (1_000, 25_000, 1_000_000)]
    [200, 632, 4000]
    >>> [lesson(asked, long=True).steps for asked in (1_000, 60_000)]
    [1200, 2812]
    """
    if long:
        steps = max(LONG_LEAST, min(LONG_MOST, LONG_PASSES * asked // LONG.batch))
        return msgspec.structs.replace(LONG, steps=steps)
    steps = max(LEAST_STEPS, min(MOST_STEPS, round(ROOT * math.sqrt(asked))))
    return msgspec.structs.replace(LESSON, steps=steps)


def teach_all(
    students: Sequence[nn.Module],
    pool: Pool,
    training: Training,
    *,
    seed: int,
    device: str,
    report: Report,
) -> None:
    """Train every student further on all answers so far; costs no query.

    Random: the order of the images, from `seed`.
    """
    known = TransferSet(resident(pool.images), torch.arange(len(pool)), pool.answers, pool.answers)
    for number, member in enumerate(students):

        def progress(
            _: str, done: int, total: int, figures: Mapping[str, float], /, number: int = number
        ) -> None:
            report("students", number * total + done, len(students) * total)

        with torch.enable_grad():
            train(
                member,
                known,
                training,
                seed=derive_seed(seed, "lesson", number),
                device=device,
                progress=progress,
            )


def thoughts(
    students: nn.ModuleList, images: Float[Tensor, "row *image"]
) -> Float[Tensor, "student row classes"]:
    """Log-probabilities of every student for every image; costs no query."""
    parts = torch.split(images, inference_batch(images.shape[1:]))
    logits = [torch.cat([member(part) for part in parts]) for member in students]
    return functional.log_softmax(torch.stack(logits), 2)


def children(candidates: int) -> int:
    """How many of this many candidates descend from images that were asked.

    >>> children(9)
    4
    """
    return round(candidates * DESCENDED)


def descendants(pool: Pool, before: int, count: int, children: int, draw: Generator) -> Made:
    """Make new shapes, and children of images that were asked, by augmentation; costs no query.

    Random: `draw`.
    """
    del before
    return _made(pool, count, children, draw, shapes, Pool.balanced)


def earlier_descendants(
    pool: Pool, before: int, count: int, children: int, draw: Generator
) -> Made:
    """The same, drawn as in the folders of earlier versions."""
    del before
    return _made(pool, count, children, draw, shapes_of_latents, parents_of_all)


def _made(
    pool: Pool, count: int, children: int, draw: Generator, new: _New, parents: _Parents
) -> Made:
    made = [new(count - children, pool.shape, draw, bounds=pool.bounds).to(pool.device)]
    rows = [torch.full((count - children,), -1)]
    for some, images in offspring(pool, children, draw, parents):
        made.append(images)
        rows.append(some)
    return Made(torch.cat(made), parents=torch.cat(rows))


def offspring(
    pool: Pool, count: int, draw: Generator, parents: _Parents
) -> Iterator[tuple[Int[Tensor, " row"], Tensor]]:
    """Children of images that were asked, by augmentation, some at a time with their parents.

    Costs no query. Random: `draw`.
    """
    for rows in torch.split(parents(pool, count, draw), PIECE) if count else ():
        yield rows, grow(pool.read(rows), rows, CHANGES, bounds=pool.bounds, draw=draw).images


def chosen_shapes(task: Task, *, seed: int) -> Chosen:
    """The way "chosen", db3kd's own: shapes, and descendants of those that were asked.

    >>> from db3kd.teachers import function
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu", student=lambda seed: nn.Flatten())
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pool = Pool(3, (1, 4, 4), bright, eight_bit=True)
    >>> pool.allow(2)
    >>> chosen_shapes(task, seed=0).spend(pool, seed=0, report=print)
    >>> len(pool), pool.rest
    (2, 0)
    """
    return Chosen(task, earlier_descendants if task.earlier else descendants, seed=seed)
