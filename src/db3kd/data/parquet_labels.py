"""Labels in parquet files: whole numbers, names or booleans."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from db3kd.data.columns import OF_LABELS, Classed, column_of, of_fractions, of_names, of_numbers
from db3kd.errors import InputError, described, hint, plain


def describe(file: Path) -> tuple[Any, Any]:
    """Return the metadata and the Arrow schema of a parquet file."""
    need_pyarrow()
    import pyarrow.parquet as pq

    if file.exists() and not file.is_file():
        raise InputError(f"{file} is not a file; give one in parquet format")
    with reading(f"{file} cannot be read as a parquet file"), pq.ParquetFile(file) as opened:
        return opened.metadata, opened.schema_arrow


def need_pyarrow() -> None:
    """Refuse parquet files where nothing can read them.

    Raises:
        InputError: the extra `parquet` is missing.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError(f"parquet files need the extra: {hint('parquet')}") from None


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever the library raises, if bytes are damaged, into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {described(error)}") from None


def labels_in(files: Sequence[Path], wanted: str | None) -> tuple[Tensor | None, tuple[str, ...]]:
    """All labels in the files of one split, and the names of the classes; None without a column.

    Names are those in the metadata of Hugging Face, or else what the labels are themselves.

    Raises:
        InputError: a file cannot be read, or has labels that are no classes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[Any] = []
    names: tuple[str, ...] = ()
    for file in files:
        _, schema = describe(file)
        column = column_of(schema.names, wanted, OF_LABELS, "label", str(file))
        if column is None:
            if parts:
                raise InputError(f"{file} has no column of labels, but {files[0]} has")
            continue
        if file != files[len(parts)]:
            raise InputError(f"{files[0]} has no column of labels, but {file} has")
        names = _class_names(schema, column) if not parts else names
        with (
            reading(f"column {column!r} of {file} cannot be read"),
            pq.ParquetFile(file) as opened,
        ):
            part = opened.read(columns=[column]).column(0)
            if pa.types.is_dictionary(part.type):
                part = part.cast(part.type.value_type)
            if part.null_count:
                raise InputError(
                    f"column {column!r} of {file} has empty rows; give every image a label"
                )
            parts.append(part)
    if not parts:
        return None, ()
    kinds = {str(part.type) for part in parts if len(part)}
    if len({_family(part.type) for part in parts if len(part)}) > 1:
        raise InputError(
            f"the labels in {files[0].parent} are of several types ({', '.join(sorted(kinds))});"
            " give one type"
        )
    return _classed(parts, names, f"{files[0]}" if len(files) == 1 else f"{files[0].parent}")


def _family(kind: Any) -> str:
    """What labels of a type are: "number", "fraction", "truth" or "name"; "" if they are none."""
    import pyarrow.types as t

    if t.is_boolean(kind):
        return "truth"
    if t.is_integer(kind):
        return "number"
    if t.is_floating(kind):
        return "fraction"
    return "name" if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind) else ""


def _classed(parts: Sequence[Any], names: tuple[str, ...], where: str) -> Classed:
    kind = next((part.type for part in parts if len(part)), parts[0].type)
    family = _family(kind)
    if not family:
        raise InputError(
            f"the labels in {where} are {plain(kind, 60)}; give whole numbers, names or booleans"
        )
    if family == "name":
        return of_names([label for part in parts for label in part.to_pylist()], where)
    labels = np.concatenate([part.to_numpy() for part in parts])
    if family == "truth":
        return torch.from_numpy(labels.astype(np.int64)), ("False", "True")
    if family == "fraction":
        return of_fractions(labels, names, where)
    return of_numbers(labels, names, where)


def _class_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the class names in the Hugging Face metadata; none if it has none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
        return tuple(map(str, names)) if isinstance(names, list) else ()
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
