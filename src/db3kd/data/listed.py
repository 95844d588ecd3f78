"""Images that a CSV or TSV file lists: in each row a file, and its class if it has one."""

import csv
from collections.abc import Iterator
from pathlib import Path

from db3kd.data._pixels import Form
from db3kd.data.classes import Found
from db3kd.data.columns import OF_LABELS, Columns, column_of, listed, of_names, tell_unlabelled
from db3kd.data.folders import FolderImages
from db3kd.data.labelled import DataSet
from db3kd.data.trees import Folder
from db3kd.errors import InputError, plain

MOST_ROWS = 10_000_000
SEPARATORS = ",;\t"
ENDINGS = (".csv", ".tsv")
OF_FILES = (
    *("file", "filename", "file_name", "filepath", "file_path", "path", "image", "images", "img"),
    *("image_path", "img_path", "image_file", "image_name", "image_filename"),
)
"""Usual names of a column of image files."""


def load_listed(file: Path, form: Form, columns: Columns) -> DataSet:
    r"""Open the data set that a CSV or TSV file lists; images are not read yet.

    The file has a header. Files are found from the folder of the list. Without a column of
    labels there are none.

    Raises:
        InputError: it is no such table, or a file that it names is missing.

    >>> import tempfile, PIL.Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("L", (2, 2)).save(folder / "0.png")
    >>> (folder / "train.csv").write_text("file,label\n0.png,cat\n0.png,dog\n") > 0
    True
    >>> data = load_listed(folder / "train.csv", Form(None, None), Columns())
    >>> data.classes, data.labels.tolist()
    (('cat', 'dog'), [0, 1])
    """
    rows = _rows(file)
    header = next(rows, [])
    at = column_of(header, columns.image, OF_FILES, "image", str(file))
    if at is None:
        raise InputError(
            f"{file} has the columns {listed(header)}; give a header that names one of them file or"
            " image, or name it by image="
        )
    of = column_of(header, columns.label, OF_LABELS, "label", str(file))
    places = [header.index(name) for name in (at, of) if name is not None]
    table = [[row[place].strip() for place in places] for row in rows]
    if not table:
        raise InputError(f"{file} lists no images; give a row for each")
    names = tuple(_as_here(file.parent, row[0]) for row in table)
    _check_files(file, names)
    images = FolderImages(
        Folder(file.parent), size=form.size, channels=form.channels, found=Found(names, None, ())
    )
    if of is None:
        tell_unlabelled(header, at, str(file))
        return DataSet(images, None, ())
    return DataSet(images, *of_names(_whole([row[1] for row in table]), str(file)))


def _rows(file: Path) -> Iterator[list[str]]:
    """The rows of a table, first the header; blank lines are left out."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            header = text.readline()
            text.seek(0)
            tabs = file.suffix.lower() == ".tsv"
            separator = "\t" if tabs else max(SEPARATORS, key=header.count)
            reader = csv.reader(text, delimiter=separator, strict=True)
            wide, count = 0, 0
            for row in filter(None, reader):
                wide, count = wide or len(row), count + 1
                if len(row) != wide:
                    raise InputError(
                        f"line {reader.line_num} of {file} has {len(row)} columns, but the header"
                        f" {wide}; give all of them"
                    )
                if count > MOST_ROWS + 1:
                    raise InputError(f"{file} has more than {MOST_ROWS:,} rows; give fewer")
                yield row
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as a table ({plain(error, 100)}); give CSV in UTF-8"
        ) from None


def _check_files(file: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not _is_there(file.parent, name)]
    if missing:
        raise InputError(
            f"{len(missing):,} of the {len(names):,} files that {file} lists are missing, the first"
            f" is {plain(missing[0], 200) or '(empty)'}; give their paths from the folder of the"
            " list"
        )


def _as_here(folder: Path, name: str) -> str:
    """A path as it is, or else, if it was written on Windows, as this system writes it."""
    turned = name.replace("\\", "/")
    return turned if turned != name and not _is_there(folder, name) else name


def _is_there(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # a text that is no path
        return False


def _whole(labels: list[str]) -> list[str]:
    """Labels as they are, or without the ".0" that all of them have where numbers are fractions."""
    cut = [label.removesuffix(".0") for label in labels]
    is_number = all(
        label != whole and whole.removeprefix("-").isdecimal()
        for label, whole in zip(labels, cut, strict=True)
    )
    return cut if is_number else labels
