"""Digests of files and of images, remembered so that what is large is read once."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.data.digest import combined, of_file
from db3kd.data.images import Images, Rows
from db3kd.errors import InputError, RunError
from db3kd.progress import Progress, silent
from db3kd.storage.files import write_atomically

LEAST_BYTES = 1 << 20  # what is smaller is read again
COARSEST_S = 2.0  # the coarsest times of files, those of FAT
PATIENCE_S = 2.0  # work that takes longer tells how far it is
BLOCK = 1024  # images that are read at once

Tell = Callable[[int, int], None]
"""What is told how much is done, and of how much."""


@runtime_checkable
class Encoded(Protocol):
    """Images in files that can give each one's bytes as they are kept, without decoding them."""

    @property
    def files(self) -> Sequence[Path]:
        """The files that hold the images."""

    def encoded(self, row: int) -> bytes:
        """The bytes of one image; rows in ascending order are read fastest."""


class Digests:
    """Digests of content; those of large files are kept in a small JSON file.

    A digest is kept with the size and the times of its files, and is taken again as long as these
    are the same. A file that was written less than two seconds ago is not trusted to have another
    time once it is written again, so its digest is not kept. Work of more than two seconds tells
    `progress` how far it is.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a").write_bytes(b"weights"), (folder / "b").write_bytes(b"weights")
    (7, 7)
    >>> digests = Digests(folder / "digests.json")
    >>> digests.of_file(folder / "a") == digests.of_file(folder / "b")
    True
    """

    def __init__(self, path: Path, progress: Progress = silent) -> None:
        self._path, self._progress = path, progress
        self._kept = _load(path)
        self._images: list[tuple[Images, str]] = []  # of this process

    def of_file(self, file: Path) -> str:
        """SHA-256 of a file's bytes."""
        return self._of("bytes", [file], lambda tell: of_file(file, tell))

    def of_images(self, images: Images) -> str:
        """A digest of every image in its order, after a word that says what was digested.

        - "encoded": the bytes of files or of a column. It does not depend on names, on how images
          are spread over files, on labels, or on images that are not among these.
        - "values": the pixels, of images that are not in files.

        Digests compare only if their words are the same. Costs no query.

        Raises:
            InputError: an image cannot be read.

        >>> from db3kd.data import TensorImages
        >>> ramp = TensorImages(torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1))
        >>> digests = Digests(Path("no-such-folder/digests.json"))
        >>> whole = digests.of_images(ramp)
        >>> whole == digests.of_images(Rows(ramp, torch.arange(4)))
        True
        >>> whole == digests.of_images(Rows(ramp, torch.tensor([1, 0, 2, 3])))
        False
        """
        for known, digest in self._images:
            if known is images:
                return digest
        source, rows = _unfolded(images)
        if isinstance(source, Encoded):
            inner = source
            chosen = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
            digest = "encoded " + self._of(
                f"images {chosen}", source.files, lambda tell: _of_encoded(inner, rows, tell)
            )
        else:
            digest = f"values {_of_values(source, rows, self._telling())}"
        self._images.append((images, digest))
        return digest

    def save(self) -> None:
        """Write what is known, where the folder is there and can be written."""
        if not self._kept or not self._path.parent.is_dir():
            return
        self._kept = _load(self._path) | self._kept  # another part of this process may have written
        try:
            write_atomically(self._path, json.dumps(self._kept, sort_keys=True).encode())
        except RunError:
            return  # it only saves time

    def _of(self, kind: str, files: Sequence[Path], make: Callable[[Tell], str]) -> str:
        """What `make` gives for these files, unless it is known and the files are the same."""
        begun, stamps = time.time(), _stamps(files)
        if sum(size for size, *_ in stamps) < LEAST_BYTES:
            return make(self._telling())
        key = combined(kind, (str(file.absolute()) for file in files))
        stamp = combined("stamp", (str(each) for each in stamps))
        known = self._kept.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = make(self._telling())
        newest = max(max(times) for _, *times in stamps) / 1e9
        if begun - newest > COARSEST_S and _stamps(files) == stamps:
            self._kept[key] = [stamp, digest]
            self.save()
        return digest

    def _telling(self) -> Tell:
        """Tells the progress, once there was enough patience."""
        last = time.monotonic()
        begun = False

        def tell(done: int, total: int) -> None:
            nonlocal last, begun
            now = time.monotonic()
            if now - last > (0.2 if begun else PATIENCE_S) or (begun and done == total):
                last, begun = now, True
                self._progress("digests of files", done, total, {})

        return tell


def _unfolded(images: Images) -> tuple[Images, Int[Tensor, " row"]]:
    """The images that a view is of, and its rows."""
    if not isinstance(images, Rows):
        return images, torch.arange(len(images))
    source, rows = _unfolded(images.images)
    return source, rows[images.rows.cpu()]


def _load(path: Path) -> dict[str, list[str]]:
    """What was kept; what cannot be read is made anew."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {
        key: value
        for key, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
    }


def _stamps(files: Sequence[Path]) -> list[tuple[int, int, int]]:
    try:
        found = [file.stat() for file in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    return [(at.st_size, at.st_mtime_ns, at.st_ctime_ns) for at in found]


def _of_encoded(images: Encoded, rows: Int[Tensor, " row"], tell: Tell) -> str:
    """Each image is read once, in ascending order; the digest is of all rows in their order."""
    wanted, places = torch.unique(rows, return_inverse=True)
    digests = []
    for done, row in enumerate(wanted.tolist()):
        digests.append(hashlib.sha256(images.encoded(row)).digest())
        if done % BLOCK == 0:
            tell(done, len(wanted))
    return _whole(digests[place] for place in places.tolist())


def _of_values(images: Images, rows: Int[Tensor, " row"], tell: Tell) -> str:
    def digests() -> Iterator[bytes]:
        for first in range(0, len(rows), BLOCK):
            block = images.read(rows[first : first + BLOCK]).cpu()
            exact = block.mul(255).round_().to(torch.uint8) if images.eight_bit else block
            for values in exact.contiguous().numpy():
                yield hashlib.sha256(values.data).digest()
            tell(first, len(rows))

    return _whole(digests())


def _whole(digests: Iterator[bytes]) -> str:
    whole = hashlib.sha256()
    for digest in digests:
        whole.update(digest)
    return whole.hexdigest()
