"""What a user sees in a terminal: progress on stderr, the table of a run on stdout."""

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Table

from db3kd.progress import Progress
from db3kd.stages.table import stage

LINE_SECONDS = 15.0  # between lines, if stderr is not a terminal


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """Show progress on stderr: bars in a terminal, elsewhere a line now and then.

    While a stage asks, it shows queries spent, queries per second and time left.

    >>> with shown(quiet=True) as progress:
    ...     progress("distances", 1, 2, {"queries": 10.0})
    """
    if quiet:
        yield lambda stage, done, total, figures: None
    elif sys.stderr.isatty():
        with Bars(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
            console=Console(stderr=True),
        ) as bars:
            yield _Shown(bars)
    else:
        yield _Lines()


class _Rate:
    """Queries per second since a stage was first seen."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, float]] = {}

    def facts(self, stage: str, figures: Mapping[str, float]) -> str:
        now = time.monotonic()
        words = []
        for name, value in figures.items():
            if name == "queries":
                then, before = self._first.setdefault(stage, (now, value))
                rate = (value - before) / (now - then) if now > then else 0.0
                words.append(f"{value:,.0f} queries, {rate:,.0f}/s")
            else:
                words.append(f"{name} {value:.4g}")
        return ", ".join(words)


class _Shown:
    def __init__(self, bars: Bars) -> None:
        self._bars, self._rate = bars, _Rate()
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        if stage not in self._tasks or self._task(stage).completed > done:
            self._tasks[stage] = self._bars.add_task(stage, total=total, facts="")
        facts = self._rate.facts(stage, figures)
        self._bars.update(self._tasks[stage], completed=done, total=total, facts=facts)

    def _task(self, stage: str) -> Task:
        return next(task for task in self._bars.tasks if task.id == self._tasks[stage])


class _Lines:
    def __init__(self) -> None:
        self._rate, self._said = _Rate(), -LINE_SECONDS
        self._begun: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        now, before = time.monotonic(), self._last.get(stage, -1)
        if done < before:  # the same stage of another student
            self._begun.pop(stage)
        self._last[stage] = done
        began, first = self._begun.setdefault(stage, (now, done))
        facts = self._rate.facts(stage, figures)
        if done == before == total or (done < total and now - self._said < LINE_SECONDS):
            return
        self._said = now
        left = ""
        if first < done < total:
            left = f", {_clock((now - began) * (total - done) / (done - first))} left"
        share = 100 * done // max(total, 1)
        sys.stderr.write(f"{stage}: {share}%{', ' if facts else ''}{facts}{left}\n")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def table(summary: Mapping[str, Any], *, title: str = "") -> str:
    """The table of a run as text: accuracy and agreement over seeds, queries, seconds.

    >>> row = {"accuracy": [0.97, 0.99], "agreement": [0.98, 0.98], "queries": 1000,
    ...        "label_s": 2.0, "training_s": [1.0, 1.0]}
    >>> print(table({"methods": {"ce": row}, "teacher": {"accuracy": 0.995}}))
    method    accuracy %     agreement %   queries   label s   train s
    ce        98.00 ± 1.41   98.00 ± 0.00    1,000       2.0       1.0
    teacher   99.50                 100.00
    """
    lines = Table(
        box=None, title=title or None, title_justify="left", pad_edge=False, padding=(0, 3, 0, 0)
    )
    for name in ("method", "accuracy %", "agreement %", "queries", "label s", "train s"):
        lines.add_column(name, justify="left" if name == "method" else "right")
    for method, row in summary["methods"].items():
        lines.add_row(
            method,
            _spread(row["accuracy"]),
            _spread(row["agreement"]),
            f"{row['queries']:,}",
            f"{row['label_s']:.1f}",
            f"{statistics.fmean(row['training_s']):.1f}",
        )
    teacher = summary["teacher"]["accuracy"]
    if teacher is not None:
        lines.add_row("teacher", f"{100 * teacher:.2f}", "100.00")
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(lines)
    return captured.get().rstrip("\n")


def spending(summary: Mapping[str, Any]) -> str:
    """What a trial found, and what each part of the answers bought, as text.

    >>> print(spending({"queries": {"by_stage": {"answers": 300, "grow": 8700, "evaluate": 0}},
    ...                 "spending": {"use": "grown", "why": "too few for a trial"}}))
    Spent on new images (too few for a trial).
    300 for the images' own answers, 8,700 for new images
    """
    bought: dict[str, int] = {}
    for name, count in summary["queries"]["by_stage"].items():
        words = stage(name).words
        bought[words] = bought.get(words, 0) + count
    parts = [f"{count:,} for {name}" for name, count in bought.items() if count]
    lines = [f"Spent on {decided(summary['spending'])}.", ", ".join(parts)]
    if "selection" in summary:
        lines.insert(1, selected(summary["selection"]))
    return "\n".join(lines)


def decided(found: Mapping[str, Any]) -> str:
    """What the answers buy, and why, as text.

    >>> print(decided({"use": "mbd", "why": "by trial", "agreement": {"grown": 0.9, "mbd": 0.92},
    ...                "held": 300}))
    distances (by trial: on 300 images held back, agreement with the teacher is 90.0% for students
    of new images, 92.0% for students of distances)
    """
    why = found["why"]
    if found.get("agreement"):
        shares = {use: f"{100 * share:.1f}%" for use, share in found["agreement"].items()}
        why += (
            f": on {found['held']:,} images held back, agreement with the teacher is"
            f" {shares['grown']} for students of new images, {shares['mbd']} for students of"
            " distances"
        )
    return f"{_USES[found['use']]} ({why})"


def selected(found: Mapping[str, Any]) -> str:
    """Which new images students learn from, and why, as text.

    >>> print(selected({"share": "all", "held": 300,
    ...                 "agreement": {"all": 0.9, "confirmed": 0.85, "none": 0.8}}))
    Students learn from all of these: on 300 images held back, agreement with the true class is
    90.0% with all, 85.0% with those that kept their parent's true class, 80.0% with own images
    alone.
    """
    shares = {name: f"{100 * share:.1f}%" for name, share in found["agreement"].items()}
    return (
        f"Students learn from {_SHARES[found['share']]}: on {found['held']:,} images held back,"
        f" agreement with the true class is {shares['all']} with all, {shares['confirmed']} with"
        f" those that kept their parent's true class, {shares['none']} with own images alone."
    )


def bought(paid: Mapping[str, Any]) -> str:
    """What a run's answers cost, as text.

    >>> bought({"answered": 5100, "hits": 300, "failed": 0, "retried": 128, "lost": 0,
    ...         "money": 7.65, "currency": "EUR"})
    '5,100 answers bought for 7.65 EUR, 300 known before, 128 images sent again'
    """
    money = (
        "" if paid["money"] is None else f" for {paid['money']:,.2f} {paid['currency']}".rstrip()
    )
    words = [f"{paid['answered']:,} answers bought{money}", f"{paid['hits']:,} known before"]
    for name, text in (
        ("retried", "images sent again"),
        ("failed", "given up"),
        ("lost", "lost when a process died"),
    ):
        if paid[name]:
            words.append(f"{paid[name]:,} {text}")
    return ", ".join(words)


def checked(found: Mapping[str, Any]) -> str:
    """What a check of a teacher found, as text.

    >>> print(checked({"images": 16, "questions": 67, "classes": 10, "met": 8, "as_labelled": 15,
    ...                "flips": 0, "rounding": None, "latency_s": 0.012, "per_second": 450.0,
    ...                "queries": {"answers": 300, "evaluate": 100, "total": 400}, "money": 0.6,
    ...                "currency": "EUR", "hours": 0.001}))
    16 images were asked, in 67 questions:
      classes     8 of 10 met; 15 of 16 answers are the images' labels
      repeated    0 of 16 answers differed
      8 bits      the teacher sees only these
      one image   0.012 s
      together    450.0 images per second
    The run costs at most 400 queries: 0.60 EUR, 0.001 hours of asking
    """
    images = found["images"]
    rounding = "the teacher sees only these"
    if found["rounding"] is not None:
        rounding = f"{found['rounding']} of {images} mixed images get another class once rounded"
    money = ""
    if found["money"] is not None:
        money = f"{found['money']:,.2f} {found['currency']}".rstrip() + ", "
    total = found["queries"]["total"]
    return "\n".join(
        (
            f"{images} images were asked, in {found['questions']} questions:",
            f"  classes     {found['met']} of {found['classes']} met; {found['as_labelled']} of"
            f" {images} answers are the images' labels",
            f"  repeated    {found['flips']} of {images} answers differed",
            f"  8 bits      {rounding}",
            f"  one image   {found['latency_s']:g} s",
            f"  together    {found['per_second']:,} images per second",
            f"The run costs at most {total:,} queries: {money}{found['hours']:,g} hours of asking",
        )
    )


def met(counts: Sequence[int]) -> str:
    """How many pseudo samples there are of each class, as text.

    >>> met([3, 5, 0])
    '8 pseudo samples, 3 to 5 of a class; none of class 2'
    >>> met([4, 4]), met([0, 0])
    ('8 pseudo samples, 4 of a class', 'no pseudo samples')
    """
    some = [count for count in counts if count]
    if not some:
        return "no pseudo samples"
    spread = f"{min(some):,}" if min(some) == max(some) else f"{min(some):,} to {max(some):,}"
    text = f"{sum(some):,} pseudo samples, {spread} of a class"
    missing = [str(k) for k, count in enumerate(counts) if not count]
    if not missing:
        return text
    more = ", ..." if len(missing) > 10 else ""
    return f"{text}; none of class {', '.join(missing[:10])}{more}"


_USES = {"ce": "the images' own answers alone", "grown": "new images", "mbd": "distances"}
_SHARES = {
    "all": "all of these",
    "confirmed": "those that kept their parent's true class",
    "none": "none of these",
}


def _spread(values: list[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "unknown"
    if len(known) == 1:
        return f"{known[0]:.2f}"
    return f"{statistics.fmean(known):.2f} ± {statistics.stdev(known):.2f}"
