"""All images asked so far with their answers, from which every way of synthesis learns."""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from db3kd.data import Images, Joined, TensorImages, eight_bits
from db3kd.errors import InputError
from db3kd.search.boundary import as_seen
from db3kd.search.robustness import grouped
from db3kd.student.networks import Shape
from db3kd.teachers.base import Teacher

ROOM = 2**28  # bytes of the candidates of one question, as floats, at most


class Pool:
    """Images and the teacher's answers, in the order in which they were asked.

    - `size`: how many images fit.
    - `room`: for how many of them memory is reserved at the start, so that none is copied later;
      all, unless those before are settled by then.
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
        self,
        size: int,
        shape: Shape,
        teacher: Teacher,
        *,
        eight_bit: bool,
        device: str = "cpu",
        room: int | None = None,
    ) -> None:
        self.shape, self.classes, self.bounds = shape, teacher.classes, teacher.bounds
        self.teacher, self.eight_bit, self.device = teacher, eight_bit, device
        kind = torch.uint8 if eight_bit else torch.float32
        self._values = torch.empty((size if room is None else room, *shape), dtype=kind)
        self._settled: Images | None = None
        self._answers = torch.empty(size, dtype=torch.int64)
        self._origins: Tensor | None = None
        self._rows = _Rows(self.classes)
        self._count = self._first = self.rest = 0

    def __len__(self) -> int:
        return self._count

    @property
    def answers(self) -> Int[Tensor, " asked"]:
        """The teacher's answer for each image."""
        return self._answers[: self._count]

    @property
    def values(self) -> Tensor:
        """The images that are not settled, as they are kept: uint8, for k/255, or float32."""
        return self._values[: max(0, self._count - self._first)]

    @property
    def images(self) -> Images:
        """All images: those that are settled, and then those in memory."""
        new = TensorImages(self.values)
        if self._settled is None:
            return new
        return Joined(self._settled, new) if len(new) else self._settled

    def settle(self, images: Images) -> None:
        """Read the first images from elsewhere from now on, and use their memory for others.

        `images` are those of the pool so far, in the files of a run for example. Of an empty pool,
        they are those whose answers `add` gets next.

        Raises:
            InputError: there are fewer of them than were asked.
        """
        if len(images) < self._count:
            raise InputError(f"{len(images)} images, but {self._count} were asked")
        self._settled, self._first = images, len(images)

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
        values: Tensor | None,
        answers: Int[Tensor, " row"],
        origins: Int[Tensor, "row 2"] | None = None,
    ) -> None:
        """Put in images that were asked before, in the form in which they were kept.

        Of images that are settled, `values` is None.
        """
        stop = self._count + len(answers)
        if origins is not None:
            if self._origins is None:
                self._origins = torch.empty((len(self._answers), 2), dtype=torch.int64)
            self._origins[self._count : stop] = origins
        if values is not None:
            self._values[self._count - self._first : stop - self._first] = values
        self._answers[self._count : stop] = answers
        self._rows.extend(answers, first=self._count)
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
        images = as_seen(images.clamp(*self.bounds), self.bounds)
        return eight_bits(images) if self.eight_bit else (images, images)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row *image"]:
        """Return the images of some rows as float32, on the device."""
        return self.images.read(rows.cpu()).to(self.device)

    def batch(self, count: int, draw: Generator) -> tuple[Tensor, Tensor]:
        """Draw images with their answers, with replacement; both are on the device."""
        rows = torch.randint(self._count, (count,), generator=draw)
        return self.read(rows), self.answers[rows].to(self.device)

    def counts(self) -> Int[Tensor, " classes"]:
        """How often the teacher answered each class."""
        return self._rows.counts.clone()

    def balanced(self, count: int, draw: Generator) -> Int[Tensor, " row"]:
        """Draw rows, with replacement: every answered class is equally likely, and so are its rows.

        Takes as long for a large pool as for a small one. Random: `draw`.

        >>> from db3kd.teachers import function
        >>> bright = function(lambda images: images.flatten() > 0, classes=3)
        >>> pool = Pool(9, (1, 1, 1), bright, eight_bit=True)
        >>> pool.add(torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 0, 2]))
        >>> rows = pool.balanced(1000, Generator().manual_seed(0))
        >>> (rows == 3).float().mean().round(decimals=1)
        tensor(0.5000)
        """
        known = self._rows.counts.nonzero()[:, 0]
        kinds = known[torch.randint(len(known), (count,), generator=draw)]
        # In 64 bits, since 24 would not reach every row of a large class.
        shares = torch.rand(count, generator=draw, dtype=torch.float64)
        lengths = self._rows.counts[kinds]
        return self._rows.at(kinds, (shares * lengths).long().minimum(lengths - 1))


class _Rows:
    """The rows of every class, ascending: all in one memory, where each has a stretch of its own.

    A stretch that is full moves to the end and doubles, so nothing here loops over classes.
    """

    def __init__(self, classes: int) -> None:
        self.counts: Tensor
        self.counts, self._room, self._begin = torch.zeros(3, classes, dtype=torch.int64)
        self._kept, self._end = torch.empty(0, dtype=torch.int64), 0

    def at(self, kinds: Int[Tensor, " some"], places: Int[Tensor, " some"]) -> Int[Tensor, " some"]:
        """The rows at some places of some classes."""
        return self._kept[self._begin[kinds] + places]

    def extend(self, answers: Int[Tensor, " row"], *, first: int) -> None:
        """Add rows of these classes, numbered from `first`."""
        after = self.counts + answers.bincount(minlength=len(self.counts))
        self._make_room(after)
        order, place = grouped(answers)
        kinds = answers[order]
        self._kept[self._begin[kinds] + self.counts[kinds] + place] = order + first
        self.counts = after

    def _make_room(self, wanted: Int[Tensor, " classes"]) -> None:
        full = (wanted > self._room).nonzero()[:, 0]
        room, held = wanted[full].maximum(2 * self._room[full]), self.counts[full]
        begin = self._end + room.cumsum(0) - room
        end = self._end + int(room.sum())
        if end > len(self._kept):
            kept = torch.empty(max(end, 2 * len(self._kept)), dtype=torch.int64)
            kept[: self._end] = self._kept[: self._end]
            self._kept = kept
        kinds = full.repeat_interleave(held)
        place = grouped(kinds)[1]
        moved = self.at(kinds, place)
        self._begin[full], self._room[full], self._end = begin, room, end
        self._kept[self._begin[kinds] + place] = moved
