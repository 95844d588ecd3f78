"""Any Python callable as a teacher."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.remote import Encoding
from db3kd.config.types import MOST_CLASSES
from db3kd.errors import Db3kdError, InputError, TeacherError, described, plain
from db3kd.teachers.base import Teacher, check_answers, micro_batches
from db3kd.teachers.classes import Classes, Unknown, classes_of
from db3kd.teachers.encoding import Entry
from db3kd.teachers.found import FoundClasses
from db3kd.teachers.parts import Keeper, ask_part


@dataclass(frozen=True)
class Asking:
    """What all adapters are: something to ask for class indices, in parts of at most `batch`.

    `ask` gets what `entry` makes of the images, and returns indices below `known.count`.

    >>> bright = lambda images: (images.flatten(1).mean(1) > 0.5).long()
    >>> teacher = Asking(bright, Classes(2, ("dark", "bright")), Entry(None, (0.0, 1.0)), 8)
    >>> teacher.labels(torch.ones(1, 1, 1, 1)), teacher.names
    (tensor([1]), ('dark', 'bright'))
    """

    ask: Callable[[Tensor], object]
    known: Classes | FoundClasses
    entry: Entry
    batch: int
    identify: Callable[[], Mapping[str, str]] | None = None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.known.count

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel."""
        return self.entry.bounds

    @property
    def names(self) -> tuple[str, ...] | None:
        """What the classes are called, if anybody said so."""
        return self.known.called

    @property
    def unsure(self) -> int | None:
        """The class of answers to be dropped."""
        return self.known.unsure

    @property
    def met(self) -> tuple[str, ...] | None:
        """The names of the classes met so far; None if all are known beforehand."""
        return self.known.met if isinstance(self.known, FoundClasses) else None

    @cached_property
    def identity(self) -> Mapping[str, str] | None:
        """What the teacher is known by."""
        return None if self.identify is None else self.identify()

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; costs one query for each; same device as the images."""
        if not len(images):
            return torch.zeros(0, dtype=torch.int64, device=images.device)
        parts = [self._part(part) for part in micro_batches(images, self.batch)]
        return torch.cat(parts).to(images.device)

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        """The same for a keeper, in parts of one batch."""
        first = 0
        for part in micro_batches(images, self.batch):
            ask_part(self, images, range(first, first + len(part)), keeper)
            first += len(part)

    def _part(self, images: Tensor) -> Tensor:
        try:
            answers = self.ask(self.entry(images))
            return check_answers(answers, asked=len(images), classes=self.classes)
        except (Db3kdError, KeyboardInterrupt):
            raise
        except BaseException as error:  # sys.exit included: a run ends by its own decision alone
            shape = tuple(images.shape)
            raise TeacherError(
                f"the teacher failed on float images of shape {shape}: {described(error)}"
            ) from error


def function(
    ask: Callable[[Tensor], object],
    *,
    classes: int | Sequence[str] | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch: int = 1024,
    identify: Callable[[], Mapping[str, str]] | None = None,
    encoding: Encoding | None = None,
    unknown: Unknown = "refuse",
    most_classes: int = MOST_CLASSES,
) -> Teacher:
    """Hide any callable behind the label-only door.

    `ask` gets a float32 tensor (row, channel, height, width) within `bounds`, at most `batch` rows,
    or what `encoding` makes of it. It returns a class index for each: a tensor, an array or a list;
    booleans count as 0 and 1. If `classes` are names, not a number, it may return these.
    `unknown` says what -1, None and other names mean (`db3kd.teachers.classes.Classes`).
    Without `classes` they are found: each new answer is the next class, `most_classes` at most
    (`db3kd.teachers.found.FoundClasses`).
    `identify` says what the teacher is known by (`identity_of`): a digest for each part. Without
    it nobody can tell that another callable is given for a run folder that is continued.

    Raises:
        InputError: no callable, fewer than two classes, names twice, empty bounds, or an encoding
            as a file.
        TeacherError: when asked, if the callable fails, tries to end the process, or answers
            anything else.

    >>> teacher = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> teacher.labels(torch.tensor([0.2, 0.9]).reshape(2, 1, 1, 1))
    tensor([0, 1])
    >>> teacher = function(lambda images: ["dog"] * len(images), classes=("cat", "dog"))
    >>> teacher.labels(torch.zeros(1, 1, 1, 1))
    tensor([1])
    """
    if not callable(ask):
        raise InputError(
            f"the teacher is a {plain(type(ask).__name__, 60)}; a function of images is expected"
        )
    known: Classes | FoundClasses
    if classes is None:
        known = FoundClasses(most_classes, unknown)
    else:
        known = classes_of(classes, unknown=unknown)

    def asked(images: Tensor) -> Int[Tensor, " row"]:
        return known.indices(ask(images), len(images))

    return Asking(asked, known, Entry(encoding, bounds), batch, identify)
