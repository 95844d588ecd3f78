"""What the graph of an ONNX file says that ONNX Runtime does not: labels, and makers of scores.

Read without the package onnx, and without the weights: the file is walked field by field in the
wire format of Protocol Buffers, by the numbers of onnx.proto.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOST_NODES = 1_000_000
_GRAPH, _NODE = 7, 1  # of a model; of a graph
_INPUT, _OUTPUT, _OP, _ATTRIBUTE = 1, 2, 4, 5  # of a node
_NAME, _INTS, _STRINGS = 1, 8, 9  # of an attribute
_LABELS = (b"classlabels_strings", b"classlabels_int64s", b"classlabels_ints")
_SHAPES = {"Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "Cast", "DequantizeLinear"}
_SIGMOIDS = {"Sigmoid", "HardSigmoid", "QLinearSigmoid"}
_LINEAR = {"Gemm", "MatMul", "Add", "Sub", "Conv", "FusedMatMul", "FusedGemm", "QLinearMatMul"}


@dataclass(frozen=True)
class Graph:
    """What is known of a graph: of each value, the operator that makes it and its first input.

    The second output of an operator is made by "TopK:1", the third by "TopK:2" and so on.

    - `labels`: those that its classifiers have, if they all have the same; otherwise none.

    >>> Graph({"y": ("Squeeze", "p"), "p": ("Sigmoid", "z")}).border("y")
    0.5
    """

    makers: dict[str, tuple[str, str]]
    labels: tuple[str, ...] = ()

    def maker(self, name: str) -> str:
        """The operator that makes a value, before what only changes its shape or its type."""
        maker, entry = self.makers.get(name, ("", ""))
        for _ in range(len(self.makers)):
            if maker not in _SHAPES:
                break
            maker, entry = self.makers.get(entry, ("", ""))
        return maker

    def border(self, name: str) -> float | None:
        """Where class 1 begins in a value that is one score: 0.5 after a sigmoid, 0 for a logit.

        None if it cannot be told.
        """
        maker = self.maker(name)
        if maker in _SIGMOIDS:
            return 0.5
        return 0.0 if maker in _LINEAR else None


def read_graph(file: Path) -> Graph:
    """Read the nodes of an ONNX file; nothing of a file that is something else.

    Raises:
        OSError: it cannot be read.
    """
    if not file.stat().st_size:
        return Graph({})
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as model:
        try:
            return _graph(model)
        except (IndexError, ValueError):
            return Graph({})


def _graph(model: mmap.mmap) -> Graph:
    makers: dict[str, tuple[str, str]] = {}
    labels: set[tuple[str, ...]] = set()
    for number, graph in _fields(model, range(len(model))):
        if number != _GRAPH or isinstance(graph, int):
            continue
        for place, node in _fields(model, graph):
            if place == _NODE and not isinstance(node, int) and len(makers) < MOST_NODES:
                _take(model, node, makers, labels)
    return Graph(makers, labels.pop() if len(labels) == 1 else ())


def _take(
    model: mmap.mmap,
    node: range,
    makers: dict[str, tuple[str, str]],
    labels: set[tuple[str, ...]],
) -> None:
    op, entries, leaves = "", list[str](), list[str]()
    for number, value in _fields(model, node):
        if isinstance(value, int):
            continue
        if number == _OP:
            op = _text(model, value)
        elif number == _INPUT:
            entries.append(_text(model, value))
        elif number == _OUTPUT:
            leaves.append(_text(model, value))
        elif number == _ATTRIBUTE and (found := _labels(model, value)):
            labels.add(found)
    for place, leaf in enumerate(leaves):
        makers[leaf] = (f"{op}:{place}" if place else op, entries[0] if entries else "")


def _labels(model: mmap.mmap, attribute: range) -> tuple[str, ...]:
    """The labels that an attribute of a classifier lists."""
    found: list[str] = []
    for number, value in _fields(model, attribute):
        if number == _NAME and not isinstance(value, int):
            if model[value.start : value.stop] not in _LABELS:
                return ()
        elif number == _STRINGS and not isinstance(value, int):
            found.append(_text(model, value))
        elif number == _INTS and isinstance(value, int):
            found.append(str(_signed(value)))
        elif number == _INTS and not isinstance(value, int):  # packed
            at = value.start
            while at < value.stop:
                whole, at = _varint(model, at)
                found.append(str(_signed(whole)))
    return tuple(found)


def _text(model: mmap.mmap, place: range) -> str:
    return model[place.start : place.stop].decode(errors="replace")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _fields(model: mmap.mmap, inside: range) -> Iterator[tuple[int, int | range]]:
    """Number and value of each field of a message: a whole number, or where its bytes lie.

    Raises:
        ValueError, IndexError: these bytes are no message.
    """
    at = inside.start
    while at < inside.stop:
        key, at = _varint(model, at)
        kind = key & 7
        if kind == 0:
            whole, at = _varint(model, at)
            yield key >> 3, whole
            continue
        if kind == 2:
            length, at = _varint(model, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"no field of kind {kind}")
        if at + length > inside.stop:
            raise ValueError("a field ends outside")
        yield key >> 3, range(at, at + length)
        at += length


def _varint(model: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = model[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("no whole number")
