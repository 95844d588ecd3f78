"""Types of numbers, and functions for every record of settings."""

import json
import operator
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from db3kd.errors import InputError, plain

Count = Annotated[int, msgspec.Meta(ge=1)]
Few = Annotated[int, msgspec.Meta(ge=1, le=1000)]  # of what takes memory, or time, each
Natural = Annotated[int, msgspec.Meta(ge=0)]
Above0 = Annotated[float, msgspec.Meta(gt=0)]
AtLeast0 = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Flips = Annotated[float, msgspec.Meta(ge=0, lt=0.5)]
MOST_CLASSES = 100  # that are found where nobody knows them, unless another number is said
Record = TypeVar("Record", bound=msgspec.Struct)


def validated(record: Record) -> Record:
    """Return the record unchanged if every value has the right type and range.

    Numbers of NumPy become those of Python.

    Raises:
        InputError: a value does not; the text names the field and what was expected.

    >>> from db3kd.config.settings import Training
    >>> validated(Training(epochs=0))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: Training: Expected `int` >= 1 - at `$.epochs`
    """
    kind = type(record).__name__
    if not isinstance(record, msgspec.Struct):
        raise InputError(
            f"the {plain(kind, 60)} {plain(record, 60)} is no record of settings; give one, such as"
            " Budget(queries=1000)"
        )
    others: list[object] = []

    def number(value: Any) -> int | float:
        others.append(value)
        return _number(value)

    try:
        found = msgspec.convert(msgspec.to_builtins(record, enc_hook=number), type(record))
    except (msgspec.ValidationError, TypeError) as error:
        raise InputError(f"{kind}: {plain(error)}") from None
    return found if others else record


def whole(value: Any, name: str) -> int:
    """A whole number, of Python or of NumPy, as one of Python.

    Raises:
        InputError: it is none.

    >>> whole("7", "seed")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: seed is the str '7'; give a whole number
    """
    try:
        return operator.index(value)
    except TypeError:
        kind = plain(type(value).__name__, 60)
        raise InputError(
            f"{name} is the {kind} {plain(value, 60)!r}; give a whole number"
        ) from None


def _number(value: Any) -> int | float:
    """A number of another library, such as NumPy, as one of Python."""
    try:
        return operator.index(value)
    except TypeError:
        return float(value)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line for each setting that differs between two resolved configurations.

    >>> differences({"label": {"queries": 1000}}, {"label": {"queries": 2000}, "seed": 1})
    ['label.queries: 1000 -> 2000', 'seed: (absent) -> 1']
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _leaves(values: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted name and the JSON text of every value."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{start}{key}.")
        else:
            yield start + key, json.dumps(value, sort_keys=True, ensure_ascii=False)
