"""A first recipe is a recipe, whatever the names of files; nothing is overwritten."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from db3kd.cli.init import written
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import Recipe
from db3kd.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["images", 'a "b" \\ {run} {data}', "猫\x7f"])
def test_a_first_recipe_is_a_recipe(here: Path, name: str) -> None:
    (here / name).mkdir()
    (here / "t.ONNX").write_bytes(b"")
    said = written([Path(name), Path("t.ONNX")], Path("r.toml"))
    assert said == "r.toml is written; db3kd check r.toml"
    recipe = read_recipe("r.toml")
    assert recipe.data.train == Path(name).as_posix()
    assert recipe.run == f"runs/{Path(name).as_posix()}"
    assert (recipe.teacher.kind, recipe.teacher.file) == ("onnx", "t.ONNX")
    assert "CHANGE" not in Path("r.toml").read_text("utf-8")


def test_what_is_not_given_is_marked(here: Path) -> None:
    assert "look for CHANGE" in written([], Path("r.toml"))
    assert Path("r.toml").read_text().count("CHANGE") == 3
    recipe = read_recipe("r.toml")
    assert recipe.student.methods == ("pseudo",)
    assert recipe.teacher.factory == "my_teacher:make"


def test_every_example_in_it_is_known(here: Path) -> None:
    (here / "images").mkdir()
    written([Path("images")], Path("r.toml"))
    text = Path("r.toml").read_text()
    plain = re.sub(r"(?m)^# (\w+ = )", r"\1", text)
    assert plain.count("\n# ") < text.count("\n# ") - 5
    msgspec.convert(tomllib.loads(plain), Recipe)


def test_nothing_is_overwritten_and_odd_paths_are_refused(here: Path) -> None:
    (here / "r.toml").write_text("mine")
    (here / "words.txt").write_text("")
    for name in ("a", "b"):
        (here / name).mkdir()
    for paths, words in (
        ([], "r.toml is there already"),
        (["nowhere"], "nowhere is not there; give a folder"),
        (["words.txt"], "words.txt is no ONNX file"),
        (["a", "b"], "give one of each"),
    ):
        with pytest.raises(InputError, match=words):
            written([Path(path) for path in paths], Path("r.toml"))
    assert (here / "r.toml").read_text() == "mine"
