"""The classes of a teacher on this machine: how many, what they are called, what an answer means.

All adapters read answers by the one rule that is written here.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.data.names import all_whole, check_names, composed, number_of
from db3kd.errors import InputError, TeacherError, plain
from db3kd.teachers.base import check_answers, check_classes

Unknown = Literal["refuse", "drop", "other"]
NOBODY = "nobody says how many classes the teacher has; set teacher.classes"
OTHER = "unknown"  # what the class of unknown answers is called
POLICY = 'set unknown to "drop" or "other"'


@dataclass(frozen=True)
class Told:
    """What a model itself says of its classes.

    - `width`: how many scores it gives for an image, or how many labels it has.
    - `labels`: the answers that it gives, those of its first class first.
    - `names`: what its classes are called, if not by its answers.

    >>> Told(labels=("cat", "dog")).count
    2
    """

    width: int | None = None
    labels: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None

    @property
    def count(self) -> int | None:
        """How many classes it has; None if it does not say."""
        return self.width if self.labels is None else len(self.labels)


@dataclass(frozen=True)
class Classes:
    """The classes of a teacher, and how its answers are read.

    Without names, whole numbers are class indices, as numbers or as text. With names, text is
    looked up; whole numbers are class indices all the same, unless every name is itself a whole
    number. `labels` are the model's own words for its classes, if it has other than the names.

    An answer that is unknown is -1, None, or a text that is no name. It is an error ("refuse"), or
    one class more, the last: `count` has it. With "drop" that class is `unsure`, with "other" it is
    called "unknown".

    Raises:
        InputError: fewer than two classes, or names or labels that cannot be.

    >>> pets = Classes(2, ("cat", "dog"), unknown="drop")
    >>> pets.indices(["dog", "cow", "cat", None], 4), pets.count, pets.unsure, pets.called
    (tensor([1, 2, 0, 2]), 3, 2, ('cat', 'dog'))
    """

    known: int
    names: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    unknown: Unknown = "refuse"

    def __post_init__(self) -> None:
        check_classes(self.known)
        if self.unknown not in ("refuse", "drop", "other"):
            raise InputError(
                f'unknown is {plain(self.unknown, 60)!r}; expected "refuse", "drop" or "other"'
            )
        if self.unknown == "other" and OTHER in (self.names or ()):
            raise InputError(
                f'classes has the name {OTHER!r}, which unknown = "other" adds; remove it'
            )

    @property
    def count(self) -> int:
        """The number of classes of the teacher: one more where unknown answers are a class."""
        return self.known + (self.unknown != "refuse")

    @property
    def unsure(self) -> int | None:
        """The class of answers to be dropped; None if there is none."""
        return self.known if self.unknown == "drop" else None

    @property
    def called(self) -> tuple[str, ...] | None:
        """The names that the teacher says (`db3kd.teachers.base.names_of`)."""
        if self.names is None or self.unknown != "other":
            return self.names
        return (*self.names, OTHER)

    @property
    def width(self) -> int:
        """How many scores the model gives for an image."""
        return self.known if self.labels is None else len(self.labels)

    def of_scores(self, places: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """The classes of the model's own numbers: that of its highest score, -1 for an unknown one.

        >>> Classes(3, ("dog", "cow", "cat"), labels=("cat", "dog")).of_scores(torch.tensor([0, 1]))
        tensor([2, 0])
        """
        places = places.long()
        if self.labels is not None:
            order = [*(self._words[label] for label in self.labels), -1]
            places = torch.tensor(order, device=places.device)[places]
        return self._settled(places)

    def indices(self, answers: object, asked: int) -> Int[Tensor, " row"]:
        """The classes of the answers to so many images, each below `count`.

        Raises:
            TeacherError: a wrong number of answers, or one that is no class.

        >>> Classes(2).indices([1, "0"], 2), Classes(2, ("7", "9")).indices([9, 7], 2)
        (tensor([1, 0]), tensor([1, 0]))
        """
        answers = listed(answers)
        texts = texts_in(answers)
        if texts is not None:
            if len(texts) != asked:
                raise TeacherError(
                    f"the teacher answered {len(texts)} names to {asked} image(s); one for each"
                    " image is expected"
                )
            known = {answer: self._place(answer) for answer in dict.fromkeys(texts)}
            return self._settled(torch.tensor([known[answer] for answer in texts]))
        if self._numbered:  # check_answers looks at the range; here the names do
            answers = check_answers(answers, asked=asked, classes=None)
            found = torch.unique(answers)
            words = [self._place(number) for number in found.tolist()]
            places = torch.tensor(words, device=answers.device)[torch.searchsorted(found, answers)]
            return self._settled(places) if asked else answers
        if self.unknown == "refuse":
            return check_answers(answers, asked=asked, classes=self.known)
        answers = check_answers(answers, asked=asked, classes=None)
        none = answers == -1
        check_answers(answers.masked_fill(none, 0), asked=asked, classes=self.known)
        return self._settled(answers)

    @cached_property
    def _words(self) -> dict[str, int]:
        """The class of each text that may be answered."""
        names = {name: place for place, name in enumerate(self.names or ())}
        if self.labels is None or set(self.labels) <= names.keys():
            return names
        return {label: place for place, label in enumerate(self.labels)}

    @cached_property
    def _composed(self) -> dict[str, int]:
        """The same, whatever the spelling of accents."""
        return {composed(word): place for word, place in self._words.items()}

    @cached_property
    def _numbered(self) -> bool:
        """Whether whole numbers are looked up as names."""
        return all_whole(self._words)

    def _place(self, answer: object) -> int:
        """The class of one answer; -1 if that is unknown, which is an error if it is refused."""
        if isinstance(answer, str):
            place = self._words.get(answer, self._composed.get(composed(answer)))
            if place is None and not self._words:
                place = number_of(answer)
                place = place if place is not None and place < self.known else None
        elif answer is None:
            place = None
        else:
            number = _whole(answer)
            if not self._numbered and number != -1:
                check_answers([number], asked=1, classes=self.known)
                return number
            place = self._words.get(str(number))
        if place is None and self.unknown == "refuse":
            raise TeacherError(self._advice(answer))
        return -1 if place is None else place

    def _settled(self, places: Tensor) -> Tensor:
        """Places with the class of unknown answers instead of -1."""
        if self.unknown == "refuse":
            if bool((places < 0).any()):
                raise TeacherError(f"the teacher answered a class that is unknown; {POLICY}")
            return places
        return places.masked_fill(places < 0, self.known)

    def _advice(self, answer: object) -> str:
        shown = repr(plain(answer, 60)) if isinstance(answer, str) else plain(answer, 60)
        if self._words:
            text = f"the teacher answered {shown}, which is none of the {len(self._words)} names"
            return f"{text}; add it to classes, or {POLICY}"
        text = f"the teacher answered {shown}, and class indices below {self.known} are expected"
        return f"{text}; map names to class indices, or give the names as classes, or {POLICY}"


def read_said(said: object) -> tuple[int | None, tuple[str, ...] | None]:
    """What a user says of a teacher's classes: how many there are, or their names, or neither.

    Raises:
        InputError: it is something else, or these cannot be names.

    >>> read_said(10), read_said(["cat", "dog"])
    ((10, None), (2, ('cat', 'dog')))
    """
    if said is None:
        return None, None
    if isinstance(said, str):
        raise InputError(f"classes is the text {plain(said, 60)!r}; give a number, or the names")
    if isinstance(said, Sequence | np.ndarray) and np.ndim(said) == 1:
        names = check_names(list(said), "classes")
        return len(names), names
    try:
        number = operator.index(said)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"classes is a {plain(type(said).__name__, 60)}; give a number, or a list of the names"
            " in the teacher's order"
        ) from None
    check_classes(number)
    return number, None


def classes_of(
    said: object,
    told: Told | None = None,
    *,
    unknown: Unknown = "refuse",
    otherwise: int | Sequence[str] | None = None,
) -> Classes:
    """The classes of a teacher: what the user says, or else the model, or else `otherwise`.

    Names that the user says are in the order of the model's scores, unless they include all labels
    of the model: then their order is the user's.

    `said`, `otherwise`: a number, names, or None (`read_said`).

    Raises:
        InputError: nobody says how many, or the user says what the model contradicts.

    >>> classes_of(None, Told(labels=("cat", "dog"))).names
    ('cat', 'dog')
    >>> classes_of(10, Told(width=3))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: classes says 10, but the model has 3; correct it, or leave it out
    """
    told = told or Told()
    number, names = read_said(said)
    count = told.count
    labels = told.labels
    if names is not None and labels is not None and set(labels) <= set(names):
        return Classes(len(names), names, labels, unknown)
    if number is not None and count is not None and number != count:
        of = f" ({_few(labels)})" if labels is not None else ""
        raise InputError(
            f"classes says {number:,}, but the model has {count:,}{of}; correct it, or leave it out"
        )
    number = count if number is None else number
    if names is None:
        fits = told.names is not None and number in (None, len(told.names))
        names = told.names if fits else labels
    if number is None and names is None:
        number, names = read_said(otherwise)
    number = len(names) if number is None and names is not None else number
    if number is None:
        raise InputError(NOBODY)
    return Classes(number, names, labels, unknown)


def _few(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(plain(label, 40)) for label in labels[:5])
    return shown if len(labels) <= 5 else f"{shown} ..."


def listed(answers: object) -> object:
    """Answers as they are, but a list instead of an array or a column of objects or texts.

    >>> listed(np.array(["cat", "dog"])), listed(np.array([["cat"], ["dog"]]))
    (['cat', 'dog'], ['cat', 'dog'])
    """
    if hasattr(answers, "__array__") and not isinstance(answers, Tensor):
        answers = np.asarray(answers)  # columns of tables, too
    if isinstance(answers, np.ndarray) and answers.dtype.kind in "OUST":
        return (answers[:, 0] if answers.shape[1:] == (1,) else answers).tolist()
    return answers


def texts_in(answers: object) -> list[Any] | None:
    """Answers one by one, if there are others than numbers among them; None if there are not.

    >>> texts_in(["cat", None, 2]), texts_in([1, 2])
    (['cat', None, 2], None)
    """
    if not isinstance(answers, list | tuple):
        return None
    if not any(answer is None or isinstance(answer, str | bytes) for answer in answers):
        return None
    return [_decoded(answer) for answer in answers]


def _decoded(answer: Any) -> Any:
    if isinstance(answer, bytes):
        return answer.decode(errors="replace")
    return answer if isinstance(answer, str | None) else _whole(answer)


def _whole(answer: Any) -> int:
    """A whole number of any type."""
    plain_answer: Any = answer.item() if isinstance(answer, np.generic | Tensor) else answer
    try:
        return operator.index(plain_answer)
    except (TypeError, ValueError, RuntimeError):
        raise TeacherError(
            f"the teacher answered {plain(type(answer).__name__, 60)} {plain(answer, 60)!r} among"
            " names; a name or a whole number is expected"
        ) from None


def texts_of(labels: Iterable[object]) -> tuple[str, ...]:
    """The labels of a model as texts: whole numbers without a fraction.

    >>> texts_of([0, 1.0, "cat", True])
    ('0', '1', 'cat', 'True')
    """
    return tuple(_text(label) for label in labels)


def _text(label: Any) -> str:
    label = label.item() if isinstance(label, np.generic) else label
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
