"""The teacher of a recipe: its classes, its bounds, and what stays the same of it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from db3kd.config.reading import read_recipe
from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
from db3kd.config.remote import Encoding, Names, Remote
from db3kd.config.settings import Training
from db3kd.data import DataSet, TensorImages, load
from db3kd.errors import InputError, RecipeError, TeacherError
from db3kd.job.adapters import make_teacher, teacher_network
from db3kd.job.teacher import fingerprint
from db3kd.progress import silent
from db3kd.teachers.base import met_of, names_of, unsure_of
from onnx_files import CLASSES, SIDE, labelled, linear, weights

FACTORIES = """
import torch

SEEN = []

def ask():
    def answers(images):
        SEEN.append(images.clone())
        return (images.flatten(1).mean(1) > 0.5).long()
    return answers

def words():
    return lambda images: ["bee" if image.mean() > 0.5 else "ant" for image in images]

def five():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5))

def of_nothing():
    return torch.nn.Linear(3, 5)
"""

IMAGES = torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
DATA = DataSet(TensorImages(IMAGES), torch.tensor([0, 1, 0, 1, 0, 1]), ("ant", "bee"))
UNLABELLED = DataSet(TensorImages(IMAGES[:0]), torch.zeros(0, dtype=torch.int64), ())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_factories", raising=False)
    Path("own_factories.py").write_text(FACTORIES)


def recipe(kind: Any, *, factory: str | None = None, **more: Any) -> Recipe:
    factory = None if factory is None else f"own_factories:{factory}"
    return Recipe(
        run="runs/a",
        data=DataConfig(train="d"),
        teacher=TeacherConfig(kind=kind, factory=factory, **more),
        student=StudentConfig(network="small"),
    )


# Classes


def test_classes_are_those_of_the_model_or_else_of_the_images() -> None:
    linear(Path("t.onnx"))
    assert make_teacher(recipe("onnx", file="t.onnx"), DATA).classes == CLASSES
    assert make_teacher(recipe("torch", factory="five"), DATA).classes == 5
    assert make_teacher(recipe("torch", factory="of_nothing"), DATA).classes == 2  # it fails
    assert make_teacher(recipe("function", factory="ask"), DATA).classes == 2
    numbers = DataSet(DATA.images, DATA.labels, ("2", "6"))
    assert make_teacher(recipe("function", factory="ask"), numbers).classes == 7
    labelled(Path("t.onnx"), ["x", "y", "z"])
    assert names_of(make_teacher(recipe("onnx", file="t.onnx"), DATA)) == ("x", "y", "z")


@pytest.mark.parametrize("classes", [("ant", "bee", "cat"), "names.txt"])
def test_classes_are_named_in_a_list_or_a_file(classes: Any) -> None:
    Path("names.txt").write_text("ant\nbee\ncat\n")
    linear(Path("t.onnx"))
    wanted = recipe("onnx", file="t.onnx", classes=classes)
    assert names_of(make_teacher(wanted, DATA)) == ("ant", "bee", "cat")
    wanted = recipe("function", factory="words", classes=classes)
    right = (IMAGES.flatten(1).mean(1) > 0.5).long()
    assert torch.equal(make_teacher(wanted, DATA).labels(IMAGES), right)


def test_names_are_looked_up_in_those_of_the_images_where_nobody_says_others() -> None:
    right = (IMAGES.flatten(1).mean(1) > 0.5).long()
    for factory in ("words", "ask"):
        made = make_teacher(recipe("function", factory=factory), DATA)
        assert torch.equal(made.labels(IMAGES), right)
    cows = DataSet(DATA.images, DATA.labels, ("cow", "bee"))
    with pytest.raises(TeacherError, match="'ant', which is none of the 2 names"):
        make_teacher(recipe("function", factory="words"), cows).labels(IMAGES)


@pytest.mark.parametrize(
    ("kind", "more"),
    [("onnx", {"file": "t.onnx"}), ("torch", {"factory": "five"})],
)
@pytest.mark.parametrize("classes", [7, tuple("abcdefg")])
def test_classes_that_the_model_contradicts(kind: Any, more: Any, classes: Any) -> None:
    linear(Path("t.onnx"))
    with pytest.raises(InputError, match=r"says 7, but the model has [35]; correct it"):
        make_teacher(recipe(kind, classes=classes, **more), DATA)


@pytest.mark.parametrize("data", [None, UNLABELLED])
def test_nobody_says_how_many_classes(data: DataSet | None) -> None:
    """Only what may answer by names is asked for them."""
    highest = ("ArgMax", ["y"], ["z"], {"axis": 1, "keepdims": 0})
    linear(Path("t.onnx"), after=[highest], leaves={"z": ("INT64", ("n",))})
    remote = Remote(url="http://localhost", protocol="mlflow")
    for wanted in (
        recipe("torch", factory="of_nothing"),
        recipe("onnx", file="t.onnx"),
    ):
        with pytest.raises(InputError, match=r"nobody says how many .* set teacher.classes"):
            make_teacher(wanted, data)
    finding = (recipe("function", factory="ask"), recipe("remote", remote=remote))
    assert [met_of(make_teacher(wanted, data)) for wanted in finding] == [(), ()]
    assert make_teacher(recipe("function", factory="ask", classes=4), data).classes == 4


def test_names_of_a_remote_teacher() -> None:
    remote = Remote(url="http://localhost", protocol="mlflow")
    wanted = recipe("remote", remote=remote, classes=("ant", "bee", "cat"))
    made: Any = make_teacher(wanted, DATA)
    assert (made.classes, made.settings.names.names) == (3, ("ant", "bee", "cat"))
    named = Remote(url="http://localhost", protocol="mlflow", names=Names(names=("a", "b")))
    with pytest.raises(InputError, match="both name the classes; remove one"):
        make_teacher(recipe("remote", remote=named, classes=("a", "b")), DATA)
    assert make_teacher(recipe("remote", remote=named), DATA).classes == 2


def test_unknown_answers() -> None:
    wanted = recipe("function", factory="words", classes=("ant", "x"), unknown="drop")
    made = make_teacher(wanted, DATA)
    right = (IMAGES.flatten(1).mean(1) > 0.5).long() * 2
    assert torch.equal(made.labels(IMAGES), right)
    assert (made.classes, unsure_of(made)) == (3, 2)


# Bounds


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-1.0, 1.0), (-2.5, 0.5)])
def test_images_are_scaled_to_the_bounds(bounds: tuple[float, float]) -> None:
    made = make_teacher(recipe("function", factory="ask", bounds=bounds), DATA)
    assert made.bounds == (0.0, 1.0)
    made.labels(IMAGES)
    shown = sys.modules["own_factories"].SEEN[-1]
    low, high = bounds
    assert torch.allclose(shown, IMAGES * (high - low) + low, atol=1e-5)


def test_bounds_of_a_model_of_eight_bits() -> None:
    linear(Path("t.onnx"), kind="UINT8")
    levels = (IMAGES * 255).round()
    right = (levels.flatten(1).numpy() @ weights()).argmax(1)
    for bounds in ((0.0, 1.0), (0.0, 255.0)):
        made = make_teacher(recipe("onnx", file="t.onnx", bounds=bounds), DATA)
        assert made.labels(levels / 255).tolist() == right.tolist()
    with pytest.raises(InputError, match="takes images of 8 bits, 0 to 255; remove it"):
        make_teacher(recipe("onnx", file="t.onnx", bounds=(-1.0, 1.0)), DATA)


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        (
            'kind = "onnx"\nfile = "t"\nencoding = { kind = "float32", scale = 255 }',
            "teacher.bounds and the scale or mean of teacher.encoding both say",
        ),
        (
            'kind = "remote"\nremote = { url = "http://localhost", protocol = "mlflow" }',
            "but images are always 0 to 1 here; remove it",
        ),
    ],
)
def test_bounds_that_contradict_a_recipe(teacher: str, says: str) -> None:
    text = f'run = "r"\n[data]\ntrain = "d"\n[teacher]\nbounds = [-1, 1]\n{teacher}\n'
    text += '[student]\nnetwork = "small"\n'
    Path("r.toml").write_text(text)
    with pytest.raises(RecipeError, match=says) as refused:
        read_recipe("r.toml")
    assert str(refused.value).startswith("r.toml:5: ")


# Networks


def test_a_network_is_trained_on_what_it_is_shown_in_the_order_of_its_names() -> None:
    image = pytest.importorskip("PIL.Image")
    for name, level in (("bright", 255), ("dark", 0)):
        Path("d/train", name).mkdir(parents=True)
        for k in range(8):
            image.new("L", (8, 8), level).save(Path("d/train", name, f"{k}.png"))
    data = load("d", "train")
    wanted = recipe(
        "network",
        network="small",
        weights="w.safetensors",
        bounds=(-1.0, 1.0),
        classes=("dark", "none", "bright"),
        training=Training(steps=60, batch=8),
    )
    made = make_teacher(wanted, data)
    assert made.labels(data.images.read(torch.tensor([0, 15]))).tolist() == [2, 0]  # bright, dark
    assert (made.classes, made.bounds) == (3, (0.0, 1.0))
    again = teacher_network(wanted, data, silent)
    with torch.inference_mode():
        assert again.eval()(torch.full((1, 1, 8, 8), -1.0)).argmax() == 0


# What stays the same


def test_keys_that_are_not_used_leave_no_trace() -> None:
    plain = fingerprint(recipe("onnx", file="t.onnx"))
    assert not {"classes", "encoding", "output", "unknown", "images"} & plain.keys()
    used = fingerprint(
        recipe(
            "onnx",
            file="t.onnx",
            encoding=Encoding(kind="float32"),
            output="y",
            unknown="drop",
            classes=3,
        )
    )
    assert {"classes", "encoding", "output", "unknown"} < used.keys()
    assert "images" in fingerprint(recipe("onnx", file="t.onnx", bounds=(0.0, 255.0)))


def test_names_are_the_same_in_a_list_and_in_a_file() -> None:
    Path("names.txt").write_text("ant\nbee\n")
    found = fingerprint(recipe("onnx", file="t", classes="names.txt"))
    assert found == fingerprint(recipe("onnx", file="t", classes=("ant", "bee")))
    assert found != fingerprint(recipe("onnx", file="t", classes=("bee", "ant")))
