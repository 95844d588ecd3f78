"""Counts the queries of each row of a competitor, and keeps the best point that it showed.

Whatever a competitor reports, only this counts: the nearest point across the boundary that the
teacher was really shown within the row's queries, its start search included.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from db3kd.errors import Db3kdError
from db3kd.search.boundary import norm, per_row
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter

NUDGE = 1e-4  # share of the distance by which a point is moved out when asked again


class Enough(Db3kdError):
    """Raised instead of the next question when every row has had its queries."""


class Watch:
    """A teacher for a competitor that searches `len(origin)` rows in parallel.

    A question holds the same number of images for each row, in turn: image i belongs to row i
    modulo the number of rows. `curve[row, k]` is the best distance within checkpoint k. It begins
    with what the start search found. If a question goes beyond the last checkpoint, only the part
    up to it counts.
    """

    def __init__(
        self,
        teacher: Teacher,
        origin: Tensor,
        target: Tensor,
        *,
        start: Tensor,
        start_spent: Tensor,
        start_curve: Tensor,
        checkpoints: Sequence[int],
    ) -> None:
        self.meter = Meter(teacher)
        self.origin, self.target, self.checkpoints = origin, target, tuple(checkpoints)
        self.point, self.curve = start.clone(), start_curve.clone()
        self.best: list[float] = norm(start - origin).tolist()
        self.spent: list[int] = start_spent.tolist()

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.meter.classes

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel."""
        return self.meter.bounds

    def labels(self, images: Tensor, /) -> Tensor:
        """Class index of each image, clipped to the bounds; one query each."""
        rows = len(self.origin)
        if len(images) % rows:
            raise ValueError(f"{len(images)} images are not a multiple of {rows} rows")
        if min(self.spent) >= self.checkpoints[-1]:
            raise Enough
        images = images.clamp(*self.bounds)
        answers = self.meter.labels(images)
        row = torch.arange(len(images)) % rows
        across = (answers == self.target[row]).nonzero()[:, 0]
        distance = norm(images[across] - self.origin[row[across]])
        for index, apart in zip(across.tolist(), distance.tolist(), strict=True):
            here, count = index % rows, self.spent[index % rows] + index // rows + 1
            if count <= self.checkpoints[-1] and apart < self.best[here]:
                self.best[here], self.point[here] = apart, images[index]
                self._keep(here, count)
        self.spent = [spent + len(images) // rows for spent in self.spent]
        return answers

    def _keep(self, row: int, count: int) -> None:
        """Enter the best distance at every checkpoint that is not passed yet."""
        for k, checkpoint in enumerate(self.checkpoints):
            if count <= checkpoint:
                self.curve[row, k] = min(float(self.curve[row, k]), self.best[row])


def asked_again(teacher: Teacher, origin: Tensor, point: Tensor, target: Tensor) -> Tensor:
    """Factor by which each distance grows when the last points are asked again; +inf: not across.

    It is 1 if the point is still across. A point on the boundary may fall to the other side when
    the teacher computes in other batches. Then a point a ten-thousandth further out is asked.
    """
    low, high = teacher.bounds
    good = (teacher.labels(point) == target) & ((point >= low) & (point <= high)).flatten(1).all(1)
    factor = torch.where(good, 1.0, torch.inf)
    out = torch.full((len(point),), 1 + NUDGE)
    further = (origin + per_row(out, point) * (point - origin)).clamp(low, high)
    near = ~good & (teacher.labels(further) == target)
    return torch.where(near, norm(further - origin) / norm(point - origin), factor)
