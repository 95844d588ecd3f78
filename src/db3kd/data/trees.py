"""Trees of files: folders and archives are read in the same way.

Hidden files, and what systems leave beside the user's, are not there.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from db3kd.data._pixels import LARGEST_FILE, Unfit

LEFT_BY_SYSTEMS = (
    *("__macosx", "thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin"),
    "system volume information",
)


@runtime_checkable
class Tree(Protocol):
    """Folders and files below one place; names are separated by "/", and "" is the place itself."""

    @property
    def path(self) -> Path:
        """The folder, or the file of the archive."""

    def folders(self, at: str) -> list[str]:
        """The names of the folders directly in a folder, in order."""

    def files(self, at: str) -> list[str]:
        """The names of the files directly in a folder, in order."""

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            OSError: it cannot be read.
            Unfit: it is too large, or damaged within its archive.
        """


def joined(at: str, name: str) -> str:
    """The name of something in a folder of a tree."""
    return f"{at}/{name}" if at else name


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's: hidden, or left there by a system.

    >>> [is_hidden(name) for name in ("._0.png", "__MACOSX", "Thumbs.db", "0.png")]
    [True, True, True, False]
    """
    return name.startswith(".") or name.casefold() in LEFT_BY_SYSTEMS


@dataclass(frozen=True)
class Folder:
    """The tree of a folder on disk; links in it are followed."""

    path: Path

    def folders(self, at: str) -> list[str]:
        """The names of the folders directly in a folder, in order."""
        return self._named(at, os.DirEntry.is_dir)

    def files(self, at: str) -> list[str]:
        """The names of the files directly in a folder, in order; links to nothing, too."""
        return self._named(at, lambda entry: entry.is_file() or _is_broken(entry))

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        file = self.path / name
        if file.is_symlink() and not file.exists():
            raise Unfit("cannot be read: it is a link to a file that is not there")
        check_size(file.stat().st_size)
        return file.read_bytes()

    def _named(self, at: str, kind: "Callable[[os.DirEntry[str]], bool]") -> list[str]:
        with os.scandir(self.path / at) as found:
            return sorted(each.name for each in found if not is_hidden(each.name) and kind(each))


def _is_broken(entry: "os.DirEntry[str]") -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)


def check_size(size: int) -> None:
    """Refuse a file that is too large to be an image.

    Raises:
        Unfit: it has more than 256 MiB.
    """
    if size > LARGEST_FILE:
        raise Unfit(f"has more than {LARGEST_FILE:,} bytes")
