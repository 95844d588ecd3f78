"""How a question is asked in parts, and how an interrupt waits for one."""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from db3kd.errors import TeacherError
from db3kd.teachers import function
from db3kd.teachers.parts import Collected, InParts, Keeper, Rows, ask, interrupts_wait

IMAGES = torch.arange(10.0).reshape(10, 1, 1, 1) / 16


class Foreign:
    """A teacher without parts."""

    classes, bounds = 16, (0.0, 1.0)

    def __init__(self) -> None:
        self.shown: list[list[int]] = []

    def labels(self, images: Tensor, /) -> Tensor:
        self.shown.append([round(value) for value in (images.flatten() * 16).tolist()])
        return (images.flatten() * 16).round().long()


class Choosy(Collected):
    """A keeper that lets only some rows through, and remembers what failed."""

    def __init__(self, count: int, wanted: set[int]) -> None:
        super().__init__(count)
        self.wanted, self.failed = wanted, list[int]()

    def claim(self, rows: Rows, /) -> Rows:
        return [row for row in rows if row in self.wanted]

    def settle(
        self, rows: Rows, classes: object, /, *, failed: Rows = (), retried: int = 0
    ) -> None:
        self.failed += failed
        super().settle(rows, classes)  # type: ignore[arg-type]


def test_which_rows_go_together_depends_on_their_places_alone() -> None:
    teacher, whole = Foreign(), Collected(10)
    ask(teacher, IMAGES, whole, chunk=4)
    assert teacher.shown == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert whole.answers.tolist() == list(range(10))
    teacher, some = Foreign(), Choosy(10, {1, 6, 7, 9})
    ask(teacher, IMAGES, some, chunk=4)
    assert teacher.shown == [[1], [6, 7], [9]]
    assert some.open == 6


def test_a_function_is_asked_in_its_own_batches() -> None:
    seen: list[int] = []

    def count(images: Tensor) -> Tensor:
        seen.append(len(images))
        return torch.zeros(len(images), dtype=torch.int64)

    teacher = function(count, classes=2, batch=4)
    assert isinstance(teacher, InParts)
    ask(teacher, IMAGES, Collected(10))
    assert seen == [4, 3, 3]  # as `labels` cuts them
    teacher.labels(IMAGES)
    assert seen == [4, 3, 3] * 2


def test_a_part_that_fails_is_told_to_the_keeper_and_ends_the_question() -> None:
    def fails(images: Tensor) -> Tensor:
        if float(images.max()) > 0.3:
            raise OSError("gone")
        return torch.zeros(len(images), dtype=torch.int64)

    keeper: Keeper = Choosy(10, set(range(10)))
    with pytest.raises(TeacherError, match="gone"):
        ask(function(fails, classes=2, batch=5), IMAGES, keeper)
    assert isinstance(keeper, Choosy)
    assert (keeper.failed, keeper.open) == ([5, 6, 7, 8, 9], 5)


class Stopped(Exception):
    pass


@pytest.fixture
def stopping() -> Iterator[list[int]]:
    """The handler of interrupts raises; how often it was called."""
    called: list[int] = []

    def handler(*_: object) -> None:
        called.append(1)
        raise Stopped

    before = signal.signal(signal.SIGINT, handler)
    yield called
    assert signal.getsignal(signal.SIGINT) is handler
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def block(*steps: Callable[[], object]) -> None:
    with interrupts_wait():
        for step in steps:
            step()


def test_an_interrupt_waits_for_the_end_and_a_second_one_does_not(stopping: list[int]) -> None:
    reached: list[str] = []
    with pytest.raises(Stopped):
        block(interrupt, lambda: reached.append("the end"))
    assert (reached, stopping) == (["the end"], [1])
    with pytest.raises(Stopped):
        block(interrupt, interrupt, lambda: reached.append("never"))
    assert (reached, stopping) == (["the end"], [1, 1])


def test_an_interrupt_that_waits_is_not_lost_when_the_block_fails(stopping: list[int]) -> None:
    with pytest.raises(Stopped):
        block(interrupt, lambda: 1 / 0)
    assert stopping == [1]


def test_blocks_within_blocks(stopping: list[int]) -> None:
    reached: list[str] = []
    with pytest.raises(Stopped):
        block(lambda: block(interrupt), lambda: reached.append("between"))
    assert (reached, stopping) == (["between"], [1])


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_handlers_of_the_system_are_left_alone(handler: Callable[..., object]) -> None:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with interrupts_wait():
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_ask_as_well() -> None:
    found: list[object] = []

    def work() -> None:
        keeper = Collected(10)
        ask(Foreign(), IMAGES, keeper)
        found.append(keeper.open)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]
