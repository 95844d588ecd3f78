"""The verbs of the command line, each one public function from a recipe to plain data."""

from db3kd.config.recipe import Recipe
from db3kd.job.report import summary
from db3kd.job.session import opened
from db3kd.progress import Progress, silent
from db3kd.storage.files import Json


def label(recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False) -> Json:
    """Ask for every image's class and measure its distances; returns the books.

    Sections 3.2.1 and 3.2.2 of the paper. Costs as `Run.measure`. Continues what is there. Where
    the students' method is "auto", a trial decides what is bought, as `Run.spend` says.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged) as job:
        if job.needs.trial:
            job.spend()
        else:
            job.run.measure(job.own.images, recipe.label)
        return job.books()


def grow(recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False) -> Json:
    """Ask for every image's class, make new images of them and ask these; returns the books.

    Costs as `Run.grow`. Continues what is there.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged) as job:
        job.run.grow(job.own.images, recipe.grow)
        return job.books()


def synthesize(recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False) -> Json:
    """Make pseudo samples without any data and ask these; returns the books and the classes met.

    Costs as `Run.synthesize`. Continues what is there.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged) as job:
        job.synthesize()
        return {**job.books(), "classes": job.run.pseudo_counts}


def distill(recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False) -> Json:
    """Train a student for every method and seed on labels that are there; costs no query.

    Section 3.2.3 of the paper. Students that are trained already are left as they are.

    Raises:
        InputError: the labels are not finished.
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged) as job:
        return {**job.books(), "students": [name for name, _, _ in job.students()]}


def evaluate(recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False) -> Json:
    """Compare every student with teacher and ground truth on the test images.

    Costs one query for each test image, once in the life of the run. The summary is also written to
    `summary.json` in the folder of the run.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged) as job:
        return summary(job)


def run(recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False) -> Json:
    """The main job: buy what the methods of the students need, distill, evaluate.

    "grown" and "mixed" need grown images, "sd", "bd", "mbd" and "mixed" distances, "ce" neither;
    "auto" what a trial decides; "pseudo" and "pseudo_mbd" pseudo samples, and no own images. Each
    stage goes on from wherever it is.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged) as job:
        if job.needs.pseudo:
            job.synthesize()
            return summary(job)
        job.run.answers(job.own.images)
        if job.needs.trial:
            job.spend()
        if job.needs.grown:
            job.run.grow(job.own.images, recipe.grow)
        if job.needs.metric is not None:
            job.run.measure(job.own.images, recipe.label)
        return summary(job)
