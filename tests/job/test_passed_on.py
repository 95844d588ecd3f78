"""Every run says what it brings to pass images on to the teacher."""

import json
import shutil
import sys
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures"
sys.path.insert(0, str(FIXTURES))
from make_runs import call, summary  # noqa: E402


def test_a_run_measures_the_curve_of_every_student(tmp_path: Path) -> None:
    for name in ("images", "rows"):
        shutil.copytree(FIXTURES / "folders" / name, tmp_path / name)
    folder = tmp_path / "rows"
    done = call(folder, "evaluate", "recipe.toml", REFUSE="1")
    assert done.returncode == 0, done.stderr
    found = summary(folder)
    tests = found["test_samples"]
    assert tests < 100  # so nothing is left out for a temperature
    for row in found["methods"].values():
        assert len(row["cascade"]) == len(row["files"])
        for curve, agreement in zip(row["cascade"], row["agreement"], strict=True):
            points = curve.pop("points")
            assert curve == {"temperature": 1.0, "fitted_on": 0, "samples": tests}
            assert [point["share"] for point in points] == [0.0, 0.05, 0.1, 0.2, 0.3, 0.5]
            first = points[0]
            assert (first["passed"], first["agreement"]) == (0.0, agreement)
            for point in points[1:]:
                assert 0 <= point["share"] - point["passed"] < 2 / tests
                gained = point["agreement"] - first["agreement"]
                assert 0 <= gained <= point["passed"] + 1e-9
    shown = points[3]
    line = f"(predict --teacher RECIPE --ask-teacher-below {shown['threshold']:.6g}) agreement is"
    assert f"{line} {100 * shown['agreement']:.1f}%." in done.stdout
    kept = (folder / "run" / "journal.jsonl").read_text().splitlines()
    (last,) = [r for r in map(json.loads, kept) if r["kind"] == "evaluation"][-1:]
    assert [p["share"] for p in last["cascade"]["points"]] == [0.0, 0.05, 0.1, 0.2, 0.3, 0.5]
