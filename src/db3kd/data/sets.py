"""Data sets by name: a folder, a folder in `DB3KD_DATA`, or an id on the Hugging Face hub."""

import os
import re
from pathlib import Path

import torch

from db3kd.data.folders import FolderImages, class_folders
from db3kd.data.images import DataSet, subset
from db3kd.data.parquet import load_parquet
from db3kd.errors import Db3kdError, InputError, hint, plain


def data_root() -> Path | None:
    """Return the folder of data sets: DB3KD_DATA, else ../shared/data if it exists, else None.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, DB3KD_DATA="sets"):
    ...     data_root().name
    'sets'
    """
    named = os.environ.get("DB3KD_DATA")
    if named:
        return Path(named).expanduser()
    beside = Path("..") / "shared" / "data"
    return beside if beside.is_dir() else None


def load(name: str, split: str, *, size: int | None = None, channels: int | None = None) -> DataSet:
    """Open a data set: labels are read, images stay in their files.

    - `name`: a folder, or else a folder in `data_root`, or else a hub id "owner/name" or
      "owner/name/config". Of a hub id the files of this split are downloaded (needs `db3kd[hub]`).
    - `split`: "train", or some of its rows, as in "train[:300]" or "train[1000:2000]".
    - `size`, `channels`: as in `ParquetImages`.

    A folder may hold parquet files as on the Hugging Face hub
    (`data/train-00000-of-00001.parquet`). It may also hold a folder named like the split, with one
    folder of images per class. Without such a folder its class folders are the split "train", or
    the split that it is named like itself.

    Raises:
        InputError: the data set, the split or its rows do not exist, or a file cannot be used.

    >>> import tempfile, PIL.Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/cat", "train/dog"):
    ...         (Path(folder) / name).mkdir(parents=True)
    ...         PIL.Image.new("L", (2, 2)).save(Path(folder) / name / "0.png")
    ...     data = load(folder, "train[1:]", channels=3)
    >>> data.labels.tolist(), data.images.shape
    ([1], (3, 2, 2))
    """
    try:
        return _loaded(name, split, size, channels)
    except (Db3kdError, MemoryError):
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a path that cannot be; no permission
        reason = plain(getattr(error, "strerror", None) or error)
        raise InputError(
            f"the data set {plain(name, 200)!r} cannot be read ({reason}); give a folder that can"
        ) from error


def _loaded(name: str, split: str, size: int | None, channels: int | None) -> DataSet:
    split, first, end = _parse_split(split)
    folder = _find(name, split)
    files = _split_files(folder)
    if files:
        whole = load_parquet(_choose(files, split, folder), size, channels)
    else:
        images = FolderImages(_class_root(folder, split), size=size, channels=channels)
        whole = DataSet(images, images.labels, images.classes)
    if first == 0 and end is None:
        return whole
    last = len(whole) if end is None else end
    if not first < last <= len(whole):
        raise InputError(
            f"rows [{first}:{'' if end is None else end}] of split {split!r} of {name!r}: it has"
            f" {len(whole):,} rows; give 0 <= first < end <= {len(whole)}"
        )
    return subset(whole, torch.arange(first, last))


def _parse_split(split: str) -> tuple[str, int, int | None]:
    """Split "train[10:20]" into the name, the first row and the end."""
    match = re.fullmatch(r"(\w[\w.]{0,99})(?:\[(\d{0,18}):(\d{0,18})\])?", split, flags=re.ASCII)
    if match is None:
        raise InputError(
            f"split is {plain(split, 60)!r}; give a name, or a name and rows: train, train[:300],"
            " train[10:20]"
        )
    name, first, end = match.groups()
    return name, int(first or 0), int(end) if end else None


def _find(name: str, split: str) -> Path:
    """Return the folder of a data set, downloaded if it has to come from the hub."""
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    root = data_root()
    if root is not None and name and (root / name).is_dir():
        return root / name
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+(/\w[\w.-]*)?", name, flags=re.ASCII):
        return _download(name, split)
    names = (
        sorted(at.name for at in root.iterdir() if at.is_dir()) if root and root.is_dir() else []
    )
    raise InputError(
        f"no data set {plain(name, 200)!r}; give a folder, a hub id (owner/name), or one of"
        f" {plain(', '.join(names)) or '(none)'} in DB3KD_DATA, which is {root or 'not set'}"
    )


def _download(name: str, split: str) -> Path:
    """Download the parquet files of one split from the hub; return the folder they are in."""
    owner, repository, *config = name.split("/")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(
            f"there is no folder {name!r}; a data set of the Hugging Face hub needs the extra:"
            f" {hint('hub')}"
        ) from None
    pattern = f"{config[0]}/{split}-*.parquet" if config else f"*{split}-*.parquet"
    try:
        snapshot = snapshot_download(
            f"{owner}/{repository}", repo_type="dataset", allow_patterns=[pattern]
        )
    except Exception as error:  # the client's own, the network's and the system's
        reason = plain(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise InputError(
            f"there is no folder {name!r}, and the download from the Hugging Face hub failed:"
            f" {reason}"
        ) from error
    folder = Path(snapshot, *config)
    if not _split_files(folder):
        raise InputError(
            f"{name!r} on the Hugging Face hub has no parquet files of split {split!r}"
        )
    return folder


def _split_files(folder: Path) -> dict[str, dict[Path, list[Path]]]:
    """Return the parquet files of each split, by the folder (configuration) that holds them."""
    found: dict[str, dict[Path, list[Path]]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]):
        if file.is_dir():
            continue  # of parts, which are found as well
        split = file.stem.partition("-")[0]
        found.setdefault(split, {}).setdefault(file.parent, []).append(file)
    return found


def _choose(found: dict[str, dict[Path, list[Path]]], split: str, folder: Path) -> list[Path]:
    """Return all files of one split in order; they must be of one configuration."""
    if split not in found:
        raise InputError(
            f"no split {split!r} in {folder}; it has {plain(', '.join(sorted(found)))}"
        )
    places = found[split]
    if len(places) > 1:
        raise InputError(
            f"split {split!r} is in several folders; name one: {', '.join(map(str, places))}"
        )
    ((place, files),) = places.items()
    totals = [re.search(r"-of-0*(\d+)", file.stem) for file in files]
    if any(total is not None and int(total[1]) != len(files) for total in totals):
        raise InputError(
            f"split {split!r} in {place} has {len(files)} parquet files, but {files[0].name} says"
            " there are more or fewer; add the missing ones, or remove those of another version"
        )
    return files


def _class_root(folder: Path, split: str) -> Path:
    """Return the folder whose subfolders are the classes of a split."""
    inner = class_folders(folder)
    splits = [name for name in inner if class_folders(folder / name)]
    if split in splits:
        return folder / split
    if splits:
        raise InputError(f"no split {split!r} in {folder}; it has {plain(', '.join(splits))}")
    if split not in ("train", folder.resolve().name):
        raise InputError(
            f"no split {split!r} in {folder}; it has train only (its subfolders are classes)"
        )
    return folder
