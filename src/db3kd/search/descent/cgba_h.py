"""CGBA-H: the angle on a semicircle (Reza et al., CGBA, ICCV 2023).

In the plane of origin, point and normal, the foot of the perpendicular to a flat boundary lies on
the semicircle over origin and point; its part before the foot is across, the rest is not. So the
angle is found by single queries on the arc, each of which, where across, is already a nearer
point. The variant H, for targeted searches and strongly curved boundaries, begins near the point.

Where this differs from the paper: what `tangent` says of all the descents; the first angle tried is
the row's own, a little more than its last one, and is then enlarged or reduced, instead of one
fixed angle that is halved; two halvings refine it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from db3kd.search.descent.planar import Bracketing, Planar
from db3kd.search.descent.tangent import Plane
from db3kd.search.descent.walk import Walk

ARC = Bracketing(tries=9, refinements=2, larger=1.6, smaller=0.4, least=1e-3, most=1.45)  # radians
AGAIN = 1.3  # the next step, as a multiple of the angle found


@dataclass(frozen=True)
class CgbaH(Planar):
    """Estimate the normal, find the angle on the semicircle, move in to the boundary, repeat.

    The settings are `Planar`'s; `first_step` is an angle in radians.

    >>> CgbaH().probes_at(3)
    60
    """

    def move(self, walk: Walk, plane: Plane, least: Tensor) -> tuple[Walk, Tensor, Tensor]:
        """The largest angle on the arc that is across."""

        def turn(walk: Walk, some: Tensor, angle: Tensor) -> tuple[Walk, Tensor]:
            return plane.turn(walk, some, angle, plane.distance[some] * angle.cos())

        walk, angle, above = ARC.largest(walk, plane, turn)
        moved = angle > 0
        step = torch.where(
            moved, (AGAIN * angle).clamp(max=ARC.most), walk.step[plane.rows] / 2
        ).clamp(min=ARC.least)
        above = torch.where(torch.isfinite(above), above, ARC.most)
        expected = torch.maximum(angle * (above - angle), least)
        return walk.put(plane.rows, step=step), moved, expected[moved]
