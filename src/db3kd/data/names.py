"""Classes are names: lists of them from files, their order, and how two lists of them match."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from unicodedata import normalize

from db3kd.errors import InputError, plain

MOST_CLASSES = 100_000  # where no names say how many there are
SHOWN = 5  # names in a message
MOST_BYTES = 2**24  # of a file of names


def read_names(file: str | Path) -> tuple[str, ...]:
    r"""The names of classes in a file, class 0 first.

    The file is a text of one name in each line, a JSON list, or a JSON table from class numbers to
    names. In a table a value may be a list, whose last entry is the name, as in the files that go
    with ImageNet.

    Raises:
        InputError: there is no such file, or it holds something else, or a name twice.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "names.txt"
    >>> file.write_text("cat\ndog\n")
    8
    >>> read_names(file)
    ('cat', 'dog')
    """
    path = Path(file)
    try:
        if not path.is_file():
            raise InputError(f"there is no file {path}; it is to name the classes")
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES:,} bytes; it is to name classes")
        text = content.decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            names = listed_names(json.loads(text))
        else:
            names = [line.strip() for line in text.splitlines()]
            while names and not names[-1]:
                names.pop()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); it names classes") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8; not JSON
        raise InputError(
            f"{path} does not name classes ({plain(error, 100)}); give a name in each line, or a"
            " JSON list"
        ) from None
    return check_names(names, str(path))


def check_names(names: Iterable[object], where: str) -> tuple[str, ...]:
    """Return names of classes as they are, if they can be such.

    Raises:
        InputError: fewer than two, an empty one, or one twice.

    >>> check_names(["cat", "cat"], "teacher.classes")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: teacher.classes has the name 'cat' twice; name each class once
    """
    found = tuple(names)
    seen: set[str] = set()
    for number, name in enumerate(found):
        if not isinstance(name, str):
            raise InputError(
                f"{where} has the {plain(type(name).__name__, 60)} {plain(name, 60)} as the name of"
                f" class {number}; give texts"
            )
        if not name:
            raise InputError(f"{where} has an empty name of class {number}; name each class")
        if name in seen:
            raise InputError(
                f"{where} has the name {plain(name, 60)!r} twice; name each class once"
            )
        seen.add(name)
    if len(found) < 2:
        raise InputError(f"{where} has {len(found)} names; a classifier has two classes or more")
    return tuple(map(str, found))  # those of NumPy are texts of their own kind


def listed_names(found: object) -> list[str]:
    """The names in a list, or in a table from class numbers to names.

    Raises:
        ValueError, TypeError: it is neither.

    >>> listed_names({"1": "dog", "0": "cat"}), listed_names([["n1", "cat"], ["n2", "dog"]])
    (['cat', 'dog'], ['cat', 'dog'])
    """
    if isinstance(found, dict):
        numbers = sorted(found, key=int)
        if [int(number) for number in numbers] != list(range(len(numbers))):
            raise ValueError("its numbers do not count from 0")
        found = [found[number] for number in numbers]
    if not isinstance(found, list):
        raise ValueError("no list of names")
    names = [entry[-1] if isinstance(entry, list) and entry else entry for entry in found]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a name is no text")
    return names


def number_of(name: str) -> int | None:
    """The whole number that a name is; None if it is none.

    >>> number_of("007"), number_of("7a"), number_of("-1")
    (7, None, None)
    """
    return int(name) if 0 < len(name) <= 18 and name.isascii() and name.isdecimal() else None


def all_whole(names: Collection[str]) -> bool:
    """Whether names are whole numbers, all of them: then whole numbers are looked up in them.

    >>> all_whole(["-1", "1"]), all_whole(["1", "x"]), all_whole([])
    (True, False, False)
    """
    return bool(names) and all(number_of(name.removeprefix("-")) is not None for name in names)


def composed(name: str) -> str:
    r"""A name in the one spelling of its letters that is usual (NFC of Unicode).

    Folders of a Mac may write an accent as a letter of its own; both look the same.

    >>> composed("e\u0301") == "\xe9"
    True
    """
    return normalize("NFC", name)


def in_order(names: Collection[str]) -> list[str]:
    """Names in their order: if all are whole numbers that of the numbers, otherwise that of text.

    >>> in_order(["10", "9", "0"]), in_order(["10", "9", "x"])
    (['0', '9', '10'], ['10', '9', 'x'])
    """
    numbers = {name: number_of(name) for name in names}
    if any(number is None for number in numbers.values()):
        return sorted(names)
    return sorted(names, key=lambda name: (numbers[name] or 0, name))


def folded(name: str) -> str:
    """A name without what people do not see: case, blanks around it, and how accents are kept.

    >>> folded(" Zo\u00eb") == folded("zoe\u0308")
    True
    """
    return composed(composed(name).strip().casefold())


def count_of(names: Sequence[str]) -> int:
    """How many classes a teacher has of whom nothing is known but the names of a set's classes.

    If all names are whole numbers, they are class numbers.

    >>> count_of(["cat", "dog"]), count_of(["2", "5"])
    (2, 6)
    """
    numbers = [number for name in names if (number := number_of(name)) is not None]
    if numbers and len(numbers) == len(names) and max(numbers) < MOST_CLASSES:
        return max(numbers) + 1
    return len(names)


def places(names: Sequence[str], theirs: Sequence[str] | None, count: int, what: str) -> list[int]:
    """For each class of a set the teacher's class that it is.

    - `names`: of the set's classes. `what` says in an error which set this is.
    - `theirs`: of the teacher's classes, if they are known. Then classes match by name, letter by
      letter or, if that leaves some out, as `folded`.
    - `count`: how many classes the teacher has.

    Names that are all whole numbers are class numbers, unless the teacher's names are such numbers
    themselves. Other names match a teacher without names in their order.

    Raises:
        InputError: a name that the teacher does not know, or more classes than it has.

    >>> places(["dog", "bird"], ["bird", "cat", "dog"], 3, "the own images")
    [2, 0]
    >>> places(["2", "0"], ["bird", "cat", "dog"], 3, "the own images")
    [2, 0]
    >>> places(["bird", "fox"], ["bird", "cat", "dog"], 3, "the test images")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the test images have a class 'fox', which the teacher does not know (it
    knows 'bird', 'cat', 'dog'); leave it out, or correct its name or teacher.classes
    """
    numbers = [number_of(name) for name in names]
    counted = [number for number in numbers if number is not None and number < count]
    if theirs is None:
        if len(counted) == len(names):
            return counted
        if len(names) > count:
            raise InputError(
                f"{what} have {len(names):,} classes, but the teacher has only {count:,}; leave out"
                " images of classes that it does not know"
            )
        return list(range(len(names)))
    exact = {name: place for place, name in enumerate(theirs)}
    if all(name in exact for name in names):
        return [exact[name] for name in names]
    if len(counted) == len(names) and any(number_of(name) is None for name in theirs):
        return counted
    alike = {folded(name): place for place, name in enumerate(theirs)}
    found = [exact.get(name, alike.get(folded(name))) for name in names]
    unknown = [name for name, place in zip(names, found, strict=True) if place is None]
    if unknown:
        raise InputError(
            f"{what} have {_listed(unknown, 'a class', 'classes')}, which the teacher does not know"
            f" (it knows {_few(theirs)}); leave {'it' if len(unknown) == 1 else 'them'} out, or"
            f" correct {'its name' if len(unknown) == 1 else 'their names'} or teacher.classes"
        )
    return [place for place in found if place is not None]


def _listed(names: Sequence[str], one: str, several: str) -> str:
    return f"{one if len(names) == 1 else several} {_few(names)}"


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(plain(name, 40)) for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN:,} more"
