"""A teacher that asks again until one class leads."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.errors import BudgetExhausted, InputError
from db3kd.teachers.base import Middleware, Teacher, check_answers
from db3kd.teachers.noisy.flips import asked_again


class Voting(Middleware):
    """A teacher that asks an image until one class leads by `margin`, at most `most` times.

    Not of the paper; the stopping rule is Wald's (1945). The class with the most answers wins, of
    several the one that was answered first. `margin_for` says which lead a wanted error needs.
    With a margin of 1 no image is asked twice.

    It stands beneath the meter, which counts one query an image as ever, so what the rows of a
    search spend still adds up to the meter's total. What is asked beyond that is counted here, in
    `repeats`, and has a budget of its own: `budget` is the most, and earlier processes spent
    `spent` of it. `undecided` counts images at which `most` came before the margin.

    `again` gives the teacher for the k-th question to an image, k = 0, 1, ...; without it that is
    `teacher` each time. A store (`CachedTeacher`) would answer repeats from memory, so with one the
    k-th question needs an identity of its own; then each single answer is kept, and a vote that was
    interrupted, or is asked for again, pays nothing twice:

        Meter -> Voting -> CachedTeacher (one for each k) -> adapter

    Costs from `margin` to `most` queries an image, all but the first in `repeats`. Nothing is
    random but the teacher. Images do not depend on their neighbours.

    Raises:
        InputError: `margin` or `most` below 1, `most` below `margin`, a negative budget, or a
            store without `again`.
        BudgetExhausted: the next repeats would exceed their budget; they were not asked.
        TeacherError: from the teacher, or an answer that is not a class.

    >>> from db3kd.teachers import function
    >>> said = iter([[0, 1], [0, 0], [0]])  # the second image: 1, 0, 0
    >>> teacher = Voting(function(lambda images: next(said), classes=2), most=3, margin=2)
    >>> teacher.labels(torch.zeros(2, 1, 1, 1)), teacher.repeats, teacher.undecided
    (tensor([0, 0]), 3, 1)
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        most: int,
        margin: int,
        budget: int | None = None,
        spent: int = 0,
        again: Callable[[int], Teacher] | None = None,
    ) -> None:
        if not 1 <= margin <= most:
            raise InputError(
                f"a vote needs a margin of 1 at least and of `most` at most, got a margin of"
                f" {margin} and {most} questions at most"
            )
        if spent < 0 or (budget is not None and budget < 0):
            raise InputError(f"budget and spent must not be negative, got {budget} and {spent}")
        super().__init__(teacher)
        self._again = asked_again(teacher, again)
        self.most, self.margin, self.budget = most, margin, budget
        self.repeats, self.undecided = spent, 0

    def __repr__(self) -> str:
        return f"Voting({self._teacher!r}, most={self.most}, margin={self.margin})"

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image, as the majority has it; same device as the images."""
        winner = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        open_ = torch.arange(len(images), device=images.device)
        votes = winner[:, None][:, :0]
        for number in range(self.most):
            if not len(open_):
                break
            answers = self._ask(images if number == 0 else images[open_], number)
            votes = torch.cat([votes, answers[:, None]], 1)
            winner[open_], lead = tally(votes)
            more = lead < self.margin
            open_, votes = open_[more], votes[more]
        self.undecided += len(open_)
        return winner

    def _ask(self, images: Tensor, number: int) -> Tensor:
        asked = len(images)
        if number:
            if self.budget is not None and self.repeats + asked > self.budget:
                raise BudgetExhausted(
                    spent=self.repeats, asked=asked, budget=self.budget, stage="repeats"
                )
            self.repeats += asked  # counted before they are asked, as the meter does
        teacher = self._again(number)
        answers = check_answers(teacher.labels(images), asked=asked, classes=self.classes)
        return answers.to(images.device)


def tally(votes: Int[Tensor, "row vote"]) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """The class with the most votes, of several the first, and its lead over the next class.

    >>> tally(torch.tensor([[2, 0, 0], [1, 1, 1], [2, 0, 1]]))
    (tensor([0, 1, 2]), tensor([1, 3, 0]))
    """
    same: Bool[Tensor, "row vote vote"] = votes[:, :, None] == votes[:, None]
    count = same.sum(2)
    place = torch.arange(votes.shape[1], device=votes.device)
    first = (count * votes.shape[1] - place).argmax(1, keepdim=True)  # no two are equal
    winner = votes.gather(1, first)
    rest = count.masked_fill(votes == winner, 0).amax(1)
    return winner[:, 0], count.gather(1, first)[:, 0] - rest
