"""Whole runs of two recipes: CPU time and accuracy, now and at an earlier commit.

    python benchmarks/end_to_end.py [--quick] --json end_to_end.json [--work DIR]

`seconds_over_COMMIT.CASE` is the CPU time of `db3kd run`, all processes, over that of the earlier
commit with the recipe of its time; the teacher is trained before, once for both. Runs that are
finished are kept, so the benchmark can be stopped and started again.
"""

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import mean, stdev

import common

BEFORE = "0520e5f"
TEACHER = """
[teacher]
kind = "network"
network = "lenet5"
weights = "teacher.safetensors"
data = "mnist"
training = {{ epochs = {epochs}, batch = 128, rate = 2e-3 }}
"""
CASES = {
    "mnist_zero_shot_5000": """
run = "{run}"
[data]
test = "mnist"
[budget]
queries = 15_000
[student]
network = "lenet5"
width = 0.5
seeds = [0, 1, 2]
training = {{ {training} }}
""",
    "mnist_300x30": """
run = "{run}"
[data]
train = "mnist"
samples = 300
test = "mnist"
labels = "teacher"
[budget]
queries = 19_300
[student]
network = "lenet5"
width = 0.5
seeds = [0, 1, 2]
training = {{ {training} }}
""",
}
TRAINING = {
    "mnist_zero_shot_5000": {
        "before": "steps = 20_000, batch = 64, rate = 1e-3, temperature = 1.0",
        "now": "temperature = 1.0",
    },
    "mnist_300x30": {"before": "steps = 10_000, batch = 64, rate = 1e-3", "now": ""},
}


def main() -> int:
    """Run what is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which runs are kept")
    options.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options.add_argument("--only", choices=("before", "now"), help="run this side alone")
    given = options.parse_args()
    work = (given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "end_to_end").resolve()
    work.mkdir(parents=True, exist_ok=True)
    earlier = work / BEFORE
    if not earlier.exists():
        packed = subprocess.run(
            ["git", "-C", str(common.PROJECT), "archive", BEFORE, "src"],
            check=True,
            capture_output=True,
        ).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(earlier, filter="data")
    table = []
    for case in given.cases:
        for side in (given.only,) if given.only else ("before", "now"):
            source = earlier / "src" if side == "before" else common.PROJECT / "src"
            line = one(case, side, source, work, quick=given.quick)
            common.say(f"  {line}")
            table.append(line)
    if given.only:
        return 0
    figures = {}
    for before, now in zip(table[::2], table[1::2], strict=True):
        case = before["case"]
        figures[f"seconds_over_{BEFORE}.{case}"] = now["cpu_s"] / before["cpu_s"]
        figures[f"accuracy.{case}"] = now["accuracy"]
        figures[f"accuracy_{BEFORE}.{case}"] = before["accuracy"]
    common.write(given.json, figures=figures, setting={"before": BEFORE}, table=table)
    return 0


def one(case: str, side: str, source: Path, work: Path, *, quick: bool) -> common.Json:
    """Run a recipe with the code of one side; a result that is kept is read."""
    folder = work / (f"{case}-{side}-quick" if quick else f"{case}-{side}")
    result = folder / "result.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    folder.mkdir(exist_ok=True)
    training = TRAINING[case][side]
    if quick:
        training = ", ".join(["steps = 50", *training.split(", ")[1:]])
    teacher = work / ("teacher-quick.safetensors" if quick else "teacher.safetensors")
    text = CASES[case].format(run="run", training=training)
    text += TEACHER.format(epochs=1 if quick else 8).replace("teacher.safetensors", str(teacher))
    (folder / "recipe.toml").write_text(text)
    if not teacher.exists():
        _called(folder, common.PROJECT / "src", "check", "recipe.toml")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _called(folder, source, "run", "recipe.toml", "-q")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = json.loads((folder / "run" / "summary.json").read_text())
    (method,) = summary["methods"].values()
    accuracies = [100 * each for each in method["accuracy"]]
    line = {
        "case": case,
        "side": side,
        "cpu_s": round(seconds, 1),
        "accuracy": round(mean(accuracies), 2),
        "spread": round(stdev(accuracies), 2) if len(accuracies) > 1 else None,
        "accuracies": [round(each, 2) for each in accuracies],
        "queries": summary["queries"]["spent"],
    }
    result.write_text(json.dumps(line))
    return line


def _called(folder: Path, source: Path, *words: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-m", "db3kd", *words], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    sys.exit(main())
