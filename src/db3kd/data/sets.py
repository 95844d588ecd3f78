"""Data sets by name: a folder or file, one in `DB3KD_DATA`, or an id on the Hugging Face hub."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch

from db3kd.data._pixels import Form
from db3kd.data.archives import ENDINGS, opened
from db3kd.data.classes import SPLITS, has_class_folders, images_at, split_root
from db3kd.data.columns import Columns
from db3kd.data.folders import FolderImages
from db3kd.data.labelled import DataSet, joined, subset
from db3kd.data.listed import ENDINGS as LISTS
from db3kd.data.listed import load_listed
from db3kd.data.names import folded
from db3kd.data.parquet import load_parquet
from db3kd.data.trees import Tree
from db3kd.data.trees import joined as inner
from db3kd.errors import Db3kdError, InputError, NoSplit, hint, plain

TABLES = (".parquet", *LISTS)
ARRAYS = (".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".mat", ".h5", ".hdf5", ".safetensors")
BESIDE = (*LISTS, ".json", ".jsonl", ".xlsx")  # endings of tables that may name classes
_log = logging.getLogger("db3kd")


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


def load(
    name: str,
    split: str,
    *,
    size: int | tuple[int, ...] | None = None,
    channels: int | None = None,
    image: str | None = None,
    label: str | None = None,
) -> DataSet:
    """Open a data set: labels are read, images stay in their files.

    - `name`: a folder or file, or else one in `data_root`, or else a hub id "owner/name" or
      "owner/name/config". Of a hub id the files of this split are downloaded (needs `db3kd[hub]`).
    - `split`: "train", or some of its rows, as in "train[:300]" or "train[1000:2000]"; or several,
      one after the other, as in "train+validation".
    - `size`, `channels`: as in `ParquetImages`.
    - `image`, `label`: the columns of a table, if they have other names than usual.

    A data set is parquet files as on the Hugging Face hub (`data/train-00000-of-00001.parquet`), a
    CSV or TSV file of image files and their classes (`train.csv`), or a folder or archive (zip,
    tar) with one folder of images per class, or with images alone, below a folder named like the
    split. Without such a folder it is the split "train", or the split that it is named like itself.
    Without labels, `labels` is None.

    Raises:
        NoSplit: the data set exists, but not this split of it.
        InputError: the data set or its rows do not exist, or a file cannot be used.

    >>> import tempfile, PIL.Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/cat", "train/dog"):
    ...         (Path(folder) / name).mkdir(parents=True)
    ...         PIL.Image.new("L", (2, 2)).save(Path(folder) / name / "0.png")
    ...     data = load(folder, "train[1:]", channels=3)
    >>> data.labels.tolist(), data.images.shape
    ([1], (3, 2, 2))
    """
    several = split.split("+")
    if len(several) > 1:
        known: dict[str, Any] = {"size": size, "channels": channels, "image": image, "label": label}
        return joined([load(name, part, **known) for part in several])
    try:
        split, first, end = _parse_split(split)
        whole = _opened(_find(name, split), split, Form(size, channels), Columns(image, label))
        _tell_alike(whole.classes, name)
    except (Db3kdError, MemoryError):
        raise
    except (OSError, ValueError, RuntimeError) as error:  # a path that cannot be; no permission
        reason = plain(getattr(error, "strerror", None) or error)
        raise InputError(
            f"the data set {plain(name, 200)!r} cannot be read ({reason}); give a folder that can"
        ) from error
    if first == 0 and end is None:
        return whole
    last = len(whole) if end is None else end
    if not first < last <= len(whole):
        raise InputError(
            f"rows [{first}:{'' if end is None else end}] of split {split!r} of {name!r}: it has"
            f" {len(whole):,} rows; give 0 <= first < end <= {len(whole)}"
        )
    return subset(whole, torch.arange(first, last))


def _opened(place: Path, split: str, form: Form, columns: Columns) -> DataSet:
    """One split of the data set in a folder or file."""
    if place.is_file() and place.suffix.lower() in (*TABLES, *ARRAYS):
        return _of_table(place, split, form, columns)
    parquet = _split_files(place) if place.is_dir() else {}
    if parquet:
        return load_parquet(_choose(parquet, split, place), form, columns)
    tree = opened(place)
    lists = _lists(place) if place.is_dir() else {}
    is_split = split in tree.folders("") and has_class_folders(tree, split)
    if split in lists and not is_split:
        return load_listed(lists[split], form, columns)
    try:
        found = images_at(tree, root := split_root(tree, split))
    except NoSplit:
        raise
    except InputError as error:
        if not lists:
            raise
        raise NoSplit(
            f"no split {split!r} in {place}; it has {', '.join(lists)} ({error})", lists
        ) from None
    if found.labels is None:
        _tell_tables(tree, root)
    images = FolderImages(tree, size=form.size, channels=form.channels, found=found)
    return DataSet(images, images.labels, images.classes)


def _of_table(file: Path, split: str, form: Form, columns: Columns) -> DataSet:
    """The data set in one file that is no archive."""
    if file.suffix.lower() in ARRAYS:
        raise InputError(
            f"{file} holds arrays, and a data set is files of images or a table; save each image"
            " as a PNG file, or give the arrays in Python (db3kd.Run, db3kd.Distiller)"
        )
    if split not in ("train", file.stem, file.stem.partition("-")[0]):
        raise NoSplit(f"no split {split!r} in {file}; it has train only")
    if file.suffix.lower() == ".parquet":
        return load_parquet([file], form, columns)
    return load_listed(file, form, columns)


def _tell_tables(tree: Tree, root: str) -> None:
    """Say that a table beside images without classes is not read."""
    places = {"", root.rpartition("/")[0], root}
    tables = [
        inner(at, name)
        for at in sorted(places)
        for name in tree.files(at)
        if name.lower().endswith(BESIDE)
    ]
    if tables:
        _log.warning(
            "the images in %s have no classes, and %s is not read; if it lists their classes, give"
            " it as the data set, as CSV",
            plain(tree.path / root),
            plain(tree.path / tables[0]),
        )


def _tell_alike(classes: tuple[str, ...], name: str) -> None:
    """Say that two classes may be one that was written in two ways."""
    first: dict[str, str] = {}
    for each in classes:
        other = first.setdefault(folded(each), each)
        if other != each:
            _log.warning(
                "the classes %r and %r of %s differ in case or blanks alone; if they are one, give"
                " them one name",
                plain(other, 60),
                plain(each, 60),
                plain(name, 200),
            )
            return


def _lists(folder: Path) -> dict[str, Path]:
    """The CSV and TSV files in a folder that are called like splits."""
    found = [at for at in sorted(folder.iterdir()) if at.suffix.lower() in LISTS and at.is_file()]
    return {at.stem: at for at in found if at.stem.casefold() in SPLITS}


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
    """Return the folder or file of a data set, downloaded if it has to come from the hub."""
    place = Path(name).expanduser()
    root = data_root()
    places = [at for at in (place, root / name if root else None) if name and at is not None]
    for at in (*filter(Path.is_dir, places), *filter(Path.exists, places)):
        return at
    is_file = name.lower().endswith((*TABLES, *ENDINGS))
    if not is_file and re.fullmatch(r"\w[\w.-]*/[\w.-]+(/\w[\w.-]*)?", name, flags=re.ASCII):
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
        raise NoSplit(f"{name!r} on the Hugging Face hub has no parquet files of split {split!r}")
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
        there = sorted(found)
        raise NoSplit(f"no split {split!r} in {folder}; it has {plain(', '.join(there))}", there)
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
