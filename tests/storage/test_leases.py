"""A tape that is taken back: whatever its borrower may ever send is on the books by then."""

from pathlib import Path

import pytest
import torch

from db3kd.storage.leases import lend, lent, take_back, tape_of
from db3kd.storage.tape import Fenced, Tape


def own(folder: Path, *, bound: int = 0) -> Tape:
    return Tape(tape_of(folder, 3), classes=10, allowed=bound)


def lend_one(folder: Path) -> Path:
    return lend(own(folder), 1, 5)


def borrowed(path: Path) -> Tape:
    return Tape(path, classes=10, allowed=100, leased=True)


def test_answers_go_there_and_back(tmp_path: Path) -> None:
    tape = own(tmp_path)
    first = tape.question(3, key=1)
    first.settle(first.claim([0, 1]), torch.tensor([7, 8]))
    path = lend(tape, 1, 1)
    assert not tape_of(tmp_path, 3).exists()
    there = borrowed(path)
    question = there.question(3, key=1)
    assert question.open == 1
    question.settle(question.claim([2]), torch.tensor([9]))
    there.close()
    take_back(path)
    back = own(tmp_path, bound=100)
    assert back.question(3, key=1).answers().tolist() == [7, 8, 9]
    assert (back.booked, back.lost, lent(tmp_path)) == (3, 0, {})
    back.close()


def test_nothing_is_claimed_on_a_tape_that_is_taken_back(tmp_path: Path) -> None:
    path = lend_one(tmp_path)
    ghost = borrowed(path)
    question = ghost.question(8, key=1)
    question.settle(question.claim(range(2)), torch.tensor([1, 2]))
    question.claim(range(2, 4))  # is on its way while the tape is taken back
    take_back(path)
    with pytest.raises(Fenced):
        question.claim(range(4, 6))
    question.settle(range(2, 4), torch.tensor([1, 1]))  # an answer that comes late
    ghost.close()
    back = own(tmp_path, bound=100)
    assert (back.booked, back.lost) == (4, 2)
    assert back.question(8, key=1).open == 6
    back.close()


def test_a_borrower_that_comes_late_finds_no_tape(tmp_path: Path) -> None:
    path = lend_one(tmp_path)
    take_back(path)
    with pytest.raises(Fenced):
        borrowed(path)
    again = lend(own(tmp_path), 1, 6)
    with pytest.raises(Fenced):
        borrowed(path)
    assert [each.name for each in tmp_path.iterdir()] == [again.name] == ["00003.1.6.tape"]


@pytest.mark.parametrize("after", ["renamed", "copied"])
def test_taking_back_goes_on_after_a_kill(tmp_path: Path, after: str) -> None:
    path = lend_one(tmp_path)
    tape = borrowed(path)
    tape.question(4, key=1).claim(range(4))
    fenced = path.replace(path.with_suffix(".fenced"))
    if after == "copied":
        tape_of(tmp_path, 3).write_bytes(fenced.read_bytes())
    assert lent(tmp_path) == {3: fenced}
    take_back(fenced)
    assert [each.name for each in tmp_path.iterdir()] == ["00003.tape"]
    back = own(tmp_path, bound=100)
    assert (back.booked, back.lost) == (4, 4)
    back.close()
    take_back(path)  # of what is not there any more
    tape.close()
