"""Public photographs: crops of them, drawn shapes, and shapes filled with crops.

What a teacher knows may look like photographs or not, so a trial decides where new images come
from. The first images are asked at random, equally many of each source. Students of equally many
answers of each source, and of all sources together, are then judged on answers of all sources that
were held back from them, each class counting the same. One source makes all further new images if
its students are clearly better than those of the mixture; otherwise each makes a third. Everything
else is as in the way "chosen": students choose, and half of the candidates descend from what was
asked.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from db3kd.config.settings import Training
from db3kd.data import TensorImages
from db3kd.data.photographs import photographs
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.seeds import derive_seed
from db3kd.student.evaluate import predict
from db3kd.student.training import train
from db3kd.synthesis.chosen import Chosen, Made, offspring
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import filled, shapes
from db3kd.synthesis.way import Report, Task

SOURCES = ("shapes", "crops", "filled shapes")
MIXTURE = "all of them"
FEWEST = 600  # answers that a trial wants, if these are at most half of all
FOLDS = 4  # each is held back once
LESSON = Training(batch=64, steps=200)  # of each student of a trial
TRIAL_STEPS = FOLDS * (len(SOURCES) + 1) * 200  # of all students of a trial
_log = logging.getLogger("db3kd")
DESCENDANT = -1  # the source of what descends from asked images


class Shares(nn.Module):
    """How much of the new images each source makes; all 0 before the trial has decided.

    >>> Shares().decided, Shares().of_sources
    (False, [0.3333333432674408, 0.3333333432674408, 0.3333333432674408])
    """

    shares: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shares", torch.zeros(len(SOURCES)))

    @property
    def decided(self) -> bool:
        """Whether the trial is over."""
        return bool(self.shares.any())

    @property
    def of_sources(self) -> list[float]:
        """The share of each source; they are equal before the trial has decided."""
        equal = torch.full_like(self.shares, 1 / len(SOURCES))
        found: list[float] = (self.shares if self.decided else equal).tolist()
        return found


class Public:
    """Ask crops, shapes and filled shapes about which students are least sure; a trial decides.

    `task.images` are photographs of any size (`db3kd.data.photographs`). `origins` of the pool
    hold the source of each image, or `DESCENDANT`, and the row of its parent, or -1.

    Costs one query an image. Random: which photographs are taken, if there are too many, and the
    students' first weights, from `seed`; the images and their order in training, from the seed of
    `spend`.

    Raises:
        InputError: the task has no photographs, or none can be decoded. `spend` raises the errors
            of `Pool.ask`.

    >>> from db3kd.student.networks import build
    >>> from db3kd.teachers import function
    >>> photos = TensorImages(torch.rand(2, 3, 9, 9))
    >>> task = Task((1, 4, 4), 2, queries=4, device="cpu", images=photos,
    ...             student=lambda seed: build("small", (1, 4, 4), 2, seed=seed))
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.4, classes=2)
    >>> pool = Pool(4, (1, 4, 4), bright, eight_bit=True)
    >>> pool.allow(4)
    >>> Public(task, seed=0).spend(pool, seed=0, report=print)
    >>> pool.origins[:, 0]
    tensor([0, 1, 2, 2])
    """

    def __init__(self, task: Task, *, seed: int) -> None:
        if task.images is None:
            raise InputError("there are no photographs; name a data set in synthesis.images")
        draw = torch.Generator().manual_seed(derive_seed(seed, "photographs"))
        self.task, self.seed = task, seed
        self.photographs = photographs(task.images, task.shape, draw)
        self.chosen = Chosen(task, self.source, seed=seed)
        self.shares = Shares()
        self.networks = nn.ModuleDict({"students": self.chosen.networks, "shares": self.shares})
        self.facts: dict[str, object] = {}  # what the books note of the last `spend`

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        before, kept = len(pool), self.photographs
        self.facts = {"photographs": len(kept.kept), "damaged": kept.damaged}
        enough = before >= _wanted(self.task.queries)
        if not self.shares.decided and enough and not self.chosen.is_first(pool):
            self._decide(pool, seed=seed, report=report)
        self.chosen.spend(pool, seed=seed, report=report)
        if pool.origins is not None:
            self.facts["sources"] = counted(pool.origins[before:, 0])

    def source(self, pool: Pool, before: int, count: int, children: int, draw: Generator) -> Made:
        """Make candidates of every source by its share, and descendants of what was asked."""
        del before
        made, origins = [], []
        for number, some in enumerate(divided(count - children, self.shares.of_sources)):
            if not some:
                continue
            made.append(self._new(number, some, pool, draw).to(pool.device))
            origins.append(torch.tensor([[number, -1]]).expand(some, 2))
        for rows, images in offspring(pool, children, draw, Pool.balanced):
            made.append(images)
            origins.append(torch.stack([torch.full_like(rows, DESCENDANT), rows], 1))
        noted = torch.cat(origins)
        return Made(torch.cat(made), noted, parents=noted[:, 1])

    def _new(self, number: int, count: int, pool: Pool, draw: Generator) -> Tensor:
        low, high = pool.bounds
        if SOURCES[number] == "shapes":
            return shapes(count, pool.shape, draw, bounds=pool.bounds)
        crops = self.photographs.crops(count, draw)
        if SOURCES[number] == "crops":
            return crops.mul_(high - low).add_(low)
        return filled(crops, draw, bounds=pool.bounds)

    def _decide(self, pool: Pool, *, seed: int, report: Report) -> None:
        found = judged(pool, self.task, seed=derive_seed(seed, "sources"), report=report)
        best = found.best
        equal = [1 / len(SOURCES)] * len(SOURCES)
        shares = equal if best is None else [float(k == best) for k in range(len(SOURCES))]
        self.shares.shares.copy_(torch.tensor(shares))
        self.facts["trial"] = found.words
        _log.info("new images are %s", found.words)


def _wanted(queries: int) -> int:
    """After how many of all answers there is a trial."""
    return min(FEWEST, queries // 2)


def trial_shard(queries: int, size: int) -> int:
    """Before which shard of `size` there is a trial, of so many queries in all.

    >>> trial_shard(2000, 250), trial_shard(100, 25)
    (3, 2)
    """
    return max(1, -(-_wanted(queries) // size))


@dataclass(frozen=True)
class Sources:
    """How students of each source, and last those of the mixture, did on answers held back.

    `agreement`: how often they agreed with the teacher, each class counting the same. `error`: the
    standard error of what each source has more than the mixture. Both are empty without a trial.

    >>> Sources([0.5, 0.3, 0.4, 0.45], [0.02, 0.02, 0.02], 200).best
    0
    """

    agreement: list[float]
    error: list[float]
    held: int

    @property
    def best(self) -> int | None:
        """The source that is clearly better than the mixture; None if none is."""
        if not self.agreement:
            return None
        *alone, together = self.agreement
        number = max(range(len(alone)), key=alone.__getitem__)
        gain = alone[number] - together
        return number if gain > 0 and gain >= self.error[number] else None

    @property
    def words(self) -> str:
        """What was found, as text.

        >>> Sources([], [], 0).words
        'all of them (too few answers of each source for a trial)'
        """
        use = MIXTURE if self.best is None else SOURCES[self.best]
        if not self.agreement:
            return f"{use} (too few answers of each source for a trial)"
        names = [*SOURCES, MIXTURE]
        shares = [f"{k} {100 * a:.1f}%" for k, a in zip(names, self.agreement, strict=True)]
        held = f"agreement on {self.held:,} answers held back"
        return f"{use} ({held}, each class counting the same: {', '.join(shares)})"


def judged(pool: Pool, task: Task, *, seed: int, report: Report) -> Sources:
    """Teach students of each source and of the mixture, and judge them; costs no query.

    Each student learns equally many new images, a quarter of which was held back. Random: which
    images, the students' first weights and batches, from `seed`.
    """
    known = torch.zeros(0, 2).long() if pool.origins is None else pool.origins
    draw = torch.Generator().manual_seed(seed)
    rows = [(known[:, 0] == number).nonzero()[:, 0] for number in range(len(SOURCES))]
    count = min(map(len, rows)) // FOLDS * FOLDS
    if count < FOLDS * len(SOURCES):
        return Sources([], [], 0)
    mine = torch.stack([some[torch.randperm(len(some), generator=draw)][:count] for some in rows])
    right = torch.zeros(len(SOURCES) + 1, len(SOURCES), count)
    for fold in range(FOLDS):
        held = torch.arange(count) % FOLDS == fold
        tests, seen = mine[:, held], mine[:, ~held]
        third = seen.shape[1] // len(SOURCES)
        for number, lesson in enumerate([*seen, seen[:, :third].flatten()]):
            done = fold * len(right) + number
            report("sources", done, FOLDS * len(right))
            student = _taught(pool, task, lesson, seed=derive_seed(seed, fold))
            images = TensorImages(pool.read(tests.flatten()).cpu())
            said = predict(student, images, device=task.device).cpu()
            right[number][:, held] = (
                (said == pool.answers[tests.flatten()]).float().view(tests.shape)
            )
    return _weighed(right.flatten(1), pool.answers[mine.flatten()])


def _taught(pool: Pool, task: Task, rows: Tensor, *, seed: int) -> nn.Module:
    answers = pool.answers[rows]
    known = TransferSet(TensorImages(pool.read(rows).cpu()), rows, answers, answers)
    student = task.student(derive_seed(seed, "student"))
    with torch.enable_grad():
        return train(student, known, LESSON, seed=seed, device=task.device)


def _weighed(right: Float[Tensor, "kind held"], answers: Int[Tensor, " held"]) -> Sources:
    """Agreement where each class counts the same, and the error of what a source has more."""
    counts = answers.bincount()
    weight = 1 / (counts[answers] * (counts > 0).sum())
    agreement = right @ weight
    apart = (right[:-1] - right[-1]) * weight
    error = apart.square().sum(1).sqrt()
    return Sources(
        [round(share, 4) for share in agreement.tolist()],
        [round(one, 4) for one in error.tolist()],
        len(answers),
    )


def divided(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers of this sum, by their shares.

    >>> divided(8, [1 / 3, 1 / 3, 1 / 3]), divided(8, [0.0, 1.0, 0.0])
    ([2, 3, 3], [0, 8, 0])
    """
    ends = [math.floor(count * sum(shares[: k + 1]) + 1e-6) for k in range(len(shares))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def counted(sources: Int[Tensor, " row"]) -> Mapping[str, int]:
    """How many images came from each source, and how many descend from others.

    >>> counted(torch.tensor([0, 1, 1, -1]))
    {'shapes': 1, 'crops': 2, 'filled shapes': 0, 'descendants': 1}
    """
    counts = {name: int((sources == number).sum()) for number, name in enumerate(SOURCES)}
    return {**counts, "descendants": int((sources == DESCENDANT).sum())}
