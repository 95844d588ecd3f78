"""A run is continued with the teacher and the images that it was begun with, or not at all."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from db3kd import job
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import Recipe
from db3kd.config.remote import Remote
from db3kd.errors import ConfigurationDiffers, InputError, TeacherError
from db3kd.job.teacher import open_teacher
from db3kd.stages import digests
from db3kd.stages.accounts import status
from db3kd.stages.identity import changes
from db3kd.student.files import save_network
from db3kd.student.networks import build
from db3kd.teachers.remote import remote

RECIPE = """run = "run"
[data]
train = "images"
[teacher]
{teacher}
[student]
network = "small"
methods = ["ce"]
training = {{ steps = 3, batch = 16 }}
"""
LINEAR = """
import torch
from helpers import weights


def make():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4, bias=False))
    network[1].weight.data = weights()
    return network
"""
PICKLED = """
import pickle


def make():
    with open("model.pkl", "rb") as file:
        weights = pickle.load(file)
    return lambda images: (images.flatten(1) @ weights).argmax(1)
"""
NAMED = """
from safetensors.torch import load_file


def make():
    weights = load_file("model.safetensors")["weights"]
    return lambda images: (images.flatten(1) @ weights).argmax(1)
"""
BRIGHT = "def make():\n    return lambda images: (images.flatten(1).mean(1) * 100).long() % 4\n"
HELPERS = """
import torch


def weights():
    return torch.eye(4, 64)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write_images(tmp_path / "images")
    return tmp_path


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("factory", "helpers"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def pixels(split: str) -> np.ndarray:
    draw = np.random.default_rng(len(split))
    return draw.integers(0, 256, (40, 8, 8), dtype=np.uint8)


def write_images(folder: Path, change: Callable[[str, np.ndarray], None] | None = None) -> None:
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        images, files = pixels(split), []
        if change is not None:
            change(split, images)
        for each in images:
            file = BytesIO()
            Image.fromarray(each).save(file, "PNG")
            files.append({"bytes": file.getvalue()})
        table = pa.table({"image": files, "label": np.arange(len(files)) % 4})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def recipe(teacher: str, *overrides: str) -> Recipe:
    Path("recipe.toml").write_text(RECIPE.format(teacher=teacher))
    return read_recipe("recipe.toml", overrides)


def factory(kind: str, code: str = "", *overrides: str) -> Recipe:
    if code:
        Path("factory.py").write_text(code)
    for name in ("factory", "helpers"):
        sys.modules.pop(name, None)
    return recipe(f'kind = "{kind}"\nfactory = "factory:make"', *overrides)


def run(wanted: Recipe) -> dict[str, Any]:
    """The whole job, with a teacher that knows nothing of the labels."""
    return job.run(wanted, anyway=True)


def open_run(wanted: Recipe) -> None:
    """Open the run; answers are asked once, so that there is something to protect."""
    with job.opened(wanted) as work:
        work.run.answers(work.own.images)


def refused(wanted: Recipe, words: str) -> None:
    known = Path("run/journal.jsonl").read_bytes()
    with pytest.raises(ConfigurationDiffers, match=rf"the teacher changed since run .*{words}"):
        open_run(wanted)
    assert Path("run/journal.jsonl").read_bytes() == known


def identities() -> list[dict[str, str]]:
    lines = map(json.loads, Path("run/journal.jsonl").read_text().splitlines())
    return [
        line["parts"] for line in lines if line["kind"] == "identity" and line["of"] == "teacher"
    ]


def write_onnx(path: Path, turn: int = 0, *, external: str | None = None) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = np.roll(np.eye(64, 4, dtype="f4"), turn, 1)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("MatMul", ["f", "W"], ["y"]),
        ],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(weights, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(exist_ok=True)
    more = {"save_as_external_data": True, "location": external, "size_threshold": 0}
    onnx.save(model, str(path), **(more if external else {}))


def onnx_recipe(file: str = "teacher.onnx") -> Recipe:
    return recipe(f'kind = "onnx"\nfile = "{file}"')


# Teachers


def test_an_onnx_file_is_known_by_its_content(here: Path) -> None:
    write_onnx(here / "teacher.onnx")
    open_run(onnx_recipe())
    os.utime("teacher.onnx", (1, 1))
    open_run(onnx_recipe())
    (here / "models").mkdir()
    shutil.move("teacher.onnx", "models/moved.onnx")
    open_run(onnx_recipe("models/moved.onnx"))
    write_onnx(here / "teacher.onnx", turn=1)
    refused(onnx_recipe(), r"file teacher\.onnx is there in place of moved\.onnx")
    shutil.copy("models/moved.onnx", "teacher.onnx")
    open_run(onnx_recipe())
    write_onnx(here / "teacher.onnx", turn=1)
    refused(onnx_recipe(), r"file teacher\.onnx changed\); put the old one back")


def test_a_large_file_is_read_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "LEAST_BYTES", 0)
    monkeypatch.setattr(digests, "COARSEST_S", -60.0)  # as if all files were old
    write_onnx(here / "teacher.onnx")
    open_run(onnx_recipe())
    monkeypatch.setattr(digests, "of_file", None)
    open_run(onnx_recipe())
    monkeypatch.undo()
    monkeypatch.chdir(here)
    write_onnx(here / "teacher.onnx", turn=1)
    refused(onnx_recipe(), r"file teacher\.onnx changed")


def test_weights_outside_an_onnx_file_count_and_its_neighbours_do_not(here: Path) -> None:
    write_onnx(here / "model" / "teacher.onnx", external="weights.bin")
    open_run(onnx_recipe("model/teacher.onnx"))
    shutil.copytree("model", "copy")
    (here / "copy" / "W").write_text("a file of a short name, beside it")
    open_run(onnx_recipe("copy/teacher.onnx"))
    before = (here / "copy" / "teacher.onnx").read_bytes()
    write_onnx(here / "other" / "teacher.onnx", turn=1, external="weights.bin")
    shutil.copy("other/weights.bin", "copy/weights.bin")
    assert (here / "copy" / "teacher.onnx").read_bytes() == before
    refused(onnx_recipe("copy/teacher.onnx"), "data of the model changed")


def test_weights_of_a_network_are_known_once_they_are_trained(here: Path) -> None:
    wanted = recipe(
        'kind = "network"\nnetwork = "small"\nweights = "kept/teacher.safetensors"\n'
        "training = { epochs = 1, batch = 16 }"
    )
    open_run(wanted)
    open_run(wanted)
    path = here / "kept" / "teacher.safetensors"
    other = build("small", (1, 8, 8), 4, seed=9)
    save_network(path, other)
    refused(wanted, r"file teacher\.safetensors changed")


def test_code_counts_by_what_it_does(here: Path) -> None:
    (here / "helpers.py").write_text(HELPERS)
    open_run(factory("torch", LINEAR))
    (here / "helpers.py").write_text(HELPERS.replace("():\n", "():  # of four pixels\n\n"))
    open_run(factory("torch", f'"""A teacher."""\n{LINEAR}'))
    assert len(identities()) == 1
    refused(factory("torch", LINEAR + "\nmore = 3\n"), "code of factory changed")
    (here / "helpers.py").write_text(HELPERS.replace("eye", "ones"))
    refused(factory("torch", LINEAR), "code of helpers changed; .*weights of the module")


def test_code_of_libraries_and_of_others_does_not_count(here: Path) -> None:
    (here / "helpers.py").write_text(HELPERS)
    (here / "notes.py").write_text("unrelated = 1")
    open_run(factory("torch", LINEAR))
    assert set(identities()[0]) == {"code of factory", "code of helpers", "weights of the module"}


def test_a_pickle_that_a_factory_reads_counts(here: Path) -> None:
    (here / "model.pkl").write_bytes(pickle.dumps(torch.eye(64, 4)))
    open_run(factory("function", PICKLED))
    os.utime("model.pkl", (1, 1))
    open_run(factory("function"))
    (here / "model.pkl").write_bytes(pickle.dumps(torch.eye(64, 4).flip(1)))
    refused(factory("function"), r"file model\.pkl changed")


def test_a_file_that_a_library_reads_counts_where_the_code_names_it(here: Path) -> None:
    save_file({"weights": torch.eye(64, 4)}, here / "model.safetensors")
    open_run(factory("function", NAMED))
    save_file({"weights": torch.eye(64, 4).flip(1)}, here / "model.safetensors")
    refused(factory("function"), r"file model\.safetensors changed")


def test_files_that_a_factory_writes_and_secrets_do_not_count(here: Path) -> None:
    (here / "token.txt").write_text("one")
    (here / "log.txt").write_text("one")
    code = (
        "from pathlib import Path\ndef make():\n    Path('token.txt').read_text()\n"
        "    Path('log.txt').write_text(Path('log.txt').read_text() + 'x')\n"
        "    return lambda images: images.flatten(1)[:, :4].argmax(1)\n"
    )
    open_run(factory("function", code))
    (here / "token.txt").write_text("two")
    open_run(factory("function"))
    assert [set(each) for each in identities()] == [{"code of factory"}]


def test_an_estimator_fitted_anew_is_said_and_not_refused(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = (
        "import os, numpy as np\nfrom sklearn.svm import SVC\ndef make():\n"
        "    draw = np.random.default_rng(int(os.environ['DRAW']))\n"
        "    return SVC().fit(draw.random((16, 64)), [0, 1, 2, 3] * 4)\n"
    )
    for seed, told in (("0", 0), ("0", 0), ("1", 1), ("1", 1)):
        os.environ["DRAW"] = seed
        open_run(factory("sklearn", code))
        assert caplog.text.count("state of the estimator is not that") == told


def test_a_folder_of_an_earlier_version_is_adopted(here: Path) -> None:
    write_onnx(here / "teacher.onnx")
    open_run(onnx_recipe())
    journal = here / "run" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b'"kind": "identity"' not in line))
    open_run(onnx_recipe())
    write_onnx(here / "teacher.onnx", turn=1)
    refused(onnx_recipe(), r"file teacher\.onnx changed")


def test_a_broken_teacher_can_be_mended_as_long_as_nothing_is_answered(here: Path) -> None:
    with pytest.raises(TeacherError):
        open_run(factory("function", "def make():\n    return lambda images: 1 / 0\n"))
    open_run(factory("function", BRIGHT))
    refused(factory("function", BRIGHT.replace("100", "101")), "code of factory changed")


def test_a_store_knows_a_local_teacher_by_the_same_parts(here: Path) -> None:
    def name() -> str:
        wanted = factory("function", "", "teacher.store='answers.db3kd'")
        with open_teacher(wanted, job.session.sets_of(wanted).any) as pipeline:
            return pipeline.identity

    (here / "factory.py").write_text(PICKLED)
    (here / "model.pkl").write_bytes(pickle.dumps(torch.eye(64, 4)))
    first = name()
    (here / "factory.py").write_text(PICKLED + "# the same\n")
    assert name() == first
    (here / "model.pkl").write_bytes(pickle.dumps(torch.eye(64, 4).flip(1)))
    assert name() != first


def test_a_service_is_known_by_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx2")

    def told(versions: list[str], pinned: str | None = None, status: int = 200) -> dict[str, str]:
        entry = {"name": "x", "shape": [-1, 64], "datatype": "FP32"}
        body = {"name": "m", "versions": versions, "platform": "onnx", "inputs": [entry]}
        settings = Remote(url="http://127.0.0.1:9", protocol="oip", model="m", version=pinned)
        teacher = remote(settings, classes=10)
        reply = status, json.dumps(body).encode()
        monkeypatch.setattr(teacher.transport, "fetch", lambda request: reply)
        teacher.discover()
        teacher.close()
        return teacher.told

    assert told(["1"])["version"] == "1"
    assert changes(told(["1"]), told(["2"])) == ["its version is '2', not '1'"]
    assert told(["2", "1"]) == told(["1", "2"])
    assert told(["1"], "1") == told(["1", "2"], "1")
    assert told(["1"], status=404) == {}


# Images


def one_pixel(of: str) -> Callable[[str, np.ndarray], None]:
    def change(split: str, images: np.ndarray) -> None:
        if split == of:
            images[20, 3, 3] ^= 1

    return change


def swapped(split: str, images: np.ndarray) -> None:
    if split == "train":
        images[[18, 22]] = images[[22, 18]]


@pytest.mark.parametrize("change", [one_pixel("train"), swapped])
def test_own_images_that_changed_in_the_middle_are_refused(
    here: Path, change: Callable[[str, np.ndarray], None]
) -> None:
    job.grow(factory("function", BRIGHT, "grow.per_image=1", "grow.choose=random"), anyway=True)
    write_images(here / "images", change)
    for verb in (job.run, job.distill, job.evaluate):
        with pytest.raises(ConfigurationDiffers, match="the images are not those that run was"):
            verb(factory("function"))
    write_images(here / "images")
    assert run(factory("function"))["queries"]["spent"] == 40 * 2 + 40


def test_test_images_that_changed_are_refused(here: Path) -> None:
    run(factory("function", BRIGHT))
    write_images(here / "images", one_pixel("test"))
    with pytest.raises(ConfigurationDiffers, match="the test images are not those that run was"):
        job.evaluate(factory("function"))
    assert status("run")["queries"]["spent"] == 80


def test_rows_that_are_not_used_may_change(here: Path) -> None:
    some = "data.train_split='train[:15]'"
    run(factory("function", BRIGHT, some))
    write_images(here / "images", one_pixel("train"))
    assert run(factory("function", "", some))["queries"]["spent"] == 15 + 40
    drawn = (some.replace("15", "30"), "data.samples=4", "run='b'")
    run(factory("function", "", *drawn))
    write_images(here / "images")
    assert run(factory("function", "", *drawn))["queries"]["spent"] == 4 + 40


def test_labels_that_changed_are_said_and_students_learn_from_them(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = run(factory("function", BRIGHT))
    assert len(status("run")["students"]) == 1
    file = here / "images" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    labels = pa.array(table["label"].to_numpy()[::-1])
    pq.write_table(table.set_column(1, "label", labels), file)
    after = run(factory("function"))
    assert "true labels of the own images are not those that run was begun with" in caplog.text
    assert after["queries"] == before["queries"]
    assert len(status("run")["students"]) == 2
    caplog.clear()
    run(factory("function"))
    assert "true labels" not in caplog.text


def test_a_file_that_was_read_for_a_folder_of_images_may_be_renamed(here: Path) -> None:
    for split in ("train", "test"):
        for row, image in enumerate(pixels(split)):
            place = here / "folders" / split / str(row % 4)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{row:02}.png")
    where = ("data.train='folders'",)
    run(factory("function", BRIGHT, *where))
    place = here / "folders" / "train" / "1"
    (place / "37.png").rename(place / "39.png")
    run(factory("function", "", *where))
    (place / "39.png").rename(place / "00.png")
    with pytest.raises(ConfigurationDiffers, match="their content or their order is another"):
        run(factory("function", "", *where))
    (place / "00.png").unlink()
    with pytest.raises(ConfigurationDiffers, match="there are 39, not 40"):
        run(factory("function", "", *where))


def test_a_folder_of_images_may_be_moved(here: Path) -> None:
    few = ("grow.per_image=1", "grow.choose=random")
    job.grow(factory("function", BRIGHT, *few), anyway=True)
    shutil.move("images", "moved")
    moved = (*few, "data.train='moved'")
    job.grow(factory("function", "", *moved), anyway=True)
    assert status("run")["queries"]["spent"] == 80
    with pytest.raises(ConfigurationDiffers, match=r"data\.train_split"):
        job.grow(factory("function", "", *moved, "data.train_split='train[:9]'"))
    write_images(here / "moved", one_pixel("train"))
    with pytest.raises(ConfigurationDiffers, match="the images are not those that run was"):
        job.grow(factory("function", "", *moved))


def test_the_module_is_what_is_known_of_a_torch_teacher() -> None:
    from db3kd.teachers import torch_module
    from db3kd.teachers.base import identity_of

    def made(last: nn.Module, seed: int = 0) -> dict[str, str]:
        torch.manual_seed(seed)
        return identity_of(torch_module(nn.Sequential(nn.Linear(3, 2), last), classes=2))

    assert made(nn.ReLU()) == made(nn.ReLU()) != made(nn.Tanh())
    assert made(nn.ReLU()) != made(nn.ReLU(), seed=1)
    with pytest.raises(InputError, match="not made yet"):
        made(nn.LazyLinear(2))
