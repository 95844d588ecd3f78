"""The competitors of `distance.py`: our searches, named as in the settings, and the rivals.

A competitor is a function. It is given the task, some of its rows and the checkpoints, and returns
what it found. `every` lists them. A new kind of search needs one more function that makes a
`Competitor`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec
import numpy as np
import torch
from torch import Tensor

import db3kd
import stale
import teachers
from db3kd.config.settings import Search, paper
from db3kd.data import Images, TensorImages
from db3kd.search.joint.in_memory import measure_jointly
from db3kd.search.robustness import RobustnessMap
from db3kd.search.rows import measure
from db3kd.seeds import derive_seed
from db3kd.student.evaluate import predict
from db3kd.teachers.meter import Meter
from rivals import MORE, RIVALS, Rival
from rows import OWN, POOL, Task
from watch import Enough, Watch

IMAGES_AT_ONCE = 14  # of our searches: what is lost at most when the benchmark is stopped
TOGETHER = "together"  # only when it is named
MOST_TOGETHER = 1000  # queries a row: its probes are kept in memory, 9 times as many an image


@dataclass(frozen=True)
class Found:
    """Distances (row, checkpoint), last points, queries of each row, and how each row ended.

    An empty `ended` means that all queries were spent, or that nothing nearer can be found.
    """

    distance: Tensor
    point: Tensor
    spent: list[int]
    ended: list[str]


@dataclass(frozen=True)
class Competitor:
    """A search with a name.

    - `version`: results of another version are not used.
    - `images`: how many images it takes at once, with all their classes; None for all images.
    - `rows`: how many rows a rival takes at once instead, from rows in a mixed order.
    - `most`: the largest checkpoint it may have.
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
        """The first `count` rows, cut into blocks that are searched at once."""
        size = self.rows or (self.images or len(task.rows.images)) * (task.teacher.classes - 1)
        order = task.rows.mixed()[:count] if self.rival else list(range(len(task.rows)))
        return [order[first : first + size] for first in range(0, len(order), size)]


def every(names: Sequence[str] = ()) -> list[Competitor]:
    """Return competitors by name, ours first; without names, all except `MORE` and `TOGETHER`.

    Ours are the descents of the settings, each with its default subspace, such as "cgba_h", or with
    another one, such as "cgba_h@full".
    """
    searches = our_searches()
    for name in names:
        if "@" in name:
            descent, subspace = name.split("@", 1)
            fields: dict[str, Any] = {"descent": descent, "subspace": subspace}
            searches[name] = Search(strategy="rows", **fields)
    found = {name: ours(name, search) for name, search in searches.items()}
    found[TOGETHER] = together(Search(strategy="joint"))
    found |= {name: _rival(name, rival) for name, rival in (RIVALS | MORE).items()}
    if not names:
        return [found[name] for name in found if name not in {TOGETHER, *MORE}]
    unknown = set(names) - set(found)
    if unknown:
        raise db3kd.InputError(f"no competitor {sorted(unknown)}; there are {sorted(found)}")
    return [found[name] for name in found if name in names]


def our_searches() -> dict[str, Search]:
    """One search for each descent in the settings; only "sign_opt" if there is no choice."""
    kinds = {one.name: one.type for one in msgspec.structs.fields(Search)}
    names = [name for name in _strings(kinds.get("descent")) if name != "none"]
    settings: list[dict[str, Any]] = [{"descent": name} for name in names]
    found = {
        name: Search(strategy="rows", **given) for name, given in zip(names, settings, strict=True)
    }
    return found | {"paper": paper()}


def default_name() -> str:
    """The name of the competitor that is the project's default search, row by row."""
    searches = our_searches()
    equal = [name for name, search in searches.items() if search == Search(strategy="rows")]
    return (equal or list(searches))[0]


def ours(name: str, search: Search) -> Competitor:
    """One of our searches as in a run, from the references that all competitors start from."""

    def run(task: Task, rows: Sequence[int], checkpoints: Sequence[int]) -> Found:
        samples, at, target = _places(task, rows)
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
        points, spent = _honest(name, meter, mbd)[at, target], mbd.queries[at, target].tolist()
        return Found(mbd.curve[at, target], points, spent, [""] * len(rows))

    version = _version(stale.ROWS, search)
    return Competitor(name, run, version, msgspec.to_builtins(search))


def together(search: Search) -> Competitor:
    """Joint search over all classes of an image, one search for each checkpoint.

    An image spends as much as its rows together, and the search distributes this as it likes; the
    mean per row is what counts. The points shown are those of the last search.
    """

    def run(task: Task, rows: Sequence[int], checkpoints: Sequence[int]) -> Found:
        samples, at, target = _places(task, rows)
        images, own = task.rows.images[samples], task.rows.own[samples]
        pool, answers = seen(task)
        curve, points, spent = [], images, []
        for queries in checkpoints:
            per_image = queries * (task.teacher.classes - 1)
            settings = msgspec.structs.replace(search, per_image=per_image)
            meter = Meter(task.teacher)
            found = measure_jointly(
                meter, images, own, task.references, settings, pool=pool, answers=answers, seed=0
            )
            curve.append(found.distance[at, target])
            points = _honest(TOGETHER, meter, found)[at, target]
            spent = found.queries[at, target].tolist()
        return Found(torch.stack(curve, 1), points, spent, [""] * len(rows))

    version, setting = _version(stale.JOINT, search), msgspec.to_builtins(search)
    return Competitor(TOGETHER, run, version, setting, images=None, most=MOST_TOGETHER)


def seen(task: Task) -> tuple[Images, Tensor]:
    """Images that the teacher answers once before any search, with these answers."""
    if task.case.lesson is None:
        _, images, _ = teachers.digits()
        return TensorImages(images), task.teacher.labels(images)
    data = teachers.training_images(task.case.lesson, POOL + OWN)
    answers = predict(
        teachers.trained(task.case.lesson, data), data.images, device="cpu", batch=256
    )
    return data.images, answers


def _places(task: Task, rows: Sequence[int]) -> tuple[list[int], Tensor, Tensor]:
    """The images of some rows, and for each row the number of its image and its class."""
    samples = sorted({int(task.rows.sample[row]) for row in rows})
    at = torch.tensor([samples.index(int(task.rows.sample[row])) for row in rows])
    return samples, at, task.rows.target[list(rows)]


def _honest(name: str, meter: Meter, found: RobustnessMap) -> Tensor:
    """Return the points of a search; fail unless it booked what the meter counted."""
    booked = int(found.queries.sum())
    if meter.spent != booked:
        raise RuntimeError(f"{name} booked {booked}, the meter {meter.spent}")
    if found.points is None:
        raise RuntimeError("the points were asked for")
    return found.points


def _rival(name: str, rival: Rival) -> Competitor:
    """A rival behind our meter, which starts at the point and the cost of our own start search."""

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
        seed = derive_seed(name, *(all_.key(row) for row in rows))
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
    """Search some rows; return what was found and the seconds it took."""
    started = time.perf_counter()
    found = search()
    return found, time.perf_counter() - started


def _strings(kind: Any) -> Iterator[str]:
    """The strings of a Literal, inside any unions and annotations."""
    for part in get_args(kind):
        if isinstance(part, str):
            yield part
        else:
            yield from _strings(part)


def _version(sources: Sequence[str], search: Search) -> str:
    """Version of a search: a digest of its settings without checkpoints, and of its sources."""
    alike = msgspec.structs.replace(search, queries=1, checkpoints=())
    return stale.digest(sources, msgspec.json.encode(alike))
