"""The result of a run as text: the table of its students, what was spent, and warnings."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from db3kd.cli.door import WIDTH
from db3kd.errors import plain
from db3kd.stages.decisions import decided
from db3kd.stages.table import stage

SHOWN_SHARE = 0.2  # of the images, passed on to the teacher


def result(found: Mapping[str, Any], *, steps: int | None = None, width: int = WIDTH) -> str:
    """All that a command says at its end.

    `steps`: of each student, to be told of a quick look. `width`: in columns.

    >>> print(result({"queries": {"spent": 300, "budget": 400}, "run": "runs/mnist"}))
    300 of 400 queries spent; everything is in runs/mnist
    """
    return "\n".join(_parts(found, steps, width))


def _parts(found: Mapping[str, Any], steps: int | None, width: int) -> Iterator[str]:
    if "methods" in found:
        yield table(found, width=width)
        yield from measured(found)
        yield from passed_on(found["methods"])
    if found.get("quick"):
        many = "" if steps is None else f" at {steps:,} steps"
        yield f"This is a quick look{many}: the figures are low."
    if "spending" in found:
        yield spending(found)
    if "stopped" in found:
        yield stopped(found["stopped"])
    if "sources" in found:
        yield sources(found["sources"])
    yield from classes(found)
    if "picture" in found:
        what = "the pseudo samples" if "classes" in found else "what the students learn from"
        yield f"{found['picture']} shows {what}"
    if "paid" in found:
        yield bought(found["paid"])
    if "repeats" in found:
        yield f"{found['repeats']:,} repeats, {found['undecided']:,} images left undecided"
    queries = found["queries"]
    budget = f" of {queries['budget']:,}" if queries["budget"] is not None else ""
    yield f"{queries['spent']:,}{budget} queries spent; everything is in {found['run']}"
    yield from _last(found)


def _last(found: Mapping[str, Any]) -> Iterator[str]:
    """What to do next, what to beware of, and where all of it can be read."""
    files = [file for row in found.get("methods", {}).values() for file in row.get("files", ())]
    if files:
        yield f"Ask a student: db3kd predict {found['run']}/{files[-1]} IMAGES"
    for warning in found.get("warnings") or ():
        yield f"warning: {plain(warning)}"
    if "report" in found:
        yield f"Report: {found['report']}"


def measured(found: Mapping[str, Any]) -> Iterator[str]:
    """Which images the figures of a summary are of, where it says so.

    >>> row = {"accuracy": [None], "agreement": [0.9]}
    >>> print(*measured({"test": {"source": "held back", "samples": 50}, "methods": {"ce": row}}))
    Measured on 50 own images that were held back from the students. They have no labels, so only
    the agreement with the teacher is known.
    """
    test = found.get("test")
    if not test:
        return
    if test["source"] == "none" or not test["samples"]:
        yield "There are no test images, so nothing was measured."
        return
    which = {"held back": "own images that were held back from the students"}
    text = f"Measured on {test['samples']:,} {which.get(test['source'], 'test images')}."
    rows = found["methods"].values()
    if all(value is None for row in rows for value in row["accuracy"]):
        text += " They have no labels, so only the agreement with the teacher is known."
    yield text


def passed_on(methods: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the last student gains where it passes images on to the teacher, if it was measured.

    >>> point = {"share": 0.2, "passed": 0.2, "threshold": 0.87, "agreement": 0.99}
    >>> curve = {"samples": 800, "fitted_on": 200, "points": [point]}
    >>> print(*passed_on({"ce": {"cascade": [curve]}}))  # doctest: +NORMALIZE_WHITESPACE
    At 20.0% passed on to the teacher (predict --teacher RECIPE --ask-teacher-below 0.87)
    agreement is 99.0%.
    """
    rows = list(methods.values())
    curve = (rows[-1].get("cascade") or [None])[-1] if rows else None
    for point in () if curve is None else curve["points"]:
        if point["share"] == SHOWN_SHARE and point["passed"]:
            yield (
                f"At {100 * point['passed']:.1f}% passed on to the teacher (predict --teacher"
                f" RECIPE --ask-teacher-below {point['threshold']:.6g}) agreement is"
                f" {100 * point['agreement']:.1f}%."
            )


def table(summary: Mapping[str, Any], *, title: str = "", width: int = WIDTH) -> str:
    """The table of a run as text: accuracy and agreement over seeds, queries, seconds.

    Where a method has an `agreement_interval`, it stands beside the agreement.

    >>> row = {"accuracy": [0.97, 0.99], "agreement": [0.98, 0.98], "queries": 1000,
    ...        "label_s": 2.0, "training_s": [1.0, 1.0]}
    >>> print(table({"methods": {"ce": row}, "teacher": {"accuracy": 0.995}}))
    method    accuracy %     agreement %   queries   label s   train s
    ce        98.00 ± 1.41   98.00 ± 0.00    1,000       2.0       1.0
    teacher   99.50                 100.00
    """
    rows = summary["methods"]
    known = any(row.get("agreement_interval") for row in rows.values())
    lines = Table(
        box=None, title=title or None, title_justify="left", pad_edge=False, padding=(0, 3, 0, 0)
    )
    agreement = ("agreement %", "95 % interval") if known else ("agreement %",)
    for name in ("method", "accuracy %", *agreement, "queries", "label s", "train s"):
        lines.add_column(name, justify="left" if name == "method" else "right")
    for method, row in rows.items():
        lines.add_row(
            method,
            _spread(row["accuracy"]),
            _spread(row["agreement"]),
            *([_interval(row.get("agreement_interval"))] if known else []),
            f"{row['queries']:,}",
            f"{row['label_s']:.1f}",
            f"{statistics.fmean(row['training_s']):.1f}",
        )
    teacher = summary["teacher"]["accuracy"]
    if teacher is not None:
        lines.add_row("teacher", f"{100 * teacher:.2f}", "100.00")
    return drawn(lines, width)


def drawn(lines: Table, width: int) -> str:
    """A table as plain text of at most `width` columns.

    >>> grid = Table.grid(padding=(0, 1))
    >>> grid.add_row("a", "b")
    >>> drawn(grid, 40)
    'a b'
    """
    console = Console(width=width, color_system=None, emoji=False)
    with console.capture() as captured:
        console.print(lines)
    return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))


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


def stopped(found: Mapping[str, Any]) -> str:
    """What a rule has saved, as text.

    >>> print(stopped({"stage": "grow", "asked": 4500, "planned": 9000, "saved": 4500,
    ...                "agreement": 0.972, "held": 300, "rule": "agreement of 97 %"}))
    The rule (agreement of 97 %) saved 4,500 of 9,000 answers for new images: students agreed with
    the teacher on 97.20% of 300 samples held back.
    """
    return (
        f"The rule ({found['rule']}) saved {found['saved']:,} of {found['planned']:,} answers for"
        f" {stage(found['stage']).words}: students agreed with the teacher on"
        f" {100 * found['agreement']:.2f}% of {found['held']:,} samples held back."
    )


def sources(found: Mapping[str, Any]) -> str:
    """What was asked from which source, and why, as text.

    >>> print(sources({"asked": {"shapes": 40, "crops": 30, "descendants": 0}, "photographs": 9,
    ...                "damaged": 1, "trial": "crops (by trial)"}))
    Asked 40 shapes, 30 crops; new images are crops (by trial); 9 photographs, 1 damaged
    """
    asked = [f"{count:,} {name}" for name, count in found["asked"].items() if count]
    parts = [f"Asked {', '.join(asked)}"]
    if found["trial"]:
        parts.append(f"new images are {found['trial']}")
    damaged = f", {found['damaged']:,} damaged" if found["damaged"] else ""
    return "; ".join([*parts, f"{found['photographs']:,} photographs{damaged}"])


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


def classes(found: Mapping[str, Any]) -> Iterator[str]:
    """Which classes were found, and how many pseudo samples there are of each.

    >>> list(classes({"classes": [4, 4, 1], "found": None, "class_names": ["cat", "dog"]}))
    ['8 pseudo samples, 4 of a class']
    """
    if found.get("found"):
        yield classes_found(found)
    if "classes" in found:  # the last count is of "I do not know", where classes are found
        known = found["classes"][:-1] if "found" in found else found["classes"]
        yield met(known, found.get("class_names") or ())


def classes_found(found: Mapping[str, Any]) -> str:
    """Which classes the teacher's answers named, and which were met too late for students.

    >>> late = {"most": 100, "lacking": {"ce": ["dog"]}}
    >>> classes_found({"class_names": ["cat", "cow", "dog"], "found": late})
    "3 classes were found: 'cat', 'cow', 'dog'; students of 'ce' do not have 'dog'"
    """
    names, lacking = found["class_names"], found["found"]["lacking"]
    parts = [f"{len(names):,} classes were found: {_listed(names)}"]
    parts += [f"students of {k!r} do not have {_listed(late)}" for k, late in lacking.items()]
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(plain(name, 40)) for name in names[:10])
    return f"{shown}, ..." if len(names) > 10 else shown


def met(counts: Sequence[int], names: Sequence[str] = ()) -> str:
    """How many pseudo samples there are of each class, as text; `names` are those of the classes.

    >>> met([3, 5, 0])
    '8 pseudo samples, 3 to 5 of a class; none of class 2'
    >>> met([4, 4]), met([0, 0])
    ('8 pseudo samples, 4 of a class', 'no pseudo samples')
    >>> met([4, 0, 0], ["cat", "dog", "owl"])
    "4 pseudo samples, 4 of a class; none of class 'dog', 'owl'"
    """
    some = [count for count in counts if count]
    if not some:
        return "no pseudo samples"
    spread = f"{min(some):,}" if min(some) == max(some) else f"{min(some):,} to {max(some):,}"
    text = f"{sum(some):,} pseudo samples, {spread} of a class"
    named = len(names) == len(counts)
    missing = [
        repr(plain(names[k], 40)) if named else str(k)
        for k, count in enumerate(counts)
        if not count
    ]
    if not missing:
        return text
    more = ", ..." if len(missing) > 10 else ""
    return f"{text}; none of class {', '.join(missing[:10])}{more}"


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


def _interval(shares: Sequence[float] | None) -> str:
    return f"{100 * shares[0]:.2f} to {100 * shares[1]:.2f}" if shares else ""
