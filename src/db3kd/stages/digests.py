"""Digests of files and of images, remembered so that what is large is read once."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from db3kd.data import Images
from db3kd.data.content import Encoded, Tell, content_of, unfolded
from db3kd.data.digest import combined, of_file, of_tensor
from db3kd.errors import InputError, RunError
from db3kd.progress import Progress, silent
from db3kd.storage.files import write_atomically

LEAST_BYTES = 1 << 20  # what is smaller is read again
COARSEST_S = 2.0  # the coarsest times of files, those of FAT
DIGESTS = "digests of files"
FindFaults = Callable[[Images, Tell], list[tuple[int, str]]]
"""Finds damaged images: their rows, and why."""
PATIENCE_S = 2.0  # work that takes longer tells how far it is


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
        """SHA-256 of a file's bytes.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return self._of("bytes", [file], lambda tell: of_file(file, tell))
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None

    def of_images(self, images: Images, size: int) -> str:
        """The content of images, a digest of every `size` of them; see `data.content.content_of`.

        Costs no query.

        Raises:
            InputError: an image cannot be read.

        >>> import torch
        >>> from db3kd.data import Rows, TensorImages
        >>> ramp = TensorImages(torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1))
        >>> digests = Digests(Path("no-such-folder/digests.json"))
        >>> whole = digests.of_images(ramp, 4)
        >>> whole == digests.of_images(Rows(ramp, torch.arange(4)), 4)
        True
        >>> whole == digests.of_images(Rows(ramp, torch.tensor([1, 0, 2, 3])), 4)
        False
        """
        for known, digest in self._images:
            if known is images:
                return digest
        source, rows = unfolded(images)
        if isinstance(source, Encoded):
            kind = f"images{source.part} {size} {of_tensor(rows)}"
            digest = self._of(kind, source.files, lambda tell: content_of(source, rows, size, tell))
        else:
            digest = content_of(source, rows, size, self._telling())
        self._images.append((images, digest))
        return digest

    def faults(self, images: Images, find: FindFaults) -> list[tuple[int, str]]:
        """The rows of images that `find` says are damaged, and why; remembered as digests are.

        >>> import torch
        >>> from db3kd.data import TensorImages
        >>> digests = Digests(Path("no-such-folder/digests.json"))
        >>> digests.faults(TensorImages(torch.zeros(2, 1, 4, 4)), lambda images, tell: [(1, "cut")])
        [(1, 'cut')]
        """

        def found(tell: Tell) -> str:
            return json.dumps(find(images, tell))

        source, rows = unfolded(images)
        if isinstance(source, Encoded):
            kind = f"faults {images.shape} {of_tensor(rows)}"
            text = self._of(kind, source.files, found, "check of images")
        else:
            text = found(self._telling("check of images"))
        return [(row, reason) for row, reason in json.loads(text)]

    def save(self) -> None:
        """Write what is known, where the folder is there and can be written."""
        if not self._kept or not self._path.parent.is_dir():
            return
        self._kept = _load(self._path) | self._kept  # another part of this process may have written
        try:
            write_atomically(self._path, json.dumps(self._kept, sort_keys=True).encode())
        except RunError:
            return  # it only saves time

    def _of(
        self, kind: str, files: Sequence[Path], make: Callable[[Tell], str], what: str = DIGESTS
    ) -> str:
        """What `make` gives for these files, unless it is known and the files are the same."""
        begun, stamps = time.time(), _stamps(files)
        if sum(size for size, *_ in stamps) < LEAST_BYTES:
            return make(self._telling(what))
        key = combined(kind, (str(file.absolute()) for file in files))
        stamp = combined("stamp", (str(each) for each in stamps))
        known = self._kept.get(key)
        if known is not None and known[0] == stamp:
            return known[1]
        digest = make(self._telling(what))
        newest = max(max(times) for _, *times in stamps) / 1e9
        if begun - newest > COARSEST_S and _stamps(files) == stamps:
            self._kept[key] = [stamp, digest]
            self.save()
        return digest

    def _telling(self, what: str = DIGESTS) -> Tell:
        """Tells the progress, once there was enough patience."""
        last = time.monotonic()
        begun = False

        def tell(done: int, total: int) -> None:
            nonlocal last, begun
            now = time.monotonic()
            if now - last > (0.2 if begun else PATIENCE_S) or (begun and done == total):
                last, begun = now, True
                self._progress(what, done, total, {})

        return tell


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
        found = [file.stat() if file.exists() else file.lstat() for file in files]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    return [(at.st_size, at.st_mtime_ns, at.st_ctime_ns) for at in found]
