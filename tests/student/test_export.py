"""Files of other programs answer as the student does, or are not written."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from db3kd.errors import InputError
from db3kd.student import Student, StudentCard
from db3kd.student.export import export_onnx, export_torch
from db3kd.student.networks import build
from db3kd.teachers import onnx as onnx_teacher

onnxruntime = pytest.importorskip("onnxruntime")


def student(name: str, shape: tuple[int, int, int], width: float = 1.0) -> Student:
    card = StudentCard(network=name, width=width, shape=shape, classes=("cat", "dog", "späte\n"))
    return Student(build(name, shape, 3, width, seed=0), card).eval()


def images(shape: tuple[int, int, int], count: int = 7) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8)


NETWORKS = [
    ("small", (1, 8, 8), 1.0),
    ("lenet5", (1, 20, 17), 0.5),
    ("alexnet", (3, 32, 32), 0.05),
    ("alexnet", (3, 113, 150), 0.02),  # a pool of uneven parts
    ("resnet18", (3, 16, 24), 0.1),
]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(("name", "shape", "width"), NETWORKS)
def test_an_onnx_file_gives_the_students_scores(
    name: str, shape: tuple[int, int, int], width: float, dtype: Any, tmp_path: Path
) -> None:
    asked, file = student(name, shape, width), tmp_path / "student.onnx"
    found = export_onnx(asked, file, dtype=dtype)
    assert found.images == 100
    assert found.labels == 1
    assert found.difference < 1e-5
    session = onnxruntime.InferenceSession(str(file))
    (entry,), (leave,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, leave.name) == ("images", "scores")
    assert entry.type == {"float32": "tensor(float)", "uint8": "tensor(uint8)"}[dtype]
    assert isinstance(entry.shape[0], str)
    for count in (1, 7):
        pixels = images(shape, count)
        shown = pixels if dtype == "uint8" else pixels.float() / 255
        (scores,) = session.run(None, {"images": shown.numpy()})
        with torch.no_grad():
            expected = asked(pixels.float() / 255)
        assert np.allclose(scores, expected.numpy(), atol=1e-5)
    assert list(tmp_path.iterdir()) == [file]


def test_an_onnx_file_says_what_it_is(tmp_path: Path) -> None:
    asked, file = student("small", (1, 8, 8)), tmp_path / "student.onnx"
    export_onnx(asked, file)
    said = onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map
    assert tuple(json.loads(said["names"])) == asked.classes
    assert json.loads(said["db3kd"])["shape"] == [1, 8, 8]
    pytest.importorskip("onnx").checker.check_model(str(file))
    first = file.read_bytes()
    export_onnx(asked, file)
    assert file.read_bytes() == first


def test_an_onnx_file_is_a_teacher(tmp_path: Path) -> None:
    asked, file = student("small", (1, 8, 8)), tmp_path / "student.onnx"
    export_onnx(asked, file)
    teacher = onnx_teacher(file, classes=3)
    shown = images((1, 8, 8), 50).float() / 255
    assert [asked.classes[k] for k in teacher.labels(shown)] == asked.predict(shown)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_program_of_torch_export_gives_the_students_scores(dtype: Any, tmp_path: Path) -> None:
    asked, file = student("small", (1, 8, 8)), tmp_path / "student.pt2"
    assert export_torch(asked, file, dtype=dtype).difference < 1e-5
    names = {"names.json": ""}
    program = torch.export.load(file, extra_files=names).module()
    for count in (1, 7):
        pixels = images((1, 8, 8), count)
        shown = pixels if dtype == "uint8" else pixels.float() / 255
        assert torch.allclose(program(shown), asked(pixels.float() / 255), atol=1e-6)
    assert json.loads(names["names.json"]) == list(asked.classes)


def test_the_users_images_are_compared_too(tmp_path: Path) -> None:
    asked, mine = student("small", (1, 8, 8)), images((1, 8, 8), 30)
    assert export_onnx(asked, tmp_path / "a.onnx", images=mine).images == 130
    many = images((1, 8, 8), 300)
    assert export_onnx(asked, tmp_path / "a.onnx", images=many, dtype="uint8").images == 200


def test_the_student_stays_as_it_was(tmp_path: Path) -> None:
    asked = student("alexnet", (3, 113, 150), 0.02).train()
    before = repr(asked)
    export_onnx(asked, tmp_path / "a.onnx")
    assert asked.training
    assert repr(asked) == before


class Own(nn.Module):
    """A network that says something else each time it is looked at in another way."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.last = kind, nn.Linear(64, 3)

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(shown.flatten(1))
        if self.kind == "brightness" and not float(shown.sum()) > 500:
            return -scores  # the trace sees one way only
        if self.kind == "not a number":
            return scores.log()
        if self.kind == "unknown to ONNX":
            return scores + nn.functional.adaptive_avg_pool2d(shown, 7).sum()
        return scores


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("brightness", "does not give the student's scores: they differ by up to .* nothing was"),
        ("not a number", "does not give the student's scores: .* no numbers"),
        ("unknown to ONNX", "cannot be made into an ONNX file .*torch.export may be possible"),
    ],
)
def test_no_file_is_left_that_answers_otherwise(
    kind: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    asked = Student(Own(kind), StudentCard(shape=(1, 8, 8), classes=3))
    with pytest.raises(InputError, match=said) as caught:
        export_onnx(asked, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")


def test_what_torch_cannot_export_is_said(tmp_path: Path) -> None:
    asked = Student(Own("brightness"), StudentCard(shape=(1, 8, 8), classes=3))
    with pytest.raises(InputError, match="cannot be made into a program of torch"):
        export_torch(asked, tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_an_extra_that_is_missing_is_said(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"\[onnx\]'"):
        export_onnx(student("small", (1, 8, 8)), tmp_path / "a.onnx")
