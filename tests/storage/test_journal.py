import hashlib
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import full_disk
from db3kd.errors import Busy, Damaged, RunError
from db3kd.storage.files import sync_data, write_atomically, writing
from db3kd.storage.journal import Journal
from db3kd.storage.shards import read_shard, write_shard

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


@pytest.mark.parametrize("place", ["note/a", "x" * 300])
def test_a_name_that_cannot_be_one_asks_for_no_room(tmp_path: Path, place: str) -> None:
    (tmp_path / "note").write_text("")
    with pytest.raises(RunError, match="name another folder or file") as raised:
        write_atomically(tmp_path / place / "b", b"")
    assert "room" not in str(raised.value)
    with full_disk(100), pytest.raises(RunError, match="once there is room"):
        write_atomically(tmp_path / "large", b"x" * 1000)


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


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.close()
    with pytest.raises(RunError, match="run is closed; open the run again"):
        journal.append("note")


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
    last = whole[:-1].rindex(b"\n")  # the last line may be what a power cut left
    for place in range(last):
        path.write_bytes(flipped(whole, place, mask))
        line = whole[:place].count(b"\n") + 1
        with pytest.raises(Damaged, match=rf"journal\.jsonl, line {line} is damaged"):
            Journal(path)
        assert path.read_bytes() == flipped(whole, place, mask)  # nothing was cut


def test_a_lost_or_swapped_or_doubled_byte_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path).close()
    whole = path.read_bytes()
    for place in range(whole[:-1].rindex(b"\n")):
        if whole[place : place + 1] in b' "\n':  # JSON may say the same without that space
            continue
        path.write_bytes(whole[:place] + whole[place + 1 :])
        with pytest.raises(Damaged):
            Journal(path, read_only=True)


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"[1]", b"3", b"null", b'"x"', b"{}", b'{"crc": 1}', b"\xff", b"[" * 99_999],
)
def test_a_line_that_is_no_record_is_damage(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path).close()
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b"\n" + line + b"\n" + rest)
    with pytest.raises(Damaged, match="line 2"):
        Journal(path, read_only=True)


@pytest.mark.parametrize("left", [b"\0" * 300, b"\xff\n\xfe\n", b'{"kind": "shard"}\n', b"\n\n\n"])
def test_what_a_power_cut_leaves_at_the_end_is_cut_off(
    tmp_path: Path, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole + left)
    assert numbers(Journal(path, read_only=True)) == [0, 1, 2]
    opened = Journal(path)
    assert numbers(opened) == [0, 1, 2]
    opened.append("shard", shard=3)
    opened.close()
    assert path.read_bytes().startswith(whole)
    assert numbers(Journal(path, read_only=True)) == [0, 1, 2, 3]
    assert f"the last {len(left)} bytes" in caplog.text


def test_a_line_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal(path).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[1], lines[2], lines[0]]))
    assert numbers(Journal(path, read_only=True)) == [0, 1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="files are locked where they can be removed")
def test_one_process_at_a_time_writes_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = journal(path)
    with pytest.raises(Busy, match="another process"):
        Journal(path)
    assert numbers(Journal(path, read_only=True)) == [0, 1, 2]
    first.close()
    Journal(path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    opened = journal(path)
    opened._owner -= 1  # as in a child
    with pytest.raises(RunError, match="forked"):
        opened.append("shard", shard=3)
    assert numbers(Journal(path, read_only=True)) == [0, 1, 2]
    opened.close()


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


def test_what_is_kept_is_what_a_replay_finds(tmp_path: Path) -> None:
    draw = random.Random(0)
    journal = Journal(tmp_path / "journal.jsonl")
    first = journal.finished["answers"]  # a view of any moment
    for number in range(60):
        place = {"stage": draw.choice(["answers", "grow"]), "shard": draw.randrange(4)}
        kind = draw.choice(["shard", "tape", "redo", "undone"])
        journal.append(kind, **place, bound=number)
    journal.close()
    again = Journal(tmp_path / "journal.jsonl", read_only=True)
    assert journal.finished == again.finished
    assert journal.bounds == again.bounds
    assert first == again.finished["answers"] != {}
    assert list(again.all("redo")) == [r for r in again.records if r["kind"] == "redo"]
