"""The log of a run: a file in its folder that keeps what its commands said."""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from db3kd.cli.door import Work, cleaned

NAME, BEFORE = "log.txt", "log.1.txt"
MOST_BYTES = 5 * 2**20  # of a log; then it becomes the one before
MOST_WAITING = 1000  # lines, until the run has its folder
_STATES = {
    0: "done",
    1: "an error",
    2: "wrong usage",
    3: "the budget is exhausted",
    130: "interrupted",
    141: "nobody reads the output",
}


class LogFile(logging.Handler):
    """Appends log records to `log.txt` in the folder of a run, as soon as there is a run in it.

    A record is a few lines without control characters and secrets, each with its time. What cannot
    be written is let go.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> log = LogFile(Work(folder))
    >>> log.say("begun"); (folder / NAME).exists()
    False
    >>> _ = (folder / "journal.jsonl").write_text("")
    >>> log.end(3)
    >>> [line[26:] for line in (folder / NAME).read_text().splitlines()]
    ['begun', 'end: the budget is exhausted (exit code 3)']
    """

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work
        self._waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Append a log record."""
        self.say(self.format(record))

    def say(self, text: str) -> None:
        """Append a text."""
        when = time.strftime("%Y-%m-%d %H:%M:%S %z")
        lines = cleaned(text, self._work.secrets).split("\n")
        self.acquire()
        try:
            if len(self._waiting) < MOST_WAITING:
                self._waiting += [f"{when} {line}\n" for line in lines]
            folder = self._work.folder
            if folder is None or not _is_run(folder):
                return
            content = "".join(self._waiting).encode("utf-8", "backslashreplace")
            self._waiting.clear()
            with suppress(OSError, ValueError):
                _append(folder, content)
        finally:
            self.release()

    def end(self, code: int) -> None:
        """Append how a command ended."""
        self.say(f"end: {_STATES.get(code, 'an error')} (exit code {code})")


def _is_run(folder: Path) -> bool:
    """Whether there is a run; not where nobody may look, or where the name cannot be one."""
    try:
        return (folder / "journal.jsonl").is_file()
    except (OSError, ValueError):
        return False


def _append(folder: Path, content: bytes) -> None:
    file = folder / NAME
    with suppress(FileNotFoundError):
        if file.stat().st_size + len(content) > MOST_BYTES:
            file.replace(folder / BEFORE)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe does not block
    descriptor = os.open(file, flags, 0o666)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
