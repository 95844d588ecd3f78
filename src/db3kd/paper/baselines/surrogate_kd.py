"""Surrogate KD: the teacher is a network like the student, taught by the data (Table 1).

The paper does not say how the surrogate was trained. Here it learns from the true labels, as the
row "Student CE", and its scores teach as those of standard KD. The real teacher is never asked.
"""

from dataclasses import dataclass

from torch import nn

from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.scores import kept_answers
from db3kd.paper.baselines.standard_kd import TEMPERATURE, tempered
from db3kd.paper.task import Scale, Task


@dataclass(frozen=True)
class Settings:
    """How the surrogate's scores are softened; 0.3 is the paper's own temperature.

    - `temperature`: tau. The second term of Eq. 1 is multiplied by tau^2.
    """

    temperature: float = TEMPERATURE


def settings(data: str, scale: Scale) -> Settings:
    """The same for every data set and scale, since both trainings are the task's own.

    >>> settings("cifar10", "full").temperature
    4.0
    """
    del data, scale
    return Settings()


def surrogate_kd(task: Task, settings: Settings) -> nn.Module:
    """Train a surrogate by cross-entropy, then a student like it on its scores, by Eq. 1.

    Costs no query. Random: the first weights and the trainings of both, from the task's seed; they
    begin with different weights.

    Raises:
        InputError: as `db3kd.student.training.train`.
    """
    surrogate = task.student(task.seed_of("surrogate"))
    surrogate = task.taught("surrogate", surrogate, task.known.with_soft(None))
    ask = ScoreTeacher(surrogate, device=task.device).scores
    soft = kept_answers(task, "scores of the surrogate", ask, task.known.images)
    training = tempered(task.training, settings.temperature)
    return task.taught("student", task.student(task.seed), task.known.with_soft(soft), training)
