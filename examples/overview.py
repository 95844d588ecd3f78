"""Draw docs/overview.png, the first picture of README.

    .venv/bin/python examples/overview.py [FILE]

The images are digits that come with scikit-learn. The picture has a background of its own, so that
it can be read on light and dark pages.
"""

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

INK, SOFT, ASKED, ANSWERED = "#1f2933", "#6b7785", "#2f6fb0", "#d9730d"
PAPER, BOX = "#ffffff", "#eef2f6"
WORDS = ("zero", "one", "two")


def draw(file: Path) -> None:
    """Draw the picture and save it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(10, 3.5), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(0, 35))
    axes.axis("off")
    _images(axes)
    _teacher(axes)
    _student(axes)
    _arrow(axes, (25, 22), (38.5, 22), ASKED, "which class?", 23.2)
    _arrow(axes, (38.5, 13), (25, 13), ANSWERED, ", ".join(WORDS), 10.2)
    _arrow(axes, (60.5, 17.5), (73, 17.5), INK, "images and\nanswers teach", 19)
    axes.text(31.7, 17.5, "counted, kept,\nnever asked twice", **_words(SOFT, 9.5))
    figure.savefig(file, dpi=160, facecolor=PAPER)
    plt.close(figure)


def _images(axes: Any) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits().images
    for place in range(9):
        x, y = 5 + 6.3 * (place % 3), 21.5 - 6.3 * (place // 3)
        axes.imshow(digits[place + 20], cmap="gray_r", extent=(x, x + 5.7, y, y + 5.7), zorder=2)
    axes.set(xlim=(0, 100), ylim=(0, 35), aspect="auto")
    axes.text(14.2, 30.5, "your images", **_words(INK, 13, bold=True))
    axes.text(14.2, 5, "no labels needed", **_words(SOFT, 10.5))


def _teacher(axes: Any) -> None:
    _box(axes, (40, 9.5), (19, 17), INK)
    axes.text(49.5, 20, "?", **_words("#ffffff", 30, bold=True))
    axes.text(49.5, 13, "says a class,\nnothing else", **_words("#ffffff", 11))
    axes.text(49.5, 30.5, "a classifier", **_words(INK, 13, bold=True))
    axes.text(49.5, 5, "a file, a service, a large model", **_words(SOFT, 10.5))


def _student(axes: Any) -> None:
    _box(axes, (75, 9.5), (20, 17), BOX)
    layers = [(78.5, 4), (82.8, 5), (87.1, 4), (91.4, 3)]
    points = [[(x, 18 + 2.9 * (k - (n - 1) / 2)) for k in range(n)] for x, n in layers]
    for first, second in pairwise(points):
        for a in first:
            for b in second:
                axes.plot(*zip(a, b, strict=True), color=ASKED, linewidth=0.6, alpha=0.5, zorder=2)
    for layer in points:
        axes.plot(*zip(*layer, strict=True), "o", color=ASKED, markersize=6, zorder=3)
    axes.text(85, 30.5, "a small network", **_words(INK, 13, bold=True))
    axes.text(85, 5, "yours: PyTorch or ONNX", **_words(SOFT, 10.5))


def _box(axes: Any, corner: tuple[float, float], size: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=1.2"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, facecolor=colour, linewidth=0))


def _arrow(
    axes: Any,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    text: str,
    height: float,
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "mutation_scale": 18}
    axes.annotate("", xy=end, xytext=start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})
    words = {**_words(colour, 10.5), "verticalalignment": "bottom"}
    axes.text((start[0] + end[0]) / 2, height, text, **words)


def _words(colour: str, size: float, *, bold: bool = False) -> dict[str, Any]:
    weight = "bold" if bold else "normal"
    return {
        "color": colour,
        "fontsize": size,
        "fontweight": weight,
        "horizontalalignment": "center",
        "verticalalignment": "center",
    }


if __name__ == "__main__":
    default = Path(__file__).parent.parent / "docs" / "overview.png"
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
