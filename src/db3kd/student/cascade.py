"""A student that passes what it is unsure of to its teacher."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from db3kd.config.settings import Budget
from db3kd.data import TensorImages, check_images
from db3kd.data.names import places
from db3kd.errors import BudgetExhausted, InputError
from db3kd.student.calibration import probabilities
from db3kd.student.loaded import Student
from db3kd.student.pictures import batches
from db3kd.teachers.base import Teacher, check_teacher, names_of, unsure_of
from db3kd.teachers.meter import Meter

BATCHES = 16  # of images, whose unsure ones make one question
STAGE = "predict"  # on the books of the meter
_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class CascadeAnswers:
    """What a cascade answered, row by row.

    - `classes`: the place of the class in `Cascade.classes`.
    - `probability`: what the student gives this class, calibrated.
    - `by_teacher`: whether it is the teacher's answer.
    - `over`: whether the student was unsure, but the budget had nothing left to ask.

    >>> no = torch.tensor([False])
    >>> CascadeAnswers(torch.tensor([1]), torch.tensor([0.9]).double(), no, no).classes
    tensor([1])
    """

    classes: Int[Tensor, " row"]
    probability: Float64[Tensor, " row"]
    by_teacher: Bool[Tensor, " row"]
    over: Bool[Tensor, " row"]


class Cascade:
    """A student and its teacher: the teacher is asked where the student is unsure.

    An image is passed on if the student's highest probability is below `threshold`: the maximum of
    softmax(logits / `temperature`). Those it is least sure of come first. Where the budget ends the
    student's own answer stands, and so it does where the teacher does not know the class.

    - `budget`: the most queries that this object asks. A teacher that is a `Meter` already keeps
      its own budget, and this is left out.
    - `temperature`: calibrates the probabilities; `summary.json` of a run has it for each student,
      and the thresholds that go with it (`db3kd.student.calibration`).
    - `meter`: counts what was asked.

    Classes match by name where the teacher names them. Costs one query for each image passed on.
    Nothing is random.

    Raises:
        InputError: the two differ in their classes, the teacher does not take images of 0 to 1, or
            a number is out of its range.

    >>> from torch import nn
    >>> from db3kd.student.card import StudentCard
    >>> from db3kd.teachers import function
    >>> student = Student(nn.Flatten(), StudentCard(shape=(1, 1, 2), classes=("left", "right")))
    >>> teacher = function(lambda images: [0] * len(images), classes=("left", "right"))
    >>> cascade = Cascade(student, teacher, 0.6, budget=Budget(queries=1))
    >>> cascade.predict(torch.tensor([[0.0, 1.0], [0.1, 0.2]]).reshape(2, 1, 1, 2))
    ['right', 'left']
    >>> cascade.meter.spent
    1
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        threshold: float,
        *,
        budget: Budget | None = None,
        temperature: float = 1.0,
    ) -> None:
        check_teacher(teacher)
        check_unit(teacher)
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold is a probability, from 0 to 1; got {threshold}")
        if not 0 < temperature < math.inf:
            raise InputError(f"temperature must be above 0 and finite, got {temperature}")
        if isinstance(teacher, Meter) and budget is not None:
            raise InputError("the teacher is a meter, which has a budget; leave budget out")
        self.student, self.threshold, self.temperature = student, threshold, temperature
        self.classes = student.classes
        self.meter = teacher if isinstance(teacher, Meter) else Meter(teacher, budget)
        self._place = torch.tensor(_places(student.classes, teacher))

    def predict(self, images: object) -> list[str]:
        """The names of the classes, one for each image; images as for `Student.predict`.

        What the budget did not allow to ask is said in a warning.

        Raises:
            InputError, TeacherError: as `ask`.
        """
        found = self.ask(images)
        if over := int(found.over.sum()):
            _log.warning(
                "the budget is exhausted: %s of %s images below the threshold were not passed on,"
                " and have the student's own answers",
                f"{over:,}",
                f"{int((found.over | found.by_teacher).sum()):,}",
            )
        return [self.classes[place] for place in found.classes.tolist()]

    def ask(self, images: object) -> CascadeAnswers:
        """The classes of images, and who gave them; images as for `Student.predict`.

        Raises:
            InputError: an image cannot be used.
            TeacherError: from the teacher.
        """
        parts = [self._block(block) for block in self._blocks(images)]
        if not parts:
            none = torch.zeros(0, dtype=torch.int64)
            return CascadeAnswers(none, none.double(), none.bool(), none.bool())
        names = ("classes", "probability", "by_teacher", "over")
        return CascadeAnswers(
            *(torch.cat([getattr(part, name) for part in parts]) for name in names)
        )

    def _blocks(self, images: object) -> Iterator[Tensor]:
        """The images as the student takes them, several batches at a time."""
        card = self.student.card
        found = batches(images, card.shape, card.white)
        while some := list(islice(found, BATCHES)):
            yield torch.cat(some)

    def _block(self, pixels: Tensor) -> CascadeAnswers:
        check_images(pixels, (0.0, 1.0))
        given = probabilities(self.student.logits(TensorImages(pixels)), self.temperature)
        sure, classes = given.max(1)
        by_teacher = torch.zeros(len(pixels), dtype=torch.bool)
        over = sure < self.threshold
        unsure = over.nonzero()[:, 0]
        unsure = unsure[sure[unsure].argsort(stable=True)]
        answers = self._bought(pixels, unsure)
        asked = unsure[: len(answers)]
        over[asked] = False
        found = self._place[answers]
        known = found >= 0
        classes[asked[known]] = found[known]
        by_teacher[asked[known]] = True
        own = given.gather(1, classes[:, None])[:, 0]
        return CascadeAnswers(classes, own, by_teacher, over)

    def _bought(self, pixels: Tensor, rows: Tensor) -> Tensor:
        """The teacher's answers to as many of the rows, in order, as the budget pays.

        A refused question is halved. What a store knows of it by then costs nothing again.
        """
        ask = self.meter.labels if self.meter.ledger is None else self.meter.used
        found, start, step = [torch.zeros(0, dtype=torch.int64)], 0, len(rows)
        while step and start < len(rows):
            try:
                with self.meter.stage(STAGE):
                    found.append(ask(pixels[rows[start : start + step]]).cpu())
                start += step
            except BudgetExhausted:
                step //= 2
        return torch.cat(found)


def check_unit(teacher: Teacher) -> None:
    """Refuse a teacher that takes other numbers than 0 to 1, as the file of a student does.

    Raises:
        InputError: it has other bounds.

    >>> from db3kd.teachers import function
    >>> check_unit(function(lambda images: [0] * len(images), classes=2, bounds=(0.0, 255.0)))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the teacher takes images of 0 to 255, but students those of 0 to 1; ...
    """
    low, high = teacher.bounds
    if (low, high) != (0.0, 1.0):
        raise InputError(
            f"the teacher takes images of {low:g} to {high:g}, but students those of 0 to 1; let"
            " its `encoding` do the scaling"
        )


def _places(mine: tuple[str, ...], teacher: Teacher) -> list[int]:
    """For each class of the teacher the student's place of it; -1 for "I do not know"."""
    unsure, known = unsure_of(teacher), names_of(teacher)
    count = teacher.classes - (unsure is not None)
    if len(mine) != count:
        raise InputError(
            f"the student knows {len(mine):,} classes, but the teacher {count:,}; give the teacher"
            " that it learned from"
        )
    theirs = list(map(str, range(count)))
    theirs[: len(known or ())] = (known or ())[:count]
    if set(theirs) == set(mine) and len(set(mine)) == count:
        found = [theirs.index(name) for name in mine]
    elif all(map(_same, range(count), mine, theirs)):
        found = list(range(count))
    else:
        found = places(mine, theirs, count, "the student's answers")
    place = {theirs_at: mine_at for mine_at, theirs_at in enumerate(found)}
    if len(place) < count:
        raise InputError("two classes of the student are one of the teacher; rename them")
    return [place[at] for at in range(count)] + [-1] * (unsure is not None)


def _same(at: int, mine: str, theirs: str) -> bool:
    """Whether a class may be the same: one has a number alone, or the name was there twice."""
    return mine in (theirs, f"{theirs} ({at})", str(at)) or theirs == str(at)
