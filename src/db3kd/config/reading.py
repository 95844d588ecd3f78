"""Reads a recipe from a file and checks all of it; errors name the file and the line."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from db3kd.config.checks import Problem, contradictions
from db3kd.config.methods import METHODS
from db3kd.config.quick import quick
from db3kd.config.recipe import _DEVICE, _FACTORY, _NAME, Recipe
from db3kd.config.secrets import secrets_of, without_secrets
from db3kd.config.settings import (
    PAPER,
    PAPER_ASCENT,
    PAPER_ASCENT_CIFAR10,
    PAPER_TRAINING,
    Search,
)
from db3kd.config.toml import Key, apply_override, lines_of, parse_toml, read_source
from db3kd.errors import RecipeError, plain

_PATTERNS = {
    _FACTORY: "'module:function'",
    _DEVICE: "a device, such as cpu, cuda or cuda:1",
    _NAME: "text without a NUL",
}
MOST = 10  # problems that are shown


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a TOML file and check all of it.

    `overrides`: texts such as "student.training.epochs=3", applied in order. The value is TOML. A
    word that is not a TOML value is taken as a string.

    Raises:
        RecipeError: the file cannot be read, or something in it is unknown, missing or impossible.
            There is one line for each problem. It begins with file and line, or with the override.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "recipe.toml"
    ...     _ = file.write_text('''
    ...         run = "runs/mnist"
    ...         data.train = "mnist"
    ...         teacher = {kind = "onnx", file = "teacher.onnx"}
    ...         student.network = "lenet5"
    ...     ''')
    ...     recipe = read_recipe(file, ["label.metric=bd", "student.methods=['ce', 'bd']"])
    >>> recipe.label.metric, recipe.student.methods
    ('bd', ('ce', 'bd'))
    """
    source = read_source(path)
    values, lines = parse_toml(source, path), lines_of(source)
    places = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        apply_override(override, values, places)
    try:
        return _checked(values, places, path)
    except RecursionError:
        raise RecipeError(f"{path}:1: tables lie too deep in each other") from None


def _checked(values: dict[str, Any], places: Mapping[Key, str], path: str | Path) -> Recipe:
    """The recipe of some tables, if nothing is wrong with them."""
    _refuse(_presets(values), places, path)
    _of_pseudo_by_default(values)
    _of_rows_by_default(values)
    _free_by_default(values)
    _arrays_by_default(values)
    _refuse(_wrong_keys_and_numbers(values, _KINDS, ()), places, path)
    try:
        recipe = msgspec.convert(values, Recipe)
    except msgspec.ValidationError as error:
        _refuse([_explained(str(error), values)], places, path)
        raise
    written = values.get("label", {}).keys()
    _refuse(contradictions(recipe, written), places, path)
    return quick(recipe) if recipe.quick else recipe


PRESETS: Mapping[Key, Mapping[str, Mapping[str, Any]]] = {
    ("label",): {"paper": PAPER},
    ("synthesis", "ascent"): {"paper": PAPER_ASCENT, "paper_cifar10": PAPER_ASCENT_CIFAR10},
    ("student", "training"): {"paper": PAPER_TRAINING},
    ("teacher", "training"): {"paper": PAPER_TRAINING},
}
"""What a `preset` stands for, by table of a recipe."""


def _presets(values: dict[str, Any]) -> Iterator[Problem]:
    """Replace each preset by its settings; settings that the recipe contains itself stay."""
    for key, known in PRESETS.items():
        around: Any = values
        for part in key[:-1]:
            around = around.get(part)
            if not isinstance(around, dict):
                break
        table = around.get(key[-1]) if isinstance(around, dict) else None
        if not isinstance(table, dict) or "preset" not in table:
            continue
        preset, name = table.pop("preset"), ".".join((*key, "preset"))
        if isinstance(preset, str) and preset in known:
            around[key[-1]] = {**known[preset], **table}
        elif preset != "default":
            given = plain(json.dumps(preset, default=str), 60)
            names = ", ".join(f'"{each}"' for each in known)
            text = f'{name} is {given}; expected {names} or "default"'
            yield (*key, "preset"), text


def _of_rows_by_default(values: dict[str, Any]) -> None:
    """If [label] asks for a search row by row, students learn from its metric by default."""
    label, student = values.get("label"), values.get("student")
    if not isinstance(label, dict) or not isinstance(student, dict) or "methods" in student:
        return
    metric = label.get("metric", Search().metric)
    if metric in ("sd", "bd") or label.get("strategy") == "rows":
        student["methods"] = [metric]


FREE = {"references", "shard"}
"""Keys of [label] that say how sample distances are measured, too."""


def _free_by_default(values: dict[str, Any]) -> None:
    """If students learn from "sd" at most, which is free, nothing beyond it is measured."""
    label, student = values.setdefault("label", {}), values.get("student")
    if not isinstance(label, dict) or not isinstance(student, dict):
        return
    methods = student.get("methods")
    if not isinstance(methods, list) or "sd" not in methods or label.keys() - FREE:
        return
    known = [row for name, row in METHODS.items() if name in methods]
    if all(not row.trial and row.metric in (None, "sd") for row in known):
        label["metric"] = "sd"


def _of_pseudo_by_default(values: dict[str, Any]) -> None:
    """Without own images, students learn from pseudo samples by default."""
    data, student = values.get("data"), values.get("student")
    if not isinstance(data, dict) or "train" in data or not isinstance(student, dict):
        return
    student.setdefault("methods", ["pseudo"])


def _arrays_by_default(values: dict[str, Any]) -> None:
    """A local teacher takes arrays, where a remote one takes files."""
    teacher = values.get("teacher")
    encoding = teacher.get("encoding") if isinstance(teacher, dict) else None
    if isinstance(encoding, dict):
        encoding.setdefault("kind", "float32")


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain JSON data, with every default written out.

    `msgspec.convert(resolved(recipe), Recipe)` gives the recipe again.

    Raises:
        RecipeError: the recipe was made in Python and holds an impossible value.

    >>> from db3kd.config.recipe import DataConfig, StudentConfig, TeacherConfig
    >>> recipe = Recipe(
    ...     run="runs/mnist",
    ...     data=DataConfig(train="mnist"),
    ...     teacher=TeacherConfig(kind="onnx", file="teacher.onnx"),
    ...     student=StudentConfig(network="lenet5"),
    ... )
    >>> resolved(recipe)["student"]["seeds"]
    [0]
    """
    values = msgspec.to_builtins(recipe)
    _refuse(_wrong_keys_and_numbers(values, _KINDS, ()), {}, "recipe")
    try:
        whole = msgspec.convert(values, Recipe)  # also turns 1 into 1.0 where needed
    except msgspec.ValidationError as error:
        _refuse([_explained(str(error), values)], {}, "recipe")
        raise
    _refuse(contradictions(whole), {}, "recipe")
    plain: dict[str, Any] = json.loads(msgspec.json.encode(whole))
    return plain


def told(recipe: Recipe) -> dict[str, Any]:
    """The same without secrets, as others may read it."""
    text = json.dumps(resolved(recipe))
    found: dict[str, Any] = json.loads(without_secrets(text, secrets_of([text])))
    if found["stop"] is None:
        del found["stop"]  # as in the summaries of earlier versions
    return found


def _refuse(problems: Iterable[Problem], places: Mapping[Key, str], path: str | Path) -> None:
    """Raise if there are problems; each names the place of its key or of the table around it."""
    texts: list[str] = []
    for key, text in problems:
        if len(texts) == MOST:
            texts.append(f"{path}: and more is wrong; this is the beginning")
            break
        around = (key[:length] for length in range(len(key), 0, -1))
        first = f"{path}:1" if places else str(path)
        place = next((places[some] for some in around if some in places), first)
        texts.append(f"{place}: {plain(text, 900)}")
    if texts:
        raise RecipeError("\n".join(texts))


_KINDS = inspect.type_info(Recipe)


def _wrong_keys_and_numbers(value: Any, kind: inspect.Type, key: Key) -> Iterator[Problem]:
    """Yield every unknown key, and every number that is not finite or needs more than 64 bits."""
    if isinstance(value, dict):
        known = _known(kind)
        for name, inner in value.items():
            if name in known:
                yield from _wrong_keys_and_numbers(inner, known[name], (*key, name))
            elif known:
                where = f"[{'.'.join(key)}]" if key else "the recipe"
                short = plain(name, 60)
                text = f"unknown key {short!r} in {plain(where, 200)}{_nearest(short, known)}"
                yield (*key, name), text
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _wrong_keys_and_numbers(inner, inspect.AnyType(), key)
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"{'.'.join(key)} is {value}; expected a finite number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        shown = str(value) if value.bit_length() < 200 else f"of {value.bit_length():,} bits"
        yield key, f"{'.'.join(key)} is {shown}; expected a number of 64 bits"


def _known(kind: inspect.Type) -> dict[str, inspect.Type]:
    """Return the names that a table of this kind may hold, with the kinds of their values."""
    if isinstance(kind, inspect.UnionType):
        return {name: some for part in kind.types for name, some in _known(part).items()}
    if isinstance(kind, inspect.StructType):
        return {field.name: field.type for field in kind.fields}
    if isinstance(kind, inspect.DictType) and isinstance(kind.key_type, inspect.LiteralType):
        return {str(name): kind.value_type for name in kind.key_type.values}
    return {}


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = get_close_matches(name, names, n=1)
    advice = f"; did you mean {near[0]!r}?" if near else ""
    return f"{advice} (known: {', '.join(names)})"


def _explained(error: str, values: dict[str, Any]) -> Problem:
    """Turn the text of a msgspec error into the key and a sentence that shows the wrong value."""
    text, _, path = error.partition(" - at `$")
    key = tuple(re.findall(r"\.([\w-]+)", path.partition("[...]")[0]))
    name = ".".join(key)
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing:
        return key, f"{missing[1]!r} is missing in {f'[{name}]' if key else 'the recipe'}"
    value: Any = values
    kind: inspect.Type = _KINDS
    for part in key:
        value, kind = value[part], _known(kind)[part]
    if text.startswith("Invalid enum value"):
        choices = [str(choice) for choice in _choices(kind)]
        wrong = plain(re.sub(r"^Invalid enum value ", "", text).strip("'"), 60)
        return key, f"{name} has no choice {wrong!r}{_nearest(wrong, choices)}"
    shown = plain(json.dumps(value, default=str, ensure_ascii=False), 200)
    expected = text.replace("Expected ", "expected ").replace("`", "").replace("object", "table")
    expected = expected.replace(" | null", "")  # TOML has no null
    for pattern, words in _PATTERNS.items():
        expected = expected.replace(f"str matching regex {pattern!r}", words)
    return key, f"{name} is {shown}; {expected}"


def _choices(kind: inspect.Type) -> tuple[Any, ...]:
    """Return the literals that a value of this kind, or a member of it, may be."""
    if isinstance(kind, inspect.LiteralType):
        return tuple(kind.values)
    if isinstance(kind, inspect.UnionType):
        return tuple(choice for part in kind.types for choice in _choices(part))
    if isinstance(kind, inspect.VarTupleType):
        return _choices(kind.item_type)
    return ()
