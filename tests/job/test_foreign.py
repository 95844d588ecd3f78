"""Classifiers that nobody of ours wrote, each connected by its recipe alone.

Slow: `make test-slow`. A case whose packages are not installed is skipped, and says which.
"""

import os
import sys
from pathlib import Path

import pytest

from db3kd import job
from db3kd.config.reading import read_recipe
from db3kd.data import data_root

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
from foreign import CASES, Case, missing, prepared  # noqa: E402

FEW = ("student.seeds=[0]", "student.training.steps=150", "grow.per_image=1")
AGREES = {  # the least share of test images on which a student of 150 steps agrees
    "text_direction": 0.6,
    "page_orientation": 0.3,
    "imagenet": 0.0,
    "cifar10": 0.2,
    "sklearn_names": 0.6,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recipe_connects_a_foreign_teacher(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = missing(case)
    if lacking:
        pytest.skip(lacking)
    root = data_root()
    if root is None and not case.count:
        pytest.skip("needs the data sets")
    if root is not None:
        monkeypatch.setenv("DB3KD_DATA", str(root.resolve()))
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", "torch")
    monkeypatch.chdir(tmp_path)
    recipe = prepared(case, tmp_path, case.count // 4)
    lines = [line for line in recipe.read_text().splitlines() if line and line[0] != "#"]
    assert len(lines) <= 15
    few = ("data.samples=200", "data.test_samples=100") if not case.count else ()
    found = job.run(read_recipe(recipe, (*FEW, *few)))
    assert found["warnings"] == []
    assert list(found["methods"].values())[-1]["agreement"][0] >= AGREES[case.name]
    if found["teacher"]["accuracy"] is not None:
        assert found["teacher"]["accuracy"] > 0.4
