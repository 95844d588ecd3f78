"""The plan of a joint search: how many rounds, of which shards, and what is asked in each."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.config.settings import Search, is_joint
from db3kd.data import Images, Rows
from db3kd.errors import InputError
from db3kd.search.descent import Walk, descend
from db3kd.search.descent.settings import descent_of, noise_of
from db3kd.search.joint.asked import Asked
from db3kd.search.joint.front import Front
from db3kd.search.joint.rounds import advance, others, rounds_of
from db3kd.search.joint.surrogate import Ensemble
from db3kd.search.robustness import References, RobustnessMap, Status
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.networks import SMALLEST, Shape, check_network, network_of
from db3kd.teachers.base import Teacher

SHARD_BYTES = 2**30  # of what a shard holds in memory, at most
CLASS_BYTES = 64  # of numbers that are kept for each image and class
PROBE_BYTES = 2**30  # of all probes that a surrogate learns from, in half precision
LEAST_STEPS, MOST_STEPS, ROOT = 300, 1500, 6  # of one fit, for each member
USEFUL = 0.05  # share of the rows that a round must move, or the surrogate is no longer asked
WORTH_A_WALK = 30  # queries that a row must have left
WALKED_AT_ONCE = 2000  # rows


@dataclass(frozen=True)
class JointPlan:
    """In how many rounds, and with which shards, a surrogate learns.

    It learns from some shards, spread evenly over the set, whose probes fit into memory; the other
    shards are searched once it has learned.

    >>> JointPlan.of(Search(per_image=300), samples=1000, shape=(1, 28, 28), classes=10)
    JointPlan(rounds=8, shards=(0, 1, 2, 3, 4))
    """

    rounds: int
    shards: tuple[int, ...]

    @classmethod
    def of(cls, search: Search, *, samples: int, shape: Shape, classes: int) -> "JointPlan":
        """Plan the search of that number of images of that shape."""
        count = -(-samples // search.shard)
        each = search.shard * search.per_image * torch.Size(shape).numel() * 2
        some = max(1, min(count, PROBE_BYTES // each))
        rounds = 1 if search.surrogate == "none" else rounds_of(search.per_image, classes)
        return cls(rounds, tuple(number * count // some for number in range(some)))


def shard_of(search: Search, shape: Shape, classes: int) -> int:
    """How many images are measured as one: `search.shard`, or fewer where these take too much.

    What one image takes: itself, its references' numbers and what is known of each class, and in a
    joint search a point of every class that its queries can find, and a ray for each query in half
    precision, twice for a moment. All that stays within `SHARD_BYTES`, but one image goes always.

    >>> shard_of(Search(), (3, 32, 32), 10), shard_of(Search(), (3, 64, 64), 1000)
    (200, 36)
    """
    image = torch.Size(shape).numel() * 4
    each = image + classes * (8 * search.references + CLASS_BYTES)
    if is_joint(search):
        each += image * (min(classes - 1, search.per_image) + search.per_image)
    return max(1, min(search.shard, SHARD_BYTES // each))


def check_joint(search: Search, shape: Shape, classes: int) -> None:
    """Refuse what cannot be searched together, before anything is bought.

    Raises:
        InputError: checkpoints, or a surrogate that is unknown or does not fit the images.

    >>> check_joint(Search(surrogate="lenet6"), (1, 28, 28), 10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: unknown network 'lenet6'; did you mean lenet5?
    """
    if search.checkpoints:
        raise InputError(
            "checkpoints count the queries of one sample and class; they have no meaning with"
            ' strategy = "joint"'
        )
    if search.surrogate == "auto" and min(shape[1:]) < SMALLEST:
        raise InputError(
            f"images of {shape[1]} x {shape[2]} pixels are too small for a surrogate;"
            ' set surrogate = "none", or strategy = "rows"'
        )
    if search.surrogate != "none":
        check_network(network_of(search.surrogate, shape), shape, classes)


def steps_of(answers: int, probes: int) -> int:
    """How many steps a fit has for each member, to images' own answers and those to probes.

    There are 6 sqrt(n) to n probes, or answers if there are no probes, and from 300 to 1,500.

    >>> steps_of(60_000, 0), steps_of(60_000, 10_000)
    (1470, 600)
    """
    return max(LEAST_STEPS, min(MOST_STEPS, round(ROOT * math.sqrt(probes or answers))))


def knows(surrogate: Ensemble, images: Images, answers: Int[Tensor, " sample"]) -> bool:
    """Whether a surrogate knows the answers that were bought already better than by guessing.

    Asked before any query is spent on its proposals.
    """
    some = torch.linspace(0, len(answers) - 1, min(len(answers), 2000)).long()
    found = predict(surrogate, Rows(images, some), device=next(surrogate.parameters()).device)
    right = accuracy(found, answers[some])
    most = torch.bincount(answers[some]).max() / len(some)
    return bool(right > most + (1 - most) / 5)


def one_round(
    teacher: Teacher,
    surrogate: nn.Module | None,
    front: Front,
    references: References,
    *,
    number: int,
    rounds: int,
    per_image: int,
) -> tuple[Asked, float]:
    """A round; returns the probes and the share of the rows that its proposals moved.

    Without a surrogate it is the last: references have nothing to learn from each other.
    """
    until = per_image if surrogate is None else per_image * (number + 1) // rounds
    return advance(teacher, surrogate, front, references, until=until, first=number == 0)


def rest(
    teacher: Teacher,
    front: Front,
    search: Search,
    surrogate: nn.Module | None,
    references: References,
    *,
    learned: bool,
    seed: int,
) -> None:
    """Spend what is left: all for images that took no part in the rounds, else what rows spared.

    What no proposal can use is walked, row by row, from the point that is there.
    """
    passes = () if learned else (1,) if surrogate is None else (1, 2, 3)
    for number in passes:
        until = search.per_image * number // len(passes)
        advance(teacher, surrogate, front, references, until=until, first=number == 1)
    sample, target = others(front)
    left = (search.per_image - front.spent.sum(1)) // max(1, front.classes - 1)
    rows = (front.distance[sample, target].isfinite() & (left[sample] >= WORTH_A_WALK)).nonzero()[
        :, 0
    ]
    for part in torch.split(rows, WALKED_AT_ONCE) if len(rows) else ():
        _walk(teacher, front, search, sample[part], target[part], left[sample[part]], seed)


def _walk(
    teacher: Teacher,
    front: Front,
    search: Search,
    sample: Tensor,
    target: Tensor,
    left: Tensor,
    seed: int,
) -> None:
    """Walk these rows along the boundary, each with as many queries as it has left."""

    def asks(points: Tensor, rows: Tensor) -> Tensor:
        if not len(points):
            return torch.zeros(0, dtype=torch.bool, device=points.device)
        answers = teacher.labels(points)
        front.learn(points, sample[rows], answers)
        return answers == target[rows]

    origin, limit = front.origin[sample], int(left.max())
    descent = descent_of(search)
    walk = Walk.at(
        front.point.of(sample, target),
        front.distance[sample, target],
        step=descent.first_step,
        spent=limit - left,
        limit=limit,
    )
    walk, _ = descend(
        descent,
        asks,
        origin,
        walk,
        noise=noise_of(search, origin, seed),
        bounds=teacher.bounds,
        after_step=lambda walk: None,
    )
    front.learn(walk.point, sample, target)
    front.spent[sample, target] += walk.spent - (limit - left)


def result(front: Front, *, seconds: float) -> RobustnessMap:
    """The distances found, without the points."""
    status = torch.full_like(front.spent, int(Status.LIMIT))
    status[front.distance.isinf()] = Status.NO_REFERENCE
    status[
        torch.arange(len(front.teacher_labels), device=front.teacher_labels.device),
        front.teacher_labels,
    ] = Status.OWN
    curve = front.distance[:, :, None].repeat(1, 1, 0)
    return RobustnessMap(
        "mbd",
        front.teacher_labels,
        front.distance,
        front.spent,
        status,
        curve,
        seconds=seconds,
    )
