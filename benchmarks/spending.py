"""What an answer is best spent on: accuracy of students at equal totals of answers.

    python benchmarks/spending.py [--quick] --json spending.json [--work DIR]

Each method spends the same number of answers, those for own images included. It has its own run,
whose books confirm the number. A student learns from what was bought.
`accuracy.METHOD.DATA.OWNxANSWERS` is the mean over seeds in percent, after the last step. A
benchmark that was stopped continues when it is started again. See README.md.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor, nn

import common
import curves
import stale
import teachers
from db3kd.config.recipe import StudentConfig
from db3kd.config.settings import Budget, Grow, Search, Spend, Training
from db3kd.data import DataSet, TensorImages, in_memory, load
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError
from db3kd.run import Run
from db3kd.storage.files import write_atomically
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.networks import build
from db3kd.student.training import train
from db3kd.teachers import sklearn, torch_module
from db3kd.teachers.base import Teacher
from teachers import Lesson

METHODS = {
    "labels": "the own images with their answers",
    "distances": "(a) their soft labels by distance, all classes at once",
    "probes": "(b) the same probes as plain labelled images",
    "grown": "(c) grown images, asked at random",
    "margin": "(d) grown images, those that students are least sure of",
    "bald": "(d) grown images, those on which students disagree",
    "mixed": "(e) half of the answers on distances, half on grown images",
    "selected": "(c), and by true classes whether all, some or none of it is learned (--truth)",
    "auto": "what a trial on the own images decides: (a) or (d)",
    "logits": "upper reference: the own images with the teacher's logits",
    "grown_logits": "upper reference: (c) with the teacher's logits",
}
BUDGETS = (1, 10, 30, 100, 300)  # answers an own image, its own included
LOGIT_TEMPERATURE = 4.0
BATCH = 64
SEED = 0
FORMAT = 1  # of what is kept: another number where this file changes what is bought


@dataclass(frozen=True)
class Case:
    """A data set, its teacher, and the student: half as wide, trained on `steps` batches of 64."""

    name: str
    lesson: Lesson | None
    network: str
    width: float
    steps: int
    own: tuple[int, ...]


CASES = (
    Case("digits", None, "small", 1.0, 3_000, (300,)),
    Case(
        "mnist",
        Lesson("lenet5_mnist", "lenet5", "mnist", 60_000, 6),
        "lenet5",
        0.5,
        10_000,
        (300, 3_000, 60_000),
    ),
    Case(
        "fashion",
        Lesson("lenet5_fashion", "lenet5", "fashion_mnist", 60_000, 6),
        "lenet5",
        0.5,
        10_000,
        (300, 3_000, 60_000),
    ),
    Case(
        "cifar10",
        Lesson("alexnet_cifar10", "alexnet", "cifar10", 20_000, 3),
        "alexnet",
        0.5,
        10_000,
        (300, 3_000, 50_000),
    ),
)


@dataclass(frozen=True)
class Problem:
    """A teacher, own images, test images.

    - `net`: the teacher's network, for its logits, which only upper references see.
    - `truth`: the true classes of the own images, for the cross-entropy term of Eq. 1; None if this
      term uses the answers.
    """

    case: Case
    teacher: Teacher
    net: nn.Module | None
    own: TensorImages
    truth: Tensor | None
    test: DataSet
    weights: bytes
    folder: Path
    device: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.teacher.classes


def main() -> int:
    """Buy and train whatever is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which runs are kept")
    options.add_argument("--case", nargs="+", help="only these data sets")
    options.add_argument("--only", nargs="+", choices=METHODS, help="only these methods")
    options.add_argument("--own", nargs="+", type=int, help="only these numbers of images")
    options.add_argument("--budgets", nargs="+", type=int, help="only these answers per image")
    options.add_argument("--seeds", type=int, default=3, help="students per cell")
    options.add_argument("--steps", type=int, help="training batches per student")
    options.add_argument(
        "--truth", action="store_true", help="own images have their true classes, as in the paper"
    )
    options.add_argument("--device", default="cpu", help="for search and students; default: cpu")
    options.add_argument("--threads", type=int, help="threads of torch; default: torch's own")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "spending"
    seeds = 1 if given.quick else given.seeds
    given.json.parent.mkdir(parents=True, exist_ok=True)
    table: list[common.Json] = []
    for case in CASES:
        wanted = ["digits"] if given.quick else given.case
        if wanted and case.name not in wanted:
            continue
        for count in given.own or case.own:
            problem = made(case, count, work, truth=given.truth, device=given.device)
            budgets = given.budgets or ((10,) if given.quick else BUDGETS)
            for method, budget in cells(given.only or tuple(METHODS), budgets, problem):
                steps = given.steps or case.steps
                table.append(cell(problem, method, budget, steps=steps, seeds=seeds))
                common.say(f"  {table[-1]}")
        lines = [line for line in table if line["data"] == case.name]
        curves.draw(lines, given.json.with_suffix(f".{case.name}.png"), case.name)
    name = default()
    figures = {}
    for line in table:
        place = f"{line['data']}.{line['own']}x{line['budget']}"
        figures[f"accuracy.{line['method']}.{place}"] = line["accuracy"]
        if line["method"] == name:
            figures[f"accuracy.default.{place}"] = line["accuracy"]
    setting = {
        "labels": "truth" if given.truth else "teacher",
        "device": given.device,
        "threads": torch.get_num_threads(),
        "methods": METHODS,
        "default": name,
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def default() -> str:
    """The method of a recipe that names none."""
    method = StudentConfig(network="lenet5").methods[0]
    if method == "grown" and Grow().choose != "random":
        return Grow().choose
    return {"ce": "labels", "mbd": "distances"}.get(method, method)


def cells(
    methods: Sequence[str], budgets: Sequence[int], problem: Problem
) -> Iterator[tuple[str, int]]:
    """Methods and budgets, small budgets first; methods that buy nothing more are listed once."""
    for budget in budgets:
        for method in methods:
            plain = method in ("labels", "logits")
            if method == "selected" and problem.truth is None:
                continue
            if plain != (budget == 1) or (problem.net is None and "logits" in method):
                continue
            yield method, budget


def made(
    case: Case, count: int, work: Path, *, truth: bool = False, device: str = "cpu"
) -> Problem:
    """Make the teacher, draw `count` own images at random, and take the test images."""
    kind = "" if device == "cpu" else f"-{device.partition(':')[0]}"
    folder = work / f"{case.name}{kind}" / str(count)
    if case.lesson is None:
        machine, images, labels = teachers.digits()
        own, rest = TensorImages(images[:count]), slice(len(images) // 2, None)
        known = labels[:count] if truth else None
        held = DataSet(TensorImages(images[rest]), labels[rest], tuple(map(str, range(10))))
        weights = repr(machine.get_params()).encode()
        return Problem(case, sklearn(machine), None, own, known, held, weights, folder, device)
    lesson = case.lesson.on(device)
    data = load(lesson.data, "train")
    data = DataSet(in_memory(data.images), data.labels, data.classes)
    net = teachers.trained(lesson, data)
    draw = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(data), generator=draw)[:count]
    own = TensorImages(in_memory(data.images).values[rows])
    known = data.labels[rows] if truth else None
    test = load(lesson.data, "test")
    test = DataSet(in_memory(test.images), test.labels, test.classes)
    weights = lesson.path.read_bytes()
    teacher = torch_module(net, classes=len(data.classes), device=device)
    return Problem(case, teacher, net, own, known, test, weights, folder, device)


def cell(problem: Problem, method: str, budget: int, *, steps: int, seeds: int) -> common.Json:
    """Buy, train and test; what exists already is not done again."""
    count = len(problem.own)
    grow, search = settings_of(method, budget)
    settings = repr((grow, search, FORMAT)).encode()
    sources = (*stale.JOINT, "synthesis/a*.py", "stages/growing.py")
    if method == "auto":
        sources = (*sources, "stages/trial.py", "stages/judge.py")
    name = f"{method}-{budget}-{stale.digest(sources, settings, problem.weights)}"
    with Run(
        problem.folder / name,
        problem.teacher,
        budget=Budget(queries=count * budget),
        seed=SEED,
        device=problem.device,
    ) as run:
        started = time.perf_counter()
        if method == "auto":
            transfer = spent_by_trial(run, problem, budget, steps)
        elif method == "selected":
            untried, grow = Spend(per_image=budget - 1, trial=0), Grow(choose="random")
            transfer = spent_by_trial(run, problem, budget, steps, untried, grow)
        else:
            transfer = bought(run, problem, method, grow, search)
        seconds = time.perf_counter() - started
        spent, decision, selection = run.meter.spent, run.decision, run.selection
    temperature = LOGIT_TEMPERATURE if "logits" in method else Training().temperature
    training = Training(steps=steps, batch=BATCH, temperature=temperature)
    accuracies = [taught(problem, transfer, training, name, seed) for seed in range(1, seeds + 1)]
    return {
        "data": problem.case.name,
        "method": method,
        "own": count,
        "budget": budget,
        "answers_an_image": round(spent / count, 2),
        "accuracy": round(mean(accuracies), 2),
        "spread": round(stdev(accuracies), 2) if seeds > 1 else None,
        "accuracies": [round(each, 2) for each in accuracies],
        "teacher": round(100 * teacher_accuracy(problem), 2),
        "samples": len(transfer),
        "steps": steps,
        "buying_s": round(seconds, 1),
        **({"decision": asdict(decision)} if decision else {}),
        **({"selection": asdict(selection)} if selection else {}),
    }


def settings_of(method: str, budget: int) -> tuple[Grow | None, Search | None]:
    """How a method spends a number of answers per image, the image's own answer not counted."""
    left = budget - 1
    match method:
        case "grown" | "grown_logits" | "selected":
            return Grow(per_image=left, choose="random"), None
        case "margin":
            return Grow(per_image=left, choose="margin"), None
        case "bald":
            return Grow(per_image=left, choose="bald"), None
        case "distances" | "probes":
            return None, Search(per_image=left)
        case "mixed":
            return Grow(per_image=left - left // 2, choose="random"), Search(per_image=left // 2)
    return None, None


def bought(
    run: Run, problem: Problem, method: str, grow: Grow | None, search: Search | None
) -> TransferSet:
    """The transfer set that a method buys."""
    images, truth = problem.own, problem.truth
    run.answers(images)
    if grow is not None:
        run.grow(images, grow)
    if search is not None:
        run.measure(images, search)
    match method:
        case "labels":
            return run.transfer_set(images, "ce", labels=truth)
        case "distances":
            return run.transfer_set(images, "mbd", labels=truth)
        case "probes":
            return run.transfer_set(images, "ce", labels=truth).joined(run.probes(images))
        case "mixed":
            return run.transfer_set(images, "mixed", labels=truth)
        case "logits":
            return with_logits(problem, run.transfer_set(images, "ce", labels=truth))
        case "grown_logits":
            return with_logits(problem, run.transfer_set(images, "grown", labels=truth))
    return run.transfer_set(images, "grown", labels=truth)


def spent_by_trial(
    run: Run,
    problem: Problem,
    budget: int,
    steps: int,
    spend: Spend | None = None,
    grow: Grow | None = None,
) -> TransferSet:
    """What a run of method "auto" buys for the student of this case."""
    return run.spend(
        problem.own,
        student(problem, seed=0),
        spend or Spend(per_image=budget - 1),
        grow=grow,
        training=Training(steps=steps, batch=BATCH),
        labels=problem.truth,
    )


def with_logits(problem: Problem, transfer: TransferSet) -> TransferSet:
    """The same samples with the teacher's logits, which only a benchmark may see."""
    if problem.net is None:
        raise RuntimeError("this teacher has no logits")
    with torch.no_grad():
        found = [
            problem.net(transfer.images.read(rows).to(problem.device)).cpu()
            for rows in torch.arange(len(transfer)).split(256)
        ]
    return transfer.with_soft(torch.cat(found))


def taught(
    problem: Problem, transfer: TransferSet, training: Training, name: str, seed: int
) -> float:
    """Accuracy of one student in percent after the last step; kept in the folder."""
    kind = "" if problem.truth is None else "truth-"
    name = f"{name}-{kind}{training.steps}-{seed}-{stale.digest(stale.STUDENT)}"
    file = problem.folder / f"{name}.json"
    if file.exists():
        return float(json.loads(file.read_text())["accuracy"])
    net = student(problem, seed=seed)
    train(net, transfer, training, seed=seed, device=problem.device)
    answers = predict(net, problem.test.images, device=problem.device).cpu()
    found = 100 * accuracy(answers, problem.test.labels)
    write_atomically(file, json.dumps({"accuracy": found}).encode())
    return found


def student(problem: Problem, *, seed: int) -> nn.Module:
    """Make a student, not trained yet."""
    case = problem.case
    return build(case.network, problem.own.shape, problem.classes, case.width, seed=seed)


def teacher_accuracy(problem: Problem) -> float:
    """The teacher's accuracy on the test images, which is not on the books."""
    images = problem.test.images
    with torch.no_grad():
        answers = [
            problem.teacher.labels(images.read(rows).to(problem.device)).cpu()
            for rows in torch.arange(len(images)).split(256)
        ]
    return accuracy(torch.cat(answers), problem.test.labels)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
