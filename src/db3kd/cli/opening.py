"""What a command says first: what it does, with what, and where everything goes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from db3kd.config.methods import needed
from db3kd.config.quick import most_images
from db3kd.config.reading import resolved
from db3kd.config.recipe import Recipe, TeacherConfig
from db3kd.config.settings import is_joint


def opening(version: str, verb: str, path: Path, recipe: Recipe) -> tuple[str, str, str]:
    """Three lines: the command, the job in words, and where it goes.

    >>> from db3kd.config.recipe import DataConfig, StudentConfig
    >>> recipe = Recipe(run="runs/mnist", data=DataConfig(train="mnist"),
    ...                 teacher=TeacherConfig(kind="onnx", file="t.onnx"),
    ...                 student=StudentConfig(network="lenet5", width=0.5, seeds=(0, 1)))
    >>> for line in opening("1.0", "run", Path("recipe.toml"), recipe):
    ...     print(line)
    db3kd 1.0: run recipe.toml
    own images from mnist; teacher: ONNX file t.onnx; students: lenet5 of width 0.5 by auto, 2
    seeds; no budget
    everything goes to runs/mnist; the same command again continues it
    """
    look = f" (a quick look: {recipe.student.training.steps} steps)" if recipe.quick else ""
    parts = (_images(recipe), _teacher(recipe.teacher), _students(recipe), _budget(recipe))
    where = f"everything goes to {recipe.run}; the same command again continues it"
    if verb in ("check", "answers"):
        where = f"the folder of the run is {recipe.run}; nothing in it is changed"
    return (
        f"db3kd {version}: {verb} {path}{look}",
        "; ".join(parts),
        where,
    )


def _images(recipe: Recipe) -> str:
    data = recipe.data
    if data.train is None:
        tests = "no test images" if data.test is None else f"test images from {data.test}"
        return f"no own images, {tests}"
    count = "" if data.samples is None else f"{data.samples:,} "
    if recipe.quick and data.samples is None:
        count = f"at most {most_images(recipe):,} "
    return f"{count}own images from {data.train}"


def _teacher(teacher: TeacherConfig) -> str:
    if teacher.kind == "remote" and teacher.remote is not None:
        where = urlsplit(teacher.remote.url)
        host = where.netloc.rpartition("@")[2] or teacher.remote.url
        return f"teacher: {host}, asked by {teacher.remote.protocol!r}"
    if teacher.kind == "network":
        return f"teacher: {teacher.network} with weights {teacher.weights}"
    if teacher.kind == "onnx":
        return f"teacher: ONNX file {teacher.file}"
    kinds = {"sklearn": "scikit-learn", "torch": "torch module", "function": "function"}
    return f"teacher: {kinds[teacher.kind]} {teacher.factory}"


def _students(recipe: Recipe) -> str:
    student = recipe.student
    what = str(student.network or student.timm or student.factory)
    if student.network is not None and student.width != 1:
        what += f" of width {student.width:g}"
    seeds = f"{len(student.seeds)} seed{'s' * (len(student.seeds) > 1)}"
    return f"students: {what} by {', '.join(student.methods)}, {seeds}"


def _budget(recipe: Recipe) -> str:
    words, budget, price = [], recipe.budget, recipe.teacher.price
    if budget.queries is not None:
        words.append(f"{budget.queries:,} queries")
    if budget.money is not None:
        words.append(f"{budget.money:,.2f} {price.currency if price else ''}".rstrip())
    return f"budget: {' and '.join(words)}" if words else "no budget"


def settings(recipe: Recipe) -> Iterator[str]:
    """All settings that have a use for this recipe, a line for each table.

    >>> from db3kd.config.recipe import DataConfig, StudentConfig
    >>> recipe = Recipe(run="runs/mnist", data=DataConfig(train="mnist"),
    ...                 teacher=TeacherConfig(kind="onnx", file="t.onnx"),
    ...                 student=StudentConfig(network="lenet5", methods=("ce",)))
    >>> [line.partition(":")[0] for line in settings(recipe)]
    ['recipe', 'data', 'teacher', 'student', 'student.training']
    """
    values = resolved(recipe)
    for *around, last in _useless(recipe):
        inner = values
        for name in around:
            inner = inner.get(name) or {}
        inner.pop(last, None)
    return _flat(values)


def _useless(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    """Settings, and tables of them, that change nothing for this recipe."""
    needs, label = needed(recipe.student.methods), recipe.label
    for table, used in (
        ("quick", recipe.quick),
        ("cluster", recipe.cluster.engine != "none"),
        ("spend", needs.trial),
        ("grow", needs.trial or needs.grown),
        ("label", needs.trial or needs.metric is not None),
        ("synthesis", needs.pseudo),
    ):
        if not used:
            yield (table,)
    if needs.trial:
        yield from (("grow", "per_image"), ("label", "per_image"))
    rows, joint = ("queries", "checkpoints", "flips"), ("per_image", "surrogate", "members")
    yield from (("label", name) for name in (rows if is_joint(label) else joint))
    if label.descent != "sign_opt":
        yield from (("label", "step"), ("label", "smoothing"))
    yield from _useless_of_synthesis(recipe)
    if recipe.teacher.kind != "network":
        yield ("teacher", "width")
    if recipe.teacher.kind == "remote":
        yield ("teacher", "unknown")
    if recipe.student.network is None:
        yield ("student", "width")
    if recipe.student.training.steps is not None:
        yield ("student", "training", "epochs")


def _useless_of_synthesis(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    synthesis = recipe.synthesis
    if synthesis.way != "ascent":
        yield ("synthesis", "ascent")
        return
    for name in synthesis.__struct_fields__:
        if name not in ("way", "ascent"):
            yield ("synthesis", name)


def _flat(values: dict[str, Any], table: str = "recipe") -> Iterator[str]:
    """A resolved recipe, one line for each table."""
    words = [
        f"{key}={json.dumps(value)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, dict)
    ]
    if words:
        yield f"{table}: {' '.join(words)}"
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, key if table == "recipe" else f"{table}.{key}")
