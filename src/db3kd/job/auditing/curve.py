"""How many answers it takes until a student agrees with the teacher: a curve and its uncertainty.

The curve has a point for each step: the mean agreement of several students on the test images. It
is made to rise, and is straight between two points, over the logarithm of the answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from db3kd.seeds import derive_seed

DRAWS = 2000  # of the bootstrap
PART = 250  # of them at a time
LEVEL = 0.95  # of all intervals


@dataclass(frozen=True)
class Interval:
    """The middle 95 % of what the bootstrap gives.

    >>> Interval.of(torch.linspace(0.0, 1.0, 201))
    Interval(low=0.025, high=0.975)
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Float[Tensor, " draw"]) -> "Interval":
        """That of some values, which may be infinite."""
        ordered = values.sort().values
        tail = (1 - LEVEL) / 2
        first, last = (tail * (len(ordered) - 1), (1 - tail) * (len(ordered) - 1))
        low, high = ordered[math.floor(first)], ordered[math.ceil(last)]
        return cls(round(float(low), 6), round(float(high), 6))


@dataclass(frozen=True)
class Step:
    """The students of a step.

    - `answers`: how many answers each of them learned from.
    - `agrees`: where each agrees with the teacher, by student and test image.
    """

    answers: int
    agrees: Bool[Tensor, "seed image"]

    @property
    def shares(self) -> list[float]:
        """The agreement of each student."""
        return [float(share) for share in self.agrees.double().mean(1)]


@dataclass(frozen=True)
class Curve:
    """The mean agreement after each step: as it was measured, and in each draw of the bootstrap.

    A draw takes as many test images with replacement, the same ones for all students, and at each
    step as many students with replacement. What chance gave the images that were bought is the same
    in all draws.

    >>> flat = Curve.of([Step(10, torch.ones(2, 50).bool()), Step(20, torch.ones(2, 50).bool())])
    >>> flat.answers, flat.mean.tolist(), flat.reached(0.9)[0]
    ([10, 20], [1.0, 1.0], 0.0)
    """

    answers: list[int]
    mean: Float[Tensor, " step"]
    draws: Float[Tensor, "draw step"]

    @classmethod
    def of(cls, steps: Sequence[Step], *, draws: int = DRAWS, seed: int = 0) -> "Curve":
        """The curve of some steps, in ascending order; random by `seed`: the draws.

        Those of a step do not depend on the steps after it.
        """
        draw = torch.Generator().manual_seed(derive_seed(seed, "images"))
        picks = [
            torch.Generator().manual_seed(derive_seed(seed, "students", step.answers))
            for step in steps
        ]
        images = steps[0].agrees.shape[1]
        found = []
        for begin in range(0, draws, PART):
            count = min(PART, draws - begin)
            rows = torch.randint(images, (count, images), generator=draw)
            weights = torch.zeros(count, images)
            weights.scatter_add_(1, rows, torch.ones(count, images))
            weights /= images
            each = zip(steps, picks, strict=True)
            found.append(torch.stack([_drawn(s.agrees, weights, pick) for s, pick in each], dim=1))
        mean = torch.tensor([sum(step.shares) / len(step.shares) for step in steps])
        return cls([step.answers for step in steps], mean, torch.cat(found))

    def interval(self, step: int) -> Interval:
        """Of the mean agreement of a step."""
        return Interval.of(self.draws[:, step].clamp(0.0, 1.0))

    def reached(self, target: float) -> tuple[float, Interval]:
        """After how many answers the mean agreement is `target`, with its interval.

        0 is at or before the first step, infinity is after the last one.
        """
        mine = float(crossing(self.answers, self.mean[None], target)[0])
        return mine, Interval.of(crossing(self.answers, self.draws, target))


def _drawn(
    agrees: Bool[Tensor, "seed image"], weights: Float[Tensor, "draw image"], draw: torch.Generator
) -> Float[Tensor, " draw"]:
    """The mean agreement of a step in each draw.

    The deviations of a few students from their mean are smaller than those from the true mean. They
    are stretched accordingly.
    """
    shares = weights @ agrees.float().T
    count = agrees.shape[0]
    picked = torch.randint(count, shares.shape, generator=draw)
    centre = shares.mean(1)
    if count == 1:
        return centre
    apart = shares.gather(1, picked).mean(1) - centre
    return centre + apart * math.sqrt(count / (count - 1))


def rising(curves: Float[Tensor, "curve step"]) -> Float[Tensor, "curve step"]:
    """The nearest curves, by least squares, that never fall (isotonic regression).

    >>> rising(torch.tensor([[0.5, 0.9, 0.7, 1.0]]))
    tensor([[0.5000, 0.8000, 0.8000, 1.0000]])
    """
    count = curves.shape[1]
    sums = torch.cat([torch.zeros(len(curves), 1), curves.cumsum(1)], dim=1)
    found = torch.empty_like(curves)
    for at in range(count):
        best = torch.full((len(curves),), -torch.inf)
        for first in range(at + 1):
            ends = torch.arange(at + 1, count + 1)
            means = (sums[:, ends] - sums[:, first, None]) / (ends - first)
            best = torch.maximum(best, means.amin(1))
        found[:, at] = best
    return found


def crossing(
    answers: Sequence[int], curves: Float[Tensor, "curve step"], target: float
) -> Float[Tensor, " curve"]:
    """Where curves that are made to rise cross a target; 0 before their beginning, else infinity.

    >>> curves = torch.tensor([[0.5, 0.7, 0.9], [0.8, 0.9, 0.95], [0.1, 0.2, 0.3]])
    >>> crossing([100, 200, 400], curves, 0.8).round()
    tensor([283.,   0.,  inf])
    """
    curves = rising(curves)
    logs = torch.tensor(answers, dtype=torch.float32).log()
    found = torch.full((len(curves),), torch.inf)
    for at in range(len(answers) - 1, 0, -1):
        low, high = curves[:, at - 1], curves[:, at]
        share = ((target - low) / (high - low).clamp_min(1e-12)).clamp(0.0, 1.0)
        here = (logs[at - 1] + share * (logs[at] - logs[at - 1])).exp()
        found = torch.where(high >= target, here, found)
    return torch.where(curves[:, 0] >= target, torch.zeros(()), found)
