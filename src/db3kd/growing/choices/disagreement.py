"""Ask where each student is sure, and they are sure of different classes."""

from jaxtyping import Float
from torch import Tensor


def disagreement(log_probabilities: Float[Tensor, "student row classes"]) -> Float[Tensor, " row"]:
    """Entropy of the students' mean less the mean of their entropies (BALD, Houlsby et al. 2011).

    In nats, 0 where all say the same.

    >>> import torch
    >>> one, other = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log()
    >>> same, different = torch.stack([one, one]), torch.stack([one, other])
    >>> [round(abs(float(disagreement(each))), 4) for each in (same, different)]
    [0.0, 0.6931]
    """
    each = log_probabilities.exp()
    return _entropy(each.mean(0)) - _entropy(each).mean(0)


def _entropy(probabilities: Tensor) -> Tensor:
    """In nats, of the last dimension."""
    return -(probabilities * probabilities.clamp_min(1e-30).log()).sum(-1)
