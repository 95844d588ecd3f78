"""Who takes part in `distance.py`: our searches, by name from the settings, and the rivals.

A competitor is a function: given the task, some of its rows and the checkpoints, it returns what
it found. `every` lists them; a new kind of search is one more function that makes a `Competitor`.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import torch
from torch import Tensor

import db3kd
from db3kd.robustness import measure, mix
from db3kd.settings import Search, paper
from db3kd.teacher import Meter
from rivals import MORE, RIVALS, Rival
from rows import Task
from watch import Enough, Watch

IMAGES_AT_ONCE = 14  # of our searches: what is lost at most when the benchmark is stopped
SOURCES = ("boundary.py", "robustness.py", "descent/*.py")  # a change makes our results stale


@dataclass(frozen=True)
class Found:
    """Distances (row, checkpoint), last points, queries of each row, and how a row ended.

    An empty `ended` means that all queries were spent or nothing nearer can be found.
    """

    distance: Tensor
    point: Tensor
    spent: list[int]
    ended: list[str]


@dataclass(frozen=True)
class Competitor:
    """A search by name. `version`: results of another one are not used.

    `images`: how many images at once, with all their classes, None for all; a rival takes
    `rows` at once instead, of rows in a mixed order. `most`: its last checkpoint at most.
    """

    name: str
    search: Callable[[Task, Sequence[int], Sequence[int]], Found]
    version: str
    setting: Mapping[str, Any] = field(default_factory=dict)  # for the record
    images: int | None = IMAGES_AT_ONCE
    rows: int | None = None
    most: int = 20_000

    @property
    def rival(self) -> bool:
        """Whether it takes rows in a mixed order."""
        return self.rows is not None

    def blocks(self, task: Task, count: int) -> list[list[int]]:
        """The first `count` rows, cut into what is searched at once."""
        size = self.rows or (self.images or len(task.rows.images)) * (task.teacher.classes - 1)
        order = task.rows.mixed()[:count] if self.rival else list(range(len(task.rows)))
        return [order[first : first + size] for first in range(0, len(order), size)]


def every(names: Sequence[str] = ()) -> list[Competitor]:
    """Competitors by name, ours first; without names, all but the variants `MORE`.

    Ours: each descent of the settings with its default subspace, as "cgba_h", or with another one,
    as "cgba_h@full".
    """
    searches = our_searches()
    for name in names:
        if "@" in name:
            descent, subspace = name.split("@", 1)
            fields: dict[str, Any] = {"descent": descent, "subspace": subspace}
            searches[name] = Search(**fields)
    found = {name: ours(name, search) for name, search in searches.items()}
    found |= {name: _rival(name, rival) for name, rival in (RIVALS | MORE).items()}
    if not names:
        return [found[name] for name in found if name not in MORE]
    unknown = set(names) - set(found)
    if unknown:
        raise db3kd.InputError(f"no competitor {sorted(unknown)}; there are {sorted(found)}")
    return [found[name] for name in found if name in names]


def our_searches() -> dict[str, Search]:
    """A search for each descent that the settings know; "sign_opt" where there is no choice."""
    kinds = {one.name: one.type for one in msgspec.structs.fields(Search)}
    names = [name for name in _strings(kinds.get("descent")) if name != "none"]
    settings: list[dict[str, Any]] = [{"descent": name} for name in names]
    found = {name: Search(**given) for name, given in zip(names, settings, strict=True)}
    return found | {"paper": paper()}


def default_name() -> str:
    """The competitor that is the project's default search."""
    searches = our_searches()
    equal = [name for name, search in searches.items() if search == Search()]
    return (equal or list(searches))[0]


def ours(name: str, search: Search) -> Competitor:
    """A search of ours, as a run would do it, from the references that everybody starts from."""

    def run(task: Task, rows: Sequence[int], checkpoints: Sequence[int]) -> Found:
        samples = sorted({int(task.rows.sample[row]) for row in rows})
        settings = msgspec.structs.replace(
            search,
            metric="mbd",
            references=task.case.references,
            queries=checkpoints[-1],
            checkpoints=tuple(checkpoints),
        )
        meter = Meter(task.teacher)
        images, own = task.rows.images[samples], task.rows.own[samples]
        with torch.no_grad():
            maps = measure(
                meter, images, own, task.references, settings, noise_seed=0, keep_points=True
            )
        mbd = maps["mbd"]
        if meter.spent != int(mbd.queries.sum()):
            raise RuntimeError(f"{name} booked {int(mbd.queries.sum())}, the meter {meter.spent}")
        at = torch.tensor([samples.index(int(task.rows.sample[row])) for row in rows])
        target = task.rows.target[list(rows)]
        if mbd.points is None:
            raise RuntimeError("the points were asked for")
        spent = mbd.queries[at, target].tolist()
        return Found(mbd.curve[at, target], mbd.points[at, target], spent, [""] * len(rows))

    return Competitor(name, run, _digest(search), msgspec.to_builtins(search))


def _rival(name: str, rival: Rival) -> Competitor:
    """A rival behind our meter, from the point and at the cost of our own start search."""

    def run(task: Task, rows: Sequence[int], checkpoints: Sequence[int]) -> Found:
        chosen, all_ = list(rows), task.rows
        watch = Watch(
            task.teacher,
            all_.origin[chosen],
            all_.target[chosen],
            start=all_.start[chosen],
            start_spent=all_.start_spent[chosen],
            start_curve=all_.start_curve[chosen, : len(checkpoints)],
            checkpoints=checkpoints,
        )
        seed = mix(name, *(all_.key(row) for row in rows))
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # the rivals draw from the global generators
        try:
            rival.run(watch, all_.start[chosen])
            ended = "stopped by itself"
        except Enough:
            ended = ""
        except (AssertionError, ValueError, ArithmeticError) as error:
            ended = f"{type(error).__name__}: {error}"[:200]
        return Found(watch.curve, watch.point, watch.spent, [ended] * len(chosen))

    return Competitor(name, run, rival.version, rows=rival.together, most=rival.most)


def timed(search: Callable[[], Found]) -> tuple[Found, float]:
    """What was found, and the seconds it took."""
    started = time.perf_counter()
    found = search()
    return found, time.perf_counter() - started


def _strings(kind: Any) -> Iterator[str]:
    """The strings of a Literal, within whatever unions and annotations."""
    for part in get_args(kind):
        if isinstance(part, str):
            yield part
        else:
            yield from _strings(part)


def _digest(search: Search) -> str:
    """Of the settings and of the sources that search."""
    house = Path(db3kd.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for pattern in SOURCES:
        for file in sorted(house.glob(pattern)):
            digest.update(file.read_bytes())
    digest.update(msgspec.json.encode(msgspec.structs.replace(search, queries=1, checkpoints=())))
    return digest.hexdigest()
