"""Whether a run survives kills, Ctrl-C, power cuts and full disks, and what they cost.

    python benchmarks/reliability.py [--quick] --json benchmarks/results/reliability.json

Real processes of the command line, of every stage, with a local teacher and with a server that has
a store and a price, are interrupted at random moments and continued until they are done. The
teacher's own log is the judge. `laws` in README.md has what is checked. A broken law is a failure
in the JSON, with how to repeat it, and the exit status is 1.

Each finished run is a line in FILE.lines.jsonl beside the JSON, so a benchmark that is stopped and
started again continues. `--report FILE` writes the page of the results from the JSON alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import common
import reliability_cases as cases
from common import Json
from reliability_lives import MOST_EACH, WAYS, Life, Result, Whole, lived, whole

WANTED = {"kill": 300, "interrupt": 50, "power": 50, "disk": 50}
WORDS = {
    "kill": "SIGKILL",
    "interrupt": "Ctrl-C",
    "power": "power cut",
    "disk": "full disk",
}


def main() -> int:
    """Interrupt runs, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--seed", type=int, default=1, help="of all moments")
    options.add_argument("--jobs", type=int, default=2, help="runs at a time")
    options.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS), metavar="WAY")
    options.add_argument("--life", type=int, help="repeat this run of the one way in --only")
    options.add_argument("--report", type=Path, metavar="PAGE", help="write a page of the results")
    options.add_argument("--sum-up", action="store_true", help="interrupt nothing more")
    given = options.parse_args()
    wanted = {way: max(1, WANTED[way] // (10 if given.quick else 1)) for way in given.only}
    lines = given.json.with_name(given.json.name + ".lines.jsonl")
    lines.parent.mkdir(parents=True, exist_ok=True)
    results = read_lines(lines, given.seed)
    if not given.sum_up:
        with bench(given.jobs) as (folder, url, pool):
            work(given, wanted, lines, results, folder, url, pool)
    figures, table = figures_of(results), results
    setting = {"seed": given.seed, "jobs": given.jobs, "wanted": wanted, "child": child_settings()}
    common.write(given.json, figures=figures, setting=setting, table=table)
    if given.report is not None:
        given.report.write_text(page(json.loads(given.json.read_text())))
    failed = [one for one in results if one["failures"]]
    for one in failed:
        common.say(f"{one['way']} {one['life']} ({one['case']}): {one['failures'][0][:500]}")
    return 1 if failed else 0


def child_settings() -> Json:
    """What is shorter than in other runs."""
    from reliability_child import CHECKPOINT_SECONDS, STEPS

    return {"steps": STEPS, "checkpoint_seconds": CHECKPOINT_SECONDS, "pause": cases.PAUSE}


@contextmanager
def bench(jobs: int) -> Iterator[tuple[Path, str, ProcessPoolExecutor]]:
    """A folder with images, a server that classifies them, and processes that interrupt runs."""
    with tempfile.TemporaryDirectory(prefix="db3kd-reliability-") as name:
        folder = Path(name)
        cases.write_images(folder / "images")
        server = subprocess.Popen(
            [sys.executable, cases.__file__, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        try:
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            with ProcessPoolExecutor(jobs) as pool:
                yield folder, url, pool
        finally:
            server.kill()
            server.wait()


def work(
    given: argparse.Namespace,
    wanted: dict[str, int],
    lines: Path,
    results: list[Json],
    folder: Path,
    url: str,
    pool: ProcessPoolExecutor,
) -> None:
    """Interrupt runs until there are as many interruptions as are wanted."""
    images = folder / "images"
    begun = [
        pool.submit(whole, folder / f"whole-{at}", case, images, url)
        for at, case in enumerate(cases.CASES)
    ]
    known = dict(zip(cases.CASES, (one.result() for one in begun), strict=True))
    for case, found in known.items():
        common.say(f"{case.name}: {found.spent} queries, {found.start:.1f} + {found.work:.1f} s")
    running: dict[Future[Result], tuple[str, int]] = {}
    tried = {(one["way"], one["life"]) for one in results}
    while True:
        while len(running) < given.jobs:
            new = next_life(wanted, results, running, tried, only=given.life)
            if new is None:
                break
            way, number, most = new
            tried.add((way, number))
            life = made(folder, number, way, images, url, known)
            future = pool.submit(lived, life, way, number, given.seed, most)
            running[future] = way, most
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            running.pop(future)
            keep(future.result(), lines, results, wanted, folder)


def made(
    folder: Path, number: int, way: str, images: Path, url: str, known: dict[cases.Case, Whole]
) -> Life:
    """The run of this number: cases take turns."""
    case = cases.CASES[number * 7 % len(cases.CASES)]  # 7 and 18 have no common divisor
    return Life(folder / f"{way}-{number}", case, images, url, known[case])


def next_life(
    wanted: dict[str, int],
    results: list[Json],
    running: dict[Future[Result], tuple[str, int]],
    tried: set[tuple[str, int]],
    *,
    only: int | None,
) -> tuple[str, int, int] | None:
    """Way, number and most interruptions of the next run; None if there are enough."""
    left = {
        way: count
        - sum(len(one["interruptions"]) for one in results if one["way"] == way)
        - sum(most for other, most in running.values() if other == way)
        for way, count in wanted.items()
    }
    if only is not None:
        [way] = wanted
        return None if (way, only) in tried else (way, only, MOST_EACH[way])
    ways = [way for way in wanted if left[way] > 0]
    if not ways:
        return None
    way = max(ways, key=lambda one: left[one] / wanted[one])  # all proceed alike
    number = next(n for n in range(10**6) if (way, n) not in tried)
    return way, number, min(MOST_EACH[way], left[way])


def keep(
    result: Result, lines: Path, results: list[Json], wanted: dict[str, int], folder: Path
) -> None:
    """Append a result to the file of lines, and say how far it is."""
    found = asdict(result)
    if found["failures"]:
        found["repeat"] = (
            f"python benchmarks/reliability.py --json again.json --seed {result.seed}"
            f" --only {result.way} --life {result.life}"
        )
        name = f"{result.way}-{result.life}"
        kept = lines.with_name(f"{lines.name}.failed-{name}")
        shutil.copytree(folder / name, kept, dirs_exist_ok=True)
        common.say(f"FAILED {found['repeat']}: {found['failures'][0][-400:]} ({kept.name})")
    results.append(found)
    with lines.open("a") as file:
        file.write(json.dumps(found) + "\n")
        file.flush()
        os.fsync(file.fileno())
    done = Counter(one["way"] for one in results for _ in one["interruptions"])
    common.say(", ".join(f"{done[way]} of {count} {WORDS[way]}" for way, count in wanted.items()))


def read_lines(lines: Path, seed: int) -> list[Json]:
    """The runs that are done; a line that is not whole is left out."""
    found = []
    for line in lines.read_text().splitlines() if lines.exists() else []:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if one["seed"] == seed:
            found.append(one)
    return found


def figures_of(results: list[Json]) -> dict[str, float]:
    """Counts of what was done, and of what it cost."""
    found: dict[str, float] = {}
    for way in WAYS:
        runs = [one for one in results if one["way"] == way]
        all_ = [entry for one in runs for entry in one["interruptions"]]
        if not runs:
            continue
        found[f"interruptions.{way}"] = len(all_)
        found[f"runs.{way}"] = len(runs)
        found[f"failures.{way}"] = sum(bool(one["failures"]) for one in runs)
        for kind, some in (("local", True), ("remote", False)):
            lost = [
                entry["lost"]
                for one in runs
                for entry in one["interruptions"]
                if one["case"].endswith("local") == some and "lost" in entry
            ]
            if lost:
                found[f"lost.{way}.{kind}.mean"] = sum(lost) / len(lost)
                found[f"lost.{way}.{kind}.most"] = max(lost)
                found[f"lost.{way}.{kind}.none"] = sum(not one for one in lost) / len(lost)
    return found


def page(result: Json) -> str:
    """The page of the results in Markdown."""
    figures, table = result["figures"], result["table"]
    rows = [
        "| interruption | how many | of how many runs | broken laws | lost of a local teacher:"
        " mean, most | lost of a remote one |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for way in WAYS:
        if f"runs.{way}" not in figures:
            continue
        lost = [
            f"{figures[f'lost.{way}.{kind}.mean']:.1f}, {figures[f'lost.{way}.{kind}.most']:.0f}"
            if f"lost.{way}.{kind}.mean" in figures
            else ""
            for kind in ("local", "remote")
        ]
        counts = [
            f"{figures[f'{name}.{way}']:.0f}" for name in ("interruptions", "runs", "failures")
        ]
        rows.append(f"| {WORDS[way]} | {' | '.join([*counts, *lost])} |")
    where = Counter(entry["where"] for one in table for entry in one["interruptions"])
    stages = ", ".join(f"{name} {count}" for name, count in where.most_common())
    machine = result["machine"]
    return PAGE.format(
        rows="\n".join(rows),
        stages=stages,
        seed=result["setting"]["seed"],
        command=result["command"],
        commit=result["commit"],
        date=result["date"][:10],
        processor=machine["processor"],
        cores=machine["cores"],
        local=cases.LOCAL_BATCH,
        remote=cases.REMOTE_BATCH * cases.CONCURRENCY,
    )


PAGE = """# What interruptions cost

<!-- written by benchmarks/reliability.py -->

Real processes of the command line, interrupted at random moments and continued until they are
done: all stages, with a local teacher and with a server that has a store, without and with a
price. Every run then has the files of one that nobody interrupted, byte for byte. What the
teacher's own log says it was asked was on the books whenever we looked, and never beyond the
budget. Lost queries are those that were asked but whose answers never came; they are asked again.

{rows}

At most {local} images are on their way to the local teacher at once, and {remote} to the remote
one. Where runs were interrupted: {stages}.

- Budgets (of queries, and of money where there is a price) are what a whole run costs, and before
  a run is continued they are raised by what its books say is lost. After Ctrl-C nothing is lost,
  so they are not.
- A power cut is a SIGKILL after which the files are changed to what a disk may hold: of what was
  not synced, each sector old or new, the end cut, zeroed or garbled, and the last renames and
  removals undone. It may lose up to twice what was asked of the shard in progress.
- A full disk is a file system in memory that is too small, or a limit to the size of each file.
  The command ends with exit code 1 and one sentence.

Command: `{command}`, commit {commit}, seed {seed}, {processor}, {cores} cores, {date}.
[JSON](../../benchmarks/results/reliability.json) with every interruption.
"""


if __name__ == "__main__":
    raise SystemExit(main())
