"""The parts of a report, from records to what the template shows; None is what nobody recorded."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean

import torch
from markupsafe import Markup
from torch import Tensor

from db3kd.errors import described
from db3kd.job.auditing.told import LIMITS, basis, beyond, needed, sentences, span
from db3kd.job.reporting import charts
from db3kd.job.reporting.distances import Distances, by_queries, distances_of
from db3kd.job.reporting.findings import (
    Standing,
    class_counts,
    lasting,
    mean_of,
    teacher_accuracy,
)
from db3kd.job.reporting.gallery import largest_cells
from db3kd.job.reporting.pixels import address, change, thumbnails
from db3kd.job.reporting.records import Records
from db3kd.stages.decisions import decided
from db3kd.stages.table import stage
from db3kd.storage.files import Json

MOST = 20  # classes of a matrix
BARS = 40  # classes with a bar each; of more, those with the fewest and the most images
WORDS = {
    "own": "own images",
    "grown": "new images that were made from own ones",
    "pseudo": "pseudo samples",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a matrix: its text, how strong its colour is from 0 to 1, and what it means."""

    text: str
    share: float
    title: str


@dataclass(frozen=True)
class Matrix:
    """A matrix of classes, cut to those that matter if there are too many."""

    names: list[str]
    rows: list[tuple[str, list[Cell]]]
    left_out: int


def students(records: Records, found: list[Standing]) -> Markup | None:
    """A dot for each seed: accuracy, or agreement where the true classes are not known."""
    if not found:
        return None
    known = all(row.accuracy for row in found)
    shown = {row.method: row.accuracy if known else row.agreement for row in found}
    words = "accuracy" if known else "agreement"
    return charts.students(shown, teacher_accuracy(records) if known else None, words)


def spending(records: Records) -> Json:
    """What the answers were spent on, and when."""
    queries, decision = records.status["queries"], records.status["decision"]
    parts: dict[str, int] = {}
    for name, count in queries["by_stage"].items():
        if count:
            words = stage(name).words
            parts[words] = parts.get(words, 0) + count
    whole = max(1, queries["spent"], queries["budget"] or 0)
    points = [(seconds, float(spent)) for seconds, spent, _ in records.moments]
    return {
        "parts": [(words, count, 100 * count / whole) for words, count in parts.items()],
        "budget": queries["budget"],
        "decision": None if decision is None else decided(decision),
        "stopped": records.summary.get("stopped"),
        "chart": charts.spent_over_time(points, queries["budget"]) if points else None,
    }


def audit(records: Records) -> Json | None:
    """How many answers a copy needs, by target; a curve; and sentences for the file of a risk."""
    found = records.audit
    try:
        if not found.get("steps"):
            return None
        goals = [float(row["agreement"]) for row in found["targets"]]
        return {
            "chart": charts.fidelity(found["steps"], goals),
            "rows": [
                (f"{100 * row['agreement']:.4g} %", needed(row, found), span(row), row["status"])
                for row in found["targets"]
            ],
            "sentences": list(sentences(found)),
            "basis": [text for text in (basis(found), beyond(found), LIMITS) if text],
        }
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        records.faults.append(f"audit.json is not as it was written ({described(error)})")
        return None


def confusion(records: Records) -> Json | None:
    """Where teacher and best students differ: a matrix, and images of its largest cells."""
    counts = records.confusion
    if counts is None:
        return None
    apart = counts.clone().fill_diagonal_(0)
    order = (apart.sum(0) + apart.sum(1)).argsort(descending=True, stable=True)
    chosen = sorted(order[:MOST].tolist())
    peak = max(1, int(counts.max()))

    def cell(row: int, column: int) -> Cell:
        count, names = int(counts[row, column]), records.names
        words = f"teacher {names[row]}, student {names[column]}: {count:,}"
        return Cell(f"{count:,}" if count else "", count / peak, words)

    held, _ = records.gallery
    cells = []
    for teacher, student in largest_cells(counts):
        images = []
        if "confused.images" in held:
            mine = (held["confused.teacher"] == teacher) & (held["confused.student"] == student)
            images = [address(image) for image in held["confused.images"][mine]]
        names = records.names[teacher], records.names[student]
        cells.append((*names, int(counts[teacher, student]), images))
    return {
        "matrix": _matrix(records, chosen, cell),
        "method": records.best,
        "seeds": len(records.predictions(records.best or "")),
        "cells": cells,
    }


def cascade(records: Records) -> Json | None:
    """The share of images passed on to the teacher against the agreement reached, by method."""
    found: dict[str, list[Json]] = {}
    for (name, _), record in records.evaluations.items():
        if record.get("cascade"):
            found.setdefault(name, []).append(record["cascade"])
    if records.best not in found:
        return None
    over_seeds = {
        name: list(zip(*(curve["points"] for curve in curves), strict=True))
        for name, curves in found.items()
    }
    means = {
        name: [(_mean(points, "passed"), _mean(points, "agreement")) for points in by_share]
        for name, by_share in over_seeds.items()
    }
    about = "agreement with the teacher by the share of images passed on to it"
    best, rows = found[records.best], []
    for points in over_seeds[records.best]:
        below = [point["threshold"] for point in points]
        ends = dict.fromkeys(f"{end:.3g}" for end in (min(below), max(below)))
        agreement = mean_of([point["agreement"] for point in points])
        rows.append((f"{_mean(points, 'passed'):.1f} %", " to ".join(ends), agreement))
    return {
        "chart": charts.curves(means, about, "passed on, %", "agreement, %", marks=True),
        "method": records.best,
        "rows": rows,
        "samples": best[0]["samples"],
        "fitted_on": best[0]["fitted_on"],
    }


def distances(records: Records) -> Json | None:
    """How far the boundary is, between which classes, and by how many queries."""
    found = {name: part for name, part in distances_of(records).items() if part.mean is not None}
    if not found:
        return None
    last = list(found)[-1]
    shares = {name: list(zip(*part.shares(), strict=True)) for name, part in found.items()}
    curve = by_queries(records, last)
    start = found["sd"].mean if "sd" in found else None
    if curve and start is not None:
        curve = [(0.0, start), *curve]  # a sample distance costs no query
    across = "distance to the nearest other class"
    return {
        "metric": last,
        "matrix": _between(records, found[last]),
        "means": [(name, f"{part.mean:.4g}", part.queries) for name, part in found.items()],
        "shares": charts.curves(shares, "share of images by distance", across, "share of images"),
        "by_queries": charts.curves(
            {last: curve}, "mean distance by queries", "queries of an image", "mean distance",
            marks=True,
        ) if len(curve) > 1 else None,
    }  # fmt: skip


def nearest(records: Records) -> list[Json]:
    """Images beside their nearest points, with the change."""
    found = []
    for part in records.nearest:
        for row in range(len(part["image"])):
            image, point = part["image"][row].float(), part["point"][row].float()
            found.append(
                {
                    "image": _shown(image, records.bounds),
                    "point": _shown(point, records.bounds),
                    "change": _shown(change(image, point), (0.0, 1.0)),
                    "own": records.names[int(part["own"][row])],
                    "other": records.names[int(part["other"][row])],
                    "distance": f"{float(part['distance'][row]):.4g}",
                }
            )
    return found


def samples(records: Records) -> Json | None:
    """How many images there are of each class, and small pictures of some."""
    counts = class_counts(records)
    held, words = records.gallery
    pictures: dict[int, list[Markup]] = {}
    if "samples.images" in held:
        for image, k in zip(held["samples.images"], held["samples.classes"].tolist(), strict=True):
            pictures.setdefault(k, []).append(address(image))
    if not counts and not pictures:
        return None
    whole = sum(counts.values(), torch.zeros(records.classes, dtype=torch.int64))
    order = whole.argsort(stable=True).tolist()
    chosen = sorted(order if len(order) <= BARS else order[:10] + order[-10:])
    peak = max(1, int(whole.max()))
    return {
        "kinds": list(counts),
        "bars": [
            (
                records.names[k],
                int(whole[k]),
                [100 * int(some[k]) / peak for some in counts.values()],
            )
            for k in chosen
        ],
        "left_out": records.classes - len(chosen),
        "what": WORDS.get(str(words.get("samples")), "images"),
        "pictures": [(records.names[k], mine) for k, mine in sorted(pictures.items())],
    }


def losses(records: Records) -> Markup | None:
    """The loss of the first student of each method, while it was trained."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, seed in records.evaluations:
        points = records.students.get((name, seed), {}).get("losses")
        if name not in found and points:
            found[name] = [(float(step), float(loss)) for step, loss in points]
    return charts.curves(found, "loss while training", "step", "loss") if found else None


def costs(records: Records, found: list[Standing]) -> Json:
    """Queries, money and time, by what they were for."""
    seconds: dict[str, float] = {}
    queries: dict[str, int] = {}
    for name, count in records.status["queries"]["by_stage"].items():
        queries[stage(name).words] = queries.get(stage(name).words, 0) + count
    for record in records.journal.all("shard"):
        words = stage(record["stage"]).words
        seconds[words] = seconds.get(words, 0.0) + float(record["wall_s"])
    rows = [
        (words, f"{count:,}", lasting(seconds.get(words, 0.0)))
        for words, count in queries.items()
        if count or words in seconds
    ]
    methods = {row.method for row in found}
    trained = [r["seconds"] for (name, _), r in records.students.items() if name in methods]
    if trained:
        rows.append((f"training of {len(trained)} students", "0", lasting(sum(trained))))
    return {"rows": rows, "paid": _paid(records), "seconds": lasting(records.seconds)}


def _paid(records: Records) -> str:
    """What the store of the answers has on its books, in words; "" without a store."""
    paid = records.summary.get("paid") or {}
    words = {
        "answered": "answers bought",
        "hits": "known before",
        "retried": "images sent again",
        "failed": "given up",
        "lost": "lost when a process died",
    }
    told = [f"{paid[name]:,} {text}" for name, text in words.items() if name in paid]
    if told and paid.get("money") is not None:
        told[0] += f" for {paid['money']:,.2f} {paid['currency']}".rstrip()
    return ", ".join(told)


def provenance(records: Records) -> Iterator[tuple[str, str]]:
    """What was run, on what, by which versions, and what the teacher is known by."""
    begun = records.status["configuration"]["run"]
    opened = list(records.journal.all("opened"))
    if opened:
        yield "begun", _moment(opened[0]["time"])
    yield "last record", _moment(records.journal.records[-1]["time"])
    if opened:
        yield from sorted(opened[-1]["versions"].items())
    yield "device", begun["device"]
    yield "seed", str(begun["seed"])
    for record in list(records.journal.all("name"))[-1:]:
        yield "identity of the run", record["run"]
    parts = [r["parts"] for r in records.journal.all("identity") if r["of"] == "teacher"]
    for name, digest in sorted((parts[-1] if parts else {}).items()):
        yield f"teacher: {name}", digest
    if not parts:
        yield "teacher", "not recorded by the version that made this run"
    for (name, seed), record in records.students.items():
        made = record["file"]
        if "network" in record:
            made = f"{record['network']}, {record['parameters']:,} parameters, {made}"
        yield f"student {name}, seed {seed}", made
    yield from _recipe(records)


def _recipe(records: Records) -> Iterator[tuple[str, str]]:
    """The recipe, a row for each setting; what a folder has without a summary of today."""
    recipe = records.told.get("recipe")
    tables: Json = recipe if isinstance(recipe, dict) else records.status["configuration"]
    for name, value in _flat(tables, "recipe" if tables is recipe else "settings"):
        yield name, json.dumps(value, ensure_ascii=False)


def _flat(value: object, at: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}")
    elif value not in (None, {}, []):
        yield at, value


def _mean(points: Sequence[Json], key: str) -> float:
    """The mean of a share over points, in percent."""
    return 100 * fmean(point[key] for point in points)


def _between(records: Records, found: Distances) -> Matrix:
    apart = found.between
    known = apart[apart.isfinite()]
    order = apart.nan_to_num(nan=torch.inf).amin(1).argsort(stable=True)
    low, high = float(known.min()), float(known.max())

    def cell(row: int, column: int) -> Cell:
        distance, names = float(apart[row, column]), records.names
        if distance != distance:
            return Cell("", 0.0, "")
        share = (high - distance) / (high - low) if high > low else 0.5
        return Cell(f"{distance:.3g}", share, f"{names[row]} to {names[column]}: {distance:.4g}")

    return _matrix(records, sorted(order[:MOST].tolist()), cell)


def _matrix(records: Records, chosen: list[int], cell: Callable[[int, int], Cell]) -> Matrix:
    names = [records.names[k] for k in chosen]
    rows = [(records.names[a], [cell(a, b) for b in chosen]) for a in chosen]
    return Matrix(names, rows, records.classes - len(chosen))


def _shown(image: Tensor, bounds: tuple[float, float]) -> Markup:
    return address(thumbnails(image[None], bounds)[0])


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
