"""Figures as SVG and PNG, by matplotlib (the extra "report"); colours that everybody can tell."""

import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from db3kd.errors import InputError, hint
from db3kd.storage.files import Json, write_atomically

if TYPE_CHECKING:
    from db3kd.paper.points import Figure, Matrix

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P")


def drawn(figure: "Figure", file: Path) -> list[Path]:
    """Draw a figure beside `file`; returns what was written.

    Raises:
        InputError: matplotlib is not installed.
        RunError: a file cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise InputError(f"figures need matplotlib: {hint('report')}") from None
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = figure.name  # the same figure gives the same file
    make = {"fig4": _fig4, "fig5": _fig5, "fig6": _fig6}[figure.name]
    page = make(plt, figure)
    written = []
    for end in ("svg", "png"):
        content = io.BytesIO()
        page.savefig(content, format=end, dpi=150, bbox_inches="tight", metadata={"Date": None}
                     if end == "svg" else None)  # fmt: skip
        target = file.with_suffix(f".{end}")
        write_atomically(target, content.getvalue())
        written.append(target)
    plt.close(page)
    return written


def _fig4(plt: Any, figure: "Figure") -> Any:
    setups = list(dict.fromkeys(record["setup"] for record in figure.records))
    page, grid = plt.subplots(1, len(setups), figsize=(3.4 * len(setups), 3.2), squeeze=False)
    for axes, setup in zip(grid[0], setups, strict=True):
        mine = [record for record in figure.records if record["setup"] == setup]
        for number, student in enumerate(dict.fromkeys(record["student"] for record in mine)):
            some = [record for record in mine if record["student"] == student]
            _curve(axes, some, "queries", student, number)
        axes.set_xscale("log")
        _ticks(axes, sorted({record["queries"] for record in mine}))
        axes.set(title=f"{setup}, {mine[0]['samples']:,} images", xlabel="queries, image and class")
        axes.legend(frameon=False, fontsize=8)
    grid[0][0].set_ylabel("test accuracy of the student, %")
    return _finished(page, figure.title)


def _fig5(plt: Any, figure: "Figure") -> Any:
    count = 1 + len(figure.matrices)
    page, grid = plt.subplots(1, count, figsize=(3.8 * count, 3.6), squeeze=False)
    first, *others = grid[0]
    for number, setup in enumerate(dict.fromkeys(record["setup"] for record in figure.records)):
        mine = [record for record in figure.records if record["setup"] == setup]
        first.errorbar(
            [record["queries"] for record in mine],
            [record["distance"] for record in mine],
            [record["spread"] for record in mine],
            marker=MARKERS[number], color=COLOURS[number], capsize=2, markersize=4, label=setup,
        )  # fmt: skip
    first.set_xscale("log")
    _ticks(first, sorted({record["queries"] for record in figure.records}))
    first.set(title="mean distance ± deviation", xlabel="queries, image and class")
    first.set_ylabel("minimal boundary distance")
    first.legend(frameon=False, fontsize=8)
    for axes, matrix in zip(others, figure.matrices, strict=True):
        _matrix(page, axes, matrix)
    if others:
        others[0].set_ylabel("images of")
    return _finished(page, figure.title)


def _matrix(page: Any, axes: Any, matrix: "Matrix") -> None:
    shown = axes.imshow(matrix.values.numpy(), cmap="cividis")
    at = range(len(matrix.names))
    axes.set_xticks(at, matrix.names, rotation=90, fontsize=7)
    axes.set_yticks(at, matrix.names, fontsize=7)
    axes.set(title=matrix.title, xlabel="to the boundary of")
    page.colorbar(shown, ax=axes, fraction=0.046, label="distance / mean")


def _fig6(plt: Any, figure: "Figure") -> Any:
    pictures = [(title, _tiled(images)) for title, images in figure.images]
    heights = [8 * shown.shape[0] / shown.shape[1] for _, shown in pictures]
    page = plt.figure(figsize=(8, sum(heights) + 3.5))
    places = page.add_gridspec(len(pictures) + 1, 2, height_ratios=[*heights, 3])
    for number, (title, shown) in enumerate(pictures):
        axes = page.add_subplot(places[number, :])
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    for across, kind in enumerate(("iterations", "samples")):
        axes = page.add_subplot(places[-1, across])
        mine = [record for record in figure.records if record["kind"] == kind]
        for number, setup in enumerate(dict.fromkeys(record["setup"] for record in mine)):
            some = [record for record in mine if record["setup"] == setup]
            _curve(axes, some, "number", setup, number)
        axes.set_xlabel({"iterations": "iterations", "samples": "pseudo samples"}[kind])
        axes.set_ylabel("test accuracy of the student, %" if not across else "")
    return _finished(page, figure.title)


def _curve(axes: Any, records: Sequence[Json], across: str, label: str, number: int) -> None:
    """Means over seeds, with the standard deviation as a bar."""
    places = sorted({record[across] for record in records})
    found = [[r["accuracy"] for r in records if r[across] == place] for place in places]
    axes.errorbar(
        places,
        [mean(some) for some in found],
        [stdev(some) if len(some) > 1 else 0.0 for some in found],
        marker=MARKERS[number], color=COLOURS[number], capsize=2, markersize=4, label=label,
    )  # fmt: skip


def _ticks(axes: Any, places: Sequence[int]) -> None:
    axes.minorticks_off()
    axes.set_xticks(places, [f"{place:,}" for place in places], fontsize=8)


def _tiled(images: Tensor) -> Any:
    """Rows of images as one picture; NaN becomes white."""
    from db3kd.job.pictures import tiled

    whole = tiled(images, bounds=(0.0, 1.0)).permute(1, 2, 0)
    return (whole[..., 0] if whole.shape[2] == 1 else whole).to(torch.float32).numpy()


def _finished(page: Any, title: str) -> Any:
    for axes in page.axes:
        axes.spines[["top", "right"]].set_visible(False)
    page.suptitle(title, x=0.01, ha="left")
    page.tight_layout()
    return page
