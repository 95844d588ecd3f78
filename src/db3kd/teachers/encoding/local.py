"""Images as a model on this machine takes them."""

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Encoding
from db3kd.config.types import validated
from db3kd.errors import InputError
from db3kd.teachers.base import check_bounds
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.encoding.seen import searched


class Entry:
    """Makes of images what a model takes, whatever shape they have.

    Without an encoding it takes them as they are. `bounds` are those of the images, with what
    searches need to know where the model sees 256 levels only. It asks nothing, and nothing of it
    is random.

    Raises:
        InputError: empty bounds, or an encoding as a file.

    >>> entry = Entry(Encoding(kind="float32", scale=255), (0.0, 1.0))
    >>> entry(torch.ones(1, 1, 1, 1)).item()
    255.0
    """

    def __init__(self, encoding: Encoding | None, bounds: tuple[float, float]) -> None:
        check_bounds(bounds)
        self.encoding, self._low_high = encoding, (bounds[0], bounds[1])
        self._encoders: dict[tuple[int, ...], Encoder] = {}
        self.bounds = bounds
        if encoding is None:
            return
        if validated(encoding).kind in ("png", "jpeg"):
            raise InputError(
                f"encoding.kind is {encoding.kind!r}, and a model on this machine takes no files;"
                ' set it to "float32" or "uint8"'
            )
        self.bounds = searched(encoding, bounds, self._seen)

    def __call__(self, images: Float[Tensor, "row *image"]) -> Tensor:
        """What the model is given; always new memory, since some models write into it.

        Raises:
            InputError: an encoding that does not fit images of this shape.
        """
        return images.clone() if self.encoding is None else self._ready(images).tensor(images)

    def range(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[float, float]]:
        """The shape of what the model is given of an image, and its lowest and highest number.

        >>> Entry(Encoding(kind="float32", layout="hwc", scale=2.0), (0.0, 1.0)).range((3, 4, 5))
        ((4, 5, 3), (0.0, 2.0))
        """
        low, high = self._low_high
        ends = self(torch.tensor([low, high]).reshape(2, *[1] * len(shape)).repeat(1, *shape))
        return tuple(ends.shape[1:]), (float(ends.min()), float(ends.max()))

    def _seen(self, images: Tensor) -> Tensor:
        return self._ready(images).seen(images)

    def _ready(self, images: Tensor) -> Encoder:
        shape = tuple(images.shape[1:])
        if shape not in self._encoders:
            if self.encoding is None or len(shape) != 3:
                raise InputError(f"images of shape {shape} cannot be encoded; give three axes")
            channels, height, width = shape
            encoder = Encoder(self.encoding, (channels, height, width), self._low_high)
            self._encoders = {shape: encoder}  # a run shows one shape
        return self._encoders[shape]
