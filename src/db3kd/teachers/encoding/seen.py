"""What searches need to know of an encoding: which images are seen as they are, and how finely."""

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor

from db3kd.config.remote import Encoding
from db3kd.teachers.base import Bounds
from db3kd.teachers.encoding.encoder import Encoder

STEP = 16  # grey levels to which JPEG rounds low frequencies at quality 50 (ISO/IEC 10918, K.1)


def searched(
    encoding: Encoding, bounds: tuple[float, float], seen: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """The bounds of a teacher that is sent images so, as a search should have them.

    `seen` makes of images what the teacher gets. The level is a grey level; of a JPEG it is the
    step to which its low frequencies are rounded, by the scale that libjpeg makes of the quality.
    Plain bounds where the teacher gets floats. Costs no query.

    >>> searched(Encoding(kind="float32"), (0.0, 1.0), lambda images: images)
    (0.0, 1.0)
    >>> [round(searched(Encoding(kind="jpeg", quality=quality), (0.0, 255.0), abs).level, 1)
    ...  for quality in (100, 90, 75, 25)]
    [1.0, 3.2, 8.0, 32.0]
    """
    if encoding.kind == "float32":
        return bounds
    low, high = bounds
    levels = max(1.0, STEP * _scale(encoding.quality)) if encoding.kind == "jpeg" else 1.0
    return Bounds(low, high, seen=seen, level=levels * (high - low) / 255)


def seen_once(encoding: Encoding, bounds: tuple[float, float], images: Tensor) -> Tensor:
    """What a teacher that is sent images so gets of them, whatever shape they have; no query.

    >>> import torch
    >>> seen_once(Encoding(), (0.0, 255.0), torch.tensor([[[[1.4]]]])).item()
    1.0
    """
    channels, height, width = images.shape[1:]
    return _encoder(encoding, (channels, height, width), bounds).seen(images, times=1)


@lru_cache(maxsize=8)
def _encoder(
    encoding: Encoding, shape: tuple[int, int, int], bounds: tuple[float, float]
) -> Encoder:
    return Encoder(encoding, shape, bounds)


def _scale(quality: int) -> float:
    return 50 / quality if quality < 50 else 2 - quality / 50
