"""Which of some candidates are asked: the most instructive, as many of each class."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.growing.choices import Score


def balanced(
    scores: Float[Tensor, " row"], seen: Int[Tensor, " row"], wanted: int
) -> Int[Tensor, " chosen"]:
    """The rows of the highest scores, in turns of the classes that they are `seen` as.

    The best of every class come before the second of any; a class that has no more is passed over.

    >>> scores, seen = torch.tensor([0.9, 0.8, 0.1, 0.7]), torch.tensor([0, 0, 1, 0])
    >>> balanced(scores, seen, 2)
    tensor([0, 2])
    """
    order = scores.argsort(descending=True, stable=True)
    turn = torch.zeros_like(seen)
    for kind in range(int(seen.max()) + 1):
        mine = order[seen[order] == kind]
        turn[mine] = torch.arange(len(mine), device=turn.device)
    later = turn.double() - scores.argsort(stable=True).argsort().double() / (len(scores) + 1)
    return later.argsort(stable=True)[:wanted].sort().values


def choose(
    log_probabilities: Float[Tensor, "student row classes"], score: Score, wanted: int
) -> Int[Tensor, " chosen"]:
    """The rows to ask, by what some students think of them; costs no query.

    >>> from db3kd.growing.choices import doubt
    >>> thoughts = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]]]).log()
    >>> choose(thoughts, doubt, 2)
    tensor([1, 2])
    """
    seen = log_probabilities.exp().mean(0).argmax(1)
    return balanced(score(log_probabilities), seen, wanted)
