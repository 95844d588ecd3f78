"""A recipe opened by a worker, which helps the run of another process."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

from db3kd.config.methods import Method
from db3kd.config.recipe import Recipe
from db3kd.config.settings import kind_of
from db3kd.errors import InputError
from db3kd.job.session import Job
from db3kd.job.sets import matched, sets_of, sound
from db3kd.job.teacher import TeacherPipeline, open_teacher
from db3kd.run import Run
from db3kd.stages.answers import ask_once
from db3kd.stages.digests import Digests
from db3kd.stages.executor import Executor
from db3kd.stages.hand import Helper
from db3kd.stages.through_leader import Described, ThroughLeader
from db3kd.stages.workspace import Workspace


@contextmanager
def helping(recipe: Recipe, led: Described | None, executor: Executor) -> Iterator[Helper]:
    """Open the images and the teacher of a recipe, and the folder of its run to look into it.

    `led`: the teacher, where the leading process asks it. Nothing is trained, asked or noted here.
    Costs no query.

    Raises:
        ConfigurationDiffers: the teacher here is another one than that of the run.
        Db3kdError: see `opened`.
    """
    sets = sets_of(recipe)
    sets = sound(recipe, sets, Digests(Path(recipe.run) / "digests.json"))
    with ExitStack() as kept:
        if led is None:
            _check_here(recipe)
            teacher, pipeline = None, kept.enter_context(open_teacher(recipe, sets.known))
        else:
            teacher = ThroughLeader(led)
            pipeline = TeacherPipeline(teacher, teacher, parts=led.parts)
        workspace = Workspace.followed(
            Path(recipe.run),
            pipeline.teacher,
            seed=recipe.seed,
            device=recipe.device,
            parts=pipeline.parts,
            executor=executor,
        )
        sets = matched(sets, pipeline.teacher)

        def job() -> Job:
            return Job(recipe, Run.within(workspace), sets, pipeline, anyway=True)

        def train(name: str, seed: int) -> None:
            made = job()
            for student in made.untrained((cast("Method", name),), (seed,)):
                made.trained(student)

        yield Helper(workspace, lambda stage: _follow(job(), workspace, stage), train, teacher)


def _follow(job: Job, workspace: Workspace, stage: str) -> None:
    """Do what the run does to come to a stage, up to the work that it is at."""
    run, recipe, kind = job.run, job.recipe, kind_of(stage)
    if kind == "answers":
        run.answers(job.own.images)
    elif kind == "evaluate":
        ask_once(workspace, "evaluate", job.test.images)
    elif stage.startswith("pseudo/") or kind in ("ascent", "copies"):
        job.synthesize()
    elif workspace.configuration("spend"):
        job.spend()
    elif kind == "grow":
        run.grow(job.own.images, recipe.grow)
    else:
        run.measure(job.own.images, recipe.label)


def _check_here(recipe: Recipe) -> None:
    """Refuse to train a teacher here: the process that leads has done so."""
    weights = recipe.teacher.weights
    if recipe.teacher.kind == "network" and not Path(str(weights)).exists():
        raise InputError(f"{weights} is missing; put the teacher's weights there")
