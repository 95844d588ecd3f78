"""What a power cut leaves on the disk, made from what `reliability_child.py` wrote down.

A sector of a file that was not synced since it was written is as it was, or new, or, past the
synced end, zero or garbage or not there. A file that was never synced may be empty. Of the renames
and removals whose folder was not synced, the last few did not happen. What a synced transaction of
SQLite wrote is there; its write-ahead log is cut or garbled somewhere after that.
"""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512


@dataclass
class Disk:
    """What is known to be on the disk: contents by path, and what a synced folder has not made
    last, oldest first: (path, target of a rename or "", what the target or the path held).
    """

    synced: dict[str, bytes] = field(default_factory=dict)
    pending: list[tuple[str, str, bytes | None]] = field(default_factory=list)
    stores: dict[str, tuple[int, int]] = field(default_factory=dict)


def read_log(folder: Path) -> Disk:
    """What a log says of the disk."""
    disk = Disk()
    file = folder / "log"
    for line in file.read_bytes().split(b"\n")[:-1] if file.exists() else []:
        told = json.loads(line)
        what, path = told["what"], told["path"]
        content = (folder / told["content"]).read_bytes() if "content" in told else None
        if what == "sync":
            disk.synced[path] = content or b""
        elif what == "store":
            disk.stores[path] = told["size"], told["main"]
        elif what == "rename":
            disk.pending.append((path, told["target"], content))
            disk.synced[told["target"]] = disk.synced.pop(path, b"")
        elif what == "remove":
            disk.pending.append((path, "", disk.synced.pop(path, content)))
        else:
            disk.pending = [
                one for one in disk.pending if str(Path(one[1] or one[0]).parent) != path
            ]
    return disk


def cut_power(place: Path, log: Path, draw: random.Random) -> dict[str, int]:
    """Change the files below a folder to what a power cut may leave; returns how many of each."""
    disk = read_log(log)
    did = {"undone": 0, "torn": 0, "stores": 0}
    did["undone"] = _undo(place, disk, draw)
    stores = tuple(disk.stores)
    for path in sorted((place / "run").rglob("*")):
        name = str(path.relative_to(place))
        if not path.is_file() or path.name == "lock":
            continue
        now, was = path.read_bytes(), disk.synced.get(name, b"")
        if now != was:
            path.write_bytes(torn(was, now, draw))
            did["torn"] += 1
    for name in stores:
        did["stores"] += _cut_store(place / name, *disk.stores[name], draw)
    return did


def _undo(place: Path, disk: Disk, draw: random.Random) -> int:
    """Undo the last few of what no synced folder made last; returns how many."""
    # those whose process died before they were done are in the log as well; undoing them is right
    count = draw.randint(0, min(3, len(disk.pending)))
    for path, target, old in reversed(disk.pending[len(disk.pending) - count :]):
        if not target:
            (place / path).write_bytes(old or b"")
            disk.synced[path] = old or b""
            continue
        if (place / target).exists() and not (place / path).exists():
            (place / target).replace(place / path)
            disk.synced[path] = disk.synced.pop(target, b"")
            if old is not None:
                (place / target).write_bytes(old)
                disk.synced[target] = old
    return count


def torn(was: bytes, now: bytes, draw: random.Random) -> bytes:
    """Something between what was synced and what was written since."""
    way = draw.choice(("old", "new", "cut", "zeros", "garbage", "mixed"))
    if way in ("old", "new"):
        return was if way == "old" else now
    if len(now) < len(was):  # it was truncated
        return now if draw.random() < 0.5 else was
    keep = draw.randint(len(was), len(now))  # written since, and there
    found = bytearray()
    for at in range(0, len(now), SECTOR):
        new, old = now[at : at + SECTOR], was[at : at + SECTOR]
        if at < len(was) and new[: len(old)] != old:  # changed in place, or appended to
            new = old + new[len(old) :] if draw.random() < 0.5 else new
        found += new
    tail = len(now) - keep
    rest = {"zeros": bytes(tail), "garbage": draw.randbytes(tail)}
    if way == "mixed":
        way = draw.choice(("zeros", "garbage"))
        tail = draw.randint(0, tail)
        rest = {"zeros": bytes(tail), "garbage": draw.randbytes(tail)}
    return bytes(found[:keep]) + rest.get(way, b"")


def _cut_store(store: Path, size: int, main: int, draw: random.Random) -> int:
    """Cut or garble a write-ahead log after what was synced; returns whether it did."""
    ahead = store.with_name(store.name + "-wal")
    store.with_name(store.name + "-shm").unlink(missing_ok=True)
    if not ahead.exists() or store.stat().st_mtime_ns != main:
        return 0  # it was closed, which syncs all of it
    content = ahead.read_bytes()
    if len(content) <= size:
        return 0
    keep = draw.randint(size, len(content))
    tail = draw.choice((b"", bytes(len(content) - keep), draw.randbytes(len(content) - keep)))
    ahead.write_bytes(content[:keep] + tail)
    return 1
