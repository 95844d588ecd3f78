"""The meter that every query passes: counted before it is asked, and never beyond a budget."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.settings import Budget, kind_of
from db3kd.config.types import validated
from db3kd.errors import BudgetExhausted
from db3kd.teachers.base import Middleware, Teacher, check_answers
from db3kd.teachers.parts import Classes, Keeper, Rows, ask


class Meter(Middleware):
    """A teacher that counts every query before it is asked, and never lets a budget be exceeded.

    One image shown once is one query. A question that fails has been counted: it may have been
    paid. With a teacher that has its own books (a `Ledger`), a query is an answer that is used, or
    one that is lost; there what is paid does not exceed the budget either. The answers are checked:
    as many as the images, whole numbers, within the classes.

    Raises:
        BudgetExhausted: the question would exceed the budget; it was not asked.
        TeacherError: an answer is not a class index.

    >>> import torch
    >>> from db3kd.teachers import function
    >>> meter = Meter(function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2),
    ...               Budget(queries=3))
    >>> meter.labels(torch.ones(2, 1, 4, 4)), meter.spent
    (tensor([1, 1]), 2)
    >>> meter.labels(torch.ones(2, 1, 4, 4))
    Traceback (most recent call last):
    ...
    db3kd.errors.BudgetExhausted: the budget of 3 queries is exhausted: 2 are spent ...
    """

    def __init__(
        self, teacher: Teacher, budget: Budget | None = None, *, spent: dict[str, int] | None = None
    ) -> None:
        super().__init__(teacher)
        self._stage = ""
        self.before_asking: Callable[[], None] | None = None  # called once, before a question
        self.lease: Callable[[int], None] | None = None  # gets leave for so many, or raises
        self.budget = validated(budget or Budget())
        self.by_stage: dict[str, int] = dict(spent or {})
        self._limits = {str(name): limit for name, limit in self.budget.stages.items()}

    @property
    def spent(self) -> int:
        """Queries counted so far, all stages together."""
        return sum(self.by_stage.values())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Book the queries asked inside under `name`."""
        before, self._stage = self._stage, name
        try:
            yield
        finally:
            self._stage = before

    def check(self, asked: int) -> None:
        """Raise BudgetExhausted if a question of `asked` images would exceed a budget."""
        kind = kind_of(self._stage)
        of_kind = sum(count for name, count in self.by_stage.items() if kind_of(name) == kind)
        for spent, budget, name in (
            (self.spent, self.budget.queries, ""),
            (of_kind, self._limits.get(kind), kind),
        ):
            if budget is not None and spent + asked > budget:
                raise BudgetExhausted(spent=spent, asked=asked, budget=budget, stage=name)
        if self.lease is not None:
            self.lease(asked)

    def book(self, asked: int) -> None:
        """Count queries that were asked elsewhere; less than none where a lease had unused ones."""
        self.by_stage[self._stage] = self.by_stage.get(self._stage, 0) + asked

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; one query each, counted before it is asked."""
        asked = len(images)
        self.check(asked)
        self.book(asked)
        return check_answers(self._teacher.labels(images), asked=asked, classes=self.classes)

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        """Have every open row of a keeper answered; each part is counted before it is asked.

        Raises:
            BudgetExhausted: all that is open would exceed the budget; nothing was asked.
            TeacherError: from the teacher, or it left rows without an answer.
        """
        self.check(keeper.open)
        self._begin()
        ask(self._teacher, images, _Counted(self, keeper))

    def used(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image, from a teacher with its own books; counted if all goes well.

        Raises:
            BudgetExhausted, TeacherError: as `labels`.
        """
        asked = len(images)
        self.check(asked)
        self._begin()
        answers = check_answers(self._teacher.labels(images), asked=asked, classes=self.classes)
        self.book(asked)
        return answers

    def leased(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image, for a worker whose lease has counted them already.

        Raises:
            TeacherError: from the teacher.
        """
        self._begin()
        answers = self._teacher.labels(images)
        return check_answers(answers, asked=len(images), classes=self.classes)

    def _begin(self) -> None:
        if self.before_asking is not None:
            first, self.before_asking = self.before_asking, None
            first()


class _Counted:
    """A keeper whose claims are counted by a meter."""

    def __init__(self, meter: Meter, keeper: Keeper) -> None:
        self._meter, self._keeper = meter, keeper

    @property
    def open(self) -> int:
        return self._keeper.open

    def claim(self, rows: Rows, /) -> Rows:
        mine = self._keeper.claim(rows)
        self._meter.book(len(mine))
        return mine

    def settle(
        self, rows: Rows, classes: Classes, /, *, failed: Rows = (), retried: int = 0
    ) -> None:
        if len(rows):
            classes = check_answers(classes, asked=len(rows), classes=self._meter.classes)
        self._keeper.settle(rows, classes, failed=failed, retried=retried)
