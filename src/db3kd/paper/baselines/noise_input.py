"""Noise input: a student learns from the teacher's answers for uniform noise (Table 4).

The paper does not say how many images there are, nor the loss of the row with scores. Here they are
as many as the transfer set, and scores teach alone, by KL at Hinton's temperature.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from db3kd.data import TensorImages, eight_bits
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.scores import asked_scores, kept_answers
from db3kd.paper.baselines.standard_kd import TEMPERATURE, tempered
from db3kd.paper.task import Scale, Task
from db3kd.synthesis.at_random import ASKED, noise
from db3kd.teachers.base import Teacher


@dataclass(frozen=True)
class Settings:
    """How much noise, and how scores are softened.

    - `images`: how many; None: as many as the transfer set has.
    - `temperature`: tau, for scores only. KL is multiplied by tau^2.
    """

    images: int | None = None
    temperature: float = TEMPERATURE


def settings(data: str, scale: Scale) -> Settings:
    """The same for every data set and scale, since the student's training is the task's own.

    >>> settings("cifar10", "full").images is None
    True
    """
    del data, scale
    return Settings()


def noise_input_labels(task: Task, teacher: Teacher, settings: Settings) -> nn.Module:
    """Train a student by cross-entropy on the teacher's labels for noise (Black-D).

    Costs one query an image; labels are kept, so after a stop at most one piece is asked again.
    Random: the images, the student's first weights and its training, from the task's seed.

    Raises:
        InputError: as `db3kd.student.training.train`.
        TeacherError: the teacher's own, for one that fails.
    """
    images = noise_images(task, settings)
    labels = kept_answers(task, "teacher", teacher.labels, images)
    return task.taught("student", task.student(task.seed), _samples(images, labels, labels, None))


def noise_input_scores(task: Task, teacher: ScoreTeacher, settings: Settings) -> nn.Module:
    """Train a student by KL alone on the teacher's scores for noise (Black-S).

    Costs one query an image. Random: as `noise_input_labels`.

    Raises:
        InputError: as `db3kd.student.training.train`.
    """
    images = noise_images(task, settings)
    soft = asked_scores(task, "teacher", teacher, images)
    answers = soft.argmax(dim=1)
    samples = _samples(images, answers, torch.full_like(answers, -1), soft)
    training = tempered(task.training, settings.temperature)
    return task.taught("student", task.student(task.seed), samples, training)


def noise_images(task: Task, settings: Settings) -> TensorImages:
    """Images of independent pixels from U(0, 1), rounded to 8 bits as pictures are.

    They have the shape of the task's images; nothing else of them is used, but how many there are
    where `settings.images` is None. Costs no query. Random: the images, from the task's seed.
    """
    count = len(task.known) if settings.images is None else settings.images
    draw, shape = task.draw("noise images"), task.known.images.shape
    parts = torch.split(torch.arange(count), ASKED)
    return TensorImages(torch.cat([eight_bits(noise(len(p), shape, draw))[0] for p in parts]))


def _samples(
    images: TensorImages, answers: Tensor, labels: Tensor, soft: Tensor | None
) -> TransferSet:
    return TransferSet(images, torch.arange(len(images)), answers, labels, soft)
