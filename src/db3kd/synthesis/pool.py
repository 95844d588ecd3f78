"""All that was asked so far, in one block of memory: what every way of synthesis learns from."""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.data import eight_bits
from db3kd.errors import InputError
from db3kd.search.boundary import shown
from db3kd.student.networks import Shape
from db3kd.teachers.base import Teacher

ROOM = 2**28  # bytes of the images, as floats, that are looked at for one question


class Pool:
    """Images and what the teacher called them, in the order in which they were asked.

    There is room for `size` of them from the start, so that none is ever copied to make more room.
    `eight_bit`: images are rounded to 8 bits *before* they are asked, and kept so. `rest` is how
    many may still be asked, in this shard: a way asks until it is 0. `origins`: what a way wants to
    know later of where its images came from, two whole numbers each; None where it says nothing.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> pool = Pool(3, (1, 2, 2), bright, eight_bit=True)
    >>> pool.allow(2)
    >>> pool.ask(torch.full((2, 1, 2, 2), 0.6)), len(pool), pool.rest
    (tensor([1, 1]), 2, 0)
    >>> round(float(pool.read(torch.tensor([1])).mean()) * 255, 3)
    153.0
    """

    def __init__(
        self, size: int, shape: Shape, teacher: Teacher, *, eight_bit: bool, device: str = "cpu"
    ) -> None:
        self.shape, self.classes, self.bounds = shape, teacher.classes, teacher.bounds
        self.teacher, self.eight_bit, self.device = teacher, eight_bit, device
        kind = torch.uint8 if eight_bit else torch.float32
        self._values = torch.empty((size, *shape), dtype=kind)
        self._answers = torch.empty(size, dtype=torch.int64)
        self._origins: Tensor | None = None
        self._count = self.rest = 0

    def __len__(self) -> int:
        return self._count

    @property
    def answers(self) -> Int[Tensor, " asked"]:
        """What the teacher called each image."""
        return self._answers[: self._count]

    @property
    def values(self) -> Tensor:
        """The images as they are kept: uint8 k/255, or float32."""
        return self._values[: self._count]

    @property
    def origins(self) -> Int[Tensor, "asked 2"] | None:
        """Where each image came from, in the words of its way."""
        return None if self._origins is None else self._origins[: self._count]

    def allow(self, queries: int) -> None:
        """Let so many more be asked."""
        self.rest = queries

    def next(self, most: int, candidates: int = 1) -> int:
        """How many to ask in one question: `most`, the rest, or what `ROOM` has candidates for."""
        return min(most, self.rest, max(1, ROOM // (candidates * 4 * math.prod(self.shape))))

    def add(
        self,
        values: Tensor,
        answers: Int[Tensor, " row"],
        origins: Int[Tensor, "row 2"] | None = None,
    ) -> None:
        """Put in what was asked before, as it was kept."""
        stop = self._count + len(values)
        if origins is not None:
            if self._origins is None:
                self._origins = torch.empty((len(self._answers), 2), dtype=torch.int64)
            self._origins[self._count : stop] = origins
        self._values[self._count : stop] = values
        self._answers[self._count : stop] = answers
        self._count = stop

    def ask(
        self, images: Float[Tensor, "row *image"], origins: Int[Tensor, "row 2"] | None = None
    ) -> Int[Tensor, " row"]:
        """Ask for the class of new images, one query each; they are in the pool then.

        A way gives origins with all of its images, or with none.

        Raises:
            InputError: more than may be asked.
            BudgetExhausted, TeacherError: from the teacher.
        """
        if len(images) > self.rest:
            raise InputError(f"{len(images)} images, but only {self.rest} may still be asked")
        kept, shown = self.rounded(images)
        answers = self.teacher.labels(shown)
        self.add(kept.cpu(), answers.cpu(), origins)
        self.rest -= len(images)
        return answers

    def rounded(self, images: Float[Tensor, "row *image"]) -> tuple[Tensor, Tensor]:
        """Images as they would be kept, and the very same as the teacher would see them."""
        images = shown(images.clone(), self.bounds)
        return eight_bits(images) if self.eight_bit else (images, images)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row *image"]:
        """Images of some rows, on the device."""
        values = self.values.index_select(0, rows.cpu()).to(self.device)
        return values.float().div_(255) if self.eight_bit else values

    def batch(self, count: int, draw: Generator) -> tuple[Tensor, Tensor]:
        """Some images with their answers, drawn with replacement, on the device."""
        rows = torch.randint(self._count, (count,), generator=draw)
        return self.read(rows), self.answers[rows].to(self.device)

    def counts(self) -> Int[Tensor, " classes"]:
        """How many images the teacher called each class."""
        return torch.bincount(self.answers, minlength=self.classes)
