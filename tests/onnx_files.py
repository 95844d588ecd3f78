"""Small ONNX files, made by `onnx.helper`: a linear classifier in many disguises."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIDE, CLASSES = 4, 3
Axes = Sequence[int | str | None]


def weights(pixels: int = SIDE * SIDE, classes: int = CLASSES, seed: int = 0) -> np.ndarray:
    """Whole weights, so that sums of a few multiples of 1/4 are exact and no scores are equal."""
    whole = np.random.default_rng(seed).integers(-4, 5, (pixels, classes))
    return (whole + np.arange(classes) / 16).astype("f4")


def save(
    path: Path,
    nodes: Iterable[tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]],
    entries: Mapping[str, tuple[str, Axes]],
    leaves: Mapping[str, tuple[str, Axes] | str],
    constants: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Save a graph. A leaf without axes is a sequence of maps from its type to scores."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper

    def info(name: str, kind: str, shape: Axes) -> Any:
        return helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)

    def maps(name: str, key: str) -> Any:
        inner = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
        key = getattr(onnx.TensorProto, key)
        kind = helper.make_sequence_type_proto(helper.make_map_type_proto(key, inner))
        return helper.make_value_info(name, kind)

    graph = helper.make_graph(
        [
            helper.make_node(op, ins, outs, domain=more.pop("domain", None), **more)
            for op, ins, outs, more in ((op, i, o, dict(more)) for op, i, o, more in nodes)
        ],
        "g",
        [info(name, *rest) for name, rest in entries.items()],
        [
            maps(name, rest) if isinstance(rest, str) else info(name, *rest)
            for name, rest in leaves.items()
        ],
        [onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=9)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, str(path))
    return path


def linear(
    path: Path,
    *,
    kind: str = "FLOAT",
    shape: Axes = ("n", 1, SIDE, SIDE),
    out: Axes = ("n", CLASSES),
    matrix: np.ndarray | None = None,
    after: Iterable[tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]] = (),
    leaves: Mapping[str, tuple[str, Axes] | str] | None = None,
    constants: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Flatten, cast, and multiply to "y"; `after` are further nodes, `leaves` other outputs."""
    matrix = weights() if matrix is None else matrix
    nodes: list[Any] = [
        ("Cast", ["x"], ["c"], {"to": 1}),
        ("Flatten", ["c"], ["f"], {}),
        ("MatMul", ["f", "W"], ["y"], {}),
        *after,
    ]
    leaves = {"y": ("FLOAT", out)} if leaves is None else leaves
    return save(
        path, nodes, {"x": (kind, shape)}, leaves, {"W": matrix, **(constants or {})}, metadata
    )


def labelled(path: Path, labels: Sequence[str | int], *, zipped: bool = True) -> Path:
    """As scikit-learn's converter writes it: labels, and maps (or a tensor) of probabilities."""
    texts = isinstance(labels[0], str)
    listed = {"classlabels_strings" if texts else "classlabels_ints": list(labels)}
    zips = {"classlabels_strings" if texts else "classlabels_int64s": list(labels)}
    matrix = weights(classes=len(labels))
    nodes: list[Any] = [
        ("Flatten", ["x"], ["f"], {}),
        (
            "LinearClassifier",
            ["f"],
            ["label", "scores"],
            {
                "domain": "ai.onnx.ml",
                "coefficients": matrix.T.ravel().tolist(),
                "intercepts": [0.0] * len(labels),
                "post_transform": "SOFTMAX",
                **listed,
            },
        ),
    ]
    leaves: dict[str, Any] = {"label": ("STRING" if texts else "INT64", ["n"])}
    if zipped:
        nodes.append(("ZipMap", ["scores"], ["maps"], {"domain": "ai.onnx.ml", **zips}))
        leaves["maps"] = "STRING" if texts else "INT64"
    else:
        leaves["scores"] = ("FLOAT", ["n", len(labels)])
    return save(path, nodes, {"x": ("FLOAT", ["n", 1, SIDE, SIDE])}, leaves, {})
