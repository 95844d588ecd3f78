"""What several of the systems learn from: a few known images, and images with scores alone."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.data import TensorImages, in_memory
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.paper.access import OpenNetwork
from db3kd.paper.task import Task
from db3kd.student.networks import inference_batch


def few(task: Task, count: int) -> TransferSet:
    """Draw some of the known images, each at most once, and read them into memory.

    Systems that ask for as many get the same ones. Costs no query. Random: the task's seed.

    Raises:
        InputError: the task has fewer images.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from torch import nn
    >>> from db3kd.config.settings import Training
    >>> rows = torch.arange(4)
    >>> known = TransferSet(TensorImages(torch.zeros(4, 1, 2, 2)), rows, rows, rows)
    >>> task = Task(known, 4, lambda seed: nn.Flatten(), Training(), 0, Path(tempfile.mkdtemp()))
    >>> len(few(task, 3)), torch.equal(few(task, 3).ids, few(task, 3).ids)
    (3, True)
    """
    if count > len(task.known):
        raise InputError(
            f"this system learns from {count:,} images, but the task knows {len(task.known):,};"
            " give it as many, or settings with fewer"
        )
    drawn = torch.randperm(len(task.known), generator=task.draw("few"))[:count]
    some = task.known.select(drawn)
    return replace(some, images=in_memory(some.images))


def scored(
    images: Float[Tensor, "row *image"], scores: Float[Tensor, "row classes"]
) -> TransferSet:
    """Images of which nothing is known but a teacher's scores before softmax.

    Their labels are -1, so that Eq. 1 has its second term alone. Costs no query. Nothing is random.

    >>> samples = scored(torch.zeros(1, 1, 2, 2), torch.tensor([[0.1, 2.0]]))
    >>> samples.labels, samples.teacher_labels
    (tensor([-1]), tensor([1]))
    """
    rows = torch.arange(len(images))
    return TransferSet(
        TensorImages(images), rows, scores.argmax(1), torch.full_like(rows, -1), scores
    )


def open_scores(
    teacher: OpenNetwork, images: Float[Tensor, "row *image"]
) -> Float[Tensor, "row classes"]:
    """An open teacher's scores before softmax, without gradients, on the images' device.

    Costs no query, since the network is known. Nothing is random.

    >>> from torch import nn
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> open_scores(OpenNetwork(network), torch.ones(2, 1, 2, 2)).shape
    torch.Size([2, 3])
    """
    parts = torch.split(images, inference_batch(images.shape[1:]))
    with torch.no_grad():
        found = [teacher.features_and_scores(part.to(teacher.device))[1] for part in parts]
    return torch.cat(found).to(images.device)
