"""Recipes: one TOML file says what a run is made of, and is checked whole before anything runs.

`read_recipe` gives a frozen record or an error that names file and line; `resolved` gives it back
as plain data with every default written out, which a run folder keeps.
"""

import datetime
import json
import math
import re
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import inspect

from db3kd.errors import RecipeError
from db3kd.settings import (
    PAPER,
    PAPER_ASCENT,
    Above0,
    Budget,
    Count,
    Grow,
    Method,
    Metric,
    Natural,
    Noise,
    Price,
    Remote,
    Search,
    Spend,
    Synthesis,
    Training,
    at_once,
    is_grown,
    is_pseudo,
    metric_of,
)

_FACTORY = r"^\w+(\.\w+)*:\w+(\.\w+)*$"
_DEVICE = r"^[a-z]+(:[0-9]+)?$"
_PATTERNS = {_FACTORY: "'module:function'", _DEVICE: "a device, such as cpu, cuda or cuda:1"}

Text = Annotated[str, msgspec.Meta(min_length=1)]
Network = Literal["small", "lenet5", "alexnet", "resnet18", "resnet34", "resnet50"]
Key = tuple[str, ...]  # ("student", "training", "epochs")
Problem = tuple[Key, str]


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The images of a run.

    `train`, `test`: names of data sets as `db3kd.data.load` takes them; without `test` the test
    images are those of `train`; without `train` there are no own images, and students learn from
    pseudo samples. `train_split`, `test_split`: their splits. `samples`: how many training images
    are taken, at random with the recipe's seed; all without it. `test_samples`: likewise of the
    test images, each of which costs an answer. `size`, `channels`: what images are made into.
    `labels`: whose labels the cross-entropy term of Eq. 1 uses.

    >>> Data(train="mnist").test_split
    'test'
    """

    train: Text | None = None
    test: Text | None = None
    train_split: Text = "train"
    test_split: Text = "test"
    samples: Count | None = None
    test_samples: Count | None = None
    size: Count | None = None
    channels: Literal[1, 3] | None = None
    labels: Literal["truth", "teacher"] = "truth"


class Teacher(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The classifier that is asked.

    `kind` says which of the others are needed: "network" a `network` of the paper and `weights` (a
    safetensors file; where it is missing, the network is trained by `training` and saved there);
    "torch", "sklearn" and "function" a `factory`, "module:function", that returns the model, the
    estimator or the function; "onnx" a `file`; "remote" the table `remote`. `width`: of the
    network. `data`: what a network is trained on, without it `data.train`. `batch`: most images in
    one question. `bounds`: lowest and highest value that the teacher takes; of a remote one, of
    your images. `classes`: how many a remote teacher knows, if not as many as the data set.
    `store`: a file in which each answer is kept, so that none is paid twice; a remote teacher has
    one beside the folder of the run, others none. `price`: what answers cost. `noise`: what is done
    where it does not always say the same.

    >>> Teacher(kind="onnx", file="teacher.onnx").bounds
    (0.0, 1.0)
    """

    kind: Literal["network", "torch", "sklearn", "onnx", "function", "remote"]
    factory: Annotated[str, msgspec.Meta(pattern=_FACTORY)] | None = None
    file: Text | None = None
    network: Network | None = None
    width: Above0 = 1.0
    weights: Text | None = None
    training: Training | None = None
    data: Text | None = None
    batch: Count | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    remote: Remote | None = None
    classes: Annotated[int, msgspec.Meta(ge=2)] | None = None
    store: Text | None = None
    price: Price | None = None
    noise: Noise | None = None


class Student(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The networks that are trained: one for each of `methods` and each of `seeds`.

    `methods`: what they learn from, and so what is bought. "ce": the images and their answers;
    "grown": grown images too (`Grow`); "sd", "bd", "mbd": soft labels by that metric (`Search`);
    "mixed": soft labels by "mbd", and grown images; "auto": "grown" or "mbd", as a trial decides
    (`Spend`); no other than "ce" goes with it. "bd" needs a search row by row,
    `label.strategy = "rows"`; a recipe with such a search has its metric as the default. Without
    own images: "pseudo", pseudo samples with their answers (`Synthesis`), which is the default
    there, or "pseudo_mbd", with soft labels by their distances.

    >>> Student(network="lenet5", width=0.5).methods
    ('auto',)
    """

    network: Network
    width: Above0 = 1.0
    methods: Annotated[tuple[Method, ...], msgspec.Meta(min_length=1)] = ("auto",)
    seeds: Annotated[tuple[Natural, ...], msgspec.Meta(min_length=1)] = (0,)
    training: Training = Training()


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a run is made of.

    `run`: the folder of the run. `seed`: of everything drawn but the students. `device`: "cpu",
    "cuda", "cuda:1" and the like. Paths stay as they are written: relative ones start at the
    current directory.

    >>> recipe = Recipe(
    ...     run="runs/mnist",
    ...     data=Data(train="mnist"),
    ...     teacher=Teacher(kind="onnx", file="teacher.onnx"),
    ...     student=Student(network="lenet5"),
    ... )
    >>> recipe.student.methods, recipe.grow.choose, recipe.label.strategy
    (('auto',), 'doubt', 'together')
    """

    run: Text
    seed: Natural = 0
    device: Annotated[str, msgspec.Meta(pattern=_DEVICE)] = "cpu"
    data: Data
    teacher: Teacher
    budget: Budget = Budget()
    spend: Spend = Spend()
    grow: Grow = Grow()
    synthesis: Synthesis = Synthesis()
    label: Search = Search()
    student: Student


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a TOML file and check all of it.

    `overrides`: "student.training.epochs=3" and the like, applied in order. The value is TOML; a
    word that is no TOML value is a string.

    Raises:
        RecipeError: the file cannot be read, or something in it is unknown, missing or impossible.
            The text begins with file and line, or with the override; one line for each problem.

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
    source = _source(path)
    values, lines = _parse(source, path), _lines(source)
    places = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        _apply(override, values, places)
    _refuse(_presets(values), places, path)
    _of_pseudo_by_default(values)
    _of_rows_by_default(values)
    _refuse(_wrong_keys_and_numbers(values, _KINDS, ()), places, path)
    try:
        recipe = msgspec.convert(values, Recipe)
    except msgspec.ValidationError as error:
        _refuse([_explained(str(error), values)], places, path)
        raise
    written = values.get("label", {}).keys()
    _refuse(_contradictions(recipe, written), places, path)
    return recipe


def _presets(values: dict[str, Any]) -> Iterator[Problem]:
    """Replace each preset by what it stands for; what the recipe names itself stays."""
    for key, paper in ((("label",), PAPER), (("synthesis", "ascent"), PAPER_ASCENT)):
        around: Any = values
        for part in key[:-1]:
            around = around.get(part)
            if not isinstance(around, dict):
                break
        table = around.get(key[-1]) if isinstance(around, dict) else None
        if not isinstance(table, dict) or "preset" not in table:
            continue
        preset, name = table.pop("preset"), ".".join((*key, "preset"))
        if preset == "paper":
            around[key[-1]] = {**paper, **table}
        elif preset != "default":
            text = f'{name} is {json.dumps(preset)}; expected "paper" or "default"'
            yield (*key, "preset"), text


def _of_rows_by_default(values: dict[str, Any]) -> None:
    """Where [label] asks for a search row by row, its metric is what students learn from."""
    label, student = values.get("label"), values.get("student")
    if not isinstance(label, dict) or not isinstance(student, dict) or "methods" in student:
        return
    metric = label.get("metric", Search().metric)
    if metric in ("sd", "bd") or label.get("strategy") == "rows":
        student["methods"] = [metric]


def _of_pseudo_by_default(values: dict[str, Any]) -> None:
    """Where there are no own images, students learn from pseudo samples."""
    data, student = values.get("data"), values.get("student")
    if not isinstance(data, dict) or "train" in data or not isinstance(student, dict):
        return
    student.setdefault("methods", ["pseudo"])


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain JSON data, with every default written out.

    `msgspec.convert(resolved(recipe), Recipe)` is the recipe again.

    Raises:
        RecipeError: a record that was made in Python holds an impossible value.

    >>> recipe = Recipe(
    ...     run="runs/mnist",
    ...     data=Data(train="mnist"),
    ...     teacher=Teacher(kind="onnx", file="teacher.onnx"),
    ...     student=Student(network="lenet5"),
    ... )
    >>> resolved(recipe)["student"]["seeds"]
    [0]
    """
    values = msgspec.to_builtins(recipe)
    _refuse(_wrong_keys_and_numbers(values, _KINDS, ()), {}, "recipe")
    try:
        whole = msgspec.convert(values, Recipe)  # also makes the float 1.0 of a 1
    except msgspec.ValidationError as error:
        _refuse([_explained(str(error), values)], {}, "recipe")
        raise
    _refuse(_contradictions(whole), {}, "recipe")
    plain: dict[str, Any] = json.loads(msgspec.json.encode(whole))
    return plain


def to_json(recipe: Recipe) -> str:
    """Return `resolved` as canonical JSON text: the same for equal recipes.

    >>> recipe = Recipe(
    ...     run="runs/mnist",
    ...     data=Data(train="mnist"),
    ...     teacher=Teacher(kind="onnx", file="teacher.onnx"),
    ...     student=Student(network="lenet5"),
    ... )
    >>> json.loads(to_json(recipe)) == resolved(recipe)
    True
    """
    return json.dumps(resolved(recipe), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# Reading


def _source(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror or error}); give the path of a recipe, a TOML"
            " file"
        ) from None
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text; save the recipe as UTF-8") from None


def _parse(source: str, path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(source)
    except (ValueError, RecursionError) as error:
        text, _, place = str(error).rpartition(" (at ")
        found = re.match(r"line (\d+), column (\d+)\)", place)
        if found:
            raise RecipeError(f"{path}:{found[1]}: not TOML: {text} (column {found[2]})") from None
        line = source.rstrip("\n").count("\n") + 1
        raise RecipeError(f"{path}:{line}: not TOML: {text or error} (end of file)") from None


_TOKEN = re.compile(
    r'(?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
    r"|(?P<comment>\#[^\n]*)|(?P<open>[\[{])|(?P<close>[\]}])|(?P<end>\n)|[^\"'\#\[\]{}\n]+",
    re.DOTALL,
)
_PART = re.compile(r"""\s*([A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')\s*(\.?)""")


def _statements(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each statement of a valid TOML source, without comments."""
    line, first, depth, text = 1, 1, 0, ""
    for token in _TOKEN.finditer(source + "\n"):
        kind, word = token.lastgroup, token[0]
        depth += (kind == "open") - (kind == "close")
        if kind == "end" and depth == 0:
            if text.strip():
                yield first, text.strip()
            first, text = line + 1, ""
        elif kind != "comment":
            text += word
        line += word.count("\n")


def _lines(source: str) -> dict[Key, int]:
    """Return the line of every table and every key; keys of an inline table are on its line."""
    lines: dict[Key, int] = {}
    table: Key = ()
    for line, text in _statements(source):
        header = len(text) - len(text.lstrip("["))
        key = _dotted(text[header:])
        if header:
            table = key
        whole = key if header else (*table, *key)
        for length in range(1, len(whole) + 1):
            lines.setdefault(whole[:length], line)
        lines[whole] = line  # `[a]` after `[a.b]`
    return lines


def _dotted(text: str) -> Key:
    """Return the parts of the dotted key that a text starts with."""
    parts: list[str] = []
    at, more = 0, "."
    while more and (found := _PART.match(text, at)):
        part, more = found.groups()
        parts.append(tomllib.loads(f"part = {part}")["part"] if part[0] in "\"'" else part)
        at = found.end()
    return tuple(parts)


# Overrides


def _apply(override: str, values: dict[str, Any], places: dict[Key, str]) -> None:
    """Put the value of an override into the tables; its place is the override."""
    place = f"--set {override}"
    name, _, text = override.partition("=")
    if not re.fullmatch(r"\s*[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\s*", name) or not text.strip():
        raise RecipeError(f"{place}: give KEY=VALUE, such as student.training.epochs=3")
    key = tuple(name.strip().split("."))
    table = values
    for depth, part in enumerate(key[:-1], start=1):
        if part not in table:
            places[key[:depth]] = place
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{place}: {'.'.join(key[:depth])} is a value, no table")
    table[key[-1]] = _value(text.strip(), place)
    for other in [other for other in places if other[: len(key)] == key]:
        del places[other]
    places[key] = place


def _value(text: str, place: str) -> Any:
    """Parse a TOML value; what is none is a string, unless it was meant to be more."""
    try:
        values = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        if text[0] in "\"'[{":
            raise RecipeError(
                f"{place}: the value is not TOML; check quotes and brackets"
            ) from None
        return text
    value = values["value"]
    plain_word = isinstance(value, datetime.date | datetime.time) or len(values) > 1
    return text if plain_word else value


# Checks. Each gives the key that is wrong, and a sentence.


def _refuse(problems: Iterable[Problem], places: Mapping[Key, str], path: str | Path) -> None:
    """Raise if there are problems, each with the place of its key or of the table around it."""
    texts: list[str] = []
    for key, text in problems:
        around = (key[:length] for length in range(len(key), 0, -1))
        first = f"{path}:1" if places else str(path)
        texts.append(f"{next((places[some] for some in around if some in places), first)}: {text}")
    if texts:
        raise RecipeError("\n".join(texts))


_KINDS = inspect.type_info(Recipe)


def _wrong_keys_and_numbers(value: Any, kind: inspect.Type, key: Key) -> Iterator[Problem]:
    """Yield every unknown key, every number that is not finite or needs more than 64 bits."""
    if isinstance(value, dict):
        known = _known(kind)
        for name, inner in value.items():
            if name in known:
                yield from _wrong_keys_and_numbers(inner, known[name], (*key, name))
            elif known:
                where = f"[{'.'.join(key)}]" if key else "the recipe"
                text = f"unknown key {name!r} in {where}{_nearest(name, known)}"
                yield (*key, name), text
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _wrong_keys_and_numbers(inner, inspect.AnyType(), key)
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, f"{'.'.join(key)} is {value}; expected a finite number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield key, f"{'.'.join(key)} is {value}; expected a number of 64 bits"


def _known(kind: inspect.Type) -> dict[str, inspect.Type]:
    """Return the names that a table of this kind may hold, and the kinds of their values."""
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
    """Turn the text of a msgspec error into the key and a sentence that says what was got."""
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
        wrong = re.sub(r"^Invalid enum value ", "", text).strip("'")
        return key, f"{name} has no choice {wrong!r}{_nearest(wrong, choices)}"
    shown = json.dumps(value, default=str, ensure_ascii=False)
    expected = text.replace("Expected ", "expected ").replace("`", "").replace("object", "table")
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


_NEEDS: dict[str, tuple[str, ...]] = {
    "network": ("network", "weights"),
    "torch": ("factory",),
    "sklearn": ("factory",),
    "onnx": ("file",),
    "function": ("factory",),
    "remote": ("remote",),
}


def _contradictions(recipe: Recipe, written: Container[str] = ()) -> Iterator[Problem]:
    """Yield every pair of settings that cannot go together.

    `written`: the keys of [label] that the recipe names itself.
    """
    yield from _teacher(recipe.teacher)
    label, student = recipe.label, recipe.student
    late = [count for count in label.checkpoints if count > label.queries]
    if at_once(label):
        yield from _of_rows(label, student, written)
    elif late:
        yield (
            ("label", "checkpoints"),
            f"label.checkpoints has {late[0]}, beyond label.queries = {label.queries}",
        )
    yield from _of_data(recipe)
    if "auto" in student.methods:
        yield from _of_auto(recipe, written)
    order = get_args(Metric)
    needed = {name: metric for name in student.methods if (metric := metric_of(name))}
    beyond = [name for name in needed if order.index(needed[name]) > order.index(label.metric)]
    if beyond:
        most = max((needed[name] for name in beyond), key=order.index)
        yield (
            ("student", "methods"),
            f"student.methods has {beyond[0]!r}, but label.metric = {label.metric!r} does not"
            f" measure it; set label.metric = {most!r}",
        )
    if any(is_grown(name) for name in student.methods) and recipe.grow.per_image:
        yield from _growth(recipe.grow)
    several: dict[str, tuple[Any, ...]] = {"methods": student.methods, "seeds": student.seeds}
    for name, members in several.items():
        if len(set(members)) < len(members):
            text = f"student.{name} is {list(members)}; name each once"
            yield ("student", name), text


def _of_rows(label: Search, student: Student, written: Container[str]) -> Iterator[Problem]:
    """Yield what has a meaning row by row only, where all classes are searched at once."""
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
            'student.methods has "bd", which label.strategy = "together", the default, does not'
            ' measure; set label.strategy = "rows"',
        )


def _of_auto(recipe: Recipe, written: Container[str]) -> Iterator[Problem]:
    """Yield what cannot go with a student whose method a trial decides."""
    methods, label = recipe.student.methods, recipe.label
    others = [name for name in methods if name not in ("auto", "ce")]
    if others:
        yield (
            ("student", "methods"),
            f'student.methods has "auto", which buys one thing only, and "{others[0]}"; name "auto"'
            " alone, or the others",
        )
    if not at_once(label):
        yield (
            ("student", "methods"),
            f'label.metric = "{label.metric}" with label.strategy = "{label.strategy}" is nothing'
            ' that student.methods = ["auto"], the default, would buy; set student.methods ='
            f' ["{label.metric}"]',
        )
    elif label.per_image != Search().per_image or "per_image" in written:
        yield ("label", "per_image"), _no_use("label.per_image")
    if recipe.grow.per_image != Grow().per_image:
        yield ("grow", "per_image"), _no_use("grow.per_image")


def _of_data(recipe: Recipe) -> Iterator[Problem]:
    """Yield what cannot go with own images, or without."""
    data, methods = recipe.data, recipe.student.methods
    others = [name for name in methods if is_pseudo(name) == (data.train is not None)]
    if others and data.train is None:
        text = f"student.methods has {others[0]!r}, which needs own images; set data.train"
        yield ("student", "methods"), f'{text}, or take "pseudo"'
    elif others:
        text = f"student.methods has {others[0]!r}, which learns from no own images"
        yield ("student", "methods"), f"{text}; remove data.train, or take another method"
    if data.train is not None:
        return
    synthesis = recipe.synthesis
    if synthesis.way.startswith("unrelated") != (synthesis.images is not None):
        text = 'synthesis.way = "unrelated" and synthesis.images, a data set, need each other'
        yield ("synthesis",), text
    if synthesis.way == "ascent" and synthesis.unasked:
        text = 'synthesis.unasked has no use with synthesis.way = "ascent"; remove it'
        yield ("synthesis", "unasked"), text
    if data.test is None:
        yield ("data",), "'train' is missing in [data], or 'test' for a run without own images"
    if data.samples is not None:
        yield ("data", "samples"), "data.samples has no use without data.train; remove it"
    teacher = recipe.teacher
    if teacher.training is not None and teacher.data is None:
        text = "'data' is missing in [teacher]; without data.train a teacher is trained on it"
        yield ("teacher",), text


def _no_use(name: str) -> str:
    return (
        f'{name} has no use where student.methods is ["auto"], the default; set spend.per_image, or'
        " name the methods"
    )


def _growth(grow: Grow) -> Iterator[Problem]:
    if not grow.changes:
        text = "grow.changes is empty, so nothing new can be made; name some, or set"
        yield ("grow", "changes"), f"{text} grow.per_image = 0"
    if len(set(grow.changes)) < len(grow.changes):
        yield ("grow", "changes"), f"grow.changes is {list(grow.changes)}; name each once"


def _teacher(teacher: Teacher) -> Iterator[Problem]:
    low, high = teacher.bounds
    if low >= high:
        text = f"teacher.bounds is [{low}, {high}]; give the lower bound, then the higher"
        yield ("teacher", "bounds"), text
    needed = _NEEDS[teacher.kind]
    for name in needed:
        if getattr(teacher, name) is None:
            text = f"{name!r} is missing in [teacher]; kind = {teacher.kind!r} needs it"
            yield ("teacher",), text
    more = {"network": ("width", "training", "data"), "remote": ("classes",)}
    useful = {*needed, *more.get(teacher.kind, ())}
    defaults = Teacher(kind=teacher.kind)
    names = ("factory", "file", "network", "width", "weights", "training", "data")
    for name in (*names, "remote", "classes"):
        if name not in useful and getattr(teacher, name) != getattr(defaults, name):
            text = f"teacher.{name} has no use with kind = {teacher.kind!r}; remove it"
            yield ("teacher", name), text
