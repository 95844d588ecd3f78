"""Scores of a whole set of images, got in pieces that are kept, so that none is asked for twice."""

import time
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.data import Images
from db3kd.paper.access import ScoreTeacher
from db3kd.paper.task import Task
from db3kd.student.networks import inference_batch

PIECE = 10_000
"""Images in a piece: two minutes of a ResNet-18 for small images on one core."""


def asked_scores(
    task: Task, name: str, teacher: ScoreTeacher, images: Images
) -> Float[Tensor, "sample classes"]:
    """The teacher's scores before softmax, on the CPU; costs one query an image, once.

    `teacher.asked` also counts what an earlier process asked of it and kept.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from torch import nn
    >>> from db3kd.config.settings import Training
    >>> from db3kd.data import TensorImages
    >>> from db3kd.data.transfer_set import TransferSet
    >>> images, zeros = TensorImages(torch.ones(3, 1, 1, 2)), torch.zeros(3, dtype=torch.long)
    >>> task = Task(TransferSet(images, zeros, zeros, zeros), 2, lambda seed: nn.Flatten(),
    ...             Training(), 0, Path(tempfile.mkdtemp()))
    >>> first, later = ScoreTeacher(nn.Flatten()), ScoreTeacher(nn.Flatten())
    >>> torch.equal(*(asked_scores(task, "teacher", each, images) for each in (first, later)))
    True
    >>> first.asked, later.asked
    (3, 3)
    """
    before = teacher.asked
    found = kept_answers(task, name, teacher.scores, images)
    teacher.asked = before + len(images)
    return found


def kept_answers(task: Task, name: str, ask: Callable[[Tensor], Tensor], images: Images) -> Tensor:
    """What `ask` says of all images, a row each, on the CPU; it is asked once, in pieces.

    Costs what `ask` costs; after a stop, the piece that was begun is asked again. Random: nothing.
    """
    told, found = time.monotonic(), []

    def piece(rows: Tensor) -> dict[str, Tensor]:
        nonlocal told
        answers = []
        for some in torch.split(rows, inference_batch(images.shape)):
            answers.append(ask(images.read(some)).cpu())
            if time.monotonic() - told >= 1:
                told = time.monotonic()
                task.progress(name, int(some[-1]) + 1, len(images), {})
        return {"answers": torch.cat(answers)}

    for number, rows in enumerate(torch.split(torch.arange(len(images)), PIECE)):
        found.append(task.kept(f"{name} {number}", partial(piece, rows))["answers"])
    return torch.cat(found)
