"""A quick look: a recipe with bounds, for a first result within a couple of minutes."""

import msgspec

from db3kd.config.methods import needed
from db3kd.config.recipe import Recipe
from db3kd.config.settings import Grow, Search, Spend, Synthesis, is_joint

SUFFIX = "-quick"  # of the run's folder, so that a quick look never mixes with the real run
PART, UNTOLD = 10, 1_000  # of a remote teacher's budget that is spent; queries without a budget
SAMPLES = 500  # own images, and test images, where the recipe does not say how many
STEPS = 300  # of every student
PER_IMAGE = 30  # answers for each own image, by method "auto"
GROWN, MEASURED, ROW = 10, 60, 100  # new images, and queries, of each image; queries of each row
PSEUDO = 5_000  # pseudo samples
PUSHED, PUSHES = 100, 5  # pseudo samples by ascent, and their iterations


def quick(recipe: Recipe) -> Recipe:
    """Bound a recipe for a quick look, in a folder of its own; what is smaller already stays.

    The teacher and the numbers of images that the recipe names stay as well. Where it names none, a
    job takes at most `most_images`. The budget stays, but a remote teacher is asked and paid at
    most a tenth of it, and asked at most 1,000 times if there is none.

    >>> from db3kd.config.recipe import DataConfig, StudentConfig, TeacherConfig
    >>> look = quick(
    ...     Recipe(
    ...         run="runs/mnist",
    ...         data=DataConfig(train="mnist"),
    ...         teacher=TeacherConfig(kind="onnx", file="teacher.onnx"),
    ...         student=StudentConfig(network="lenet5", seeds=(3, 4)),
    ...     )
    ... )
    >>> look.run, look.student.seeds, look.student.training.steps, look.grow.rounds
    ('runs/mnist-quick', (3,), 300, 2)
    """
    replace = msgspec.structs.replace
    if recipe.teacher.kind == "remote":
        recipe = _cheap(recipe)
    student = recipe.student
    training = replace(student.training, steps=min(student.training.steps or STEPS, STEPS))
    run = recipe.run.rstrip("/\\") or recipe.run
    return replace(
        recipe,
        quick=True,
        run=run if run.endswith(SUFFIX) else run + SUFFIX,
        spend=_spend(recipe),
        grow=_grow(recipe),
        label=_label(recipe),
        synthesis=_synthesis(recipe),
        student=replace(student, seeds=student.seeds[:1], training=training),
    )


def most_images(recipe: Recipe) -> int:
    """The most own images, and the most test images, that a quick look takes by itself.

    A quarter of the budget each, but at most `SAMPLES`.
    """
    queries = recipe.budget.queries
    return SAMPLES if queries is None else max(1, min(SAMPLES, queries // 4))


def _cheap(recipe: Recipe) -> Recipe:
    """A recipe whose answers cost money or time, with a tenth of its budget."""
    replace, budget, price = msgspec.structs.replace, recipe.budget, recipe.teacher.price
    queries = UNTOLD if budget.queries is None else max(1, budget.queries // PART)
    money = None if budget.money is None else budget.money / PART
    if money is not None and price is not None and price.per_1000:
        queries = min(queries, max(1, int(money / price.per_1000 * 1000)))
    cheap = replace(recipe, budget=replace(budget, queries=queries, money=money))
    data, most = recipe.data, most_images(cheap)
    own, test = (some and min(some, most) for some in (data.samples, data.test_samples))
    return replace(cheap, data=replace(data, samples=own, test_samples=test))


def _spend(recipe: Recipe) -> Spend:
    """Grow new images without a trial, which trains more students than all the rest."""
    spend = msgspec.structs.replace(recipe.spend, trial=0)
    wanted = recipe.spend.per_image
    few = most_images(recipe)
    own, test = recipe.data.samples or few, recipe.data.test_samples or few
    enough = own * (1 + PER_IMAGE) + test
    budget = recipe.budget.queries
    if wanted is None and budget is not None and budget < enough:
        return spend  # the plan follows from the budget, and is small
    most = PER_IMAGE if wanted is None else min(wanted, PER_IMAGE)
    return msgspec.structs.replace(spend, per_image=most)


def _grow(recipe: Recipe) -> Grow:
    grow = recipe.grow
    named = needed(recipe.student.methods).grown  # else a trial says how many
    return msgspec.structs.replace(
        grow,
        per_image=min(grow.per_image, GROWN) if named else grow.per_image,
        members=1,
        rounds=min(grow.rounds, 2),
        candidates=min(grow.candidates, 2),
    )


def _label(recipe: Recipe) -> Search:
    label = msgspec.structs.replace(recipe.label, members=1)
    if needed(recipe.student.methods).metric is None:
        return label
    if is_joint(label):
        return msgspec.structs.replace(label, per_image=min(label.per_image, MEASURED))
    checkpoints = tuple(count for count in label.checkpoints if count <= ROW)
    queries = min(label.queries, ROW)
    return msgspec.structs.replace(label, queries=queries, checkpoints=checkpoints)


def _synthesis(recipe: Recipe) -> Synthesis:
    synthesis = recipe.synthesis
    wanted, budget = synthesis.queries, recipe.budget.queries
    test = recipe.data.test_samples or most_images(recipe)
    if wanted is not None:
        wanted = min(wanted, PSEUDO)
    elif budget is None or budget >= PSEUDO + test:
        wanted = PSEUDO
    ascent = synthesis.ascent
    return msgspec.structs.replace(
        synthesis,
        queries=wanted,
        rounds=min(synthesis.rounds, 3),
        members=1,
        candidates=min(synthesis.candidates, 2),
        ensemble_labels=0,
        ascent=msgspec.structs.replace(
            ascent,
            samples=min(ascent.samples, PUSHED),
            iterations=min(ascent.iterations, PUSHES),
        ),
    )
