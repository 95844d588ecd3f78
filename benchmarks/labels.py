"""Label quality against queries per image: all classes of an image under one budget.

    python benchmarks/labels.py [--quick] --json labels.json [--work DIR]

Three searches spend the same budget on each image: references alone, row by row (the default
descent, with an equal share for each class), and together (joint search, where a surrogate
proposes). `METRIC.DATA.BUDGET.SEARCH` is the figure of each; `METRIC.DATA.BUDGET` is that of the
joint search. `student` is the accuracy of students that learn from these labels. It needs
`pip install -e '.[benchmarks]'`. What was bought is kept in the work folder, and a benchmark that
was stopped continues when it is started again. See README.md.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save
from torch import Tensor

import common
import panels
import pupils
import stale
import teachers
from db3kd.config.settings import Search
from db3kd.data import DataSet, TensorImages, in_memory, load
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError
from db3kd.search.joint.in_memory import measure_jointly
from db3kd.search.robustness import RobustnessMap
from db3kd.search.rows import measure
from db3kd.storage.files import write_atomically
from db3kd.student.evaluate import predict
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter
from pupils import PUPILS, Pupil
from quality import others, same_first, spearman
from rows import OWN, POOL, Case, Task, prepare
from teachers import Lesson

FULL = (
    Case("lenet5_mnist", Lesson("lenet5_mnist", "lenet5", "mnist", 60_000, 6), 20),
    Case("lenet5_fashion", Lesson("lenet5_fashion", "lenet5", "fashion_mnist", 60_000, 6), 20),
    Case("alexnet_cifar10", Lesson("alexnet_cifar10", "alexnet", "cifar10", 20_000, 3), 20),
)
QUICK = (Case("lenet5_mnist", Lesson("lenet5_mnist", "lenet5", "mnist", 10_000, 2), 20),)
BUDGETS = (30, 100, 300, 1000, 3000)
PLENTY = ("rows", 9000)  # whose student the others are to equal
EXACT = 10_000  # queries a class of the distances that are taken as true
SEARCHES = ("references", "rows", "together")
METRICS = (
    "over_white_box",
    "spearman",
    "nearest_right",
    "spearman_logits",
    "runner_up_right",
    "spearman_white",
    "nearest_white",
    "student",
    "student_spread",
)
SEED = 0
FORMAT = 3  # of what is kept: another number where this file changes what is bought


@dataclass(frozen=True)
class Bench:
    """One case: the images that are measured, and what is taken as true for the first of them."""

    task: Task
    data: DataSet  # that the surrogate learns from
    answers: Tensor
    images: Tensor
    own: Tensor
    exact: Tensor  # distances (image, class) of the first images, by EXACT queries a class
    logits: Tensor  # the teacher's, which nobody else may see
    test: DataSet
    pupil: Pupil
    weights: bytes  # the teacher's: another teacher's results are not used

    def metrics(self, distance: Tensor) -> dict[str, float]:
        """How good the labels made from these distances are."""
        rows = self.task.rows
        near, few = len(rows.images), len(self.exact)
        white = rows.white.reshape(near, -1)
        mine = others(distance, self.own)
        exact = others(self.exact, self.own[:few])
        scores = -others(self.logits, self.own)
        known = white.isfinite()
        return {
            "over_white_box": float(mine[:near][known].mean() / white[known].mean()),
            "ratio_mean": float((mine[:near][known] / white[known]).mean()),
            "spearman": spearman(mine[:few], exact),
            "nearest_right": same_first(mine[:few], exact),
            "spearman_logits": spearman(mine, scores),
            "runner_up_right": same_first(mine, scores),
            "exact_over_white_box": float(exact.sum() / white[:few].sum()),
            "spearman_white": spearman(mine[:few], white[:few]),
            "nearest_white": same_first(mine[:few], white[:few]),
            "exact_spearman_white": spearman(exact, white[:few]),
            "exact_nearest_white": same_first(exact, white[:few]),
        }

    def rounded(self, distance: Tensor) -> dict[str, float]:
        """The metrics as a line to read."""
        return {key: round(value, 4) for key, value in self.metrics(distance).items()}


def main() -> int:
    """Measure whatever is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which results are kept")
    options.add_argument("--case", action="append", help="only this case; may be repeated")
    options.add_argument("--only", nargs="+", choices=SEARCHES, default=SEARCHES)
    options.add_argument("--budgets", nargs="+", type=int, help="only these queries per image")
    options.add_argument("--images", type=int, help="to measure; default: 200, quick: 20")
    options.add_argument("--true", type=int, help="images measured exactly; default: 20, quick: 2")
    options.add_argument("--seeds", type=int, help="students per cell; default: 5, quick: 1")
    options.add_argument("--threads", type=int, help="threads of torch; default: torch's own")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "labels"
    images, exactly = given.images or (20 if given.quick else 200), given.true
    exactly, seeds = exactly or (2 if given.quick else 20), given.seeds or (1 if given.quick else 5)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float] = {}
    table: list[common.Json] = []
    for case in QUICK if given.quick else FULL:
        if given.case and case.name not in given.case:
            continue
        bench = made(case, images, exactly, work, quick=given.quick)
        wanted = cells(given.only, given.budgets, quick=given.quick)
        lines = measured(bench, wanted, work / case.folder, seeds=seeds, quick=given.quick)
        figures |= summed_up(case.name.split("_")[1], lines)
        table += [{"case": case.name, **line} for line in lines]
        plot = given.json.with_suffix(f".{case.name}.png")
        panels.draw(lines, plot, f"{case.name}: {images} images", bar=PLENTY)
    setting = {
        "threads": torch.get_num_threads(),
        "quick": given.quick,
        "images": images,
        "exact_images": exactly,
        "exact_queries": EXACT,
        "seeds": seeds,
        "students": {name: msgspec.to_builtins(pupil) for name, pupil in PUPILS.items()},
        "seed": SEED,
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def cells(
    only: Sequence[str], budgets: Sequence[int] | None, *, quick: bool
) -> list[tuple[str, int]]:
    """All pairs of search and budget, small budgets first; `PLENTY` last, if rows are wanted."""
    listed = budgets or ((100,) if quick else BUDGETS)
    found = [(search, budget) for budget in listed for search in only]
    return found if PLENTY in found or PLENTY[0] not in only else [*found, PLENTY]


def summed_up(data: str, lines: Sequence[common.Json]) -> dict[str, float]:
    """The figures of one case; those without a search are those of "together"."""
    figures = {}
    for line in lines:
        for metric in METRICS:
            if metric in line:
                name = f"{metric}.{data}.{line['budget']}"
                figures[f"{name}.{line['search']}"] = line[metric]
                if line["search"] == "together":
                    figures[name] = line[metric]
    return figures


def made(case: Case, images: int, exactly: int, work: Path, *, quick: bool) -> Bench:
    """Make the teacher, the images that it gets right, and what is taken as true for them."""
    if case.lesson is None:
        raise RuntimeError("every case here has a network")
    task = prepare(case, min(images, 2 if quick else 56), work)
    data = teachers.training_images(case.lesson, POOL + OWN)
    net = teachers.trained(case.lesson, data)
    answers = predict(net, data.images, device="cpu", batch=256)
    usable = torch.arange(POOL, POOL + OWN)
    order = usable[torch.randperm(OWN, generator=torch.Generator().manual_seed(1))]
    taken = order[(answers == data.labels)[order]][:images]  # begins with the rows of `prepare`
    block, own = data.images.read(taken), answers[taken]
    with torch.no_grad():
        logits = net(block)
    weights = case.lesson.path.read_bytes()
    search = Search(strategy="rows", queries=EXACT)
    file = work / case.folder / f"exact-{exactly}-{version(search, weights)}.safetensors"
    if not file.exists():
        common.say(f"{case.name}: {EXACT} queries for each class of {exactly} images")
        found = by_rows(task, task.teacher, block[:exactly], own[:exactly], search)
        write_atomically(file, save({"distance": found.distance}))
    exact = load_file(file)["distance"]
    test = load(case.lesson.data, "test")
    test = DataSet(in_memory(test.images), test.labels, test.classes)
    pupil = PUPILS[case.lesson.network]
    return Bench(task, data, answers, block, own, exact, logits, test, pupil, weights)


def version(search: Search, weights: bytes) -> str:
    """A digest of all that the purchases depend on: settings, sources, teacher, and this file."""
    sources = stale.ROWS if search.strategy == "rows" else stale.JOINT
    return stale.digest(sources, msgspec.json.encode(search), weights, bytes([FORMAT, SEED]))


def measured(
    bench: Bench, wanted: Sequence[tuple[str, int]], folder: Path, *, seeds: int, quick: bool
) -> list[common.Json]:
    """A line for the students of the answers alone, then one for each cell."""
    plain = TransferSet(
        TensorImages(bench.images), torch.arange(len(bench.own)), bench.own, bench.own
    )

    def students(distance: Tensor | None, name: str) -> common.Json:
        transfer = pupils.with_labels(plain, distance)
        return pupils.line(
            pupils.taught(bench.pupil, transfer, bench.test, seeds=seeds, folder=folder, name=name)
        )

    name = f"answers-{len(bench.images)}-{stale.digest((), bench.weights)}"
    lines = [{"search": "answers", "budget": 0, **students(None, name)}]
    for search, budget in wanted:
        settings = settings_of(search, budget, members=1 if quick else Search().members)
        name = f"{search}-{budget}-{len(bench.images)}-{version(settings, bench.weights)}"
        spent, distance = bought(bench, settings, folder, name)
        metrics = bench.rounded(distance)
        cell = {"search": search, "budget": budget}
        lines.append({**cell, **metrics, **students(distance, name), **spent})
        common.say(f"  {lines[-1]}")
    return lines


def bought(bench: Bench, settings: Search, folder: Path, name: str) -> tuple[common.Json, Tensor]:
    """The queries per image that a search really spent, and its distances; kept in the folder."""
    file = folder / f"{name}.json"
    tensors = file.with_suffix(".safetensors")
    if file.exists():
        kept: common.Json = json.loads(file.read_text())
        return kept, load_file(tensors)["distance"]
    meter, started = Meter(bench.task.teacher), time.perf_counter()
    rounds: list[common.Json] = []
    if settings.strategy == "rows":
        found = by_rows(bench.task, meter, bench.images, bench.own, settings)
    else:

        def report(number: int, now: RobustnessMap) -> None:
            line = {"queries_an_image": round(meter.spent / len(bench.images), 1)}
            line |= bench.rounded(now.distance)
            common.say(f"  {name}: round {number + 1}: {line}")
            rounds.append(line)

        found = measure_jointly(
            meter,
            bench.images,
            bench.own,
            bench.task.references,
            settings,
            pool=bench.data.images,
            answers=bench.answers,
            seed=SEED,
            report=report,
        )
    if meter.spent != int(found.queries.sum()):
        raise RuntimeError(f"{name} booked {int(found.queries.sum())}, the meter {meter.spent}")
    spent = {
        "queries_an_image": round(meter.spent / len(bench.images), 1),
        "seconds": round(time.perf_counter() - started, 1),
        **({"rounds": rounds} if rounds else {}),
    }
    write_atomically(tensors, save({"distance": found.distance, "queries": found.queries}))
    write_atomically(file, json.dumps(spent).encode())  # last: it says that the cell is whole
    return spent, found.distance


def by_rows(
    task: Task, teacher: Teacher, images: Tensor, own: Tensor, search: Search
) -> RobustnessMap:
    """The default search, with each class on its own."""
    with torch.no_grad():
        found = measure(teacher, images, own, task.references, search, noise_seed=SEED)
    return found["mbd"]


def settings_of(search: str, budget: int, *, members: int) -> Search:
    """How a search spends a budget of queries per image."""
    if search == "rows":
        return Search(strategy="rows", queries=max(1, budget // 9))
    surrogate = "none" if search == "references" else "auto"
    return Search(strategy="joint", per_image=budget, surrogate=surrogate, members=members)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
