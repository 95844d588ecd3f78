"""The adapter that a recipe names: the teacher itself, without store, votes or canaries."""

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from db3kd import teachers
from db3kd.config.factories import call_factory
from db3kd.config.recipe import Recipe, TeacherConfig
from db3kd.config.remote import Encoding, Remote
from db3kd.data import DataSet, TensorImages, in_memory, load
from db3kd.data.names import all_whole, check_names, count_of, places, read_names
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError, InputError, described, plain
from db3kd.progress import Progress, silent
from db3kd.student.files import load_network, save_network
from db3kd.student.networks import build
from db3kd.student.training import train
from db3kd.teachers.base import Teacher
from db3kd.teachers.classes import NOBODY, Told, classes_of
from db3kd.teachers.encoding import Entry
from db3kd.teachers.onnx import of_model
from db3kd.teachers.onnx_model import EIGHT_BIT, encoding_for, open_model
from db3kd.teachers.remote import remote
from db3kd.teachers.torch_module import told


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


def make_teacher(recipe: Recipe, data: DataSet | None, progress: Progress = silent) -> Teacher:
    """The teacher that a recipe names, for images of 0 to 1 like those of `data`.

    Its classes are those that `teacher.classes` says, or else the model itself, or else the own
    images. Those of a "remote" teacher or a "function" are found where nobody says them. A model
    that takes other numbers than 0 to 1 is given them by the adapter.
    A "network" is trained first if the file of its weights is missing. A "torch" module is shown a
    blank image if nobody says how many classes it has. Costs no query. Random by the recipe's seed:
    that training.

    Raises:
        InputError: the factory, the file, the weights or the settings cannot be used, or nobody
            says how many classes there are.
    """
    wanted = recipe.teacher
    if wanted.kind == "remote":
        return _remote(recipe, data)
    if wanted.kind == "network":
        if data is None:
            raise InputError("a teacher of kind 'network' needs images to be built for")
        network = teacher_network(recipe, data, progress)
        return _torch(network, recipe, said_classes(wanted) or _of_images(data))
    if wanted.kind == "onnx":
        return _onnx(recipe, data)
    made = call_factory(str(wanted.factory), given=wanted.arguments)
    try:
        return _around(made, recipe, data)
    except (Db3kdError, KeyboardInterrupt):
        raise
    except BaseException as error:  # of the user's own object
        raise InputError(
            f"what the factory {wanted.factory!r} made cannot be used as a {wanted.kind!r} teacher:"
            f" {described(error)}"
        ) from error


def said_classes(wanted: TeacherConfig) -> int | tuple[str, ...] | None:
    """What `teacher.classes` says: how many there are, or their names, of which it may name a file.

    Raises:
        InputError: the file cannot be read, or these cannot be names of classes.

    >>> said_classes(TeacherConfig(kind="onnx", file="t.onnx", classes=("cat", "dog")))
    ('cat', 'dog')
    """
    if isinstance(wanted.classes, str):
        return read_names(wanted.classes)
    if isinstance(wanted.classes, tuple):
        return check_names(wanted.classes, "teacher.classes")
    return wanted.classes


def encoding_of(wanted: TeacherConfig, *, eight_bit: bool = False) -> Encoding | None:
    """What images of 0 to 1 are made into for a model on this machine; `bounds` are a part of it.

    `eight_bit`: the model takes 8 bits, whose bounds are 0 and 255.

    Raises:
        InputError: a model of 8 bits has other bounds.

    >>> teacher = TeacherConfig(kind="onnx", file="t.onnx", bounds=(-1.0, 1.0))
    >>> found = encoding_of(teacher)
    >>> found.kind, found.scale, found.mean
    ('float32', 2.0, (1.0,))
    """
    low, high = wanted.bounds
    if (low, high) == (0.0, 1.0):
        return wanted.encoding
    if eight_bit or (wanted.encoding is not None and wanted.encoding.kind != "float32"):
        if (low, high) == (0.0, 255.0):
            return wanted.encoding
        raise InputError(
            f"teacher.bounds is [{low}, {high}], but the teacher takes images of 8 bits, 0 to 255;"
            " remove it"
        )
    offset = {"mean": (-low,), "std": (1.0,)} if low else {}
    encoding = wanted.encoding or Encoding(kind="float32")
    return msgspec.structs.replace(encoding, scale=high - low, **offset)


def _count_of_images(data: DataSet | None) -> int | None:
    """How many classes a teacher has of whom only images are known; None without labels."""
    return count_of(data.classes) if data is not None and data.classes else None


def _of_images(data: DataSet | None) -> int | tuple[str, ...] | None:
    """The classes of a teacher of whom only images are known, as a user says them.

    They are the names of the images' classes, or how many there are if these are numbers, or if it
    is one class. None without labels.
    """
    count = _count_of_images(data)
    if data is None or count is None or count < 2 or all_whole(data.classes):
        return count
    return data.classes


def _remote(recipe: Recipe, data: DataSet | None) -> Teacher:
    wanted = recipe.teacher
    settings, said = wanted.remote or Remote(url="", protocol="oip"), said_classes(wanted)
    if isinstance(said, tuple):
        if settings.names.names:
            raise InputError(
                "teacher.classes and teacher.remote.names.names both name the classes; remove one"
            )
        names = msgspec.structs.replace(settings.names, names=said)
        settings, said = msgspec.structs.replace(settings, names=names), None
    named = bool(settings.names.names) and settings.names.unknown != "extend"
    # Names of images are left out: a store knows its teacher by its names.
    count = said if said is not None or named else _count_of_images(data)
    if count is None and settings.names.unknown in ("other", "extend") and not named:
        raise InputError(NOBODY)
    store = Path(str(store_of(recipe)))
    store.parent.mkdir(parents=True, exist_ok=True)
    return remote(
        settings, classes=count, limits=f"{store}.limits", most_classes=wanted.most_classes
    )


def _onnx(recipe: Recipe, data: DataSet | None) -> Teacher:
    wanted, file = recipe.teacher, Path(str(recipe.teacher.file))
    said = said_classes(wanted)
    count = len(said) if isinstance(said, tuple) else said
    model = open_model(file, output=wanted.output, classes=count)
    known = classes_of(said, model.told, unknown=wanted.unknown, otherwise=_of_images(data))
    shown = encoding_of(wanted, eight_bit=model.entry.kind == EIGHT_BIT)
    entry = Entry(encoding_for(model, shown), (0.0, 1.0))
    return of_model(model, known, entry, wanted.batch or 256, file)


def _torch(module: nn.Module, recipe: Recipe, said: int | tuple[str, ...] | None) -> Teacher:
    wanted = recipe.teacher
    if said is None:
        raise InputError(NOBODY)
    return teachers.torch_module(
        module,
        classes=said,
        batch=wanted.batch,
        device=recipe.device,
        encoding=encoding_of(wanted),
        output=wanted.output,
        unknown=wanted.unknown,
    )


def _around(made: Any, recipe: Recipe, data: DataSet | None) -> Teacher:
    """The adapter around what a factory made.

    Raises:
        InputError: it is not of the kind that the recipe says.
    """
    wanted, said = recipe.teacher, said_classes(recipe.teacher)
    encoding = encoding_of(wanted)
    if wanted.kind == "torch":
        if not isinstance(made, nn.Module):
            raise InputError(f"{_made(recipe, made)}; a torch module is expected")
        tells = Told()
        if data is not None:
            tells = told(
                made,
                data.images.shape,
                device=recipe.device,
                encoding=encoding,
                output=wanted.output,
            )
        known = classes_of(said, tells, otherwise=_of_images(data))
        return _torch(made, recipe, known.names or known.known)
    batch = wanted.batch or 1024
    if wanted.kind == "sklearn":
        return teachers.sklearn(
            made, batch=batch, classes=said, encoding=encoding, unknown=wanted.unknown
        )
    if not callable(made):
        raise InputError(f"{_made(recipe, made)}; a function of images is expected")
    return teachers.function(
        made,
        classes=said or _of_images(data),
        batch=batch,
        encoding=encoding,
        unknown=wanted.unknown,
        most_classes=wanted.most_classes,
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
    known = classes_of(said_classes(wanted), otherwise=_of_images(like))
    entry = Entry(encoding_of(wanted), (0.0, 1.0))
    shape, _ = entry.range(like.images.shape)
    if len(shape) != 3:
        raise InputError('a network takes images of three axes; remove encoding.layout = "flat"')
    network = build(str(wanted.network), shape, known.known, wanted.width, seed=recipe.seed)
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

    place = places(data.classes, known.names, known.known, "the images of teacher.data")
    labels = torch.tensor(place)[data.labels]
    images = in_memory(data.images)
    if entry.encoding is not None:
        images = TensorImages(entry(images.read(torch.arange(len(data)))))

    def report(_: str, done: int, total: int, figures: Any) -> None:
        progress("teacher", done, total, figures)

    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = path.with_suffix(".checkpoint")
    trained = train(
        network,
        TransferSet(images, torch.arange(len(data)), labels, labels),
        wanted.training,
        seed=recipe.seed,
        device=recipe.device,
        progress=report,
        checkpoint=checkpoint,
    )
    save_network(path, trained)
    checkpoint.unlink(missing_ok=True)
    return trained
