"""Who trains a network: one process, or several at once (`db3kd.student.together`)."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@runtime_checkable
class Ranks(Protocol):
    """The processes that train one network, as each of them sees them; `rank` is its own number.

    All start with the same weights and take the same steps, so all end with the same weights.
    """

    rank: int

    def joined(self, module: nn.Module) -> nn.Module:
        """The same module; a backward pass averages its gradients over all ranks."""

    def part(
        self, images: Float[Tensor, "row channel height width"], rows: Int[Tensor, " row"]
    ) -> tuple[Tensor, Tensor, float]:
        """What this rank computes of a batch, and by what its mean loss is multiplied.

        With these factors, the mean over the ranks is the mean over the batch.
        """

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Leave the gradients of the whole batch in the weights."""

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over all ranks."""

    def words(self) -> tuple[int, ...]:
        """What tells this rank's seeds from those of the first one, which has none."""


class Alone:
    """One process that trains with one device."""

    rank = 0

    def joined(self, module: nn.Module) -> nn.Module:
        """The module itself."""
        return module

    def part(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """All of it."""
        return images, rows, 1.0

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        torch.autograd.backward(loss)

    def total(self, value: Tensor) -> Tensor:
        """The value itself."""
        return value

    def words(self) -> tuple[int, ...]:
        """None."""
        return ()
