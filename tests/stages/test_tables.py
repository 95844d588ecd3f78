"""The two tables, of stages and of methods, and what reads them."""

import json
from pathlib import Path
from typing import get_args

import pytest

from db3kd.config.methods import METHODS, Method, Use, needed
from db3kd.config.settings import AscentPlan, Grow, Search, StageKind, kind_of
from db3kd.errors import Damaged, RunError
from db3kd.stages.accounts import status
from db3kd.stages.formats import FORMAT, in_todays_words
from db3kd.stages.table import NAMES, STAGES, stage
from db3kd.storage.journal import Journal

FREE = {"unasked"}  # stages that ask nothing, so that no budget limits them
RUN = {"classes": 10}
LABELLED = {"samples": 401}


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    assert set(METHODS) == set(get_args(Method))
    assert set(get_args(Use)) <= set(METHODS)


def test_a_method_learns_from_own_images_or_from_pseudo_samples() -> None:
    for name, row in METHODS.items():
        assert row.own_images != row.pseudo, name
        assert not (row.pseudo and (row.trial or row.grown)), name


def test_what_several_methods_need_is_all_that_one_of_them_needs() -> None:
    every = needed(METHODS)
    assert (every.trial, every.grown, every.pseudo, every.metric) == (True, True, True, "mbd")
    for method, row in METHODS.items():
        assert needed([method]) == row
        assert needed([method, method]) == row


def test_a_budget_can_limit_every_stage_that_asks() -> None:
    kinds = {kind_of(name) for name in NAMES} - FREE
    assert kinds == set(get_args(StageKind))


def test_names_of_stages_are_unique_and_said_in_words() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(STAGES)
    assert all(row.words for row in STAGES)
    assert stage("pseudo/rounds").words == "distances of pseudo samples"


@pytest.mark.parametrize(
    ("name", "settings", "shards", "most"),
    [
        ("answers", {"answers": {"samples": 4097}}, 2, 4096),
        ("evaluate", {"evaluate": {"samples": 1}}, 1, 4096),
        ("grow", {"grow": {"total": 90, "size": 40}}, 3, 40),
        ("unasked", {"unasked": {"total": 90, "size": 40, "price": 0}}, 3, 0),
        ("ascent", {"ascent": {"total": 12, "size": 6, "price": 120}}, 2, 720),
        ("distances", {"distances": {"per_image": 30}, "answers": LABELLED}, 3, 200 * 30),
        ("rounds", {"distances": {"shard": 50}, "rounds": {"rounds": 8, "shards": 2}}, 16, 15_000),
        (
            "pseudo/distances",
            {
                "pseudo/distances": {"strategy": "rows", "queries": 10, "shard": 100},
                "pseudo/answers": LABELLED,
            },
            5,
            100 * 9 * 10,
        ),
    ],
)
def test_how_a_stage_is_cut(
    name: str, settings: dict[str, dict[str, object]], shards: int, most: int
) -> None:
    cut = stage(name).of({"run": RUN, **settings})
    assert (cut.shards, cut.most) == (shards, most)


def test_a_journal_that_lost_a_line_is_damage_not_a_traceback(tmp_path: Path) -> None:
    search = {"strategy": "rows", "metric": "mbd"}
    for name in ("answers", "grow", "distances", "rounds"):
        with pytest.raises(Damaged, match=r"has lost the line that begins the stage"):
            stage(name).of({"run": RUN})
    with pytest.raises(Damaged, match="'answers'"):
        stage("distances").of({"run": RUN, "distances": search})
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("stage", stage="run", configuration={"format": FORMAT, **RUN})
    journal.append("stage", stage="distances", configuration=search)
    journal.close()
    with pytest.raises(Damaged, match=r"journal\.jsonl.* has lost the line"):
        status(tmp_path)


def test_words_of_the_first_format_are_todays() -> None:
    grow = {"choose": "disagreement", "changes": ["shift"], "rounds": 2, "total": 9}
    found = in_todays_words("grow", grow)
    assert found == {"choose": "bald", "augmentations": ["shift"], "rounds": 2, "total": 9}
    assert set(found) - {"total"} <= set(Grow.__struct_fields__)
    assert in_todays_words("pseudo/distances", {"strategy": "together"}) == {"strategy": "joint"}
    within = in_todays_words("synthesis", {"way": "chosen", "ascent": {"anew": 8}})
    assert within == {"way": "chosen", "ascent": {"restart_every": 8}}
    assert set(within["ascent"]) <= set(AscentPlan.__struct_fields__)
    assert in_todays_words("run", {"format": 1}) == {"format": FORMAT}


def test_todays_words_stay_as_they_are() -> None:
    for name, record in (("grow", Grow()), ("distances", Search()), ("ascent", AscentPlan())):
        known = {field: getattr(record, field) for field in record.__struct_fields__}
        assert in_todays_words(name, known) == known


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("stage", stage="run", configuration={"format": FORMAT + 1, **RUN})
    journal.close()
    with pytest.raises(RunError, match=rf"newer db3kd \(format {FORMAT + 1}, known up to"):
        status(tmp_path)
    assert json.loads((tmp_path / "journal.jsonl").read_text())["kind"] == "stage"  # untouched
