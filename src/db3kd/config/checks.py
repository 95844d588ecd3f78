"""Settings that cannot go together. Each check yields the wrong key and a sentence about it."""

from collections.abc import Container, Iterator
from os.path import normpath
from pathlib import Path
from typing import Any, get_args

from db3kd.config.methods import METHODS, Metric, needed
from db3kd.config.patterns import compiled
from db3kd.config.recipe import Recipe, StudentConfig, TeacherConfig
from db3kd.config.settings import (
    WITH_IMAGES,
    Grow,
    Search,
    is_joint,
)
from db3kd.config.toml import Key
from db3kd.config.types import MOST_CLASSES
from db3kd.errors import InputError

Problem = tuple[Key, str]
_NEEDS: dict[str, tuple[str, ...]] = {
    "network": ("network", "weights"),
    "torch": ("factory",),
    "sklearn": ("factory",),
    "onnx": ("file",),
    "function": ("factory",),
    "remote": ("remote",),
}


def contradictions(recipe: Recipe, written: Container[str] = ()) -> Iterator[Problem]:
    """Yield every combination of settings that cannot go together.

    `written`: the keys of [label] that the recipe itself contains.
    """
    yield from _of_folders(recipe)
    yield from _teacher(recipe.teacher)
    label, student = recipe.label, recipe.student
    late = [count for count in label.checkpoints if count > label.queries]
    if is_joint(label):
        yield from _of_rows(label, student, written)
    elif late:
        yield (
            ("label", "checkpoints"),
            f"label.checkpoints has {late[0]}, beyond label.queries = {label.queries}",
        )
    yield from _of_data(recipe)
    if needed(student.methods).trial:
        yield from _of_auto(recipe, written)
    order = get_args(Metric)
    beyond = [
        name
        for name in student.methods
        if (metric := METHODS[name].metric) and order.index(metric) > order.index(label.metric)
    ]
    if beyond:
        most = needed(beyond).metric
        yield (
            ("student", "methods"),
            f"student.methods has {beyond[0]!r}, but label.metric = {label.metric!r} does not"
            f" measure it; set label.metric = {most!r}",
        )
    if needed(student.methods).grown and recipe.grow.per_image:
        yield from _growth(recipe.grow)
    yield from _student(student)
    yield from _stop(recipe)


def _stop(recipe: Recipe) -> Iterator[Problem]:
    """Yield a rule that has nothing to stop."""
    needs = needed(recipe.student.methods)
    if recipe.stop is None:
        return
    text = "ends the asking of new images and of pseudo samples in rounds"
    if not (needs.trial or needs.grown or needs.pseudo):
        methods = ", ".join(f'"{name}"' for name in recipe.student.methods)
        yield ("stop",), f"stop {text}; student.methods = [{methods}] asks none, so remove it"
    elif needs.pseudo and recipe.synthesis.way == "ascent":
        yield ("stop",), f'stop {text}; synthesis.way = "ascent" has no rounds, so remove it'


def _student(student: StudentConfig) -> Iterator[Problem]:
    kinds = [name for name in ("network", "factory", "timm") if getattr(student, name) is not None]
    if not kinds:
        yield ("student",), "'network' is missing in [student]; or name a factory, or a timm model"
    elif len(kinds) > 1:
        text = f"student.{kinds[1]} and student.{kinds[0]} are both given; choose one"
        yield ("student", kinds[1]), text
    elif kinds[0] != "network" and student.width != StudentConfig().width:
        text = f"student.width has no effect with student.{kinds[0]}; remove it"
        yield ("student", "width"), text
    several: dict[str, tuple[Any, ...]] = {"methods": student.methods, "seeds": student.seeds}
    for name, members in several.items():
        if len(set(members)) < len(members):
            text = f"student.{name} is {list(members)}; name each once"
            yield ("student", name), text


def _of_rows(label: Search, student: StudentConfig, written: Container[str]) -> Iterator[Problem]:
    """Yield settings of a search row by row that a recipe with a joint search contains."""
    by_default = "strategy" not in written
    if label.queries != Search().queries or (by_default and "queries" in written):
        yield (
            ("label", "queries"),
            f"label.queries = {label.queries} counts for each class, row by row; set label.strategy"
            ' = "rows", or label.per_image instead',
        )
    if label.checkpoints:
        yield (
            ("label", "checkpoints"),
            "label.checkpoints count the queries of one sample and class, row by row; set"
            ' label.strategy = "rows", or remove them',
        )
    if "bd" in student.methods:
        yield (
            ("student", "methods"),
            'student.methods has "bd", which label.strategy = "joint", the default, does not'
            ' measure; set label.strategy = "rows"',
        )


def _of_auto(recipe: Recipe, written: Container[str]) -> Iterator[Problem]:
    """Yield what cannot go with method "auto", whose use of the answers a trial decides."""
    methods, label = recipe.student.methods, recipe.label
    others = [name for name in methods if name not in ("auto", "ce")]
    if others:
        yield (
            ("student", "methods"),
            f'student.methods has "auto" and "{others[0]}", but "auto" buys one thing only; name'
            ' "auto" alone, or the others',
        )
    if not is_joint(label):
        yield (
            ("student", "methods"),
            f'label.metric = "{label.metric}" with label.strategy = "{label.strategy}" cannot be'
            ' used by student.methods = ["auto"], the default; set student.methods ='
            f' ["{label.metric}"]',
        )
    elif label.per_image != Search().per_image or "per_image" in written:
        yield ("label", "per_image"), _no_use("label.per_image")
    if recipe.grow.per_image != Grow().per_image:
        yield ("grow", "per_image"), _no_use("grow.per_image")


def _of_folders(recipe: Recipe) -> Iterator[Problem]:
    """Yield what would be written where nobody looks for it, or between images."""
    for key, name in ((("run",), recipe.run), (("teacher", "store"), recipe.teacher.store)):
        if name is not None and Path(name).parts[:1] == ("~",):
            text = f'{".".join(key)} is "{name}", and "~" would be a folder of that name'
            yield key, f"{text}; write the whole path"
    data, here = recipe.data, Path(normpath(recipe.run))
    for what, images in (("data.train", data.train), ("data.test", data.test)):
        if images is not None and Path(normpath(images)) == here:
            text = f'run is "{recipe.run}", the folder of the images of {what}'
            yield ("run",), f"{text}; give the run a folder of its own"
            return


def _of_data(recipe: Recipe) -> Iterator[Problem]:
    """Yield what cannot go with own images, or cannot go without them."""
    data, methods = recipe.data, recipe.student.methods
    others = [name for name in methods if METHODS[name].own_images != (data.train is not None)]
    if others and data.train is None:
        text = f"student.methods has {others[0]!r}, which needs own images; set data.train"
        yield ("student", "methods"), f'{text}, or take "pseudo"'
    elif others:
        text = f"student.methods has {others[0]!r}, which does not use own images"
        yield ("student", "methods"), f"{text}; remove data.train, or take another method"
    if data.train is not None:
        return
    synthesis = recipe.synthesis
    if (synthesis.way in WITH_IMAGES) != (synthesis.images is not None):
        way = synthesis.way if synthesis.way in WITH_IMAGES else WITH_IMAGES[0]
        text = f'synthesis.way = "{way}" and synthesis.images, a data set, need each other'
        yield ("synthesis",), text
    if synthesis.way == "ascent" and synthesis.ensemble_labels:
        text = 'synthesis.ensemble_labels has no effect with synthesis.way = "ascent"; remove it'
        yield ("synthesis", "ensemble_labels"), text
    if data.test is None and (data.size is None or data.channels is None):
        text = "'train' is missing in [data]; without own images set 'test', or 'size' and"
        yield ("data",), f"{text} 'channels' of the images that are made"
    if data.samples is not None:
        yield ("data", "samples"), "data.samples has no effect without data.train; remove it"
    teacher = recipe.teacher
    if teacher.training is not None and teacher.data is None:
        text = "'data' is missing in [teacher]; without data.train a teacher is trained on it"
        yield ("teacher",), text


def _no_use(name: str) -> str:
    return (
        f'{name} has no effect with student.methods = ["auto"], the default; set spend.per_image,'
        " or name the methods"
    )


def _growth(grow: Grow) -> Iterator[Problem]:
    if not grow.augmentations:
        text = "grow.augmentations is empty, so nothing new can be made; name some, or set"
        yield ("grow", "augmentations"), f"{text} grow.per_image = 0"
    if len(set(grow.augmentations)) < len(grow.augmentations):
        yield (
            ("grow", "augmentations"),
            f"grow.augmentations is {list(grow.augmentations)}; name each once",
        )


def _teacher(teacher: TeacherConfig) -> Iterator[Problem]:
    low, high = teacher.bounds
    if low >= high:
        text = f"teacher.bounds is [{low}, {high}]; give the lower bound, then the higher"
        yield ("teacher", "bounds"), text
    if teacher.remote is not None and teacher.remote.pattern is not None:
        try:
            compiled(teacher.remote.pattern)
        except InputError as error:
            yield ("teacher", "remote", "pattern"), f"teacher.remote.pattern: {error}"
    yield from _of_kind(teacher)
    yield from _finding(teacher)
    if teacher.bounds != TeacherConfig(kind=teacher.kind).bounds:
        yield from _units(teacher)


def _finding(teacher: TeacherConfig) -> Iterator[Problem]:
    """Yield what has a meaning only where classes are found, or only where they are known."""
    named = teacher.remote is not None and bool(teacher.remote.names.names)
    if (teacher.classes is not None or named) and teacher.most_classes != MOST_CLASSES:
        text = "teacher.most_classes has no effect where the classes are given; remove it"
        yield ("teacher", "most_classes"), text


def _of_kind(teacher: TeacherConfig) -> Iterator[Problem]:
    """Yield what a teacher of this kind lacks, or has no use for."""
    needed = _NEEDS[teacher.kind]
    for name in needed:
        if getattr(teacher, name) is None:
            text = f"{name!r} is missing in [teacher]; kind = {teacher.kind!r} needs it"
            yield ("teacher",), text
    more = {"network": ("width", "training", "data"), "onnx": ("output",), "torch": ("output",)}
    useful = {*needed, *more.get(teacher.kind, ())}
    if teacher.kind != "remote":
        useful |= {"encoding", "unknown"}
    if "factory" in needed:
        useful.add("arguments")
    if teacher.kind in ("remote", "function"):
        useful.add("most_classes")
    defaults = TeacherConfig(kind=teacher.kind)
    names = ("factory", "file", "network", "width", "weights", "training", "data")
    for name in (
        *names, "arguments", "remote", "encoding", "output", "unknown", "most_classes"
    ):  # fmt: skip
        if name not in useful and getattr(teacher, name) != getattr(defaults, name):
            there = {"encoding": "remote.encoding", "unknown": "remote.names.unknown"}
            advice = "remove it"
            if teacher.kind == "remote" and name in ("encoding", "output", "unknown"):
                advice = f"set teacher.{there.get(name, 'remote.output')} instead"
            text = f"teacher.{name} has no effect with kind = {teacher.kind!r}; {advice}"
            yield ("teacher", name), text


def _units(teacher: TeacherConfig) -> Iterator[Problem]:
    """Yield what cannot go with bounds other than 0 and 1."""
    encoding, low_high = teacher.encoding, list(teacher.bounds)
    if teacher.kind == "remote":
        text = (
            f"teacher.bounds is {low_high}, but images are always 0 to 1 here; remove it, and say"
        )
        yield ("teacher", "bounds"), f"{text} by teacher.remote.encoding what is sent"
    elif encoding is not None and (encoding.mean or encoding.std or encoding.scale != 1.0):
        text = "teacher.bounds and the scale or mean of teacher.encoding both say what is made of"
        yield ("teacher", "bounds"), f"{text} 0 and 1; remove one of them"
