"""Why a better teacher is harder to copy without data: what students learn of drawn shapes.

    python benchmarks/strong_teacher.py [--quick] --json strong_teacher.json [--seeds N]

A weak and a strong teacher of Fashion-MNIST with the same network answer the same shapes, drawn at
random. `robust` is the share of answers that noise of 0.1 leaves as they are. `held` is how often
a student of some shapes agrees on other shapes, `agreement` how often on test images.

The other selections are no methods: they look at the teacher's scores, or at answers that nobody
counts. They show which shapes would have taught more, among eight times as many: as many of each
class, those of the largest margins in each class, those whose four corners are black as in most
test images, and images of the training set.
"""

import sys
from collections.abc import Iterator
from statistics import mean, stdev

import torch
from torch import Generator, Tensor, nn

import common
import spending
import teachers
from db3kd.config.settings import Training
from db3kd.data import DataSet, TensorImages, in_memory, load
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError
from db3kd.seeds import derive_seed
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.fast import fast_form
from db3kd.student.networks import build, inference_batch
from db3kd.student.steps import steps_of
from db3kd.student.training import train
from db3kd.synthesis.shapes import shapes
from teachers import Lesson

DATA = "fashion_mnist"
[WEAK] = [c.lesson for c in spending.CASES if c.lesson is not None and c.name == "fashion"]
STRONG = Lesson("lenet5_fashion_muon", "lenet5", DATA, 60_000, epochs=10, training=Training())
TEACHERS = {"weak": WEAK, "strong": STRONG}
MORE = 8  # times as many shapes, among which one chooses
HELD, NOISE, TURNS = 5_000, 0.1, 4
SIDE = 27  # pixels from one corner of an image to the next
SELECTIONS = ("random", "balanced", "margins", "corners", "real")


class Scored:
    """A teacher's scores of images, and what follows from them."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        with torch.no_grad():
            some = inference_batch(images.shape[1:])
            self.scores = torch.cat([network(part) for part in images.split(some)])
        best = self.scores.topk(2, 1)
        self.answers, self.margins = best.indices[:, 0], best.values[:, 0] - best.values[:, 1]


def main() -> int:
    """Measure every teacher and selection, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--sizes", nargs="+", type=int, default=[5_000])
    options.add_argument("--large", nargs="*", type=int, default=[], help="sizes, at random only")
    given = options.parse_args()
    torch.set_num_threads(1)
    seeds = 1 if given.quick else given.seeds
    sizes = [500] if given.quick else given.sizes
    train_set, test = (_in_memory(part) for part in ("train", "test"))
    table, reached = [], {}
    for name, lesson in TEACHERS.items():
        network = teachers.trained(lesson, train_set).eval()
        told = Scored(network, test.images.read(torch.arange(len(test)))).answers
        reached[name] = round(100 * accuracy(told, test.labels), 2)
        for size, selection in [
            *((size, selection) for size in sizes for selection in SELECTIONS),
            *((size, "random") for size in given.large),
        ]:
            found = [
                one(network, selection, size, train_set, test, told, seed) for seed in range(seeds)
            ]
            line = {"teacher": name, "selection": selection, "samples": size, **summed(found)}
            common.say(f"  {line}")
            table.append(line)
    figures = {
        f"{what}.{line['teacher']}.{line['selection']}.{line['samples']}": line[what][0]
        for line in table
        for what in ("held", "agreement")
    }
    common.write(given.json, figures=figures, setting={"teachers": reached}, table=table)
    return 0


def one(
    network: nn.Module,
    selection: str,
    size: int,
    train_set: DataSet,
    test: DataSet,
    told: Tensor,
    seed: int,
) -> common.Json:
    """Teach a student of one selection, and judge it; the shapes are the same for all teachers."""
    draw = Generator().manual_seed(derive_seed(seed, "shapes"))
    shape = train_set.images.shape
    held = _rounded(shapes(HELD, shape, draw))
    if selection == "real":
        images = train_set.images.read(torch.randperm(len(train_set), generator=draw)[:size])
    else:
        count = size if selection == "random" else MORE * size
        images = _rounded(shapes(count, shape, draw))
    said = Scored(network, images)
    rows = torch.tensor(list(selected(selection, size, images, said)))
    images, answers, margins = images[rows], said.answers[rows], said.margins[rows]
    student = fast_form(build("lenet5", shape, len(test.classes), 0.5, seed=seed), "cpu")
    known = TransferSet(TensorImages(images), torch.arange(len(rows)), answers, answers)
    steps = steps_of(Training(), len(rows))
    train(student, known, Training(steps=steps, temperature=1.0), seed=seed, device="cpu")

    def right(some: Tensor, labels: Tensor) -> float:
        return 100 * accuracy(predict(student, TensorImages(some), device="cpu"), labels)

    noise = torch.randn(TURNS, *images.shape, generator=draw) * NOISE
    same = [
        Scored(network, (images + some).clamp(0, 1)).answers == answers for some in noise.unbind()
    ]
    return {
        "held": right(held, Scored(network, held).answers),
        "agreement": right(test.images.read(torch.arange(len(test))), told),
        "robust": 100 * float(torch.stack(same).float().mean()),
        "margin": float(margins.median()),
        "learned": len(rows),
    }


def selected(selection: str, size: int, images: Tensor, said: Scored) -> Iterator[int]:
    """The rows of a selection, at most `size`."""
    if selection == "corners":
        dark = images[:, :, ::SIDE, ::SIDE].amax((1, 2, 3)) == 0
        yield from dark.nonzero()[:size, 0].tolist()
    elif selection in ("balanced", "margins"):
        each = size // said.scores.shape[1]
        for kind in range(said.scores.shape[1]):
            rows = (said.answers == kind).nonzero()[:, 0]
            if selection == "margins":
                rows = rows[said.margins[rows].argsort(descending=True, stable=True)]
            yield from rows[:each].tolist()
    else:
        yield from range(size)


def summed(found: list[common.Json]) -> dict[str, tuple[float, float | None]]:
    """Mean and standard deviation of each figure."""
    return {
        what: (
            round(mean(line[what] for line in found), 2),
            round(stdev(line[what] for line in found), 2) if len(found) > 1 else None,
        )
        for what in found[0]
    }


def _in_memory(part: str) -> DataSet:
    data = load(DATA, part)
    return DataSet(in_memory(data.images), data.labels, data.classes)


def _rounded(images: Tensor) -> Tensor:
    """As 8 bits keep them."""
    return (images * 255).round() / 255


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
