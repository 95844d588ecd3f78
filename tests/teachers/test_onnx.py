"""What ONNX files say of themselves, and what happens where they do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from db3kd import teachers
from db3kd.config.remote import Encoding
from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import Bounds, names_of, unsure_of
from db3kd.teachers.onnx_graph import read_graph
from onnx_files import CLASSES, SIDE, labelled, linear, save, weights

IMAGES = torch.randint(0, 5, (23, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(2)) / 4
SCORES = IMAGES.flatten(1).numpy() @ weights()
EXPECTED = SCORES.argmax(1).tolist()
LAW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def asked(file: Path, images: Tensor = IMAGES, **more: Any) -> list[int]:
    more.setdefault("classes", CLASSES)
    return teachers.onnx(file, threads=1, **more).labels(images).tolist()


def drawn(rows: int, channels: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (rows, channels, SIDE, SIDE), generator=draw) / 4


# The input


@LAW
@given(size=st.integers(1, 6), rows=st.integers(1, 15), batch=st.integers(1, 9))
def test_a_fixed_batch_answers_as_any(tmp_path: Path, size: int, rows: int, batch: int) -> None:
    """Parts of the file's own size, the last filled up; a filled part changes no row."""
    fixed = linear(tmp_path / "f.onnx", shape=(size, 1, SIDE, SIDE), out=(size, CLASSES))
    assert asked(fixed, IMAGES[:rows], batch=batch) == EXPECTED[:rows]


@LAW
@given(channels=st.sampled_from([1, 3]), rows=st.integers(1, 9), seed=st.integers(0, 99))
def test_channels_last_answers_as_channels_first(
    tmp_path: Path, channels: int, rows: int, seed: int
) -> None:
    cube = weights(channels * SIDE * SIDE).reshape(channels, SIDE, SIDE, CLASSES)
    first = linear(
        tmp_path / "first.onnx",
        shape=("n", channels, SIDE, SIDE),
        matrix=cube.reshape(-1, CLASSES),
    )
    last = linear(
        tmp_path / "last.onnx",
        shape=("n", SIDE, SIDE, channels),
        matrix=cube.transpose(1, 2, 0, 3).reshape(-1, CLASSES),
    )
    images = drawn(rows, channels, seed)
    assert asked(first, images) == asked(last, images)


def test_channels_last_of_any_size_and_in_other_bounds(tmp_path: Path) -> None:
    cube = weights(3 * SIDE * SIDE).reshape(3, SIDE, SIDE, CLASSES)
    file = linear(
        tmp_path / "last.onnx",
        shape=("n", "height", "width", 3),
        matrix=cube.transpose(1, 2, 0, 3).reshape(-1, CLASSES),
    )
    images = drawn(9, 3) * 2 - 1  # what bounds say of images changes none of them
    right = (images.flatten(1).numpy() @ cube.reshape(-1, CLASSES)).argmax(1).tolist()
    assert asked(file, images, bounds=(-1.0, 1.0)) == right


def test_an_open_layout_is_channels_first_unless_it_is_said(tmp_path: Path) -> None:
    cube = weights(3 * SIDE * SIDE).reshape(3, SIDE, SIDE, CLASSES)
    images = drawn(9, 3)
    for matrix, encoding in (
        (cube, None),
        (cube.transpose(1, 2, 0, 3), Encoding(kind="float32", layout="hwc")),
    ):
        for shape in (("n", "a", "b", "c"), ("n", None, None, None)):
            file = linear(tmp_path / "open.onnx", shape=shape, matrix=matrix.reshape(-1, CLASSES))
            right = (images.flatten(1).numpy() @ cube.reshape(-1, CLASSES)).argmax(1).tolist()
            assert asked(file, images, encoding=encoding) == right


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE"])
def test_types_of_the_input(tmp_path: Path, kind: str) -> None:
    assert asked(linear(tmp_path / "k.onnx", kind=kind)) == EXPECTED


def test_images_without_an_axis_of_channels(tmp_path: Path) -> None:
    assert asked(linear(tmp_path / "k.onnx", shape=("n", SIDE, SIDE))) == EXPECTED


@pytest.mark.parametrize("shape", [("n", 1, SIDE, SIDE), ("n", SIDE * SIDE)])
def test_eight_bits_are_0_to_255_and_searches_know_it(tmp_path: Path, shape: Any) -> None:
    file = linear(tmp_path / "k.onnx", kind="UINT8", shape=shape)
    levels = torch.randint(0, 256, IMAGES.shape, generator=torch.Generator().manual_seed(0))
    right = (levels.flatten(1).numpy() @ weights()).argmax(1).tolist()
    teacher = teachers.onnx(file, classes=CLASSES)
    assert teacher.labels(levels / 255).tolist() == right
    assert isinstance(teacher.bounds, Bounds)
    assert teacher.bounds.level == pytest.approx(1 / 255)
    assert asked(file, levels / 255 * 2 - 1, bounds=(-1.0, 1.0)) == right


@pytest.mark.parametrize("kind", ["INT8", "INT64", "BOOL"])
def test_other_types_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"float, float16, double or uint8 is expected"):
        asked(linear(tmp_path / "k.onnx", kind=kind))


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    two = {"a": ("FLOAT", ["n", 3]), "b": ("FLOAT", ["n", 3])}
    file = save(
        tmp_path / "k.onnx", [("Add", ["a", "b"], ["y"], {})], two, {"y": ("FLOAT", ["n", 3])}, {}
    )
    with pytest.raises(InputError, match=r"2 inputs \(a \(\?, 3\), b \(\?, 3\)\)"):
        asked(file)


@pytest.mark.parametrize(
    ("shape", "images", "advice"),
    [
        (("n", 1, SIDE, SIDE), (2, 1, 6, 5), r"size = \[4, 4\]$"),
        (("n", SIDE, SIDE, 3), (2, 1, 4, 4), r'channels = "rgb" or "bgr"$'),
        (("n", 1, SIDE, SIDE), (2, 3, 8, 4), r'size = \[4, 4\], channels = "grey"$'),
    ],
)
def test_images_that_do_not_fit(tmp_path: Path, shape: Any, images: Any, advice: str) -> None:
    channels = 3 if 3 in shape else 1
    file = linear(tmp_path / "k.onnx", shape=shape, matrix=weights(channels * SIDE * SIDE))
    with pytest.raises(TeacherError, match=advice) as refused:
        asked(file, torch.zeros(images))
    assert str(images) in str(refused.value)


def test_an_encoding_makes_them_fit(tmp_path: Path) -> None:
    file = linear(tmp_path / "k.onnx", shape=("n", SIDE, SIDE, 3), matrix=weights(3 * SIDE * SIDE))
    encoding = Encoding(kind="float32", size=(SIDE, SIDE), channels="rgb", mean=(0.5,), std=(0.5,))
    grey = IMAGES.permute(0, 2, 3, 1).expand(-1, -1, -1, 3) * 2 - 1
    right = (grey.flatten(1).numpy() @ weights(3 * SIDE * SIDE)).argmax(1).tolist()
    assert asked(file, encoding=encoding) == right
    large = IMAGES.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert len(asked(file, large, encoding=encoding)) == 23


@pytest.mark.parametrize(
    ("kind", "encoding", "says"),
    [
        ("UINT8", Encoding(kind="float32"), 'set it to "uint8"'),
        ("FLOAT", Encoding(), "takes no files"),
        ("FLOAT", Encoding(kind="float32", layout="hwc"), "channels first"),
        ("FLOAT", Encoding(kind="float32", layout="flat"), "remove the layout"),
    ],
)
def test_an_encoding_that_contradicts_the_file(
    tmp_path: Path, kind: str, encoding: Encoding, says: str
) -> None:
    file = linear(tmp_path / "k.onnx", kind=kind, shape=("n", 1, SIDE, 5), matrix=weights(20))
    with pytest.raises(InputError, match=says):
        asked(file, encoding=encoding)


# The output


@pytest.mark.parametrize("scale", [1.0, -1.0])
@pytest.mark.parametrize(
    ("after", "shape"),
    [
        ([], ("n", 1)),
        ([("Squeeze", ["y", "axis"], ["z"], {})], ("n",)),
        ([("Sigmoid", ["y"], ["z"], {})], ("n", 1)),
        ([("Sigmoid", ["y"], ["s"], {}), ("Squeeze", ["s", "axis"], ["z"], {})], ("n",)),
    ],
)
def test_one_score(tmp_path: Path, after: Any, shape: Any, scale: float) -> None:
    one = weights(classes=1) * scale
    file = linear(
        tmp_path / "k.onnx",
        matrix=one,
        after=after,
        leaves={"z" if after else "y": ("FLOAT", shape)},
        constants={"axis": np.array([1])},
    )
    right = (IMAGES.flatten(1).numpy() @ one > 0)[:, 0].astype(int).tolist()
    assert set(right) == {0, 1}
    assert asked(file, classes=2) == right
    assert asked(file, classes=None) == right


def test_one_score_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    file = linear(
        tmp_path / "k.onnx",
        matrix=weights(classes=1),
        after=[("Div", ["y", "k"], ["z"], {})],
        leaves={"z": ("FLOAT", ("n", 1))},
        constants={"k": np.float32(2)},
    )
    with pytest.raises(TeacherError, match=r"0\.5.*or a logit.*cannot be told"):
        asked(file, classes=2)


@pytest.mark.parametrize("axes", [(CLASSES, 1, 1), (1, CLASSES), (1, 1, CLASSES)])
def test_scores_with_axes_of_one(tmp_path: Path, axes: tuple[int, ...]) -> None:
    file = linear(
        tmp_path / "k.onnx",
        after=[("Reshape", ["y", "s"], ["z"], {})],
        leaves={"z": ("FLOAT", ("n", *axes))},
        constants={"s": np.array([-1, *axes])},
    )
    assert asked(file) == asked(file, classes=None) == EXPECTED


@pytest.mark.parametrize("keep", [0, 1])
def test_whole_numbers(tmp_path: Path, keep: int) -> None:
    file = linear(
        tmp_path / "k.onnx",
        after=[("ArgMax", ["y"], ["z"], {"axis": 1, "keepdims": keep})],
        leaves={"z": ("INT64", ("n", 1)[: 1 + keep])},
    )
    assert asked(file) == EXPECTED
    with pytest.raises(InputError, match="nobody says how many classes"):
        asked(file, classes=None)


def test_whole_numbers_as_fractions(tmp_path: Path) -> None:
    """What ArgMax made is an answer, whatever type it has got since."""
    file = linear(
        tmp_path / "k.onnx",
        after=[
            ("ArgMax", ["y"], ["a"], {"axis": 1, "keepdims": 1}),
            ("Cast", ["a"], ["z"], {"to": 1}),
        ],
        leaves={"z": ("FLOAT", ("n", 1))},
    )
    assert asked(file) == EXPECTED


@pytest.mark.parametrize("best", [1, 2, CLASSES])
def test_of_the_best_classes_the_first_counts(tmp_path: Path, best: int) -> None:
    both: dict[str, Any] = {"v": ("FLOAT", ("n", best)), "i": ("INT64", ("n", best))}
    file = tmp_path / "k.onnx"
    made: Any = {"after": [("TopK", ["y", "k"], ["v", "i"], {})], "constants": {"k": [best]}}
    linear(file, leaves=both, **made)
    assert asked(file) == asked(file, output="i") == EXPECTED
    with pytest.raises(InputError, match=r"output v \(.*best scores in their order"):
        asked(file, output="v")
    linear(file, leaves={"i": both["i"]}, **made)
    assert asked(file) == EXPECTED
    linear(file, leaves={"v": both["v"]}, **made)
    with pytest.raises(InputError, match="give a file with all scores"):
        asked(file)


def several(path: Path, width: int = 7) -> Path:
    return linear(
        path,
        after=[("MatMul", ["f", "V"], ["v"], {}), ("Reshape", ["f", "s"], ["m"], {})],
        leaves={
            "v": ("FLOAT", ("n", width)),
            "m": ("FLOAT", ("n", 1, SIDE, SIDE)),
            "y": ("FLOAT", ("n", CLASSES)),
        },
        constants={"V": weights(classes=width, seed=1), "s": np.array([-1, 1, SIDE, SIDE])},
    )


def test_of_several_outputs_the_scores_of_that_many_classes(tmp_path: Path) -> None:
    file = several(tmp_path / "k.onnx")
    assert asked(file) == asked(file, output="y", classes=None) == EXPECTED
    with pytest.raises(
        InputError, match=r"v \(\?, 7\), m \(\?, 1, 4, 4\), y \(\?, 3\); say by out"
    ):
        asked(file, classes=None)
    with pytest.raises(InputError, match="has no output 'x'"):
        asked(file, output="x")


def test_two_outputs_of_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="say by output"):
        asked(several(tmp_path / "k.onnx", CLASSES))


# The classes

PETS = ("ant", "bee", "cat")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("output", [None, "probabilities"])
def test_labels_of_scikit_learns_converter(
    tmp_path: Path, zipped: bool, output: str | None
) -> None:
    file = labelled(tmp_path / "k.onnx", PETS, zipped=zipped)
    if output is not None:
        output = "maps" if zipped else "scores"
    teacher = teachers.onnx(file, classes=None, output=output)
    assert teacher.labels(IMAGES).tolist() == EXPECTED
    assert names_of(teacher) == PETS
    more = ("cow", "cat", "bee", "ant")  # all its labels are here, so this order counts
    turned = [more.index(PETS[k]) for k in EXPECTED]
    assert asked(file, classes=more, output=output) == turned
    assert asked(file, classes=("x", "y", "z"), output=output) == EXPECTED
    with pytest.raises(InputError, match=r"says 4, but the model has 3 \('ant', 'bee', 'cat'\)"):
        asked(file, classes=("a", "b", "c", "d"), output=output)


def test_whole_numbers_that_are_labels(tmp_path: Path) -> None:
    file = labelled(tmp_path / "k.onnx", [3, 5, 8])
    teacher = teachers.onnx(file, classes=None)
    assert teacher.labels(IMAGES).tolist() == EXPECTED
    assert names_of(teacher) == ("3", "5", "8")
    assert asked(file, classes=PETS) == EXPECTED
    for below in ([-1, 0, 1], [-3, 5, 2]):
        signed = teachers.onnx(labelled(tmp_path / "k.onnx", below), unknown="drop")
        assert signed.labels(IMAGES).tolist() == EXPECTED
        assert names_of(signed) == tuple(map(str, below))
    counted = teachers.onnx(labelled(tmp_path / "k.onnx", [0, 1, 2]), classes=None)
    assert (counted.classes, names_of(counted)) == (3, None)
    assert counted.labels(IMAGES).tolist() == EXPECTED


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'ant', 1: 'bee', 2: 'cat'}"),
        ("names", '{"0": "ant", "2": "cat", "1": "bee"}'),
        ("classes", '["ant", "bee", "cat"]'),
        ("labels", "('ant', 'bee', 'cat',)"),
        ("character", "ant\nbee\ncat"),
    ],
)
def test_names_in_the_metadata(tmp_path: Path, key: str, text: str) -> None:
    teacher = teachers.onnx(linear(tmp_path / "k.onnx", metadata={key: text}), classes=None)
    assert (teacher.classes, names_of(teacher)) == (3, PETS)


@pytest.mark.parametrize(
    "text",
    [
        "{0: 'ant', 1: 'bee'}",
        "{0: 'ant', 1: 'bee', 3: 'cat'}",
        "['ant', 'ant', 'cat']",
        "__import__('os')",
        "[" * 5000,
        "{}",
        "ant",
        "[1, 2, 3]",
    ],
)
def test_metadata_that_do_not_name_the_classes(tmp_path: Path, text: str) -> None:
    teacher = teachers.onnx(linear(tmp_path / "k.onnx", metadata={"names": text}), classes=None)
    assert (teacher.classes, names_of(teacher)) == (3, None)


def test_an_unknown_label_is_dropped_if_that_is_said(tmp_path: Path) -> None:
    file = linear(
        tmp_path / "k.onnx",
        after=[
            ("ArgMax", ["y"], ["i"], {"axis": 1, "keepdims": 0}),
            ("LabelEncoder", ["i"], ["z"], CODE),
        ],
        leaves={"z": ("STRING", ("n",))},
    )
    with pytest.raises(TeacherError, match="'cat', which is none of the 2 names; add it"):
        asked(file, classes=PETS[:2])
    teacher = teachers.onnx(file, classes=PETS[:2], unknown="drop")
    assert teacher.labels(IMAGES).tolist() == EXPECTED
    assert (teacher.classes, unsure_of(teacher), names_of(teacher)) == (3, 2, PETS[:2])


CODE = {"domain": "ai.onnx.ml", "keys_int64s": [0, 1, 2], "values_strings": list(PETS)}


# The reader of graphs


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200), cut=st.integers(0, 400))
def test_whatever_the_bytes_are_a_graph_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cut: int
) -> None:
    file = tmp_path_factory.mktemp("graph") / "k.onnx"
    file.write_bytes(content)
    read_graph(file)
    whole = linear(file).read_bytes()
    file.write_bytes(whole[: len(whole) - cut] + content)
    read_graph(file)
