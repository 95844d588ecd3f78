"""A teacher that takes answers from a tape first, so that nothing is asked twice after a crash."""

import time
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import TeacherError
from db3kd.storage.files import Json
from db3kd.storage.tape import Tape
from db3kd.teachers.base import Middleware
from db3kd.teachers.meter import Meter

KEY_PIXELS = 256  # pixels of a question that stand for it on the tape
SCATTER = 2_654_435_761  # its multiples fall all over the images, not into one column


class ReplayTeacher(Middleware):
    """A teacher that takes recorded answers from a tape first and asks the meter for the rest.

    A shard asks the same questions in the same order each time it is run, so the answers of a
    killed process fit again, those of a question that was on its way included. What is still open
    of a question is checked against the budget and asked part by part; a part is on the tape before
    it is sent. A teacher with its own books (`db3kd.teachers.parts.Ledger`) is asked for all of it:
    it knows what it has. `used` counts the answers handed out, recorded ones included, and is
    reported after each question.

    Raises:
        BudgetExhausted, TeacherError: from the meter.
        Drifted: the tape recorded another question.

    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> path = Path(tempfile.mkdtemp()) / "0.tape"
    >>> meter, tape = Meter(bright), Tape(path, classes=2)
    >>> ReplayTeacher(meter, tape).labels(torch.ones(3, 1, 2, 2)), meter.spent
    (tensor([1, 1, 1]), 3)
    >>> tape.close(); tape = Tape(path, classes=2)
    >>> ReplayTeacher(meter, tape).labels(torch.ones(3, 1, 2, 2)), meter.spent
    (tensor([1, 1, 1]), 3)
    >>> tape.close()
    """

    def __init__(
        self, meter: Meter, tape: Tape, report: Callable[[int], None] = lambda used: None
    ) -> None:
        super().__init__(meter)
        self._meter, self._tape, self._report = meter, tape, report
        self.used = 0

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """The class index of each image; costs one query each, unless the tape has the answer."""
        question = self._tape.question(len(images), key=question_key(images))
        if question.open and self.ledger is not None:
            question.reserve()
            question.settle(range(len(images)), self._meter.used(images))
        elif question.open:
            self._meter.answer(images, question)
        if question.open:
            raise TeacherError(
                f"the teacher left {question.open} of {len(images)} images without an answer"
            )
        self.used += len(images)
        self._report(self.used)
        return question.answers().to(images.device)


def question_key(images: Float[Tensor, "row *image"]) -> int:
    """A cheap checksum over some of the pixels; two questions hardly ever share it.

    >>> import torch
    >>> question_key(torch.zeros(2, 1, 4, 4)) != question_key(torch.ones(2, 1, 4, 4))
    True
    """
    flat = images.reshape(-1)
    if not len(flat):
        return 0
    places = (torch.arange(KEY_PIXELS) * SCATTER % len(flat)).to(flat.device)
    return zlib.crc32(flat[places].cpu().numpy().tobytes())


def facts_of(started: float, tape: Tape, teacher: ReplayTeacher, facts: Json) -> Json:
    """What the books say of a shard: how long it took since `started`, what it cost, its facts."""
    return {
        "wall_s": round(time.perf_counter() - started, 3),
        "queries": tape.booked,
        "lost": tape.booked - teacher.used,
        **facts,
    }


def changing(path: Path) -> str:
    """What is wrong with a tape whose questions are others each time."""
    return f"{path} gets different questions each time; is the teacher's code deterministic?"
