"""Recipes with a rule that ends a run early: what is saved is bought nowhere, and is told."""

import json
from pathlib import Path

import pytest

from conftest import Sandbox
from db3kd import job
from db3kd.cli.terminal import result
from db3kd.config.reading import read_recipe
from db3kd.errors import RecipeError

GROWN = ("label.checkpoints=[]", "student.methods=['grown']", "grow.per_image=4", "grow.rounds=2")


pytestmark = pytest.mark.usefixtures("no_power_cut")


@pytest.fixture
def here(here: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The same with short lessons."""
    for module in ("synthesis.chosen", "stages.ensemble_labels"):
        monkeypatch.setattr(f"db3kd.{module}.LEAST_STEPS", 4)
        monkeypatch.setattr(f"db3kd.{module}.MOST_STEPS", 4)
    return here


def test_a_rule_saves_answers_and_says_so(here: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="db3kd")
    wanted = read_recipe("recipe.toml", (*GROWN, "stop={agreement=0.001}"))
    summary = job.run(wanted)
    assert here.asked() == summary["queries"]["spent"] == 30 + 50
    told = summary["stopped"]
    assert (told["stage"], told["asked"], told["planned"], told["saved"]) == ("grow", 0, 120, 120)
    assert "enough, 120 answers are saved" in caplog.text
    text = " ".join(result(summary).split())
    assert "The rule (agreement of 0.1 %) saved 120 of 120 answers for new images" in text
    assert job.run(wanted)["stopped"] == told
    assert here.asked() == 80
    kept = json.loads((here.run / "summary.json").read_text())
    assert kept["stopped"] == told
    assert kept["recipe"]["stop"] == {"agreement": 0.001}


def test_ensemble_labels_fill_up_what_a_rule_has_left(
    here: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db3kd.stages.ensemble_labels.IMAGES", 1700)
    settings = ("student.network=small", "synthesis.surrogate=small", "synthesis.members=1")
    wanted = read_recipe("without_data.toml", (*settings, "stop={agreement=0.001}"))
    for _ in range(2):
        summary = job.run(wanted)
        assert here.asked() == summary["queries"]["spent"] == 375 + 50
        assert summary["stopped"]["saved"] == 1125
        trained = [r for r in here.journal() if r["kind"] == "student"]
        assert [record["samples"] for record in trained] == [1700]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("stop=flt",), "stop has no choice 'flt'; did you mean 'flat'"),
        (("stop={agreement=97}",), "stop.agreement is 97; expected float <= 1.0"),
        (("stop={}",), "'agreement' is missing in [stop]"),
        (("stop=flat", "student.methods=['ce']"), 'student.methods = ["ce"] asks none'),
    ],
)
def test_a_rule_that_cannot_be_is_refused(
    here: Sandbox, overrides: tuple[str, ...], words: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        read_recipe("recipe.toml", (*GROWN, *overrides))
    assert words in str(refused.value)


def test_an_ascent_has_no_rounds_to_stop_at(here: Sandbox) -> None:
    with pytest.raises(RecipeError, match="has no rounds"):
        read_recipe("without_data.toml", ("stop=flat", "synthesis.way=ascent"))


def test_without_a_rule_nothing_speaks_of_one(here: Sandbox) -> None:
    summary = job.run(read_recipe("recipe.toml", (*GROWN, "grow.choose=random")))
    assert "stopped" not in summary
    assert "stop" not in summary["recipe"]
    assert not Path(here.run, "stop").exists()
    assert all("planned" not in r.get("configuration", {}) for r in here.journal())
