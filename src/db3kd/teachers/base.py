"""The teacher: images in, class indices out, nothing else; and the meter that every query passes.

Everything that knows a real model lives behind `Teacher`. Middlewares are teachers around a
teacher, each with one job, stacked in one visible place.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import InputError, TeacherError, plain

STATE = "state"
"""First word of parts of an identity that may differ although the teacher is the same one."""


@runtime_checkable
class Teacher(Protocol):
    """A classifier that answers the top-1 class of each image (F_t^B, section 3.2 of the paper).

    `classes` is the number of classes L; `bounds` the lowest and highest value of a pixel.

    >>> from db3kd.teachers import function
    >>> teacher = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> teacher.classes, teacher.bounds
    (2, (0.0, 1.0))
    """

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel."""

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; costs one query for each; same device as the images."""


class Middleware:
    """What teachers around a teacher share: the classes and bounds of the one within.

    >>> from db3kd.teachers import function
    >>> Middleware(function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)).classes
    2
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self._teacher.classes

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel."""
        return self._teacher.bounds

    @property
    def ledger(self) -> Any:
        """The `db3kd.teachers.parts.Ledger` of the one within; None if it keeps no books."""
        return getattr(self._teacher, "ledger", None)

    @property
    def met(self) -> tuple[str, ...] | None:
        """The names met so far by the one within; None if its classes are known beforehand."""
        return met_of(self._teacher)


def identity_of(teacher: Teacher) -> dict[str, str]:
    """What a teacher is known by: a digest, or a few words, for each part; {} if it is unknown.

    A teacher may say it in an attribute `identity`: a text such as a version, or texts by name. It
    tells the content and not the place: another identity is another teacher. A part whose name
    begins with `STATE` may differ for a teacher that is made anew, so it is only a hint. Teachers
    around a teacher have the parts of the one within.

    >>> class Bright:
    ...     classes, bounds, identity = 2, (0.0, 1.0), "bright 3"
    ...     def labels(self, images):
    ...         return (images.flatten(1).mean(1) > 0.5).long()
    >>> identity_of(Bright())
    {'identity': 'bright 3'}
    """
    parts = identity_of(teacher._teacher) if isinstance(teacher, Middleware) else {}
    own = getattr(teacher, "identity", None)
    if isinstance(own, str):
        return parts | {"identity": own}
    if isinstance(own, Mapping):
        return parts | {str(name): str(value) for name, value in own.items()}
    return parts


def names_of(teacher: Teacher) -> tuple[str, ...] | None:
    """What a teacher calls its classes, in its order; None if it does not say.

    A teacher may say it in an attribute `names`. Teachers around a teacher have those of the one
    within.

    >>> class Bright:
    ...     classes, bounds, names = 2, (0.0, 1.0), ("dark", "bright")
    ...     def labels(self, images):
    ...         return (images.flatten(1).mean(1) > 0.5).long()
    >>> names_of(Bright())
    ('dark', 'bright')
    """
    if isinstance(teacher, Middleware):
        return names_of(teacher._teacher)
    names = getattr(teacher, "names", None)
    return None if names is None else tuple(map(str, names))


def unsure_of(teacher: Teacher) -> int | None:
    """The class that stands for "I do not know", always the last; None if there is none.

    A teacher may say it in an attribute `unsure`. Students do not learn from images of this class,
    and have no such class. A teacher that has one is asked and charged as any other.

    >>> class Unsure:
    ...     classes, bounds, unsure = 3, (0.0, 1.0), 2
    ...     def labels(self, images):
    ...         return torch.full((len(images),), 2)
    >>> unsure_of(Unsure())
    2
    """
    if isinstance(teacher, Middleware):
        return unsure_of(teacher._teacher)
    return getattr(teacher, "unsure", None)


def met_of(teacher: Teacher) -> tuple[str, ...] | None:
    """What the classes are called that a teacher has named so far; None if nothing is to be found.

    A teacher whose classes are not known beforehand says it in an attribute `met`, in the order of
    their numbers. Its `classes` are places for some, and one more, the last, that is `unsure`: it
    stands for "I do not know", and for what finds no place.

    >>> from db3kd.teachers import function
    >>> teacher = function(lambda images: ["cat"] * len(images))
    >>> teacher.labels(torch.zeros(1, 1, 2, 2)), met_of(teacher), teacher.classes
    (tensor([0]), ('cat',), 101)
    """
    found = getattr(teacher, "met", None)
    return None if found is None else tuple(found)


def known_of(teacher: Teacher) -> int:
    """How many classes are known: all but "I do not know"; where they are found, those met so far.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2, unknown="drop")
    >>> known_of(bright)
    2
    """
    met = met_of(teacher)
    if met is not None:
        return len(met)
    return teacher.classes - (unsure_of(teacher) is not None)


class Bounds(tuple[float, float]):
    """The bounds of a teacher that does not see every value between them.

    `seen` makes of images what the teacher sees of them; `level` is the smallest difference that it
    can see in one pixel. Searches ask for points that are seen as they are (`boundary.shown`), so
    that distances are of what was really asked, and look for nothing finer than a level. They can
    be pickled, if `seen` can.

    >>> low, high = Bounds(0.0, 1.0, seen=torch.round, level=1.0)
    >>> low, high
    (0.0, 1.0)
    """

    seen: Callable[[Tensor], Tensor]
    level: float

    def __new__(
        cls, low: float, high: float, *, seen: Callable[[Tensor], Tensor], level: float
    ) -> "Bounds":
        """Make the pair."""
        found = super().__new__(cls, (low, high))
        found.seen, found.level = seen, level
        return found

    def __getnewargs_ex__(self) -> tuple[tuple[float, float], dict[str, Any]]:
        low, high = self
        return (low, high), {"seen": self.seen, "level": self.level}


def check_teacher(teacher: object) -> None:
    """Refuse what does not answer with labels, such as a network or what tells more than labels.

    Raises:
        InputError: it is no `Teacher`; the text says what it lacks.

    >>> check_teacher(torch.nn.Identity())
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: a teacher has classes, bounds and labels(images), but Identity has ...
    """
    wanted = ("classes", "bounds", "labels")
    lacking = [name for name in wanted if not hasattr(teacher, name)]
    if lacking:
        raise InputError(
            f"a teacher has classes, bounds and labels(images), but {type(teacher).__name__} has no"
            f" {' and no '.join(lacking)}; wrap it, for instance by db3kd.teachers.torch_module"
        )


def check_answers(answers: object, *, asked: int, classes: int | None) -> Int[Tensor, " row"]:
    """Return the answers as an int64 tensor if they are class indices of the images asked.

    They may be a column (row, 1). Without `classes` they may be any whole numbers.

    Raises:
        TeacherError: wrong count, scores, fractions, strings, or a class that does not exist.

    >>> check_answers([0, 2], asked=2, classes=3)
    tensor([0, 2])
    >>> check_answers([[0.1, 0.9]], asked=1, classes=2)
    Traceback (most recent call last):
    ...
    db3kd.errors.TeacherError: the teacher answered an array of shape (1, 2) to 1 image(s); ...
    """
    if not isinstance(answers, Tensor):
        answers = _as_tensor(answers)
    if asked == 1 and not answers.ndim:
        answers = answers.reshape(1)  # of one image, `squeeze` takes the axis of images, too
    if answers.shape == (asked, 1):
        answers = answers[:, 0]
    if answers.shape != (asked,):
        raise TeacherError(
            f"the teacher answered an array of shape {tuple(answers.shape)} to {asked} image(s);"
            " one class index for each image is expected (scores must be reduced by argmax)"
        )
    if answers.is_floating_point() or answers.is_complex():
        raise TeacherError(
            f"the teacher answered {answers.dtype} numbers; whole class indices are expected"
        )
    answers = answers.long()
    if classes is None:
        return answers
    if asked and not 0 <= int(answers.min()) <= int(answers.max()) < classes:
        wrong = int(answers[(answers < 0) | (answers >= classes)][0])
        advice = '; if that is "I do not know", set unknown to "drop"' if wrong == -1 else ""
        advice = "; class indices count from 0" if wrong == classes else advice
        raise TeacherError(
            f"the teacher answered class {wrong}; it was said to have {classes}{advice}"
        )
    return answers


def check_classes(classes: int) -> None:
    """Raise InputError unless there are two classes or more.

    >>> check_classes(1)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: a teacher needs at least 2 classes, got 1
    """
    if classes < 2:
        raise InputError(f"a teacher needs at least 2 classes, got {classes}")


def check_kind(classes: int, bounds: tuple[float, float]) -> None:
    """Raise InputError unless there are two classes or more and the bounds hold an interval.

    >>> check_kind(2, (1.0, 0.0))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: bounds must be (lowest, highest), got (1.0, 0.0)
    """
    check_classes(classes)
    check_bounds(bounds)


def check_bounds(bounds: tuple[float, float]) -> None:
    """Raise InputError unless the bounds hold an interval.

    >>> check_bounds((1.0, 1.0))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: bounds must be (lowest, highest), got (1.0, 1.0)
    """
    if not bounds[0] < bounds[1]:
        raise InputError(f"bounds must be (lowest, highest), got {bounds}")


def _as_tensor(answers: object) -> Tensor:
    try:
        return torch.as_tensor(answers)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TeacherError(
            f"the teacher answered {plain(type(answers).__name__, 60)} {plain(answers, 60)!r},"
            " which is no array of whole numbers; give a list or an array of class indices, or of"
            " names if classes has them"
        ) from None


def micro_batches(images: Tensor, batch: int) -> Iterator[Tensor]:
    """Cut rows into the fewest parts of at most `batch`, of nearly equal size.

    Raises:
        InputError: the batch is smaller than one.

    >>> [len(part) for part in micro_batches(torch.zeros(10, 1), 4)]
    [4, 3, 3]
    """
    if not isinstance(batch, int) or batch < 1:
        raise InputError(f"the teacher's batch must be a whole number from 1, got {batch}")
    parts = -(-len(images) // batch)
    yield from images.tensor_split(parts) if parts > 1 else (images,)
