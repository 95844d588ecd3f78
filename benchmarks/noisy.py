"""What flipped answers do, and what asking again gains, on teachers whose truth is known.

    python benchmarks/noisy.py [--quick] --json noisy.json

- `bisect`: mean distance from the truth, in percent of the bracket, at equal queries, for `bisect`,
  for `bisect` with the majority of three answers, and for `bisect_noisy`. Flips fall at random
  ("question") or on the same images each time ("image").
- `vote`: wrong answers in percent, and queries per image, of `Voting` for an error of 0.1 percent,
  with two and with ten classes.
- `interval`: how often the 95 % interval of `flip_rate` contains the truth, if all images flip
  equally often, and if one in ten does all the flipping.
- `canary`: how often `Canary` stops in 1,000 checks of a teacher that only flips, with false alarms
  allowed in 0.05 of the runs. Also after how many checks it stops if a teacher starts to give other
  answers more often, with 0.001.

Everything is simulated and drawn from fixed seeds. See docs/noisy.md.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import common
from db3kd.errors import TeacherError
from db3kd.search.boundary import Asks, Bracket, bisect, bisect_noisy
from db3kd.teachers import function
from db3kd.teachers.base import Teacher
from db3kd.teachers.noisy import Canary, Voting, flip_rate, margin_for

FLIPS = (0.01, 0.05, 0.1)
CHANGES = (0.05, 0.1, 0.2)
CLASSES, KNOWN, FALSE_ALARM, OFTEN = 10, 100, 1e-3, 0.05


def main() -> int:
    """Measure and write the result."""
    given = common.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    less = 10 if given.quick else 1
    table = [
        *bisections(20_000 // less),
        *votes(200_000 // less),
        *intervals(2_000 // less),
        *alarms(2_000 // less),
        *delays(200 // less),
    ]
    figures = {
        f"{row['what']}.{row['case']}.{name}": value
        for row in table
        for name, value in row.items()
        if isinstance(value, float)
    }
    setting = {
        "quick": given.quick,
        "classes": CLASSES,
        "known": KNOWN,
        "alarms": [OFTEN, FALSE_ALARM],
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def bisections(rows: int) -> Iterator[common.Json]:
    """Plain, voting and noisy bisection at equal queries."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.rand(rows, generator=draw)
    start, number = torch.zeros(rows, 1, 1, 1), torch.arange(rows)

    def error(find: Callable[..., Bracket], asks: Asks, times: int, **more: float) -> float:
        found = find(
            asks,
            start,
            start + 1,
            near=torch.zeros(rows),
            rows=number,
            times=torch.full((rows,), times),
            bounds=(0.0, 1.0),
            **more,
        )
        return 100 * float((found.point.flatten() - truth).abs().mean())

    for fixed in (False, True):
        for flips in FLIPS:
            for queries in (12, 18, 24, 30):
                asks = flipped(truth, flips, fixed, draw)
                yield {
                    "what": "bisect",
                    "case": f"{'image' if fixed else 'question'}.{flips}.{queries}",
                    "plain": error(bisect, asks, queries),
                    "three": error(bisect, majority(asks), queries // 3),
                    "noisy": error(bisect_noisy, asks, queries, flips=flips),
                }


def flipped(truth: Tensor, flips: float, fixed: bool, draw: torch.Generator) -> Asks:
    """Answers: a point is across if it lies beyond its row's truth, except for some flips."""

    def asks(points: Tensor, rows: Tensor) -> Tensor:
        places = points.flatten()
        chance = scattered(places, rows) if fixed else torch.rand(len(places), generator=draw)
        return (places > truth[rows]) ^ (chance < flips)

    return asks


def scattered(places: Tensor, rows: Tensor) -> Tensor:
    """A number between 0 and 1 for each place, always the same for the same place."""
    mixed = places.view(torch.int32).long() + rows * 104_729
    for factor in (0x2C1B3C6D, 0x297A2D39, 0x165667B1):
        mixed = (mixed ^ (mixed >> 15)) * factor & 0x7FFFFFFF
    return (mixed ^ (mixed >> 16)).double() / 2**31


def majority(asks: Asks) -> Asks:
    """The majority of three answers."""
    return lambda points, rows: torch.stack([asks(points, rows) for _ in range(3)]).sum(0) > 1


def steady(images: Tensor, classes: int = CLASSES) -> Tensor:
    """The class that an image encodes by its value."""
    return images.flatten().long() % classes


def flipping(
    share: Callable[[Tensor], Tensor | float], draw: torch.Generator, classes: int = CLASSES
) -> Teacher:
    """A teacher that sometimes answers another class."""

    def ask(images: Tensor) -> Tensor:
        other = torch.randint(1, classes, (len(images),), generator=draw)
        wrong = torch.rand(len(images), generator=draw) < share(images)
        return (steady(images, classes) + torch.where(wrong, other, 0)) % classes

    return function(ask, classes=classes, bounds=(0.0, 1e6), batch=1_000_000)


def images_of(count: int) -> Tensor:
    """Images that encode all classes in turn."""
    return torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1)


def votes(images: int) -> Iterator[common.Json]:
    """How often a vote is wrong, and what it costs."""
    shown = images_of(images)
    for classes in (2, CLASSES):
        for flips in FLIPS:
            draw = torch.Generator().manual_seed(1)
            teacher = flipping(lambda _, p=flips: p, draw, classes)
            margin = margin_for(flips, 0.001)
            vote = Voting(teacher, most=4 * margin, margin=margin)
            wrong = vote.labels(shown) != steady(shown, classes)
            yield {
                "what": "vote",
                "case": f"{classes}.{flips}",
                "margin": margin,
                "wrong": 100 * float(wrong.double().mean()),
                "queries": 1 + vote.repeats / images,
                "undecided": 100 * vote.undecided / images,
            }


def intervals(times: int) -> Iterator[common.Json]:
    """How often the interval of the flip rate contains the truth."""
    shown = images_of(200)
    for flips in FLIPS:
        for name, share, differs in (
            ("alike", lambda _, p=flips: p, differ(flips)),
            ("few", lambda x, p=flips: few(x, p), 0.1 * differ(min(1.0, 10 * flips))),
        ):
            teacher = flipping(share, torch.Generator().manual_seed(2))
            for repeats in (2, 5):
                found = [flip_rate(teacher, shown, repeats) for _ in range(times)]
                held = sum(rate.low <= differs <= rate.high for rate in found)
                yield {
                    "what": "interval",
                    "case": f"{name}.{flips}.{repeats}",
                    "held": held / times,
                    "mean": sum(rate.differs for rate in found) / times,
                    "truth": differs,
                }


def differ(flips: float) -> float:
    """How often two answers differ if each flip falls on one of the other classes."""
    return 1 - (1 - flips) ** 2 - flips**2 / (CLASSES - 1)


def few(images: Tensor, flips: float) -> Tensor:
    """One image in ten does all the flipping."""
    return torch.where(images.flatten() // CLASSES % 10 == 0, min(1.0, 10 * flips), 0.0)


def alarms(times: int) -> Iterator[common.Json]:
    """How often a teacher that only flips is taken for a changed one."""
    for flips in FLIPS:
        teacher = flipping(lambda _, p=flips: p, torch.Generator().manual_seed(3))
        stopped = sum(stops(teacher, flips, OFTEN, 1_000) is not None for _ in range(times // 10))
        yield {
            "what": "canary",
            "case": f"false.{flips}",
            "runs": times // 10,
            "stopped": stopped / (times // 10),
        }


def delays(times: int) -> Iterator[common.Json]:
    """How many checks it takes to notice a change, which comes after 50 checks."""
    for flips in FLIPS:
        for change in CHANGES:
            share = [flips]
            teacher = flipping(lambda _, of=share: of[0], torch.Generator().manual_seed(4))
            late = []
            for _ in range(times):
                share[0] = flips
                late.append(stops(teacher, flips, FALSE_ALARM, 500, share, flips + change))
            noticed = sorted(500 if checks is None else checks - 50 for checks in late)
            yield {
                "what": "canary",
                "case": f"change.{flips}.{change}",
                "checks": sum(noticed) / times,
                "most": noticed[-1],
            }


def stops(
    teacher: Teacher,
    flips: float,
    alarm: float,
    checks: int,
    share: list[float] | None = None,
    to: float = 0,
) -> int | None:
    """The check at which a canary stops; the share changes after 50 checks."""
    shown = images_of(KNOWN)
    canary = Canary(teacher, shown, steady(shown), every=1, flips=flips, false_alarm=alarm)
    for check in range(1, checks + 1):
        if share and check == 51:
            share[0] = to
        try:
            canary.check()
        except TeacherError:
            return check
    return None


if __name__ == "__main__":
    raise SystemExit(main())
