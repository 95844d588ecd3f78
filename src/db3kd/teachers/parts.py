"""A question in parts: what is sent is claimed before, and settled when its answers are there.

This is the one rule for a question on its way (`docs/design/2026-11-30-questions-in-flight.md`). A
`Keeper` has the books: the tape of a run, or a store of answers. `ask` asks any teacher by it.
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.teachers.base import Teacher, check_answers

Rows: TypeAlias = Sequence[int]
Classes: TypeAlias = Sequence[int] | Int[Tensor, " row"]
CHUNK = 1024  # images that a teacher without parts is asked at once


@runtime_checkable
class Keeper(Protocol):
    """Who keeps the answers to a question; threads may call it at once.

    A row that was claimed and never settled may have been paid: it is lost.
    """

    @property
    def open(self) -> int:
        """How many rows want an answer."""

    def claim(self, rows: Rows, /) -> Rows:
        """Put rows on the books before they are sent; returns those to send, in this order.

        The others have an answer, or another process is asking for them just now.

        Raises:
            BudgetExhausted: they would cost more than is left; none may be sent.
            RunError: the books cannot be written; none may be sent.
        """

    def settle(
        self, rows: Rows, classes: Classes, /, *, failed: Rows = (), retried: int = 0
    ) -> None:
        """Keep the classes of rows that were claimed.

        `failed`: rows that were sent and get no answer. `retried`: so many images are going to be
        sent once more.

        Raises:
            TeacherError: a row is not in the question or was answered before, or a class does not
                exist.
            BudgetExhausted: to send images once more would cost more than is left.
            RunError: the books cannot be written.
        """


@runtime_checkable
class InParts(Protocol):
    """A teacher whose answers arrive in parts, such as one with several requests on their way.

    >>> from db3kd.config.remote import Remote
    >>> from db3kd.teachers.remote import remote
    >>> isinstance(remote(Remote(url="http://localhost", protocol="mlflow"), classes=2), InParts)
    True
    """

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        """Claim and settle part after part, until every row was claimed by somebody, or raise.

        Nothing may be on its way any more when it returns or raises.
        """


@runtime_checkable
class Ledger(Protocol):
    """The books of a teacher that keeps its answers itself, so that no run has to."""

    @property
    def name(self) -> str:
        """Which books these are, wherever they lie."""

    def begin(self, run: str, folder: str, budget: int | None) -> None:
        """Book under the identity of a run from now on; what was booked under its folder, too.

        The teacher itself is not shown more images for it than its budget of queries.
        """

    def lost(self) -> int:
        """Images that this run sent and that nobody can have the answers of any more."""


def ask(
    teacher: Teacher, images: Float[Tensor, "row *image"], keeper: Keeper, *, chunk: int = CHUNK
) -> None:
    """Ask for every row that a keeper lets through, in the parts of the teacher's own.

    A teacher without parts is asked for `chunk` images at a time. Which rows go together depends
    on their places alone, so a question that goes on is asked as it would have been.

    Raises:
        Db3kdError: from the teacher and the keeper.
    """
    if isinstance(teacher, InParts):
        teacher.answer(images, keeper)
        return
    for first in range(0, len(images), chunk):
        rows = range(first, min(first + chunk, len(images)))
        ask_part(teacher, images, rows, keeper)


def ask_part(
    teacher: Teacher, images: Float[Tensor, "row *image"], rows: range, keeper: Keeper
) -> None:
    """Ask a teacher on this machine for some rows at once, and keep its answers.

    An interrupt waits until they are kept; a second one does not.
    """
    with interrupts_wait():
        mine = keeper.claim(rows)
        if not len(mine):
            return
        part = images[rows.start : rows.stop] if len(mine) == len(rows) else images[list(mine)]
        try:
            answers = teacher.labels(part)
            answers = check_answers(answers, asked=len(mine), classes=teacher.classes)
        except BaseException:
            keeper.settle((), (), failed=mine)
            raise
        keeper.settle(mine, answers)


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let an interrupt wait until the end of the block; a second one comes through at once.

    Only in the main thread, where Python handles signals; elsewhere it does nothing.

    >>> with interrupts_wait():
    ...     pass
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {}

    def wait(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        if len(came) > 1:
            _put_back(handlers)
            handlers[number](number, frame)

    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(handler := signal.getsignal(number)):
            handlers[number] = handler
            signal.signal(number, wait)
    try:
        yield
    finally:
        _put_back(handlers)
        if len(came) == 1:  # with a second one, the handler was called already
            handlers[came[0][0]](*came[0])


def _put_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Collected:
    """A keeper that only collects: for a question that nobody keeps.

    >>> found = Collected(2)
    >>> found.claim([1]), found.settle([1], [7]), found.answers
    ([1], None, tensor([-1,  7]))
    """

    def __init__(self, count: int) -> None:
        self.answers = torch.full((count,), -1, dtype=torch.int64)

    @property
    def open(self) -> int:
        """How many rows want an answer."""
        return int((self.answers < 0).sum())

    def claim(self, rows: Rows, /) -> Rows:
        """Let all rows through."""
        return rows

    def settle(
        self, rows: Rows, classes: Classes, /, *, failed: Rows = (), retried: int = 0
    ) -> None:
        """Keep the classes of rows."""
        self.answers[torch.as_tensor(list(rows), dtype=torch.int64)] = torch.as_tensor(
            classes, dtype=torch.int64
        )
