"""Answers from and to parquet tables."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.data._decode import decoded
from db3kd.data._pixels import Form
from db3kd.data.parquet_labels import need_pyarrow
from db3kd.errors import InputError
from db3kd.storage.files import writing
from db3kd.teachers.cached.records import Block

ROWS = 4096  # of a table that are imported together
GROUP = 65_536  # rows of a row group that is written
_EXPORTED = ("key", "class", "identity")
_NAMES = b"db3kd.names"


def read_table(
    file: Path,
    identity: str,
    key: Callable[[Tensor], Sequence[bytes]],
    index: Callable[[str | int], int] | None,
    bounds: tuple[float, float],
    learn: Callable[[Sequence[str]], tuple[str, ...]],
) -> Iterator[tuple[list[bytes], list[int]]]:
    """Yield keys and classes of a table, 4,096 rows at a time; see `Store.import_table`.

    `learn` takes the class names of the table, and returns all names in the order that counts.

    Raises:
        InputError: the file is not such a table, or an image or label of it is wrong; the extra
            `parquet` is missing.

    >>> next(read_table(Path("no-such.parquet"), "svm", list, None, (0.0, 1.0), tuple))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: no-such.parquet cannot be read as a parquet file: ...
    """
    need_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            if set(_EXPORTED) <= set(schema.names):
                names = _names_in(schema, identity, file)
                learned = learn(names) if names else ()
                for batch in table.iter_batches(ROWS, columns=list(_EXPORTED)):
                    yield _exported(batch.to_pylist(), identity, names, learned, file)
            elif {"image", "label"} <= set(schema.names):
                first = 0
                for batch in table.iter_batches(ROWS, columns=["image", "label"]):
                    rows = batch.to_pylist()
                    images = _images([row["image"] for row in rows], file, first, bounds)
                    classes = _classes([row["label"] for row in rows], index or _whole, file, first)
                    yield list(key(images)), classes
                    first += len(rows)
            else:
                raise InputError(
                    f"{file} has the columns {', '.join(schema.names)}; give image and label, or"
                    f" {', '.join(_EXPORTED)} as an export has them"
                )
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as a parquet file: {error}") from None


def _names_in(schema: Any, identity: str, file: Path) -> tuple[str, ...]:
    """Class names of a teacher that an export holds."""
    try:
        found = json.loads((schema.metadata or {}).get(_NAMES, b"{}")).get(identity, [])
        if not all(isinstance(name, str) for name in found):
            raise TypeError
    except (ValueError, TypeError, AttributeError):
        raise InputError(f"the class names in {file} cannot be read; export it again") from None
    return tuple(found)


def _exported(
    rows: list[Any], identity: str, names: tuple[str, ...], learned: tuple[str, ...], file: Path
) -> tuple[list[bytes], list[int]]:
    """Rows of one teacher; its classes counted as the names are here."""
    rows = [row for row in rows if row["identity"] == identity]
    keys, classes = [row["key"] for row in rows], [row["class"] for row in rows]
    if not all(
        isinstance(k, bytes) and isinstance(c, int) for k, c in zip(keys, classes, strict=True)
    ):
        raise InputError(
            f"{file} has rows whose key is not bytes, or whose class is not a whole number"
        )
    if names:
        here = [learned.index(name) for name in names]
        if classes and not 0 <= min(classes) <= max(classes) < len(here):
            raise InputError(f"{file} has classes without a name; export it again")
        classes = [here[number] for number in classes]
    return keys, classes


def _images(
    encoded: list[Any], file: Path, first: int, bounds: tuple[float, float]
) -> Float[Tensor, "row channels height width"]:
    """Decode images of one shape; `first` is the number of the first of them in the table."""
    if not encoded:
        return torch.zeros(0, 1, 1, 1)

    def content(at: int) -> bytes:
        image = encoded[at]["bytes"] if isinstance(encoded[at], dict) else encoded[at]
        if not isinstance(image, bytes):
            raise InputError(f"{where(at)} is empty; every row needs the bytes of an image")
        return image

    def where(at: int) -> str:
        return f"image {first + at} ({file})"

    pixels = [decoded(content, where, at, Form(None, None)) for at in range(len(encoded))]
    for at, image in enumerate(pixels):
        if image.shape != pixels[0].shape:
            raise InputError(
                f"{where(at)} has shape {image.shape} but others have {pixels[0].shape} (channels,"
                " height, width); a teacher's images are alike"
            )
    low, high = bounds
    return torch.from_numpy(np.stack(pixels)).float().div_(255).mul_(high - low).add_(low)


def _classes(
    labels: list[Any], index: Callable[[str | int], int], file: Path, first: int
) -> list[int]:
    for at, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise InputError(f"label {first + at} ({file}) is {label!r}; give a number or a name")
    return [index(label) for label in labels]


def _whole(label: str | int) -> int:
    """Take a label that is a class itself."""
    if isinstance(label, str):
        raise InputError(f"label {label[:60]!r} is a name; say by index= which class it is")
    return label


def write_table(file: Path, blocks: Iterable[Block], names: Mapping[str, Sequence[str]]) -> int:
    """Write blocks to a parquet table, whole or not at all; see `Store.export`.

    `names`: class names by identity.

    Raises:
        InputError: the extra `parquet` is missing.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "answers.parquet"
    >>> write_table(file, [Block("svm", 0.0, [b"k" * 32], [3])], {})
    1
    >>> list(read_table(file, "svm", list, None, (0.0, 1.0), tuple))[0][1]
    [3]
    """
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    with writing(file):
        try:
            count = _write(draft, blocks, names)
            draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)
    return count


def _write(file: Path, blocks: Iterable[Block], names: Mapping[str, Sequence[str]]) -> int:
    need_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("key", pa.binary(32)),
            ("class", pa.int64()),
            ("name", pa.string()),
            ("time", pa.timestamp("ms", tz="UTC")),
            ("identity", pa.string()),
        ],
        metadata={_NAMES: json.dumps({one: list(some) for one, some in names.items()}).encode()},
    )
    count, columns = 0, _empty(schema)
    with pq.ParquetWriter(file, schema) as writer:
        for block in blocks:
            known = dict(enumerate(names.get(block.identity, ())))
            columns["key"] += block.keys
            columns["class"] += block.classes
            columns["name"] += [known.get(number) for number in block.classes]
            columns["time"] += [round(block.at * 1000)] * len(block.keys)
            columns["identity"] += [block.identity] * len(block.keys)
            count += len(block.keys)
            if len(columns["key"]) >= GROUP:
                writer.write_table(pa.table(columns, schema=schema))
                columns = _empty(schema)
        writer.write_table(pa.table(columns, schema=schema))
    return count


def _empty(schema: Any) -> dict[str, list[Any]]:
    return {name: [] for name in schema.names}
