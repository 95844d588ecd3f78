"""A tape keeps its books whatever becomes of its end."""

import os
import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import db3kd.storage.frames
from conftest import full_disk
from db3kd.errors import RunError, TeacherError
from db3kd.storage.frames import BEGIN
from db3kd.storage.tape import Drifted, Tape

QUESTIONS = ((3, 5), (7, 2**32 - 1), (4, 6))  # count and key; the last is never answered
PART = 2


def answers(count: int, classes: int) -> Tensor:
    return (torch.arange(count) * 7 + classes - 1) % classes


@contextmanager
def opened(path: Path, classes: int = 10, allowed: int = 0) -> Iterator[Tape]:
    tape = Tape(path, classes=classes, allowed=allowed)
    try:
        yield tape
    finally:
        tape.close()


def asked(tape: Tape, count: int, key: int, classes: int, *, answered: bool = True) -> int:
    """Ask what is open of a question, in parts; returns how much was asked."""
    question, sent = tape.question(count, key=key), 0
    for first in range(0, count, PART):
        rows = question.claim(range(first, min(first + PART, count)))
        sent += len(rows)
        if answered and len(rows):
            question.settle(rows, answers(count, classes)[list(rows)])
    return sent


def recorded(path: Path, classes: int = 10) -> list[int]:
    """Ask the questions; returns the bounds that the journal heard."""
    bounds: list[int] = []
    tape = Tape(path, classes=classes, allow=bounds.append)
    for count, key in QUESTIONS:
        asked(tape, count, key, classes, answered=(count, key) != QUESTIONS[-1])
    tape._release()  # the process dies
    return bounds


def killed(tape: Tape) -> None:
    tape._release()


@pytest.mark.parametrize("classes", [2, 256, 257, 100_000])
def test_answers_come_back_in_order_and_only_what_is_open_is_asked(
    tmp_path: Path, classes: int
) -> None:
    path = tmp_path / "0.tape"
    recorded(path, classes)
    reader = Tape(path, classes=classes, read_only=True)
    assert (reader.booked, reader.lost, reader.in_flight) == (14, 0, 4)
    with opened(path, classes) as tape:
        assert (tape.booked, tape.lost, tape.in_flight) == (14, 4, 0)
        assert [asked(tape, count, key, classes) for count, key in QUESTIONS] == [0, 0, 4]
        assert (tape.booked, tape.lost) == (18, 4)
    with opened(path, classes) as tape:
        for count, key in QUESTIONS:
            question = tape.question(count, key=key)
            assert question.open == 0
            assert question.answers().tolist() == answers(count, classes).tolist()
            assert question.answers().dtype == torch.int64


def test_a_question_that_was_on_its_way_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    tape = Tape(path, classes=10)
    question = tape.question(6, key=1)
    question.settle(question.claim([0, 1]), [4, 5])
    question.claim([2, 3])
    killed(tape)
    with opened(path) as tape:
        question = tape.question(6, key=1)
        assert (question.open, tape.booked, tape.lost) == (4, 4, 2)
        assert question.claim(range(6)) == [2, 3, 4, 5]
        question.settle([5, 2, 3, 4], [9, 6, 7, 8])
        assert question.answers().tolist() == [4, 5, 6, 7, 8, 9]
        assert (tape.booked, tape.lost) == (8, 2)


def test_a_new_tape_is_empty_and_reading_does_not_make_it(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "0.tape"
    tape = Tape(path, classes=3, read_only=True)
    assert (tape.booked, tape.lost, tape.question(2, key=1).open) == (0, 0, 2)
    assert not path.parent.exists()
    tape.close()


def test_questions_of_a_teacher_with_its_own_books_cost_what_is_used(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    tape = Tape(path, classes=10)
    question = tape.question(3, key=1)
    question.reserve()
    assert Tape(path, classes=10, read_only=True).reserved == 3
    killed(tape)
    with opened(path) as tape:
        assert (tape.booked, tape.lost) == (0, 0)
        question = tape.question(3, key=1)
        question.reserve()
        question.settle(range(3), [1, 2, 3])
    reader = Tape(path, classes=10, read_only=True)
    assert (reader.booked, reader.lost, reader.reserved) == (3, 0, 0)


# The end of the file


def ends(draw: random.Random, content: bytes) -> bytes:
    """The content with an end that is cut, zeroed, garbled, or followed by garbage."""
    place = draw.randrange(BEGIN, len(content) + 1)
    rest = len(content) - place
    return content[:place] + draw.choice(
        [b"", bytes(rest), draw.randbytes(rest), content[place:] + draw.randbytes(40)]
    )


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), classes=st.sampled_from([10, 1000]), again=st.booleans())
def test_whatever_the_end_is_nothing_asked_is_forgotten_and_no_more_is_lost_than_it_covers(
    tmp_path_factory: pytest.TempPathFactory, seed: int, classes: int, again: bool
) -> None:
    path, draw = tmp_path_factory.mktemp("tape") / "0.tape", random.Random(seed)
    bounds = recorded(path, classes)
    path.write_bytes(ends(draw, path.read_bytes()))
    before = Tape(path, classes=classes, read_only=True, allowed=bounds[-1])
    total, lost = before.booked, before.lost + before.in_flight
    assert total == 14  # the head knows
    if again:
        killed(Tape(path, classes=classes, allowed=bounds[-1]))
    with opened(path, classes, bounds[-1]) as tape:
        assert (tape.booked, tape.lost) == (total, lost)
        sent = sum(asked(tape, count, key, classes) for count, key in QUESTIONS)
        assert sent == lost
        assert (tape.booked, tape.lost) == (total + sent, lost)


@pytest.mark.parametrize("how", ["gone", "empty", "zeros", "garbage", "no head"])
def test_without_a_head_the_journal_says_how_much_may_have_been_asked(
    tmp_path: Path, how: str
) -> None:
    path = tmp_path / "0.tape"
    bounds = recorded(path)
    content = path.read_bytes()
    assert bounds == sorted(bounds)
    assert 14 <= bounds[-1] <= 28
    if how == "gone":
        path.unlink()
    else:
        made = {"empty": b"", "zeros": bytes(99), "garbage": os.urandom(300)}
        path.write_bytes(made.get(how, bytes(BEGIN) + content[BEGIN:]))
    reader = Tape(path, classes=10, read_only=True, allowed=bounds[-1])
    assert reader.booked == bounds[-1]
    with opened(path, allowed=bounds[-1]) as tape:
        sent = sum(asked(tape, count, key, 10) for count, key in QUESTIONS)
        assert tape.booked == bounds[-1] + sent
        assert sent == (4 if how == "no head" else 14)


def test_after_a_start_of_the_machine_the_head_of_an_open_tape_is_not_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "0.tape"
    bounds = recorded(path)
    monkeypatch.setattr(db3kd.storage.frames, "machine_start", lambda: b"restart!")
    with opened(path, allowed=bounds[-1]) as tape:
        assert tape.booked == bounds[-1] > 14
    monkeypatch.setattr(db3kd.storage.frames, "machine_start", lambda: b"restart2")
    with opened(path, allowed=99) as tape:  # it was closed, so all of it was on the disk
        assert tape.booked == bounds[-1]


def test_a_bound_is_heard_before_more_is_asked(tmp_path: Path) -> None:
    class Full(Exception):
        pass

    heard: list[int] = []

    def full_then(bound: int) -> None:
        if heard:
            raise Full
        heard.append(bound)

    tape = Tape(tmp_path / "0.tape", classes=10, allow=full_then)
    question = tape.question(5, key=1)
    assert question.claim([0, 1, 2]) == [0, 1, 2]
    with pytest.raises(Full):
        question.claim([3])
    assert heard == [3]
    assert tape.booked == 3
    tape.close()


# Faults


def test_another_question_than_the_recorded_one_is_a_drift(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    recorded(path)
    for count, key in ((3, 6), (2, 5)):
        with opened(path) as tape, pytest.raises(Drifted, match=r"0\.tape"):
            tape.question(count, key=key)


def test_a_discarded_tape_forgets_answers_but_not_their_price(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    recorded(path)
    Tape(path, classes=10).discard()
    with opened(path) as tape:
        assert (tape.booked, tape.lost, tape.question(3, key=5).open) == (14, 14, 3)
        asked(tape, 3, 5, 10)
        assert (tape.booked, tape.lost) == (17, 14)
    Tape(path, classes=10).discard()
    assert Tape(path, classes=10, read_only=True).booked == 17


@pytest.mark.parametrize("room", [0, 1, 15])
def test_a_full_disk_is_met_before_a_question_is_sent(tmp_path: Path, room: int) -> None:
    path = tmp_path / "0.tape"
    recorded(path)
    tape = Tape(path, classes=10)
    with full_disk(path.stat().st_size + room):
        question = [tape.question(count, key=key) for count, key in QUESTIONS][-1]
        with pytest.raises(RunError, match=r"0\.tape cannot be written"):
            question.claim(range(4))
    tape.close()
    with opened(path) as again:
        assert (again.booked, again.lost) == (14, 4)


def test_a_question_that_failed_is_asked_again_on_the_same_tape(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    with opened(path) as tape:
        asked(tape, 3, 5, 10, answered=False)  # the teacher raises an error
        assert asked(tape, 3, 5, 10) == 3
        assert (tape.booked, tape.lost, tape.in_flight) == (6, 3, 0)
        asked(tape, 3, 5, 10, answered=False)
        assert asked(tape, 2, 9, 10) == 2  # another question: the last was given up
        assert (tape.booked, tape.lost, tape.in_flight) == (11, 6, 0)
    with opened(path) as again:
        assert (again.booked, again.lost, again.in_flight) == (11, 6, 0)
        assert again.question(3, key=5).answers().tolist() == answers(3, 10).tolist()
        with pytest.raises(Drifted):  # what was given up is not gone on with: another came after it
            again.question(3, key=5)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room cannot be taken before")
def test_there_is_room_for_the_answers_of_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    tape = Tape(path, classes=1000)
    question = tape.question(5000, key=1)
    rows = question.claim(range(5000))
    with full_disk(path.stat().st_size):
        question.settle(rows, answers(5000, 1000))
    killed(tape)
    with opened(path, 1000) as again:
        assert again.question(5000, key=1).open == 0
        assert again.lost == 0


def test_where_the_system_has_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no fdatasync and takes no room in advance, Windows does not write at a place."""
    for name in ("posix_fallocate", "pwrite", "fdatasync"):
        monkeypatch.delattr(os, name, raising=False)
    path = tmp_path / "0.tape"
    recorded(path)
    with opened(path) as tape:
        assert [asked(tape, count, key, 10) for count, key in QUESTIONS] == [0, 0, 4]
        assert (tape.booked, tape.lost) == (18, 4)
    with opened(path) as tape:
        assert all(tape.question(count, key=key).open == 0 for count, key in QUESTIONS)


@pytest.mark.parametrize(("rows", "says"), [([0], "image 0"), ([4], "image 4"), ([-1], "image -1")])
def test_answers_out_of_place(tmp_path: Path, rows: list[int], says: str) -> None:
    with opened(tmp_path / "0.tape") as tape:
        question = tape.question(3, key=1)
        question.settle(question.claim([0, 1, 2]), [1, 1, 1])
        with pytest.raises(TeacherError, match=says):
            question.settle(rows, [2])


# Tapes of older formats


def old(*frames: tuple[int, int, bytes | None]) -> bytes:
    content = b""
    for count, key, found in frames:
        head = struct.pack("<4sIII", b"ask:" if found is not None else b"lost", count, key, 0)[:12]
        content += head + zlib.crc32(head).to_bytes(4, "little")
        if found is not None:
            content += found + zlib.crc32(found).to_bytes(4, "little")
    return content


def test_a_tape_of_an_older_format_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    path.write_bytes(old((3, 5, b"\1\2\3"), (4, 6, None)) + old((2, 7, b"\0\1"))[:17])
    reader = Tape(path, classes=10, read_only=True)
    assert (reader.booked, reader.lost) == (9, 6)
    with opened(path) as tape:
        assert (tape.booked, tape.lost) == (9, 6)
        assert tape.question(3, key=5).answers().tolist() == [1, 2, 3]
        assert asked(tape, 2, 7, 10) == 2
    with opened(path) as tape:
        assert (tape.booked, tape.lost) == (11, 6)
        assert tape.question(3, key=5).open == tape.question(2, key=7).open == 0
