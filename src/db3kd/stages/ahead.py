"""What is still to be done in each stage: answers, steps of training, images that networks see.

The numbers come from the very functions that the stages use. They are multiplied by measured speeds
elsewhere. Nothing here is asked, trained or drawn.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from db3kd.config.methods import Use
from db3kd.config.settings import (
    AscentPlan,
    Grow,
    Search,
    Synthesis,
    Training,
    is_joint,
    kind_of,
    most_queries,
)
from db3kd.search.joint import plan as joint
from db3kd.search.joint.proposers import DDN_STEPS
from db3kd.search.joint.rounds import LEAST
from db3kd.search.joint.surrogate import BATCH, REMINDER
from db3kd.stages import ensemble_labels
from db3kd.stages.accounts import finished
from db3kd.stages.ensemble_labels import STUDENTS, WIDER
from db3kd.stages.formats import configurations
from db3kd.stages.growing import GrowthPlan
from db3kd.stages.synthesis import shard_size
from db3kd.stages.table import ANSWERS_SHARD, NAMES, search_of
from db3kd.storage.journal import Journal
from db3kd.student.networks import Shape, network_of
from db3kd.student.steps import steps_of
from db3kd.synthesis import chosen, public
from db3kd.synthesis.rivals import dfms, disguide, ideal, qedg
from db3kd.synthesis.rivals.dip_kd import UPDATES
from db3kd.synthesis.rivals.generator import LESSON, asked_at_once

Source = Literal["own", "shapes", "latents", "noise"]
"""Where images come from: changes of own ones, shapes, shapes by their latents, plain noise."""
CHOOSING = ("chosen", "latent", "public", "unrelated_chosen")
RIVALS: Mapping[str, tuple[int, int, int]] = {  # most asked in a round, rounds, steps of a round
    "ideal": (ideal.BATCH, 100, ideal.GENERATOR_STEPS + ideal.STUDENT_STEPS),
    "qedg": (qedg.BATCH, qedg.ROUNDS, qedg.TRIES * qedg.GENERATOR_STEPS + qedg.STUDENT_STEPS),
    "dfms": (dfms.BATCH, 100, 2 * dfms.GENERATOR_STEPS + dfms.CLONE_STEPS),
    "disguide": (disguide.BATCH, 100, 2 * (disguide.GENERATOR_STEPS + 1 + disguide.REPLAYS)),
}


@dataclass(frozen=True)
class Learner:
    """A network, and the batches in which it is trained; an empty `network` is the student's.

    `own_loop`: whether the trainer of students trains it, and not that of surrogates.
    """

    network: str = ""
    width: float = 1.0
    batch: int = 128
    own_loop: bool = True


@dataclass(frozen=True)
class Task:
    """A part of a stage: `name` is what progress calls it, without the numbers of surrogates.

    - `stage`: the name on the books of what it is done for, or "trial", "selection", "students".
    - `answers`: of the teacher.
    - `steps`: of training, of the `learner`.
    - `looked`: images that such a network classifies; `slopes`: images whose gradient it gives.
    - `drawn`: images that are made, of `source`.

    >>> Task("grow", "grow", answers=3, drawn=12).name
    'grow'
    """

    name: str
    stage: str
    answers: int = 0
    steps: int = 0
    learner: Learner | None = None
    looked: int = 0
    slopes: int = 0
    drawn: int = 0
    source: Source = "own"


@dataclass(frozen=True)
class Done:
    """What a run has done already: shards and fits by stage, and students; nothing by default.

    >>> Done().shards
    {}
    """

    shards: Mapping[str, Collection[int]] = field(default_factory=dict)
    fits: Mapping[str, Collection[int]] = field(default_factory=dict)
    students: Collection[tuple[str, int]] = ()
    use: Use | None = None
    tried: bool = False
    selected: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)  # of shards of distances that have begun
    cuts: Mapping[str, int] = field(default_factory=dict)  # shards of stages that a rule has ended

    @classmethod
    def of(cls, journal: Journal) -> "Done":
        """What a journal has of it."""
        fits: dict[str, set[int]] = {}
        for record in journal.all("surrogate"):
            fits.setdefault(record.get("stage", "rounds"), set()).add(record["round"])
        decisions = [record["decision"] for record in journal.all("decision")]
        return cls(
            {name: set(finished(journal, name)) for name in NAMES},
            fits,
            {(record["name"], record["seed"]) for record in journal.all("student")},
            decisions[-1]["use"] if decisions else None,
            bool(decisions and decisions[-1]["held"]),
            any(True for _ in journal.all("selection")),
            {
                name: search_of(settings).shard
                for name, settings in configurations(journal).items()
                if kind_of(name) == "distances"
            },
            {
                name: settings["total"] // settings["size"]
                for name, settings in configurations(journal).items()
                if "planned" in settings
            },
        )

    def pending(self, stage: str, shards: int) -> list[int]:
        """The shards of a stage that are not there."""
        there = self.shards.get(stage, ())
        return [n for n in range(min(shards, self.cuts.get(stage, shards))) if n not in there]

    def unfitted(self, stage: str, fits: Iterable[int]) -> list[int]:
        """The fits of a stage that are not there."""
        last = max(self.fits.get(stage, ()), default=-1)
        return [number for number in fits if number > last]


@dataclass(frozen=True)
class Images:
    """How many images there are, of which shape, of how many classes; `eight_bit` as in a run."""

    samples: int
    shape: Shape
    classes: int
    eight_bit: bool = True


def asking(stage: str, samples: int, done: Done) -> Iterator[Task]:
    """Every image is asked once; those that were asked first are not asked again.

    >>> [task.answers for task in asking("answers", 5000, Done({"answers": [0]}))]
    [904]
    """
    pending = done.pending(stage, -(-samples // ANSWERS_SHARD))
    left = _rows(pending, samples, ANSWERS_SHARD)
    first = done.shards.get(f"first/{stage}", ())
    if left:
        yield Task(stage, stage, answers=max(0, left - (100 if first else 0)))


def growth(
    images: Images, settings: Grow, done: Done, *, place: str = "", earlier: int = 0
) -> Iterator[Task]:
    """New images are made, and students choose among them, taught before each round.

    `place` is before the stage's name, as "trial/". `earlier`: what was grown before.

    >>> tasks = list(growth(Images(300, (1, 28, 28), 10), Grow(per_image=15), Done()))
    >>> [(task.name, task.answers, task.steps) for task in tasks][3:]
    [('surrogate', 0, 728), ('grow', 4500, 0)]
    """
    stage = f"{place}grow"
    plan = GrowthPlan.of(
        settings, samples=images.samples, shape=images.shape, eight_bit=images.eight_bit
    )
    pending = done.pending(stage, plan.shards)
    left = _rows(pending, plan.total, plan.size)
    if not left:
        return
    choosing = settings.choose != "random"
    learner = Learner(network_of(settings.surrogate, images.shape), 1.0, BATCH, own_loop=False)
    if choosing:
        rounds = max(plan.round_of(shard) for shard in pending) + 1
        for number in done.unfitted(stage, range(rounds)):
            known = images.samples + earlier + len(plan.before(number)) * plan.size
            steps = settings.members * joint.steps_of(known, 0)
            yield Task(f"{place}surrogate", stage, steps=steps, learner=learner)
    drawn = left * (settings.candidates if choosing else 1)
    looked = drawn * settings.members if choosing else 0
    yield Task(stage, stage, answers=left, learner=learner, looked=looked, drawn=drawn)


def distances(images: Images, search: Search, done: Done, *, place: str = "") -> Iterator[Task]:
    """Distances are measured, row by row or in rounds with a surrogate taught before each.

    >>> found = distances(Images(300, (1, 28, 28), 10), Search(per_image=15), Done())
    >>> [(task.name, task.answers, task.steps) for task in found]
    [('surrogate', 0, 900), ('rounds', 4500, 0), ('distances', 0, 0)]
    """
    stage = f"{place}distances"
    size = done.sizes.get(stage) or joint.shard_of(search, images.shape, images.classes)
    search = msgspec.structs.replace(search, shard=size)
    shards = -(-images.samples // search.shard)
    pending = done.pending(stage, shards)
    if not pending:
        return
    left = _rows(pending, images.samples, search.shard)
    if not is_joint(search):
        each = most_queries(search, images.classes)
        yield Task(stage, stage, answers=left * each, drawn=left * each, source="noise")
        return
    plan = joint.JointPlan.of(
        search, samples=images.samples, shape=images.shape, classes=images.classes
    )
    taught = _rows(plan.shards, images.samples, search.shard)
    learner = Learner(
        network_of(search.surrogate, images.shape), 1.0, BATCH + REMINDER, own_loop=False
    )
    if search.surrogate != "none":
        last = plan.rounds + (len(plan.shards) < shards)
        for number in done.unfitted(f"{place}rounds", range(last)):
            probes = taught * search.per_image * number // plan.rounds
            steps = search.members * joint.steps_of(images.samples, probes)
            yield Task(f"{place}surrogate", stage, steps=steps, learner=learner)
    units = plan.rounds * len(plan.shards)
    share = len(done.pending(f"{place}rounds", units)) / units
    rows = taught * min(images.classes - 1, -(-search.per_image // plan.rounds // LEAST))
    slopes = 0 if search.surrogate == "none" else DDN_STEPS
    yield Task(
        f"{place}rounds",
        f"{place}rounds",
        answers=round(share * taught * search.per_image),
        learner=learner,
        slopes=round(share * rows * plan.rounds) * slopes,
    )
    others = _rows(
        [shard for shard in pending if shard not in plan.shards], images.samples, search.shard
    )
    yield Task(
        stage,
        stage,
        answers=others * search.per_image,
        learner=learner,
        slopes=others * min(images.classes - 1, -(-search.per_image // LEAST)) * slopes,
    )


def synthesis(
    shape: Shape, settings: Synthesis, total: int, labelled: int, done: Done
) -> Iterator[Task]:
    """Pseudo samples are made and asked; then an ensemble labels more images, if these are wanted.

    `labelled`: how many get labels by an ensemble.

    >>> tasks = synthesis((1, 28, 28), Synthesis(), 5_000, 0, Done())
    >>> [(task.name, task.answers, task.steps) for task in tasks][6:]
    [('students', 0, 530), ('synthesis', 5000, 0)]
    """
    size = shard_size(settings, total)
    pending = done.pending("synthesis", -(-total // size))
    left = _rows(pending, total, size)
    network = network_of(settings.surrogate, shape)
    source: Source = {"latent": "latents", "noise": "noise"}.get(settings.way, "shapes")  # type: ignore[assignment]
    if left:
        yield from _asked(network, settings, total, pending, left, source)
    count = ensemble_labels.kept_images(labelled, shape, 1)
    more = done.pending("unasked", -(-count // ensemble_labels.SHARD))
    if not more:
        return
    learner = Learner(network, WIDER * settings.width, ensemble_labels.LESSON.batch)
    if done.unfitted("unasked", (0,)):
        steps = STUDENTS * ensemble_labels.lesson_steps(total)
        yield Task("ensemble", "unasked", steps=steps, learner=learner)
    drawn = _rows(more, count, ensemble_labels.SHARD) * settings.candidates
    looked = drawn * STUDENTS
    yield Task("unasked", "unasked", learner=learner, looked=looked, drawn=drawn, source=source)


def _asked(
    network: str,
    settings: Synthesis,
    total: int,
    pending: list[int],
    left: int,
    source: Source,
) -> Iterator[Task]:
    """What a way learns between its shards, and what it makes and asks."""
    size, way = shard_size(settings, total), settings.way
    learner = Learner(network, settings.width, chosen.LESSON.batch)
    if way in CHOOSING:
        for shard in pending:
            if shard:
                steps = settings.members * (chosen.lesson(shard * size).steps or 0)
                yield Task("students", "synthesis", steps=steps, learner=learner)
        if way == "public" and public.trial_shard(total, size) in pending:
            yield Task("sources", "synthesis", steps=public.TRIAL_STEPS, learner=learner)
        drawn = left * settings.candidates
        looked = drawn * settings.members
        yield Task("synthesis", "synthesis", left, 0, learner, looked, 0, drawn, source)
    elif way == "dip_kd":
        for shard in pending:
            steps = chosen.lesson(min(total, (shard + 1) * size), long=True).steps or 0
            yield Task("students", "synthesis", steps=steps, learner=learner)
        yield Task("synthesis", "synthesis", left, 0, learner, 0, left * UPDATES, left, source)
    elif way in RIVALS:
        most, rounds, each = RIVALS[way]
        steps = -(-left // asked_at_once(total, most, rounds)) * each
        yield Task("synthesis", "synthesis", left, steps, Learner(network, settings.width, LESSON))
    else:
        yield Task("synthesis", "synthesis", answers=left, drawn=left, source=source)


def ascent(plan: AscentPlan, done: Done) -> Iterator[Task]:
    """Noise of every class is found, pushed away from the boundary, and copied.

    >>> [task.answers for task in ascent(AscentPlan(samples=10, noise=5, queries=9), Done())]
    [50, 90, 100]
    """
    if done.pending("starts", 1):
        count = plan.samples * plan.noise
        yield Task("starts", "starts", answers=count, drawn=count, source="shapes")
    shards = -(-plan.samples // plan.shard)
    for stage, each in (("ascent", plan.queries), ("copies", plan.copies)):
        left = _rows(done.pending(stage, shards), plan.samples, plan.shard) * each
        if left:
            source: Source = "noise" if stage == "ascent" else "own"
            yield Task(stage, stage, answers=left, drawn=left, source=source)


def judging(name: str, steps: int, sets: int, folds: int, batch: int) -> Task:
    """Students are trained on some folds of some sets, to be judged.

    >>> judging("trial", 1000, 2, 5, 128).steps
    10000
    """
    return Task(f"{name}/students", name, steps=steps * sets * folds, learner=Learner(batch=batch))


def training(name: str, seed: int, settings: Training, samples: int, tests: int) -> Task:
    """A student is trained on some samples, and shown the test images.

    >>> training("ce", 0, Training(steps=300), 60_000, 100).steps
    300
    """
    steps, learner = steps_of(settings, samples), Learner(batch=settings.batch)
    return Task(f"{name}-{seed}", "students", steps=steps, learner=learner, looked=tests)


def _rows(shards: Iterable[int], samples: int, size: int) -> int:
    """How many samples there are in some shards."""
    return sum(max(0, min(size, samples - shard * size)) for shard in shards)
