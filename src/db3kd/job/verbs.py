"""The verbs of the command line: public functions from a recipe to plain data.

Verbs that buy answers look at the first hundred before they buy more, where true classes are known.
If these make no sense, that is an error. With `anyway` it is a warning.
"""

from db3kd.config.recipe import Recipe
from db3kd.job.report import found_so_far, summary
from db3kd.job.session import opened
from db3kd.progress import Progress, silent
from db3kd.storage.files import Json


def label(
    recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False, anyway: bool = False
) -> Json:
    """Ask for every image's class and measure its distances; returns the books.

    Sections 3.2.1 and 3.2.2 of the paper. Costs as `Run.measure`. If the students' method is
    "auto", a trial decides what is bought; see `Run.spend`. Continues where it stopped.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged, anyway) as job:
        own = job.own.images
        job.look()
        job.begin("label")
        if job.needs.trial:
            job.spend()
        else:
            job.run.measure(own, recipe.label)
        return job.books()


def grow(
    recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False, anyway: bool = False
) -> Json:
    """Ask for every image's class, make new images and ask for theirs; returns the books.

    Costs as `Run.grow`. Continues where it stopped.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged, anyway) as job:
        own = job.own.images
        job.look()
        job.begin("grow")
        job.run.grow(own, recipe.grow, stop=job.stopping)
        return job.books()


def synthesize(
    recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False, anyway: bool = False
) -> Json:
    """Make pseudo samples without any data and ask for their classes; returns the books.

    With the books comes how many samples there are of each class. Costs as `Run.synthesize`, and
    as `Run.measure_pseudo` if a student needs distances; and at most a hundred of the test images,
    if there are any with true classes. Continues where it stopped.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged, anyway) as job:
        job.look()
        job.begin("synthesize")
        job.synthesize()
        return {**job.books(), "classes": job.run.pseudo.counts, **found_so_far(job)}


def distill(
    recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False, anyway: bool = False
) -> Json:
    """Train a student for every method and seed on labels bought before; costs no query.

    Section 3.2.3 of the paper. Students that are trained already are left as they are. Returns the
    books and the names of the students.

    Raises:
        InputError: the labels are not finished.
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged, anyway) as job:
        job.begin("distill")
        return {**job.books(), "students": [name for name, _, _ in job.students()]}


def evaluate(
    recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False, anyway: bool = False
) -> Json:
    """Compare every student with teacher and ground truth on the test images; returns the summary.

    Students that are not trained yet are trained first. The summary is also written to
    `summary.json` in the folder of the run. Costs one query for each test image, once in the life
    of the run.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged, anyway) as job:
        job.begin("evaluate")
        return summary(job)


def run(
    recipe: Recipe, *, progress: Progress = silent, redo_damaged: bool = False, anyway: bool = False
) -> Json:
    """Do the whole job: buy what the students' methods need, distill, evaluate.

    Returns the summary, which is also written to `summary.json` in the folder of the run.

    "ce" needs only answers. "grown" and "mixed" need grown images; "sd", "bd", "mbd" and "mixed"
    need distances; "auto" needs what a trial decides. "pseudo" and "pseudo_mbd" need pseudo samples
    and no own images. Each stage continues where it stopped. Costs what `forecast` says, at most.

    Raises:
        Db3kdError: see `Run`.
    """
    with opened(recipe, progress, redo_damaged, anyway) as job:
        job.look()
        job.begin("run")
        if job.needs.pseudo:
            job.synthesize()
            return summary(job)
        job.run.answers(job.own.images)
        if job.needs.trial:
            job.spend()
        if job.needs.grown:
            job.run.grow(job.own.images, recipe.grow, stop=job.stopping)
        if job.needs.metric is not None:
            job.run.measure(job.own.images, recipe.label)
        return summary(job)
