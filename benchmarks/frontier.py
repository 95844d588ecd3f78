"""Accuracy without any data against queries: every way of synthesis with one meter and one trainer.

    python benchmarks/frontier.py [--quick] --json frontier.json [--work DIR]

Each cell makes pseudo samples in a run with the given budget, whose books say what was asked. It
trains a student half as wide as the teacher on them. A seed belongs to the whole cell: to the
samples and to the student. `accuracy.WAY.DATA.QUERIES` is the mean over seeds in percent, after the
last step. A second counter, inside the teacher, counts every image that it sees. A benchmark that
was stopped continues when it is started again. See README.md.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Literal, cast

import msgspec
import torch
from torch import Tensor, nn

import common
import frontier_plot
import spending
import stale
import teachers
from db3kd.config.settings import Budget, Search, Synthesis, Training, Ways, settled
from db3kd.data import DataSet, TensorImages, in_memory, load
from db3kd.errors import Db3kdError, InputError
from db3kd.run import Run
from db3kd.stages.ensemble_labels import images_for
from db3kd.storage.files import write_atomically
from db3kd.student.batches import resident
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.networks import Shape, build
from db3kd.student.steps import steps_of
from db3kd.student.training import fitting, train
from db3kd.teachers import sklearn, torch_module
from db3kd.teachers.base import Teacher
from spending import Case
from teachers import Lesson

WAYS: dict[Ways | Literal["alone", "distances"], str] = {
    "noise": "uniform noise",
    "shapes": "structured images, asked at random",
    "chosen": "structured images and their descendants, where students are least sure",
    "latent": "structured images and neighbours in their latents, least sure first",
    "alone": "chosen, but students learn the answers alone, without ensemble labels",
    "dip_kd": "DIP-KD: multi-scale noise that a primer student tells apart",
    "ideal": "IDEAL: a new generator for each batch, fitted to the student",
    "qedg": "QEDG: a generator aimed at the boundary, asked where the student is unsure",
    "dfms": "DFMS-HL: a GAN of synthetic shapes, then generator and clone in turn",
    "disguide": "DisGUIDE, hard labels: a generator of images on which two clones disagree",
    "distances": "alone with a tenth of the queries; the others buy distances as soft labels",
    "unrelated": "KnockoffNets: unlabelled images of something else, at random; needs such images",
    "unrelated_chosen": "such images, where students are least sure",
}
FIELD = (  # the networks of the literature, the same for teacher and student
    Case(
        "mnist_field",
        Lesson("mnist_field", "lenet5_classic", "mnist", 60_000, epochs=12, training=Training()),
        "lenet5_classic",
        1.0,
        10_000,
        (),
    ),
    Case(
        "fashion_field",
        Lesson(
            "fashion_field",
            "lenet5_classic",
            "fashion_mnist",
            60_000,
            epochs=12,
            training=Training(),
        ),
        "lenet5_classic",
        1.0,
        10_000,
        (),
    ),
)
CASES = (*spending.CASES, *FIELD)
UNRELATED = {"mnist": "fashion_mnist", "fashion": "mnist", "cifar10": "cifar100"}
BUDGETS = (5_000, 25_000, 100_000, 250_000, 1_000_000)
LESSONS = 16  # rounds of a million queries; shards of the default size would make it 61
MEASURED = 9  # queries for the distances of a pseudo sample, with way "distances"
SOURCES = (
    *stale.STUDENT,
    "stages/synthesis.py",
    "stages/ensemble_labels.py",
    "synthesis/augmentation.py",
    "synthesis/acquisition.py",
)
OF_ALL_WAYS = ("at_random", "chosen", "fields", "pool", "shapes", "way")  # files of `synthesis`
OF_ONE_WAY = {
    "latent": ("latent",),
    "dip_kd": ("rivals/dip_kd",),
    "ideal": ("rivals/ideal", "rivals/generator"),
    "qedg": ("rivals/qedg", "rivals/generator"),
    "dfms": ("rivals/dfms", "rivals/generator"),
    "disguide": ("rivals/disguide", "rivals/generator"),
    "unrelated": ("unrelated",),
    "unrelated_chosen": ("unrelated",),
}
FORMAT = 1  # of what is kept: another number where this file changes what is bought


class Counted:
    """A teacher that counts the images it sees, in a file that outlives the process."""

    def __init__(self, teacher: Teacher, file: Path) -> None:
        self.teacher, self.classes, self.bounds = teacher, teacher.classes, teacher.bounds
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def labels(self, images: Tensor, /) -> Tensor:
        """The class index of each image."""
        os.write(self.file, f"{len(images)}\n".encode())
        return self.teacher.labels(images)


@dataclass(frozen=True)
class Problem:
    """A teacher and test images; there are no other images."""

    case: Case
    teacher: Teacher
    test: DataSet
    weights: bytes
    folder: Path
    device: str
    answers: Tensor  # the teacher's, to the test images; not on the books of any run

    @property
    def reached(self) -> float:
        """The teacher's accuracy, in percent."""
        return 100 * accuracy(self.answers, self.test.labels)


def main() -> int:
    """Make and train whatever is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which runs are kept")
    options.add_argument(
        "--case",
        nargs="+",
        choices=[case.name for case in CASES],
        default=["mnist", "fashion"],
        help="data sets to use; default: mnist fashion",
    )
    options.add_argument("--only", nargs="+", choices=WAYS, help="only these ways")
    options.add_argument("--budgets", nargs="+", type=int, help="only these numbers of queries")
    options.add_argument("--seeds", type=int, default=3, help="seeds per cell; default: 3")
    options.add_argument("--first-seed", type=int, default=0, help="the first seed; default: 0")
    options.add_argument(
        "--steps", type=int, help="training batches per student; default: as many as in a run"
    )
    options.add_argument("--teacher-epochs", type=int, help="for the teacher; default: few")
    options.add_argument("--teacher-images", type=int, help="to train it; default: the case's")
    options.add_argument(
        "--surrogate", help="network of students that choose; default: that of the student"
    )
    options.add_argument(
        "--ensemble-labels",
        type=int,
        help="images with ensemble labels; default: for way chosen as in a run",
    )
    options.add_argument(
        "--temperature", type=float, help="of soft labels; default: the paper's for distances, or 1"
    )
    options.add_argument("--device", default="cpu", help="where networks run; default: cpu")
    options.add_argument("--threads", type=int, help="threads of torch; default: torch's own")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "frontier"
    seeds = range(given.first_seed, given.first_seed + (1 if given.quick else given.seeds))
    budgets = given.budgets or ((1_000,) if given.quick else BUDGETS)
    ways = given.only or (("shapes",) if given.quick else tuple(WAYS))
    table: list[common.Json] = []
    for name in ["mnist"] if given.quick else given.case:
        problem = made(next(case for case in CASES if case.name == name), work, given)
        for way, queries in cells(ways, budgets):
            if way.startswith("unrelated") and name not in UNRELATED:
                continue  # no other images have this shape
            shape = problem.test.images.shape
            plan = plan_of(
                problem.case, shape, way, queries, given.ensemble_labels, given.surrogate
            )
            heat = given.temperature
            if heat is None:
                heat = 1.0 if plan.search is None else Training().temperature
            training = Training(steps=given.steps, temperature=heat)
            line = cell(problem, plan, training, seeds=seeds)
            table.append(line)
            common.say(f"  {line}")
        lines = [line for line in table if line["data"] == name]
        frontier_plot.draw(lines, given.json.with_suffix(f".{name}.png"), name)
    setting = {
        "device": given.device,
        "threads": torch.get_num_threads(),
        "ways": WAYS,
        "default": Synthesis().way,
        "ensemble_labels": given.ensemble_labels,
        "teacher_epochs": given.teacher_epochs,
        "teacher_images": given.teacher_images,
        "surrogate": given.surrogate,
        "training": msgspec.to_builtins(Training(steps=given.steps)),
    }
    common.write(given.json, figures=figures_of(table), setting=setting, table=table)
    return 0


def figures_of(table: Sequence[common.Json]) -> dict[str, float]:
    """The figures of a table by way, and once more for the default."""
    figures = {}
    for line in table:
        names = [line["way"], *(["default"] if line["way"] == Synthesis().way else [])]
        for name in names:
            figures[f"accuracy.{name}.{line['data']}.{line['budget']}"] = line["accuracy"]
    return figures


@dataclass(frozen=True)
class Plan:
    """How a way spends a budget: on pseudo samples, and on distances if there is a search."""

    way: str
    budget: int
    settings: Synthesis
    search: Search | None = None


def cells(ways: Sequence[str], budgets: Sequence[int]) -> Iterator[tuple[str, int]]:
    """All pairs of way and budget, small budgets first."""
    for queries in sorted(budgets):
        for way in ways:
            yield way, queries


def made(case: Case, work: Path, given: common.Json) -> Problem:
    """Make the teacher, trained briefly, and the test images."""
    device = given.device
    kind = "" if device == "cpu" else f"-{device.partition(':')[0]}"
    folder = work / f"{case.name}{kind}"
    epochs, images = given.teacher_epochs, given.teacher_images
    if case.lesson is None:
        if epochs or images:
            raise InputError(f"the teacher of {case.name} is not a network; leave its lesson out")
        machine, pixels, labels = teachers.digits()
        teacher, weights = sklearn(machine), repr(machine.get_params()).encode()
        test = DataSet(TensorImages(pixels), labels, tuple(map(str, range(10))))
        return Problem(case, teacher, test, weights, folder, device, teacher.labels(pixels))
    lesson = case.lesson.on(device)
    lesson = replace(lesson, epochs=epochs or lesson.epochs, train=images or lesson.train)
    data = load(lesson.data, "train")
    net = teachers.trained(lesson, DataSet(in_memory(data.images), data.labels, data.classes))
    test = load(lesson.data, "test")
    test = DataSet(in_memory(test.images), test.labels, test.classes)
    teacher = torch_module(net, classes=len(data.classes), device=device)
    blocks = torch.arange(len(test)).split(256)
    said = [teacher.labels(test.images.read(rows).to(device)).cpu() for rows in blocks]
    weights = lesson.path.read_bytes()
    return Problem(case, teacher, test, weights, folder, device, torch.cat(said))


def cell(problem: Problem, plan: Plan, training: Training, *, seeds: Sequence[int]) -> common.Json:
    """Make samples, train and test for every seed; what exists already is not done again."""
    found = [one(problem, plan, training, seed) for seed in seeds]
    accuracies = [line["accuracy"] for line in found]
    return {
        "data": problem.case.name,
        "way": plan.way,
        "budget": plan.budget,
        "ensemble_labels": plan.settings.ensemble_labels,
        "seeds": list(seeds),
        "asked": [line["asked"] for line in found],
        "seen_by_teacher": [line["seen"] for line in found],
        "accuracy": round(mean(accuracies), 2),
        "spread": round(stdev(accuracies), 2) if len(seeds) > 1 else None,
        "accuracies": [round(each, 2) for each in accuracies],
        "agreement": round(mean(line["agreement"] for line in found), 2),
        "teacher": round(problem.reached, 2),
        "fewest_of_a_class": [min(line["counts"]) for line in found],
        "steps": found[0]["steps"],
        "optimiser": found[0].get("optimiser"),  # None: kept from before it was noted
        "temperature": training.temperature,
        "synthesis_s": [line["synthesis_s"] for line in found],
        "student_s": [line["student_s"] for line in found],
    }


def one(problem: Problem, plan: Plan, training: Training, seed: int) -> common.Json:
    """Run one seed of a cell; the result is kept in the folder."""
    settings = plan.settings
    files = (*OF_ALL_WAYS, *OF_ONE_WAY.get(settings.way, ()))
    sources = (*SOURCES, *(f"synthesis/{file}.py" for file in files))
    what = (settings, FORMAT) if plan.search is None else (settings, plan.search, FORMAT)
    if plan.search is not None:
        sources = (*sources, *stale.JOINT)
    made_of = stale.digest(sources, repr(what).encode(), problem.weights)
    folder = problem.folder / f"{plan.way}-{plan.budget}-{seed}-{made_of}"
    result = folder / f"student-{training.steps or 'default'}-{training.temperature}.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    counter = folder / "seen-by-teacher"
    teacher = Counted(problem.teacher, counter)
    budget = Budget(queries=plan.budget)
    with Run(folder, teacher, budget=budget, seed=seed, device=problem.device) as run:
        others = load(settings.images, "train").images if settings.images else None
        samples = run.synthesize(problem.test.images.shape, settings, images=others)
        if plan.search is not None:
            samples = run.measure_pseudo(plan.search)
        price = run.costs.stages("synthesis", "pseudo/")
        counts, asked = run.pseudo.counts, run.meter.spent
    seen = sum(map(int, counter.read_text().split()))
    started = time.perf_counter()
    net = student(problem, seed)
    samples = replace(samples, images=resident(samples.images))
    halfway = result.with_suffix(".checkpoint")
    train(net, samples, training, seed=seed, device=problem.device, checkpoint=halfway)
    seconds = time.perf_counter() - started
    answers = predict(net, problem.test.images, device=problem.device).cpu()
    line = {
        "accuracy": 100 * accuracy(answers, problem.test.labels),
        "agreement": 100 * accuracy(answers, problem.answers),
        "asked": asked,
        "seen": seen,
        "counts": counts,
        "synthesis_s": round(price.seconds, 1),
        "student_s": round(seconds, 1),
        "steps": steps_of(training, len(samples)),
        "optimiser": settled(fitting(training, samples, net)).optimiser,
        "network": problem.case.network,
    }
    write_atomically(result, json.dumps(line).encode())
    halfway.unlink(missing_ok=True)
    return line


def plan_of(
    case: Case,
    shape: Shape,
    name: str,
    queries: int,
    ensemble_labels: int | None = None,
    surrogate: str | None = None,
) -> Plan:
    """How a way spends its queries; students that choose are like the one that is trained."""
    search = Search(per_image=MEASURED) if name == "distances" else None
    way = Synthesis().way if name in ("alone", "distances") else cast("Ways", name)
    if ensemble_labels is None and name != Synthesis().way:
        ensemble_labels = 0
    asked = queries if search is None else queries // (1 + MEASURED)
    settings = Synthesis(
        queries=asked,
        way=way,
        surrogate=surrogate or case.network,
        width=case.width,
        ensemble_labels=ensemble_labels,
        shard=max(Synthesis().shard, asked // LESSONS),
        images=UNRELATED[case.name] if name.startswith("unrelated") else None,
    )
    more = images_for(case.network, settings, shape, asked=asked)
    settings = msgspec.structs.replace(settings, ensemble_labels=more)
    return Plan(name, queries, settings, search)


def student(problem: Problem, seed: int) -> nn.Module:
    """Make a student, not trained yet."""
    case, shape = problem.case, problem.test.images.shape
    return build(case.network, shape, problem.teacher.classes, case.width, seed=seed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
