"""The white-box reference: targeted DDN (Rony et al., 2019) on the teacher itself.

It sees the teacher's gradients. Its distances are an upper bound of the true minimum, and a good
black-box search should come close to them. DDN is Foolbox's, with 200 and with 400 steps; the
better result of the two counts.
"""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from db3kd.errors import InputError
from db3kd.search.boundary import norm
from db3kd.teachers.base import Teacher

STEPS = (200, 400)
SHARPNESS = (1.0, 4.0, 16.0)  # of the soft votes whose gradients stand in for an SVM's
INSTALL = "pip install -c constraints.txt -e '.[benchmarks]'"
AT_ONCE = 126  # rows


def needed(name: str) -> Any:
    """Import a package of the extra `benchmarks`, or say in one sentence how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        raise InputError(f"this benchmark needs {name.split('.')[0]}: {INSTALL}") from None


class SoftVotes(nn.Module):
    """An RBF `sklearn.svm.SVC` as a module whose argmax is the machine's answer.

    The machine lets each pair of classes vote, and votes have no gradient. The forward pass returns
    the votes; a tie goes to the first class, as in the machine. The backward pass is that of a sum
    of sigmoids of the pairs' decision values times `sharpness`.
    """

    def __init__(self, machine: Any, sharpness: float) -> None:
        super().__init__()
        classes = len(machine.classes_)
        owner = torch.arange(classes).repeat_interleave(torch.tensor(machine.n_support_))
        dual = torch.tensor(machine.dual_coef_)
        self.first, self.second = torch.triu_indices(classes, classes, offset=1)
        pairs = zip(self.first.tolist(), self.second.tolist(), strict=True)
        self.weights = torch.stack(
            [dual[j - 1] * (owner == i) + dual[i] * (owner == j) for i, j in pairs]
        )
        self.vectors = torch.tensor(machine.support_vectors_, dtype=torch.float64)
        self.intercept = torch.tensor(machine.intercept_)
        self.gamma, self.sharpness, self.classes = float(machine._gamma), sharpness, classes

    def forward(self, images: Tensor) -> Tensor:
        """Votes (row, classes)."""
        flat = images.flatten(1).double()
        apart = (flat[:, None] - self.vectors).square().sum(2)
        value = (-self.gamma * apart).exp() @ self.weights.T + self.intercept
        soft = self._votes((self.sharpness * value).sigmoid())
        hard = self._votes((value > 0).double()) - torch.arange(self.classes) * 1e-3
        return (soft + (hard - soft).detach()).float()

    def _votes(self, share: Tensor) -> Tensor:
        """The vote of each pair: a share for its first class, the rest for its second."""
        votes = share.new_zeros(len(share), self.classes)
        return votes.index_add(1, self.first, share).index_add(1, self.second, 1 - share)


def reference(
    modules: Sequence[nn.Module],
    teacher: Teacher,
    origin: Tensor,
    target: Tensor,
    steps: Sequence[int] = STEPS,
) -> tuple[Tensor, Tensor]:
    """Distance and point of each row, confirmed by the teacher; +inf if nothing was found.

    `modules` return scores whose argmax is the teacher's answer. DDN runs on each of them.
    """
    foolbox = needed("foolbox")
    point, best = origin.clone(), torch.full((len(origin),), torch.inf)
    torch.manual_seed(0)  # DDN draws where a gradient vanishes
    for module in modules:
        model = foolbox.PyTorchModel(module.eval(), bounds=teacher.bounds)
        for count in steps:
            attack = foolbox.attacks.DDNAttack(steps=count)
            for rows in torch.split(torch.arange(len(origin)), AT_ONCE):
                aim = foolbox.criteria.TargetedMisclassification(target[rows])
                found = attack.run(model, origin[rows], aim).detach().clamp(*teacher.bounds)
                distance = norm(found - origin[rows])
                across = teacher.labels(found) == target[rows]
                nearer = across & (distance < best[rows])
                point[rows[nearer]], best[rows[nearer]] = found[nearer], distance[nearer]
    return best, point
