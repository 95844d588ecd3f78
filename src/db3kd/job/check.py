"""A check of a teacher before a run: a few real questions, and what the run would cost."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.config.recipe import Recipe
from db3kd.data import eight_bits
from db3kd.errors import InputError
from db3kd.job.duration import (
    Asking,
    Forecast,
    answer_seconds,
    forecast_time,
    size_of,
    speeds_of,
)
from db3kd.job.money import sent
from db3kd.job.plan import check_possible, forecast
from db3kd.job.sanity import confusion, doubt
from db3kd.job.sets import Sets, matched, sets_of, sound
from db3kd.job.teacher import open_teacher
from db3kd.progress import Progress, silent
from db3kd.seeds import derive_seed
from db3kd.stages.digests import Digests
from db3kd.stages.synthesis import planned_total
from db3kd.stages.trial import SpendingPlan
from db3kd.storage.files import Json, write_atomically
from db3kd.student.devices import usable_device
from db3kd.teachers.base import Bounds, Teacher, met_of
from db3kd.teachers.cached import float_keys
from db3kd.teachers.noisy import canaries as make_canaries
from db3kd.teachers.remote import RemoteTeacher

CANARY_REPEATS = 5
USUAL = 200  # images in a question, where the teacher takes so many
ALONE = 3  # images that are asked one at a time, to measure the time of a single question


def check_teacher(
    recipe: Recipe,
    *,
    images: int = 16,
    canaries: Path | None = None,
    progress: Progress = silent,
) -> Json:
    """Ask the recipe's teacher a few images; returns what was seen, and the cost of a run.

    `images` own images are asked twice, and some of them once more alone. Test images are taken
    instead where only these have labels, or there are no own ones. If the teacher takes more than 8
    bits, mixes of two images are asked as well, as they are and rounded to 8 bits.

    `canaries` is a file to make for `teacher.noise.canaries`. The images are asked five times more,
    and those with the same answer each time are written to it.

    Costs `questions` real queries: at most 4 `images` + 3, and with `canaries` 5 `images` more. If
    there is a store, all of them are kept and booked there, and paid out of the run's money. The
    folder of the run is not touched, nor its budget of queries. Random by the recipe's seed: which
    images are asked.

    Raises:
        InputError: the recipe's data, networks or teacher cannot be used; or no image is a canary.
        TeacherError: the teacher failed.
        RunError: from the store, or the file cannot be written.
    """
    recipe = msgspec.structs.replace(recipe, device=usable_device(recipe.device))
    sets = sets_of(recipe)
    check_possible(recipe, sets)
    if not len(sets.any):
        raise InputError("there are no images to ask about; set data.train or data.test")
    sets = sound(recipe, sets, Digests(Path(recipe.run) / "digests.json", progress))
    data = sets.labelled or sets.any  # only labels tell whether answers are right
    draw = torch.Generator().manual_seed(derive_seed(recipe.seed, "check"))
    rows = torch.randperm(len(data), generator=draw)[:images]
    some = data.images.read(rows).to(recipe.device)
    with open_teacher(recipe, sets.known, progress, check=True) as pipeline:
        sets = matched(sets, pipeline.teacher)
        store, account = pipeline.store, pipeline.account
        before = 0 if store is None else sent(store.books(run=account.run))
        now = time.time_ns()

        def fresh(name: str) -> Teacher:
            """The teacher, asked again whatever the store has; booked there as well."""
            return pipeline.again(f" check {now} {name}")

        first, _ = _asked(pipeline.teacher, some)
        again, seconds = _asked(fresh("again"), some)
        alone = [_asked(fresh("alone"), image[None])[1] for image in some[:ALONE]]
        rounding, extra = _rounding(fresh("rounding"), some)
        if canaries is not None:
            extra += _keep_canaries(fresh, some, canaries)
        named = met_of(pipeline.teacher)
        classes = pipeline.adapter.classes if named is None else max(2, len(named))
        questions = 2 * len(some) + len(alone) + extra
        if store is not None:  # images that are equal were asked once
            questions = sent(store.books(run=account.run)) - before
    rate = len(some) / max(seconds, 1e-9)
    known = torch.bincount(first, minlength=classes)
    if named is not None:
        known = known[: len(named)]
    price = recipe.teacher.price
    most = forecast(
        recipe,
        samples=0 if sets.own is None else len(sets.own),
        test_samples=sets.tests,
        classes=classes,
    )
    truth = (sets.labelled or sets.any).labels
    seen: Json = {"as_labelled": None}
    if truth is not None:
        found = doubt(first.cpu(), truth[rows], sets.names)
        seen = {
            "as_labelled": int((first.cpu() == truth[rows]).sum()),
            "confusion": confusion(first.cpu(), truth[rows], sets.names),
            "warnings": [] if found is None else [str(found)],
        }
    measured = sorted(alone)[len(alone) // 2]
    each = answer_seconds(measured, seconds, len(some), _most(recipe))
    whole = _time(recipe, sets, classes, each)
    return {
        "images": len(some),
        "questions": questions,
        "classes": classes,
        "met": int((known > 0).sum()),
        **({} if named is None else {"class_names": list(named)}),
        **seen,
        "flips": int((first != again).sum()),
        "rounding": rounding,
        "latency_s": round(measured, 4),
        "per_second": round(rate, 1),
        "queries": most,
        "money": None if price is None else round(most["total"] * price.per_1000 / 1000, 2),
        "currency": "" if price is None else price.currency,
        "hours": round(whole.seconds / 3600, 4),
        "time": whole.json,
    }


def _time(recipe: Recipe, sets: Sets, classes: int, each: float) -> Forecast:
    """How long a whole run takes from its start, where an answer takes `each` seconds."""
    samples, budget, reserved = len(sets.own or ()), recipe.budget.queries, sets.tests
    divided = SpendingPlan.of(
        recipe.spend, samples=max(1, samples), budget=budget, reserved=reserved
    )
    pseudo = planned_total(recipe.synthesis, budget=budget, reserved=reserved)
    size = size_of(recipe, sets, classes, divided=divided, pseudo=pseudo)
    speeds = speeds_of(recipe, sets.shape, len(sets.names) or classes)
    return forecast_time(recipe, size, speeds, Asking(each, recipe.teacher.remote))


def _most(recipe: Recipe) -> int:
    """How many images a question of a run usually holds."""
    far = recipe.teacher.remote
    most = recipe.teacher.batch or (USUAL if far is None else far.batch)
    return min(USUAL, most)


def books(recipe: Recipe, *, taken: Path | None = None, given: Path | None = None) -> Json:
    """What the store of a recipe's teacher holds, and what that cost; costs no query.

    - `taken`: a table of images and labels that are put into the store first
      (`Store.import_table`).
    - `given`: a table that all of the teacher's answers are written to.

    Raises:
        InputError: the teacher has no store, or the table cannot be used.
        Damaged, Busy, RunError: from the store.
    """
    with open_teacher(recipe, sets_of(recipe).known) as pipeline:
        store, far = pipeline.store, pipeline.adapter
        if store is None:
            raise InputError("this teacher keeps no answers; name a file in teacher.store")
        found: Json = {"store": str(store.path), "teacher": pipeline.identity}
        if taken is not None:
            index = far.labelled.index if isinstance(far, RemoteTeacher) else None
            key = far.keys if isinstance(far, RemoteTeacher) else float_keys
            done = store.import_table(taken, pipeline.identity, key, index=index, bounds=far.bounds)
            found |= {"new": done.added, "known before": done.known, "differing": done.differ}
        if given is not None:
            found["exported"] = store.export(given, pipeline.identity)
        return {**found, **store.books(pipeline.identity)}


def _keep_canaries(fresh: Callable[[str], Teacher], images: Tensor, file: Path) -> int:
    """Write the file of known images and answers; returns how many queries it cost."""
    known, answers = make_canaries(
        fresh(""), images, CANARY_REPEATS, again=lambda number: fresh(f"canary {number}")
    )
    if not len(known):
        raise InputError(
            "no image gets the same answer five times from the teacher, so there are no canaries"
        )
    content = {"images": known.cpu().contiguous(), "answers": answers.cpu().contiguous()}
    write_atomically(file, safetensors.torch.save(content))
    return CANARY_REPEATS * len(images)


def _asked(teacher: Teacher, images: Float[Tensor, "row *image"]) -> tuple[Tensor, float]:
    started = time.perf_counter()
    answers = teacher.labels(images)
    return answers, time.perf_counter() - started


def _rounding(teacher: Teacher, images: Float[Tensor, "row *image"]) -> tuple[int | None, int]:
    """How many mixes of two images get another class once rounded to 8 bits; and the queries spent.

    None and 0 if the teacher only sees 8 bits, or there are fewer than two images.
    """
    low, high = teacher.bounds
    if len(images) < 2 or (isinstance(teacher.bounds, Bounds) and teacher.bounds.level > 0):
        return None, 0
    mixes = torch.lerp(images, images.roll(1, 0), 0.37)
    rounded = eight_bits((mixes - low) / (high - low))[1] * (high - low) + low
    differ = teacher.labels(mixes) != teacher.labels(rounded)
    return int(differ.sum()), 2 * len(images)
