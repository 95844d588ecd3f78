"""db3kd trains a small student network from a classifier that answers only the top-1 class.

import db3kd

teacher = db3kd.teachers.torch_module(net, classes=10)     # or onnx, sklearn, function
with db3kd.Run("runs/mnist", teacher, budget=db3kd.Budget(queries=20_000)) as run:
    network = db3kd.networks.build("lenet5", images.shape, 10, width=0.5, seed=0)
    student = run.distill(network, run.spend(images, network))

Names load what they need when they are first used, so that `db3kd --help` does not wait for torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from db3kd import data, progress, search, student, teachers
    from db3kd import search as robustness
    from db3kd.config.reading import read_recipe
    from db3kd.config.recipe import Recipe
    from db3kd.config.settings import (
        AscentPlan,
        Budget,
        Grow,
        Search,
        Spend,
        Synthesis,
        Training,
    )
    from db3kd.config.stopping import Stop
    from db3kd.data import DataSet, TensorImages, load
    from db3kd.data.transfer_set import TransferSet
    from db3kd.errors import (
        BudgetExhausted,
        Busy,
        ConfigurationDiffers,
        Damaged,
        Db3kdError,
        InputError,
        RecipeError,
        RunError,
        TeacherError,
    )
    from db3kd.job import tracking as trackers
    from db3kd.job.distiller import Distiller
    from db3kd.progress import silent
    from db3kd.run import Run
    from db3kd.search import descent
    from db3kd.stages.accounts import status
    from db3kd.stages.stopping import Stopping
    from db3kd.stages.students import Evaluation
    from db3kd.student import networks, soft_labels
    from db3kd.student.calibration import cascade_curve
    from db3kd.student.card import StudentCard
    from db3kd.student.cascade import Cascade
    from db3kd.student.export import export_onnx, export_torch
    from db3kd.student.loaded import Student, load_student
    from db3kd.teachers.base import Teacher
    from db3kd.teachers.meter import Meter

    __version__: str

_HOME = {
    "AscentPlan": "config.settings",
    "Budget": "config.settings",
    "BudgetExhausted": "errors",
    "Busy": "errors",
    "Cascade": "student.cascade",
    "ConfigurationDiffers": "errors",
    "Damaged": "errors",
    "DataSet": "data",
    "Db3kdError": "errors",
    "Distiller": "job.distiller",
    "Evaluation": "stages.students",
    "Grow": "config.settings",
    "InputError": "errors",
    "Meter": "teachers.meter",
    "Recipe": "config.recipe",
    "RecipeError": "errors",
    "Run": "run",
    "RunError": "errors",
    "Search": "config.settings",
    "Spend": "config.settings",
    "Stop": "config.stopping",
    "Stopping": "stages.stopping",
    "Student": "student.loaded",
    "StudentCard": "student.card",
    "Synthesis": "config.settings",
    "Teacher": "teachers.base",
    "TeacherError": "errors",
    "TensorImages": "data",
    "Training": "config.settings",
    "TransferSet": "data.transfer_set",
    "cascade_curve": "student.calibration",
    "export_onnx": "student.export",
    "export_torch": "student.export",
    "load": "data",
    "load_student": "student.loaded",
    "read_recipe": "config.reading",
    "silent": "progress",
    "status": "stages.accounts",
}
_MODULES = {
    "data": "data",
    "descent": "search.descent",
    "networks": "student.networks",
    "progress": "progress",
    "robustness": "search",
    "search": "search",
    "soft_labels": "student.soft_labels",
    "student": "student",
    "teachers": "teachers",
    "trackers": "job.tracking",
}

__all__ = [
    "AscentPlan",
    "Budget",
    "BudgetExhausted",
    "Busy",
    "Cascade",
    "ConfigurationDiffers",
    "Damaged",
    "DataSet",
    "Db3kdError",
    "Distiller",
    "Evaluation",
    "Grow",
    "InputError",
    "Meter",
    "Recipe",
    "RecipeError",
    "Run",
    "RunError",
    "Search",
    "Spend",
    "Stop",
    "Stopping",
    "Student",
    "StudentCard",
    "Synthesis",
    "Teacher",
    "TeacherError",
    "TensorImages",
    "Training",
    "TransferSet",
    "cascade_curve",
    "data",
    "descent",
    "export_onnx",
    "export_torch",
    "load",
    "load_student",
    "networks",
    "progress",
    "read_recipe",
    "robustness",
    "search",
    "silent",
    "soft_labels",
    "status",
    "student",
    "teachers",
    "trackers",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("db3kd")
    if name in _MODULES:
        return import_module(f"db3kd.{_MODULES[name]}")
    if name in _HOME:
        return getattr(import_module(f"db3kd.{_HOME[name]}"), name)
    raise AttributeError(f"module 'db3kd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
