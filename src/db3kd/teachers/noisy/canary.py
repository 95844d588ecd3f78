"""A teacher that asks known images now and then, and stops when the model behind it changed."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import Middleware, Teacher, check_answers
from db3kd.teachers.noisy.flips import ask_all, asked_again, check_share

EFFECTS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)  # shares of other answers that a change may bring


class Canary(Middleware):
    """A teacher that asks known images before all others and after `every` queries.

    Not of the paper. `images` and `answers` are kept by the caller, as plain tensors in a
    safetensors file; `canaries` makes them. More other answers than flips explain stop it, for
    good: `flips` is the probability that the answer to a known image is not the kept one, on the
    average of the images, at most (`FlipRate.most_flips`). With 0.0 the first other answer stops.

    The test is sequential and valid at any time: the likelihood ratio of "from some check on, a
    share more of the answers differ" to "flips alone", averaged over that share (`EFFECTS`) and
    over that check (the k-th weighs 1 / (k (k + 1))). It starts at 1 and has mean 1 at most under
    flips alone, so the probability that it ever passes 1 / `false_alarm` in the life of this
    object, however long, is at most `false_alarm` (Ville 1939). Images may flip unequally; only
    their mean counts. Flips must be new in each check: an image whose kept answer was wrong does
    not fit.

    It does not tell a change of the model from that of what stands before it, and sees none that
    spares the known images. Answers are handed out only after the check that follows them; those of
    earlier questions since the last check, at most `every`, may be of the new model.

    It stands beneath the meter, above a store; the known images are asked past the store: `again`
    gives the teacher for the k-th check, k = 0, 1, ...; without it that is `teacher`, which then
    must not be a store.

        Meter -> Canary -> CachedTeacher -> adapter

    Costs as many queries as there are known images at first, and again after each `every` queries,
    so 1 + N / every times in N queries, on top of the meter's count, counted in `asked`. Nothing is
    random but the teacher.

    Raises:
        InputError: nothing to ask, answers that do not fit, `every` below 1, wrong shares, or a
            store without `again`.
        TeacherError: the teacher has changed, or as the teacher.
        BudgetExhausted: from the teacher.

    >>> from db3kd.teachers import function
    >>> limit = [0.5]
    >>> bright = function(lambda images: images.flatten(1).mean(1) > limit[0], classes=2)
    >>> known = torch.linspace(0, 1, 11).reshape(11, 1, 1, 1)
    >>> teacher = Canary(bright, known, bright.labels(known), every=4)
    >>> teacher.labels(known[:4]).tolist(), teacher.asked, teacher.checks
    ([0, 0, 0, 0], 22, 2)
    >>> limit[0] = 0.25
    >>> teacher.labels(known[:4])
    Traceback (most recent call last):
    ...
    db3kd.errors.TeacherError: the teacher has changed: it answered 3 of 11 known images ...
    """

    def __init__(
        self,
        teacher: Teacher,
        images: Float[Tensor, "row *image"],
        answers: Int[Tensor, " row"],
        *,
        every: int,
        flips: float = 0.0,
        false_alarm: float = 1e-3,
        again: Callable[[int], Teacher] | None = None,
    ) -> None:
        if not len(images) or every < 1:
            raise InputError(
                f"canaries need 1 known image and 1 query between checks at least, got"
                f" {len(images)} and {every}"
            )
        if not 0 < false_alarm < 1:
            raise InputError(f"false_alarm must lie between 0 and 1, got {false_alarm}")
        check_share(flips)
        try:
            self._known = check_answers(answers, asked=len(images), classes=teacher.classes)
        except TeacherError as error:
            raise InputError(f"the kept answers do not fit: {error}") from None
        super().__init__(teacher)
        self._again = asked_again(teacher, again)
        self._images, self._flips, self._false_alarm = images, flips, false_alarm
        self.every, self._since, self._stopped = every, 0, ""
        self.checks, self.asked = 0, 0
        self._ratios = torch.zeros(0, len(EFFECTS), dtype=torch.float64)  # logarithms

    def __repr__(self) -> str:
        return f"Canary({self._teacher!r}, {len(self._images)} images, every={self.every})"

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; known images are asked first or afterwards where it is due."""
        if self._stopped:
            raise TeacherError(self._stopped)
        if not self.checks:
            self.check()
        answers = self._teacher.labels(images)
        self._since += len(images)
        if self._since >= self.every:
            self.check()
        return answers

    def check(self) -> None:
        """Ask the known images now.

        Raises:
            TeacherError: the teacher has changed.
        """
        self.asked += len(self._images)
        (answers,) = ask_all(self._again(self.checks), self._images, 1)
        changed = int((answers != self._known.to(answers.device)).sum())
        self.checks += 1
        self._since = 0
        if self._evidence(changed) >= 1 / self._false_alarm:
            self._stopped = (
                f"the teacher has changed: it answered {changed} of {len(self._images)} known"
                f" images otherwise than before, where flips explain {self._flips:.1%}; answers"
                " since the check before may be of the new one, so go on as with a new teacher"
            )
            raise TeacherError(self._stopped)

    def _evidence(self, changed: int) -> float:
        """The likelihood ratio after one more check."""
        same = len(self._images) - changed
        if not self._flips:
            return math.inf if changed else 1.0
        gain = [
            changed * math.log(1 + effect * (1 / self._flips - 1)) + same * math.log(1 - effect)
            for effect in EFFECTS
        ]
        begun = torch.zeros(1, len(EFFECTS), dtype=torch.float64)
        self._ratios = torch.cat([self._ratios, begun]) + torch.tensor(gain, dtype=torch.float64)
        check = torch.arange(1, self.checks + 1, dtype=torch.float64)[:, None]
        weighed = self._ratios - (check * (check + 1)).log() - math.log(len(EFFECTS))
        # What begins later still stands at 1: the weights of those add up to 1 / (checks + 1).
        return float(weighed.flatten().logsumexp(0).exp()) + 1 / (self.checks + 1)


def canaries(
    teacher: Teacher,
    images: Float[Tensor, "row *image"],
    repeats: int = 5,
    *,
    again: Callable[[int], Teacher] | None = None,
) -> tuple[Float[Tensor, "kept *image"], Int[Tensor, " kept"]]:
    """Images that are answered the same each time, and their answers: what a `Canary` asks.

    `images` (row, *image) within the teacher's bounds. Ask the adapter, not a store; or `again`
    gives the teacher for the k-th repeat. Keep both in a safetensors file. Costs `repeats` queries
    an image. Nothing is random but the teacher.

    Raises:
        InputError: fewer than 1 repeat.
        BudgetExhausted, TeacherError: from the teacher.

    >>> from db3kd.teachers import function
    >>> said = iter([[0, 1], [0, 0]])
    >>> images, answers = canaries(function(lambda images: next(said), classes=2),
    ...                            torch.zeros(2, 1, 1, 1), repeats=2)
    >>> len(images), answers
    (1, tensor([0]))
    """
    if repeats < 1:
        raise InputError(f"canaries need 1 repeat at least, got {repeats}")
    answers = ask_all(teacher, images, repeats, again)
    steady = (answers == answers[0]).all(0)
    return images[steady], answers[0][steady]
