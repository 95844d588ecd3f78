"""What a teacher calls its classes, as class indices."""

import math
from collections.abc import Sequence

from db3kd.config.remote import Names
from db3kd.config.types import validated
from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import check_classes

LONGEST = 1000  # characters of a name


def storable(name: str) -> bool:
    r"""Whether a file can hold the name: there are half characters that no encoding has.

    >>> storable("cat"), storable("\ud800")
    (True, False)
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class LabelMap:
    """Turns answers into class indices, and learns new names where it may.

    Without names, whole numbers are class indices, as numbers or as text. With names, text is
    looked up; whole numbers are class indices all the same, unless every name is itself a whole
    number, or names are learned: then a number is looked up as text too. With "other", the last
    class is not one of the names. `learned`: names that were learned before, kept by the caller.
    It costs no queries, and nothing is random.

    Raises:
        InputError: names that contradict each other or the number of classes.

    >>> labels = LabelMap(Names(names=("cat", "dog"), unknown="other"), classes=3)
    >>> [labels.index(answer) for answer in ("dog", "cow", "cat", 1)]
    [1, 2, 0, 1]
    """

    def __init__(self, names: Names, classes: int, learned: Sequence[str] = ()) -> None:
        self._names, self._classes = validated(names), classes
        self._learned: list[str] = []
        self._places: dict[str, int] = {}
        check_classes(classes)
        for name in names.names:
            self._add(name)
        self._check_count()
        self._as_text = names.unknown == "extend" or (
            bool(names.names) and all(_whole(name) is not None for name in names.names)
        )
        if learned and names.unknown != "extend":
            raise InputError('names were learned before; keep unknown = "extend"')
        if len(names.names) + len(learned) > classes:
            raise InputError(f"{len(names.names) + len(learned)} names exceed {classes} classes")
        for name in learned:
            self._add(name)
            self._learned.append(name)
        self._synonyms = self._checked_synonyms()

    @property
    def learned(self) -> tuple[str, ...]:
        """The names that were learned, in the order in which they were met.

        >>> labels = LabelMap(Names(unknown="extend"), classes=3)
        >>> labels.index("cow"), labels.index("ant"), labels.index("cow"), labels.learned
        (0, 1, 0, ('cow', 'ant'))
        """
        return tuple(self._learned)

    def index(self, answer: object) -> int:
        """Return the class of an answer: text, or a whole number of any type.

        Raises:
            TeacherError: an answer that is unknown, or cannot be a class.

        >>> LabelMap(Names(), classes=3).index("2")
        2
        >>> LabelMap(Names(names=("cat", "dog")), classes=2).index("cow")
        Traceback (most recent call last):
        ...
        db3kd.errors.TeacherError: the teacher answered 'cow', which is none of the 2 names; ...
        """
        if isinstance(answer, bool) or not isinstance(answer, str | int | float | list | None):
            raise TeacherError(
                f"the teacher answered {_shown(answer)}, and a name or a whole number is expected"
            )
        text = _text(answer)
        name = None if text is None else self._synonyms.get(self._key(text), text)
        if name is not None:
            looked_up = isinstance(answer, str) or name != text
            place = self._place(name, looked_up=looked_up)
            if place is not None:
                return place
        if self._names.unknown == "other":
            return self._classes - 1
        if self._names.unknown == "extend":
            return self._learn(name, answer)
        raise TeacherError(self._advice(answer))

    def _place(self, name: str, *, looked_up: bool) -> int | None:
        if self._as_text or (self._names.names and looked_up):
            return self._places.get(self._key(name))
        known = len(self._names.names) or self._classes - (self._names.unknown == "other")
        number = _whole(name)
        return number if number is not None and number < known else None

    def _learn(self, name: str | None, answer: object) -> int:
        if name is None or not 0 < len(name) <= LONGEST or not storable(name):
            raise TeacherError(
                f"the teacher answered {_shown(answer)}, which can be no name of a class"
            )
        if len(self._places) == self._classes:
            raise TeacherError(
                f"the teacher answered {_shown(answer)}, and all {self._classes} classes have other"
                " names; it has more classes than was said"
            )
        self._add(name)
        self._learned.append(name)
        return len(self._places) - 1

    def _add(self, name: str) -> None:
        key = self._key(name)
        if not name or key in self._places:
            raise InputError(f"names must be different and not empty; {name!r} is not")
        self._places[key] = len(self._places)

    def _key(self, name: str) -> str:
        return name.casefold() if self._names.ignore_case else name

    def _check_count(self) -> None:
        count, classes, other = len(self._places), self._classes, self._names.unknown == "other"
        fits = count + other == classes or not count
        if not fits and not (self._names.unknown == "extend" and count < classes):
            more = ' and one class for "other"' if other else ""
            raise InputError(f"{count} names{more} do not make {classes} classes")

    def _checked_synonyms(self) -> dict[str, str]:
        synonyms = {self._key(word): name for word, name in self._names.synonyms.items()}
        if len(synonyms) != len(self._names.synonyms):
            raise InputError("two synonyms are the same word when case is ignored")
        for word, name in synonyms.items():
            if word in self._places:
                raise InputError(f"the synonym {word!r} is itself a name")
            known = self._key(name) in self._places or not self._names.names
            if not known and self._names.unknown != "extend":
                raise InputError(f"the synonym {word!r} stands for {name!r}, which is not a name")
        return synonyms

    def _advice(self, answer: object) -> str:
        if self._names.names:
            return (
                f"the teacher answered {_shown(answer)}, which is none of the {len(self._places)}"
                ' names; add it, or a synonym, or set unknown to "other"'
            )
        return (
            f"the teacher answered {_shown(answer)}, and whole numbers from 0 to"
            f" {self._classes - 1} are expected; give the names of the classes"
        )


def _text(answer: object) -> str | None:
    """A text as it is, and a whole number in decimal; None of anything else."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, float) and math.isfinite(answer) and answer.is_integer():
        answer = int(answer)
    return str(answer) if isinstance(answer, int) and answer.bit_length() <= 64 else None


def _whole(text: str) -> int | None:
    """The whole number that a text of at most 18 digits says."""
    digits = 0 < len(text) <= 18 and text.isascii() and text.isdecimal()
    return int(text) if digits else None


def _shown(answer: object) -> str:
    if isinstance(answer, str):
        return repr(answer[:60])
    if isinstance(answer, int) and answer.bit_length() > 64:
        return "a huge number"
    if answer is None or isinstance(answer, int | float):
        return repr(answer)
    return f"a {type(answer).__name__}"
