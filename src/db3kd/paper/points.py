"""What the figures of the paper share: points of curves, kept on disk, and how they are told."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from jaxtyping import Float
from torch import Tensor

from db3kd.data.transfer_set import TransferSet
from db3kd.paper.bench import Bench
from db3kd.paper.cells import provenance
from db3kd.paper.setups import Net
from db3kd.storage.files import Json, write_atomically
from db3kd.student.batches import resident


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


def accuracies(
    bench: Bench,
    net: Net,
    seeds: int | None,
    name: str,
    lesson: Callable[[], TransferSet],
    **about: Any,
) -> list[Json]:
    """Students of one point of a curve, trained now or before; a record for each seed.

    `name` is the point's folder; `about` is what its records say. Costs what `lesson` costs.
    """
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


def means(records: Sequence[Json], across: str) -> list[tuple[Any, float, float | None]]:
    """Mean and spread over seeds at each point of a curve."""
    found = []
    for value in dict.fromkeys(record[across] for record in records):
        some = [record["accuracy"] for record in records if record[across] == value]
        found.append((value, mean(some), stdev(some) if len(some) > 1 else None))
    return found


def told(title: str, records: Sequence[Json], by: tuple[str, str], across: str) -> str:
    """A table of a figure's points: mean ± spread over seeds, in percent."""
    lines = [f"## {title}\n"]
    for key in dict.fromkeys((r[by[0]], r[by[1]]) for r in records):
        mine = [r for r in records if (r[by[0]], r[by[1]]) == key]
        points = [
            f"{value:,}: {m:.2f}" + ("" if s is None else f" ± {s:.2f}")
            for value, m, s in means(mine, across)
        ]
        lines.append(f"- {' '.join(key)} ({across}: accuracy): {', '.join(points)}")
    return "\n".join(lines) + "\n"


def holds(held: bool) -> str:
    """How a claim is told.

    >>> holds(True), holds(False)
    ('holds', 'does not hold')
    """
    return "holds" if held else "does not hold"
