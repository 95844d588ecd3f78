"""How often a teacher answers a repeated question differently, and how large a lead decides."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.errors import InputError
from db3kd.teachers.base import Teacher, check_answers
from db3kd.teachers.cached import CachedTeacher


@dataclass(frozen=True)
class FlipRate:
    """How often two answers to one image differ: `differs`, between `low` and `high`.

    `images` were asked, at a cost of `queries`. If each answer is wrong with one probability,
    whatever the others, `flips` is that probability and `most_flips` what belongs to `high`; with
    more than two classes both are a little too large, never too small.

    >>> rate = FlipRate(differs=0.095, low=0.08, high=0.18, images=100, queries=200)
    >>> round(rate.flips, 3), round(rate.most_flips, 3)
    (0.05, 0.1)
    """

    differs: float
    low: float
    high: float
    images: int
    queries: int

    @property
    def flips(self) -> float:
        """Probability that one answer is wrong, if wrong answers fall at random."""
        return _flips(self.differs)

    @property
    def most_flips(self) -> float:
        """The same for the upper end of the interval."""
        return _flips(self.high)


def _flips(differs: float) -> float:
    """The root p of differs = 2 p (1 - p)."""
    return (1 - math.sqrt(max(0.0, 1 - 2 * differs))) / 2


def flip_rate(
    teacher: Teacher,
    images: Float[Tensor, "row *image"],
    repeats: int = 2,
    *,
    level: float = 0.95,
) -> FlipRate:
    """Ask each image several times and count how often two of its answers differ.

    Not of the paper. The interval is Wilson's (1927), for as many trials as there are images: the
    answers to one image belong together. So it is never too narrow because some images flip more
    than others, and a little too wide where many repeats are asked; two repeats of many images say
    the most. All images are asked, then all again, so that no request holds one image twice.

    What is found holds for images like these; near a boundary flips may be more frequent. An image
    that is answered wrongly each time does not flip, and neither does a teacher behind a cache.

    `images` (row, *image) within the teacher's bounds. Costs `repeats` queries an image. Nothing is
    random but the teacher.

    Raises:
        InputError: no images, fewer than 2 repeats, a level that is not a probability, or a teacher
            that answers from a store.
        BudgetExhausted, TeacherError: from the teacher.

    >>> from db3kd.teachers import function
    >>> steady = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> rate = flip_rate(steady, torch.rand(100, 1, 2, 2))
    >>> rate.differs, round(rate.high, 3), rate.queries
    (0.0, 0.037, 200)
    """
    asked_again(teacher)  # not a store
    if not len(images) or repeats < 2:
        raise InputError(
            f"flips need 1 image and 2 repeats at least, got {len(images)} and {repeats}"
        )
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1, got {level}")
    answers = ask_all(teacher, images, repeats)
    pairs = [(a, b) for a in range(repeats) for b in range(a)]
    unlike = sum((answers[a] != answers[b]).double().mean().item() for a, b in pairs) / len(pairs)
    low, high = wilson(unlike, len(images), level)
    return FlipRate(unlike, low, high, len(images), repeats * len(images))


def ask_all(
    teacher: Teacher,
    images: Float[Tensor, "row *image"],
    repeats: int,
    again: Callable[[int], Teacher] | None = None,
) -> Int[Tensor, "repeat row"]:
    """The answers to all images, several times over; each is checked to be a class.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> ask_all(bright, torch.ones(3, 1, 2, 2), 2)
    tensor([[1, 1, 1],
            [1, 1, 1]])
    """
    return torch.stack(
        [
            check_answers(
                (teacher if again is None else again(number)).labels(images),
                asked=len(images),
                classes=teacher.classes,
            )
            for number in range(repeats)
        ]
    )


def wilson(share: float, trials: int, level: float) -> tuple[float, float]:
    """Wilson's score interval of a probability that was observed as a share of some trials.

    >>> [round(end, 4) for end in wilson(0.1, 50, 0.95)]
    [0.0435, 0.2136]
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def margin_for(flips: float, error: float) -> int:
    """The lead at which a vote is wrong with at most this probability (Wald 1945).

    Each answer is flipped with probability `flips`; a lead of m is then wrong with probability
    1 / (1 + ((1 - flips) / flips)^m), and about m / (1 - 2 flips) questions get there. That is for
    two classes as likely as each other; flips that fall on many classes are less dangerous. Costs
    no query. Nothing is random.

    Raises:
        InputError: half of the answers or more are flipped, or the error is not a probability.

    >>> [margin_for(flips, 0.001) for flips in (0.0, 0.01, 0.05, 0.1)]
    [1, 2, 3, 4]
    """
    check_share(flips)
    if not 0 < error < 0.5:
        raise InputError(f"the error wanted must lie between 0 and 0.5, got {error}")
    if flips <= error:
        return 1
    return math.ceil(math.log(1 / error - 1) / math.log(1 / flips - 1) - 1e-9)


def check_share(flips: float) -> None:
    """Raise InputError unless fewer than half of the answers are flipped.

    >>> check_share(0.5)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: flips must be at least 0 and below 0.5, got 0.5
    """
    if not 0 <= flips < 0.5:
        raise InputError(f"flips must be at least 0 and below 0.5, got {flips}")


def asked_again(
    teacher: Teacher, again: Callable[[int], Teacher] | None = None
) -> Callable[[int], Teacher]:
    """Who is asked the k-th time: what `again` says, or else the teacher itself.

    Raises:
        InputError: that would be a store, which answers from memory.

    >>> import tempfile
    >>> from db3kd.teachers import function
    >>> from db3kd.teachers.cached import Store
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> asked_again(bright)(3) is bright
    True
    >>> with Store(tempfile.mkdtemp() + "/answers.db3kd") as store:
    ...     asked_again(CachedTeacher(bright, store, "bright"))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: a store answers repeats from memory; ask the teacher beneath it
    """
    if again is not None:
        return again
    if isinstance(teacher, CachedTeacher):
        raise InputError("a store answers repeats from memory; ask the teacher beneath it")
    return lambda number: teacher
