"""A local teacher behind 8 bits or JPEG: what a remote one sees, without any server."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.remote import Encoding
from db3kd.teachers.base import Teacher, identity_of, names_of, unsure_of
from db3kd.teachers.encoding import Encoder, searched
from db3kd.teachers.parts import Keeper, ask


@dataclass(frozen=True)
class _Quantised:
    teacher: Teacher
    seen: Callable[[Tensor], Tensor]
    bounds: tuple[float, float]

    @property
    def classes(self) -> int:
        return self.teacher.classes

    @property
    def names(self) -> tuple[str, ...] | None:
        return names_of(self.teacher)

    @property
    def unsure(self) -> int | None:
        return unsure_of(self.teacher)

    @property
    def identity(self) -> dict[str, str]:
        return identity_of(self.teacher)

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        return self.teacher.labels(self.seen(images))

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        ask(self.teacher, self.seen(images), keeper)


def quantised(teacher: Teacher, encoding: Encoding, shape: tuple[int, int, int]) -> Teacher:
    """Show a teacher only what is left of images of this shape once they are encoded.

    It is what `db3kd.teachers.remote.remote` does with the same encoding, without a server: PNG
    (ISO/IEC 15948) and "uint8" keep 256 grey levels, JPEG (ISO/IEC 10918) less. Its `bounds` are
    `db3kd.teachers.base.Bounds`, so that searches ask only for images that it sees as they are, and
    distances are of these. Size, channels and numbers of the encoding say how images are sent; a
    local teacher is shown its own shape, in its own units.

    `shape` is (channels, height, width). Costs one query an image. Nothing is random.

    Raises:
        InputError: settings that contradict each other or the images; when asked, another shape.

    >>> import torch
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> teacher = quantised(bright, Encoding(), (1, 1, 1))
    >>> teacher.labels(torch.tensor([0.499, 0.4999]).reshape(2, 1, 1, 1))  # seen as 127 and 127.5
    tensor([0, 0])
    """
    low, high = teacher.bounds
    encoder = Encoder(encoding, shape, (low, high))
    once = partial(encoder.seen, times=1)
    return _Quantised(teacher, once, searched(encoding, (low, high), once))
