"""Answers that arrive in parts: what a teacher tells the one who keeps them."""

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

Rows: TypeAlias = Sequence[int] | Int[Tensor, " row"]
Classes: TypeAlias = Sequence[int] | Int[Tensor, " row"]


@runtime_checkable
class Settle(Protocol):
    """What a teacher calls for each part of a question that has an answer."""

    def __call__(
        self,
        rows: Rows,
        classes: Classes,
        /,
        *,
        failed: int = 0,
        retried: int = 0,
        unsent: int = 0,
    ) -> None:
        """Keep the classes of these rows of the question; threads may call it at once.

        `failed`: images that were sent and get no answer. `retried`: images that were sent once
        more. `unsent`: images that are not going to be sent.

        Raises:
            TeacherError: a row is not in the question or was answered before, or a class does not
                exist.
            RunError: the store cannot be written.
        """


@runtime_checkable
class InParts(Protocol):
    """A teacher whose answers arrive in parts, such as one with several requests on their way.

    >>> from db3kd.config.remote import Remote
    >>> from db3kd.teachers.remote import remote
    >>> isinstance(remote(Remote(url="http://localhost", protocol="mlflow"), classes=2), InParts)
    True
    """

    def answer(self, images: Float[Tensor, "row *image"], settle: Settle, /) -> None:
        """Call `settle` for each part as it arrives, until all rows are answered, or raise.

        Nothing may be on its way any more when it returns or raises. Where it raises, rows that
        were neither settled nor reported as `failed` or `unsent` count as failed: they may be paid.
        """
