"""Teachers whose boundary distances have a closed form."""

import torch
from torch import Tensor

from db3kd.teacher import Teacher
from db3kd.teachers import function

WIDE = (-50.0, 50.0)  # bounds that nothing here reaches


def half_space(normal: Tensor, offset: float) -> Teacher:
    """Class 1 where normal . x > offset, for a unit normal; the distance is offset - normal . x."""
    return function(
        lambda images: images.flatten(1) @ normal > offset, classes=2, bounds=WIDE
    )


def ball(centre: Tensor, radius: float) -> Teacher:
    """Class 1 inside a ball; from outside the distance is |x - centre| - radius."""
    return function(
        lambda images: (images.flatten(1) - centre).norm(dim=1) < radius, classes=2, bounds=WIDE
    )


def prototypes(points: Tensor) -> Teacher:
    """The nearest prototype's class."""
    return function(
        lambda images: torch.cdist(images.flatten(1), points).argmin(1),
        classes=len(points),
        bounds=WIDE,
    )
