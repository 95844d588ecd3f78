"""Run folders of earlier versions are continued without a question, or refused; never misread."""

import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.insert(0, str(FIXTURES))
from make_runs import KINDS, call, kept, summary  # noqa: E402

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="they were made on x86, and arithmetic elsewhere rounds otherwise",
)


NEW = re.compile(r"run/(images\.png|log\.txt|gallery\.safetensors|predictions/.*)")
"""What earlier versions did not make."""


def said(value: object, at: str = "") -> set[tuple[str, str]]:
    """Everything that a summary says, by place; later versions say more."""
    if not isinstance(value, dict):
        return {(at, json.dumps(value))}
    return {line for key, inner in value.items() for line in said(inner, f"{at}.{key}")}


def spent(queries: dict[str, object]) -> dict[str, object]:
    """The books without stages that bought nothing, which later versions have more of."""
    stages = queries["by_stage"]
    assert isinstance(stages, dict)
    return {**queries, "by_stage": {name: count for name, count in stages.items() if count}}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / "folders" / "images", tmp_path / "images")
    shutil.copytree(FIXTURES / "folders" / request.param, tmp_path / request.param)
    return tmp_path / str(request.param)


def test_a_finished_run_is_continued_and_evaluated_without_a_question(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())
    assert kept(folder) == expected["files"]
    for verb in ("run", "evaluate"):
        done = call(folder, verb, "recipe.toml", REFUSE="1")
        assert done.returncode == 0, done.stderr
        now = kept(folder)
        assert {name: now.get(name) for name in expected["files"]} == expected["files"]
        assert all(map(NEW.fullmatch, now.keys() - expected["files"].keys()))
        found = json.loads(call(folder, "status", "run", "--json").stdout)
        assert spent(found["queries"]) == spent(expected["queries"])
        assert found["figures"] == expected["figures"]
        assert found["stage"] == "done"
        told = summary(folder)
        assert said(told) >= said(expected["summary"])


@pytest.mark.parametrize("folder", ["rows", "remote"], indirect=True)
def test_what_is_not_there_any_more_would_be_asked(folder: Path) -> None:
    """The teachers here do refuse: the test above would notice a question."""
    shutil.rmtree(folder / "run")
    for store in folder.glob("answers.db3kd*"):
        os.unlink(store)
    done = call(folder, "run", "recipe.toml", REFUSE="1")
    assert done.returncode == 1, done.stdout
