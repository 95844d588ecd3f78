"""Tensors of the Open Inference Protocol: read with distrust, written plainly."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db3kd.config.remote import Names
from db3kd.teachers.remote.protocols.reply import (
    NO_NUMBERS,
    NO_TEXT,
    Answer,
    Failed,
    answer,
    name,
    one_line,
    placed,
)

RANK = 8  # axes of a tensor, at most
WHOLE = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
DTYPES = {
    **{kind: f"<{kind[0].lower()}{int(kind.lstrip('UINT')) // 8}" for kind in WHOLE},
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""Datatypes that are numbers, as numpy calls them; BF16 is made of the upper half of FP32."""


CLASSIFIED = re.compile(
    r"(-?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,4})?|inf|nan)):([0-9]{1,9})(?::(.*))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Entry:
    """An input of a model: -1 in its shape is any number."""

    name: str
    shape: tuple[int, ...]
    datatype: str


def entry(value: object) -> Entry | None:
    """An entry of metadata, if it has a name, a shape and a datatype.

    >>> entry({"name": "x", "shape": [-1], "datatype": "BYTES"})
    Entry(name='x', shape=(-1,), datatype='BYTES')
    """
    match value:
        case {"name": str(name), "shape": list(shape), "datatype": str(datatype)}:
            if len(shape) <= RANK and all(type(size) is int and size >= -1 for size in shape):
                return Entry(name, tuple(shape), datatype)
    return None


def packed(files: Sequence[bytes]) -> bytes:
    r"""BYTES as the binary extension has them: four bytes of length, lowest first, and the bytes.

    >>> packed([b"ab", b""])
    b'\x02\x00\x00\x00ab\x00\x00\x00\x00'
    """
    return b"".join(len(file).to_bytes(4, "little") + file for file in files)


def chosen(reply: object, name: str | None) -> tuple[dict[str, Any], int] | None:
    """The output of a name, or the only one; and where its bytes start in the binary part.

    >>> chosen({"outputs": [{"name": "a"}, {"name": "b"}]}, "b")
    ({'name': 'b'}, 0)
    >>> chosen({"outputs": [{"name": "a"}, {"name": "b"}]}, None)
    """
    outputs = reply.get("outputs") if isinstance(reply, dict) else None
    if not isinstance(outputs, list) or (name is None and len(outputs) != 1):
        return None
    start = 0
    for output in outputs:
        if not isinstance(output, dict):
            return None
        if name is None or output.get("name") == name:
            return output, start
        start += _size(output) or 0
    return None


def read(
    output: tuple[dict[str, Any], int], blob: bytes, asked: int, names: Sequence[str]
) -> list[Answer] | None:
    """One answer for each image, or None if the output is not a tensor of that many answers.

    >>> scores = {"shape": [2, 2], "datatype": "FP32", "data": [0.1, 0.9, 0.8, 0.2]}
    >>> read((scores, 0), b"", 2, ())
    [1, 0]
    """
    entry, start = output
    datatype, width = entry.get("datatype"), _width(entry.get("shape"), asked)
    if not isinstance(datatype, str) or width is None:
        return None
    size = _size(entry)
    data: list[object] | NDArray[Any] | None
    if size is None:
        data = _flat(entry.get("data"), asked * width)
    else:
        data = _of_bytes(blob[start : start + size], size, datatype, asked * width)
    if data is None:
        return None
    if width == 1:
        values = data if isinstance(data, list) else data.tolist()
        return [_one(value, datatype) for value in values]
    if not datatype.startswith(("FP", "BF")):
        return [_several(datatype, width)] * asked
    if isinstance(data, list):
        rows = [data[place : place + width] for place in range(0, len(data), width)]
        return [answer(row, names) for row in rows]
    return _best(data.reshape(asked, width), names)


def classified(said: Answer, names: Names) -> Answer:
    """The class in Triton's "score:index:label": the label if it is a name, else the index.

    Where names are learned, it is the label if there is one.

    >>> [classified(said, Names(names=("cat", "dog"))) for said in ("0.9:0:dog", "0.9:0:Hund")]
    ['dog', 0]
    >>> classified("0.9:3", Names()), classified("dog", Names()).reason
    (3, "the teacher answered 'dog', and score:index:label is expected")
    """
    if not isinstance(said, str):
        return said
    found = CLASSIFIED.fullmatch(said)
    if found is None:
        shown = repr(one_line(said))
        return Failed(f"the teacher answered {shown}, and score:index:label is expected", False)
    score, index, label = found.groups()
    if "nan" in score.lower():
        return NO_NUMBERS
    fold = str.casefold if names.ignore_case else str
    known = {fold(name) for name in (*names.names, *names.synonyms)}
    named = bool(label) and (names.unknown == "extend" or fold(label) in known)
    return label if named else int(index)


def _of_bytes(
    blob: bytes, size: int, datatype: str, count: int
) -> list[object] | NDArray[Any] | None:
    """The values of a tensor that was sent as bytes; None if there are not exactly `count`."""
    if len(blob) != size:
        return None
    return _unpacked(blob, count) if datatype == "BYTES" else _numbers(blob, datatype, count)


def _best(rows: NDArray[Any], names: Sequence[str]) -> list[Answer]:
    """The class with the highest score of each row: what `answer` says of a list, but at once."""
    best, whole = rows.argmax(1).tolist(), (~np.isnan(rows).any(1)).tolist()
    return [
        placed(place, rows.shape[1], names) if fine else NO_NUMBERS
        for place, fine in zip(best, whole, strict=True)
    ]


def _numbers(blob: bytes, datatype: str, count: int) -> NDArray[Any] | None:
    if datatype == "BF16":
        if len(blob) != 2 * count:
            return None
        return (np.frombuffer(blob, "<u2").astype(np.uint32) << 16).view(np.float32)
    kind = DTYPES.get(datatype)
    if kind is None or len(blob) != count * np.dtype(kind).itemsize:
        return None
    return np.frombuffer(blob, kind)


def _unpacked(blob: bytes, count: int) -> list[object] | None:
    """Exactly `count` texts, or None."""
    texts: list[object] = []
    at = 0
    while at + 4 <= len(blob) and len(texts) < count:
        end = at + 4 + int.from_bytes(blob[at : at + 4], "little")
        if end > len(blob):
            return None
        texts.append(blob[at + 4 : end])
        at = end
    return texts if at == len(blob) and len(texts) == count else None


def _one(value: object, datatype: str) -> Answer:
    """What the only value of an image says, if it is of its datatype."""
    if isinstance(value, bytes):
        try:
            return name(value.decode())
        except UnicodeDecodeError:
            return NO_TEXT
    number = datatype in DTYPES or datatype == "BF16"
    fits = (
        isinstance(value, str) if datatype == "BYTES" else number and isinstance(value, int | float)
    )
    return answer(value if fits else False)  # which says that this is not an answer


def _several(datatype: str, width: int) -> Failed:
    values = f"{width} values of {one_line(datatype)}"
    return Failed(f"the teacher answered {values} for an image, and one is expected", retry=False)


def _size(output: dict[str, Any]) -> int | None:
    """The number of bytes that an output says it has in the binary part."""
    parameters = output.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    return size if type(size) is int and size >= 0 else None


def _width(shape: object, asked: int) -> int | None:
    """Values for each image, by a shape [asked, ...] with one more axis longer than 1 at most."""
    if not isinstance(shape, list) or not 0 < len(shape) <= RANK or shape[0] != asked:
        return None
    if not all(type(size) is int and size > 0 for size in shape):
        return None
    width = math.prod(shape[1:])
    return width if width in shape[1:] or width == 1 else None


def _flat(data: object, count: int) -> list[object] | None:
    """`count` values, of a list or of lists in it."""
    for _ in range(RANK):
        if not isinstance(data, list) or len(data) > count:
            return None
        if len(data) == count and not any(isinstance(value, list) for value in data):
            return data
        if not all(isinstance(value, list) for value in data):
            return None
        data = [value for part in data for value in part]
    return None
