"""The paper's Figures 4 to 6: what they show, measured, and what the paper says of them."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.config.settings import Synthesis
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.baselines import dafl, zskd
from db3kd.paper.bench import Bench
from db3kd.paper.cells import Workbook, provenance
from db3kd.paper.setups import SETUPS, Net
from db3kd.run import Run
from db3kd.search.robustness import RobustnessMap
from db3kd.stages.ascent import copied
from db3kd.storage.files import Json, write_atomically
from db3kd.student.batches import resident
from db3kd.student.soft_labels import concentrate, reciprocal_activations

CURVES = ("mnist", "fashion_mnist", "cifar10", "flowers102")  # Fig. 4 and 5a
MATRICES = ("mnist", "fashion_mnist", "cifar10")  # Fig. 5b to d
NEARER = {  # setup: a class, another that looks like it, and one that does not
    "mnist": ("8", "9", "1"),
    "fashion_mnist": ("T-shirt", "Shirt", "Sneaker"),
    "cifar10": ("dog", "cat", "truck"),
}
AVERAGED = 1_000  # pseudo samples of a class, at most, in Fig. 6's averages
STEADY_FROM, STEADY = 2_000, 1.0  # queries, and points that means may differ by from there on
SMALL = 0.5  # a standard deviation below this share of the mean
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the pseudo samples, as 1k to 8k of 8k a class


@dataclass(frozen=True)
class Matrix:
    """Mean distances from the images of each class to every other, over their mean (Fig. 5b-d)."""

    title: str
    names: tuple[str, ...]
    values: Float[Tensor, "own other"]


@dataclass(frozen=True)
class Figure:
    """What a figure shows, and what to say of it.

    - `records`: the points of its curves.
    - `images`: titles, and images of shape (down, across, channels, height, width).
    """

    name: str
    title: str
    text: str
    records: list[Json]
    matrices: tuple[Matrix, ...] = ()
    images: tuple[tuple[str, Tensor], ...] = ()


def fig4(book: Workbook, *, setups: Collection[str] = (), seeds: int | None = None) -> Figure:
    """Fig. 4: the student's accuracy against the queries for an image and class, by MBD.

    Costs as a search row by row with the largest of the checkpoints, on `Size.curved` images. The
    searches are Fig. 5's as well.
    """
    records: list[Json] = []
    for setup in setups or CURVES:
        bench = book.bench(setup)
        known, found = curve_of(bench)
        for student, net in bench.setup.students.items():
            for k, queries in enumerate(bench.size.checkpoints):
                soft = _soft(found, found.curve[:, :, k])
                name = f"fig4/{_word(student)}/{queries}"
                records += _accuracies(
                    bench, net, seeds, name, partial(known.with_soft, soft),
                    setup=setup, student=student, queries=queries, samples=len(known),
                )  # fmt: skip
    text = _table("Fig. 4: accuracy against queries", records, ("setup", "student"), "queries")
    for setup in setups or CURVES:
        for student in SETUPS[setup].students:
            mine = [r for r in records if (r["setup"], r["student"]) == (setup, student)]
            late = [r for r in mine if r["queries"] >= STEADY_FROM] or mine
            means = [m for _, m, _ in _by(late, "queries")]
            moved = max(means) - min(means)
            text += (
                f"- Accuracy hardly moves from {late[0]['queries']:,} queries on,"
                f" {SETUPS[setup].title}, {student}: {_holds(moved <= STEADY)}, the means differ by"
                f" {moved:.2f} points.\n"
            )
    return Figure("fig4", "Accuracy against queries for an image and class", text, records)


def fig5(book: Workbook, *, setups: Collection[str] = (), seeds: int | None = None) -> Figure:
    """Fig. 5: mean minimal boundary distances against queries, and between classes.

    Costs as `fig4`. No student is trained.
    """
    del seeds
    records: list[Json] = []
    matrices: list[Matrix] = []
    text = "## Fig. 5: minimal boundary distances\n\n"
    for setup in setups or CURVES:
        bench = book.bench(setup)
        _, found = curve_of(bench)
        for k, queries in enumerate(bench.size.checkpoints):
            known = _finite(found.curve[:, :, k])
            records.append({
                "setup": setup, "queries": queries, "samples": len(found.distance),
                "distance": round(float(known.mean()), 4),
                "spread": round(float(known.std()), 4), **provenance(book.device),
            })  # fmt: skip
        last = records[-1]
        small = last["spread"] < SMALL * last["distance"]
        text += (
            f"- The deviation of distances is small, {bench.setup.title}: {_holds(small)}, the mean"
            f" is {last['distance']} and the standard deviation {last['spread']} at"
            f" {last['queries']:,} queries, over {last['samples']:,} images.\n"
        )
        if setup in MATRICES:
            matrix = between(found, bench.test.classes, bench.setup.title)
            matrices.append(matrix)
            text += _nearer(setup, matrix)
    return Figure("fig5", "Minimal boundary distances", text, records, tuple(matrices))


def curve_of(bench: Bench) -> tuple[TransferSet, RobustnessMap]:
    """Some training images, and their distances by MBD at every checkpoint; bought once."""
    size = bench.size
    count = min(size.curved, len(bench.known))
    draw = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(bench.known), generator=draw)[:count].sort().values
    known = bench.known.select(rows)
    known = replace(known, images=resident(known.images), ids=torch.arange(count))
    with bench.run("curve") as run:
        run.measure(known.images, size.search("mbd", checkpoints=size.checkpoints))
        return known, run.distances("mbd")


def between(found: RobustnessMap, names: Sequence[str], title: str) -> Matrix:
    """Mean distances by own and other class, over the mean of all; NaN for an own class.

    Nothing is random; costs no query.
    """
    count = len(names)
    values = torch.full((count, count), torch.nan)
    for own in range(count):
        rows = found.distance[found.teacher_labels == own]
        for other in range(count):
            known = rows[:, other][rows[:, other].isfinite()]
            if other != own and len(known):
                values[own, other] = known.mean()
    return Matrix(title, tuple(names), values / values[values.isfinite()].mean())


def _nearer(setup: str, matrix: Matrix) -> str:
    """Whether a class is nearer to one that looks like it than to one that does not."""
    names = [_letters(name) for name in matrix.names]
    places = [
        next((k for k, name in enumerate(names) if name.startswith(_letters(wanted))), None)
        for wanted in NEARER[setup]
    ]
    own, like, unlike = places
    if own is None or like is None or unlike is None:
        return "- Which classes are near each other: not all of the paper's are in this scale.\n"
    near, far = float(matrix.values[own, like]), float(matrix.values[own, unlike])
    names_said = [matrix.names[k] for k in (own, like, unlike)]
    return (
        f"- {names_said[0]} is nearer to {names_said[1]} than to {names_said[2]}:"
        f" {_holds(near < far)} ({near:.2f} against {far:.2f}).\n"
    )


def fig6(book: Workbook, *, setups: Collection[str] = (), seeds: int | None = None) -> Figure:
    """Fig. 6: how pseudo samples evolve, what they look like, and what students learn from them.

    By default of MNIST, as in the paper. Averages by class stand beside those of ZSKD and DAFL.
    Costs as ZSDB3KD, and copies of earlier iterations, which only the curve needs.
    """
    records: list[Json] = []
    images: list[tuple[str, Tensor]] = []
    for setup in setups or ("mnist",):
        bench = book.bench(setup)
        (student, net), *_ = bench.setup.students.items()
        plan, title = bench.size.ascent, bench.setup.title
        with bench.run("ascent") as run:
            samples = run.synthesize(bench.known.images.shape, Synthesis(way="ascent", ascent=plan))
            evolution = run.pseudo.evolution(bench.classes)
            if evolution is not None:
                images.append((f"{title}: from noise, left, to the end of the ascent", evolution))
            last = run.pseudo.asked()
            images.append((f"{title}: averages by class", _averages(bench, last)))
            for kind, number, lesson in _lessons(bench, run, samples):
                records += _accuracies(
                    bench, net, seeds, f"fig6/{kind}/{number}", lesson,
                    setup=setup, student=student, kind=kind, number=number,
                )  # fmt: skip
    text = _table("Fig. 6: ZSDB3KD", records, ("setup", "kind"), "number")
    for setup in setups or ("mnist",):
        for kind in ("iterations", "samples"):
            mine = [r for r in records if (r["setup"], r["kind"]) == (setup, kind)]
            means = [m for _, m, _ in _by(mine, "number")]
            grows = len(means) > 1 and means[-1] > means[0]
            text += (
                f"- Accuracy grows with {kind}, {SETUPS[setup].title}:"
                f" {_holds(grows)}"
                f" ({' to '.join(f'{m:.2f}' for m in (means[0], means[-1]))}).\n"
            )
    text += "- Averages by class, from above: ZSDB3KD, ZSKD, DAFL.\n"
    return Figure("fig6", "ZSDB3KD", text, records, images=tuple(images))


def _lessons(
    bench: Bench, run: Run, samples: TransferSet
) -> Iterator[tuple[str, int, Callable[[], TransferSet]]]:
    """What students learn from: samples after some iterations, and shares of the last ones.

    Every sample comes with its copies (section 4.5).
    """
    plan = bench.size.ascent
    for iteration in range(0, plan.iterations, plan.every) if plan.every else ():
        yield "iterations", iteration, partial(_early, bench, run, iteration)
    yield "iterations", plan.iterations, partial(replace, samples)
    pushed = len(samples) // (1 + plan.copies)
    for share in SHARES:
        count = max(1, round(share * pushed))
        copies = torch.arange(pushed, pushed + count * plan.copies)
        rows = torch.cat([torch.arange(count), copies])
        yield "samples", count, partial(samples.select, rows)


def _early(bench: Bench, run: Run, iteration: int) -> TransferSet:
    """Samples after an iteration, with copies as the ascent makes of its last ones.

    Costs one query a copy, beside the books of the run.
    """
    samples, teacher = run.pseudo.after(iteration), bench.labels
    draw, images = torch.Generator().manual_seed(0), samples.images.read(torch.arange(len(samples)))
    made = copied(images, bench.size.ascent.copies, bounds=teacher.bounds, draw=draw)
    called = torch.cat([teacher.labels(part).cpu() for part in torch.split(made, 256)])
    rows = torch.arange(len(made))
    return samples.joined(TransferSet(TensorImages(made), rows, called, called))


def _averages(bench: Bench, ours: TransferSet) -> Float[Tensor, "system class *image"]:
    """The mean image of each class: of ours, of ZSKD's and of DAFL's; NaN for a class without."""
    data, net = bench.setup.data, next(iter(bench.setup.students.values()))
    rows = torch.arange(len(ours))
    found = [(ours.images.read(rows), ours.teacher_labels)]
    for name, system in (("zskd", zskd), ("dafl", dafl)):
        settings = system.settings(data, bench.scale)
        digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
        task = bench.task(net, 0, "fig6", f"{name}-{digest}")
        found.append(system.impressions(task, bench.open(), settings))
    return torch.stack([_by_class(made, labels, bench.classes) for made, labels in found])


def _by_class(images: Tensor, labels: Tensor, classes: int) -> Float[Tensor, "class *image"]:
    made = torch.full((classes, *images.shape[1:]), torch.nan)
    for k in range(classes):
        mine = images[labels == k][:AVERAGED]
        if len(mine):
            made[k] = mine.float().mean(0)
    return made


def _accuracies(
    bench: Bench,
    net: Net,
    seeds: int | None,
    name: str,
    lesson: Callable[[], TransferSet],
    **about: Any,
) -> list[Json]:
    """Students of one point of a curve, trained now or before."""
    found = []
    for seed in range(seeds or bench.size.seeds):
        task = bench.task(net, seed, "figures", *name.split("/"), str(seed))
        file = task.folder / "result.json"
        if not file.exists():
            samples = lesson()
            samples = replace(samples, images=resident(samples.images))
            network = task.taught("student", task.student(seed), samples)
            line = {**about, "seed": seed, "accuracy": round(bench.accuracy(network), 3)}
            line |= provenance(bench.device)
            write_atomically(file, json.dumps(line).encode())
        found.append(dict(json.loads(file.read_text())))
    return found


def _soft(found: RobustnessMap, distance: Tensor) -> Tensor:
    """Soft labels by Eq. 6 and 7."""
    return concentrate(reciprocal_activations(distance, found.teacher_labels), found.teacher_labels)


def _finite(distance: Tensor) -> Tensor:
    return distance[(distance > 0) & distance.isfinite()]


def _holds(held: bool) -> str:
    return "holds" if held else "does not hold"


def _letters(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def _word(name: str) -> str:
    return name.replace("/", "-")


def _by(records: Sequence[Json], across: str) -> list[tuple[Any, float, float | None]]:
    """Mean and spread over seeds at each point of a curve."""
    found = []
    for value in dict.fromkeys(record[across] for record in records):
        some = [record["accuracy"] for record in records if record[across] == value]
        found.append((value, mean(some), stdev(some) if len(some) > 1 else None))
    return found


def _table(title: str, records: Sequence[Json], by: tuple[str, str], across: str) -> str:
    """A table of a figure's points: mean ± spread over seeds, in percent."""
    lines = [f"## {title}\n"]
    for key in dict.fromkeys((r[by[0]], r[by[1]]) for r in records):
        mine = [r for r in records if (r[by[0]], r[by[1]]) == key]
        points = [
            f"{value:,}: {m:.2f}" + ("" if s is None else f" ± {s:.2f}")
            for value, m, s in _by(mine, across)
        ]
        lines.append(f"- {' '.join(key)} ({across}: accuracy): {', '.join(points)}")
    return "\n".join(lines) + "\n"


def draw(figure: Figure, file: Path) -> list[Path]:
    """Draw a figure as SVG and PNG; nothing without matplotlib (`pip install 'db3kd[report]'`)."""
    from db3kd.paper.drawing import drawn

    return drawn(figure, file)
