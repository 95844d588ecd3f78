"""A student's file and the teacher of a recipe, which answers what the student is unsure of."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from db3kd.config.recipe import Recipe
from db3kd.config.settings import Budget
from db3kd.data import DataSet, TensorImages
from db3kd.job.teacher import TeacherPipeline, open_teacher
from db3kd.student.cascade import Cascade
from db3kd.student.devices import usable_device
from db3kd.student.loaded import Student


class Calibrated(msgspec.Struct, frozen=True):
    """The temperature of a student, and how many test images it was fitted on.

    >>> Calibrated(temperature=1.5, fitted_on=200).fitted_on
    200
    """

    temperature: float
    fitted_on: int


def calibration_beside(student: Path) -> Calibrated | None:
    """What the summary of its run says of a student's file; None if it does not lie in that folder.

    >>> calibration_beside(Path("runs/a/students/ce-0-1a2b3c4d.safetensors")) is None
    True
    """
    place = student.absolute()
    try:
        methods = json.loads((place.parent.parent / "summary.json").read_bytes())["methods"]
        for row in methods.values():
            for file, curve in zip(row["files"], row["cascade"], strict=True):
                if file == f"{place.parent.name}/{place.name}" and curve is not None:
                    return msgspec.convert(curve, Calibrated)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # it is no summary, or one of an earlier version
    return None


@contextmanager
def opened_cascade(
    student: Student,
    recipe: Recipe,
    threshold: float,
    *,
    temperature: float = 1.0,
    most: int | None = None,
) -> Iterator[tuple[Cascade, TeacherPipeline]]:
    """Open the teacher of a recipe for the images that a student is unsure of.

    `most`: the most queries. No data set of the recipe is needed. As for a check, neither the
    folder of its run nor the run's budget of queries is touched: answers are kept in the store,
    if there is one, booked there with those of checks, and paid out of the run's money. Costs no
    query until the cascade is asked.

    Raises:
        InputError: the teacher cannot be made, or does not have the student's classes.
        Damaged, Busy, RunError: from the store.
    """
    recipe = msgspec.structs.replace(recipe, device=usable_device(recipe.device))
    images = TensorImages(torch.zeros(0, *student.card.shape))
    like = DataSet(images, None, student.classes)
    with open_teacher(recipe, like, check=True) as pipeline:
        budget = Budget(queries=most)
        teacher = pipeline.teacher
        yield Cascade(student, teacher, threshold, budget=budget, temperature=temperature), pipeline
