"""The state of an ascent: where each row, one pseudo sample, stands."""

from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.settings import AscentPlan
from db3kd.errors import InputError
from db3kd.search.descent import Walk


class Ending(IntEnum):
    """How the ascent of one row stands, or ended.

    GROWING: it may still gain; so it stands when the iterations are over. CONVERGED: its distance
    cannot be further maximised. LIMIT: its query limit is reached. LOST: the teacher no longer
    calls the image its class, or the boundary is at the image. NO_START: no image of another class
    is known, so no boundary either, and nothing was asked.

    >>> Ending(3).name
    'LOST'
    """

    GROWING = 0
    CONVERGED = 1
    LIMIT = 2
    LOST = 3
    NO_START = 4


@dataclass(frozen=True)
class Ascent:
    """Where each row stands after `iteration` iterations.

    `image` was shown to the teacher, which called it `own`. `walk` has the nearest confirmed point
    across, its distance, and what the row spent of its limit in all. `step` is the length of its
    last step, 0 where none held its class, `best` the largest distance found by a search, `misses`
    the iterations in a row without gain, `status` an `Ending`. `past` has the nearest points of
    earlier iterations, that of iteration i at i modulo their number.

    >>> begin(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), AscentPlan())
    Ascent(2 rows after 0 iterations)
    """

    image: Float[Tensor, "row *image"]
    teacher_labels: Int[Tensor, " row"]
    walk: Walk
    step: Float[Tensor, " row"]
    best: Float[Tensor, " row"]
    misses: Int[Tensor, " row"]
    status: Int[Tensor, " row"]
    iteration: int
    past: Float[Tensor, "row past *image"]

    def __repr__(self) -> str:
        return f"Ascent({len(self.teacher_labels)} rows after {self.iteration} iterations)"

    @property
    def distance(self) -> Float[Tensor, " row"]:
        """From each image to its nearest known point across; +inf where there is none."""
        return self.walk.distance

    @property
    def spent(self) -> Int[Tensor, " row"]:
        """Queries of each row so far."""
        return self.walk.spent


def begin(
    images: Float[Tensor, "row *image"], teacher_labels: Int[Tensor, " answer"], plan: AscentPlan
) -> Ascent:
    """Images and what the teacher called them, before the first iteration; costs no query.

    Raises:
        InputError: not as many answers as images.

    >>> begin(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), AscentPlan()).spent
    tensor([0, 0])
    """
    if len(images) != len(teacher_labels):
        raise InputError(f"{len(images)} images need as many answers, got {len(teacher_labels)}")
    nothing = torch.zeros_like(teacher_labels)
    far = torch.full((len(teacher_labels),), torch.inf, dtype=images.dtype, device=images.device)
    walk = Walk.at(images, far, step=0.0, spent=nothing, limit=plan.queries)
    zero = torch.zeros_like(far)
    past = torch.zeros_like(images)[:, None].repeat(1, plan.remembered, *[1] * (images.ndim - 1))
    return Ascent(images, teacher_labels, walk, zero, zero, nothing, nothing, 0, past)
