"""How long a run takes, by stage: steps, answers and drawing, times measured seconds."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import msgspec

from db3kd.config.methods import METHODS, Method, Use, needed
from db3kd.config.recipe import Recipe
from db3kd.config.remote import Remote
from db3kd.config.settings import Grow
from db3kd.job.plan import ensemble_labels
from db3kd.job.sets import Sets
from db3kd.progress import lasting
from db3kd.stages import ahead, trial, worth
from db3kd.stages.ahead import Done, Images, Task
from db3kd.stages.clock import Part
from db3kd.stages.speeds import Speeds
from db3kd.stages.table import stage
from db3kd.stages.trial import SpendingPlan
from db3kd.storage.files import Json
from db3kd.student.networks import Shape
from db3kd.student.own import build_wanted
from db3kd.student.steps import steps_of

Verb: TypeAlias = Literal["run", "label", "grow", "synthesize", "distill", "evaluate"]
NAMED = {  # tasks that have no stage of their own, or another one's
    "surrogate": "students that choose or propose",
    "students": "students that choose",
    "trial/surrogate": "students that choose in the trial",
    "pseudo/surrogate": "students that propose",
    "trial/students": "students in the trial",
    "trial/measured/students": "students in the trial",
    "trial/measured/surrogate": "students that propose in the trial",
    "selection/students": "students that tell which new images help",
    "ensemble": "an ensemble that labels images",
    "sources": "students that tell which source teaches more",
}
LIMITED = "waiting for the service's limits"
DAY = 86_400.0
PART, ALIKE = 0.05, 1.5  # of all, to be named in a line; a factor that makes no difference


@dataclass(frozen=True)
class Size:
    """What a run is made of, as planned: numbers of images and answers.

    - `own`: the own images; `tests`: how many test images there are.
    - `divided`: how a trial divides the answers.
    - `pseudo`: pseudo samples, or the most queries of an ascent; `labelled`: images that get labels
      by an ensemble.
    - `truth`: whether true classes of own images are known and used.
    """

    own: Images
    tests: int
    divided: SpendingPlan
    pseudo: int
    labelled: int
    truth: bool


@dataclass(frozen=True)
class Row:
    """A row of a forecast: what, for how many answers, steps of training and images, how long."""

    name: str
    words: str
    answers: int
    steps: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Asking:
    """How fast a teacher answers: seconds for one answer, and limits of calls.

    >>> Asking(0.5).waiting(1000)
    0.0
    """

    seconds: float
    remote: Remote | None = None

    def waiting(self, answers: int) -> float:
        """Seconds that limits of calls add to those of asking; calls hold as many images as may be.

        >>> limits = Remote(url="http://localhost", protocol="mlflow", batch=10, per_day=20)
        >>> Asking(0.0, limits).waiting(201) / DAY, Asking(0.0, limits).waiting(200)
        (1.0, 0.0)
        """
        if self.remote is None:
            return 0.0
        calls = math.ceil(answers / self.remote.batch)
        limits = (
            (self.remote.per_second, 1.0),
            (self.remote.per_minute, 60.0),
            (self.remote.per_day, DAY),
        )
        most = (span * max(0, (calls - 1) // each) for each, span in limits if each is not None)
        return max(0.0, max(most, default=0.0) - answers * self.seconds)


@dataclass(frozen=True)
class Forecast:
    """The rows of what is ahead; `others`: the sum if a trial decided for another use.

    Of several other uses, it is the one whose sum differs most.
    """

    rows: tuple[Row, ...]
    others: float | None = None

    @property
    def seconds(self) -> float:
        """Of all rows."""
        return sum((row.seconds for row in self.rows), 0.0)

    @property
    def parts(self) -> list[Part]:
        """As a clock wants it."""
        return [Part(row.name, row.seconds, row.steps > 0) for row in self.rows]

    @property
    def json(self) -> Json:
        """As plain data."""
        merged: dict[str, Row] = {}
        for row in self.rows:
            first = merged.get(row.words)
            merged[row.words] = row if first is None else _sum(first, row)
        return {
            "seconds": round(self.seconds, 1),
            "seconds_otherwise": None if self.others is None else round(self.others, 1),
            "stages": [asdict(_rounded(row)) for row in merged.values()],
        }


def forecast_time(
    recipe: Recipe,
    size: Size,
    speeds: Speeds,
    asking: Asking,
    *,
    done: Done | None = None,
    verb: Verb = "run",
) -> Forecast:
    """How long what is ahead of a recipe takes, by what was measured; asks nothing.

    Where a trial is to decide, it is new images, for which most trials decide.
    """
    done, decides = done or Done(), needed(recipe.student.methods).trial
    found = []
    for use in _uses(recipe, size, done):
        tasks = [
            task
            for task in tasks_of(recipe, size, use, done)
            if _is_of(task, verb, decides=decides)
        ]
        rows = [_row(task, speeds.of(task, asking.seconds)) for task in tasks]
        wait = asking.waiting(sum(row.answers for row in rows))
        if wait:
            rows.append(Row("limits", LIMITED, 0, 0, 0, wait))
        found.append(Forecast(tuple(rows)))
    likely, *others = found
    far = max((one.seconds for one in others), key=lambda s: apart(likely.seconds, s), default=None)
    return replace(likely, others=far)


def tasks_of(recipe: Recipe, size: Size, use: Use, done: Done) -> Iterator[Task]:
    """All that is ahead of a recipe, in order; `use`: what a trial decides, or has decided.

    Nothing is asked or drawn.
    """
    needs, own = needed(recipe.student.methods), size.own
    if needs.own_images:
        yield from ahead.asking("answers", own.samples, done)
    if needs.trial:
        yield from _spending(recipe, size, use, done)
    if needs.grown:
        yield from ahead.growth(own, recipe.grow, done)
    if needs.own_images and needs.metric is not None:
        yield from ahead.distances(own, recipe.label, done)
    if needs.pseudo:
        yield from _pseudo(recipe, size, done)
    yield from ahead.asking("evaluate", size.tests, done)
    wanted = recipe.student
    for method in wanted.methods:
        samples = _learned(recipe, size, method, use)
        for seed in wanted.seeds:
            if (method, seed) not in done.students:
                yield ahead.training(method, seed, wanted.training, samples, size.tests)


def size_of(
    recipe: Recipe, sets: Sets, classes: int, *, divided: SpendingPlan, pseudo: int
) -> Size:
    """The numbers of images of a recipe; `divided` and `pseudo` as they are planned."""
    own = sets.own
    images = Images(0 if own is None else len(own), sets.shape, classes, sets.any.images.eight_bit)
    truth = own is not None and own.labels is not None and recipe.data.labels == "truth"
    labelled = ensemble_labels(recipe, sets.shape, asked=pseudo)
    return Size(images, sets.tests, divided, pseudo, labelled, truth)


def speeds_of(recipe: Recipe, shape: Shape, classes: int) -> Speeds:
    """What measures how fast the networks of a recipe learn here; `classes`: of a student."""
    wanted = recipe.student
    return Speeds(
        shape,
        classes,
        recipe.device,
        lambda: build_wanted(wanted, shape, classes, seed=0),
        wanted.training,
        augmentations=recipe.grow.augmentations or Grow().augmentations,
    )


def told(found: Forecast) -> str:
    """A forecast in a line, what takes longest first.

    >>> rows = (Row("ce-0", "students", 0, 300, 0, 60.0), Row("answers", "answers", 9, 0, 0, 3.0))
    >>> told(Forecast(rows)), told(Forecast((), None))
    ('about 63 seconds: 60 seconds for students', 'nothing is left to do')
    """
    rows = sorted(found.json["stages"], key=lambda row: -row["seconds"])
    if not rows:
        return "nothing is left to do"
    long = [row for row in rows if row["seconds"] >= PART * found.seconds] or rows[:1]
    parts = [f"{lasting(row['seconds'])} for {row['words']}" for row in long]
    return f"about {lasting(found.seconds)}{otherwise(found.json)}: {', '.join(parts)}"


def apart(one: float, other: float) -> float:
    """By which factor two numbers of seconds differ; those below one count as one.

    >>> apart(10.0, 30.0), apart(0.0, 0.5)
    (3.0, 1.0)
    """
    low, high = sorted((max(1.0, one), max(1.0, other)))
    return high / low


def otherwise(found: Mapping[str, Any]) -> str:
    """What to add where a trial may decide so that a run takes far less or more, from its `json`.

    >>> otherwise({"seconds": 600.0, "seconds_otherwise": 120.0})
    ', or 2 minutes, as the trial decides'
    """
    other = found["seconds_otherwise"]
    if other is None or apart(found["seconds"], other) < ALIKE:
        return ""
    return f", or {lasting(other)}, as the trial decides"


def students_of(recipe: Recipe) -> int:
    """How many students a recipe trains at the end.

    >>> from db3kd.config.recipe import DataConfig, StudentConfig, TeacherConfig
    >>> students_of(Recipe(run="r", data=DataConfig(), student=StudentConfig(seeds=(0, 1)),
    ...                    teacher=TeacherConfig(kind="onnx", file="t.onnx")))
    2
    """
    return len(recipe.student.methods) * len(recipe.student.seeds)


def answer_seconds(alone: float, together: float, count: int, most: int) -> float:
    """Seconds of an answer among `most`, from those of one alone and of `count` together.

    A question takes a constant, and as long again for each image.

    >>> round(answer_seconds(0.020, 0.035, 16, 200), 6)  # 19 ms a question, 1 ms an image
    0.001095
    """
    if count < 2:
        return max(alone, together)
    each = max(0.0, min((together - alone) / (count - 1), together / count))
    return each + max(0.0, alone - each) / most


def _pseudo(recipe: Recipe, size: Size, done: Done) -> Iterator[Task]:
    """Pseudo samples, and their distances if a student needs these."""
    shape, settings, made = size.own.shape, recipe.synthesis, size.pseudo
    if settings.way == "ascent":
        made = settings.ascent.samples
        yield from ahead.ascent(settings.ascent, done)
    else:
        yield from ahead.synthesis(shape, settings, size.pseudo, size.labelled, done)
    if needed(recipe.student.methods).metric is not None:
        pseudo = replace(size.own, samples=made)
        yield from ahead.distances(pseudo, recipe.label, done, place="pseudo/")


def _spending(recipe: Recipe, size: Size, use: Use, done: Done) -> Iterator[Task]:
    """A trial, unless it is over, and what it decides."""
    own, plan, grow, label = size.own, size.divided, recipe.grow, recipe.label
    half, many = trial.halves(grow.rounds)
    training, batch = recipe.student.training, recipe.student.training.batch
    tried = _tries(recipe, plan)
    replaced = msgspec.structs.replace
    if tried and done.use is None:
        some = replace(own, samples=plan.tried)
        yield from ahead.growth(
            some, replaced(grow, per_image=plan.each, rounds=half), done, place="trial/"
        )
        yield from ahead.distances(some, replaced(label, metric="sd"), done, place="trial/")
        lessons = trial.least_lessons(label, grow)
        steps = steps_of(training, own.samples)
        folds, each = trial.trial_size(steps, students_of(recipe), lessons)
        yield ahead.judging("trial", each, trial.USES, folds, batch)
        if use in ("mbd", "ce"):
            few = replace(own, samples=worth.measured_images(plan.tried))
            search = replaced(label, per_image=plan.left)
            yield from ahead.distances(few, search, done, place="trial/measured/")
            each = min(each, steps_of(training, few.samples))
            yield ahead.judging("trial/measured", each, 2 * worth.STUDENTS, 1, batch)
    if use == "mbd":
        yield from ahead.distances(own, replaced(label, per_image=plan.left), done)
    if use != "grown":
        return
    earlier = plan.each * plan.tried if tried else 0
    rounds = many if tried else grow.rounds
    yield from ahead.growth(
        own, replaced(grow, per_image=plan.left, rounds=rounds), done, earlier=earlier
    )
    if size.truth and own.samples >= trial.SOME and not done.selected:
        folds, each = trial.selection_size(steps_of(training, own.samples), own.samples)
        yield ahead.judging("selection", each, 3, folds, batch)


def _tries(recipe: Recipe, plan: SpendingPlan) -> bool:
    """Whether there is a trial, as far as is known before the teacher's answers."""
    return bool(plan.per_image and plan.tried and recipe.grow.augmentations)


def _uses(recipe: Recipe, size: Size, done: Done) -> tuple[Use, ...]:
    """What a trial may decide, or has decided."""
    if done.use is not None:
        return (done.use,)
    if not needed(recipe.student.methods).trial or not size.divided.per_image:
        return ("ce",)
    if not recipe.grow.augmentations:
        return ("mbd",)
    return ("grown", "mbd", "ce") if size.divided.tried else ("grown",)


def _learned(recipe: Recipe, size: Size, method: Method, use: Use) -> int:
    """How many samples a student of a method learns from."""
    needs, own, plan = METHODS[method], size.own.samples, size.divided
    if needs.pseudo:
        if recipe.synthesis.way == "ascent":
            return recipe.synthesis.ascent.samples * (1 + recipe.synthesis.ascent.copies)
        return size.pseudo + (size.labelled if needs.metric is None else 0)
    if needs.trial and use == "grown":
        return own * (1 + plan.left) + plan.each * plan.tried
    return own * (1 + recipe.grow.per_image) if needs.grown else own


def _is_of(task: Task, verb: Verb, *, decides: bool) -> bool:
    """Whether a verb does a task; `decides`: whether a trial decides what is bought."""
    late, test = task.stage == "students", task.stage == "evaluate"
    return {
        "run": True,
        "label": not late and not test and (decides or task.stage != "grow"),
        "grow": task.stage in ("answers", "grow"),
        "synthesize": not late and not test,
        "distill": late,
        "evaluate": late or test,
    }[verb]


def _row(task: Task, seconds: float) -> Row:
    if task.stage == "students":
        words = "students"
    else:
        words = NAMED[task.name] if task.name in NAMED else stage(task.name).words
    images = task.drawn + task.looked + task.slopes
    return Row(task.name, words, task.answers, task.steps, images, seconds)


def _sum(one: Row, other: Row) -> Row:
    return replace(
        one,
        answers=one.answers + other.answers,
        steps=one.steps + other.steps,
        images=one.images + other.images,
        seconds=one.seconds + other.seconds,
    )


def _rounded(row: Row) -> Row:
    return replace(row, seconds=round(row.seconds, 1))
