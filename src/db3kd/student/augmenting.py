"""Augmentation while a network is trained: each batch is changed at random before it is shown.

Changes of one image are those of kornia; joining two images is a few lines. Nothing here asks a
teacher: a changed image keeps the label of the one that it was made of.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.settings import TrainingAugmentation
from db3kd.errors import InputError, hint
from db3kd.student.networks import seeded

EDGE = 8  # an image is moved by at most this part of its sides
DEGREES = 15.0
LIGHT = 0.3  # brightness, contrast and saturation change by this share, at most
ERASED = (0.02, 0.2)  # of the area, smallest and largest
OFTEN = 0.5  # how often a change is made that happens or does not: flip, erase

Step = Callable[[Tensor], Tensor]
_JOINING = ("mixup", "cutmix")


@dataclass(frozen=True)
class Augmented:
    """A batch as it is shown, and whose labels count.

    Without `partner` each image has its own label. With it, the loss of a row is
    share * loss(own label) + (1 - share) * loss(label of the row `partner`).
    """

    images: Float[Tensor, "row channels height width"]
    partner: Int[Tensor, " row"] | None = None
    share: Float[Tensor, " row"] | None = None


class Augmenter:
    """Changes the images of a batch at random, all in the named ways.

    The order is always the same, whatever that of the names: crop, shift and rotate, flip, colour,
    erase, then mixup (Zhang et al., 2018) or cutmix (Yun et al., 2019), both with alpha = 1. If
    both are named, each batch draws one of them. `docs/students.md` says what each change does.
    `shape` is (channels, height, width); images hold 0 to 1.

    Costs no query. Random: the seed of each call alone, drawn on the CPU for any device.

    Raises:
        InputError: a side has fewer than 2 pixels, or the extra "augment", which
            all but mixup and cutmix need, is not installed.

    >>> images = torch.eye(4).reshape(4, 1, 2, 2)
    >>> made, again = (Augmenter(("mixup",), (1, 2, 2))(images, seed=3) for _ in range(2))
    >>> torch.equal(made.images, again.images), sorted(made.partner.tolist())
    (True, [0, 1, 2, 3])
    """

    def __init__(self, names: Collection[TrainingAugmentation], shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or min(shape[1:]) < 2:
            raise InputError(f"augmentation needs images of at least 2x2 pixels, got {shape}")
        self._steps = _steps(names, shape) if set(names) - set(_JOINING) else []
        self._joining = [name for name in _JOINING if name in names]

    def __call__(self, images: Float[Tensor, "row channels height width"], seed: int) -> Augmented:
        """Return changed images, of the same shape and on the same device, and whose labels count.

        The images given are left as they are, and so are PyTorch's generators.
        """
        with torch.no_grad(), seeded(seed):
            for step in self._steps:
                images = step(images)
            if not self._joining:
                return Augmented(images.clamp(0, 1))
            joining = self._joining[int(torch.randint(len(self._joining), ()))]
            partner = torch.randperm(len(images))
            join = _mixed if joining == "mixup" else _cut
            joined, share = join(images, images[partner.to(images.device)])
        place = images.device
        return Augmented(joined.clamp(0, 1), partner.to(place), share.to(place))


def _steps(names: Collection[str], shape: tuple[int, ...]) -> list[Step]:
    """The changes of single images, in order."""
    try:
        import kornia.augmentation as kornia
    except ImportError:
        raise InputError(f"augmentation is made by the extra: {hint('augment')}") from None
    channels, *sides = shape
    height, width = sides
    steps: list[Step] = []
    if "crop" in names:
        down, across = (-(-side // EDGE) for side in sides)
        steps.append(kornia.RandomCrop((height, width), (across, down), padding_mode="reflect"))
    if "shift" in names or "rotate" in names:
        by = (1 / EDGE, 1 / EDGE) if "shift" in names else None
        degrees = DEGREES if "rotate" in names else 0.0
        steps.append(kornia.RandomAffine(degrees, by, padding_mode="border", p=1.0))
    if "flip" in names:
        steps.append(kornia.RandomHorizontalFlip(p=OFTEN))
    if "colour" in names:
        saturation = LIGHT if channels == 3 else 0.0
        steps.append(kornia.ColorJitter(LIGHT, LIGHT, saturation, p=1.0))
    if "erase" in names:
        steps.append(kornia.RandomErasing(ERASED, p=OFTEN))
    return steps


def _mixed(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each image with its partner, by a share drawn evenly from 0 to 1."""
    share = torch.rand(len(images))
    return torch.lerp(others, images, share.to(images.device).reshape(-1, 1, 1, 1)), share


def _cut(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Put a rectangle of the partner, of an area drawn evenly, at the same place of each image."""
    height, width = images.shape[2:]
    side = torch.rand(len(images), 1).sqrt()

    def inside(size: int) -> Tensor:
        length = (side * size).round()
        start = (torch.rand_like(side) * (size - length + 1)).floor()
        place = torch.arange(size)
        return (place >= start) & (place < start + length)

    down, across = inside(height), inside(width)
    patch = (down[:, :, None] & across[:, None, :])[:, None]
    share = 1 - patch.float().mean((1, 2, 3))
    return torch.where(patch.to(images.device), others, images), share
