"""Geometry of one decision boundary: which side a point is on, points on a ray, bisection.

A row is one (sample, class) pair: an origin inside the sample's own class and a criterion that says
what counts as the other side. Everything here works on many rows at once; a row's result never
depends on the others. Points are clipped to the teacher's bounds in one place, `along`; a
distance is always of a point that the teacher was really shown, or of a real reference image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from db3kd.teachers.base import Bounds, Teacher
from db3kd.teachers.noisy.flips import check_share

Asks = Callable[[Tensor, Tensor], Tensor]
"""(points, row of each point) -> is each point on the other side? One query a point."""

MOST_HALVINGS = 30  # float32 cannot tell the ends of a bracket apart much earlier


@runtime_checkable
class Criterion(Protocol):
    """What counts as the other side, for each row."""

    def met(self, answers: Int[Tensor, " probe"], rows: Int[Tensor, " probe"]) -> Tensor:
        """Whether the teacher's answer puts a probe of that row on the other side."""


@dataclass(frozen=True)
class Reaches:
    """The other side is where the teacher answers the row's target class (Eq. 5).

    >>> Reaches(torch.tensor([3, 7])).met(torch.tensor([7, 7]), torch.tensor([0, 1]))
    tensor([False,  True])
    """

    target: Int[Tensor, " row"]

    def met(self, answers: Int[Tensor, " probe"], rows: Int[Tensor, " probe"]) -> Tensor:
        """Whether the answer is the target of its row."""
        return answers == self.target[rows]


@dataclass(frozen=True)
class Leaves:
    """The other side is where the teacher answers anything but the row's own class (Eq. 8).

    >>> Leaves(torch.tensor([3, 7])).met(torch.tensor([7, 7]), torch.tensor([0, 1]))
    tensor([ True, False])
    """

    own: Int[Tensor, " row"]

    def met(self, answers: Int[Tensor, " probe"], rows: Int[Tensor, " probe"]) -> Tensor:
        """Whether the answer differs from the own class of its row."""
        return answers != self.own[rows]


def asker(teacher: Teacher, criterion: Criterion) -> Asks:
    """Close over teacher and criterion: a search sees sides, never labels.

    Costs one query a point.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> asks = asker(bright, Reaches(torch.tensor([1])))
    >>> asks(torch.tensor([0.2, 0.9]).reshape(2, 1, 1, 1), torch.tensor([0, 0]))
    tensor([False,  True])
    """

    def asks(points: Tensor, rows: Tensor) -> Tensor:
        if not len(points):
            return torch.zeros(0, dtype=torch.bool, device=points.device)
        return criterion.met(teacher.labels(points), rows)

    return asks


def per_row(values: Shaped[Tensor, " row"], images: Float[Tensor, "row *image"]) -> Tensor:
    """Shape one value a row so that it multiplies whole images.

    >>> per_row(torch.ones(5), torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 1, 1, 1])
    """
    return values.reshape(-1, *[1] * (images.ndim - 1))


def norm(images: Float[Tensor, "row *image"]) -> Float[Tensor, " row"]:
    """Euclidean norm of each image, not divided by the dimension.

    >>> norm(torch.ones(2, 1, 2, 2))
    tensor([2., 2.])
    """
    length: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return length


def shown(
    points: Float[Tensor, "row *image"], bounds: tuple[float, float]
) -> Float[Tensor, "row *image"]:
    """The points as the teacher sees them: clipped, in place, and rounded if it does that.

    >>> shown(torch.tensor([[-0.5, 0.25]]), (0.0, 1.0))
    tensor([[0.0000, 0.2500]])
    >>> from db3kd.teachers.base import Bounds
    >>> shown(torch.tensor([[-0.5, 0.75]]), Bounds(0.0, 1.0, seen=torch.round, level=1.0))
    tensor([[0., 1.]])
    """
    points.clamp_(*bounds)
    return bounds.seen(points) if isinstance(bounds, Bounds) else points


def as_seen(
    images: Float[Tensor, "row *image"], bounds: tuple[float, float]
) -> Float[Tensor, "row *image"]:
    """Real images as the teacher sees them: the very same, unless it sees less than there is.

    >>> as_seen(torch.tensor([[0.25]]), (0.0, 1.0))
    tensor([[0.2500]])
    """
    return bounds.seen(images) if isinstance(bounds, Bounds) else images


def level_of(bounds: tuple[float, float]) -> float:
    """The smallest difference that the teacher sees in one pixel; 0 where it sees any.

    >>> level_of((0.0, 1.0))
    0.0
    """
    return bounds.level if isinstance(bounds, Bounds) else 0.0


def finest(tolerance: Tensor | float, bounds: tuple[float, float]) -> Tensor | float:
    """A tolerance, but no finer than what the teacher sees.

    >>> finest(0.25, (0.0, 1.0))
    0.25
    """
    level = level_of(bounds)
    return torch.as_tensor(tolerance).clamp_min(level) if level else tolerance


def between(
    origin: Float[Tensor, "row *image"],
    far: Float[Tensor, "row *image"],
    share: Float[Tensor, " row"],
    bounds: tuple[float, float],
) -> Float[Tensor, "row *image"]:
    """The point at `share` of the way from origin to far, as it is `shown` (the ray of Eq. 3).

    >>> between(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([0.25]), (0.0, 1.0))
    tensor([[[[0.2500]]]])
    """
    return along(origin, far - origin, share, bounds)


def along(
    origin: Float[Tensor, "row *image"],
    span: Float[Tensor, "row *image"],
    share: Float[Tensor, " row"],
    bounds: tuple[float, float],
) -> Float[Tensor, "row *image"]:
    """As `between`, with the span from origin to the far end already there.

    >>> along(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([0.25]), (0.0, 1.0))
    tensor([[[[0.2500]]]])
    """
    return shown(torch.addcmul(origin, per_row(share, span), span), bounds)


def halvings(width: Float[Tensor, " row"], tolerance: Tensor | float) -> Int[Tensor, " row"]:
    """How many halvings bring a bracket of this width down to the tolerance, at most 30.

    >>> halvings(torch.tensor([1.0, 0.25, 1e-9]), 0.125)
    tensor([3, 1, 0])
    """
    times = torch.log2(width / tolerance).ceil().clamp(0, MOST_HALVINGS)
    return torch.where(width > tolerance, times, 0.0).long()


@dataclass(frozen=True)
class Bracket:
    """A crossing between `near` (a share of the way to `point`, not across) and `point` (across).

    `asked` counts the queries of each row.
    """

    point: Float[Tensor, "row *image"]
    near: Float[Tensor, " row"]
    asked: Int[Tensor, " row"]


def bisect(
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    far: Float[Tensor, "row *image"],
    *,
    near: Float[Tensor, " row"],
    rows: Int[Tensor, " row"],
    times: Int[Tensor, " row"],
    bounds: tuple[float, float],
) -> Bracket:
    """Halve the bracket between a near share and a far point that is across (Eq. 3).

    The ends are `near` (share of the way, taken as not across) and 1. Each row is halved `times`
    times, whatever the others do. Costs `times` queries a row, fewer where the teacher does not see
    every value: a middle that it sees as one of the ends is not asked, and of the points found
    across the nearest is returned, since one farther in may be seen farther out. Nothing is random.

    >>> asks = lambda points, rows: points.flatten(1)[:, 0] > 0.3
    >>> start, one = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    >>> found = bisect(asks, start, start + 1, near=torch.zeros(1), rows=one,
    ...                times=torch.tensor([10]), bounds=(0.0, 1.0))
    >>> round(found.point.item(), 3), found.asked.item()
    (0.301, 10)
    """
    order = times.argsort(descending=True, stable=True)  # rows still to be halved come first
    back, rows, near = order.argsort(), rows[order], near[order]
    origin, point = origin.index_select(0, order), far.index_select(0, order)
    span, high, asked = point - origin, torch.ones_like(near), torch.zeros_like(times)
    ends = _Ends(along(origin, span, near, bounds), point.clone()) if level_of(bounds) else None
    for done in range(int(times.max()) if len(times) else 0):
        live = slice(int((times > done).sum()))
        share = (near[live] + high[live]) / 2
        middle = along(origin[live], span[live], share, bounds)
        if ends is None:
            across, better = asks(middle, rows[live]), None
            asked[live] += 1
        else:
            across, fresh = ends.ask(asks, middle, rows[live], live)
            better = across & (norm(middle - origin[live]) < norm(point[live] - origin[live]))
            asked[live] += fresh
        taken = per_row(across if better is None else better, middle)
        point[live] = torch.where(taken, middle, point[live])
        high[live] = torch.where(across, share, high[live])
        near[live] = torch.where(across, near[live], share)
    return Bracket(point.index_select(0, back), (near / high)[back], asked[back])


@dataclass(frozen=True)
class _Ends:
    """Both ends of some brackets as a teacher that does not see every value sees them."""

    near: Tensor
    far: Tensor

    def ask(self, asks: Asks, middle: Tensor, rows: Tensor, live: slice) -> tuple[Tensor, Tensor]:
        """Which middles are across, and which had to be asked; they become the ends."""
        across = (middle == self.far[live]).flatten(1).all(1)
        fresh = ~across & (middle != self.near[live]).flatten(1).any(1)
        across[fresh] = asks(middle[fresh], rows[fresh])
        self.far[live] = torch.where(per_row(across, middle), middle, self.far[live])
        self.near[live] = torch.where(per_row(across, middle), self.near[live], middle)
        return across, fresh


def questions(times: Int[Tensor, " row"], flips: float) -> Int[Tensor, " row"]:
    """How many questions say as much as `times` halvings, where a share of the answers is flipped.

    Such an answer tells 1 - H(flips) bits (Shannon 1948), a halving is one bit. Costs no query.

    Raises:
        InputError: half of the answers or more are flipped.

    >>> questions(torch.tensor([0, 10]), 0.0), questions(torch.tensor([0, 10]), 0.05)
    (tensor([ 0, 10]), tensor([ 0, 15]))
    """
    check_share(flips)
    if not flips:
        return times
    doubt = -(flips * math.log2(flips) + (1 - flips) * math.log2(1 - flips))
    return (times / (1 - doubt)).ceil().to(times.dtype)


def bisect_noisy(
    asks: Asks,
    origin: Float[Tensor, "row *image"],
    far: Float[Tensor, "row *image"],
    *,
    near: Float[Tensor, " row"],
    rows: Int[Tensor, " row"],
    times: Int[Tensor, " row"],
    bounds: tuple[float, float],
    flips: float,
) -> Bracket:
    """As `bisect`, where a share of the answers is flipped (Horstein 1963).

    Probabilistic bisection: at first the crossing may be anywhere between the ends. Each question
    is at the median; then one side weighs 1 - flips, the other `flips`. So a wrong answer is made
    good by later ones, and as no image is asked twice on purpose, also where an image is always
    answered wrongly. The point is the nearest that was across, of those beyond the median, or
    `far`. Costs `times` queries a row; see `questions`. Nothing is random. Without flips it is
    `bisect`, bit by bit.

    Raises:
        InputError: half of the answers or more are flipped.

    >>> wrong = [False, True] + [False] * 18  # the second answer
    >>> asks = lambda points, rows: (points.flatten(1)[:, 0] > 0.3) ^ wrong.pop(0)
    >>> start, one = torch.zeros(1, 1, 1, 1), torch.tensor([0])
    >>> found = bisect_noisy(asks, start, start + 1, near=torch.zeros(1), rows=one,
    ...                      times=torch.tensor([20]), bounds=(0.0, 1.0), flips=0.1)
    >>> round(found.point.item(), 3), found.asked.item()
    (0.3, 20)
    """
    check_share(flips)
    if not flips:
        return bisect(asks, origin, far, near=near, rows=rows, times=times, bounds=bounds)
    order = times.argsort(descending=True, stable=True)  # as in `bisect`
    back, rows, near = order.argsort(), rows[order], near[order]
    origin, far = origin.index_select(0, order), far.index_select(0, order)
    most, span = int(times.max()) if len(times) else 0, far - origin
    shares = torch.full((len(times), most), torch.inf, dtype=near.dtype, device=near.device)
    across = torch.zeros_like(shares, dtype=torch.bool)
    for done in range(most):
        live = slice(int((times > done).sum()))
        share = _Posterior(near[live], shares[live, :done], across[live, :done], flips).median
        probe = along(origin[live], span[live], share, bounds)
        shares[live, done], across[live, done] = share, asks(probe, rows[live])
    high, low = _Posterior(near, shares, across, flips).ends
    point = torch.where(per_row(high < 1, far), along(origin, span, high, bounds), far)
    return Bracket(point.index_select(0, back), (low / high)[back], times)


class _Posterior:
    """Where a crossing is between `near` and 1, after some answers; unasked shares are +inf."""

    def __init__(self, near: Tensor, shares: Tensor, across: Tensor, flips: float) -> None:
        self.near, (self.shares, order) = near, shares.sort(dim=1, stable=True)
        self.across = across.gather(1, order)
        self.short = ~self.across & self.shares.isfinite()
        edges = torch.cat([near[:, None], self.shares, torch.ones_like(near)[:, None]], 1)
        self.edges = edges.double().clamp(max=1.0)
        says_below = self.across.flip(1).cumsum(1).flip(1)  # of the answers at a share or beyond
        agree = F.pad(self.short.cumsum(1), (1, 0)) + F.pad(says_below, (0, 1))
        doubt = (agree.amax(1, keepdim=True) - agree) * math.log((1 - flips) / flips)
        weight = self.edges.diff(dim=1) * (-doubt).exp()
        self.below = F.pad(weight.cumsum(1), (1, 0))  # each edge
        self.half = self.below[:, -1:] / 2

    @property
    def median(self) -> Tensor:
        """The share below which it is with even odds."""
        piece = (self.below[:, 1:-1] < self.half).sum(1, keepdim=True)
        (start, end), (before, after) = (
            (of.gather(1, piece), of.gather(1, piece + 1)) for of in (self.edges, self.below)
        )
        into = (self.half - before) / (after - before).clamp_min(1e-300)
        return (start + into * (end - start))[:, 0].to(self.near.dtype)

    @property
    def ends(self) -> tuple[Tensor, Tensor]:
        """The nearest share that was across and is likely beyond it, and the next that was not."""
        likely = self.below[:, 1:-1] >= self.half
        beyond = F.pad(self.shares.masked_fill(~(self.across & likely), 1.0), (0, 1), value=1.0)
        before = self.shares.masked_fill(~self.short | likely, -torch.inf)
        near = torch.cat([self.near[:, None], before], 1).amax(1)
        return beyond.amin(1), near
