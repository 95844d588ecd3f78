"""Classes that nobody knows beforehand: the teacher's answers name them."""

import logging
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.types import MOST_CLASSES
from db3kd.errors import InputError, TeacherError, plain
from db3kd.teachers.base import Middleware, Teacher, check_answers, check_classes, met_of
from db3kd.teachers.classes import listed, texts_in
from db3kd.teachers.parts import Classes, Keeper, Rows, ask

LONGEST = 1000  # characters of a name
_log = logging.getLogger("db3kd")


class FoundClasses:
    """Places for `most` classes: each answer that was not met before takes the next.

    Whole numbers are names, too: class 7 may be the first that is met. -1, None, an empty text and
    what no file can hold mean "I do not know", the last class. So does a new name where all places
    are taken. `remember` is called with all names before an answer of a new class is returned.

    Raises:
        InputError: fewer than two places; or `unknown` is "other", which needs classes.

    >>> found = FoundClasses(2)
    >>> found.indices(["dog", "cat", "dog", None, "cow"], 5), found.met, found.count
    (tensor([0, 1, 0, 2, 2]), ('dog', 'cat'), 3)
    """

    called = None  # not for good

    def __init__(self, most: int = MOST_CLASSES, unknown: str = "refuse") -> None:
        check_classes(most)
        if unknown == "other":
            raise InputError(
                'unknown = "other" adds a class to those that are known; give the classes, or leave'
                " unknown out"
            )
        self.most = most
        self.remember: Callable[[tuple[str, ...]], None] = lambda names: None
        self._places: dict[str, int] = {}

    @property
    def count(self) -> int:
        """How many places there are, with the one of `unsure`."""
        return self.most + 1

    @property
    def unsure(self) -> int:
        """The class of what teaches nothing."""
        return self.most

    @property
    def met(self) -> tuple[str, ...]:
        """The names met so far, in their order."""
        return tuple(self._places)

    def learn(self, names: Sequence[str]) -> None:
        """Take up names that an earlier process met."""
        self._places = {name: number for number, name in enumerate(names)}

    def indices(self, answers: object, asked: int) -> Int[Tensor, " row"]:
        """The classes of the answers to so many images.

        Raises:
            TeacherError: a wrong number of answers, or what is neither a name nor a whole number.
        """
        answers = listed(answers)
        texts = texts_in(answers)
        if texts is None:
            numbers = check_answers(answers, asked=asked, classes=None)
            texts = [None if number == -1 else number for number in numbers.tolist()]
        if len(texts) != asked:
            raise TeacherError(
                f"the teacher answered {len(texts)} names to {asked} image(s); one for each image"
                " is expected"
            )
        before = len(self._places)
        found = [self._place(answer) for answer in texts]
        if len(self._places) > before:
            self.remember(self.met)
        return torch.tensor(found, dtype=torch.int64)

    def _place(self, answer: str | int | None) -> int:
        if answer is None or answer == -1 or not nameable(name := str(answer)):
            return self.most
        if name not in self._places and len(self._places) < self.most:
            self._places[name] = len(self._places)
        return self._places.get(name, self.most)


def nameable(text: str) -> bool:
    r"""Whether a text can be the name of a class: not empty, not too long, and a file can hold it.

    >>> nameable("cat"), nameable(" "), nameable("\ud800")
    (True, False, False)
    """
    if not text.strip() or len(text) > LONGEST:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # half characters, which no encoding has
        return False
    return True


class Found(Middleware):
    """A teacher with the numbers that a run gives to the classes that it meets.

    The one within may number them otherwise: in the order of another run with the same store, or
    anew in each process. Here the order is that of `known`, and then of the rows that are answered.
    `remember` is called with the new names before an answer of theirs is handed out.

    >>> from db3kd.teachers import function
    >>> within = function(lambda images: ["cat" if image.mean() > 0 else "dog" for image in images])
    >>> teacher = Found(within, ["dog"], remember=print)
    >>> teacher.labels(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)), teacher.met
    ('cat',)
    (tensor([1, 0]), ('dog', 'cat'))
    """

    def __init__(
        self,
        teacher: Teacher,
        known: Sequence[str] = (),
        remember: Callable[[tuple[str, ...]], None] = lambda names: None,
    ) -> None:
        super().__init__(teacher)
        self._remember = remember
        self._places = {name: number for number, name in enumerate(known)}
        self._full_told = False

    @property
    def met(self) -> tuple[str, ...]:
        """The names of the classes of the run, in its order."""
        return tuple(self._places)

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image, in the order of the run."""
        return self.numbered(self._teacher.labels(images))

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        """The same for a keeper."""
        ask(self._teacher, images, _Numbering(self, keeper))

    def numbered(self, answers: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """The classes of the one within, in the order of the run; new ones are remembered first."""
        within, last = met_of(self._teacher) or (), self.classes - 1
        new: list[str] = []
        table = torch.full((self.classes,), last, dtype=torch.int64)
        for number in dict.fromkeys(answers.tolist()):
            if number >= len(within):
                continue
            name = within[number]
            if name not in self._places and len(self._places) < last:
                self._places[name] = len(self._places)
                new.append(name)
            table[number] = self._places.get(name, last)
        if new:
            shown = ", ".join(repr(plain(name, 60)) for name in new[:10])
            more = f" (and {len(new) - 10:,} more)" if len(new) > 10 else ""
            _log.info("classes met: %s%s; there are %s now", shown, more, len(self._places))
            self._remember(tuple(new))
        found = table.to(answers.device)[answers]
        if len(self._places) == last and bool((found == last).any()):
            self._tell_full(last)
        return found

    def _tell_full(self, most: int) -> None:
        if not self._full_told:
            self._full_told = True
            _log.warning(
                "the teacher has named %s classes, for which there is room; answers with other"
                " names count as 'I do not know', so raise teacher.most_classes, in another folder,"
                " if these are classes",
                f"{most:,}",
            )


class _Numbering:
    """A keeper that gets classes in the order of a run."""

    def __init__(self, found: Found, keeper: Keeper) -> None:
        self._found, self._keeper = found, keeper

    @property
    def open(self) -> int:
        return self._keeper.open

    def claim(self, rows: Rows, /) -> Rows:
        return self._keeper.claim(rows)

    def settle(
        self, rows: Rows, classes: Classes, /, *, failed: Rows = (), retried: int = 0
    ) -> None:
        if len(rows):
            answers = torch.as_tensor(classes, dtype=torch.int64)
            classes = self._found.numbered(answers)
        self._keeper.settle(rows, classes, failed=failed, retried=retried)


class Cut(Middleware):
    """A teacher with fewer classes: all from the last of these on are one, the last.

    >>> from db3kd.teachers import function
    >>> row = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)
    >>> three = function(lambda images: (2 * images.flatten()).long(), classes=3)
    >>> Cut(three, 2).labels(row), Cut(three, 2).classes
    (tensor([0, 1, 1]), 2)
    """

    def __init__(self, teacher: Teacher, classes: int) -> None:
        super().__init__(teacher)
        self._classes = classes

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._classes

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image."""
        return self._teacher.labels(images).clamp(max=self._classes - 1)


def cut(teacher: Teacher, classes: int) -> Teacher:
    """A teacher cut to so many classes; itself if it has no more."""
    return teacher if teacher.classes == classes else Cut(teacher, classes)
