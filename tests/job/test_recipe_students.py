"""Students of a recipe: what their files say, and students of the user's own."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import Sandbox
from db3kd import job
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import Recipe
from db3kd.errors import InputError, RecipeError
from db3kd.job.session import opened
from db3kd.job.student import card_of
from db3kd.student import StudentCard, load_student
from db3kd.teachers.base import known_of

MINE = """
from torch import nn

class Halved(nn.Module):
    def forward(self, hidden):
        return hidden / 2

def make(classes, shape):
    return nn.Sequential(Halved(), nn.Flatten(), nn.Linear(64, classes))

def wide(**more):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 11))

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))
"""


@pytest.fixture
def here(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the current directory of this process."""
    monkeypatch.chdir(sandbox.folder)
    monkeypatch.syspath_prepend(str(sandbox.folder))
    for module in ("svm_teacher", "mine_student"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    sandbox.write("mine_student.py", MINE)
    text = (sandbox.folder / "recipe.toml").read_text()
    sandbox.write("own.toml", text.replace('network = "small"', 'factory = "mine_student:make"'))
    return sandbox


def recipe(name: str = "own.toml", *overrides: str) -> Recipe:
    return read_recipe(name, ("student.methods=['ce']", "data.samples=12", *overrides))


def students(here: Sandbox) -> list[Path]:
    return sorted((here.run / "students").glob("*.safetensors"))


def test_the_file_of_a_student_says_what_it_is(here: Sandbox) -> None:
    job.run(recipe("recipe.toml", "student.width=0.5"))
    (file,) = students(here)
    card = StudentCard.of_file(file)
    assert (card.network, card.width, card.shape) == ("small", 0.5, (1, 8, 8))
    assert card.classes == tuple("0123456789")
    origin = card.origin
    assert (origin.method, origin.seed, origin.samples) == ("ce", 0, 12)
    assert origin.training["epochs"] == 3
    assert origin.torch == torch.__version__
    assert len(origin.recipe) == 16
    assert any(name.startswith("code of svm_teacher") for name in origin.teacher)
    asked = load_student(file)
    shown = here.digits / "test" / "3"
    assert len(asked.predict(shown)) == 5
    before = file.read_bytes()
    file.unlink()
    job.distill(recipe("recipe.toml", "student.width=0.5", "budget.queries=900"))
    assert file.read_bytes() == before  # no date, no place


class Named:
    """A teacher that may not know."""

    classes, bounds, unsure = 4, (0.0, 1.0), 3
    names = ("cat", "dog", "bird", "unsure")

    def labels(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), dtype=torch.int64)


def test_a_student_has_no_class_for_i_do_not_know() -> None:
    assert known_of(Named()) == 3


def test_classes_are_called_as_the_teacher_says(here: Sandbox) -> None:
    with opened(recipe("recipe.toml")) as found:
        assert card_of(found.recipe, found.pipeline, found.sets).names[7] == "7"
        named = replace(found.sets, names=("cat", "dog", "bird"))
        assert card_of(found.recipe, found.pipeline, named).names == ("cat", "dog", "bird")


def test_secrets_are_not_told(here: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR", "open sesame")
    with opened(recipe("recipe.toml")) as found:
        told = replace(found.pipeline, parts={"version": "of open sesame", "state 1": "random"})
        named = recipe("recipe.toml", "data.train_split='${DOOR}'")
        card = card_of(named, told, found.sets)
    assert card.origin.teacher == {"version": "of ***"}


def test_a_student_of_ones_own(here: Sandbox) -> None:
    found = job.run(recipe("own.toml", "student.seeds=[0, 1]"))
    assert len(found["methods"]["ce"]["accuracy"]) == 2
    first, second = students(here)
    card = StudentCard.of_file(first)
    assert (card.factory, card.network) == ("mine_student:make", None)
    with pytest.raises(InputError, match="no code that a file names is run by itself"):
        load_student(first)
    one, two = (load_student(file, factory="mine_student:make") for file in (first, second))
    assert one.classes == tuple("0123456789")
    assert not torch.equal(one.network[2].weight, two.network[2].weight)


def test_changed_code_makes_another_student(here: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers look alike and start alike, so only the code tells."""
    job.run(recipe())
    job.distill(recipe())
    assert len(students(here)) == 1
    here.write("mine_student.py", MINE.replace("hidden / 2", "hidden / 3  # as long"))
    monkeypatch.delitem(sys.modules, "mine_student")
    job.distill(recipe())
    assert len(students(here)) == 2
    here.write("mine_student.py", "# only a comment more\n" + MINE.replace("/ 2", "/ 3"))
    monkeypatch.delitem(sys.modules, "mine_student")
    job.distill(recipe())
    assert len(students(here)) == 2


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("mine_student:narrow", "tells 9 classes apart; at least 10 are needed"),
        ("mine_student:nope", "has no attribute 'nope'"),
        ("mine_student:MINE", "failed: "),
    ],
)
def test_a_student_that_cannot_be_is_refused_before_anything_is_asked(
    here: Sandbox, factory: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        job.run(recipe("own.toml", f"student.factory={factory}"))
    assert here.asked() == 0


def test_a_student_of_other_classes_than_the_teacher_is_refused(here: Sandbox) -> None:
    with pytest.raises(InputError, match="tells 11 classes apart; 10 are needed"):
        job.run(recipe("own.toml", "student.factory=mine_student:wide"))


def test_no_ensemble_labels_for_a_student_of_ones_own(here: Sandbox) -> None:
    text = (here.folder / "without_data.toml").read_text()
    here.write("none.toml", text.replace('network = "small"', 'factory = "mine_student:make"'))
    for name, expected in (("without_data.toml", True), ("none.toml", False)):
        wanted = read_recipe(name, ["student.methods=['pseudo']", f"run='{name[:4]}'"])
        with opened(wanted) as found:
            assert (found.ensemble_labels > 0) == expected


def test_a_width_has_no_effect_on_a_student_of_ones_own(here: Sandbox) -> None:
    with pytest.raises(RecipeError, match=r"student.width has no effect with student.factory"):
        recipe("own.toml", "student.width=0.5")
