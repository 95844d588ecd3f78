"""Tf-KD: a student taught by a network like itself, or by a made-up teacher (Table 2).

Yuan et al. (2020), "Revisiting knowledge distillation via label smoothing regularization". The
authors' release takes the mean of KL over classes too, and multiplies by 50 and 100. For its 100
classes that is 0.5 and 1 times KL summed over classes, which is what stands here for any number of
classes. The paper does not say which of the two variants its row is.
"""

from dataclasses import dataclass

import msgspec
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from db3kd.config.settings import Training
from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.scores import kept_answers
from db3kd.paper.task import Scale, Task

PUBLISHED = Training(
    optimiser="sgd",
    rate=0.1,
    epochs=200,
    batch=128,
    schedule="steps",
    drops=(0.3, 0.6, 0.8),
    drop=0.2,
    warmup=0.0,
    augment=("crop", "flip"),
)
"""For CIFAR-100; here the momentum is Nesterov's."""


@dataclass(frozen=True)
class Settings:
    """The losses of both variants, and how all networks are trained.

    - `share`, `factor`, `temperature`: of the variant "self": (1 - share) CE +
      share factor tau^2 KL at temperature tau.
    - `virtual_share`, `virtual_temperature`: of the regularised variant: (1 - share) CE + share KL;
      only the made-up teacher is softened.
    - `correct`: what the made-up teacher gives the true class.
    - `training`: None: the task's own.
    """

    share: float = 0.95
    factor: float = 0.5
    temperature: float = 6.0
    virtual_share: float = 0.1
    virtual_temperature: float = 20.0
    correct: float = 0.99
    training: Training | None = PUBLISHED


def settings(data: str, scale: Scale) -> Settings:
    """The published training for CIFAR-100 at full scale; elsewhere the task's own.

    >>> settings("cifar100", "full").training.epochs, settings("cifar100", "cpu").training
    (200, None)
    """
    published = data == "cifar100" and scale == "full"
    return Settings(training=PUBLISHED if published else None)


def teacher_free_self(task: Task, settings: Settings) -> nn.Module:
    """Train a network by CE, then a student like it on its scores and the true labels.

    Costs no query. Random: the first weights and the trainings of both, from the task's seed; they
    begin with different weights.

    Raises:
        InputError: as `db3kd.student.training.train`.
    """
    training = settings.training or task.training
    first = task.student(task.seed_of("first network"))
    first = task.taught("first network", first, task.known.with_soft(None), training)
    ask = ScoreTeacher(first, device=task.device).scores
    soft = kept_answers(task, "scores of the first network", ask, task.known.images)
    training = msgspec.structs.replace(
        training,
        temperature=settings.temperature,
        label_weight=1 - settings.share,
        weight=settings.share * settings.factor * settings.temperature**2,
    )
    return task.taught("student", task.student(task.seed), task.known.with_soft(soft), training)


def teacher_free_regularised(task: Task, settings: Settings) -> nn.Module:
    """Train a student on a made-up teacher, which knows the true class and nothing else.

    Costs no query. Random: the student's first weights and its training, from the task's seed.

    Raises:
        InputError: as `db3kd.student.training.train`.
    """
    soft = virtual_scores(task.known.labels, task.classes, settings)
    training = msgspec.structs.replace(
        settings.training or task.training,
        temperature=1.0,
        label_weight=1 - settings.virtual_share,
        weight=settings.virtual_share,
    )
    return task.taught("student", task.student(task.seed), task.known.with_soft(soft), training)


def virtual_scores(
    labels: Int[Tensor, "sample"], classes: int, settings: Settings
) -> Float[Tensor, "sample classes"]:
    """The made-up teacher's scores u / tau, with u = `correct` for the true class.

    The other classes share 1 - `correct` evenly. Costs no query. Nothing is random.

    >>> import torch
    >>> import torch
    >>> virtual_scores(torch.tensor([1]), 3, Settings(correct=0.8, virtual_temperature=2.0))
    tensor([[0.0500, 0.4000, 0.0500]])
    """
    true = F.one_hot(labels, classes).float()
    other = (1 - settings.correct) / (classes - 1)
    return (true * (settings.correct - other) + other) / settings.virtual_temperature
