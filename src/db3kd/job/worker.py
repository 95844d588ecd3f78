"""A recipe opened by a worker, which helps the run of another process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db3kd.config.recipe import Recipe
from db3kd.errors import InputError, RunError
from db3kd.job.session import Job
from db3kd.job.sets import matched, sets_of, sound
from db3kd.job.teacher import open_teacher
from db3kd.run import Run
from db3kd.stages.digests import Digests
from db3kd.stages.executor import Executor
from db3kd.stages.hand import Helper
from db3kd.stages.workspace import Workspace


@contextmanager
def helping(recipe: Recipe, executor: Executor) -> Iterator[Helper]:
    """Open the images and the teacher of a recipe, and the folder of its run to look into it.

    Nothing is trained, asked or noted here. Costs no query.

    Raises:
        ConfigurationDiffers: the teacher here is another one than that of the run.
        Db3kdError: see `opened`.
    """
    _check_here(recipe)
    sets = sets_of(recipe)
    sets = sound(recipe, sets, Digests(Path(recipe.run) / "digests.json"))
    with open_teacher(recipe, sets.known) as pipeline:
        workspace = Workspace.followed(
            Path(recipe.run),
            pipeline.teacher,
            seed=recipe.seed,
            device=recipe.device,
            parts=pipeline.parts,
            executor=executor,
        )
        sets = matched(sets, pipeline.teacher)

        def follow(call: str) -> None:
            job = Job(recipe, Run.within(workspace), sets, pipeline, anyway=True)
            _follow(job, call)

        yield Helper(workspace, follow)


def _follow(job: Job, call: str) -> None:
    """Do what the run was called for, up to the work that it is at."""
    run, recipe = job.run, job.recipe
    if call == "answers":
        run.answers(job.own.images)
    elif call == "measure":
        run.measure(job.own.images, recipe.label)
    elif call == "grow":
        run.grow(job.own.images, recipe.grow)
    elif call == "spend":
        job.spend()
    elif call == "synthesize":
        job.synthesize()
    elif call == "evaluate":
        run.test_answers(job.test.images)
    else:
        raise RunError(f'no worker can help with {call!r}; set cluster.engine = "none"')


def _check_here(recipe: Recipe) -> None:
    """Refuse to train a teacher here: the process that leads has done so."""
    weights = recipe.teacher.weights
    if recipe.teacher.kind == "network" and not Path(str(weights)).exists():
        raise InputError(f"{weights} is missing; put the teacher's weights there")
