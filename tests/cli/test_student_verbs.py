"""The verbs about a trained student, as processes."""

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import warm
from db3kd.student import StudentCard, load_student, save_network
from db3kd.student.networks import build

NAMES = ("cat", "dog", "a\x1b[31mbird")


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    return warm.called(words, folder, environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A student that says "a bird" to all that is dark, and images of noise."""
    network = build("small", (1, 8, 8), 3, seed=0)
    with torch.no_grad():
        network[-1].bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    card = StudentCard(network="small", shape=(1, 8, 8), classes=NAMES)
    save_network(tmp_path / "s.safetensors", network, card)
    draw = np.random.default_rng(0)
    for name in ("b/1.png", "b/10.png", "a.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (12, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    return tmp_path


def test_predict_prints_path_class_and_probability(folder: Path) -> None:
    done = call(folder, "predict", "s.safetensors", "images", "images/a.png")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    files = ["images/a.png", "images/b/1.png", "images/b/10.png", "images/a.png"]
    assert [row[0] for row in rows] == files
    assert {row[1] for row in rows} == {"abird"}  # clean, as a terminal may show it
    student = load_student(folder / "s.safetensors")
    scores = student.scores([folder / file for file in files]).amax(1)
    assert [float(row[2]) for row in rows] == pytest.approx(scores.tolist(), abs=1e-3)


def test_a_table_and_json_hold_the_names_as_they_are(folder: Path) -> None:
    done = call(folder, "predict", "s.safetensors", "images", "--csv", "out.csv")
    assert (done.returncode, done.stdout) == (0, "3 images are in out.csv\n")
    with (folder / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "class", "probability"]
    assert rows[1][:2] == ["images/a.png", NAMES[2]]
    done = call(folder, "predict", "s.safetensors", "images", "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert [row["class"] for row in found] == [NAMES[2]] * 3
    assert str(found[1]["probability"]) == rows[2][2]


def test_damaged_images_are_said_and_left_out(folder: Path) -> None:
    (folder / "images" / "bad\x1b.png").write_bytes(b"no image")
    done = call(folder, "predict", "s.safetensors", "images")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 3
    first, last = done.stderr.splitlines()
    assert first.startswith("db3kd: ")
    assert "cannot be decoded" in first
    assert first.isprintable()
    assert last == "db3kd: 1 of 4 images cannot be used; see above"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "s.safetensors", "none"), "there is no file or folder none"),
        (("predict", "none.safetensors", "images"), "there is no file none.safetensors"),
        (("predict", "s.safetensors", "images", "--factory", "os:abort"), "a factory is of no use"),
        (("predict", "images/a.png", "images"), "cannot be read"),
        (("predict", "s.safetensors", "images", "--most", "3"), "and --teacher RECIPE"),
        (
            ("predict", "s.safetensors", "images", "--ask-teacher-below", "1"),
            "and --teacher RECIPE",
        ),
        (("export", "s.safetensors"), "give --onnx or --torch-export"),
        (("export", "s.safetensors", "--onnx", "--torch-export"), "give --onnx or"),
        (("export", "s.safetensors", "images", "--onnx"), "images cannot be written"),
    ],
)
def test_a_mistake_is_one_sentence(words: tuple[str, ...], said: str, folder: Path) -> None:
    done = call(folder, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_export_writes_an_onnx_file_beside_the_student(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    done = call(
        folder, "export", "s.safetensors", "--onnx", "--input", "uint8", "--images", "images"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("s.onnx: on 103 images its scores differ by at most ")
    assert done.stdout.endswith(" and 100.0% of the classes are the same\n")
    session = onnxruntime.InferenceSession(str(folder / "s.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["names"]) == list(NAMES)
    done = call(folder, "export", "s.safetensors", "--onnx", "my.onnx", "--json")
    found = json.loads(done.stdout)
    assert (found["file"], found["labels"]) == ("my.onnx", 1.0)
    assert (folder / "my.onnx").is_file()


def test_export_writes_a_program_of_torch(folder: Path) -> None:
    done = call(folder, "export", "s.safetensors", "--torch-export")
    assert (done.returncode, done.stderr) == (0, "")
    program = torch.export.load(folder / "s.pt2").module()
    assert program(torch.zeros(5, 1, 8, 8)).shape == (5, 3)


def test_a_student_of_ones_own_is_asked_with_its_factory(folder: Path) -> None:
    (folder / "mine.py").write_text(
        "from torch import nn\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    card = StudentCard(factory="mine:make", shape=(1, 8, 8), classes=2)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    save_network(folder / "o.safetensors", network, card)
    done = call(folder, "predict", "o.safetensors", "images")
    assert done.returncode == 1
    assert "name it, as factory or --factory, if you trust it" in done.stderr
    done = call(folder, "predict", "o.safetensors", "images", "--factory", "mine:make")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3)


def cascade_recipe(folder: Path, **more: str) -> None:
    """A teacher to whom everything is a dog, and which notes how many images it is shown."""
    (folder / "dogs.py").write_text(
        "def make():\n"
        "    def ask(images):\n"
        "        with open('asked', 'ab') as log:\n"
        "            log.write(b'.' * len(images))\n"
        "        return [1] * len(images)\n"
        "    return ask\n"
    )
    (folder / "recipe.toml").write_text(
        'run = "none"\n[data]\ntrain = "no-such-set"\n[student]\nnetwork = "small"\n[teacher]\n'
        'kind = "function"\nfactory = "dogs:make"\nclasses = ["cat", "dog", "a\\u001b[31mbird"]\n'
        + "".join(f"{key} = {value}\n" for key, value in more.items())
    )


ASK = ("--teacher", "recipe.toml", "--ask-teacher-below", "1.0")


def test_what_a_student_is_unsure_of_goes_to_the_teacher_of_a_recipe(folder: Path) -> None:
    cascade_recipe(folder)
    done = call(folder, "predict", "s.safetensors", "images", *ASK)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[1:2] + row[3:] for row in rows] == [["dog", "teacher"]] * 3
    first, last = done.stderr.splitlines()
    assert "no summary of its run lies beside the student" in first
    assert last == "db3kd: 3 of 3 images have the teacher's class, for 3 queries"
    assert (folder / "asked").stat().st_size == 3
    assert not (folder / "none").exists()  # the folder of the run
    done = call(folder, "predict", "s.safetensors", "images", *ASK, "--most", "1", "--json")
    found = json.loads(done.stdout)
    assert sorted((row["by"], row["class"]) for row in found) == [
        ("student", NAMES[2]),
        ("student", NAMES[2]),
        ("teacher", "dog"),
    ]
    assert "1 of 3 images have the teacher's class, for 1 query; 2 more were" in done.stderr
    assert (folder / "asked").stat().st_size == 4


def test_answers_of_a_store_are_paid_once(folder: Path) -> None:
    cascade_recipe(folder, store='"answers.db3kd"', price='{ per_1000 = 500, currency = "EUR" }')
    for _ in range(2):
        done = call(folder, "predict", "s.safetensors", "images", *ASK, "--csv", "out.csv")
        assert "for 3 queries (1.50 EUR in all, with the run's)" in done.stderr
    assert (folder / "asked").stat().st_size == 3
    with (folder / "out.csv").open(newline="") as file:
        assert [row[3] for row in csv.reader(file)] == ["by", *["teacher"] * 3]
    with (folder / "recipe.toml").open("a") as recipe:
        recipe.write("[budget]\nmoney = 2.0\n")
    done = call(folder, "predict", "s.safetensors", "images", *ASK, "--factory", "os:abort")
    assert done.returncode == 1
    other = np.zeros((2, 8, 8), np.uint8) + np.array([9, 99], np.uint8)[:, None, None]
    for number, pixels in enumerate(other):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    done = call(folder, "predict", "s.safetensors", "0.png", "1.png", *ASK)
    assert done.stdout.count("teacher") == 1
    assert "(2.00 EUR in all, with the run's); 1 more were" in done.stderr
    assert (folder / "asked").stat().st_size == 4


def test_the_temperature_is_that_of_the_summary_of_the_run(folder: Path) -> None:
    cascade_recipe(folder)
    (folder / "run" / "students").mkdir(parents=True)
    place = folder / "run" / "students" / "ce-0.safetensors"
    place.write_bytes((folder / "s.safetensors").read_bytes())
    curve = {"temperature": 4.0, "fitted_on": 200, "samples": 800, "points": []}
    row = {"files": ["students/x", "students/ce-0.safetensors"], "cascade": [None, curve]}
    (folder / "run" / "summary.json").write_text(json.dumps({"methods": {"ce": row}}))
    words = ("--teacher", "recipe.toml", "--ask-teacher-below", "0.0")
    done = call(folder, "predict", str(place), "images/a.png", *words)
    assert "temperature 4 of the run (fitted on 200 test images)" in done.stderr
    student = load_student(place)
    expected = (student.logits(folder / "images" / "a.png") / 4).softmax(1).max()
    assert float(done.stdout.split("\t")[2]) == pytest.approx(float(expected), abs=1e-4)
    done = call(folder, "predict", str(place), "images/a.png", *words, "--temperature", "1")
    assert done.stderr == "db3kd: 0 of 1 images have the teacher's class, for 0 queries\n"
    (folder / "run" / "summary.json").write_text('{"methods": {"ce": {"files": []}}}')  # an old one
    done = call(folder, "predict", str(place), "images/a.png", *words)
    assert "no summary of its run lies beside" in done.stderr
