"""The command line with short lessons, in a process of its own; `reliability.py` starts it.

    python benchmarks/reliability_child.py run recipe.toml

All is as with `python -m db3kd`, but networks that learn between questions take 10 steps instead of
a thousand, students leave checkpoints every 50 ms instead of 20 s, and torch's compiler, which
nothing uses, is not loaded.

Where POWER_LOG names a folder, it also writes down what a power cut cannot take any more: what
each file held when it was last synced, and which renames and removals a synced folder has made
last. MACHINE_START then stands for the start of the machine, eight bytes as hexadecimal digits.
"""

import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

STEPS, CHECKPOINT_SECONDS = 10, 0.05


def skip_the_compiler() -> None:
    """Spare the seconds in which torch's first optimiser loads a compiler that nothing uses."""
    stub: Any = ModuleType("torch._dynamo")
    stub.disable = lambda call=None, *rest, **more: call
    stub.graph_break = lambda *rest, **more: None
    sys.modules["torch._dynamo"] = stub


def shorten_lessons() -> None:
    """Let networks learn little."""
    import db3kd.search.joint.plan
    import db3kd.stages.ensemble_labels
    import db3kd.student.training
    import db3kd.synthesis.chosen

    for module in (db3kd.search.joint.plan, db3kd.synthesis.chosen, db3kd.stages.ensemble_labels):
        module.LEAST_STEPS = STEPS  # type: ignore[attr-defined]
    db3kd.student.training.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS  # type: ignore[misc]


class Log:
    """What is told about the disk: JSON lines in FOLDER/log, and contents in FOLDER/0, 1, ..."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._number = len(list(folder.iterdir()))
        self._lock = threading.Lock()

    def tell(self, what: str, path: str, content: bytes | None = None, **facts: Any) -> None:
        """Append a line; the content is there before it."""
        with self._lock:
            if content is not None:
                self._number += 1
                facts["content"] = f"{os.getpid()}-{self._number}"
                (self._folder / facts["content"]).write_bytes(content)
            line = json.dumps({"what": what, "path": path, **facts}) + "\n"
            os.write(self._file, line.encode())


def watch_disk(log: Log) -> None:
    """Tell a log of each sync, rename and removal of this process."""
    place = Path.cwd()

    def inside(path: object) -> str | None:
        full = Path(os.path.abspath(os.fspath(path)))  # type: ignore[call-overload]
        return str(full.relative_to(place)) if full.is_relative_to(place) else None

    def synced(call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            call(descriptor)
            name = inside(os.readlink(f"/proc/self/fd/{descriptor}"))
            if name is None:
                return
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                log.tell("folder", name)
            else:
                log.tell("sync", name, Path(name).read_bytes())

        return sync

    def renamed(source: Any, target: Any, *rest: Any, **more: Any) -> None:
        name, new = inside(source), inside(target)
        old = Path(target).read_bytes() if Path(target).exists() else None
        if name is not None and new is not None:
            log.tell("rename", name, old, target=new)
        rename(source, target, *rest, **more)

    def removed(path: Any, *rest: Any, **more: Any) -> None:
        name = inside(path)
        if name is not None and os.path.isfile(path):
            log.tell("remove", name, Path(path).read_bytes())
        remove(path, *rest, **more)

    os.fsync, os.fdatasync = synced(os.fsync), synced(os.fdatasync)  # type: ignore[assignment]
    rename, remove = os.replace, os.unlink
    os.replace, os.unlink = renamed, removed  # type: ignore[assignment]
    os.remove = removed  # type: ignore[assignment]


def watch_store(log: Log) -> None:
    """Tell a log how much of a store's write-ahead log each synced transaction left."""
    from db3kd.teachers.cached import store

    transaction = store.transaction

    @contextmanager
    def told(connection: Any, *, sync: bool = True) -> Iterator[None]:
        with transaction(connection, sync=sync):
            yield
        if sync:
            name = os.path.relpath(connection.execute("PRAGMA database_list").fetchone()[2])
            ahead = Path(name + "-wal")
            size = ahead.stat().st_size if ahead.exists() else 0
            log.tell("store", name, size=size, main=os.stat(name).st_mtime_ns)

    store.transaction = told


def main() -> None:
    """Run the command line."""
    skip_the_compiler()
    shorten_lessons()
    if folder := os.environ.get("POWER_LOG"):
        import db3kd.storage.frames

        start = bytes.fromhex(os.environ["MACHINE_START"])
        db3kd.storage.frames.machine_start = lambda: start  # type: ignore[assignment]
        log = Log(Path(folder))
        watch_store(log)
        watch_disk(log)
    from db3kd.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
