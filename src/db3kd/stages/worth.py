"""What more answers would teach: distances over sample distances, and the next new images.

Sample distances (Eq. 2) cost nothing, so measured ones are worth their answers only if students of
these do better. That is found out on a few own images before all are measured.
"""

from dataclasses import replace

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.config.settings import Search, Training
from db3kd.data import Rows
from db3kd.data.transfer_set import TransferSet
from db3kd.seeds import derive_seed
from db3kd.stages import distances
from db3kd.stages.judge import Gain, Judge
from db3kd.stages.workspace import Workspace
from db3kd.student.steps import steps_of

PART, FEWEST, MOST = (
    6,
    50,
    200,
)  # images measured: one in six of those tried, within limits
STUDENTS = 3  # of each kind, since few images teach each of them
THOUSAND = 1000  # answers, by which gains are told


def measured_images(tried: int) -> int:
    """How many images a trial measures to find out what distances add.

    >>> measured_images(30), measured_images(300), measured_images(1000)
    (15, 50, 166)
    """
    return min(max(FEWEST, tried // PART), MOST, tried // 2)


def left_after(left: int, *, samples: int, tried: int) -> int:
    """Answers that are left for every own image, after a trial has measured some at `left` each.

    >>> left_after(15, samples=300, tried=300)
    12
    """
    return left * (samples - measured_images(tried)) // samples


def of_distances(
    trial: Workspace,
    network: nn.Module,
    training: Training,
    plain: TransferSet,
    search: Search,
    *,
    most_steps: int,
) -> Gain | None:
    """What measured distances add over sample distances, on images that were not measured.

    `plain`: the images of the trial. None if those measured are all of one class. Costs at most
    `search.per_image` queries for each of `measured_images`. Random by the run's seed: which.
    """
    place = trial.within("measured")
    draw = torch.Generator().manual_seed(derive_seed(place.seed, "images"))
    rows = torch.randperm(len(plain), generator=draw)[: measured_images(len(plain))].sort().values
    answers = plain.teacher_labels[rows]
    if bool((answers == answers[0]).all()):
        return None
    place.agree("answers", {"samples": len(rows)})
    distances.measure_all(place, Rows(plain.images, rows), answers, search)
    few, fold = plain.select(rows), torch.zeros(len(plain), dtype=torch.int64)
    fold[rows] = 1  # never held back
    training = msgspec.structs.replace(
        training, steps=min(most_steps, steps_of(training, len(rows)))
    )
    judge = Judge(
        place, network, training, plain, plain.teacher_labels,
        sets=2 * STUDENTS, folds=1, fold=fold,
    )  # fmt: skip
    free, bought = (
        torch.stack(
            [
                judge.right(few.with_soft(distances.soft(place, metric, answers)), seed=seed)
                for seed in range(STUDENTS)
            ]
        ).mean(0)
        for metric in ("sd", "mbd")
    )
    return Gain.of(bought, free)


def of_the_last(judge: Judge, right: Float[Tensor, " held"], grown: TransferSet, own: int) -> Gain:
    """What the last half of what was grown has added, for every thousand answers.

    `right`: of students of all that was `grown`, where `own` images come first.
    """
    judge.total += judge.folds  # one more set
    half = (len(grown) - own) // 2
    few = replace(grown.select(torch.arange(own + half)), first=own)
    before = judge.right(few)
    return Gain.of(right, before).times(THOUSAND / (len(grown) - own - half))
