"""Tables and figures of `distance.py`, made from the distances of every competitor."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

import common
from rows import Task


@dataclass(frozen=True)
class Part:
    """What one case adds to the result."""

    figures: dict[str, float]
    table: list[common.Json]
    setting: common.Json


def of(
    task: Task, results: Mapping[str, Mapping[str, common.Json]], asked: Sequence[int], default: str
) -> Part:
    """Compare competitors on all rows that each one finished, and on the rows that all finished."""
    rows, case = task.rows, task.case.name
    white = {
        rows.key(row): float(distance)
        for row, distance in enumerate(rows.white)
        if distance.isfinite()
    }
    found = {
        name: {row: line["distance"] for row, line in lines.items() if row in white}
        for name, lines in results.items()
    }
    figures, table = {}, []
    for place, queries in enumerate(asked):
        here = {
            name: {row: curve[place] for row, curve in curves.items() if len(curve) > place}
            for name, curves in found.items()
        }
        here = {name: at for name, at in here.items() if at}
        shared = set.intersection(*(set(at) for at in here.values())) if here else set()
        for name, at in here.items():
            line = _line(at, shared, white, here.get(default, {}))
            table.append({"case": case, "competitor": name, "queries": queries, **line})
            suffix = "" if name == default else f".{name}"
            figures[f"over_white_box.{case}.{queries}{suffix}"] = line["over_white_box"]
            if line["default_over_it"] and name != default:
                figures[f"default_over.{case}.{queries}{suffix}"] = line["default_over_it"]
    starts = {rows.key(row): float(rows.start_distance[row]) for row in range(len(rows))}
    setting = {
        "images": len(rows.images),
        "rows": len(rows),
        "rows_without_white_box": len(rows) - len(white),
        "references": task.case.references,
        "start_over_white_box": _ratio({row: starts[row] for row in white}, white),
        "start_queries_mean": float(rows.start_spent.float().mean()),
        "start_queries_most": int(rows.start_spent.max()),
        "mean_white_box": mean(white.values()),
        "competitors": {name: _ends(lines.values()) for name, lines in results.items()},
    }
    return Part(figures, table, setting)


def _line(
    at: Mapping[str, float],
    shared: set[str],
    white: Mapping[str, float],
    default: Mapping[str, float],
) -> common.Json:
    """One competitor at one checkpoint."""
    ratios = [distance / white[row] for row, distance in at.items()]
    both = [row for row in at if row in default]
    return {
        "rows": len(at),
        "mean": round(mean(at.values()), 4),
        "median": round(median(at.values()), 4),
        "over_white_box": round(_ratio(at, white), 4),
        "mean_of_ratios": round(mean(ratios), 4),
        "median_of_ratios": round(median(ratios), 4),
        "shared_rows": len(shared),
        "over_white_box_shared": round(_ratio({row: at[row] for row in shared}, white), 4),
        "default_over_it": round(_ratio({row: default[row] for row in both}, at), 4),
        "default_nearer": round(mean(default[row] < at[row] for row in both), 4) if both else 0.0,
    }


def _ratio(distances: Mapping[str, float], over: Mapping[str, float]) -> float:
    """Mean divided by mean, on the rows of the first; 0 without rows."""
    if not distances:
        return 0.0
    return sum(distances.values()) / sum(over[row] for row in distances)


def _ends(lines: Iterable[common.Json]) -> common.Json:
    """How the rows of one competitor ended, and how fast it was."""
    listed = list(lines)
    ends: dict[str, int] = {}
    for line in listed:
        if line["ended"]:
            ends[line["ended"]] = ends.get(line["ended"], 0) + 1
    seconds = sum(line["seconds"] for line in listed)
    return {
        "rows": len(listed),
        "not_across_when_asked_again": sum(line["factor"] == 0 for line in listed),
        "moved_out_when_asked_again": sum(line["factor"] > 1 for line in listed),
        "ended": ends,
        "queries_per_second": round(sum(line["spent"] for line in listed) / max(seconds, 1e-9)),
    }
