"""Noise logits: soft labels by Eq. 6 and 7 from robustness values without information (Table 1).

The paper says "randomly generated sample robustness" and no more, so there are two readings.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from db3kd.errors import InputError
from db3kd.paper.task import Scale, Task
from db3kd.student.soft_labels import concentrate, reciprocal_activations

Reading = Literal["drawn", "dealt"]


@dataclass(frozen=True)
class Settings:
    """Where the robustness values come from.

    - `reading`: "drawn" evenly from the least to the largest measured one, or measured ones "dealt"
      out at random, with replacement.
    """

    reading: Reading = "drawn"


def settings(data: str, scale: Scale) -> Settings:
    """The same for every data set and scale, since the student's training is the task's own.

    >>> settings("mnist", "full").reading
    'drawn'
    """
    del data, scale
    return Settings()


def noise_logits(
    task: Task,
    distance: Float[Tensor, "sample classes"],
    teacher_labels: Int[Tensor, "sample"],
    settings: Settings,
) -> nn.Module:
    """Train a student on noise in place of the measured distances, by Eq. 1 and the true labels.

    - `distance`: measured ones, of any metric, as in `db3kd.search.robustness.RobustnessMap`.
    - `teacher_labels`: what the teacher answered, which stays the largest entry.

    Costs no query beyond those of the distances. Random: the noise, the student's first weights and
    its training, from the task's seed.

    Raises:
        InputError: as `noise_activations` and `db3kd.student.training.train`.
    """
    noise = noise_activations(
        distance, teacher_labels, generator=task.draw("noise logits"), reading=settings.reading
    )
    samples = replace(task.known, teacher_labels=teacher_labels, soft=noise, soft_rows=None)
    return task.taught("student", task.student(task.seed), samples)


def noise_activations(
    distance: Float[Tensor, "sample classes"],
    teacher_labels: Int[Tensor, "sample"],
    *,
    generator: torch.Generator,
    reading: Reading = "dealt",
) -> Float[Tensor, "sample classes"]:
    """Eq. 6 and 7 applied to distances that tell nothing ("Noise logits" in Table 1).

    Distances that are zero or infinite are not among the measured ones. Costs no query. Random:
    `generator`.

    Raises:
        InputError: no distance was measured, or as the functions of Eq. 6 and 7.

    >>> distance, labels = torch.tensor([[0.0, 2.0, 2.0]]), torch.tensor([0])
    >>> noise_activations(distance, labels, generator=torch.Generator().manual_seed(0))
    tensor([[1.0000, 0.5000, 0.5000]])
    """
    known = distance[(distance > 0) & distance.isfinite()]
    if not len(known):
        raise InputError("there is no distance above zero to take noise from; measure some")
    if reading == "dealt":
        noise = known[torch.randint(len(known), distance.shape, generator=generator)]
    else:
        low, high = known.aminmax()
        noise = torch.rand(distance.shape, generator=generator).to(known) * (high - low) + low
    return concentrate(reciprocal_activations(noise, teacher_labels), teacher_labels)
