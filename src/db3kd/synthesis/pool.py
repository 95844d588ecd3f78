"""All images asked so far with their answers, from which every way of synthesis learns."""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.data import eight_bits
from db3kd.errors import InputError
from db3kd.search.boundary import shown
from db3kd.student.networks import Shape
from db3kd.teachers.base import Teacher

ROOM = 2**28  # bytes of the candidates of one question, as floats, at most


class Pool:
    """Images and the teacher's answers, in the order in which they were asked.

    - `size`: how many images fit. Their memory is reserved at the start, so none is copied later.
    - `eight_bit`: images are rounded to 8 bits *before* they are asked, and kept like that.
    - `rest`: how many images may still be asked in this shard. A way asks until it is 0.
    - `origins`: two whole numbers per image, in which a way may note where it came from; None if it
      notes nothing.

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
        """The teacher's answer for each image."""
        return self._answers[: self._count]

    @property
    def values(self) -> Tensor:
        """The images as they are kept: uint8, for k/255, or float32."""
        return self._values[: self._count]

    @property
    def origins(self) -> Int[Tensor, "asked 2"] | None:
        """Where each image came from, as noted by its way."""
        return None if self._origins is None else self._origins[: self._count]

    def allow(self, queries: int) -> None:
        """Set how many images may be asked from now on."""
        self.rest = queries

    def next(self, most: int, candidates: int = 1) -> int:
        """How many to ask in one question: at most `most`, the rest, and what fits into `ROOM`."""
        return min(most, self.rest, max(1, ROOM // (candidates * 4 * math.prod(self.shape))))

    def add(
        self,
        values: Tensor,
        answers: Int[Tensor, " row"],
        origins: Int[Tensor, "row 2"] | None = None,
    ) -> None:
        """Put in images that were asked before, in the form in which they were kept."""
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
        """Ask the class of new images, one query each, and add them to the pool.

        A way gives origins with all of its images or with none.

        Raises:
            InputError: there are more images than may be asked.
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
        """Return images as they would be kept, and exactly these as the teacher would see them."""
        images = shown(images.clone(), self.bounds)
        return eight_bits(images) if self.eight_bit else (images, images)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row *image"]:
        """Return the images of some rows as float32, on the device."""
        values = self.values.index_select(0, rows.cpu()).to(self.device)
        return values.float().div_(255) if self.eight_bit else values

    def batch(self, count: int, draw: Generator) -> tuple[Tensor, Tensor]:
        """Draw images with their answers, with replacement; both are on the device."""
        rows = torch.randint(self._count, (count,), generator=draw)
        return self.read(rows), self.answers[rows].to(self.device)

    def counts(self) -> Int[Tensor, " classes"]:
        """How often the teacher answered each class."""
        return torch.bincount(self.answers, minlength=self.classes)
