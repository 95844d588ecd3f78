"""The outermost door: streams that may be full, closed or gone, and errors that nobody foresaw.

What cannot be written to standard error is let go, since no paid run should end for a line of
progress. What cannot be written to standard output is remembered until the end: then a pipe whose
reader went away ends quietly, as with any tool of Unix, and anything else is an error.
"""

import contextlib
import errno
import io
import logging
import os
import platform
import shutil
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db3kd.config.secrets import without_secrets
from db3kd.errors import described, plain

if TYPE_CHECKING:
    from db3kd.cli.log import LogFile

WIDTH = 100  # columns, where no terminal says how many
NARROWEST = 40  # columns; with one, the help never ended
GONE = 141  # exit code if nobody reads the output any more: what a shell says of a SIGPIPE
MOST_LINES, MOST_SIGNS = 30, 2000  # of one message
MOST_LOGGED = 2**20  # signs of a traceback's file
_LOGS = ("error.log", "db3kd-error.log")  # in the folder of a run, and elsewhere


@dataclass
class Work:
    """What a command works on: the folder of its run, and what no message may tell."""

    folder: Path | None = None
    secrets: tuple[str, ...] = ()
    quiet: bool = False  # only warnings are shown
    log: "LogFile | None" = None


class Stream:
    """A standard stream that never fails; `lost` is the first error of writing, if any.

    >>> import io
    >>> stream = Stream(io.StringIO()); stream.close(); _ = stream.write("x"); stream.lost
    'I/O operation on closed file'
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self.lost, self.quiet = stream, "", False
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # a name that it cannot show

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or remember why that is impossible."""
        try:
            if not self.lost:
                self._stream.write(text)
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or remember why that is impossible."""
        try:
            if not self.lost:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost = plain(getattr(error, "strerror", None) or error).rstrip(".")
        gone = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
        self.quiet = isinstance(error, OSError) and error.errno in gone
        with contextlib.suppress(OSError, ValueError):  # what is left must not fail at the end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def console() -> Iterator[tuple[Stream, Stream]]:
    """Standard output and standard error that never fail, for the length of a `with` block.

    A stream that was closed gets a place of its own, or the next file that is opened would be it.
    """
    modes = ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY))
    closed = [_filled(number, mode) for number, mode in modes]
    before = sys.stdin, sys.stdout, sys.stderr
    output, errors = (
        Stream(_opened(before[1], 1, closed[1])),
        Stream(_opened(before[2], 2, closed[2])),
    )
    sys.stdout, sys.stderr = output, errors
    if before[0] is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the whole process
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    try:
        yield output, errors
    finally:
        output.flush()
        errors.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _filled(number: int, mode: int) -> bool:
    """Open nothing in the place of a standard stream that was closed; whether it was."""
    try:
        os.fstat(number)
    except OSError:
        place = os.open(os.devnull, mode)
        if place != number:
            os.dup2(place, number)
            os.close(place)
        return True
    return False


def _opened(stream: Any, number: int, closed: bool) -> Any:
    if stream is not None and not closed:
        return stream
    return open(number, "w", encoding="utf-8", closefd=False)


def width_of(stream: Any) -> int:
    """How many columns a stream has.

    >>> width_of(io.StringIO())
    100
    """
    return shutil.get_terminal_size().columns if stream.isatty() else WIDTH


def folded(text: str, stream: Any) -> str:
    r"""A line as a terminal shows it: folded between words, what follows is indented.

    >>> folded("a line " * 30, io.StringIO()).count("\\n")
    0
    """
    if not stream.isatty():
        return text
    indent = "  " + " " * _indent(text)
    return textwrap.fill(
        text,
        width_of(stream),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


class Lines(logging.Formatter):
    """Log lines as a terminal may show them: no control characters, nothing secret.

    As a filter it lets only warnings pass while the work is quiet.
    """

    def __init__(self, work: Work) -> None:
        super().__init__("db3kd: %(message)s")
        self._work = work

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be seen."""
        return record.levelno >= logging.WARNING or not self._work.quiet

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return cleaned(super().format(record), self._work.secrets)


def cleaned(text: str, secrets: tuple[str, ...] = ()) -> str:
    r"""A message as a terminal may show it: clean lines, not too many, and nothing secret.

    >>> cleaned("a\x1b[2J\nkey open%20sesame", ("open sesame",))
    'a\nkey ***'
    """
    lines = without_secrets(text, secrets).split("\n")
    more = [f"... and {len(lines) - MOST_LINES:,} lines more"] if len(lines) > MOST_LINES else []
    return "\n".join([plain(line, MOST_SIGNS) for line in lines[:MOST_LINES]] + more)


def fault(error: BaseException, work: Work) -> str:
    r"""The sentence for an error that nobody foresaw; its traceback is written to a file.

    The file is `error.log` in the folder of the run, or `db3kd-error.log` in the current folder, or
    where neither can be written, in that for temporary files.

    >>> with tempfile.TemporaryDirectory() as place:
    ...     sentence = fault(RuntimeError("no\nway"), Work(Path(place)))
    ...     "RuntimeError: no" in (Path(place) / "error.log").read_text()
    True
    >>> sentence
    'something unexpected happened (RuntimeError: no way); ... is in ...error.log'
    """
    # Hidden before it is cut: the beginning of a secret is not to be seen either.
    said = plain(without_secrets(described(error, MOST_SIGNS), work.secrets))
    about = f"something unexpected happened ({said})"
    if isinstance(error, OSError) and error.filename:
        about = f"{plain(error.filename, 200)} cannot be used ({plain(error.strerror)})"
    if _is_of_memory(error):
        about = f"there is too little memory ({said}); take fewer or smaller images"
    text = _report(error, work.secrets)
    places = [*([work.folder / _LOGS[0]] if work.folder else []), Path(_LOGS[1])]
    for file in (*places, Path(tempfile.gettempdir()) / _LOGS[1]):
        try:
            if file.parent.is_dir():
                file.write_text(text, encoding="utf-8")
                return f"{about}; what was saved before is safe, and the traceback is in {file}"
        except (OSError, ValueError):
            continue
    return f"{about}; what was saved before is safe, and no traceback could be written"


def _is_of_memory(error: BaseException) -> bool:
    said = plain(error, 2000) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or "allocate memory" in said or "out of memory" in said


def _report(error: BaseException, secrets: tuple[str, ...]) -> str:
    """Version, time and traceback, line by line without control characters and secrets."""
    head = f"db3kd {version('db3kd')}, Python {platform.python_version()}, {platform.platform()}"
    when = time.strftime("%Y-%m-%d %H:%M:%S %z")
    whole = f"{head}\n{when}\n\n{''.join(traceback.format_exception(error))}"[:MOST_LOGGED]
    lines = without_secrets(whole, secrets).split("\n")
    return "\n".join(" " * _indent(line) + plain(line, MOST_SIGNS) for line in lines) + "\n"


def _indent(line: str) -> int:
    return min(80, len(line) - len(line.lstrip(" ")))
