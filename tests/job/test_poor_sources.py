"""Pools and teachers that give little: said, counted, and never an error after answers."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from db3kd import job
from db3kd.config.reading import read_recipe
from db3kd.errors import InputError
from db3kd.storage.files import Json
from db3kd.student import StudentCard

RECIPE = """
run = "run"
data = { size = 8, channels = 1 }
teacher = { kind = "function", factory = "poor_teacher:make" }
student = { network = "small", methods = ["ce"], training = { steps = 3 } }
synthesis = { queries = 30, shard = 15, ensemble_labels = 0 }
"""
TEACHER = """
ASKED = []

def make(says="names"):
    def ask(images):
        ASKED.extend(images)
        levels = [round(float(image.mean()), 3) for image in images]
        if says == "mostly nothing":
            return [None if level < 0.5 else "high" if level > 0.75 else "mid" for level in levels]
        return ["low" if level < 0.4 else "mid" if level < 0.8 else "high" for level in levels]
    return ask
"""


def images(folder: Path, levels: list[float]) -> None:
    """Grey images of these brightnesses, each a file."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    for number, level in enumerate(levels):
        pixels = (255 * level + 8 * torch.randn(8, 8, generator=draw)).clamp(0, 255)
        Image.fromarray(pixels.byte().numpy()).save(folder / f"{number:03}.png")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and a teacher, and no page at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DB3KD_REPORT", "0")
    monkeypatch.delitem(__import__("sys").modules, "poor_teacher", raising=False)
    Path("recipe.toml").write_text(RECIPE)
    Path("poor_teacher.py").write_text(TEACHER)
    return tmp_path


def asked() -> int:
    """How many images the teacher was really shown."""
    import poor_teacher  # type: ignore[import-not-found]

    return len(poor_teacher.ASKED)


def run(*overrides: str) -> Json:
    found = job.run(read_recipe("recipe.toml", list(overrides)))
    kept = json.loads(Path("run/summary.json").read_text())
    assert kept["warnings"] == found["warnings"]
    return found


def pseudo(*overrides: str) -> Json:
    return run("student.methods=['pseudo']", "synthesis.way=unrelated", *overrides)


KNOWN = "teacher.classes=['low', 'mid', 'high']"


def test_a_summary_and_a_student_have_the_names(here: Path) -> None:
    images(here / "own", [0.2, 0.6] * 10)
    images(here / "test", [0.2, 0.6, 0.9])
    found = run("data.train=own", "data.test=test")
    assert found["class_names"][:2] in (["low", "mid"], ["mid", "low"])
    assert found["class_names"][2:] == ["high"]
    assert found["found"] == {"most": 100, "lacking": {"ce": ["high"]}}
    [file] = found["methods"]["ce"]["files"]
    assert list(StudentCard.of_file(here / "run" / file).names) == found["class_names"][:2]
    again = run("data.train=own", "data.test=test")
    assert again["methods"]["ce"]["files"] == [file]
    assert asked() == 23


def test_own_images_that_never_hit_a_class(here: Path) -> None:
    images(here / "own", [0.2, 0.6] * 10)
    found = run("data.train=own", KNOWN)
    assert any("1 of 3 classes were never met" in w and "'high'" in w for w in found["warnings"])


def test_a_pool_that_never_hits_a_class(here: Path) -> None:
    images(here / "pool", [0.2, 0.6] * 15)
    found = pseudo("synthesis.images=pool", KNOWN)
    assert found["classes"] == [15, 15, 0]
    assert any("1 of 3 classes were never met" in w for w in found["warnings"])


def test_a_pool_of_one_image(here: Path) -> None:
    images(here / "pool", [0.2])
    found = pseudo("synthesis.images=pool", KNOWN)
    assert any("has 1 usable images, and 30 are to be asked" in w for w in found["warnings"])
    assert any("2 of 3 classes were never met" in w for w in found["warnings"])


def test_one_own_image(here: Path) -> None:
    images(here / "own", [0.2])
    images(here / "test", [0.2, 0.6, 0.9])
    found = run("data.train=own", "data.test=test", KNOWN)
    assert found["methods"]["ce"]["agreement"] == [pytest.approx(1 / 3)]
    assert any("2 of 3 classes were never met" in w for w in found["warnings"])


def test_a_teacher_that_mostly_does_not_know(here: Path) -> None:
    images(here / "own", [0.1] * 14 + [0.6, 0.9] * 3)
    images(here / "test", [0.6, 0.9])
    for number, known in enumerate((["teacher.classes=['mid', 'high']"], [])):
        policy = [*known, "teacher.unknown=drop"] if known else []
        found = run(
            "data.train=own",
            "data.test=test",
            "teacher.arguments={says='mostly nothing'}",
            *policy,
        )
        assert found["unknown"] == 14
        text = "did not know the class of 14 of 20 images, so students learn from the other 6"
        assert any(text in warning for warning in found["warnings"])
        (here / "run").rename(here / f"run-{number}")


def test_a_damaged_pool_is_refused_before_anything_is_asked(here: Path) -> None:
    images(here / "pool", [0.2, 0.6] * 15)
    (here / "pool" / "010.png").write_bytes(b"hello")
    with pytest.raises(InputError, match="1 of 30 unlabelled images cannot be used"):
        pseudo("synthesis.images=pool", KNOWN)
    assert asked() == 0


def test_a_damaged_pool_is_used_without_what_is_damaged(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(here / "pool", [0.2, 0.6] * 16)
    (here / "pool" / "010.png").write_bytes(b"hello")
    found = pseudo("synthesis.images=pool", KNOWN, "data.damaged=skip")
    assert sum(found["classes"]) == 30
    assert "1 of 32 unlabelled images cannot be used and are left out" in caplog.text
