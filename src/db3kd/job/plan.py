"""What a run costs at most, and whether anything can come of it, before anything is asked."""

from pathlib import Path

from db3kd.config.methods import is_grown, is_pseudo, metric_of
from db3kd.config.recipe import Recipe
from db3kd.config.settings import most_queries
from db3kd.data import DataSet
from db3kd.errors import InputError
from db3kd.stages import distances
from db3kd.stages import growing as growth
from db3kd.stages import synthesis as pseudo
from db3kd.stages.trial import Plan
from db3kd.storage.files import Json
from db3kd.student.networks import check_network

PARTS = {
    "answers": "the images' own answers",
    "spend": "new images or distances",
    "grow": "new images",
    "distances": "distances",
    "synthesis": "pseudo samples",
    "evaluate": "test images",
}


def forecast(recipe: Recipe, *, samples: int, test_samples: int, classes: int) -> Json:
    """What a run costs at most, before anything is asked.

    >>> from db3kd.config.recipe import Data, Recipe, Student, Teacher
    >>> recipe = Recipe(run="r", data=Data(train="d"), teacher=Teacher(kind="onnx", file="t.onnx"),
    ...                 student=Student(network="lenet5"))
    >>> forecast(recipe, samples=100, test_samples=50, classes=10)["total"]
    3150
    """
    methods = recipe.student.methods
    parts = {"answers": samples, "spend": 0, "grow": 0, "distances": 0, "synthesis": 0}
    parts["evaluate"] = test_samples
    if "auto" in methods:
        parted = Plan.of(
            recipe.spend, samples=samples, budget=recipe.budget.queries, reserved=test_samples
        )
        parts["spend"] = samples * parted.per_image
    if any(map(is_grown, methods)):
        parts["grow"] = samples * recipe.grow.per_image
    if any(map(metric_of, methods)):
        parts["distances"] = samples * most_queries(recipe.label, classes)
    if any(map(is_pseudo, methods)):
        parts["synthesis"] = pseudo.planned(
            recipe.synthesis, budget=recipe.budget.queries, reserved=test_samples
        )
    if "pseudo_mbd" in methods:
        way, ascent = recipe.synthesis.way, recipe.synthesis.ascent
        count = ascent.samples if way == "ascent" else parts["synthesis"]
        parts["distances"] = count * most_queries(recipe.label, classes)
    return {**parts, "total": sum(parts.values())}


def check_possible(recipe: Recipe, data: DataSet | None, test: DataSet) -> None:
    """Refuse what cannot come to a student, before a teacher is trained or asked.

    Raises:
        InputError: own and test images of two shapes; a network or a setting that does not fit
            them; a budget without a single pseudo sample, unless the run began with more.

    >>> callable(check_possible)
    True
    """
    wanted, shape = recipe.student, test.images.shape
    if data is not None and data.images.shape != shape:
        raise InputError(
            f"the own images are {data.images.shape}, the test images {shape} (channels, height,"
            " width); set data.size or data.channels"
        )
    classes = max(2, len(test.classes))  # the teacher's are not known yet, and may be more
    tries, invents = "auto" in wanted.methods, any(map(is_pseudo, wanted.methods))
    check_network(wanted.network, shape, classes, wanted.width)
    if invents:
        pseudo.check(recipe.synthesis, shape, classes)
    if recipe.grow.changes and (tries or any(map(is_grown, wanted.methods))):
        growth.check(recipe.grow, shape, classes)
    if tries or "pseudo_mbd" in wanted.methods or any(map(metric_of, wanted.methods)):
        distances.check(recipe.label, shape, classes)
    if invents and not Path(recipe.run, "journal.jsonl").exists():  # what began keeps its plan
        budget, reserved = recipe.budget.queries, len(test)
        total = pseudo.planned(recipe.synthesis, budget=budget, reserved=reserved)
        pseudo.check_budget(total, budget=budget, reserved=reserved)
