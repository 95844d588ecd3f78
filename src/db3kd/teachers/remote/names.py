"""What a teacher calls its classes, as class indices."""

import math
import re
from collections.abc import Iterator, Sequence

from db3kd.config.patterns import compiled
from db3kd.config.remote import Names
from db3kd.config.types import validated
from db3kd.data.names import all_whole, composed, number_of
from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import check_classes

LONGEST = 1000  # characters of a name
SEARCHED = 10_000  # characters of an answer in which a pattern is searched, at most
PAIRS = {**dict.fromkeys("\"'`*_"), "\u2018": "\u2019", "\u201c": "\u201d", "\u00ab": "\u00bb"}
"""Signs that may be around a name, some of them Markdown's; None: the same one before and after."""
ENDS = " \t\r\n.,;:!?\u2026\u3002"
"""Signs that may follow a name."""


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


class Place(int):
    """The place of the best of several scores; `count` is how many there are.

    >>> place = Place(1, 3)
    >>> place == 1, place.count
    (True, 3)
    """

    count: int

    def __new__(cls, place: int, count: int) -> "Place":
        """A whole number that remembers of how many."""
        made = super().__new__(cls, place)
        made.count = count
        return made


class Stray(str):
    """A key with the highest number of an object that hardly holds scores; a name if it is one."""

    __slots__ = ()


class LabelMap:
    """Turns answers into class indices, and learns new names where it may.

    Without names, whole numbers are class indices, as numbers or as text. With names, text is
    looked up; whole numbers are class indices all the same, unless every name is itself a whole
    number, or names are learned: then a number is looked up as text too. Text that is no name is
    looked up once more without the signs around it, and however its accents are spelt. With "other"
    and "drop", the last class is not one of the names. `learned`: names that were learned before,
    kept by the caller. `pattern`: what finds the name in an answer of text; several different ones
    in one answer are unknown. `finding`, with "extend": the last class is what can be no name, or
    finds no place any more. It costs no queries, and nothing is random.

    Raises:
        InputError: names that contradict each other or the number of classes; a pattern that is no
            regular expression.

    >>> labels = LabelMap(Names(names=("cat", "dog"), unknown="other"), classes=3)
    >>> [labels.index(answer) for answer in ("dog", "cow", "cat", 1)]
    [1, 2, 0, 1]
    >>> labels = LabelMap(Names(names=("cat", "dog"), unknown="drop"), 3, pattern="cat|dog")
    >>> [labels.index(answer) for answer in ("It is a dog.", "A cat or a dog.", "I cannot say.")]
    [1, 2, 2]
    >>> labels = LabelMap(Names(unknown="extend"), classes=2, finding=True)
    >>> [labels.index(answer) for answer in ("cat", "dog", None)]
    [0, 1, 1]
    """

    def __init__(
        self,
        names: Names,
        classes: int,
        learned: Sequence[str] = (),
        *,
        pattern: str | None = None,
        finding: bool = False,
    ) -> None:
        self._pattern = None if pattern is None else compiled(pattern)
        self._names, self._classes = validated(names), classes
        self._finding, self._room = finding, classes - finding
        self._learned: list[str] = []
        self._places: dict[str, int] = {}
        self._composed: dict[str, int] = {}  # the same, whatever the spelling of accents
        check_classes(classes)
        for name in names.names:
            self._add(name)
        self._check_count()
        self._as_text = names.unknown == "extend" or all_whole(names.names)
        if learned and names.unknown != "extend":
            raise InputError('names were learned before; keep unknown = "extend"')
        if len(names.names) + len(learned) > self._room:
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

    @property
    def known(self) -> tuple[str, ...] | None:
        """What all classes are called, but for "I do not know"; None if that is not known for good.

        >>> LabelMap(Names(names=("cat", "dog"), unknown="other"), classes=3).known
        ('cat', 'dog', 'unknown')
        """
        names, other = self._names.names, "unknown"
        if not names or self._names.unknown == "extend":
            return None
        while other in names:
            other += "_"
        return (*names, other) if self._names.unknown == "other" else names

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
        self._check_scores(answer)
        text = _text(answer)
        if self._pattern is not None and isinstance(answer, str):
            found = self._found(self._pattern, answer)
            text = found[0] if len(found) == 1 else None
            why = _why(found, len(answer))
        else:
            why = ""
        place = None if text is None else self._place(text, looked_up=isinstance(answer, str))
        if place is not None:
            return place
        if isinstance(answer, Stray):
            raise TeacherError(
                f"the teacher answered an object whose highest number is at {_shown(answer)}, which"
                " is no name of a class; path says where in a reply the label is"
            )
        if self._names.one_more:
            return self._classes - 1
        if self._names.unknown == "extend":
            return self._learn(text, answer, why)
        raise TeacherError(self._advice(answer, why))

    def _check_scores(self, answer: object) -> None:
        """Refuse the best of more or fewer scores than classes, which is the class of no one."""
        if not isinstance(answer, Place):
            return
        known = self._classes - self._names.one_more
        if answer.count > known or (answer.count < known and self._names.unknown != "extend"):
            raise TeacherError(
                f"the teacher answered {answer.count:,} scores for an image, and it was said to"
                f" have {known:,} classes; correct that, or set path to where in a reply the label"
                " is"
            )

    def _found(self, pattern: re.Pattern[str], text: str) -> list[str]:
        """What the pattern finds in a text: one word for each class, known or unknown."""
        words: dict[int | str, str] = {}
        for match in pattern.finditer(text) if len(text) <= SEARCHED else ():
            word = next(filter(None, match.groups()), match[0])
            if word:
                place = self._place(word, looked_up=True)
                words.setdefault(self._key(word) if place is None else place, word)
        return list(words.values())

    def _place(self, text: str, *, looked_up: bool) -> int | None:
        """The class of a text as it is, or else without the signs around it."""
        if len(text) > LONGEST:
            return None
        for tried in _bare(text):
            name = self._synonyms.get(self._key(tried), tried)
            place = self._of_name(name, looked_up=looked_up or name != tried)
            if place is not None:
                return place
        return None

    def _of_name(self, name: str, *, looked_up: bool) -> int | None:
        if self._as_text or (self._names.names and looked_up):
            key = self._key(name)
            return self._places.get(key, self._composed.get(composed(key)))
        known = len(self._names.names) or self._classes - self._names.one_more
        number = number_of(name)
        return number if number is not None and number < known else None

    def _learn(self, text: str | None, answer: object, why: str) -> int:
        name = None if text is None or len(text) > LONGEST else self._new(text)
        usable = bool(name) and storable(name or "")
        if self._finding and (not usable or len(self._places) == self._room):
            return self._classes - 1
        if not name or not usable:
            why = why or "which can be no name of a class"
            raise TeacherError(f"the teacher answered {_shown(answer)}, {why}")
        if len(self._places) == self._classes:
            raise TeacherError(
                f"the teacher answered {_shown(answer)}, and all {self._classes} classes have other"
                " names; it has more classes than was said"
            )
        self._add(name)
        self._learned.append(name)
        return len(self._places) - 1

    def _new(self, text: str) -> str:
        """What a new class is called: what the text is a synonym for, or itself without signs."""
        tried = list(_bare(text))
        meant = [self._synonyms[key] for one in tried if (key := self._key(one)) in self._synonyms]
        return meant[0] if meant else tried[-1] or text

    def _add(self, name: str) -> None:
        key = self._key(name)
        if not name or key in self._places:
            raise InputError(f"names must be different and not empty; {name!r} is not")
        self._composed.setdefault(composed(key), len(self._places))
        self._places[key] = len(self._places)

    def _key(self, name: str) -> str:
        return name.casefold() if self._names.ignore_case else name

    def _check_count(self) -> None:
        count, classes, one_more = len(self._places), self._classes, self._names.one_more
        fits = count + one_more == classes or not count
        if not fits and not (self._names.unknown == "extend" and count < classes):
            more = f' and one class for "{self._names.unknown}"' if one_more else ""
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

    def _advice(self, answer: object, why: str) -> str:
        said = f"the teacher answered {_shown(answer)},"
        if why:
            return f'{said} {why}; change the pattern, or set unknown to "drop" or "other"'
        if self._names.names:
            return (
                f"{said} which is none of the {len(self._places)} names; add it, or a synonym, or a"
                ' pattern that finds names in sentences, or set unknown to "drop" or "other"'
            )
        return (
            f"{said} and whole numbers from 0 to {self._classes - 1} are expected; give the names"
            " of the classes"
        )


def _bare(text: str) -> Iterator[str]:
    """A text as it is, without white space around it, and without other signs around it."""
    yield text
    yield text.strip()
    before = None
    while text != before:
        before, text = text, text.strip().rstrip(ENDS)
        if len(text) > 1 and text[0] in PAIRS and text[-1] == (PAIRS[text[0]] or text[0]):
            text = text[1:-1]
    yield text


def _why(found: Sequence[str], size: int) -> str:
    """Why what a pattern found is no name; "" if it found one."""
    if size > SEARCHED:
        return f"{size:,} characters, and a pattern is searched in {SEARCHED:,} at most"
    if len(found) > 1:
        return f"in which the pattern finds {_shown(found[0])} and {_shown(found[1])}"
    return "" if found else "in which the pattern finds no name"


def _text(answer: object) -> str | None:
    """A text as it is, and a whole number in decimal; None of anything else."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, float) and math.isfinite(answer) and answer.is_integer():
        answer = int(answer)
    return str(answer) if isinstance(answer, int) and answer.bit_length() <= 64 else None


def _shown(answer: object) -> str:
    if isinstance(answer, str):
        return repr(answer[:60])
    if isinstance(answer, int) and answer.bit_length() > 64:
        return "a huge number"
    if answer is None or isinstance(answer, int | float):
        return repr(answer)
    return f"a {type(answer).__name__}"
