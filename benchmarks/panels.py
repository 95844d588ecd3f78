"""The plot of `labels.py`: a panel for each metric against queries per image, logarithmic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import picture

PANELS = {  # metric: what is up
    "over_white_box": "mean distance / mean white-box distance",
    "spearman": "rank correlation, 10,000 queries a class",
    "nearest_right": "nearest class right, 10,000 queries a class",
    "spearman_logits": "rank correlation, teacher's logits",
    "runner_up_right": "nearest class right, teacher's logits",
    "student": "test accuracy of the student",
}
STYLES = {  # search: line, marker, colour
    "together": ("-", "o", "0.0"),
    "rows": ("--", "s", "0.0"),
    "references": ("-.", "^", "0.5"),
}
COLUMNS = 3


def draw(table: Sequence[common.Json], file: Path, title: str, *, bar: tuple[str, int]) -> None:
    """Draw one line per search, at the queries that were really asked; students with their spread.

    `bar`: the search and budget whose student the others should equal, drawn as a grey band. The
    dotted line is the student of the answers alone. Open marks are the rounds of a search.
    """
    plt, bought = picture.pyplot(), [line for line in table if line["search"] in STYLES]
    if plt is None or not bought:
        return
    figure, grid = plt.subplots(-(-len(PANELS) // COLUMNS), COLUMNS, figsize=(11, 6.4))
    for axes, (metric, name) in zip(grid.flat, PANELS.items(), strict=True):
        for search in STYLES:
            _curve(axes, [line for line in bought if line["search"] == search], metric)
        for line in bought:
            _rounds(axes, line, metric)
        if metric == "student":
            _bar(axes, [line for line in table if (line["search"], line["budget"]) == bar])
            for line in table:
                if line["search"] == "answers":
                    axes.axhline(line["student"], linestyle=":", color="0.5", linewidth=1)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=8)
        at = {line["budget"] for line in [*bought, *_of_rounds(bought)]}
        picture.counts(axes, sorted(at), most=7)
        picture.plain(axes)
    for axes in grid[-1]:
        axes.set_xlabel("queries an image", fontsize=9)
    lines, names = grid.flat[0].get_legend_handles_labels()
    figure.suptitle(title, x=0.01, ha="left")
    figure.legend(lines, names, ncols=len(names), loc="upper right", frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _curve(axes: Any, lines: Sequence[common.Json], metric: str) -> None:
    """Draw one search in one panel."""
    if not lines:
        return
    lines = sorted(lines, key=lambda line: line["budget"])
    style, marker, colour = STYLES[lines[0]["search"]]
    spread = [line["student_spread"] for line in lines if "student_spread" in line]
    axes.errorbar(
        [line["queries_an_image"] for line in lines],
        [line[metric] for line in lines],
        spread if metric == "student" and len(spread) == len(lines) else None,
        linestyle=style,
        marker=marker,
        color=colour,
        markersize=4,
        elinewidth=0.8,
        linewidth=2 if lines[0]["search"] == "together" else 1.2,
        label=lines[0]["search"],
    )


def _of_rounds(lines: Sequence[common.Json]) -> list[common.Json]:
    """What was known after each round except the last, for searches that have rounds."""
    rounds = [some for line in lines for some in line.get("rounds", [])[:-1]]
    return [{**some, "budget": round(some["queries_an_image"])} for some in rounds]


def _rounds(axes: Any, line: common.Json, metric: str) -> None:
    """Draw the rounds that led to the end of a search as open marks."""
    rounds = [some for some in _of_rounds([line]) if metric in some]
    queries = [some["queries_an_image"] for some in rounds]
    marker, colour = STYLES[line["search"]][1:]
    axes.plot(
        queries,
        [some[metric] for some in rounds],
        linestyle="",
        marker=marker,
        color=colour,
        markersize=4,
        fillstyle="none",
    )


def _bar(axes: Any, lines: Sequence[common.Json]) -> None:
    """Draw what should be equalled: the mean over the seeds and their spread around it."""
    for line in lines:
        middle, spread = line["student"], line.get("student_spread", 0.0)
        axes.axhspan(middle - spread, middle + spread, color="0.9", zorder=0)
