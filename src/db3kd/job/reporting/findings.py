"""What is to be said of a run in words: the verdict, the numbers that matter, the warnings."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from db3kd.errors import plain
from db3kd.job.reporting.records import Records
from db3kd.stages.table import stage
from db3kd.student.evaluate import interval

NEAR_CHANCE = 2.0  # times the share that guessing gets right


@dataclass(frozen=True)
class Standing:
    """How the students of one method did; `None` is what nobody knows."""

    method: str
    network: str
    accuracy: list[float]
    agreement: list[float]
    interval: tuple[float, float] | None
    seeds: list[int]
    queries: int | None
    label_seconds: float | None
    training_seconds: float | None


def standings(records: Records) -> list[Standing]:
    """Every method that was evaluated, in the order of the recipe."""
    found = []
    rows = records.summary.get("methods") or {}
    for name in dict.fromkeys(name for name, _ in records.evaluations):
        mine = {seed: r for (method, seed), r in records.evaluations.items() if method == name}
        trained = [
            records.students[name, seed] for seed in mine if (name, seed) in records.students
        ]
        shares = [record["agreement"] for record in mine.values()]
        known = min(r["samples"] - r.get("unsure", 0) for r in mine.values())
        seconds = [float(record["seconds"]) for record in trained]
        row = rows.get(name, {})
        found.append(
            Standing(
                name,
                next((str(r["network"]) for r in trained if "network" in r), ""),
                [r["accuracy"] for r in mine.values() if r["accuracy"] is not None],
                shares,
                interval(statistics.fmean(shares), known) if known else None,
                list(mine),
                row.get("queries"),
                row.get("label_s"),
                statistics.fmean(seconds) if seconds else None,
            )
        )
    return found


def verdict(records: Records, found: list[Standing]) -> str:
    """What came out, in two or three sentences."""
    told = [] if records.status["stage"] == "done" else [_unfinished(records)]
    if records.summary.get("quick"):
        told.append("This is a quick look, so the figures are low.")
    best = next((row for row in found if row.method == records.best), None)
    if best is None:
        told.append("No student was compared with the teacher, so nobody knows how well it does.")
        return " ".join(told)
    share = 100 * statistics.fmean(best.agreement)
    low, high = best.interval or (0.0, 1.0)
    tests = next(r["samples"] for r in records.evaluations.values())
    rest = [100 * statistics.fmean(row.agreement) for row in found if row is not best]
    others = ", more often than those of any other method" if rest and share > max(rest) else ""
    told.append(
        f"Students of {best.method!r} give the teacher's class to {share:.2f} % of {tests:,} test"
        f" images (95 % interval {100 * low:.2f} to {100 * high:.2f}){others}."
    )
    teacher = teacher_accuracy(records)
    if best.accuracy and teacher is not None:
        mine = 100 * statistics.fmean(best.accuracy)
        told.append(f"They are right on {mine:.2f} %, the teacher on {100 * teacher:.2f} %.")
    else:
        told.append("The test images have no true classes, so nobody knows how often it is right.")
    return " ".join(told)


def numbers(records: Records, found: list[Standing]) -> list[tuple[str, str]]:
    """The five numbers that matter, and what they are."""
    best = next((row for row in found if row.method == records.best), None)
    queries = records.status["queries"]
    budget = "no budget" if queries["budget"] is None else f"of {queries['budget']:,}"
    return [
        (mean_of(best.accuracy if best else []), "accuracy of the best method"),
        (mean_of(best.agreement if best else []), "agreement with the teacher"),
        (f"{queries['spent']:,}", f"queries spent, {budget}"),
        (lasting(records.seconds), "of work"),
        (f"{queries['lost']:,}", "answers lost"),
    ]


def concerns(records: Records) -> Iterator[str]:
    """What a reader should know before believing the figures."""
    yield from dict.fromkeys(_concerns(records))


def _concerns(records: Records) -> Iterator[str]:
    yield from (str(text) for text in records.told.get("warnings") or ())
    yield from _rows(records.statuses)
    yield from _classes(records)
    accuracy = teacher_accuracy(records)
    if accuracy is not None and accuracy <= NEAR_CHANCE / records.classes:
        yield (
            f"the teacher is right on {100 * accuracy:.2f} % of the test images; guessing among"
            f" {records.classes:,} classes is right on {100 / records.classes:.2f} %"
        )
    if records.summary.get("undecided"):
        yield f"answers flip: {records.summary['undecided']:,} images were left undecided by votes"
    unsure = max((r.get("unsure", 0) for r in records.evaluations.values()), default=0)
    if unsure:
        yield f"the teacher did not know the class of {unsure:,} test images"
    lost = records.status["queries"]["lost"]
    if lost:
        yield f"{lost:,} answers were paid for and lost, when a process died or a server failed"
    yield from records.faults


def _rows(statuses: dict[str, int]) -> Iterator[str]:
    whole = sum(count for word, count in statuses.items() if word != "OWN")
    words = {
        "LIMIT": "ended by their limit of queries; their distances are upper bounds",
        "NO_REFERENCE": "had no image of that class to start from, so they have no distance",
        "REFERENCE_REJECTED": "had only images that the teacher calls otherwise to start from",
        "SAMPLE_REJECTED": "belong to images that the teacher calls otherwise",
    }
    for word, text in words.items():
        if statuses.get(word):
            yield f"{statuses[word]:,} of {whole:,} rows of the search {text}"


def _classes(records: Records) -> Iterator[str]:
    """Classes that the teacher never gave to an image that students learned from."""
    counts = class_counts(records)
    if not counts:
        return
    met = torch.stack(list(counts.values())).sum(0)[: records.known]
    text = never_met(met, records.names)
    if text is not None:
        yield text


def never_met(met: torch.Tensor, names: Sequence[str]) -> str | None:
    """Which classes the teacher gave to no image that students learn from; None if there are none.

    >>> never_met(torch.tensor([3, 0]), ["cat", "dog"])
    "1 of 2 classes were never met: the teacher gave no image that students learn from 'dog'"
    """
    missing = [names[k] for k in (met == 0).nonzero()[:, 0].tolist()]
    if not missing:
        return None
    named = ", ".join(repr(plain(name, 60)) for name in missing[:10])
    more = ", ..." if len(missing) > 10 else ""
    return (
        f"{len(missing):,} of {len(met):,} classes were never met: the teacher gave no"
        f" image that students learn from {named}{more}"
    )


def class_counts(records: Records) -> dict[str, torch.Tensor]:
    """How many images the teacher gave each class, by what they are."""
    found: dict[str, torch.Tensor] = {}
    for name in ("answers", "audit/answers", "trial/grow", "grow", "synthesis", "ascent", "copies"):
        called = records.called(name)
        called = called[(called >= 0) & (called < records.classes)]
        if len(called):
            words = stage(name).words
            count = torch.bincount(called, minlength=records.classes)
            found[words] = found[words] + count if words in found else count
    return found


def teacher_accuracy(records: Records) -> float | None:
    """How often the teacher is right on the test images; None if nobody knows."""
    known = [r["teacher_accuracy"] for r in records.evaluations.values()]
    return next((float(value) for value in known if value is not None), None)


def mean_of(shares: list[float]) -> str:
    """The mean of shares in percent; its standard deviation, too, if there are several.

    >>> mean_of([0.5]), mean_of([0.5, 0.7]), mean_of([])
    ('50.00 %', '60.00 ± 14.14 %', 'unknown')
    """
    if not shares:
        return "unknown"
    mean = f"{100 * statistics.fmean(shares):.2f}"
    return f"{mean} ± {100 * statistics.stdev(shares):.2f} %" if len(shares) > 1 else f"{mean} %"


def lasting(seconds: float) -> str:
    """A length of time in its two largest units.

    >>> [lasting(seconds) for seconds in (4.2, 75.0, 7384.0, 200_000.0)]
    ['4.2 s', '1 min 15 s', '2 h 3 min', '2 d 7 h']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def _unfinished(records: Records) -> str:
    return f"The run is not finished; it is at {records.status['stage']!r}."
