"""A support-vector machine that only says which digit it sees teaches a convolutional network.

    make demo                     (or: .venv/bin/python examples/demo.py [FOLDER])

The teacher has no gradient and gives no scores: it answers 0 to 9. The student has 200 images
without labels, and learns about the teacher's boundary by asking. Four students are compared.
"ce" is trained on the teacher's answers alone; "sd", "bd" and "mbd" are also trained on soft labels
made from distances to the boundary. All four have the same images, settings and seeds, and the
network after the last epoch counts. The data are the 8x8 digits that come with scikit-learn, so
nothing is downloaded.

Everything is kept in the folder (runs/demo). Run it again and it continues, or is done at once.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import db3kd
from db3kd.cli.terminal import table
from db3kd.config.methods import Method
from db3kd.data import TensorImages
from db3kd.job.report import show
from db3kd.job.reporting.findings import mean_of
from db3kd.job.reporting.gallery import keep_gallery
from db3kd.progress import Progress, shown, silent
from db3kd.search.robustness import References
from db3kd.search.rows import minimal_boundary_distance
from db3kd.stages.students import Evaluation
from db3kd.storage.files import write_atomically
from db3kd.student.networks import build
from db3kd.student.soft_labels import concentrate, reciprocal_activations
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter

METHODS: tuple[Method, ...] = ("ce", "sd", "bd", "mbd")
# Row by row, since BD is compared as well; the default, a joint search, does not measure it.
SEARCH = db3kd.Search(strategy="rows", queries=300, probes=50, shard=50)
# The weight 1 is the paper's. Its temperature 0.3 is for MNIST. Activations scale with distances,
# which are several times shorter between images of 64 pixels.
TRAINING = db3kd.Training(epochs=100, batch=32, rate=3e-3, temperature=0.05)
COLORS = ("#d9730d", "#2f6fb0")  # of the nearest class and the second nearest
TITLE = "Where a teacher that answers only a class changes its mind"
NOTE = (
    "change: red became darker, blue lighter.   distance: Euclidean, pixels from 0 to 1."
    "   soft label: activations of Eq. 7 from all nine distances, before the temperature."
)
PASSED_ON = 0.2  # of the test images, to the teacher
POINT_QUERIES = 1000  # for each point in the picture


@dataclass(frozen=True)
class Settings:
    """The settings of the demo; the defaults take about a minute on two idle cores."""

    split: int = 7  # seed that shuffles the digits before they are divided
    theirs: int = 897  # images that the teacher learned from; the student never sees them
    own: int = 200  # images that are labelled by asking; the rest is for the test
    search: db3kd.Search = SEARCH
    training: db3kd.Training = TRAINING
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: int = 550_000  # queries, for everything but the picture
    pictured: int = 4  # images in the picture


@dataclass(frozen=True)
class Digits:
    """The teacher, own and test images; `test_labels` are the truth, used for accuracy alone."""

    teacher: Teacher
    own: TensorImages
    test: TensorImages
    test_labels: Tensor


def digits(settings: Settings) -> Digits:
    """Divide the digits into three parts, and fit the teacher on its part."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    bunch = load_digits()
    images = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(settings.split))
    theirs, own, test = order.tensor_split((settings.theirs, settings.theirs + settings.own))
    machine = SVC(kernel="rbf", C=10).fit(images[theirs].flatten(1).numpy(), labels[theirs].numpy())
    return Digits(
        db3kd.teachers.sklearn(machine),
        TensorImages(images[own]),
        TensorImages(images[test]),
        labels[test],
    )


def demo(
    folder: Path, settings: Settings | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Label, distill, evaluate and draw; return the content of summary.json."""
    settings = settings or Settings()
    data = digits(settings)
    budget = db3kd.Budget(queries=settings.budget)
    with db3kd.Run(folder, data.teacher, budget=budget, progress=progress) as run:
        run.measure(data.own, settings.search)  # SD and BD are measured on the way to MBD
        methods = {method: students(run, data, method, settings) for method in METHODS}
        asked = picture(run, data, settings, folder / "demo.png")
        keep_gallery(run, run.transfer_set(data.own, "mbd"), data.test)  # for the report
        summary = {
            "teacher": {"accuracy": methods["ce"].pop("teacher_accuracy")},
            "methods": methods,
            "images": {"own": len(data.own), "test": len(data.test)},
            "queries": {"spent": run.meter.spent, "budget": settings.budget, "picture": asked},
        }
    for row in methods.values():
        row.pop("teacher_accuracy", None)
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")
    show(folder)
    return summary


def students(run: db3kd.Run, data: Digits, method: Method, settings: Settings) -> dict[str, Any]:
    """Train and test one student per seed, in the same way for every method."""
    transfer = run.transfer_set(data.own, method)
    found = []
    for seed in settings.seeds:
        network = build("small", data.own.shape, run.meter.classes, seed=seed)
        network = run.distill(network, transfer, settings.training, seed=seed, name=method)
        found.append(run.evaluate(network, data.test, data.test_labels, name=method, seed=seed))
    queries, label_s = len(data.own), 0.0  # each image's class is asked for once
    if method != "ce":
        distances = run.distances(method)
        queries, label_s = queries + int(distances.queries.sum()), distances.seconds
    training_s = [run.costs.training_seconds(method, seed) for seed in settings.seeds]
    return {
        "accuracy": [result.accuracy for result in found],
        "agreement": [result.agreement for result in found],
        "with_teacher": [with_teacher(result) for result in found],
        "queries": queries,
        "seconds": round(label_s + sum(training_s), 1),
        "label_s": round(label_s, 1),
        "training_s": training_s,
        "seeds": list(settings.seeds),
        "teacher_accuracy": found[0].teacher_accuracy,
    }


def with_teacher(found: Evaluation) -> float | None:
    """Agreement once the teacher answers where the student is least sure, a fifth of the images."""
    points = found.cascade.points if found.cascade else ()
    return next((point.agreement for point in points if point.share == PASSED_ON), None)


# The picture


@dataclass(frozen=True)
class Example:
    """One image, its two nearest other classes, and the nearest points found of each."""

    image: Tensor
    own: int
    classes: list[int]
    points: Tensor
    distances: list[float]
    activations: Tensor


def picture(run: db3kd.Run, data: Digits, settings: Settings, file: Path) -> int:
    """Draw examples of the boundary unless the file exists; return what their points cost.

    A run keeps distances but not points, so a few points are searched again. They go through a
    separate meter, which is not on the books of the run; demo.json holds their cost.
    """
    note = file.with_suffix(".json")
    if file.exists() and note.exists():
        return int(json.loads(note.read_text())["queries"])
    meter = Meter(data.teacher, db3kd.Budget(queries=settings.pictured * 2 * POINT_QUERIES))
    write_atomically(file, draw(examples(run, data, settings, meter)))
    write_atomically(note, json.dumps({"queries": meter.spent}).encode())
    return meter.spent


def examples(run: db3kd.Run, data: Digits, settings: Settings, meter: Meter) -> list[Example]:
    """Examples from the first image of each digit, as many as the picture has room for."""
    own, distances = run.answers(data.own), run.distances("mbd").distance
    activations = concentrate(reciprocal_activations(distances, own), own)
    firsts = sorted(int((own == k).nonzero()[0]) for k in sorted(set(own.tolist())))[
        : settings.pictured
    ]
    found = []
    for row in firsts:
        here = torch.tensor([row])
        near = distances[row].argsort()[1:3]  # the nearest of all is its own class, at 0
        start = torch.isin(own, near).nonzero()[:, 0]
        walked = minimal_boundary_distance(
            meter,
            data.own.read(here),
            own[here],
            References(data.own.read(start), own[start], torch.zeros(meter.classes).bool()),
            db3kd.Search(queries=POINT_QUERIES, probes=100),
            noise_seed=row,
            keep_points=True,
        )
        if walked.points is not None:
            found.append(
                Example(
                    data.own.read(here)[0, 0],
                    int(own[row]),
                    near.tolist(),
                    walked.points[0, near, 0],
                    walked.distance[0, near].tolist(),
                    activations[row],
                )
            )
    return found


def draw(examples: Sequence[Example]) -> bytes:
    """Draw one row per image: the image, two points just across the boundary, the soft label."""
    from matplotlib.figure import Figure

    height = 2.3 * len(examples) + 1.55
    figure = Figure(figsize=(13, height), dpi=110, facecolor="white")
    grid = figure.add_gridspec(len(examples), 6, width_ratios=(1, 1, 1, 1, 1, 2.1))
    grid.update(left=0.02, right=0.98, bottom=0.75 / height, top=1 - 1.25 / height)
    grid.update(hspace=0.32, wspace=0.12)
    for row, example in enumerate(examples):
        axes = [figure.add_subplot(grid[row, column]) for column in range(6)]
        _pixels(axes[0], example.image, f"the teacher says {example.own}")
        for k in range(2):
            point = example.points[k]
            _pixels(axes[1 + 2 * k], point, f"here it says {example.classes[k]}", COLORS[k])
            _change(axes[2 + 2 * k], point - example.image, f"distance {example.distances[k]:.2f}")
        _bars(axes[5], example)
    heads = ("image", "nearest class", "change", "second nearest", "change", "soft label")
    for axis, head in zip(figure.axes[:6], heads, strict=True):
        place = axis.get_position()
        middle, top = (place.x0 + place.x1) / 2, 1 - 0.86 / height
        figure.text(middle, top, head, ha="center", fontsize=12.5, color="0.4")
    figure.text(0.02, 1 - 0.4 / height, TITLE, fontsize=16, fontweight="bold")
    figure.text(0.02, 0.22 / height, NOTE, fontsize=10.5, color="0.4")
    content = BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _frame(axis: Any, title: str, color: str) -> None:
    axis.set_title(title, fontsize=11, color=color, pad=5)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_color("0.75")


def _pixels(axis: Any, image: Tensor, title: str, color: str = "0.15") -> None:
    axis.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
    _frame(axis, title, color)


def _change(axis: Any, change: Tensor, title: str) -> None:
    axis.imshow(change.numpy(), cmap="RdBu_r", vmin=-0.6, vmax=0.6)
    _frame(axis, title, "0.15")


def _bars(axis: Any, example: Example) -> None:
    colors = ["0.78"] * len(example.activations)
    for k, color in zip((example.own, *example.classes), ("0.15", *COLORS), strict=True):
        colors[k] = color
    axis.bar(range(len(colors)), example.activations.numpy(), color=colors, width=0.75)
    axis.set_xticks(range(len(colors)))
    axis.tick_params(length=0, labelsize=10)
    axis.set_yticks([])
    axis.margins(x=0.02, y=0.08)
    for side in ("top", "left", "right"):
        axis.spines[side].set_visible(False)


def shared(row: dict[str, Any]) -> str:
    """What the students of a method are worth with the teacher beside them, in words."""
    shares = [share for share in row["with_teacher"] if share is not None]
    return (
        f"mbd's students agree on {mean_of(shares)} if the teacher answers the"
        f" {100 * PASSED_ON:.0f} % that they are least sure of"
    )


def main(arguments: Sequence[str]) -> None:
    """Run the demo and print what it found."""
    torch.set_num_threads(1)  # the networks are tiny: a second thread would only be in the way
    folder, started, settings = Path(*arguments or ["runs/demo"]), time.monotonic(), Settings()
    print(__doc__.partition("\n")[0])
    with shown() as progress:
        found = demo(folder, settings, progress)
    images, queries = found["images"], found["queries"]
    print(
        f"\n{images['own']} images without labels, {images['test']} to test on,"
        f" {len(settings.seeds)} seeds\n\n{table(found)}\n\n"
        f"{queries['spent']:,} of {queries['budget']:,} queries spent, and {queries['picture']:,}"
        f" for the picture\n{shared(found['methods']['mbd'])}\n{folder}/demo.png shows the boundary"
        f" ({time.monotonic() - started:.0f} s)\nThe whole of it: {folder}/report.html"
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except db3kd.Db3kdError as error:
        raise SystemExit(f"demo: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("demo: interrupted; everything is saved, run it again") from None
