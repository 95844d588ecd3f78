"""The paper's Figures 4 and 5: distances, what they cost, and what students learn from them."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from db3kd.data.transfer_set import TransferSet
from db3kd.paper.bench import Bench
from db3kd.paper.cells import Workbook, provenance
from db3kd.paper.points import Figure, Matrix, accuracies, holds, means, told
from db3kd.paper.setups import SETUPS
from db3kd.search.robustness import RobustnessMap
from db3kd.storage.files import Json
from db3kd.student.batches import resident
from db3kd.student.soft_labels import concentrate, reciprocal_activations

CURVES = ("mnist", "fashion_mnist", "cifar10", "flowers102")  # Fig. 4 and 5a
MATRICES = ("mnist", "fashion_mnist", "cifar10")  # Fig. 5b to d
NEARER = {  # setup: a class, another that looks like it, and one that does not
    "mnist": ("8", "9", "1"),
    "fashion_mnist": ("T-shirt", "Shirt", "Sneaker"),
    "cifar10": ("dog", "cat", "truck"),
}
STEADY_FROM, STEADY = 2_000, 1.0  # queries, and points that means may differ by from there on
SMALL = 0.5  # a standard deviation below this share of the mean


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
                name = f"fig4/{student.replace('/', '-')}/{queries}"
                records += accuracies(
                    bench, net, seeds, name, partial(known.with_soft, soft),
                    setup=setup, student=student, queries=queries, samples=len(known),
                )  # fmt: skip
    text = told("Fig. 4: accuracy against queries", records, ("setup", "student"), "queries")
    for setup in setups or CURVES:
        for student in SETUPS[setup].students:
            mine = [r for r in records if (r["setup"], r["student"]) == (setup, student)]
            late = [r for r in mine if r["queries"] >= STEADY_FROM] or mine
            found_means = [m for _, m, _ in means(late, "queries")]
            moved = max(found_means) - min(found_means)
            text += (
                f"- Accuracy hardly moves from {late[0]['queries']:,} queries on,"
                f" {SETUPS[setup].title}, {student}: {holds(moved <= STEADY)}, the means differ by"
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
            f"- The deviation of distances is small, {bench.setup.title}: {holds(small)}, the mean"
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
        f" {holds(near < far)} ({near:.2f} against {far:.2f}).\n"
    )


def _soft(found: RobustnessMap, distance: Tensor) -> Tensor:
    """Soft labels by Eq. 6 and 7."""
    return concentrate(reciprocal_activations(distance, found.teacher_labels), found.teacher_labels)


def _finite(distance: Tensor) -> Tensor:
    return distance[(distance > 0) & distance.isfinite()]


def _letters(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())
