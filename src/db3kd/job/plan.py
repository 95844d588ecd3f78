"""What a run costs at most, and whether it can work at all, before anything is asked."""

from pathlib import Path

from db3kd.config.methods import METHODS, needed
from db3kd.config.recipe import Recipe
from db3kd.config.settings import most_queries
from db3kd.data.names import count_of
from db3kd.job.sets import Sets
from db3kd.stages import distances, growing, synthesis
from db3kd.stages.ensemble_labels import images_for
from db3kd.stages.table import stage
from db3kd.stages.trial import SpendingPlan
from db3kd.storage.files import Json
from db3kd.student.networks import Shape
from db3kd.student.own import check_wanted
from db3kd.student.together import check_started_once, check_together

PARTS = {
    "answers": stage("answers").words,
    "spend": "new images or distances",
    **{name: stage(name).words for name in ("grow", "distances", "synthesis", "evaluate")},
}
"""The parts of a forecast, in words."""


def forecast(recipe: Recipe, *, samples: int, test_samples: int, classes: int) -> Json:
    """The most queries that a run costs, in parts and in all; asks nothing.

    `samples`, `test_samples`: how many own images and test images there are.

    >>> from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
    >>> recipe = Recipe(run="r", data=DataConfig(train="d"),
    ...                 teacher=TeacherConfig(kind="onnx", file="t.onnx"),
    ...                 student=StudentConfig(network="lenet5"))
    >>> forecast(recipe, samples=100, test_samples=50, classes=10)["total"]
    3150
    """
    needs, budget = needed(recipe.student.methods), recipe.budget.queries
    parts = dict.fromkeys(("answers", "spend", "grow", "distances", "synthesis"), 0)
    if needs.own_images:
        parts["answers"] = measured = samples
    if needs.trial:
        divided = SpendingPlan.of(
            recipe.spend, samples=samples, budget=budget, reserved=test_samples
        )
        parts["spend"] = samples * divided.per_image
    if needs.grown:
        parts["grow"] = samples * recipe.grow.per_image
    if needs.pseudo:
        total = synthesis.planned_total(recipe.synthesis, budget=budget, reserved=test_samples)
        way, ascent = recipe.synthesis.way, recipe.synthesis.ascent
        parts["synthesis"] = total
        measured = ascent.samples if way == "ascent" else total
    if needs.metric is not None:
        parts["distances"] = measured * most_queries(recipe.label, classes)
    parts["evaluate"] = test_samples
    return {**parts, "total": sum(parts.values())}


def ensemble_labels(recipe: Recipe, shape: Shape, *, asked: int) -> int:
    """How many images with ensemble labels the students of `asked` pseudo samples learn from.

    >>> from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
    >>> recipe = Recipe(run="r", data=DataConfig(), teacher=TeacherConfig(kind="onnx", file="t"),
    ...                 student=StudentConfig(network="lenet5", methods=("pseudo",)))
    >>> ensemble_labels(recipe, (1, 28, 28), asked=5_000)
    55000
    """
    rows = [METHODS[method] for method in recipe.student.methods]
    if not any(row.pseudo and row.metric is None for row in rows):
        return 0
    return images_for(str(recipe.student.network), recipe.synthesis, shape, asked=asked)


def check_possible(recipe: Recipe, sets: Sets) -> None:
    """Refuse a recipe that cannot work, before a teacher is trained or asked.

    Raises:
        InputError: a network or a setting does not fit the images or this machine; or the budget
            leaves not a single pseudo sample. A run that has begun keeps its plan, so its budget is
            not checked.
    """
    wanted, shape = recipe.student, sets.shape
    classes = max(2, count_of(sets.known.classes))  # at least: the teacher is not known yet
    needs = needed(wanted.methods)
    check_wanted(wanted, shape, classes)
    check_started_once()
    if wanted.training.devices > 1:
        check_together(wanted.training.devices, recipe.device)
    if needs.pseudo:
        synthesis.check_synthesis(recipe.synthesis, shape, classes)
    if recipe.grow.augmentations and (needs.trial or needs.grown):
        growing.check_growing(recipe.grow, shape, classes)
    if needs.trial or needs.metric is not None:
        distances.check_search(recipe.label, shape, classes)
    if needs.pseudo and not Path(recipe.run, "journal.jsonl").exists():  # else it has a plan
        budget, reserved = recipe.budget.queries, sets.tests
        total = synthesis.planned_total(recipe.synthesis, budget=budget, reserved=reserved)
        synthesis.check_budget(total, budget=budget, reserved=reserved)
