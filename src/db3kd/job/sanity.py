"""Whether a teacher makes sense: its first answers beside the true classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.errors import plain
from db3kd.storage.files import Json

FIRST = 100  # images that are asked first
FEWEST = 30  # answers that can tell anything
SURE = 2.0  # standard deviations above chance
SWAPPED, EACH = 0.7, 3  # the share, and the number, of a class's images that get another class
LISTED = 4  # classes in a message


@dataclass(frozen=True)
class Doubt:
    """What cannot be right, in one sentence, and what to do."""

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}"


def doubt(
    answers: Int[Tensor, " row"], truth: Int[Tensor, " row"], names: Sequence[str]
) -> Doubt | None:
    """What cannot be right about a teacher's first answers; None if they make sense.

    `names`: of the teacher's classes. Fewer than 30 answers tell nothing. Costs no query.

    >>> labels = torch.arange(60) % 3
    >>> doubt(labels, labels, ("ant", "bee", "cow")) is None
    True
    >>> print(doubt((labels + 1) % 3, labels, ("ant", "bee", "cow")).what)
    the teacher's classes seem to be in another order: it says 'bee' where the labels say 'ant',
    'cow' where they say 'bee', 'ant' where they say 'cow'
    """
    count = len(answers)
    if count < FEWEST:
        return None
    right = int((answers == truth).sum())
    share = f"{right} of {count} first answers are the true class"
    said, true = torch.unique(answers), torch.unique(truth)
    if len(said) == 1 and len(true) > 1:
        called = _called(int(said[0]), names)
        return Doubt(
            f"the teacher says {called} of all {count} images that were asked first ({share})",
            "see whether it gets images as it expects them (teacher.encoding, teacher.bounds)",
        )
    moved = _moved(answers, truth)
    if moved:
        pairs = [f"{_called(to, names)} where they say {_called(of, names)}" for of, to in moved]
        pairs[0] = pairs[0].replace("they", "the labels", 1)
        more = f" and so on, {len(pairs)} classes in all" if len(pairs) > LISTED else ""
        return Doubt(
            "the teacher's classes seem to be in another order: it says"
            f" {', '.join(pairs[:LISTED])}{more}",
            "name them in its order in teacher.classes",
        )
    chance = _by_chance(answers, truth)
    if len(true) > 1 and right <= count * chance + SURE * math.sqrt(count * chance * (1 - chance)):
        return Doubt(
            f"the teacher and the labels agree no more than by chance: {share},"
            f" {100 * chance:.0f}% would be by chance",
            "see whether its classes (teacher.classes) are those of the images, and whether it"
            " gets images as it expects them (teacher.encoding, teacher.bounds)",
        )
    return None


def one_class(truth: Int[Tensor, " row"], names: Sequence[str]) -> Doubt | None:
    """What cannot be right about the true labels of a set: that all are one class.

    >>> print(one_class(torch.zeros(60).long(), ("ant", "bee")))
    all 60 labels of the own images are 'ant', of 2 classes; see whether the labels are right, ...
    """
    if len(truth) < FEWEST or len(names) < 2 or len(torch.unique(truth)) > 1:
        return None
    return Doubt(
        f"all {len(truth):,} labels of the own images are {_called(int(truth[0]), names)}, of"
        f" {len(names):,} classes",
        'see whether the labels are right, or set data.labels = "teacher"',
    )


def _by_chance(answers: Tensor, truth: Tensor) -> float:
    """The share of answers that would be right if they had nothing to do with the images."""
    most = int(torch.cat([answers, truth]).max()) + 1
    said, true = (torch.bincount(some, minlength=most) / len(some) for some in (answers, truth))
    return float((said * true).sum())


def _moved(answers: Tensor, truth: Tensor) -> list[tuple[int, int]]:
    """Classes that the teacher takes for another one each, and none of them twice."""
    found: dict[int, int] = {}
    kept: set[int] = set()
    for true in torch.unique(truth).tolist():
        mine = answers[truth == true]
        place = int(mine.mode().values)
        often = int((mine == place).sum())
        if often < EACH or often < SWAPPED * len(mine):
            continue  # it takes this class for several
        if place == true:
            kept.add(true)
        else:
            found[true] = place
    if len(found) < 2 or len(set(found.values())) < len(found) or kept & set(found.values()):
        return []  # two classes are taken for one, which no other order explains
    return list(found.items())


def _called(number: int, names: Sequence[str]) -> str:
    return repr(plain(names[number], 40)) if number < len(names) else '"I do not know"'


def confusion(
    answers: Int[Tensor, " row"], truth: Int[Tensor, " row"], names: Sequence[str]
) -> Json:
    """How often each true class got which answer, of the classes that were met.

    `names` are those of the columns, `true` those of the rows, and `matrix` has a row for each.

    >>> confusion(torch.tensor([0, 2, 2]), torch.tensor([0, 2, 0]), ("ant", "bee", "cow"))
    {'names': ['ant', 'cow'], 'true': ['ant', 'cow'], 'matrix': [[1, 1], [0, 1]]}
    """
    said = torch.unique(torch.cat([answers, truth])).tolist()
    true = torch.unique(truth).tolist()
    matrix = [[int(((truth == t) & (answers == s)).sum()) for s in said] for t in true]
    called = [names[k] if k < len(names) else "(unsure)" for k in said]
    return {"names": called, "true": [names[k] for k in true], "matrix": matrix}
