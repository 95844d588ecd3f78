"""Whether a run of very many answers holds: memory, the start of continuing, and disk.

    python benchmarks/volume.py [--quick] --json volume.json

Images of 4 x 4 pixels are grown by two Ray workers, or without Ray by one process. The teacher is
a function that costs nothing. The budget is raised to 1e6, 1e7, 1e8 answers and some more, and a
process of its own continues the folder each time.

- `memory_mib.WHO.ANSWERS`: the most memory (resident set) of the process that leads, and of the
  largest worker, while the run goes from the last budget to this one.
- `memory_growth.WHO`: that at 1e8 over that at 1e6.
- `opened_s.ANSWERS`: seconds from the start of a process that continues the folder at so many
  answers, until it has read the books. `start_s.ANSWERS`: until new answers are on them, for which
  Ray starts, and each process reads all own images first.
- `bytes_per_answer`: of all files of the run, pixels included (64 of an image are float32).
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import common
from common import Json

OWN, SIDE, SHARD = 100_000, 4, 65_536
TEACHER = '''
def brightness():
    """Ten classes by mean brightness."""
    return lambda images: (images.flatten(1).mean(1) * 10).long().clamp(0, 9)
'''


def prepare(folder: Path, own: int) -> None:
    """Write images without labels, and the teacher's code."""
    import io

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    draw, files = np.random.default_rng(0), []
    for pixels in draw.integers(0, 256, (own, SIDE, SIDE), dtype=np.uint8):
        Image.fromarray(pixels).save(content := io.BytesIO(), format="png")
        files.append({"bytes": content.getvalue(), "path": None})
    (folder / "own" / "data").mkdir(parents=True)
    table = pa.table({"image": files})
    pq.write_table(table, folder / "own" / "data" / "train-00000-of-00001.parquet")
    (folder / "bright.py").write_text(TEACHER)


def recipe_of(own: int, answers: int, budget: int) -> Any:
    """A recipe that grows images at random."""
    from db3kd.config.cluster import Cluster
    from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
    from db3kd.config.settings import Budget, Grow

    engine: Any = "ray" if find_spec("ray") else "none"
    return Recipe(
        run="run",
        data=DataConfig(train="own", test_samples=10),
        teacher=TeacherConfig(kind="function", factory="bright:brightness", classes=10),
        budget=Budget(queries=budget),
        grow=Grow(per_image=answers // own, choose="random", shard=SHARD, rounds=1),
        student=StudentConfig(network="small", methods=("grown",)),
        cluster=Cluster(engine=engine),
    )


def child(own: int, answers: int, budget: int) -> None:
    """Go on until the budget is spent, and print what that took."""
    began = time.monotonic()
    from db3kd.errors import BudgetExhausted
    from db3kd.job.session import opened

    found: Json = {"start_s": None, "memory_mib": {"leader": 0.0, "worker": 0.0}}
    stop = threading.Event()
    first: list[int] = []

    def progress(stage: str, done: int, total: int, figures: Any, /) -> None:
        if stage == "grow" and "queries" in figures:
            first.append(int(figures["queries"]))
            if found["start_s"] is None and first[-1] > first[0]:
                found["start_s"] = time.monotonic() - began

    with opened(recipe_of(own, answers, budget), progress) as job:
        found["opened_s"] = time.monotonic() - began

        def watch() -> None:
            while not stop.wait(0.5):
                places = [p for r in job.run.journal.all("epoch") for p in r["workers"]]
                workers = [int(place.rpartition(" ")[2]) for place in places]
                most = found["memory_mib"]
                most["leader"] = max(most["leader"], memory_of(os.getpid()))
                most["worker"] = max(most["worker"], *map(memory_of, workers), 0.0)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            job.run.answers(job.own.images)
            job.run.grow(job.own.images, job.recipe.grow)
        except BudgetExhausted:
            pass
        finally:
            stop.set()
            watching.join()
        found |= {"answers": job.run.meter.spent, "wall_s": time.monotonic() - began}
    print(json.dumps(found))


def memory_of(process: int) -> float:
    """MiB of a process that are in memory; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> int:
    """Run all budgets and write the result."""
    options = common.parser(__doc__).parse_args()
    own = 1000 if options.quick else OWN
    budgets = [10 * own, 100 * own, 1000 * own, 1020 * own]
    figures: dict[str, float] = {}
    table: list[Json] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, own)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path(folder)}
        for budget in budgets:
            words = ["--child", str(own), str(budgets[-1]), str(budget)]
            command = [sys.executable, str(Path(__file__).resolve()), *words]
            out = subprocess.run(
                command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
            ).stdout
            row: Json = json.loads(out.splitlines()[-1])
            common.say(str(row))
            table.append(row)
            for who, mib in row["memory_mib"].items():
                figures[f"memory_mib.{who}.{budget}"] = round(mib, 1)
        files = [p for p in (folder / "run").rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        figures["bytes_per_answer"] = round(size / table[-1]["answers"], 2)
        figures["journal_bytes"] = float((folder / "run" / "journal.jsonl").stat().st_size)
        figures["files"] = float(len(files))
    for before, row in pairwise(table):
        for name in ("opened_s", "start_s"):
            figures[f"{name}.{before['answers']}"] = round(row[name], 2)
    for who in ("leader", "worker"):
        first = figures[f"memory_mib.{who}.{budgets[0]}"]
        if first:
            last = figures[f"memory_mib.{who}.{budgets[2]}"]
            figures[f"memory_growth.{who}"] = round(last / first, 3)
    setting = {"own": own, "side": SIDE, "shard": SHARD, "ray": find_spec("ray") is not None}
    common.write(options.json, figures=figures, setting=setting, table=table)
    return 0


def _path(folder: Path) -> str:
    known = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join([str(folder), *filter(None, [known])])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*map(int, sys.argv[2:5]))
    else:
        sys.exit(main())
