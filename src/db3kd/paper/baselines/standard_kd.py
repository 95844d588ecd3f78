"""Standard KD: a student learns from the teacher's scores (Hinton et al., 2015; Tables 1 to 4).

The paper does not say the temperature of its row; 4 is usual in the field.
"""

from dataclasses import dataclass

import msgspec
from torch import nn

from db3kd.config.settings import Training
from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.scores import asked_scores
from db3kd.paper.task import Scale, Task

TEMPERATURE = 4.0


@dataclass(frozen=True)
class Settings:
    """How scores are softened.

    - `temperature`: tau. The second term of Eq. 1 is multiplied by tau^2.
    """

    temperature: float = TEMPERATURE


def settings(data: str, scale: Scale) -> Settings:
    """The same for every data set and scale, since the student's training is the task's own.

    >>> settings("mnist", "full").temperature
    4.0
    """
    del data, scale
    return Settings()


def tempered(training: Training, temperature: float) -> Training:
    """A training at another temperature, its soft labels weighted by tau^2 as Hinton's.

    >>> hot = tempered(Training(), 4.0)
    >>> hot.temperature, hot.weight
    (4.0, 16.0)
    """
    weight = training.weight * temperature**2
    return msgspec.structs.replace(training, temperature=temperature, weight=weight)


def standard_kd(task: Task, teacher: ScoreTeacher, settings: Settings) -> nn.Module:
    """Train a student with Eq. 1 on the teacher's scores and the true labels.

    L = CE(P_s, y) + tau^2 KL(P_t^tau || P_s^tau). Costs one query a sample. Random: the student's
    first weights and its training, from the task's seed.

    Raises:
        InputError: as `db3kd.student.training.train`.
    """
    soft = asked_scores(task, "teacher", teacher, task.known.images)
    training = tempered(task.training, settings.temperature)
    return task.taught("student", task.student(task.seed), task.known.with_soft(soft), training)
