"""What a command says first, and what its run's folder keeps of it."""

import os
import re
from pathlib import Path

import pytest

from conftest import Sandbox
from db3kd.cli.door import Work
from db3kd.cli.log import BEFORE, MOST_BYTES, NAME, LogFile
from db3kd.cli.opening import opening, settings
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import Recipe

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} (.*)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a run in it."""
    (tmp_path / "journal.jsonl").write_text("")
    return tmp_path


def said(folder: Path) -> list[str]:
    found = [LINE.fullmatch(line) for line in (folder / NAME).read_text("utf-8").splitlines()]
    assert all(found)
    return [line[1] for line in found if line]


# The file


def test_a_line_is_clean_and_tells_no_secret(folder: Path) -> None:
    log = LogFile(Work(folder, secrets=("open sesame",)))
    log.say("key open%20sesame\x1b[2J\nanother \ud800line")
    assert said(folder) == ["key ***", "another \\ud800line"]


def test_a_folder_without_a_run_gets_no_log_until_there_is_one(tmp_path: Path) -> None:
    log = LogFile(Work(tmp_path / "run"))
    log.say("first")
    (tmp_path / "run").mkdir()
    log.say("second")
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run" / "journal.jsonl").write_text("")
    log.say("third")
    assert said(tmp_path / "run") == ["first", "second", "third"]


def test_a_folder_whose_name_is_too_long_gets_no_log() -> None:
    LogFile(Work(Path("x" * 300))).say("nothing")


def test_a_large_log_becomes_the_one_before(folder: Path) -> None:
    (folder / NAME).write_bytes(b"x" * MOST_BYTES)
    (folder / BEFORE).write_text("older")
    LogFile(Work(folder)).say("new")
    assert said(folder) == ["new"]
    assert (folder / BEFORE).stat().st_size == MOST_BYTES


@pytest.mark.skipif(os.name != "posix", reason="pipes with names and /dev/full are POSIX")
@pytest.mark.parametrize("kind", ["folder", "pipe", "full"])
def test_a_log_that_cannot_be_written_is_let_go(folder: Path, kind: str) -> None:
    if kind == "folder":
        (folder / NAME).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / NAME)
    else:
        (folder / NAME).symlink_to("/dev/full")
    log = LogFile(Work(folder))
    log.say("nobody hears it")
    log.end(0)


# A whole command


def test_a_run_keeps_what_was_said_and_how_it_ended(sandbox: Sandbox) -> None:
    assert sandbox.call("label", "recipe.toml", "-q", "-s", "label.refrences=3").returncode == 2
    assert sandbox.call("label", "recipe.toml", "-q", "-s", "data.size=0").returncode == 2
    assert not sandbox.run.exists()  # a refused recipe makes no folder
    stopped = sandbox.call("label", "recipe.toml", "-q", "-s", "budget.queries=100")
    assert stopped.returncode == 3
    assert stopped.stderr.count("\n") == 1  # quiet: the sentence alone
    first = said(sandbox.run)
    assert first[0] == "db3kd 0.1.0: label recipe.toml"
    assert any(line.startswith("label: metric=") and "queries=60" in line for line in first)
    assert any(line.startswith("at most ") for line in first)  # though nobody saw it
    assert first[-2].startswith("db3kd: the budget of 100 queries is exhausted")
    assert first[-1] == "end: the budget is exhausted (exit code 3)"
    assert sandbox.call("status", "run").returncode == 0
    assert said(sandbox.run) == first  # only what works in the folder writes there
    refused = sandbox.call("label", "recipe.toml", "-s", "seed=2")
    assert refused.returncode == 1
    more = said(sandbox.run)
    assert more[: len(first)] == first
    assert "other settings (seed: 1 -> 2)" in more[-2]
    assert more[-1] == "end: an error (exit code 1)"


# The first words


def recipe(*overrides: str, tmp_path: Path, train: bool = True) -> Recipe:
    (tmp_path / "r.toml").write_text(
        f'run = "runs/a"\ndata.{"train" if train else "test"} = "mnist"\n'
        'teacher = {kind = "onnx", file = "t.onnx"}\nstudent.network = "small"\n'
    )
    return read_recipe(tmp_path / "r.toml", overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), "own images from mnist; teacher: ONNX file t.onnx; students: small by auto, 1 seed"),
        (("data.samples=2000", "student.seeds=[1, 2]"), "2,000 own images from mnist"),
        (("student.seeds=[1, 2]",), "small by auto, 2 seeds; no budget"),
        (("budget.queries=9000",), "; budget: 9,000 queries"),
        (("quick=true",), "at most 500 own images from mnist"),
        (
            ("teacher={kind='remote', remote={url='https://me:key@host:80/x', protocol='raw'}}",),
            "teacher: host:80, asked by 'raw';",
        ),
        (("teacher={kind='torch', factory='a:b'}",), "teacher: torch module a:b"),
    ],
)
def test_the_job_in_words(tmp_path: Path, overrides: tuple[str, ...], words: str) -> None:
    lines = opening("1.0", "run", Path("r.toml"), recipe(*overrides, tmp_path=tmp_path))
    assert words in lines[1]
    assert "key" not in lines[1]
    assert "runs/a" in lines[2]


def test_a_job_without_any_images_says_so(tmp_path: Path) -> None:
    none = recipe("data={size=8, channels=1}", tmp_path=tmp_path, train=False)
    assert opening("1.0", "run", Path("r.toml"), none)[1].startswith(
        "no own images, no test images; teacher"
    )


def test_a_quick_look_is_announced(tmp_path: Path) -> None:
    lines = opening("1.0", "run", Path("r.toml"), recipe("quick=true", tmp_path=tmp_path))
    assert lines[0] == "db3kd 1.0: run r.toml (a quick look: 300 steps)"
    assert "runs/a-quick" in lines[2]


def tables(recipe: Recipe) -> dict[str, str]:
    return dict(line.partition(": ")[::2] for line in settings(recipe))


def test_settings_without_a_use_are_left_out(tmp_path: Path) -> None:
    own = tables(recipe(tmp_path=tmp_path))
    assert set(own) >= {"spend", "grow", "label"}
    assert not any(name.startswith("synthesis") for name in own)
    assert "queries=" not in own["label"]  # of a search row by row
    assert "per_image=" not in own["label"] + own["grow"]  # a trial says how many
    assert "quick" not in own["recipe"]
    rows = tables(recipe("label.strategy=rows", tmp_path=tmp_path))
    assert "queries=1000" in rows["label"]
    assert "surrogate=" not in rows["label"]
    assert set(rows) & {"spend", "grow"} == set()
    pseudo = tables(recipe(tmp_path=tmp_path, train=False))
    assert "way=" in pseudo["synthesis"]
    assert set(pseudo) & {"spend", "grow", "label", "synthesis.ascent"} == set()
    ascent = tables(recipe("synthesis.way=ascent", tmp_path=tmp_path, train=False))
    assert ascent["synthesis"] == 'way="ascent"'
    assert "starts=20" in ascent["synthesis.ascent"]
