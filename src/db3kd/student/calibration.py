"""How sure a student is, and what it brings to ask the teacher where it is not.

The probability that a student gives its own class is calibrated by a temperature (Guo et al. 2017,
"On calibration of modern neural networks"). A curve then shows, for each threshold, the share of
images below it, and the agreement with the teacher once these are passed on to it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int, Shaped
from torch import Tensor

from db3kd.errors import InputError

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)  # of images passed on, in a report
PART, FEWEST, MOST = 5, 20, 5000  # one image in five is for the temperature; no fewer, no more
HALVINGS = 60  # of an interval
LOWEST, HIGHEST = 0.001, 1000.0  # temperatures
BLOCK = 8192  # rows in double precision at once


@dataclass(frozen=True)
class CascadePoint:
    """One threshold: `passed` is the share of images below it, and `agreement` what that brings.

    `share` is what was wished for. Less is passed on where scores are equal.

    >>> CascadePoint(share=0.2, passed=0.2, threshold=0.87, agreement=0.99).threshold
    0.87
    """

    share: float
    passed: float
    threshold: float
    agreement: float


@dataclass(frozen=True)
class CascadeCurve:
    """The share of images passed on to the teacher against the agreement reached.

    Point i passes on the images whose score is below `thresholds[i]`: a share `passed[i]` of all,
    and `agreement[i]` is the share of all images with the teacher's class then. Thresholds rise.

    >>> curve = cascade_curve(torch.tensor([0.9, 0.4]), torch.tensor([1, 0]), torch.tensor([1, 1]))
    >>> curve.thresholds.tolist(), curve.passed.tolist(), curve.agreement.tolist()
    ([0.4000000059604645, 0.8999999761581421], [0.0, 0.5], [0.5, 1.0])
    """

    thresholds: Float64[Tensor, " point"]
    passed: Float64[Tensor, " point"]
    agreement: Float64[Tensor, " point"]

    def at(self, share: float) -> CascadePoint:
        """The highest threshold that passes on at most this share of the images."""
        place = int((self.passed <= share + 1e-9).sum()) - 1
        passed, agreement = float(self.passed[place]), float(self.agreement[place])
        return CascadePoint(share, passed, float(self.thresholds[place]), agreement)


@dataclass(frozen=True)
class CascadeReport:
    """A student's curve at a few shares, on images that it did not learn from.

    - `temperature`: what its logits are divided by.
    - `fitted_on`: how many test images the temperature was fitted on; 0 if there were too few, and
      then it is 1.
    - `samples`: how many other test images the points are of.

    >>> CascadeReport(1.0, 0, 10, ()).fitted_on
    0
    """

    temperature: float
    fitted_on: int
    samples: int
    points: tuple[CascadePoint, ...]


def cascade_curve(
    scores: Shaped[Tensor, " sample"],
    student_answers: Int[Tensor, " _sample"],
    teacher_answers: Int[Tensor, " _sample"],
) -> CascadeCurve:
    """The share of images passed on to the teacher against the agreement, for every threshold.

    An image whose score is below the threshold gets the teacher's class, and so agrees. `scores`
    say how sure the student is, usually its probability of its own class. There is a point for each
    different score. Costs no query. Nothing is random.

    Raises:
        InputError: no images, numbers of them that differ, or a score that is not finite.

    >>> scores, right = torch.tensor([0.5, 0.9, 0.7, 1.0]), torch.tensor([0, 0, 0, 0])
    >>> curve = cascade_curve(scores, torch.tensor([1, 0, 1, 0]), right)
    >>> curve.agreement.tolist(), curve.at(0.3).passed
    ([0.5, 0.75, 1.0, 1.0], 0.25)
    """
    count = len(scores)
    if not count or {len(student_answers), len(teacher_answers)} != {count}:
        raise InputError(
            "scores and answers must be of the same images, at least one; got"
            f" {count}, {len(student_answers)} and {len(teacher_answers)}"
        )
    if not bool(scores.isfinite().all()):
        raise InputError("a score is not finite; give the probability of the student's own class")
    ordered, places = scores.double().sort(stable=True)
    agree = (student_answers == teacher_answers)[places].double()
    above = agree.sum() - agree.cumsum(0) + agree  # how many of those from here on agree
    first = torch.ones(count, dtype=torch.bool)
    first[1:] = ordered[1:] > ordered[:-1]
    below = first.nonzero()[:, 0]
    return CascadeCurve(ordered[below], below.double() / count, (below + above[below]) / count)


def fit_temperature(
    logits: Shaped[Tensor, "sample classes"], answers: Int[Tensor, " sample"]
) -> float:
    """The temperature at which a student's probabilities fit the teacher's answers best.

    It minimises the mean cross-entropy of softmax(logits / temperature), which is convex in its
    inverse. Targets are those of Platt (1999), (n + 1) / (n + 2) for the answer to one of n images,
    and the rest for all other classes alike: a student that is right on all of them is not made
    certain. From 0.001 to 1,000. Costs no query. Nothing is random.

    Raises:
        InputError: no images, numbers of them that differ, or a logit that is not finite.

    >>> logits = torch.tensor([[4.0, 0.0]]).repeat(100, 1)
    >>> temperature = fit_temperature(logits, (torch.arange(100) < 25).long())
    >>> round(float((logits[0] / temperature).softmax(0)[0]), 2)  # 75 of 100 are right
    0.75
    """
    count, classes = logits.shape
    if not count or len(answers) != count:
        raise InputError(
            f"logits and answers must be of the same images, at least one; got {count} and"
            f" {len(answers)}"
        )
    if not bool(logits.isfinite().all()):
        raise InputError("a logit is not finite, so there is no temperature")
    values = logits.double() - logits.double().amax(1, keepdim=True)
    other = 1 / (count + 2) / max(1, classes - 1)
    target = torch.full_like(values, other)
    target[torch.arange(count), answers] = (count + 1) / (count + 2)
    wanted = float((target * values).sum(1).mean())
    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    for _ in range(HALVINGS):
        inverse = (low + high) / 2
        mean = (values * (values * math.exp(inverse)).softmax(1)).sum(1).mean()
        low, high = (inverse, high) if float(mean) < wanted else (low, inverse)
    return math.exp(-(low + high) / 2)


def probabilities(
    logits: Shaped[Tensor, "sample classes"], temperature: float = 1.0
) -> Float64[Tensor, "sample classes"]:
    """softmax(logits / temperature) in double precision, in which scores near 1 still differ.

    >>> probabilities(torch.tensor([[2.0, 0.0]]), 2.0).argmax(1)
    tensor([0])
    """
    return logits.double().div_(temperature).softmax(1)


def cascade_report(
    logits: Shaped[Tensor, "sample classes"], answers: Int[Tensor, " sample"], *, seed: int
) -> CascadeReport:
    """Calibrate a student on a fifth of its test images, and measure the curve on the others.

    No image is used for both. Of fewer than a hundred images all are measured, at temperature 1.
    `answers` are the teacher's. Costs no query. Random by `seed`: which images are for calibration.

    Raises:
        InputError: as `cascade_curve` and `fit_temperature`.

    >>> logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> report = cascade_report(logits, logits.argmax(1), seed=0)
    >>> report.fitted_on, report.samples, [point.share for point in report.points]
    (40, 160, [0.0, 0.05, 0.1, 0.2, 0.3, 0.5])
    """
    held = min(MOST, len(logits) // PART)
    held = held if held >= FEWEST else 0
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    fitted, measured = order[:held], order[held:]
    temperature = fit_temperature(logits[fitted], answers[fitted]) if held else 1.0
    scores = torch.cat(list(_scores(logits[measured], temperature)))
    curve = cascade_curve(scores, logits[measured].argmax(1), answers[measured])
    points = tuple(curve.at(share) for share in SHARES)
    return CascadeReport(temperature, held, len(measured), points)


def _scores(logits: Tensor, temperature: float) -> Iterator[Tensor]:
    for part in torch.split(logits, BLOCK):
        yield probabilities(part, temperature).amax(1)
