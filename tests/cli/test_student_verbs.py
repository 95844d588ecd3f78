"""The verbs about a trained student, as processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from db3kd.student import StudentCard, load_student, save_network
from db3kd.student.networks import build

NAMES = ("cat", "dog", "a\x1b[31mbird")


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "db3kd", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"},
    )


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
