"""Any Python callable as a teacher."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import Db3kdError, TeacherError, described
from db3kd.teachers.base import Teacher, check_answers, check_kind, micro_batches
from db3kd.teachers.parts import Keeper, ask_part


@dataclass(frozen=True)
class _Function:
    ask: Callable[[Tensor], object]
    classes: int
    bounds: tuple[float, float]
    batch: int
    identify: Callable[[], Mapping[str, str]] | None = None

    @cached_property
    def identity(self) -> Mapping[str, str] | None:
        return None if self.identify is None else self.identify()

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        if not len(images):
            return torch.zeros(0, dtype=torch.int64, device=images.device)
        parts = [self._part(part) for part in micro_batches(images, self.batch)]
        return torch.cat(parts).to(images.device)

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        first = 0
        for part in micro_batches(images, self.batch):
            ask_part(self, images, range(first, first + len(part)), keeper)
            first += len(part)

    def _part(self, images: Tensor) -> Tensor:
        try:
            answers = self.ask(images.clone())  # some models write into what they are given
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
    classes: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch: int = 1024,
    identify: Callable[[], Mapping[str, str]] | None = None,
) -> Teacher:
    """Hide any callable behind the label-only door.

    `ask` gets a float32 tensor (row, channel, height, width) within `bounds`, at most `batch` rows,
    and returns a class index for each: a tensor, an array or a list; booleans count as 0 and 1.
    `identify` says what the teacher is known by (`identity_of`): a digest for each part. Without
    it nobody can tell that another callable is given for a run folder that is continued.

    Raises:
        InputError: fewer than two classes, or empty bounds.
        TeacherError: when asked, if the callable fails, tries to end the process, or answers
            anything else.

    >>> teacher = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> teacher.labels(torch.tensor([0.2, 0.9]).reshape(2, 1, 1, 1))
    tensor([0, 1])
    """
    check_kind(classes, bounds)
    return _Function(ask, classes, bounds, batch, identify)
