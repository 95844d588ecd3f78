"""TtBA: a blend of ray and normal, two thirds of the way to the bridge (ICML 2025).

With the new direction k normal + (1 - k) ray, k_bridge is where it meets the boundary at the
present distance. For a flat boundary the nearest point lies between 0 and k_bridge.

Where this differs from the paper: what `tangent` says of all the descents; k_bridge is bracketed
by single queries to a sixteenth, beginning with the row's last one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from db3kd.search.descent.planar import Bracketing, Planar
from db3kd.search.descent.seen import JUST_BELOW
from db3kd.search.descent.tangent import Plane
from db3kd.search.descent.walk import Walk

BRIDGE = Bracketing(tries=8, refinements=2, larger=2.0, smaller=0.25, least=1e-3, most=0.9)  # of k
LONG, SHORT, FEW = 2 / 3, 0.9, 0.1  # shares of the bridge; of bridges shorter than FEW


@dataclass(frozen=True)
class Ttba(Planar):
    """Estimate the normal, find the bridge, go two thirds of the way, bisect, repeat.

    The settings are `Planar`'s; `first_step` is the first k.

    >>> Ttba().probes_at(3)
    60
    """

    def move(self, walk: Walk, plane: Plane, least: Tensor) -> tuple[Walk, Tensor, Tensor]:
        """The bridge, then two thirds of the way to it."""

        def turn(walk: Walk, some: Tensor, blend: Tensor) -> tuple[Walk, Tensor]:
            distance = JUST_BELOW * walk.distance[plane.rows[some]]
            return plane.turn(walk, some, _angle(blend), distance)

        walk, bridge, _ = BRIDGE.largest(walk, plane, turn)
        met = bridge > 0
        step = torch.where(met, bridge, walk.step[plane.rows] / 4)
        walk = walk.put(plane.rows, step=step.clamp(BRIDGE.least, BRIDGE.most))
        some = (met & (walk.left[plane.rows] > 0)).nonzero()[:, 0]
        share = torch.where(bridge < FEW, SHORT, LONG) * bridge
        walk, _ = turn(walk, some, share[some])
        expected = torch.maximum(1.5 * (1 - (_angle(bridge) / 2).cos()), least)
        return walk, met, expected[met]


def _angle(blend: Tensor) -> Tensor:
    """By how much k normal + (1 - k) ray turns the ray."""
    return torch.atan2(blend, 1 - blend)
