"""A point for every image and class, in memory that does not grow with the number of classes."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

AT_ONCE_BYTES = 2**26  # of points that are made or compared at once


def blocks_of(count: int, image: Tensor) -> Iterator[slice]:
    """Slices of `count` rows, each of a few images like this one: `AT_ONCE_BYTES`, or one image.

    >>> list(blocks_of(5, torch.zeros(3, 2048, 2048)))
    [slice(0, 1, None), slice(1, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    some = max(1, AT_ONCE_BYTES // max(1, image.numel() * image.element_size()))
    for start in range(0, count, some):
        yield slice(start, min(count, start + some))


class Points:
    """For each image and class a point: the image itself, a reference, or one that was put there.

    `place[sample, class]` is -1 for the image itself and a row of `starts` for a reference; only
    what is `put` takes further memory, an image for each row (sample, class) that has one. So a row
    that nobody asked for costs 8 bytes, whatever the size of the images.

    >>> points = Points(torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2), torch.tensor([[-1, 0, 0]]))
    >>> row = torch.tensor([0])
    >>> points.put(row, torch.tensor([2]), torch.full((1, 1, 1, 2), 0.5))
    >>> [points.of(row, torch.tensor([k])).flatten().tolist() for k in range(3)]
    [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]
    >>> points.held
    1
    """

    def __init__(
        self,
        origin: Float[Tensor, "sample *image"],
        starts: Float[Tensor, "reference *image"],
        place: Int[Tensor, "sample classes"],
    ) -> None:
        self.origin, self.starts, self.place = origin, starts, place
        self.held = 0  # how many points were put, those that took another's place left aside
        self._kept = origin.new_empty(0, *origin.shape[1:])

    @classmethod
    def origins(cls, origin: Float[Tensor, "sample *image"], classes: int) -> "Points":
        """Every point is the image itself.

        >>> Points.origins(torch.zeros(2, 1, 1, 1), 3).place.shape
        torch.Size([2, 3])
        """
        place = torch.full((len(origin), classes), -1, device=origin.device)
        return cls(origin, origin[:0], place)

    def of(
        self, sample: Int[Tensor, " row"], target: Int[Tensor, " row"]
    ) -> Float[Tensor, "row *image"]:
        """The points of some rows."""
        place, found = self.place[sample, target], self.origin[sample]
        for first, kept in ((0, self.starts), (len(self.starts), self._kept)):
            here = ((place >= first) & (place < first + len(kept))).nonzero()[:, 0]
            if len(here):
                found[here] = kept[place[here] - first]
        return found

    def put(
        self,
        sample: Int[Tensor, " row"],
        target: Int[Tensor, " row"],
        points: Float[Tensor, "row *image"],
    ) -> None:
        """Give some rows, each of them once, another point."""
        first = len(self.starts)
        new = (self.place[sample, target] < first).nonzero()[:, 0]
        stop = self.held + len(new)
        self.place[sample[new], target[new]] = first + torch.arange(
            self.held, stop, device=self.place.device
        )
        if stop > len(self._kept):
            kept = self._kept.new_empty(max(stop, 2 * len(self._kept)), *self.origin.shape[1:])
            kept[: self.held] = self._kept[: self.held]
            self._kept = kept
        self.held = stop
        self._kept[self.place[sample, target] - first] = points

    def all(self) -> Float[Tensor, "sample classes *image"]:
        """Every point: as many bytes as there are images times classes, so for a few images."""
        sample = torch.arange(len(self.place), device=self.place.device)
        columns = [self.of(sample, torch.full_like(sample, k)) for k in range(self.place.shape[1])]
        return torch.stack(columns, 1)
