"""Whether a teacher makes sense is said before much is bought, in one sentence."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import warm
from db3kd import job
from db3kd.config.reading import read_recipe
from db3kd.errors import InputError
from db3kd.job.sanity import FEWEST, FIRST, confusion, doubt, one_class
from db3kd.stages.accounts import status

NAMES = ("ant", "bee", "cow", "dog")
PLACES = """
import os
from pathlib import Path
ASKED = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
ORDER = {order}
def make():
    def ask(images):
        os.write(ASKED, b"." * len(images))
        spots = images[:, 0].unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4)).flatten(1)
        return [ORDER[k] for k in spots.argmax(1).tolist()]
    return ask
"""
RECIPE = """run = "run"
data = {{ train = "spots"{data} }}
teacher = {{ kind = "function", factory = "places:make" }}
student = {{ network = "small", methods = ["ce"], training = {{ steps = 5, batch = 16 }} }}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images of one bright quarter each; the class is which quarter it is."""
    draw = np.random.default_rng(0)
    for split, each in (("train", 40), ("test", 10)):
        for k, name in enumerate(NAMES):
            place = tmp_path / "spots" / split / name
            place.mkdir(parents=True)
            for number in range(each):
                pixels = draw.integers(0, 60, (8, 8), dtype="uint8")
                pixels[k // 2 * 4 : k // 2 * 4 + 4, k % 2 * 4 : k % 2 * 4 + 4] += 180
                Image.fromarray(pixels).save(place / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "places", raising=False)
    return tmp_path


def written(here: Path, order: list[int], data: str = "") -> None:
    (here / "places.py").write_text(PLACES.format(order=order))
    (here / "r.toml").write_text(RECIPE.format(data=data))


def asked(here: Path) -> int:
    return (here / "asked").stat().st_size


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ([2, 2, 2, 2], r"says 'cow' of all 100 images that were asked first"),
        (
            [1, 2, 3, 0],
            r"another order: it says 'bee' where the labels say 'ant', 'cow' where they",
        ),
        ([0, 2, 1, 3], r"it says 'cow' where the labels say 'bee', 'bee' where they say 'cow'"),
    ],
)
def test_a_teacher_that_makes_no_sense_costs_a_hundred_queries(
    here: Path, order: list[int], words: str
) -> None:
    written(here, order)
    with pytest.raises(InputError, match=words):
        job.run(read_recipe("r.toml"))
    assert asked(here) == status("run")["queries"]["spent"] == FIRST
    with pytest.raises(InputError, match=words):  # and nothing more when it is tried again
        job.run(read_recipe("r.toml"))
    assert asked(here) == FIRST
    found = job.run(read_recipe("r.toml"), anyway=True)
    assert asked(here) == found["queries"]["spent"] == 160 + 40
    assert found["queries"]["by_stage"]["answers"] == 160
    assert re.search(words, found["warnings"][0])
    assert len(found["warnings"]) == 1 + (order == [2, 2, 2, 2])  # other classes are never met


def test_labels_that_nobody_trusts_are_a_warning(here: Path) -> None:
    written(here, [1, 2, 3, 0], ', labels = "teacher"')
    found = job.run(read_recipe("r.toml"))
    assert "in another order" in found["warnings"][0]


def test_a_sane_teacher_is_asked_about_each_image_once(here: Path) -> None:
    written(here, [0, 1, 2, 3])
    found = job.run(read_recipe("r.toml"))
    assert (asked(here), found["warnings"], found["teacher"]["accuracy"]) == (200, [], 1.0)
    assert found["class_names"] == list(NAMES)
    low, high = found["methods"]["ce"]["agreement_interval"]
    assert low <= found["methods"]["ce"]["agreement"][0] <= high


def test_labels_of_one_class_are_refused_before_anything_is_asked(here: Path) -> None:
    written(here, [0, 1, 2, 3])
    for name in NAMES[1:]:
        for file in (here / "spots/train" / name).iterdir():
            file.rename(here / "spots/train/ant" / f"{name}-{file.name}")
        (here / "spots/train" / name).rmdir()
    with pytest.raises(InputError, match=r"all 160 labels of the own images are 'ant', of 4"):
        job.run(read_recipe("r.toml", ["teacher.classes=['ant', 'bee', 'cow', 'dog']"]))
    assert asked(here) == 0


def test_the_command_says_it_and_goes_on_anyway(here: Path) -> None:
    written(here, [2, 2, 2, 2])

    def command(*more: str) -> subprocess.CompletedProcess[str]:
        return warm.called(("run", "r.toml", "-q", "--json", *more), here, os.environ)

    refused = command()
    assert refused.returncode == 1
    assert "--anyway" in refused.stderr
    assert "Traceback" not in refused.stderr
    went_on = command("--anyway")
    assert went_on.returncode == 0
    assert json.loads(went_on.stdout)["warnings"]


def test_without_own_images_the_test_images_are_looked_at(here: Path) -> None:
    written(here, [3, 2, 1, 0])
    text = (here / "r.toml").read_text()
    text = text.replace('train = "spots"', 'test = "spots"').replace('"ce"', '"pseudo"')
    (here / "r.toml").write_text(text + "synthesis = { queries = 300, rounds = 1 }\n")
    with pytest.raises(InputError, match="in another order"):
        job.run(read_recipe("r.toml"))
    assert asked(here) == 40


# Laws


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_a_teacher_that_is_mostly_right_is_never_doubted(classes: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    truth = torch.arange(120) % classes
    wrong = torch.rand(120, generator=draw) < 0.2
    answers = torch.where(wrong, torch.randint(classes, (120,), generator=draw), truth)
    assert doubt(answers, truth, [str(k) for k in range(classes)]) is None


@given(st.permutations(range(6)))
def test_every_other_order_is_named(order: list[int]) -> None:
    truth = torch.arange(120) % 6
    found = doubt(torch.tensor(order)[truth], truth, "abcdef")
    moved = sum(place != k for k, place in enumerate(order))
    assert (found is None) == (moved == 0)
    if found is not None:
        assert "in another order" in found.what
        assert found.what.count(" where ") == min(moved, 4)


@pytest.mark.parametrize("few", [0, 1, FEWEST - 1])
def test_few_answers_tell_nothing(few: int) -> None:
    assert doubt(torch.zeros(few).long(), torch.ones(few).long(), ("a", "b")) is None
    assert one_class(torch.zeros(few).long(), ("a", "b")) is None


def test_two_classes_that_are_taken_for_one_are_no_other_order() -> None:
    truth = torch.arange(90) % 3
    answers = torch.tensor([0, 2, 2])[truth]
    assert doubt(answers, truth, ("a", "b", "c")) is None


def test_an_unsure_teacher_has_a_column_of_its_own() -> None:
    found = confusion(torch.tensor([0, 2]), torch.tensor([0, 1]), ("a", "b"))
    assert found["names"] == ["a", "b", "(unsure)"]


def test_another_order_is_named_although_one_class_is_hardly_known() -> None:
    truth = torch.arange(120) % 6
    answers = torch.tensor([1, 2, 0, 3, 4, 5])[truth]
    answers[truth == 4] = torch.arange(20) % 4
    found = doubt(answers, truth, "abcdef")
    assert found is not None
    assert "'b' where the labels say 'a', 'c' where they say 'b'" in found.what


def test_an_order_in_which_a_class_is_there_twice_is_none() -> None:
    truth = torch.arange(120) % 4
    found = doubt(torch.tensor([0, 0, 3, 2])[truth], truth, "abcd")
    assert found is not None
    assert "by chance" in found.what
