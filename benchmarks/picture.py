"""The plot of `distance.py`: ratio to the white-box reference against queries, both logarithmic."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
APART = 1.3  # ratio of two neighbouring ticks, at least
GAP = 0.045  # least distance of two labels, as a share of the height


def draw(table: Sequence[common.Json], file: Path, case: str, default: str) -> None:
    """Draw one line per competitor on the rows that all have in common; ours black, rivals grey."""
    names, plt = list(dict.fromkeys(line["competitor"] for line in table)), pyplot()
    if not names or plt is None:
        return
    figure, axes = plt.subplots(figsize=(8, 5))
    ends = []
    for number, name in enumerate(names):
        lines = [line for line in table if line["competitor"] == name and line["shared_rows"]]
        if not lines:
            continue
        rival = name.startswith(("art", "foolbox"))
        at = [line["queries"] for line in lines]
        ratio = [line["over_white_box_shared"] for line in lines]
        colour = "0.5" if rival else "0.0"
        axes.plot(
            at,
            ratio,
            STYLES[number % len(STYLES)],
            marker=MARKERS[number % len(MARKERS)],
            color=colour,
            linewidth=2.4 if name == default else 1.2,
            markersize=4,
        )
        ends.append((ratio[-1], at[-1], name, colour))
    _axes(axes, table, case)
    _labels(axes, ends)
    figure.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure)


def pyplot() -> Any | None:
    """Return matplotlib's figure that needs no screen; None, with a message, if it is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        common.say("no plot: matplotlib is missing")
        return None
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _axes(axes: Any, table: Sequence[common.Json], case: str) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = sorted({line["shared_rows"] for line in table})
    span = str(rows[0]) if len(rows) == 1 else f"{rows[0]} to {rows[-1]}"
    axes.set(yscale="log", title=f"{case}: {span} rows that all have in common")
    axes.set_xlabel("queries a row, start search included")
    axes.set_ylabel("mean distance / mean white-box distance")
    counts(axes, sorted({line["queries"] for line in table}))
    low, high = axes.get_ylim()
    ticks = [tick for tick in MaxNLocator(8).tick_values(low, high) if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_ylim(low, high)
    plain(axes)


def counts(axes: Any, asked: Sequence[int], *, most: int = 12) -> None:
    """Set a logarithmic axis of queries with these ticks; of two that would touch, keep the larger.

    `most`: how many ticks there is room for.
    """
    axes.set_xscale("log")
    kept: list[int] = []
    apart = max(APART, (max(asked) / min(asked)) ** (1 / most))
    for count in sorted(asked, reverse=True):
        if not kept or count * apart <= kept[-1]:
            kept.append(count)
    axes.set_xticks(kept, [f"{count:,}" for count in kept])


def plain(axes: Any) -> None:
    """Draw a faint grid, and no frame at the top and the right."""
    axes.minorticks_off()
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def _labels(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names at the right, moved apart, each with a thin line to the end of its curve."""
    low, high = (math.log(limit) for limit in axes.get_ylim())
    below = -1.0
    for ratio, queries, name, colour in sorted(ends):
        below = max((math.log(ratio) - low) / (high - low), below + GAP)
        axes.annotate(
            name,
            (queries, ratio),
            (1.03, below),
            textcoords="axes fraction",
            color=colour,
            va="center",
            fontsize=9,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.8},
        )


def curve(
    axes: Any, lines: Sequence[common.Json], style: tuple[str, str, str], *, label: str, bold: bool
) -> None:
    """Draw accuracy by budget with its spread over seeds; `style` is line, marker and colour."""
    if not lines:
        return
    lines = sorted(lines, key=lambda line: line["budget"])
    line, marker, colour = style
    axes.errorbar(
        [line["budget"] for line in lines],
        [line["accuracy"] for line in lines],
        [line["spread"] or 0.0 for line in lines],
        linestyle=line,
        marker=marker,
        color=colour,
        markersize=4,
        elinewidth=0.8,
        capsize=2,
        linewidth=2 if bold else 1.2,
        label=label,
    )
