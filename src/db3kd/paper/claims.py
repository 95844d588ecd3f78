"""What the paper says about its tables, each claim held against our numbers."""

from collections.abc import Mapping, Sequence

from db3kd.paper.output import Place
from db3kd.paper.systems import SYSTEMS

PAIRS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "table1": (
        ("mbd", "bd"), ("bd", "sd"), ("sd", "surrogate"), ("surrogate", "ce"),
        ("ce", "noise_logits"), ("mbd", "kd"), ("joint", "sd"),
    ),
    "table2": (
        ("mbd", "kd"), ("mbd", "surrogate"), ("mbd", "ban"), ("mbd", "tf_self"), ("mbd", "sskd"),
    ),
    "table3": (("zsdb3kd", "fskd"), ("kd", "zsdb3kd"), ("chosen", "zsdb3kd")),
    "table4": (
        ("zsdb3kd", "fskd"), ("zsdb3kd", "noise_labels"), ("zsdb3kd", "noise_scores"),
        ("kd", "zsdb3kd"), ("chosen", "zsdb3kd"),
    ),
}  # fmt: skip
"""The first system is said to be ahead of the second; those about "joint" and "chosen" are ours."""


def claims(table: str, found: Sequence[Sequence[Place]]) -> str:
    """Markdown that says of every claim whether it holds, with the difference in points.

    A claim holds if the mean of the first system is not below that of the second. It says so where
    the difference is within the spread over seeds.
    """
    by_place = {(place.row.system, place.column.title): place for row in found for place in row}
    lines = ["### What the paper says of it\n"]
    for first, second in PAIRS[table]:
        name = f"{SYSTEMS[first].label} is not below {SYSTEMS[second].label}"
        told = [
            f"{column}: {_verdict(by_place[first, column], by_place[second, column])}"
            for column in dict.fromkeys(title for _, title in by_place)
        ]
        lines.append(f"- {name}. {'; '.join(told)}.")
    return "\n".join(lines) + "\n"


def _verdict(first: Place, second: Place) -> str:
    if first.ours is None or second.ours is None:
        return "not run"
    ahead = first.ours - second.ours
    spreads = [each.spread for each in (first, second) if each.spread is not None]
    word = "holds" if ahead >= 0 else "does not hold"
    within = ", within the spread" if abs(ahead) <= max(spreads, default=-1.0) else ""
    return f"{word} ({ahead:+.2f}{within})"
