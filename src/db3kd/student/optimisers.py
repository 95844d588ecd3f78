"""What moves a network's weights in a step, and how the learning rate falls."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from db3kd.config.settings import Training, settled

MOMENTUM = 0.95  # of Muon; SGD has the usual 0.9
BESIDE = 0.1  # AdamW's rate beside Muon, as a share of Muon's own
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration of Newton and Schulz, by Jordan et al.
ITERATIONS = 5
SHALLOW = 5  # layers of LeNet-5, the deepest network with which SGD was measured to be ahead
WIDEST = 512  # a matrix with more rows and columns is left to AdamW: its step would cost too much


class Muon(torch.optim.Optimizer):
    """Momentum whose step is, for every matrix, the nearest one with orthogonal rows or columns.

    Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks". The kernels of
    a convolution are a matrix (out, in x height x width). Not `torch.optim.Muon`, which takes no
    kernels and computes in bfloat16, twenty times as slow on a CPU without instructions for it.

    Nothing is random.

    >>> weight = nn.Parameter(torch.zeros(2, 3))
    >>> muon = Muon([weight], rate=1.0)
    >>> weight.grad = torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    >>> muon.step()
    >>> weight.data.round()
    tensor([[-1.,  0.,  0.],
            [ 0., -1.,  0.]])
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], *, rate: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(weights, {"lr": rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix once."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group["lr"], group["weight_decay"])

    def _move(self, weight: nn.Parameter, rate: float, decay: float) -> None:
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)
        if decay:
            weight.mul_(1 - rate * decay)
        rows, columns = ahead.shape
        step = rate * math.sqrt(max(1.0, rows / columns))
        weight.add_(orthogonal(ahead).view(weight.shape), alpha=-step)


def orthogonal(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """Return nearly the nearest matrix with orthogonal rows, or columns if there are fewer.

    Five iterations of Newton and Schulz bring the singular values between 0.7 and 1.2. They work
    on the square matrix G G^T of the shorter side alone: (P_5 ... P_1) G with
    P = a I + b R + c R^2 and R = G G^T, then R <- P R P.

    >>> turned = orthogonal(torch.tensor([[3.0, 4.0], [-4.0, 3.0]]))
    >>> bool((turned @ turned.T - torch.eye(2)).abs().max() < 0.5)
    True
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.mT).mT
    a, b, c = COEFFICIENTS
    matrix = matrix / matrix.norm().clamp_min(1e-7)
    left, whole = matrix @ matrix.mT, None
    for number in range(ITERATIONS):
        factor = torch.addmm(left, left, left, beta=b, alpha=c)
        factor.diagonal().add_(a)
        whole = factor if whole is None else factor @ whole
        if number < ITERATIONS - 1:
            left = factor @ left @ factor
    assert whole is not None
    return whole @ matrix


def optimisers_of(network: nn.Module, training: Training) -> list[torch.optim.Optimizer]:
    """The optimisers of a training, which together move every weight once in a step.

    With "muon", AdamW moves vectors, the last matrix (which gives the scores), and matrices of more
    than 512 rows and columns.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [type(each).__name__ for each in optimisers_of(net, Training())]
    ['Muon', 'AdamW']
    """
    training = settled(training)
    rate, decay = training.rate, training.weight_decay
    assert rate is not None
    assert decay is not None
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if training.optimiser == "sgd":
        return [torch.optim.SGD(weights, rate, momentum=0.9, nesterov=True, weight_decay=decay)]
    if training.optimiser == "adam":
        return [torch.optim.Adam(weights, rate, weight_decay=decay, fused=True)]
    if training.optimiser == "adamw":
        return [torch.optim.AdamW(weights, rate, weight_decay=decay, fused=True)]
    matrices = [weight for weight in weights if weight.ndim > 1]
    inner = [weight for weight in matrices[:-1] if min(weight.flatten(1).shape) <= WIDEST]
    known = {id(weight) for weight in inner}
    rest = [weight for weight in weights if id(weight) not in known]
    found: list[torch.optim.Optimizer] = []
    if inner:
        found.append(Muon(inner, rate=rate, weight_decay=decay))
    if rest:
        found.append(torch.optim.AdamW(rest, BESIDE * rate, weight_decay=decay, fused=True))
    return found


def suits_sgd(network: nn.Module) -> bool:
    """Whether a network has no more layers with weights than LeNet-5.

    A deeper one wants more steps of SGD than few answers pay for: an AlexNet learns nearly nothing
    (`docs/design/2026-11-30-the-trainer.md`).

    >>> from db3kd.student.networks import build
    >>> suits_sgd(build("lenet5", (1, 28, 28), 10, seed=0))
    True
    >>> suits_sgd(build("alexnet", (3, 32, 32), 10, seed=0))
    False
    """
    return sum(weight.ndim > 1 for weight in network.parameters()) <= SHALLOW


class Schedule:
    """The learning rates of a training, step by step.

    `optimisers` are new: the rates that they have are the highest.

    >>> net = nn.Linear(2, 2)
    >>> optimiser = torch.optim.SGD(net.parameters(), 0.5)
    >>> schedule = Schedule([optimiser], Training(warmup=0.5), steps=4)
    >>> for step in range(4):
    ...     schedule.set(step)
    ...     print(optimiser.param_groups[0]["lr"])
    0.25
    0.5
    0.5
    0.25
    """

    def __init__(
        self, optimisers: list[torch.optim.Optimizer], training: Training, *, steps: int
    ) -> None:
        self.training, self.steps = settled(training), steps
        self._rates = [(each, [float(g["lr"]) for g in each.param_groups]) for each in optimisers]

    def set(self, step: int) -> None:
        """Give the optimisers their rates of a step, the first of which is 0."""
        share = share_of_rate(self.training, step, self.steps)
        for optimiser, rates in self._rates:
            for group, most in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = share * most


def share_of_rate(training: Training, step: int, steps: int) -> float:
    """The learning rate of a step, as a share of the highest; `training` is settled.

    >>> [share_of_rate(Training(schedule="linear"), step, 4) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    >>> [share_of_rate(Training(schedule="steps"), step, 4) for step in range(4)]
    [1.0, 1.0, 0.1, 0.010000000000000002]
    """
    warm = math.ceil((training.warmup or 0.0) * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / (steps - warm)
    if training.schedule == "steps":
        return training.drop ** sum(step >= share * steps for share in training.drops)
    if training.schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if training.schedule == "cosine" else 1.0
