"""What a run has cost in money, whatever the price was when, and what it may still cost."""

import math
from pathlib import Path

from db3kd.config.recipe import Recipe
from db3kd.config.remote import Price
from db3kd.errors import ConfigurationDiffers
from db3kd.storage.journal import Journal
from db3kd.teachers.cached import Account, Purse, Store


def purse_of(
    recipe: Recipe, store: Store, account: Account, journal: Journal, *, keep: bool
) -> Purse | None:
    """The purse of a recipe's run; None if its answers have no price.

    What was charged at an earlier price stays at that price: the journal has every price, with how
    many images were charged before it and how much they cost. `keep` writes a new price down.

    Raises:
        ConfigurationDiffers: earlier images were paid in another currency.
    """
    price = recipe.teacher.price
    if price is None:
        return None
    purse = Purse(price)
    for record in journal.all("price"):
        was = Price(
            per_1000=record["per_1000"], currency=record["currency"], failed=record["failed"]
        )
        purse = Purse(was, since=record["since"], before=record["before"])
    if purse.price != price or not any(journal.all("price")):
        purse = _repriced(purse, price, store, account, recipe.run)
        if keep:
            journal.append(
                "price",
                per_1000=price.per_1000,
                currency=price.currency,
                failed=price.failed,
                since=purse.since,
                before=purse.before,
            )
    money, each = recipe.budget.money, price.per_1000 / 1000
    if money is None or not each:
        return purse
    left = math.floor((money - purse.before) / each + 1e-9)
    return Purse(price, purse.since + left, purse.since, purse.before)


def charged(purse: Purse, store: Store, account: Account) -> int:
    """Images that a purse has been charged for, those of checks included."""
    return sum(purse.charged(store.books(run=run)) for run in account.runs)


def sent(books: dict[str, int]) -> int:
    """Images that were sent, by the books of a store.

    >>> sent({"answered": 5, "failed": 1, "retried": 1, "lost": 0, "in_flight": 0, "hits": 9})
    7
    """
    return sum(books[name] for name in ("answered", "failed", "retried", "lost", "in_flight"))


def run_name(recipe: Recipe, journal: Journal) -> str:
    """The name under which a run's images are booked: its identity, before it has one its place."""
    for record in journal.all("name"):
        return str(record["run"])
    return str(Path(recipe.run).resolve())


def _repriced(purse: Purse, price: Price, store: Store, account: Account, folder: object) -> Purse:
    """The purse from here on, at another price."""
    before = purse.money(charged(purse, store, account))
    if before and purse.price.currency != price.currency:
        raise ConfigurationDiffers(
            f"the answers of {folder} were paid in {purse.price.currency!r} so far, not in"
            f" {price.currency!r}; give the price in that currency, or use another folder"
        )
    return Purse(price, since=charged(Purse(price), store, account), before=before)
