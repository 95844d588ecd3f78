"""Whose books a question is on, and how much money it may cost."""

from dataclasses import dataclass

from db3kd.config.remote import Price
from db3kd.errors import MoneyExhausted

CHECKS = "check of "  # before the name of a run: what checks of its recipe have asked


@dataclass(frozen=True)
class Purse:
    """Money for the images of a run: `most` of them may be charged at a `price` (None: any number).

    Checks of the run's recipe pay out of it as well. The first `since` images were charged at
    earlier prices, `before` in all.

    >>> purse = Purse(Price(per_1000=2.0, currency="EUR"), most=5)
    >>> purse.charged({"answered": 3, "failed": 1, "retried": 0, "lost": 1, "in_flight": 0})
    4
    >>> purse.check(4, asked=1)
    >>> purse.check(4, asked=2)
    Traceback (most recent call last):
    ...
    db3kd.errors.MoneyExhausted: the budget of 0.01 EUR is exhausted: ...
    """

    price: Price
    most: int | None = None
    since: int = 0
    before: float = 0.0

    def money(self, charged: int) -> float:
        """What so many charged images have cost."""
        return self.before + (charged - self.since) * self.price.per_1000 / 1000

    def charged(self, books: dict[str, int]) -> int:
        """Images that cost money; those that nobody has the answers of may have been charged."""
        charged = books["answered"] + books["lost"] + books["in_flight"]
        return charged + (books["failed"] + books["retried"] if self.price.failed else 0)

    def check(self, charged: int, *, asked: int) -> None:
        """Refuse what the money does not pay.

        Raises:
            MoneyExhausted: there is too little; nothing may be sent.
        """
        if self.most is not None and charged + asked > self.most:
            raise MoneyExhausted(
                spent=charged,
                asked=asked,
                budget=self.most,
                per_1000=self.price.per_1000,
                currency=self.price.currency,
                since=self.since,
                before=self.before,
            )


@dataclass
class Account:
    """Under which `run` images are booked, and the `purse` that pays for them.

    `budget`: the most images that a teacher may be shown for the run.

    >>> Account("first").runs
    ('first', 'check of first')
    """

    run: str = ""
    purse: Purse | None = None
    budget: int | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """The names whose images the purse pays for."""
        name = self.run.removeprefix(CHECKS)
        return name, CHECKS + name
