"""Which files a factory reads, so that a teacher is known by their content.

Python tells audit hooks of every file that its own code opens (PEP 578). Libraries that read by
code of their own, as safetensors and ONNX Runtime do, are not seen; see `job.sources.named_files`.
"""

import os
import re
import stat
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECRET = re.compile(r"token|secret|credential|password|passwd|netrc|api[-_]?key", re.IGNORECASE)
CACHES = (".cache",)  # hidden folders in which models are kept

_listening: list["Opened"] = []  # a hook stays for the life of the process, so it looks here
_hooked: list[bool] = []


@dataclass
class Opened:
    """The absolute paths of files that were opened: to read them, and to write to them."""

    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)

    @property
    def data(self) -> list[Path]:
        """Files that were only read, and are the user's data: no code, settings or secrets."""
        return [Path(at) for at in sorted(self.read - self.written) if _is_data(at)]


@contextmanager
def listening() -> Iterator[Opened]:
    """Note the files that this process opens meanwhile.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "model.pkl"
    >>> file.write_bytes(b"weights")
    7
    >>> with listening() as opened:
    ...     content = file.read_bytes()
    >>> [at.name for at in opened.data]
    ['model.pkl']
    """
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    opened = Opened()
    _listening.append(opened)
    try:
        yield opened
    finally:
        _listening.remove(opened)


def is_own(path: str | os.PathLike[str]) -> bool:
    """Whether a file is the user's: not of Python, of a library, of the system or of db3kd.

    >>> is_own(os.__file__), is_own("/proc/self/maps"), is_own("teacher.py")
    (False, False, True)
    """
    real = os.path.realpath(path)
    return not any(real == at or real.startswith(at + os.sep) for at in _foreign())


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _listening:
        return
    path, _, flags = arguments
    if not isinstance(path, str | bytes | os.PathLike) or not isinstance(flags, int):
        return  # a file that is open already
    name = os.path.abspath(os.fsdecode(path))
    for opened in _listening:
        changing = flags & (os.O_WRONLY | os.O_RDWR)
        (opened.written if changing else opened.read).add(name)


def _is_data(path: str) -> bool:
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    if not stat.S_ISREG(kind) or path.endswith((".py", ".pyc", ".pyi", ".so", ".pyd", ".dll")):
        return False
    names = _shown(Path(path))
    hidden = any(name.startswith(".") and name not in CACHES for name in names)
    return not hidden and not SECRET.search(names[-1]) and is_own(path)


def _shown(path: Path) -> tuple[str, ...]:
    """The part of a path that says what a file is: below the working folder, or the user's."""
    for start in (Path.cwd(), Path.home()):
        if path.is_relative_to(start):
            return path.relative_to(start).parts
    return (path.name,)


def _foreign() -> set[str]:
    """Folders whose files are not the user's; an environment may be the working folder itself."""
    known = [at for name, at in sysconfig.get_paths().items() if name != "data"]
    for prefix in {sys.prefix, sys.base_prefix}:
        known += [
            os.path.join(prefix, name) for name in ("bin", "include", "lib", "lib64", "share")
        ]
    known += [str(Path(__file__).parents[1]), "/usr", "/etc", "/proc", "/sys", "/dev"]
    known += [at for at in sys.path if os.path.basename(at) in ("site-packages", "dist-packages")]
    return {os.path.realpath(at) for at in known} - {os.sep}
