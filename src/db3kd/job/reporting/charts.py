"""Charts as SVG within a page, by matplotlib (the extra "report").

Colours are drawn as stand-ins and become variables of the page's style, so that one file serves
light and dark. Series differ in their marks and dashes, too, for those who cannot tell colours.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from db3kd.errors import plain
from db3kd.storage.files import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES = 6
_INK, _FAINT = "#010101", "#020202"  # stand-ins
_STANDINS = [f"#0{number}0{number}0{number}" for number in range(3, 3 + SERIES)]
_PLAIN = ("#0072b2", "#d55e00", "#009e73", "#b0568a", "#b88700", "#2a8fc9")  # as the page's
_MARKS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
Points = Sequence[tuple[float, float]]


class _Sheet:
    """A chart in the making: axes to draw on, and afterwards its SVG."""

    def __init__(self, axes: "Axes") -> None:
        self.axes = axes
        self.svg = Markup("")


@contextmanager
def _sheet(about: str, across: str, up: str, *, width: float = 6.4) -> Iterator[_Sheet]:
    """A chart; `about` says in words what it shows."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": about}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # signs of names that the font lacks; the page has others
        figure = Figure(figsize=(width, 2.7), layout="constrained")
        sheet = _Sheet(figure.subplots())
        sheet.axes.set_xlabel(across)
        sheet.axes.set_ylabel(up)
        yield sheet
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
        sheet.svg = _inline(content.getvalue(), about)


def students(
    accuracies: Mapping[str, Sequence[float]], teacher: float | None, words: str
) -> Markup:
    """A dot for each seed, a bar for their mean, by method; dashed: the teacher."""
    about = f"{words} of the students by method, a dot for each seed"
    with _sheet(about, "", f"{words}, %") as sheet:
        for number, values in enumerate(accuracies.values()):
            shares = [100 * value for value in values]
            colour = _STANDINS[number % SERIES]
            mark = _MARKS[number % SERIES]
            sheet.axes.plot([number] * len(shares), shares, mark, color=colour, alpha=0.75)
            mean = sum(shares) / len(shares)
            sheet.axes.plot([number - 0.3, number + 0.3], [mean, mean], color=colour, linewidth=2)
        if teacher is not None:
            sheet.axes.axhline(100 * teacher, color=_FAINT, linestyle="--", linewidth=1)
        turned = 45 if len(accuracies) > 8 else 0
        sheet.axes.set_xticks(
            range(len(accuracies)), [label(name) for name in accuracies], rotation=turned
        )
        sheet.axes.set_xlim(-0.6, len(accuracies) - 0.4)
    return sheet.svg


def spent_over_time(moments: Points, budget: int | None) -> Markup:
    """Queries spent by the seconds of work, as a staircase; dashed: the budget, if it is near."""
    with _sheet("queries spent over the time of work", "seconds of work", "queries") as sheet:
        times, spent = zip((0.0, 0.0), *moments, strict=True)
        sheet.axes.plot(times, spent, drawstyle="steps-post", color=_STANDINS[0])
        if budget is not None and budget < 4 * max(1.0, max(spent)):
            sheet.axes.axhline(budget, color=_FAINT, linestyle="--", linewidth=1)
        sheet.axes.set_ylim(bottom=0)
        sheet.axes.yaxis.set_major_formatter(_whole)
    return sheet.svg


def curves(
    found: Mapping[str, Points], about: str, across: str, up: str, *, marks: bool = False
) -> Markup:
    """Lines with a legend; `marks` sets a mark at each point."""
    with _sheet(about, across, up) as sheet:
        for number, (name, points) in enumerate(found.items()):
            xs, ys = zip(*points, strict=True)
            sheet.axes.plot(
                xs,
                ys,
                color=_STANDINS[number % SERIES],
                linestyle=_DASHES[number % SERIES],
                marker=_MARKS[number % SERIES] if marks or len(points) == 1 else "",
                markersize=4,
                linewidth=1.5,
                label=label(name),
            )
        if len(found) > 1:
            sheet.axes.legend(fontsize=8, ncols=1 + len(found) // 9)
    return sheet.svg


def frontier(points: Mapping[str, Points], best: Points) -> Markup:
    """Accuracy by queries, a mark for each method of a run; the line is the best for the price."""
    about = "accuracy of the students by the queries that their labels cost"
    with _sheet(about, "queries for the labels", "accuracy, %", width=8.0) as sheet:
        for number, (name, mine) in enumerate(points.items()):
            xs, ys = zip(*mine, strict=True)
            colour, mark = _STANDINS[number % SERIES], _MARKS[number % SERIES]
            sheet.axes.plot(xs, ys, mark, color=colour, label=label(name))
        if len(best) > 1:
            xs, ys = zip(*best, strict=True)
            sheet.axes.plot(
                xs,
                ys,
                color=_FAINT,
                linewidth=1,
                drawstyle="steps-post",
                label="best for the price",
            )
        sheet.axes.set_xscale("log")
        sheet.axes.xaxis.set_major_formatter(_whole)
        sheet.axes.xaxis.set_minor_formatter(lambda value, _: "")
        sheet.axes.legend(fontsize=8)
    return sheet.svg


def fidelity(steps: Sequence[Json], targets: Sequence[float]) -> Markup:
    """Agreement by answers: a dot for each student, their mean, its interval; dashed: the targets.

    `steps`: as in `audit.json`.
    """
    about = "agreement of the students with the teacher by the answers they learned from"
    with _sheet(about, "answers", "agreement, %", width=8.0) as sheet:
        axes, colour = sheet.axes, _STANDINS[0]
        answers = [step["answers"] for step in steps]
        low, high = ([100 * step["interval"][end] for step in steps] for end in (0, 1))
        axes.fill_between(answers, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(answers, [100 * step["mean"] for step in steps], color=colour, linewidth=1.5)
        for step in steps:
            shares = [100 * share for share in step["agreement"]]
            axes.plot([step["answers"]] * len(shares), shares, "o", color=colour, markersize=3)
        for target in targets:
            axes.axhline(100 * target, color=_FAINT, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([float(count) for count in answers]))
        axes.xaxis.set_major_formatter(_whole)
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    return sheet.svg


def alone(svg: Markup) -> str:
    """A chart as a file of its own, in the page's colours by day."""
    text, known = str(svg), {"ink": "#1b1b1b", "faint": "#767676"}
    known |= {f"series-{number}": colour for number, colour in enumerate(_PLAIN)}
    for name, colour in known.items():
        text = text.replace(f"var(--{name})", colour)
    return text


def label(text: object) -> str:
    """Foreign text within a chart: short, on one line, without signs that turn the line around."""
    return plain(text, 24)


def _whole(value: float, _: object) -> str:
    return f"{value:,.0f}"


def _inline(svg: str, about: str) -> Markup:
    """An SVG file of matplotlib as a part of a page, in the page's colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="(?:figure|axes|patch|text|line2d|[xy]tick|legend|matplotlib\.axis'
                  r"|PathCollection|LineCollection)_\d+\"", "", body)  # fmt: skip
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', body)
    width = float(size[1]) * 4 / 3 if size else 600.0
    attributes = f'role="img" aria-label="{escape(about)}" style="max-width: {width:.0f}px"'
    body = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', lambda _: attributes, body, count=1)
    names: dict[str, str] = {_INK: "ink", _FAINT: "faint"}
    names |= {colour: f"series-{number}" for number, colour in enumerate(_STANDINS)}
    for colour, name in names.items():
        body = body.replace(f": {colour}", f": var(--{name})")
    return Markup(body)  # matplotlib has escaped all texts
