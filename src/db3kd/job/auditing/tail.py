"""Where a learning curve goes on to: a power law, fitted to its last steps.

The share of images on which students differ from the teacher is taken as floor + scale / answers **
rate. A floor of 0 is the hopeful reading, since without it every target is reached some day. Both
are extrapolations, and nothing measured says that a curve goes on as it began.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.job.auditing.curve import Curve, Interval

FEWEST = 5  # steps, below which nothing is extrapolated
LAST = 6  # steps that are fitted, at most
RATES = torch.linspace(0.05, 2.0, 79)
MOST = 500  # draws that are fitted
FAR = 10_000_000_000  # answers; more is never


@dataclass(frozen=True)
class Tail:
    """Fitted curves, one for each draw: floor, scale and rate, where answers count in `unit`.

    `hopeful`: the same with a floor of 0.
    """

    unit: float
    fits: Float[Tensor, "draw 3"]
    hopeful: Float[Tensor, "draw 3"]

    @classmethod
    def of(cls, curve: Curve) -> "Tail | None":
        """The tail of a curve; None if it has too few steps.

        >>> answers = [100, 200, 400, 800, 1600]
        >>> law = 0.9 - 4.0 / torch.tensor(answers)
        >>> tail = Tail.of(Curve(answers, law, law.repeat(10, 1)))
        >>> round(tail.limit().high, 3), bool((tail.at(10**9).amax(0) > 0.95).all())
        (0.9, True)
        """
        if len(curve.answers) < FEWEST:
            return None
        last = slice(-LAST, None)
        unit = float(curve.answers[-1])
        places = torch.tensor(curve.answers[last], dtype=torch.float64) / unit
        wrong = 1.0 - curve.draws[:MOST, last].double()
        spread = wrong.var(0).clamp_min(1e-6) if len(wrong) > 1 else torch.ones_like(places)
        fits = [_fitted(places, wrong, 1 / spread, floor=floor) for floor in (True, False)]
        return cls(unit, *fits)

    def at(self, answers: int) -> Float[Tensor, "2 draw"]:
        """The agreement after so many answers, in both readings."""
        readings = [
            1 - (f[:, 0] + f[:, 1] * (answers / self.unit) ** -f[:, 2])
            for f in (self.fits, self.hopeful)
        ]
        return torch.stack(readings).float()

    def limit(self) -> Interval:
        """The agreement that no number of answers exceeds, by the reading with a floor."""
        return Interval.of((1 - self.fits[:, 0]).float())

    def needed(self, target: float) -> Interval:
        """How many answers a target takes, over both readings; infinity if it is never reached."""
        found = []
        for fits in (self.fits, self.hopeful):
            room = 1 - target - fits[:, 0]
            count = self.unit * (fits[:, 1] / room.clamp_min(1e-12)) ** (1 / fits[:, 2])
            found.append(torch.where((room > 0) & (count < FAR), count, torch.inf).float())
        return Interval.of(torch.cat(found))


def _fitted(
    places: Float[Tensor, " step"],
    wrong: Float[Tensor, "draw step"],
    weights: Float[Tensor, " step"],
    *,
    floor: bool,
) -> Float[Tensor, "draw 3"]:
    """Weighted least squares over a grid of rates, with floor and scale of at least 0."""
    best = torch.full((len(wrong),), torch.inf, dtype=torch.float64)
    found = torch.zeros(len(wrong), 3, dtype=torch.float64)
    whole = weights.sum()
    for rate in RATES.double():
        basis = places**-rate
        centre = (weights * basis).sum() / whole
        mean = (wrong * weights).sum(1) / whole
        slope = (wrong - mean[:, None]) * weights @ (basis - centre)
        slope /= (weights * (basis - centre) ** 2).sum()
        start = mean - slope * centre
        alone = (wrong * weights) @ basis / (weights * basis**2).sum()
        none = (start < 0) | (slope < 0) if floor else torch.ones_like(start, dtype=torch.bool)
        scale = torch.where(none, alone, slope)
        base = torch.where(none, 0.0, start)
        if floor:  # a curve that does not rise is a floor alone
            base = torch.where(slope < 0, mean, base)
            scale = torch.where(slope < 0, 0.0, scale)
        loss = ((base[:, None] + scale[:, None] * basis - wrong) ** 2 * weights).sum(1)
        better = loss < best
        best = torch.where(better, loss, best)
        fit = torch.stack([base, scale, rate.expand_as(base)], dim=1)
        found = torch.where(better[:, None], fit, found)
    return found


def falls_short(tail: Tail | None, target: float, answers: int) -> bool:
    """Whether a target is out of reach of so many answers: in 97.5 % of the draws, and hopefully.

    >>> falls_short(None, 0.9, 1000)
    False
    """
    return tail is not None and Interval.of(tail.at(answers).amax(0)).high < target
