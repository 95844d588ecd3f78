"""What a descent does where the teacher does not see every value (`db3kd.teachers.base.Bounds`)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.search.boundary import Asks, level_of

JUST_BELOW = 1 - 2.0**-18  # of the present distance, so that rounding never lengthens it


def just_below(
    distance: Float[Tensor, " row"], bounds: tuple[float, float]
) -> Float[Tensor, " row"]:
    """Where a new ray is asked: a little nearer, and a grey level where the teacher rounds.

    Else rounding alone would put half of the points farther out.

    >>> just_below(torch.tensor([2.0]), (0.0, 1.0)) < 2
    tensor([True])
    """
    return (JUST_BELOW * distance - level_of(bounds)).clamp_min(0.0)


def asks_nearer(
    asks: Asks,
    points: Float[Tensor, "row *image"],
    rows: Int[Tensor, " row"],
    nearer: Bool[Tensor, " row"],
    bounds: tuple[float, float],
) -> tuple[Bool[Tensor, " row"], Int[Tensor, " row"]]:
    """Ask each point whose answer can help: which are across, and the queries of each.

    Where the teacher does not see every value, a point may be seen farther out than it was meant
    to be; one that is not `nearer` then is taken as not across, for no query.

    >>> asks = lambda points, rows: points.flatten(1)[:, 0] > 0.5
    >>> from db3kd.teachers.base import Bounds
    >>> rounds = Bounds(0.0, 1.0, seen=torch.round, level=1.0)
    >>> asks_nearer(asks, torch.ones(2, 1), torch.arange(2), torch.tensor([True, False]), rounds)
    (tensor([ True, False]), tensor([1, 0]))
    """
    if not level_of(bounds):
        return asks(points, rows), torch.ones_like(rows)
    across = torch.zeros_like(nearer)
    across[nearer] = asks(points[nearer], rows[nearer])
    return across, nearer.long()
