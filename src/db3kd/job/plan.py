"""What a run costs at most, and whether anything can come of it, before anything is asked."""

from pathlib import Path

from db3kd.config.methods import needed
from db3kd.config.recipe import Recipe
from db3kd.config.settings import most_queries
from db3kd.data import DataSet
from db3kd.errors import InputError
from db3kd.stages import distances, growing, synthesis
from db3kd.stages.table import stage
from db3kd.stages.trial import SpendingPlan
from db3kd.storage.files import Json
from db3kd.student.networks import check_network

PARTS = {
    **{
        name: stage(name).words
        for name in ("answers", "grow", "distances", "synthesis", "evaluate")
    },
    "spend": "new images or distances",
}
"""What a forecast counts, in words."""


def forecast(recipe: Recipe, *, samples: int, test_samples: int, classes: int) -> Json:
    """What a run costs at most, before anything is asked.

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


def check_possible(recipe: Recipe, data: DataSet | None, test: DataSet) -> None:
    """Refuse what cannot come to a student, before a teacher is trained or asked.

    Raises:
        InputError: own and test images of two shapes; a network or a setting that does not fit
            them; a budget without a single pseudo sample, unless the run began with more.
    """
    wanted, shape = recipe.student, test.images.shape
    if data is not None and data.images.shape != shape:
        raise InputError(
            f"the own images are {data.images.shape}, the test images {shape} (channels, height,"
            " width); set data.size or data.channels"
        )
    classes = max(2, len(test.classes))  # the teacher's are not known yet, and may be more
    needs = needed(wanted.methods)
    check_network(wanted.network, shape, classes, wanted.width)
    if needs.pseudo:
        synthesis.check_synthesis(recipe.synthesis, shape, classes)
    if recipe.grow.augmentations and (needs.trial or needs.grown):
        growing.check_growing(recipe.grow, shape, classes)
    if needs.trial or needs.metric is not None:
        distances.check_search(recipe.label, shape, classes)
    if needs.pseudo and not Path(recipe.run, "journal.jsonl").exists():  # what began keeps its plan
        budget, reserved = recipe.budget.queries, len(test)
        total = synthesis.planned_total(recipe.synthesis, budget=budget, reserved=reserved)
        synthesis.check_budget(total, budget=budget, reserved=reserved)
