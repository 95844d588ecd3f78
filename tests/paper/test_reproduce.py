"""Tables and figures of the paper: every cell runs, what stops goes on, claims are judged."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from db3kd.data import load
from db3kd.errors import InputError
from db3kd.paper import claims, output
from db3kd.paper.access import OpenNetwork, ScoreTeacher
from db3kd.paper.cells import Cell, Workbook, by_effort, effort
from db3kd.paper.figures import _nearer, between
from db3kd.paper.points import Matrix
from db3kd.paper.reproduce import What, reproduce
from db3kd.paper.setups import SETUPS
from db3kd.paper.systems import SYSTEMS
from db3kd.paper.tables import TABLES
from db3kd.search.robustness import RobustnessMap
from db3kd.teachers.base import Teacher, check_teacher

FEW = ("ce", "noise_labels", "noise_scores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


@pytest.mark.parametrize("what", get_args(What))
def test_at_the_smallest_scale_every_cell_is_run(what: What, folder: Path) -> None:
    made = reproduce(what, scale="smoke", folder=folder)
    assert made.missing == 0
    assert "not run" not in made.text
    assert "cannot be run" not in made.text
    ends = {file.suffix for file in made.files}
    assert ends == {".md", ".json", ".csv"} if what in TABLES else {".md", ".json", ".svg", ".png"}
    assert all(file.stat().st_size > 100 for file in made.files)
    records = json.loads((folder / "smoke" / f"{what}.json").read_text())
    assert records
    assert all(record["commit"] and record["device"] and record["date"] for record in records)
    if what in TABLES:
        rows = list(csv.DictReader((folder / "smoke" / f"{what}.csv").read_text().splitlines()))
        assert [row["ours"] for row in rows] == [str(record["ours"]) for record in records]
        assert len(rows) == len(TABLES[what].rows) * len(TABLES[what].columns)
    again = {file: file.read_bytes() for file in (folder / "smoke").rglob("cells/**/*.json")}
    assert reproduce(what, scale="smoke", folder=folder).text == made.text
    assert all(file.read_bytes() == content for file, content in again.items())


def test_a_table_that_was_stopped_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    def accuracies(folder: Path, **how: float) -> dict[str, str]:
        reproduce("table4", scale="smoke", folder=folder, only=FEW, **how)  # type: ignore[arg-type]
        rows = csv.DictReader((folder / "smoke" / "table4.csv").read_text().splitlines())
        return {row["system"]: row["ours"] for row in rows if row["ours"]}

    whole = accuracies(tmp_path / "whole")
    assert len(whole) == len(FEW)
    stopped = tmp_path / "stopped"
    assert accuracies(stopped, minutes=0.0) == {}
    assert len(accuracies(stopped, minutes=0.02)) <= len(FEW)
    assert accuracies(stopped) == whole


def test_a_place_that_was_not_run_says_so(tmp_path: Path) -> None:
    made = reproduce("table4", scale="smoke", folder=tmp_path, only=["noise_labels"])
    assert made.missing == len(TABLES["table4"].rows) - 1
    assert re.search(r"\| Standard KD .*\| not run \(77\.81\) \|", made.text)
    assert "12 of 13 places: not run" in made.text
    assert re.search(r"not below Noise input, labels\. .*: not run", made.text)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"only": ["db3kd"]}, "there is no system 'db3kd'; there are teacher, ce"),
        ({"setups": ["svhn"]}, "there is no setup 'svhn'; there are mnist"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
    ],
)
def test_what_is_unknown_is_refused(
    how: Mapping[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        reproduce("table1", folder=tmp_path, **how)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_cheapest_cells_come_first_and_all_seeds_of_them_are_there() -> None:
    cells = by_effort(TABLES["table1"].cells(seeds=2))
    efforts = [effort(cell) for cell in cells]
    assert efforts == sorted(efforts)
    assert len(cells) == 2 * (8 * 7 + 4)  # all students of a setup share its teacher


def test_every_table_has_as_many_numbers_as_columns_and_all_scales() -> None:
    for table in TABLES.values():
        for row in table.rows:
            assert len(row.paper) == len(table.columns)
            assert row.system in SYSTEMS
        for column in table.columns:
            assert column.student in SETUPS[column.setup].students
            assert set(SETUPS[column.setup].sizes) == {"smoke", "cpu", "full"}
        assert {name for pair in claims.PAIRS[table.name] for name in pair} <= {
            row.system for row in table.rows
        }


def place(system: str, *accuracies: float) -> output.Place:
    table = TABLES["table4"]
    row = next(row for row in table.rows if row.system == system)
    results = tuple({"accuracy": each} for each in accuracies)
    return output.Place(row, table.columns[0], row.paper[0], results)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((60.0, 62.0), (40.0, 41.0), "holds (+20.50)"),
        ((40.0, 41.0), (60.0, 62.0), "does not hold (-20.50)"),
        ((60.0, 64.0), (61.0, 61.0), "holds (+1.00, within the spread)"),
        ((), (61.0, 61.0), "not run"),
        ((61.0,), (61.5,), "does not hold (-0.50)"),
    ],
)
def test_a_claim_is_judged_by_the_means(
    first: tuple[float, ...], second: tuple[float, ...], said: str
) -> None:
    pairs = dict.fromkeys(name for pair in claims.PAIRS["table4"] for name in pair)
    found = {name: place(name) for name in pairs}
    found |= {"zsdb3kd": place("zsdb3kd", *first), "fskd": place("fskd", *second)}
    text = claims.claims("table4", [[each] for each in found.values()])
    line = next(line for line in text.splitlines() if "not below FSKD" in line)
    assert line.endswith(f": {said}.")


def test_a_cell_with_other_settings_is_another_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, cell = Workbook(tmp_path, "smoke"), Cell("mnist", "LeNet-5-half", "ban", 0)
    before = book.file(cell)
    assert Workbook(tmp_path, "smoke").file(cell) == before
    assert Workbook(tmp_path, "cpu").file(cell).parts[: len(before.parts) - 4] != before.parent
    monkeypatch.setattr(type(SYSTEMS["ban"].settings("mnist", "smoke")), "__repr__", lambda _: "")
    assert book.file(cell) != before


def test_what_sees_more_than_labels_is_no_teacher() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    for access in (ScoreTeacher(net), OpenNetwork(net)):
        assert not isinstance(access, Teacher)
        assert not hasattr(access, "labels")
        with pytest.raises(InputError, match=f"{type(access).__name__} has no classes"):
            check_teacher(access)
    shared = {name for name in dir(ScoreTeacher) if not name.startswith("_")}
    assert not shared & {name for name in dir(OpenNetwork) if not name.startswith("_")}


def test_an_open_network_keeps_its_weights_and_gives_gradients_to_images() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Dropout(), nn.Linear(5, 3))
    opened, images = OpenNetwork(net), torch.rand(2, 1, 4, 4, requires_grad=True)
    features, scores = opened.features_and_scores(images)
    assert torch.allclose(opened.last(features), scores)
    scores.sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in net.parameters())
    scored = ScoreTeacher(net)
    assert torch.equal(scored.scores(images), scores.detach())
    assert scored.asked == 2


def test_distances_between_classes_are_means_over_their_mean() -> None:
    inf = torch.inf
    distance = torch.tensor([[0.0, 2.0, inf], [0.0, 4.0, 6.0], [3.0, 0.0, 9.0]])
    none = torch.zeros_like(distance, dtype=torch.int64)
    own = torch.tensor([0, 0, 1])
    found = RobustnessMap("mbd", own, distance, none, none, torch.zeros(3, 3, 0))
    values = between(found, ("8", "9", "1"), "MNIST").values
    mean = (3.0 + 6.0 + 3.0 + 9.0) / 4
    wanted = torch.tensor([[torch.nan, 3.0, 6.0], [3.0, torch.nan, 9.0], [torch.nan] * 3]) / mean
    assert torch.allclose(values, wanted, equal_nan=True)
    assert "8 is nearer to 9 than to 1: holds" in _nearer(
        "mnist", Matrix("", ("8", "9", "1"), values)
    )


def test_flowers_are_taken_from_train_and_validation() -> None:
    whole = load("flowers102", SETUPS["flowers102"].split, size=8)
    assert len(whole) == 2040
    assert torch.bincount(whole.labels).unique().tolist() == [20]  # type: ignore[arg-type]


def test_a_data_set_that_is_missing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB3KD_DATA", str(tmp_path))
    with pytest.raises(InputError, match="no data set 'cifar10'"):
        reproduce("table4", scale="smoke", folder=tmp_path / "runs")
