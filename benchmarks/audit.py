"""Does the interval of an audit cover the truth as often as it says? On digits, many times over.

Teachers are an RBF support vector machine and a multi-layer perceptron on scikit-learn's digits. A
purchase is a random order of own images, asked in steps as `db3kd audit` does. At each step many
students learn. The truth of a purchase is where the mean of all its students on all test images
crosses a target. An audit sees a few of the students and some test images, drawn anew with
replacement, and stops by its own rule. Counted is how often its interval covers the truth of its
purchase, and the truth of the mean over all purchases, which it does not promise.

    python benchmarks/audit.py --quick --json benchmarks/results/audit_digits.json
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import common
from db3kd.config.settings import Training
from db3kd.data import Rows, TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.job.auditing.curve import Curve, Interval, Step, crossing
from db3kd.job.auditing.result import settled
from db3kd.job.auditing.tail import Tail
from db3kd.seeds import derive_seed
from db3kd.storage.shards import write_shard
from db3kd.student.evaluate import predict
from db3kd.student.training import train
from teachers import FOLDER

TARGETS = (0.60, 0.70, 0.80, 0.85)  # these students learn briefly
STEPS = (20, 40, 80, 160, 320, 600)
THEIRS = 600  # images that a teacher is fitted on; as many are own ones, the rest are test images
DRAWS = 500  # of the bootstrap of each audit


@dataclass(frozen=True)
class Size:
    """How much is done: `audits` of each purchase see `seeds` of its students, and `tests`."""

    purchases: int
    students: int
    audits: int
    seeds: int = 3
    tests: int = 300
    steps: int = 120  # of each training


SIZES = {True: Size(purchases=4, students=6, audits=60), False: Size(12, 20, 200)}


def teachers() -> dict[str, Any]:
    """The machine and the perceptron, fitted on the first images; and all images with labels."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    images, labels = digits()
    known, true = images[:THEIRS].flatten(1).numpy(), labels[:THEIRS].numpy()
    return {
        "svm": SVC(kernel="rbf", C=10).fit(known, true),
        "mlp": MLPClassifier((64,), max_iter=400, random_state=0).fit(known, true),
    }


def digits() -> tuple[Tensor, Tensor]:
    """All digits in a random order, with their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(7))
    images = (torch.from_numpy(bunch.images).float() / 16)[order].unsqueeze(1)
    return images, torch.from_numpy(bunch.target).long()[order]


def bought(name: str, teacher: Any, purchase: int, size: Size) -> Tensor:
    """Where each student of a purchase agrees with the teacher: step, student, test image."""
    file = FOLDER / f"audit-{name}-{purchase}-mlp-{size.students}-{size.steps}.safetensors"
    if file.exists():
        from safetensors.torch import load_file

        return load_file(file)["agrees"]
    images = digits()[0][THEIRS:]
    theirs = torch.from_numpy(teacher.predict(images.flatten(1).numpy())).long()
    own, test = TensorImages(images[:THEIRS]), TensorImages(images[THEIRS:])
    draw = torch.Generator().manual_seed(derive_seed(0, "purchase", purchase))
    order = torch.randperm(THEIRS, generator=draw)
    found = []
    for count in STEPS:
        rows = order[:count]
        known = TransferSet(Rows(own, rows), rows, theirs[rows], theirs[rows])
        said = []
        for number in range(size.students):
            seed = derive_seed(purchase, "student", number)
            network = student_of(seed)
            lesson = Training(optimiser="adamw", steps=size.steps)
            train(network, known, lesson, seed=seed, device="cpu")
            said.append(predict(network, test, device="cpu") == theirs[THEIRS:])
        found.append(torch.stack(said))
    agrees = torch.stack(found)
    file.parent.mkdir(exist_ok=True)
    write_shard(file, {"agrees": agrees})
    return agrees


def student_of(seed: int) -> nn.Module:
    """A small perceptron, which is quickly taught."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def one_audit(agrees: Tensor, size: Size, draw: torch.Generator) -> tuple[Curve, list[Step]]:
    """An audit that sees some students and test images, drawn with replacement, until it stops."""
    _, students, images = agrees.shape
    rows = torch.randint(images, (size.tests,), generator=draw)
    steps: list[Step] = []
    for number, count in enumerate(STEPS):
        picked = torch.randint(students, (size.seeds,), generator=draw)
        steps.append(Step(count, agrees[number][picked][:, rows]))
        curve = Curve.of(steps, draws=DRAWS, seed=int(rows[0]))
        tail = Tail.of(curve)
        if all(settled(curve, tail, target, STEPS[-1]) for target in TARGETS):
            break
    return curve, steps


def truth(agrees: Sequence[Tensor]) -> list[float]:
    """Where the mean of all students, on all test images, crosses each target."""
    mean = torch.stack([each.double().mean((1, 2)) for each in agrees]).mean(0)
    return [float(crossing(STEPS, mean[None].float(), target)[0]) for target in TARGETS]


def covers(interval: Interval, value: float, last: int) -> bool:
    """Whether an interval holds a value; all that lies beyond the last step is one value."""
    value = value if value <= last else math.inf
    return interval.low <= value + 1e-3 and value <= interval.high + 1e-3


def audited(name: str, agrees: list[Tensor], size: Size) -> Iterator[common.Json]:
    """A line for each audit and target."""
    overall = truth(agrees)
    for purchase, mine in enumerate(agrees):
        own = truth([mine])
        final = mine.double().mean((1, 2))
        for number in range(size.audits):
            draw = torch.Generator().manual_seed(derive_seed(purchase, name, number))
            curve, steps = one_audit(mine, size, draw)
            last = curve.answers[-1]
            tail = Tail.of(Curve.of(steps[:5], draws=DRAWS)) if len(steps) > 5 else None
            ahead = None
            if tail is not None:
                span = Interval.of(tail.at(STEPS[5]).flatten())
                ahead = span.low <= float(final[5]) <= span.high
            for at, target in enumerate(TARGETS):
                found, interval = curve.reached(target)
                yield {
                    "purchase": purchase,
                    "target": target,
                    "truth": own[at],
                    "found": found,
                    "low": interval.low,
                    "high": interval.high,
                    "covers": covers(interval, own[at], last),
                    "covers_mean": covers(interval, overall[at], last),
                    "last": last,
                    "ahead": ahead,
                }


def line(name: str, target: float, rows: list[common.Json]) -> common.Json:
    """What is written of one teacher and target."""
    closed = [row["high"] / max(row["low"], 1.0) for row in rows if math.isfinite(row["high"])]
    truths = sorted({row["truth"] for row in rows})
    return {
        "teacher": name,
        "target": target,
        "audits": len(rows),
        "truth": [round(value) if math.isfinite(value) else None for value in truths],
        "covers": round(sum(row["covers"] for row in rows) / len(rows), 4),
        "covers_mean": round(sum(row["covers_mean"] for row in rows) / len(rows), 4),
        "closed": len(closed),
        "stopped_after": round(sum(row["last"] for row in rows) / len(rows), 1),
    }


def main() -> None:
    """Teach, audit, count, and write."""
    options = common.parser(__doc__).parse_args()
    size, file = SIZES[options.quick], Path(options.json)
    table: list[common.Json] = []
    rows: list[common.Json] = []
    for name, teacher in teachers().items():
        agrees = []
        for purchase in range(size.purchases):
            started = time.perf_counter()
            agrees.append(bought(name, teacher, purchase, size))
            common.say(f"{name} {purchase}: {time.perf_counter() - started:.0f} s")
        mine = list(audited(name, agrees, size))
        rows += mine
        for target in TARGETS:
            table.append(line(name, target, [row for row in mine if row["target"] == target]))
            common.say(str(table[-1]))
    ahead = [row["ahead"] for row in rows if row["ahead"] is not None]
    figures = {
        "covers": sum(row["covers"] for row in rows) / len(rows),
        "covers_mean": sum(row["covers_mean"] for row in rows) / len(rows),
        "tail_covers": sum(ahead) / max(1, len(ahead)),
    }
    setting = {**vars_of(size), "targets": list(TARGETS), "answers": list(STEPS), "draws": DRAWS}
    common.write(file, figures=figures, setting=setting, table=table)


def vars_of(size: Size) -> common.Json:
    """The fields of a size."""
    return {name: getattr(size, name) for name in Size.__dataclass_fields__}


if __name__ == "__main__":
    main()
