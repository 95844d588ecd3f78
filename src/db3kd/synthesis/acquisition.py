"""Acquisition: which candidates are asked, with equal numbers of every class.

An acquisition function estimates how much each answer would teach. It takes the students'
predictions for the candidates, and uses the margin between the two likeliest classes, or BALD.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from db3kd.config.settings import AcquisitionName
from db3kd.search.robustness import grouped

Acquisition = Callable[[Float[Tensor, "student row classes"]], Float[Tensor, " row"]]
"""Log-probabilities of some students -> a score of each candidate, higher if it teaches more."""


def margin(log_probabilities: Float[Tensor, "student row classes"]) -> Float[Tensor, " row"]:
    """One minus the margin between the two likeliest classes, of the mean over the students.

    From 0, sure, to 1, undecided. Costs no query. Nothing is random.

    >>> sure, torn = torch.tensor([0.98, 0.02]).log(), torch.tensor([0.5, 0.5]).log()
    >>> margin(torch.stack([sure, torn])[None])
    tensor([0.0400, 1.0000])
    """
    best = log_probabilities.exp().mean(0).topk(2, dim=1).values
    return 1 - (best[:, 0] - best[:, 1])


def bald(log_probabilities: Float[Tensor, "student row classes"]) -> Float[Tensor, " row"]:
    """Entropy of the students' mean minus the mean of their entropies (BALD, Houlsby et al. 2011).

    In nats; 0 if all students agree. Costs no query. Nothing is random.

    >>> one, other = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log()
    >>> same, different = torch.stack([one, one]), torch.stack([one, other])
    >>> [round(abs(float(bald(each))), 4) for each in (same, different)]
    [0.0, 0.6931]
    """
    each = log_probabilities.exp()
    return _entropy(each.mean(0)) - _entropy(each).mean(0)


def _entropy(probabilities: Tensor) -> Tensor:
    """Entropy over the last dimension, in nats."""
    return -(probabilities * probabilities.clamp_min(1e-30).log()).sum(-1)


ACQUISITIONS: Mapping[AcquisitionName, Acquisition] = {"margin": margin, "bald": bald}
"""All but "random", which needs no students."""


def balanced(
    scores: Float[Tensor, " row"], seen: Int[Tensor, " row"], wanted: int
) -> Int[Tensor, " chosen"]:
    """Choose the rows of the highest scores, in turns over the classes that they are `seen` as.

    The best row of every class comes before the second of any. A class without further rows is
    passed over. The rows are returned in ascending order.

    >>> scores, seen = torch.tensor([0.9, 0.8, 0.1, 0.7]), torch.tensor([0, 0, 1, 0])
    >>> balanced(scores, seen, 2)
    tensor([0, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    turn = torch.zeros_like(seen)
    by_class, place = grouped(seen[order])
    turn[order[by_class]] = place
    later = turn.double() - scores.argsort(stable=True).argsort().double() / (len(scores) + 1)
    return later.argsort(stable=True)[:wanted].sort().values


def rare(counts: Int[Tensor, " classes"]) -> Bool[Tensor, " classes"]:
    """Which classes were answered, but less often than a tenth of an equal share of all answers.

    >>> rare(torch.tensor([98, 0, 1, 40]))
    tensor([False, False,  True, False])
    """
    return (counts > 0) & (counts * int((counts > 0).sum()) * 10 < counts.sum())


def acquire(
    log_probabilities: Float[Tensor, "student row classes"],
    score: Acquisition,
    wanted: int,
    *,
    sought: Int[Tensor, " row"] | None = None,
) -> Int[Tensor, " chosen"]:
    """Choose the rows to ask by a score of the students' predictions; costs no query.

    Each class that the students see gets the same number of rows, as far as it has them. `sought`:
    for some rows the class that they are to be taken for, such as a new one that students do not
    see yet; -1 for the others.

    >>> thoughts = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]]]).log()
    >>> acquire(thoughts, margin, 2)
    tensor([1, 2])
    """
    seen = log_probabilities.exp().mean(0).argmax(1)
    if sought is not None:
        seen = torch.where(sought < 0, seen, sought.to(seen.device))
    return balanced(score(log_probabilities), seen, wanted)
