"""Which trainer teaches a student most in the fewest steps, on the very same samples.

    python benchmarks/trainers.py [--quick] --json trainers.json [--sets S] [--trainers T]

A cell is a set of samples, a trainer and a number of steps. Students of all cells of a set learn
the same samples, of which a part is held back. `held` is the agreement with the teacher on that
part, by which trainers are chosen; accuracy and agreement on the test images are only reported.
All figures are after the last step, means over seeds. Cells that are done are kept.

`steps_over_adamw.SET` is the fewest steps after which Muon is not below what AdamW at 1e-3 reaches
in 6,000, over these. `cpu_over_kernels.lenet5_half` is the CPU time of a step of the trainer, over
that of the forward and backward functions of its layers alone.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median, stdev

import torch
from torch import Tensor, nn
from torch.nn import functional

import common
import stale
import teachers
from db3kd.config.settings import Budget, Grow, Search, Synthesis, Training
from db3kd.data import DataSet, TensorImages, in_memory, load
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError
from db3kd.run import Run
from db3kd.storage.files import write_atomically
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.networks import build, network_of
from db3kd.student.steps import steps_of
from db3kd.student.training import train
from db3kd.teachers import sklearn, torch_module
from db3kd.teachers.base import Teacher
from teachers import Lesson

TRAINERS: dict[str, Training] = {
    "adamw_1e-3": Training(optimiser="adamw", rate=1e-3, warmup=0.0, batch=64),
    "adamw_3e-3": Training(optimiser="adamw", batch=64),
    "sgd": Training(optimiser="sgd", batch=64),
    "sgd_0.02": Training(optimiser="sgd", rate=0.02, batch=64),
    "muon": Training(optimiser="muon", batch=64),
    "muon_0.01": Training(optimiser="muon", rate=0.01, batch=64),
    "muon_0.04": Training(optimiser="muon", rate=0.04, batch=64),
    "muon_decay": Training(optimiser="muon", weight_decay=0.05, batch=64),
    "muon_cold": Training(optimiser="muon", warmup=0.0, batch=64),
    "muon_cosine": Training(optimiser="muon", schedule="cosine", batch=64),
    "muon_average": Training(optimiser="muon", average=0.2, batch=64),
    "muon_smooth": Training(optimiser="muon", smoothing=0.1, batch=64),
    "muon_128": Training(optimiser="muon", batch=128),
    "muon_32": Training(optimiser="muon", batch=32),
}
LESSONS = {
    "mnist": Lesson("lenet5_mnist_muon", "lenet5", "mnist", 60_000, 4, training=Training()),
    "fashion": Lesson(
        "lenet5_fashion_muon", "lenet5", "fashion_mnist", 60_000, 10, training=Training()
    ),
    "cifar10": Lesson("alexnet_cifar10", "alexnet", "cifar10", 50_000, 5),  # as frontier.py has it
}
OWN, HELD, PSEUDO_HELD = 300, 2_000, 0.1
REFERENCE, REFERENCE_STEPS = "adamw_1e-3", 6_000


@dataclass(frozen=True)
class Bench:
    """Samples to learn and to judge by, test images with the teacher's answers, and the student."""

    name: str
    samples: TransferSet
    held: TransferSet
    test: DataSet
    answers: Tensor
    network: str
    width: float
    folder: Path
    device: str

    def student(self, seed: int) -> nn.Module:
        """A student, not trained yet."""
        shape = self.samples.images.shape
        return build(self.network, shape, len(self.test.classes), self.width, seed=seed)


def main() -> int:
    """Train what is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which runs are kept")
    options.add_argument("--sets", nargs="+", default=["fashion.50000"], help="DATA.SAMPLES")
    options.add_argument("--trainers", nargs="+", choices=TRAINERS, default=[REFERENCE, "muon"])
    options.add_argument("--steps", nargs="+", type=int, help="default: by the rule alone")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--width", type=float, help="of the student; default: 0.5")
    options.add_argument("--network", help="of the student; default: that of the teacher")
    options.add_argument("--threads", type=int, default=1, help="threads of torch; default: 1")
    options.add_argument("--device", default="cpu", help="of students; default: cpu")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "trainers"
    table: list[common.Json] = []
    for name in given.sets[:1] if given.quick else given.sets:
        bench = made(name, work, given.network, given.width or 0.5, given.device)
        for trainer in given.trainers:
            for steps in given.steps or (steps_of(Training(), len(bench.samples)),):
                line = cell(bench, trainer, steps, 1 if given.quick else given.seeds)
                table.append(line)
                common.say(f"  {line}")
    figures = dict(overs(table))
    step, kernels = step_costs()
    figures["cpu_over_kernels.lenet5_half"] = step / kernels
    setting = {
        "threads": given.threads,
        "step_ms": round(1000 * step, 3),
        "kernels_ms": round(1000 * kernels, 3),
        "teachers": {name: reached(name) for name in {n.split(".")[0] for n in given.sets}},
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def overs(table: list[common.Json]) -> list[tuple[str, float]]:
    """How many steps Muon needs for what the reference reaches, by set."""
    found = []
    for name in {line["set"] for line in table}:
        lines = [line for line in table if line["set"] == name]
        before = [
            line
            for line in lines
            if (line["trainer"], line["steps"]) == (REFERENCE, REFERENCE_STEPS)
        ]
        enough = [
            line["steps"]
            for line in lines
            if line["trainer"] == "muon" and before and line["held"] >= before[0]["held"]
        ]
        if enough:
            found.append((f"steps_over_adamw.{name}", min(enough) / REFERENCE_STEPS))
    return found


def cell(bench: Bench, trainer: str, steps: int, seeds: int) -> common.Json:
    """Train students of some seeds; what is done already is read."""
    found = [one(bench, trainer, steps, seed) for seed in range(seeds)]

    def all_of(name: str) -> list[float]:
        return [round(line[name], 2) for line in found]

    return {
        "set": bench.name,
        "trainer": trainer,
        "steps": steps,
        **{name: round(mean(all_of(name)), 2) for name in ("held", "agreement", "accuracy")},
        "spread": round(stdev(all_of("accuracy")), 2) if seeds > 1 else None,
        "of_seeds": {name: all_of(name) for name in ("held", "agreement", "accuracy")},
        "cpu_s": round(mean(all_of("cpu_s")), 1),
    }


def one(bench: Bench, trainer: str, steps: int, seed: int) -> common.Json:
    """Train one student."""
    training = TRAINERS[trainer]
    temperature = 1.0 if bench.samples.soft is None else training.temperature
    training = Training(
        **{
            **{name: getattr(training, name) for name in training.__struct_fields__},
            "steps": steps,
            "temperature": temperature,
        }
    )
    made_of = stale.digest(
        ("student/training.py", "student/optimisers.py"), repr(training).encode()
    )
    place = f"{bench.network}-{bench.width}-{trainer}-{steps}-{seed}-{made_of}.json"
    file = bench.folder / "cells" / place
    if file.exists():
        return dict(json.loads(file.read_text()))
    network, started = bench.student(seed), time.process_time()
    train(network, bench.samples, training, seed=seed, device=bench.device)
    seconds = time.process_time() - started

    def right(images: TransferSet | DataSet, labels: Tensor) -> float:
        return 100 * accuracy(predict(network, images.images, device=bench.device), labels)

    line = {
        "held": right(bench.held, bench.held.teacher_labels),
        "agreement": right(bench.test, bench.answers),
        "accuracy": right(bench.test, bench.test.labels),
        "cpu_s": seconds,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(line).encode())
    return line


def made(name: str, work: Path, network: str | None, width: float, device: str) -> Bench:
    """Make a set, such as fashion.50000 of pseudo samples, or fashion.300 of own images.

    fashion.300sd has soft labels by SD, fashion.300x30 has 30 grown images of each own one.
    """
    data, count = name.split(".")
    folder, teacher = work / name, taught(data)
    train_set, test = _images(data)
    pseudo = count.isdigit() and int(count) > OWN
    make = _pseudo if pseudo else _own
    samples, held = make(teacher, train_set, count, folder)
    answers = asked(teacher, test.images.read(torch.arange(len(test))))
    own = "small" if data == "digits" else LESSONS[data].network
    return Bench(name, samples, held, test, answers, network or own, width, folder, device)


def _images(data: str) -> tuple[DataSet, DataSet]:
    """Images that are nobody's yet, and those to test with."""
    if data == "digits":
        _, pixels, labels = teachers.digits()
        half, names = len(labels) // 2, tuple(map(str, range(10)))
        kept = (pixels * 255).round().to(torch.uint8)
        return (
            DataSet(TensorImages(kept[:half]), labels[:half], names),
            DataSet(TensorImages(kept[half:]), labels[half:], names),
        )
    test = load(LESSONS[data].data, "test")
    test = DataSet(in_memory(test.images), test.labels, test.classes)
    return load(LESSONS[data].data, "train"), test


def _pseudo(
    teacher: Teacher, data: DataSet, count: str, folder: Path
) -> tuple[TransferSet, TransferSet]:
    total = round(int(count) / (1 - PSEUDO_HELD))
    settings = Synthesis(
        queries=total, ensemble_labels=0, surrogate=network_of("auto", data.images.shape)
    )
    with Run(folder / "run", teacher, budget=Budget(queries=total)) as run:
        samples = run.synthesize(data.images.shape, settings)
        samples = replace(samples, images=in_memory(samples.images))
    draw = torch.Generator().manual_seed(0)
    rows = torch.randperm(total, generator=draw)
    return samples.select(rows[: int(count)]), samples.select(rows[int(count) :])


def _own(
    teacher: Teacher, data: DataSet, count: str, folder: Path
) -> tuple[TransferSet, TransferSet]:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(data), generator=draw)[: OWN + HELD]
    pixels = in_memory(data.images).values[rows]
    own, rest = TensorImages(pixels[:OWN]), TensorImages(pixels[OWN:])
    answers = asked(teacher, rest.read(torch.arange(len(rest))))
    held = TransferSet(rest, torch.arange(len(rest)), answers, answers)
    with Run(folder / "run", teacher) as run:
        if count.endswith("sd"):
            run.label(own, Search(metric="sd"))
            return run.transfer_set(own, "sd"), held
        run.answers(own)
        if "x" in count:
            run.grow(own, Grow(per_image=int(count.partition("x")[2]), choose="random"))
            grown = run.transfer_set(own, "grown")
            return replace(grown, images=in_memory(grown.images)), held
        return run.transfer_set(own, "ce"), held


def taught(name: str) -> Teacher:
    """The teacher of a data set, trained once."""
    if name == "digits":
        return sklearn(teachers.digits()[0])
    data = load(LESSONS[name].data, "train")
    data = DataSet(in_memory(data.images), data.labels, data.classes)
    return torch_module(teachers.trained(LESSONS[name], data), classes=len(data.classes))


def reached(name: str) -> float:
    """The teacher's accuracy, in percent."""
    _, test = _images(name)
    answers = asked(taught(name), test.images.read(torch.arange(len(test))))
    return round(100 * accuracy(answers, test.labels), 2)


def asked(teacher: Teacher, images: Tensor) -> Tensor:
    """The teacher's answers, beside the books of any run."""
    return torch.cat([teacher.labels(part).cpu() for part in images.split(256)])


def step_costs(steps: int = 60, turns: int = 9) -> tuple[float, float]:
    """CPU seconds of a step of LeNet-5-half with 64 images, and of its layers' functions alone."""
    count, draw = 64 * steps, torch.Generator().manual_seed(0)
    labels = torch.randint(10, (count,), generator=draw)
    pixels = torch.randint(256, (count, 1, 28, 28), generator=draw, dtype=torch.uint8)
    samples = TransferSet(TensorImages(pixels), torch.arange(count), labels, labels)
    training = Training(steps=steps, batch=64, temperature=1.0)

    def steps_of_trainer() -> None:
        network = build("lenet5", (1, 28, 28), 10, 0.5, seed=0)
        train(network, samples, training, seed=0, device="cpu")

    layers = _layers()

    def layers_alone() -> None:
        for _ in range(steps):
            for layer in layers:
                layer()

    whole, alone = [], []
    for _ in range(turns + 1):
        whole.append(_cpu(steps_of_trainer))
        alone.append(_cpu(layers_alone))
    return median(whole[1:]) / steps, median(alone[1:]) / steps


def _cpu(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _layers() -> list[Callable[[], object]]:
    """Forward and backward functions of the convolutions, pools and matrices, on fixed tensors."""
    ops = torch.ops.aten
    last = torch.channels_last
    made: list[Callable[[], object]] = []
    inputs = torch.rand(64, 1, 28, 28)
    for number, filters in enumerate((10, 25)):
        weight = torch.rand(filters, inputs.shape[1], 5, 5).to(memory_format=last)
        bias, before = torch.rand(filters), inputs.to(memory_format=last)
        there = functional.conv2d(before, weight, bias)
        pooled, places = functional.max_pool2d(there, 2, return_indices=True)
        back, mask = torch.rand_like(there), [number > 0, True, True]
        after = torch.rand_like(pooled)
        made += [
            lambda i=before, w=weight, b=bias: functional.conv2d(i, w, b),
            lambda t=there: functional.max_pool2d(t, 2, return_indices=True),
            lambda p=pooled: functional.relu(p),
            lambda a=after, p=pooled: ops.threshold_backward(a, p, 0),
            lambda a=after, t=there, p=places: ops.max_pool2d_with_indices_backward(
                a, t, [2, 2], [2, 2], [0, 0], [1, 1], False, p
            ),
            lambda g=back, i=before, w=weight, b=bias, m=mask: ops.convolution_backward(
                g, i, w, list(b.shape), [1, 1], [0, 0], [1, 1], False, [0, 0], 1, m
            ),
        ]
        inputs = pooled
    hidden = inputs.flatten(1)
    for outputs in (100, 10):
        weight, bias = torch.rand(outputs, hidden.shape[1]), torch.rand(outputs)
        there = torch.rand(64, outputs)
        made += [
            lambda h=hidden, w=weight, b=bias: functional.linear(h, w, b),
            lambda t=there, w=weight: t @ w,
            lambda t=there, h=hidden: t.T @ h,
            lambda t=there: t.sum(0),
        ]
        hidden = there
    made += [
        lambda: functional.relu(there),
        lambda: ops.threshold_backward(there, there, 0),
        lambda: functional.log_softmax(hidden, 1),
    ]
    return made


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
