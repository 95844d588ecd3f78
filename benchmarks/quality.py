"""How well two estimates agree on how near an image is to the other classes."""

import torch
from torch import Tensor


def others(values: Tensor, own: Tensor) -> Tensor:
    """The columns of all classes except the teacher's label, in order."""
    keep = torch.arange(values.shape[1]) != own[:, None]
    return values[keep].reshape(len(values), -1)


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation over the other classes of an image, averaged over the images."""
    first, second = (values.argsort(1).argsort(1).double() for values in (one, other))
    first, second = first - first.mean(1, keepdim=True), second - second.mean(1, keepdim=True)
    return float(((first * second).sum(1) / (first.square().sum(1))).mean())


def same_first(one: Tensor, other: Tensor) -> float:
    """Share of the images for which both estimates have the same nearest class."""
    return float((one.argmin(1) == other.argmin(1)).double().mean())
