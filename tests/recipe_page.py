"""docs/recipe.md, made from the records of settings and their docstrings."""

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec.inspect import Field, StructType, type_info

from db3kd.config.reading import PRESETS
from db3kd.config.recipe import Recipe
from db3kd.errors import InputError
from db3kd.student.networks import NAMES, blueprint

HEAD = """\
# Networks and recipes

Made by `make docs` from the program. [The tutorial](tutorial.md) has recipes to start from, and
`db3kd init` writes one.

## Networks

`student.network` is one of these, and `student.width` scales its layers. Weights are counted for 10
classes. [Students](students.md#a-student-of-your-own) may also be your own, or from timm.
"""
NETWORKS = {
    "small": ("not of the paper; two convolutions and a layer of 64", [(1, 8, 8)]),
    "lenet5": ("the paper's, as in its release", [(1, 28, 28)]),
    "lenet5_classic": ("LeCun et al., 1998; that of most other works", [(1, 28, 28)]),
    "alexnet": ("the paper's, for small images", [(3, 32, 32)]),
    "alexnet_small": ("that of most other works for small images", [(3, 32, 32)]),
    "resnet18": ("He et al., 2016", [(3, 32, 32), (3, 224, 224)]),
    "resnet34": ("He et al., 2016", [(3, 32, 32), (3, 224, 224)]),
    "resnet50": ("He et al., 2016", [(3, 32, 32), (3, 224, 224)]),
}
KEYS = """\
## Keys

Keys without a table come first in the file, then the tables in any order. Only "needed" ones must
be there. A dash means that nothing is set. `-s table.key=value` sets one for a single command.
"""


def page() -> str:
    found = tables("", type_info(Recipe))
    home = {kind.cls.__name__: path for path, kind in reversed(list(found))}
    texts = [section(path, kind, home) for path, kind in tables("", type_info(Recipe))]
    return "\n".join((HEAD, networks(), KEYS, *texts)).rstrip() + "\n"


def networks() -> str:
    rows = []
    for name in NAMES:
        source, shapes = NETWORKS[name]
        sizes = [
            f"{weights(name, shape):,} at {shape[1]} x {shape[2]}{', grey' * (shape[0] == 1)}"
            for shape in shapes
        ]
        side = smallest(name)
        rows.append((f"`{name}`", "; ".join(sizes), f"{side} x {side}", source))
    return table(("network", "weights", "smallest image", "from"), rows)


def weights(name: str, shape: tuple[int, int, int]) -> int:
    return sum(part.numel() for part in blueprint(name, shape, 10).parameters())


def smallest(name: str) -> int:
    for side in range(1, 64):
        try:
            blueprint(name, (1, side, side), 10)
        except InputError:
            continue
        return side
    raise AssertionError(name)


def tables(path: str, kind: StructType) -> Iterator[tuple[str, StructType]]:
    """Every table of a recipe, each once; the long one of teachers comes last."""
    seen: set[type] = set()
    waiting = [(path, kind)]
    while waiting:
        path, kind = waiting.pop(0)
        if kind.cls in seen:
            continue
        seen.add(kind.cls)
        yield path, kind
        fields = sorted(kind.fields, key=lambda field: field.name == "teacher")
        inner = ((field, struct(field.type)) for field in fields)
        waiting[:0] = [
            (f"{path}.{field.name}".lstrip("."), found) for field, found in inner if found
        ]


def struct(kind: Any) -> StructType | None:
    kinds = getattr(kind, "types", (kind,))
    return next((some for some in kinds if isinstance(some, StructType)), None)


def section(path: str, kind: StructType, home: dict[str, str]) -> str:
    """A table of the recipe: the paragraphs and lists of its docstring, in their order."""
    fields = {field.name: field for field in kind.fields}
    text = inspect.cleandoc(kind.cls.__doc__ or "").partition("\n>>>")[0].strip()
    head = f"[{path}]" if path else "Keys of the file itself"
    parts = [f"### {head}\n"]
    rows: list[Sequence[str]] = []
    left: set[str] = set()
    for block in re.split(r"\n(?=- )|\n\n", text):
        bullet = re.match(r"- ((?:`\w+`(?:, )?)+): (.*)", block, flags=re.DOTALL)
        if bullet is None:
            parts += flushed(rows)
            parts.append(f"{worded(block, home)}\n")
            continue
        names = re.findall(r"`(\w+)`", bullet[1])
        left |= set(names)
        rows.append(row(path, [fields[name] for name in names], worded(bullet[2], home), home))
    missing = fields.keys() - left
    assert not missing, f"the docstring of {kind.cls.__name__} has no line on {missing}"
    parts += flushed(rows)
    for name, values in PRESETS.get(tuple(path.split(".")), {}).items():
        parts.append(f'`preset = "{name}"` sets {settings(values)}.\n')
    return "\n".join(parts)


def settings(values: Any) -> str:
    return ", ".join(f"`{name} = {json.dumps(value)}`" for name, value in values.items())


def row(path: str, several: Sequence[Field], meaning: str, home: dict[str, str]) -> Sequence[str]:
    """A line of the docstring, which may be about several keys."""
    kinds, defaults = [], []
    for field in several:
        inner, where = struct(field.type), f"{path}.{field.name}".lstrip(".")
        place = "" if inner is None else home[inner.cls.__name__]
        as_another = f" as [{place}]" if place != where else ""
        others = (k for k in getattr(field.type, "types", ()) if inner and not struct(k))
        also = [typed(kind) for kind in others if type(kind).__name__ != "NoneType"]
        table_or = " or ".join([f"a table{as_another}", *also])
        kinds.append(typed(field.type) if inner is None else table_or)
        defaults.append(default(field, inner is not None))
    kinds, defaults = ([some[0]] if len(set(some)) == 1 else some for some in (kinds, defaults))
    names = [f"`{field.name}`" for field in several]
    return *("<br>".join(some) for some in (names, kinds, defaults)), meaning


def default(field: Field, inner: bool) -> str:
    if field.required:
        return "needed"
    value = field.default
    if inner or value in (None, "", ()) or value is msgspec.NODEFAULT:
        return "—"
    return f"`{json.dumps(value)}`"


def typed(kind: Any) -> str:
    """A type in words, with its range or choices."""
    found = type(kind).__name__
    if found == "UnionType":
        return " or ".join(typed(some) for some in kind.types if type(some).__name__ != "NoneType")
    if found == "LiteralType":
        return ", ".join(f"`{json.dumps(value)}`" for value in kind.values)
    if found == "TupleType":
        return f"{len(kind.item_types)} of: {typed(kind.item_types[0])}"
    if found == "VarTupleType":
        exactly = kind.min_length and kind.min_length == kind.max_length
        return f"{kind.min_length if exactly else 'list'} of: {typed(kind.item_type)}"
    if found == "DictType":
        return f"table of: {typed(kind.value_type)}"
    words = {"StrType": "text", "BoolType": "true or false"}
    return words.get(found) or numbers(kind, "number" if found == "FloatType" else "whole number")


def numbers(kind: Any, what: str) -> str:
    limits = {"above": kind.gt, "from": kind.ge, "below": kind.lt, "to": kind.le}
    words = [f"{word} {limit:g}" for word, limit in limits.items() if limit is not None]
    return " ".join((what, *words))


def worded(text: str, home: dict[str, str]) -> str:
    """Text of a docstring as a reader of recipes knows things: tables by their names, links."""
    one = " ".join(text.split())
    one = re.sub(r"`docs/(\w+)\.md`", r"[\1](\1.md)", one)
    named = {name: path for name, path in home.items() if path}
    return re.sub(
        r"`(\w+)(?:\.(\w+))?`",
        lambda at: (
            at[0]
            if at[1] not in named
            else f"`{named[at[1]]}.{at[2]}`"
            if at[2]
            else f"`[{named[at[1]]}]`"
        ),
        one,
    )


def flushed(rows: list[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield table(("key", "what it takes", "default", "meaning"), rows)
        rows.clear()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in x)} |\n" for x in lines)
