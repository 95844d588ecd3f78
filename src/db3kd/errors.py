"""Every exception that db3kd raises on purpose.

Db3kdError
├── InputError (also a ValueError)   the caller gave something that cannot work
│   └── RecipeError                  a recipe is wrong; the message names file and line
├── TeacherError                     the teacher failed, or answered something that is no label
├── BudgetExhausted                  the next question would exceed the budget; nothing was asked
│   └── MoneyExhausted               as that, of money
└── RunError                         a run folder cannot be used
    ├── ConfigurationDiffers         it was made with other settings
    ├── Damaged                      a journal, shard or answer file is missing, cut or altered
    └── Busy                         another process works in it

A row of a search that fails is never an exception: it is a status in the result.
"""


class Db3kdError(Exception):
    """Base of all errors of db3kd; its text is one sentence for the user.

    >>> issubclass(InputError, Db3kdError)
    True
    """


class InputError(Db3kdError, ValueError):
    """The caller gave something that cannot work; the text says what, and what would.

    >>> raise InputError("epochs must be at least 1, got 0")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: epochs must be at least 1, got 0
    """


class RecipeError(InputError):
    """A recipe is wrong; the text begins with its file and line.

    >>> issubclass(RecipeError, InputError)
    True
    """


class TeacherError(Db3kdError):
    """The teacher failed, or answered something that is no label.

    >>> issubclass(TeacherError, InputError)
    False
    """


class BudgetExhausted(Db3kdError):
    """The next question would exceed the budget; it was not asked.

    Attributes: `spent`, `asked` (size of the refused question) and `budget`, all in queries, and
    `stage`, the part of the run whose budget it is ("" for the whole).

    >>> BudgetExhausted(spent=90, asked=20, budget=100).spent
    90
    """

    def __init__(self, *, spent: int, asked: int, budget: int, stage: str = "") -> None:
        self.spent, self.asked, self.budget, self.stage = spent, asked, budget, stage
        where = f" of stage {stage!r}" if stage else ""
        super().__init__(
            f"the budget{where} of {budget:,} queries is exhausted: {spent:,} are spent and the"
            f" next question needs {asked:,}; run again with a larger budget to continue"
        )


class MoneyExhausted(BudgetExhausted):
    """The next call would cost more than is left; it was not made.

    `spent`, `asked` and `budget` are in images, what money pays for.

    >>> str(MoneyExhausted(spent=90, asked=20, budget=100, per_1000=20.0, currency="EUR"))[:38]
    'the budget of 2.00 EUR is exhausted: 1'
    """

    def __init__(
        self, *, spent: int, asked: int, budget: int, per_1000: float, currency: str
    ) -> None:
        super().__init__(spent=spent, asked=asked, budget=budget)

        def money(images: int) -> str:
            return f"{images * per_1000 / 1000:,.2f} {currency}".rstrip()

        self.args = (
            f"the budget of {money(budget)} is exhausted: {money(spent)} are spent and the next"
            f" call costs {money(asked)}; run again with a larger budget to continue",
        )


class RunError(Db3kdError):
    """A run folder cannot be used.

    >>> issubclass(Damaged, RunError)
    True
    """


class ConfigurationDiffers(RunError):
    """A run folder was made with other settings; the text shows each difference.

    >>> issubclass(ConfigurationDiffers, RunError)
    True
    """


class Damaged(RunError):
    """A file of a run is missing, cut or altered; the text names file and place.

    >>> issubclass(Damaged, Db3kdError)
    True
    """


class Busy(RunError):
    """Another process works in the run folder.

    >>> issubclass(Busy, RunError)
    True
    """
