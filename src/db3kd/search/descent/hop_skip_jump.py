"""HopSkipJump: a step along the normal, shrinking with 1/sqrt(t) (Chen et al., IEEE S&P 2020).

Where this differs from the paper: what `tangent` says of all the descents. In particular the step
leaves the ray at a right angle, and its end counts where it is across at the present distance, so
that a ray that cannot gain is given up after one query; the paper accepts any point that is across
and bisects it, which may lengthen the distance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from db3kd.search.descent.planar import Planar
from db3kd.search.descent.seen import JUST_BELOW
from db3kd.search.descent.tangent import Plane
from db3kd.search.descent.walk import Walk

HALVINGS = 7  # of a step, at most


@dataclass(frozen=True)
class HopSkipJump(Planar):
    """Estimate the normal, step by distance/sqrt(t), halve until across, bisect, repeat.

    The settings are `Planar`'s; `first_step` is a share of the distance.

    >>> HopSkipJump().probes_at(3)
    200
    """

    first_probes: int = 100
    first_step: float = 1.0

    def move(self, walk: Walk, plane: Plane, least: Tensor) -> tuple[Walk, Tensor, Tensor]:
        """The longest of the halved steps that is across at the present distance."""
        del least
        step = walk.step[plane.rows]
        shorter = step / (1 + step.square()).sqrt()  # 1/sqrt(t): t grows by one
        walk = walk.put(plane.rows, step=shorter)
        angle, moved = step.atan(), torch.zeros_like(plane.rows, dtype=torch.bool)
        for _ in range(HALVINGS + 1):
            some = (~moved & (walk.left[plane.rows] > 0)).nonzero()[:, 0]
            if not len(some):
                break
            walk, hit = plane.turn(walk, some, angle[some], JUST_BELOW * plane.distance[some])
            moved[some] = hit
            angle[some] = torch.where(hit, angle[some], (angle[some].tan() / 2).atan())
        return walk, moved, 1 - angle[moved].cos()
