import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import full_disk
from db3kd.errors import Damaged, RunError
from db3kd.storage.files import sync_data, write_atomically, writing
from db3kd.storage.journal import Journal
from db3kd.storage.shards import read_shard, write_shard
from db3kd.storage.tape import Drifted, Tape

# Files


def test_a_failed_write_is_one_sentence() -> None:
    with (
        pytest.raises(RunError, match=r"shard cannot be written \(Is a directory\)"),
        writing(Path("shard")),
    ):
        raise OSError(21, "Is a directory")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "note"
    write_atomically(target, b"first")
    write_atomically(target, b"second, longer")
    assert target.read_bytes() == b"second, longer"
    with full_disk(100), pytest.raises(RunError, match=r"note cannot be written"):
        write_atomically(target, b"x" * 5000)
    assert target.read_bytes() == b"second, longer"
    assert [path.name for path in target.parent.iterdir()] == ["note"]  # no draft is left


def test_a_file_where_a_folder_is_needed_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "note", b"")


def test_data_is_synced_where_there_is_no_fdatasync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.delattr(os, "fdatasync", raising=False)
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "tape").open("wb") as file:
        sync_data(file.fileno())
        assert synced == [file.fileno()]


# Shards


TENSORS = {
    "distance": torch.tensor([[0.0, float("inf")], [0.1, 0.0]]),
    "own": torch.tensor([0, 1]),
    "turned": torch.arange(6).reshape(2, 3).T,
    "nothing": torch.zeros(0, 3),
}


def test_a_shard_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "shards" / "0.safetensors"
    digest = write_shard(path, TENSORS)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    back = read_shard(path, digest)
    assert set(back) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype
    assert write_shard(tmp_path / "again", TENSORS) == digest


def test_a_missing_cut_or_altered_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "7.safetensors"
    digest = write_shard(path, TENSORS)
    whole = path.read_bytes()
    for cut in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(Damaged, match=r"7\.safetensors is cut or altered"):
            read_shard(path, digest)
    for place in range(0, len(whole), 5):
        path.write_bytes(flipped(whole, place))
        with pytest.raises(Damaged, match=r"7\.safetensors"):
            read_shard(path, digest)
    path.write_bytes(whole + b"\0")
    with pytest.raises(Damaged):
        read_shard(path, digest)
    path.unlink()
    with pytest.raises(Damaged, match=r"7\.safetensors is missing"):
        read_shard(path, digest)


def flipped(content: bytes, place: int, mask: int = 1) -> bytes:
    return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


# Journal


def journal(path: Path, count: int = 3) -> Journal:
    made = Journal(path)
    for number in range(count):
        made.append("shard", shard=number, note="naïve", distance=0.1 * number)
    return made


def numbers(opened: Journal) -> list[int]:
    return [record["shard"] for record in opened.records]


def test_a_journal_replays_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "run" / "journal.jsonl"
    first = journal(path)
    first.append("done", shard=9, empty={}, many=[1, [2]], nothing=None, yes=True)
    first.close()
    second = Journal(path)
    assert second.records == first.records
    assert [record["shard"] for record in second.all("shard")] == [0, 1, 2]
    assert [record["kind"] for record in second.records] == ["shard"] * 3 + ["done"]
    assert list(second.all("other")) == []
    second.append("shard", shard=10)
    second.close()
    assert numbers(Journal(path, read_only=True)) == [0, 1, 2, 9, 10]


@pytest.mark.parametrize(
    "fields",
    [
        {"pair": (1, 2)},
        {"by_class": {2: 1, 10: 3, 1: 0}},
        {"tiny": 1e-300, "huge": 1e300, "third": 1 / 3, "big": 2**70},
        {"infinite": float("inf")},
        {"text": 'a "quoted"\n line \u2028 \U0001f600 \\'},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_whatever_a_journal_takes_it_gives_back(tmp_path: Path, fields: dict[str, Any]) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path)
    first.append("note", **fields)
    first.close()
    second = Journal(path, read_only=True)
    assert second.records == first.records
    name = next(iter(fields))
    assert second.records[0][name] == json.loads(json.dumps(fields[name]))


def test_what_no_json_can_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    opened = journal(tmp_path / "journal.jsonl")
    with pytest.raises(TypeError):
        opened.append("note", tensor=torch.zeros(1))
    opened.append("shard", shard=3)
    opened.close()
    assert numbers(Journal(tmp_path / "journal.jsonl", read_only=True)) == [0, 1, 2, 3]


def test_records_do_not_share_what_the_caller_may_still_change(tmp_path: Path) -> None:
    opened, many = Journal(tmp_path / "journal.jsonl"), [1]
    opened.append("note", many=many)
    many.append(2)
    assert opened.records[0]["many"] == [1]
    opened.close()


def test_a_tail_torn_at_any_byte_is_cut_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path, 2).close()
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = [number for number, end in enumerate(ends) if end <= cut]
        reader = Journal(path, read_only=True)
        assert numbers(reader) == complete
        assert path.read_bytes() == whole[:cut]  # a reader leaves the file as it is
        writer = Journal(path)
        assert numbers(writer) == complete
        writer.append("shard", shard=77)
        writer.append("shard", shard=78)
        assert numbers(writer) == [*complete, 77, 78]
        writer.close()
        assert numbers(Journal(path, read_only=True)) == [*complete, 77, 78]


@pytest.mark.parametrize("mask", [1, 2, 0x40, 0x80, 0xFF])
def test_a_byte_altered_anywhere_names_file_and_line(tmp_path: Path, mask: int) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path).close()
    whole = path.read_bytes()
    for place in range(len(whole) - 1):  # without its newline the last line is a torn tail
        path.write_bytes(flipped(whole, place, mask))
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(Damaged, match=rf"journal\.jsonl, line {line} is damaged"):
            Journal(path)
        assert path.read_bytes() == flipped(whole, place, mask)  # nothing was cut


def test_a_lost_or_swapped_or_doubled_byte_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path).close()
    whole = path.read_bytes()
    for place in range(len(whole) - 1):
        if whole[place : place + 1] in b' "\n':  # JSON may say the same without that space
            continue
        path.write_bytes(whole[:place] + whole[place + 1 :])
        with pytest.raises(Damaged):
            Journal(path, read_only=True)


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"[1]", b"3", b"null", b'"x"', b"{}", b'{"crc": 1}', b"\xff"]
)
def test_a_line_that_is_no_record_is_damage(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path).close()
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(Damaged, match="line 4"):
        Journal(path, read_only=True)


def test_a_full_disk_leaves_a_journal_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    opened = journal(path)
    before = path.read_bytes()
    for room in (0, 1, 30):
        with full_disk(len(before) + room), pytest.raises(RunError, match="cannot be written"):
            opened.append("note", text="x" * 3000)
        assert path.read_bytes() == before
        assert numbers(opened) == [0, 1, 2]
    opened.append("shard", shard=3)
    opened.close()
    assert numbers(Journal(path, read_only=True)) == [0, 1, 2, 3]


def test_a_missing_journal_is_empty_and_reading_does_not_make_it(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "journal.jsonl"
    reader = Journal(path, read_only=True)
    assert reader.records == []
    assert not path.parent.exists()
    reader.close()


# Tape


QUESTIONS = ((3, 5), (2, 2**32 - 1), (0, 0), (4, 6))  # count and key; the last is never answered


def answers(count: int, classes: int) -> Tensor:
    return (torch.arange(count) * 7 + classes - 1) % classes


def recorded(path: Path, classes: int) -> list[int]:
    """Record the questions; returns where each header ends and where each answer ends."""
    tape, marks = Tape(path, classes=classes), []
    for count, key in QUESTIONS:
        tape.reserve(count, key=key)
        marks.append(path.stat().st_size)
        if (count, key) != QUESTIONS[-1]:
            tape.settle(answers(count, classes))
        marks.append(path.stat().st_size)
    tape.close()
    return marks


@pytest.mark.parametrize("classes", [2, 256, 257, 100_000])
def test_answers_come_back_in_order(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "0.tape"
    recorded(path, classes)
    tape = Tape(path, classes=classes)
    assert (tape.booked, tape.lost, tape.in_flight) == (9, 4, 0)
    for count, key in QUESTIONS[:-1]:
        taken = tape.take(count, key=key)
        assert taken is not None
        assert taken.tolist() == answers(count, classes).tolist()
        assert taken.dtype == torch.int64
    assert tape.take(4, key=6) is None
    tape.close()


def test_a_new_tape_is_empty_and_reading_does_not_make_it(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "0.tape"
    tape = Tape(path, classes=3, read_only=True)
    assert (tape.booked, tape.lost, tape.take(2, key=1)) == (0, 0, None)
    assert not path.parent.exists()
    tape.close()


@pytest.mark.parametrize("classes", [10, 1000])
def test_a_tape_cut_at_any_byte_keeps_its_accounts_and_goes_on(
    tmp_path: Path, classes: int
) -> None:
    path = tmp_path / "0.tape"
    marks = recorded(path, classes)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        reserved = [q for q, end in zip(QUESTIONS, marks[::2], strict=True) if end <= cut]
        answered = [q for q, end in zip(QUESTIONS[:-1], marks[1::2], strict=False) if end <= cut]
        booked = sum(count for count, _ in reserved)
        lost = booked - sum(count for count, _ in answered)
        reader = Tape(path, classes=classes, read_only=True)
        assert (reader.booked, reader.lost, reader.in_flight) == (booked, 0, lost)
        assert path.read_bytes() == whole[:cut]
        Tape(path, classes=classes).close()  # this process dies at once
        tape = Tape(path, classes=classes)
        assert (tape.booked, tape.lost, tape.in_flight) == (booked, lost, 0)
        again = 0
        for count, key in QUESTIONS:
            taken = tape.take(count, key=key)
            if (count, key) in answered:
                assert taken is not None
                assert taken.tolist() == answers(count, classes).tolist()
            else:
                assert taken is None
                tape.reserve(count, key=key)
                tape.settle(answers(count, classes))
                again += count
        tape.close()
        last = Tape(path, classes=classes, read_only=True)
        assert (last.booked, last.lost) == (booked + again, lost)
        for count, key in QUESTIONS:
            taken = last.take(count, key=key)
            assert taken is not None
            assert taken.tolist() == answers(count, classes).tolist()


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("mask", [1, 0x80, 0xFF])
def test_a_byte_altered_anywhere_in_a_tape_is_damage(
    tmp_path: Path, classes: int, mask: int
) -> None:
    path = tmp_path / "0.tape"
    recorded(path, classes)
    Tape(path, classes=classes).close()  # marks the last question as lost
    tape = Tape(path, classes=classes)
    tape.reserve(2, key=9)
    tape.settle(answers(2, classes))
    tape.close()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(flipped(whole, place, mask))
        with pytest.raises(Damaged, match=r"0\.tape, byte \d+ is damaged"):
            Tape(path, classes=classes)
        assert path.read_bytes() == flipped(whole, place, mask)


def test_another_question_than_the_recorded_one_is_a_drift(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    recorded(path, 10)
    for count, key in ((3, 6), (2, 5)):
        tape = Tape(path, classes=10, read_only=True)
        with pytest.raises(Drifted, match=r"0\.tape"):
            tape.take(count, key=key)


def test_a_discarded_tape_forgets_answers_but_not_their_price(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    recorded(path, 10)
    Tape(path, classes=10).discard()
    tape = Tape(path, classes=10)
    assert (tape.booked, tape.lost, tape.take(3, key=5)) == (9, 9, None)
    tape.reserve(3, key=5)
    tape.settle(answers(3, 10))
    tape.close()
    tape = Tape(path, classes=10)
    assert (tape.booked, tape.lost) == (12, 9)
    tape.discard()
    assert Tape(path, classes=10, read_only=True).booked == 12


def test_a_discarded_tape_keeps_the_price_of_its_own_process_too(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    tape = Tape(path, classes=10)
    tape.reserve(3, key=5)
    tape.settle(answers(3, 10))
    tape.discard()
    assert Tape(path, classes=10, read_only=True).booked == 3


@pytest.mark.parametrize("damaged", [0, 20])
def test_a_tape_written_off_books_no_less_than_was_asked(tmp_path: Path, damaged: int) -> None:
    path = tmp_path / "0.tape"
    tape = Tape(path, classes=10)
    tape.reserve(5, key=1)
    tape.settle(answers(5, 10))  # bytes 0 to 24
    tape.reserve(5000, key=2)
    tape.close()
    Tape(path, classes=10).close()  # died in the second question, and then once more
    path.write_bytes(flipped(path.read_bytes(), damaged))
    with pytest.raises(Damaged):
        Tape(path, classes=10)
    Tape.write_off(path, classes=10, most=5005)
    tape = Tape(path, classes=10, read_only=True)
    assert tape.take(5, key=1) is None
    assert tape.lost == tape.booked >= 5005


def test_a_question_that_failed_may_be_asked_again_on_the_same_tape(tmp_path: Path) -> None:
    path = tmp_path / "0.tape"
    tape = Tape(path, classes=10)
    tape.reserve(3, key=5)  # and the teacher raises an error, so it is never settled
    tape.reserve(3, key=5)
    tape.settle(answers(3, 10))
    tape.close()
    again = Tape(path, classes=10, read_only=True)
    assert (again.booked, again.lost) == (6, 3)
    taken = again.take(3, key=5)
    assert taken is not None
    assert taken.tolist() == answers(3, 10).tolist()


@pytest.mark.parametrize("room", [0, 1, 15])
def test_a_full_disk_before_the_question_books_nothing(tmp_path: Path, room: int) -> None:
    path = tmp_path / "0.tape"
    recorded(path, 10)
    tape = Tape(path, classes=10)
    size = path.stat().st_size
    with full_disk(size + room), pytest.raises(RunError, match=r"0\.tape cannot be written"):
        tape.reserve(4, key=6)
    tape.close()
    again = Tape(path, classes=10, read_only=True)
    assert (again.booked, again.lost) == (9, 4)


@pytest.mark.parametrize("room", [0, 1, 7])
def test_a_full_disk_after_the_question_loses_it_but_keeps_it_in_the_accounts(
    tmp_path: Path, room: int
) -> None:
    path = tmp_path / "0.tape"
    recorded(path, 10)
    tape = Tape(path, classes=10)
    tape.reserve(4, key=6)
    size = path.stat().st_size
    with full_disk(size + room), pytest.raises(RunError, match="what was saved before is safe"):
        tape.settle(answers(4, 10))
    tape.close()
    again = Tape(path, classes=10)
    assert (again.booked, again.lost) == (13, 8)
    for count, key in QUESTIONS[:-1]:
        assert again.take(count, key=key) is not None
    assert again.take(4, key=6) is None
    again.close()
