"""Classes in a tree of files: which folders are splits, which are classes, and what is in them."""

import logging
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from db3kd.data.archives import Archive
from db3kd.data.names import in_order
from db3kd.data.trees import Tree, joined
from db3kd.errors import InputError, NoSplit, plain

EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".dib", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"),
)
SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval")
"""Names of folders that may be splits though they hold images and no class folders."""

ANNOTATIONS = "val_annotations.txt"  # of Tiny-ImageNet: in each line a file, a tab and its class
NOTES = (
    *(".txt", ".md", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".yaml", ".yml"),
    *(".log", ".ini", ".db", ".py", ".pdf"),
)
"""Endings of files that nobody takes for images."""

IMAGES = "images"  # a folder of this name belongs to the one that it lies in
DEEPEST = 8  # folders that hold nothing but another
_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class Found:
    """Images in a tree: the names of their files, their labels if any, and the classes' names."""

    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...]


def split_root(tree: Tree, split: str) -> str:
    """The folder of a tree that holds a split: one of its name in any case, or the tree itself.

    A folder is a split if it holds class folders, or if it is called like one and no folder beside
    it is a class. Without such folders the tree itself is "train", or what it is called.

    Raises:
        NoSplit: it has others.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from db3kd.data.archives import opened
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "test" / "cat").mkdir(parents=True)
    >>> split_root(opened(folder), "test")
    'test'
    >>> split_root(opened(folder), "train")
    Traceback (most recent call last):
    ...
    db3kd.errors.NoSplit: no split 'train' in ...; it has test
    """
    root = _top(tree)
    found = _splits(tree, root)
    where = _where(tree, root)
    named = [name for name in found if name.casefold() == split.casefold()]
    if split in named or len(named) == 1:
        return joined(root, split if split in named else named[0])
    if found:
        known = [name for name in found if name.casefold() in SPLITS]
        advice = "" if known else " (if these are classes, put images into them)"
        raise NoSplit(
            f"no split {split!r} in {where}; it has {plain(', '.join(found))}{advice}", found
        )
    name = PurePosixPath(root).name if root else tree.path.resolve().name
    if split not in ("train", name, name.partition(".")[0]):
        raise NoSplit(f"no split {split!r} in {where}; it has train only")
    return root


def images_at(tree: Tree, at: str) -> Found:
    """The images in a folder of a tree: in one folder for each class, or without classes.

    Classes are in the order of `names.in_order`, the files of each in that of their names. Images
    may lie one deeper, in a folder called images.

    Raises:
        InputError: there are no images, or none of one class.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from db3kd.data.archives import opened
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("10", "9"):
    ...     (folder / name).mkdir(); _ = (folder / name / "0.png").write_bytes(b"...")
    >>> images_at(opened(folder), "")
    Found(names=('9/0.png', '10/0.png'), labels=(0, 1), classes=('9', '10'))
    """
    beside = _images(tree, at)
    inner = joined(at, IMAGES)
    if not beside and tree.folders(at) == [IMAGES]:
        if ANNOTATIONS in tree.files(at):
            return _annotated(tree, at)
        return images_at(tree, inner)
    names = in_order(tree.folders(at))
    files = {name: _of_class(tree, joined(at, name)) for name in names}
    if not any(files.values()) and beside:
        _tell_others(tree, at, [at])
        return Found(tuple(beside), None, ())
    if not names:
        raise InputError(f"{_where(tree, at)} holds no images{_endings(tree, at)}")
    for name, some in files.items():
        if not some:
            raise InputError(_why_empty(tree, joined(at, name)))
    below = (inner for name in names for inner in _below(tree, joined(at, name)))
    deep = (_images(tree, inner) for inner in below)
    _tell_left_out(beside, f"beside the class folders of {_where(tree, at)}")
    _tell_left_out([*chain(*deep)], f"deeper than the class folders of {_where(tree, at)}")
    _tell_others(tree, at, [joined(at, name) for name in names])
    labels = tuple(label for label, name in enumerate(names) for _ in files[name])
    return Found(tuple(file for some in files.values() for file in some), labels, tuple(names))


def has_class_folders(tree: Tree, at: str) -> bool:
    """Whether there are folders in a folder, other than one of the images of it all."""
    return any(name != IMAGES for name in tree.folders(at))


def _top(tree: Tree) -> str:
    """The folder of a tree that holds its splits or classes."""
    at = ""
    for _ in range(DEEPEST):
        folders = tree.folders(at)
        if len(folders) != 1 or _images(tree, at):
            return at
        (only,), inner = folders, joined(at, folders[0])
        if only == IMAGES:
            return inner if has_class_folders(tree, inner) else at
        # An archive often holds one folder, the one that was packed.
        if not isinstance(tree, Archive) or only.casefold() in SPLITS:
            return at
        if not tree.folders(inner) and not tree.path.name.startswith(f"{only}."):
            return at  # a class
        at = inner
    return at


def _splits(tree: Tree, root: str) -> list[str]:
    """The names of the folders that are splits."""
    folders = tree.folders(root)
    flat = [name for name in folders if _of_class(tree, joined(root, name))]
    called = [name for name in flat if name.casefold() in SPLITS]
    return [
        name
        for name in folders
        if (name in called and called == flat)
        or (has_class_folders(tree, at := joined(root, name)) and not _images(tree, at))
    ]


def _images(tree: Tree, at: str) -> list[str]:
    """The names in the tree of the images directly in a folder."""
    return [joined(at, name) for name in tree.files(at) if _ending(name) in EXTENSIONS]


def _of_class(tree: Tree, at: str) -> list[str]:
    """The names in the tree of the images of a class folder."""
    within = _images(tree, joined(at, IMAGES)) if IMAGES in tree.folders(at) else []
    return [*_images(tree, at), *within]


def _below(tree: Tree, at: str) -> list[str]:
    """The folders in a class folder whose images are not of the class."""
    return [joined(at, name) for name in tree.folders(at) if name != IMAGES]


def _tell_left_out(names: list[str], where: str) -> None:
    if names:
        first = plain(names[0], 100)
        _log.warning(
            "images that lie %s are left out: %s, the first is %s", plain(where), len(names), first
        )


def _tell_others(tree: Tree, at: str, folders: list[str]) -> None:
    names = [joined(folder, name) for folder in folders for name in tree.files(folder)]
    tell_others(plain(_where(tree, at)), names)


def tell_others(where: str, names: list[str]) -> None:
    """Say which of the files in folders of images are left out though they may be images."""
    known = (*EXTENSIONS, *NOTES)
    others = [name for name in names if _ending(name) not in known]
    if others:
        endings = sorted({_ending(name) or "none" for name in others})
        _log.warning(
            "files in %s with other endings than those of images (%s) are left out: %s, the first"
            " is %s",
            where,
            _few(endings),
            len(others),
            plain(others[0], 100),
        )


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _why_empty(tree: Tree, at: str) -> str:
    folders = tree.folders(at)
    if folders:
        return (
            f"{_where(tree, at)} holds folders ({_few(folders)}), but images are wanted directly in"
            " the folder of their class; move them there"
        )
    return f"{_where(tree, at)} holds no images{_endings(tree, at)}; add some, or remove this class"


def _endings(tree: Tree, at: str) -> str:
    """Which endings files have instead of those of images."""
    met = sorted({_ending(name) or "none" for name in tree.files(at)})
    kinds = ", ".join(EXTENSIONS)
    return f" ({kinds})" if not met else f" ({kinds}), but files ending in {_few(met)}"


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return plain(shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more", 200)


def _annotated(tree: Tree, at: str) -> Found:
    """Images whose classes a file names, as in the validation images of Tiny-ImageNet."""
    names = _images(tree, joined(at, IMAGES))
    listed = joined(at, ANNOTATIONS)
    text = tree.read(listed).decode("utf-8", "replace")
    told = dict(line.split("\t")[:2] for line in text.splitlines() if "\t" in line)
    missing = [name for name in names if PurePosixPath(name).name not in told]
    if missing or not names:
        raise InputError(
            f"{_where(tree, listed)} names no class of {len(missing):,} of {len(names):,} images"
            f"{f', the first is {plain(missing[0], 200)}' if missing else ''}; name it, or remove"
            " the file if they have none"
        )
    of = [told[PurePosixPath(name).name] for name in names]
    classes = in_order(set(of))
    numbers = {name: number for number, name in enumerate(classes)}
    return Found(tuple(names), tuple(numbers[name] for name in of), tuple(classes))


def _where(tree: Tree, at: str) -> str:
    return str(tree.path / at) if at else str(tree.path)
