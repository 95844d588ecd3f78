"""The plot of `frontier.py`: students' accuracy against queries, with the paper's point on it.

    python benchmarks/frontier_plot.py RESULT.json ... --data NAME --png FILE

draws one data set from several results. If a cell occurs more than once, the last one counts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import common
import picture

STYLES = {  # way: line, marker, colour
    "chosen": ("-", "o", "#b2182b"),
    "latent": ("-", "D", "#053061"),
    "alone": ("-", "o", "#f4a582"),
    "shapes": ("-", "s", "0.0"),
    "noise": (":", "x", "0.5"),
    "dip_kd": ("--", "*", "#e08214"),
    "ideal": ("--", "^", "#2166ac"),
    "qedg": ("--", "v", "#67a9cf"),
    "dfms": ("-.", "D", "#1b7837"),
    "disguide": ("-.", "P", "#762a83"),
    "distances": ("--", "h", "#c51b7d"),
    "unrelated": (":", "s", "#8c510a"),
    "unrelated_chosen": (":", "o", "#8c510a"),
}
APART = 1.07
PAPER = {  # accuracy of ZSDB3KD, and what its settings cost (section 4.5; Tables 3 and 4)
    "mnist": (96.54, 1.6e10),
    "fashion": (72.31, 1.6e10),
    "cifar10": (59.46, 4e10),
}


def draw(table: Sequence[common.Json], file: Path, title: str) -> None:
    """Draw a line for each way with its spread over seeds, and the paper's point on the far right.

    Of cells with equal budgets, all but the first are shifted a little to the side.
    """
    plt = picture.pyplot()
    if plt is None or not table:
        return
    figure, axes = plt.subplots(figsize=(7, 4.2))
    drawn = [way for way in STYLES if any(line["way"] == way for line in table)]
    for place, way in enumerate(drawn):
        # What costs the same stands side by side about its place, in turns right and left.
        aside = APART ** ((place + 1) // 2 * (1 if place % 2 else -1))
        some = [{**line, "budget": line["budget"] * aside} for line in table if line["way"] == way]
        picture.curve(axes, some, STYLES[way], label=way, bold=way == "chosen")
    axes.axhline(table[0]["teacher"], color="0.8", linewidth=1)
    axes.annotate(
        "teacher",
        (0.99, table[0]["teacher"]),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
        color="0.4",
    )
    if title in PAPER:
        reached, price = PAPER[title]
        axes.plot([price], [reached], marker="*", markersize=10, color="0.0", linestyle="none")
        axes.annotate(
            "the paper",
            (price, reached),
            xytext=(-6, -12),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlabel("queries in all", fontsize=9)
    axes.set_ylabel("test accuracy of the student, %", fontsize=9)
    axes.tick_params(labelsize=8)
    picture.plain(axes)
    axes.set_title(f"{title}, without any data", loc="left", fontsize=10)
    figure.tight_layout(rect=(0, 0, 0.81, 1))
    figure.legend(*axes.get_legend_handles_labels(), loc="center right", frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def main() -> None:
    """Draw several results of one data set."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    options.add_argument("--data", required=True, help="the data set, for example mnist")
    options.add_argument("--png", type=Path, required=True, metavar="FILE")
    given = options.parse_args()
    table = [line for file in given.results for line in json.loads(file.read_text())["table"]]
    cells = {(line["way"], line["budget"]): line for line in table if line["data"] == given.data}
    draw(list(cells.values()), given.png, given.data)


if __name__ == "__main__":
    main()
