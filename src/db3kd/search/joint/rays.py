"""All classes of many images at once: rays are proposed, the teacher verifies, one row at a time.

A row is a (sample, class) pair. In each question every live row shows one point: it tries its ray,
or halves the bracket of a ray that is across. A ray that is not across below the row's best
distance is given up after a query or two. Every answer counts for the class that it names, whoever
asked.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.search.boundary import level_of, norm, per_row
from db3kd.search.joint.asked import Record, at
from db3kd.search.joint.front import Front
from db3kd.teachers.base import Teacher

WORTH_ASKING = 0.995  # of the best distance: what is nearer by less is not worth a question


@dataclass(frozen=True)
class Rays:
    """Where some rows are to ask next.

    `direction` is a unit vector, `guess` the distance along it to ask first, `floor` one that is
    taken as too near, `growth` the factor of the next guess after a miss. A `guess` of +inf means
    that the row has nothing to propose.
    """

    direction: Float[Tensor, "row *image"]
    guess: Float[Tensor, " row"]
    floor: Float[Tensor, " row"]
    growth: Float[Tensor, " row"]

    @classmethod
    def towards(
        cls,
        origin: Float[Tensor, "row *image"],
        far: Float[Tensor, "row *image"],
        *,
        guess: float,
        floor: float,
        growth: float,
    ) -> "Rays":
        """Towards a point, the distances as shares of the way to it."""
        span = far - origin
        length = norm(span)
        direction = span / per_row(length.clamp(min=1e-12), span)
        length = torch.where(length > 0, length, torch.inf)
        return cls(direction, guess * length, floor * length, torch.full_like(length, growth))

    @classmethod
    def none(cls, origin: Float[Tensor, "row *image"]) -> "Rays":
        """Nothing to propose, for as many rows."""
        return cls.towards(origin, origin, guess=1.0, floor=1.0, growth=1.0)

    def starting(self, guess: Float[Tensor, " row"]) -> "Rays":
        """The same rays, with other first distances."""
        return replace(self, guess=guess)

    def put(self, rows: Int[Tensor, " some"], part: "Rays") -> None:
        """Replace the rays of some rows, in place."""
        self.direction[rows], self.guess[rows] = part.direction, part.guess
        self.floor[rows], self.growth[rows] = part.floor, part.growth


Propose = Callable[[Tensor, Tensor, Tensor], Rays]
"""(rows, ray number of each, whether its last ray was across) -> the next ray of each row."""


def verify(
    teacher: Teacher,
    front: Front,
    sample: Int[Tensor, " row"],
    target: Int[Tensor, " row"],
    propose: Propose,
    record: Record,
    *,
    allowance: Int[Tensor, " row"],
    precision: float,
) -> None:
    """Ask along proposed rays until each row has used its allowance or has no more proposals.

    Distances only fall, in `front`, and what is asked is taken down in `record`. A bracket is
    halved down to `precision`, a share of the distance. Costs at most `allowance` queries a row.
    Nothing is random.

    Raises:
        BudgetExhausted, TeacherError: from the teacher.
    """
    device = sample.device
    count = len(sample)
    left = allowance.clone()
    number, ray = (torch.zeros(count, dtype=torch.int64, device=device) for _ in range(2))
    won = torch.zeros(count, dtype=torch.bool, device=device)
    unstarted = torch.ones(count, dtype=torch.bool, device=device)
    direction = torch.zeros_like(front.origin[sample], dtype=torch.half)
    guess, low, high, growth = (torch.zeros(count, device=device) for _ in range(4))
    finest = level_of(teacher.bounds)
    for _ in range(int(allowance.max()) if count else 0):
        rows = (unstarted & (left > 0)).nonzero()[:, 0]
        if len(rows):
            rays = propose(rows, number[rows], won[rows])
            direction[rows], low[rows], growth[rows] = (
                rays.direction.half(),
                rays.floor,
                rays.growth,
            )
            best = front.distance[sample[rows], target[rows]]
            guess[rows] = torch.minimum(rays.guess, WORTH_ASKING * best)
            left[rows] = torch.where(rays.guess.isinf(), 0, left[rows])
            high[rows], won[rows], unstarted[rows] = torch.inf, False, False
            number[rows] += 1
            some = rows[left[rows] > 0]
            ray[some] = record.rays(direction[some])
        live = (left > 0).nonzero()[:, 0]
        if not len(live):
            break
        here, start = guess[live], front.origin[sample[live]]
        points = at(start, direction[live], here, teacher.bounds)
        answers = teacher.labels(points)
        record.answered(front, points, sample[live], answers, ray=ray[live], share=here)
        front.spent.index_put_((sample[live], target[live]), torch.ones_like(live), accumulate=True)
        left[live] -= 1
        across = answers == target[live]
        won[live] |= across
        high[live] = torch.where(across, here, high[live])
        low[live] = torch.where(across, torch.minimum(low[live], here), here)
        best = front.distance[sample[live], target[live]]
        farther = torch.minimum(here * growth[live], WORTH_ASKING * best)
        middle = (low[live] + high[live]) / 2
        guess[live] = torch.where(won[live], middle, farther)
        unstarted[live] = torch.where(
            won[live],
            high[live] - low[live] <= (precision * high[live]).clamp_min(finest),
            farther <= here * 1.01,
        )
