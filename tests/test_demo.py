"""The demo: small here; as it is shipped, in `make test-slow`."""

import importlib.util
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import db3kd

FILE = Path(__file__).parent.parent / "examples" / "demo.py"


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", FILE)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = found  # where dataclasses look for it
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def tiny(module: ModuleType) -> object:
    return module.Settings(
        own=40,
        search=db3kd.Search(strategy="rows", queries=30, probes=10, shard=20),
        training=db3kd.Training(epochs=2, batch=20),
        seeds=(0, 1),
        budget=40 + 40 * 9 * 30 + 860,
        pictured=2,
    )


def test_the_piles_do_not_overlap_and_are_everything(module):
    data = module.digits(module.Settings())
    sizes = (len(data.own), len(data.test), len(data.test_labels))
    assert sizes == (200, 1797 - 897 - 200, 700)
    own = {image.numpy().tobytes() for image in data.own.values}
    test = {image.numpy().tobytes() for image in data.test.values}
    assert not own & test
    assert float(data.own.values.min()) == 0
    assert float(data.own.values.max()) == 1


def test_a_small_demo_keeps_its_accounts_and_is_not_paid_twice(module, tiny, tmp_path):
    first = module.demo(tmp_path, tiny)
    assert json.loads((tmp_path / "summary.json").read_text()) == first
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert list(first["methods"]) == ["ce", "sd", "bd", "mbd"]
    for row in first["methods"].values():
        assert len(row["accuracy"]) == len(row["agreement"]) == 2
        assert 0 <= min(row["accuracy"] + row["agreement"]) <= 1
        assert row["seconds"] >= row["label_s"]
        assert len(row["with_teacher"]) == 2
        assert all(a < b for a, b in zip(row["agreement"], row["with_teacher"], strict=True))
    queries = [row["queries"] for row in first["methods"].values()]
    assert queries[0] == queries[1] == 40 < queries[2] < queries[3] <= 40 + 40 * 9 * 30
    assert first["queries"]["spent"] == queries[3] + 860  # MBD passes BD; and the test images
    assert 0 < first["queries"]["picture"] <= 2 * 2 * module.POINT_QUERIES
    assert first["teacher"]["accuracy"] > 0.95

    picture = (tmp_path / "demo.png").stat().st_mtime_ns
    assert module.demo(tmp_path, tiny) == first
    assert (tmp_path / "demo.png").stat().st_mtime_ns == picture


def test_points_in_the_picture_are_across_the_boundary(module, tiny, tmp_path):
    data = module.digits(tiny)
    with db3kd.Run(tmp_path, data.teacher) as run:
        run.measure(data.own, tiny.search)
        found = module.examples(run, data, tiny, db3kd.Meter(data.teacher))
    assert len(found) == 2
    for example in found:
        assert data.teacher.labels(example.points[:, None]).tolist() == example.classes
        away = (example.points - example.image).flatten(1).norm(dim=1)
        torch.testing.assert_close(away, torch.tensor(example.distances))
        assert int(example.activations.argmax()) == example.own


def test_a_budget_too_small_stops_and_a_larger_one_goes_on(module, tiny, tmp_path):
    with pytest.raises(db3kd.BudgetExhausted):
        module.demo(tmp_path, replace(tiny, budget=2000))
    assert not (tmp_path / "summary.json").exists()
    assert module.demo(tmp_path, tiny)["queries"]["spent"] <= tiny.budget


@pytest.mark.slow
def test_the_demo_as_it_is_shipped(module, tmp_path, capsys):
    module.main([str(tmp_path)])
    assert "queries spent" in capsys.readouterr().out
    found = json.loads((tmp_path / "summary.json").read_text())
    mean = {name: statistics.fmean(row["accuracy"]) for name, row in found["methods"].items()}
    assert mean["mbd"] >= mean["ce"]
    assert min(found["methods"]["mbd"]["with_teacher"]) >= 0.99
    assert found["queries"]["spent"] <= found["queries"]["budget"]
