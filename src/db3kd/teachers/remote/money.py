"""Money for calls: reserved before a call is sent, given back where it was not charged."""

import math

from db3kd.config.remote import Price
from db3kd.errors import MoneyExhausted


class MoneyBudget:
    """So much money for answers at a price; without a limit it only counts.

    `spent`: images that were paid before. Money is what images cost: the limit is the number of
    images that it pays, so that no rounding can exceed it.

    >>> money = MoneyBudget(Price(per_1000=2.0, currency="EUR"), 0.01, spent=3)
    >>> money.reserve(2)
    >>> money.reserve(1)
    Traceback (most recent call last):
    ...
    db3kd.errors.MoneyExhausted: the budget of 0.01 EUR is exhausted: ...
    """

    def __init__(
        self, price: Price | None = None, money: float | None = None, *, spent: int = 0
    ) -> None:
        self.price, self.spent = price or Price(per_1000=0.0), spent
        each = self.price.per_1000 / 1000
        self.most = None if money is None or not each else math.floor(money / each + 1e-9)

    def reserve(self, images: int) -> None:
        """Take the money for a call.

        Raises:
            MoneyExhausted: there is too little; nothing was taken.
        """
        if self.most is not None and self.spent + images > self.most:
            raise MoneyExhausted(
                spent=self.spent,
                asked=images,
                budget=self.most,
                per_1000=self.price.per_1000,
                currency=self.price.currency,
            )
        self.spent += images

    def give_back(self, images: int) -> None:
        """Put back what a call that failed would have cost, unless that is charged too."""
        if not self.price.failed:
            self.spent -= images
