"""The adapter that a recipe names: the teacher itself, without store, votes or canaries."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from db3kd import teachers
from db3kd.config.factories import call_factory
from db3kd.config.recipe import Recipe
from db3kd.config.remote import Remote
from db3kd.data import DataSet, in_memory, load
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError, InputError, described, plain
from db3kd.progress import Progress, silent
from db3kd.student.files import load_network, save_network
from db3kd.student.networks import build
from db3kd.student.training import train
from db3kd.teachers.base import Teacher
from db3kd.teachers.remote import remote


def store_of(recipe: Recipe) -> Path | None:
    """The file that keeps a teacher's answers; None if none is wanted.

    >>> from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
    >>> remote = TeacherConfig(kind="remote", remote=Remote(url="", protocol="oip"))
    >>> store_of(Recipe(run="runs/a", data=DataConfig(train="d"), teacher=remote,
    ...                 student=StudentConfig(network="lenet5")))
    PosixPath('runs/answers.db3kd')
    """
    if recipe.teacher.store is not None:
        return Path(recipe.teacher.store)
    return Path(recipe.run).parent / STORE if recipe.teacher.kind == "remote" else None


STORE = "answers.db3kd"  # next to the folder of the run, so that other runs there share it


def make_teacher(recipe: Recipe, data: DataSet, progress: Progress = silent) -> Teacher:
    """The teacher that a recipe names.

    A "network" is trained first if the file of its weights is missing. Costs no query. Random by
    the recipe's seed: that training.

    Raises:
        InputError: the factory, the file, the weights or the settings cannot be used.
    """
    wanted = recipe.teacher
    classes = len(data.classes)
    if wanted.kind == "network":
        network = teacher_network(recipe, data, progress)
        return teachers.torch_module(
            network, classes=classes, bounds=wanted.bounds, batch=wanted.batch, device=recipe.device
        )
    if wanted.kind == "remote":
        settings = wanted.remote or Remote(url="", protocol="oip")
        named = bool(settings.names.names) and settings.names.unknown != "extend"
        store = Path(str(store_of(recipe)))
        store.parent.mkdir(parents=True, exist_ok=True)
        return remote(
            settings,
            classes=wanted.classes or (None if named else classes),
            bounds=wanted.bounds,
            limits=f"{store}.limits",
        )
    if wanted.kind == "onnx":
        return teachers.onnx(
            str(wanted.file), classes=classes, bounds=wanted.bounds, batch=wanted.batch or 256
        )
    made = call_factory(str(wanted.factory))
    try:
        return _around(made, recipe, classes)
    except (Db3kdError, KeyboardInterrupt):
        raise
    except BaseException as error:  # of the user's own object
        raise InputError(
            f"what the factory {wanted.factory!r} made cannot be used as a {wanted.kind!r} teacher:"
            f" {described(error)}"
        ) from error


def _around(made: Any, recipe: Recipe, classes: int) -> Teacher:
    """The adapter around what a factory made.

    Raises:
        InputError: it is not of the kind that the recipe says.
    """
    wanted = recipe.teacher
    if wanted.kind == "torch":
        if not isinstance(made, nn.Module):
            raise InputError(f"{_made(recipe, made)}; a torch module is expected")
        return teachers.torch_module(
            made, classes=classes, bounds=wanted.bounds, batch=wanted.batch, device=recipe.device
        )
    if wanted.kind == "sklearn":
        return teachers.sklearn(made, bounds=wanted.bounds, batch=wanted.batch or 1024)
    if not callable(made):
        raise InputError(f"{_made(recipe, made)}; a function of images is expected")
    return teachers.function(
        made, classes=classes, bounds=wanted.bounds, batch=wanted.batch or 1024
    )


def _made(recipe: Recipe, made: object) -> str:
    return f"the factory {recipe.teacher.factory!r} made a {plain(type(made).__name__, 60)}"


def teacher_network(recipe: Recipe, like: DataSet, progress: Progress) -> nn.Module:
    """A network of the paper with its weights, for images and classes like those of a data set.

    It is trained here, once, if the file of its weights is missing. Costs no query. Random by the
    recipe's seed: the first weights and the training.

    Raises:
        InputError: the file is missing and the recipe has no training, or the file does not fit.
    """
    wanted = recipe.teacher
    path = Path(str(wanted.weights))
    shape, classes = like.images.shape, len(like.classes)
    network = build(str(wanted.network), shape, classes, wanted.width, seed=recipe.seed)
    if path.exists():
        return load_network(path, network)
    if wanted.training is None:
        raise InputError(
            f"{path} is missing; put the weights there, or set [teacher.training] to train them"
        )
    data = load(
        str(wanted.data or recipe.data.train),
        recipe.data.train_split,
        size=recipe.data.size,
        channels=recipe.data.channels,
    )

    def report(_: str, done: int, total: int, figures: Any) -> None:
        progress("teacher", done, total, figures)

    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = path.with_suffix(".checkpoint")
    trained = train(
        network,
        TransferSet(in_memory(data.images), torch.arange(len(data)), data.labels, data.labels),
        wanted.training,
        seed=recipe.seed,
        device=recipe.device,
        progress=report,
        checkpoint=checkpoint,
    )
    save_network(path, trained)
    checkpoint.unlink(missing_ok=True)
    return trained
