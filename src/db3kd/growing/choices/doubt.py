"""Ask where the students, taken together, can hardly decide between two classes."""

from jaxtyping import Float
from torch import Tensor


def doubt(log_probabilities: Float[Tensor, "student row classes"]) -> Float[Tensor, " row"]:
    """One minus the margin between the two likeliest classes, of the mean over the students.

    >>> import torch
    >>> sure, torn = torch.tensor([0.98, 0.02]).log(), torch.tensor([0.5, 0.5]).log()
    >>> doubt(torch.stack([sure, torn])[None])
    tensor([0.0400, 1.0000])
    """
    best = log_probabilities.exp().mean(0).topk(2, dim=1).values
    return 1 - (best[:, 0] - best[:, 1])
