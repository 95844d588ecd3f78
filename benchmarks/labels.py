"""Label quality against queries an image: all classes under one budget.

    python benchmarks/labels.py [--quick] --json labels.json [--work DIR]

Three searches spend the same budget on each image: references alone, row by row (the default
descent, an equal share for each class), and together (a surrogate proposes). `METRIC.DATA.BUDGET`
is of the last; `METRIC.DATA.BUDGET.SEARCH` of each. It needs `pip install -e '.[benchmarks]'`.
Finished cells are kept in the work folder: stopped and started again, it goes on. See README.md.
"""

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import common
import teachers
from db3kd.amortised.memory import measure_together
from db3kd.data import DataSet
from db3kd.errors import Db3kdError
from db3kd.robustness import measure
from db3kd.settings import Search
from db3kd.student import predict
from db3kd.teacher import Meter
from rows import OWN, POOL, Case, Task, prepare
from teachers import Lesson

FULL = (
    Case("lenet5_mnist", Lesson("lenet5_mnist", "lenet5", "mnist", 60_000, 6), 20),
    Case("lenet5_fashion", Lesson("lenet5_fashion", "lenet5", "fashion_mnist", 60_000, 6), 20),
    Case("alexnet_cifar10", Lesson("alexnet_cifar10", "alexnet", "cifar10", 20_000, 3), 20),
)
QUICK = (Case("lenet5_mnist", Lesson("lenet5_mnist", "lenet5", "mnist", 10_000, 2), 20),)
BUDGETS = (30, 100, 300, 1000, 3000)
EXACT = 10_000  # queries a class of the distances that are taken as true
SEARCHES = ("references", "rows", "together")
METRICS = (
    "over_white_box",
    "spearman",
    "nearest_right",
    "spearman_logits",
    "runner_up_right",
)
SEED = 0


@dataclass(frozen=True)
class Bench:
    """One case: the images that are measured, what is taken as true of the first of them."""

    task: Task
    data: DataSet  # that the surrogate learns from
    answers: Tensor
    images: Tensor
    own: Tensor
    exact: Tensor  # distances (image, class) of the first images, by EXACT queries a class
    logits: Tensor  # the teacher's, which nobody else may see

    def metrics(self, distance: Tensor) -> dict[str, float]:
        """How good the labels are that these distances make."""
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
        }


def others(values: Tensor, own: Tensor) -> Tensor:
    """The columns of all classes but the own one, in order."""
    keep = torch.arange(values.shape[1]) != own[:, None]
    return values[keep].reshape(len(values), -1)


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of each image over its other classes, mean over the images."""
    first, second = (values.argsort(1).argsort(1).double() for values in (one, other))
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return float(((first * second).sum(1) / (first.square().sum(1))).mean())


def same_first(one: Tensor, other: Tensor) -> float:
    """Share of the images of which both have the same nearest class."""
    return float((one.argmin(1) == other.argmin(1)).double().mean())


def main() -> int:
    """Measure what is not there yet, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder of results that are kept")
    options.add_argument("--case", action="append", help="one case only; may be repeated")
    options.add_argument("--only", nargs="+", choices=SEARCHES, default=SEARCHES)
    options.add_argument("--budgets", nargs="+", type=int, help="queries an image")
    options.add_argument("--images", type=int, help="measured at once; default: 200, quick: 20")
    options.add_argument("--true", type=int, help="of which so many exactly; default: 20, quick: 2")
    options.add_argument("--threads", type=int, help="of torch; default: as many as torch takes")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "labels"
    budgets = given.budgets or ((100,) if given.quick else BUDGETS)
    images, exactly = given.images or (20 if given.quick else 200), given.true
    exactly = exactly or (2 if given.quick else 20)
    figures: dict[str, float] = {}
    table: list[common.Json] = []
    for case in QUICK if given.quick else FULL:
        if given.case and case.name not in given.case:
            continue
        bench = made(case, images, exactly, work, quick=given.quick)
        name = case.name.split("_")[1]
        for budget in budgets:
            for search in given.only:
                cell = measured(bench, search, budget, work / case.folder, quick=given.quick)
                table.append({"case": case.name, "search": search, "budget": budget, **cell})
                common.say(f"  {table[-1]}")
                for metric in METRICS:
                    figures[f"{metric}.{name}.{budget}.{search}"] = cell[metric]
                    if search == "together":
                        figures[f"{metric}.{name}.{budget}"] = cell[metric]
    setting = {
        "threads": torch.get_num_threads(),
        "quick": given.quick,
        "images": images,
        "exact_images": exactly,
        "exact_queries": EXACT,
        "seed": SEED,
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def made(case: Case, images: int, exactly: int, work: Path, *, quick: bool) -> Bench:
    """The teacher, the images that it gets right, and what is taken as true of them."""
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
    file = work / case.folder / f"exact-{exactly}-{EXACT}.safetensors"
    if not file.exists():
        common.say(f"{case.name}: {EXACT} queries for each class of {exactly} images")
        search = Search(queries=EXACT)
        some = slice(exactly)
        found = measure(
            task.teacher, block[some], own[some], task.references, search, noise_seed=SEED
        )
        save_file({"distance": found["mbd"].distance}, file)
    exact = load_file(file)["distance"]
    return Bench(task, data, answers, block, own, exact, logits)


def measured(bench: Bench, search: str, budget: int, folder: Path, *, quick: bool) -> common.Json:
    """One cell: the metrics, and what was really asked an image; kept in the folder."""
    settings = settings_of(search, budget, members=1 if quick else Search().members)
    name = f"{search}-{budget}-{len(bench.images)}"
    file = folder / f"{name}.json"
    if file.exists():
        kept: common.Json = json.loads(file.read_text())
        return kept
    meter, started = Meter(bench.task.teacher), time.perf_counter()
    references = bench.task.references
    if settings.strategy == "rows":
        with torch.no_grad():
            found = measure(meter, bench.images, bench.own, references, settings, noise_seed=SEED)[
                "mbd"
            ]
    else:

        def report(number: int, now: object) -> None:
            spent = meter.spent / len(bench.images)
            common.say(f"  {name}: round {number + 1}, {spent:.0f} queries an image")

        found = measure_together(
            meter,
            bench.images,
            bench.own,
            references,
            settings,
            pool=bench.data.images,
            answers=bench.answers,
            seed=SEED,
            report=report,
        )
    if meter.spent != int(found.queries.sum()):
        raise RuntimeError(f"{name} booked {int(found.queries.sum())}, the meter {meter.spent}")
    cell = {metric: round(value, 4) for metric, value in bench.metrics(found.distance).items()}
    cell |= {
        "queries_an_image": round(meter.spent / len(bench.images), 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    file.write_text(json.dumps(cell))
    return cell


def settings_of(search: str, budget: int, *, members: int) -> Search:
    """How a search spends so many queries an image."""
    if search == "rows":
        return Search(queries=max(1, budget // 9))
    surrogate = "none" if search == "references" else "auto"
    return Search(strategy="together", per_image=budget, surrogate=surrogate, members=members)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
