"""Archives as trees of files, read where they are: zip and tar."""

import gzip
import logging
import os
import re
import stat
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from db3kd.data._pixels import Unfit
from db3kd.data.trees import Folder, Tree, check_size, is_hidden, joined
from db3kd.errors import InputError, described

MOST_MEMBERS = 5_000_000  # of an archive
LARGEST_UNPACKED = 2**32  # bytes of a compressed tar archive, once it is not
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")
_log = logging.getLogger("db3kd")


def opened(path: Path) -> Tree:
    """The tree of a folder or of an archive; what a file is decides, not its ending.

    Raises:
        InputError: it is neither a folder nor a zip or tar archive, or it is damaged.

    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "cat").mkdir(); (folder / "cat" / "0.png").write_bytes(b"...")
    3
    >>> opened(folder).folders(""), opened(folder).files("cat")
    (['cat'], ['0.png'])
    """
    if path.is_dir():
        return Folder(path)
    try:
        with path.open("rb") as file:
            begin = file.read(8)
        if begin.startswith(b"PK"):
            return zip_tree(path)
        return tar_tree(path, packed=begin.startswith(b"\x1f\x8b"))
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({described(error)}); get it again") from None
    except (zipfile.BadZipFile, tarfile.TarError, NotImplementedError) as error:
        raise InputError(
            f"{path} is no whole zip or tar archive ({described(error)}); give a folder, or a file"
            f" of {', '.join(ENDINGS)}"
        ) from None


@dataclass(frozen=True, eq=False)
class Archive:
    """The tree of an archive.

    - `inside`: of each folder the names of its folders, and its files with the places of their
      bytes in the archive.
    - `bytes_at`: gives the bytes of such a place. It keeps no position in the file, so threads and
      forked processes may read at once.
    """

    path: Path
    inside: "dict[str, _Inside]" = field(repr=False)
    bytes_at: "Callable[[_Place], bytes]" = field(repr=False)

    def folders(self, at: str) -> list[str]:
        """The names of the folders directly in a folder, in order."""
        return sorted(self.inside[at].folders) if at in self.inside else []

    def files(self, at: str) -> list[str]:
        """The names of the files directly in a folder, in order."""
        return sorted(self.inside[at].files) if at in self.inside else []

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        at, _, last = name.rpartition("/")
        place = self.inside[at].files[last]
        check_size(place.size)
        return self.bytes_at(place)


@dataclass(frozen=True)
class _Place:
    """Where a file's bytes are: from where, how many once they are unpacked, and as kept."""

    first: int
    size: int
    packed: int = 0
    method: int = zipfile.ZIP_STORED
    crc: int | None = None
    secret: bool = False


@dataclass(frozen=True)
class _Inside:
    folders: set[str] = field(default_factory=set)
    files: dict[str, _Place] = field(default_factory=dict)


def zip_tree(path: Path) -> Archive:
    """The tree of a zip archive.

    Raises:
        zipfile.BadZipFile: it is none, or damaged.
    """

    def members() -> Iterator[tuple[str, _Place | None]]:
        with zipfile.ZipFile(path) as packed:
            for each in packed.infolist():
                kind = stat.S_IFMT(each.external_attr >> 16)
                name = each.filename.replace("\\", "/")
                if name.endswith("/"):
                    continue
                place = _Place(
                    each.header_offset,
                    each.file_size,
                    each.compress_size,
                    each.compress_type,
                    each.CRC,
                    bool(each.flag_bits & 1),
                )
                yield name, place if kind in (0, stat.S_IFREG) else None

    return Archive(path, _indexed(path, members()), partial(_of_zip, path))


def _of_zip(path: Path, place: _Place) -> bytes:
    """The bytes of a member of a zip archive.

    Read without `zipfile`, whose open files share their position with forked processes.
    """
    if place.secret:
        raise Unfit("cannot be read: it is encrypted; unpack the archive, and give the folder")
    if place.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Unfit(f"cannot be read: it is packed by method {place.method}; pack it by deflate")
    check_size(place.packed)
    with path.open("rb") as file:
        file.seek(place.first)
        header = file.read(30)
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            raise Unfit("cannot be read: the archive is damaged there")
        file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)  # its name, and more
        content = file.read(place.packed)
    if place.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, place.size + 1)
        except zlib.error:
            raise Unfit("cannot be read: the archive is damaged there") from None
    if len(content) != place.size or zlib.crc32(content) != place.crc:
        raise Unfit("cannot be read: the archive is damaged there")
    return content


def tar_tree(path: Path, packed: bool) -> Archive:
    """The tree of a tar archive; one that is compressed is unpacked to one temporary file.

    Raises:
        InputError: it is too large for that.
        tarfile.TarError: it is no tar archive, or damaged.
        OSError: there is no room.
    """
    file = _unpacked(path) if packed else path.open("rb")

    def members() -> Iterator[tuple[str, _Place | None]]:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for each in tar:
                whole = each.isreg() and not each.issparse()
                if not each.isdir():
                    yield each.name, _Place(each.offset_data, each.size) if whole else None

    with file:
        inside = _indexed(path, members())
        if packed:
            return Archive(path, inside, _Unnamed(os.dup(file.fileno()), threading.Lock()).read)
    return Archive(path, inside, partial(_of_file, path))


def _of_file(path: Path, place: _Place) -> bytes:
    with path.open("rb") as file:
        file.seek(place.first)
        return file.read(place.size)


@dataclass(frozen=True)
class _Unnamed:
    """A temporary file that has no name any more and ends with this object."""

    descriptor: int
    lock: threading.Lock

    def read(self, place: _Place) -> bytes:
        if hasattr(os, "pread"):  # without a position that others could move
            return os.pread(self.descriptor, place.size, place.first)
        with self.lock:
            os.lseek(self.descriptor, place.first, os.SEEK_SET)
            return os.read(self.descriptor, place.size)

    def __del__(self) -> None:
        os.close(self.descriptor)


def _unpacked(path: Path) -> IO[bytes]:
    """The bytes of a gzip file in a temporary file."""
    file, size = tempfile.TemporaryFile(), 0  # noqa: SIM115, kept as long as the archive
    try:
        with gzip.open(path) as packed:
            while block := packed.read(1 << 20):
                size += len(block)
                if size > LARGEST_UNPACKED:
                    raise InputError(
                        f"{path} holds more than {LARGEST_UNPACKED >> 30} GiB; unpack it, and give"
                        " the folder"
                    )
                file.write(block)
        file.flush()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _indexed(path: Path, members: Iterable[tuple[str, _Place | None]]) -> dict[str, _Inside]:
    """Of each folder of an archive what is in it; a member without a place is left out."""
    found, outside = {"": _Inside()}, 0
    for count, (name, place) in enumerate(members):
        if count >= MOST_MEMBERS:
            raise InputError(
                f"{path} holds more than {MOST_MEMBERS:,} files; unpack it, and give the folder"
            )
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if any(is_hidden(part) and part != ".." for part in parts):
            continue
        if place is None or not parts or name.startswith("/") or _leads_out(parts):
            outside += 1
            continue
        at = ""
        for part in parts[:-1]:
            found[at].folders.add(part)
            at = joined(at, part)
            found.setdefault(at, _Inside())
        found[at].files[parts[-1]] = place
    if outside:
        _log.warning(
            "%s has %d members that are links or devices, or lead out of it; they are left out",
            path,
            outside,
        )
    return found


def _leads_out(parts: list[str]) -> bool:
    return ".." in parts or re.match(r"[A-Za-z]:", parts[0]) is not None
