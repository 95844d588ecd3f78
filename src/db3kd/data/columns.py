"""Columns of tables: which ones hold images and labels, and which classes labels name."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from db3kd.data.names import MOST_CLASSES, in_order, number_of
from db3kd.errors import InputError, plain

OF_LABELS = ("label", "labels", "fine_label", "class", "cls", "class_name", "category", "target")
"""Usual names of a column of labels."""

_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class Columns:
    """The names of the columns of images and of labels, where they are not the usual ones."""

    image: str | None = None
    label: str | None = None


Classed = tuple[Tensor, tuple[str, ...]]
"""Labels and the names of their classes."""


def column_of(
    names: Sequence[str], wanted: str | None, usual: Sequence[str], word: str, where: str
) -> str | None:
    """The column called `wanted`, or else the only one of a usual name; None if there is none.

    `word`: what it holds, "image" or "label", which is also how it is named in a recipe.

    Raises:
        InputError: `wanted` is not there, or several columns have usual names.

    >>> column_of(["id", "Label"], None, OF_LABELS, "label", "train.csv")
    'Label'
    >>> column_of(["class", "label"], None, OF_LABELS, "label", "train.csv")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: train.csv has the columns class, label; several could be the one of
    labels, so name it by label=
    """
    if wanted is not None:
        if wanted not in names:
            raise InputError(
                f"{where} has the columns {listed(names)}, but none called {plain(wanted, 60)!r};"
                f" name the one of {word}s by {word}="
            )
        return wanted
    found = [name for name in names if name.strip().casefold() in usual]
    if len(found) > 1:
        raise InputError(
            f"{where} has the columns {listed(names)}; several could be the one of {word}s, so name"
            f" it by {word}="
        )
    return found[0] if found else None


def tell_unlabelled(names: Sequence[str], image: str, where: str) -> None:
    """Say that none of the columns beside that of images is taken as labels."""
    others = [name for name in names if name.strip() and name != image]
    if others:
        _log.warning(
            "no column of %s is called as labels usually are, so its images have none; if one of %s"
            " holds them, name it by label=",
            plain(where),
            listed(others),
        )


def listed(names: Sequence[str]) -> str:
    """Names of columns as a part of a sentence."""
    return plain(", ".join(map(str, names)))


def of_numbers(labels: Any, names: tuple[str, ...], where: str) -> Classed:
    """Labels that are the numbers of classes, which are "0", "1" ... if they have no names.

    Raises:
        InputError: one is so large that it cannot count classes.

    >>> of_numbers(np.array([2, 0]), (), "train.parquet")
    (tensor([2, 0]), ('0', '1', '2'))
    """
    numbers = torch.from_numpy(np.asarray(labels).astype(np.int64))
    largest = int(numbers.max()) if len(numbers) else 0
    if not names and largest >= MOST_CLASSES:
        raise InputError(
            f"a label in {where} is {largest}, but labels count classes from 0, at most"
            f" {MOST_CLASSES:,}; number the classes, or give their names"
        )
    return numbers, names or tuple(map(str, range(largest + 1)))


def of_fractions(labels: Any, names: tuple[str, ...], where: str) -> Classed:
    """Labels that are whole numbers but kept as fractions, as in 2.0.

    Raises:
        InputError: one is not whole, or too large.
    """
    found = np.asarray(labels, dtype=np.float64)
    wrong = ~((found == np.floor(found)) & (np.abs(found) < 2**53))
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(
            f"label {at} in {where} is {found[at]:.6g}; give whole numbers or names of classes"
        )
    return of_numbers(found, names, where)


def of_names(labels: Sequence[str], where: str) -> Classed:
    """Labels that are the names of classes; names that are whole numbers are in their order.

    "-1" is the label -1, that is none, where all others are numbers.

    Raises:
        InputError: one is empty, or there are too many classes.

    >>> of_names(["dog", "cat", "dog"], "train.csv")
    (tensor([1, 0, 1]), ('cat', 'dog'))
    """
    different = {*labels}
    if "" in different:
        empty = sum(label == "" for label in labels)
        raise InputError(f"{empty:,} rows of {where} have no label; give one to every image")
    if len(different) > MOST_CLASSES:
        raise InputError(
            f"{where} names {len(different):,} classes, at most {MOST_CLASSES:,} can be; name the"
            " column of the classes by label="
        )
    numbers = {"-1": -1} if all(number_of(name) is not None for name in different - {"-1"}) else {}
    classes = in_order(different - numbers.keys())
    numbers |= {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[label] for label in labels]).long(), tuple(classes)
