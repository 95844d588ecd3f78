"""The plot of `spending.py`: students' accuracy against answers per image, with a panel per set.

    python benchmarks/curves.py RESULT.json ... --data NAME --png FILE

draws one data set from several results. If a cell occurs more than once, the last one counts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import picture

STYLES = {  # method: line, marker, colour
    "auto": ("-", "o", "#b2182b"),
    "margin": ("-", "s", "0.0"),
    "bald": (":", "s", "0.4"),
    "doubt": ("-", "s", "0.0"),  # "margin" and "bald" in results of before December 2026
    "disagreement": (":", "s", "0.4"),
    "grown": ("--", "s", "0.4"),
    "distances": ("-", "^", "#2166ac"),
    "probes": ("--", "^", "#67a9cf"),
    "mixed": ("-.", "D", "#1b7837"),
    "grown_logits": (":", "x", "0.6"),
}
LEVELS = {"labels": "own answers alone", "logits": "own images, logits"}


def draw(table: Sequence[common.Json], file: Path, title: str) -> None:
    """Draw lines with their spread over seeds; dotted and dashed levels have no budget."""
    plt, counts = picture.pyplot(), sorted({line["own"] for line in table})
    if plt is None or not any(line["method"] in STYLES for line in table):
        return
    figure, grid = plt.subplots(
        1, len(counts), figsize=(1.5 + 4.5 * len(counts), 3.8), squeeze=False
    )
    for axes, own in zip(grid[0], counts, strict=True):
        lines = [line for line in table if line["own"] == own]
        for method in STYLES:
            some = [line for line in lines if line["method"] == method]
            picture.curve(axes, some, STYLES[method], label=method, bold=method == "auto")
        for line in lines:
            if line["method"] in LEVELS:
                axes.axhline(line["accuracy"], linestyle=":", color="0.5", linewidth=1)
                _word(axes, line["accuracy"], LEVELS[line["method"]])
        axes.axhline(lines[0]["teacher"], color="0.8", linewidth=1)
        _word(axes, lines[0]["teacher"], "teacher")
        axes.set_title(f"{own:,} own images", fontsize=9)
        axes.set_xlabel("answers an image, its own included", fontsize=9)
        axes.tick_params(labelsize=8)
        picture.counts(axes, sorted({line["budget"] for line in lines if line["method"] in STYLES}))
        picture.plain(axes)
    grid[0][0].set_ylabel("test accuracy of the student, %", fontsize=9)
    names = grid[0][0].get_legend_handles_labels()
    figure.suptitle(title, x=0.01, ha="left")
    figure.tight_layout(rect=(0, 0, 1 - 1.2 / figure.get_figwidth(), 1))
    figure.legend(*names, loc="center right", frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _word(axes: Any, height: float, words: str) -> None:
    """Write a word at the right end of a level."""
    axes.annotate(
        words,
        (1, height),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        color="0.4",
    )


def main() -> None:
    """Draw several results of one data set."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    options.add_argument("--data", required=True, help="the data set, for example mnist")
    options.add_argument("--png", type=Path, required=True, metavar="FILE")
    given = options.parse_args()
    table = [line for file in given.results for line in json.loads(file.read_text())["table"]]
    cells = {
        (line["own"], line["method"], line["budget"]): line
        for line in table
        if line["data"] == given.data
    }
    draw(list(cells.values()), given.png, given.data)


if __name__ == "__main__":
    main()
