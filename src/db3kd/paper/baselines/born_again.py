"""BAN: each generation learns from the one before, which has the same network (Table 2).

Furlanello et al. (2018), "Born-again neural networks". The paper's row is "based on our own
implementation", whose settings it does not say: here the temperature is 1, as in BAN, and each
generation has the task's own training.
"""

from dataclasses import dataclass

import msgspec
from torch import nn

from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.scores import kept_answers
from db3kd.paper.task import Scale, Task


@dataclass(frozen=True)
class Settings:
    """How many networks follow each other.

    - `generations`: after the first one, which learns from labels alone; at least 1.
    """

    generations: int = 3


def settings(data: str, scale: Scale) -> Settings:
    """Three generations, as published; one to prove the code.

    >>> settings("cifar100", "full").generations, settings("mnist", "smoke").generations
    (3, 1)
    """
    del data
    return Settings(generations=1) if scale == "smoke" else Settings()


def born_again(task: Task, settings: Settings) -> nn.Module:
    """Train a row of networks, and return the last one; the teacher is never asked.

    Generation 0 learns by CE. Generation k has new weights, and L = CE(P_k, y) + KL(P_{k-1} || P_k)
    at temperature 1. Costs no query. Random: the first weights and the training of each, from the
    task's seed.

    Raises:
        InputError: as `db3kd.student.training.train`.
    """
    samples, training = task.known.with_soft(None), task.training
    for number in range(settings.generations):
        network = task.student(task.seed_of("generation", number))
        network = task.taught(f"generation {number}", network, samples, training)
        ask = ScoreTeacher(network, device=task.device).scores
        scores = kept_answers(task, f"scores of generation {number}", ask, samples.images)
        samples = samples.with_soft(scores)
        training = msgspec.structs.replace(task.training, temperature=1.0)
    return task.taught("student", task.student(task.seed), samples, training)
