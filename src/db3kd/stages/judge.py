"""Students, judged on own images that are held back from them; costs no query."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.data import Rows
from db3kd.data.transfer_set import TransferSet
from db3kd.seeds import derive_seed
from db3kd.stages.workspace import Workspace
from db3kd.student.batches import resident
from db3kd.student.evaluate import predict
from db3kd.student.training import train

WORTH = 0.01  # of agreement: a gain that is worth the answers that are left
FOLDS = 5  # parts of the own images; each is held back once


@dataclass(frozen=True)
class Gain:
    """By how much some students agree more often than others, as a share, and its standard error.

    >>> Gain.of(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0, 1.0]))
    Gain(share=0.25, error=0.25)
    """

    share: float
    error: float

    @classmethod
    def of(cls, right: Float[Tensor, " held"], others: Float[Tensor, " held"]) -> "Gain":
        """Compare students on the same images held back, by how often each was right."""
        apart = right - others
        error = float(apart.std()) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
        return cls(round(float(apart.mean()), 4), round(error, 4))

    @property
    def is_clear(self) -> bool:
        """Whether there is a gain, and no smaller than its error."""
        return self.share > 0 and self.share >= self.error

    @property
    def may_pay(self) -> bool:
        """Whether it may be as large as `WORTH`, two standard errors allowed.

        >>> Gain(0.0, 0.015).may_pay, Gain(0.0, 0.002).may_pay
        (True, False)
        """
        return self.share + 2 * self.error >= WORTH

    def times(self, factor: float) -> "Gain":
        """The same, multiplied."""
        return Gain(round(self.share * factor, 4), round(self.error * factor, 4))


class Judge:
    """How often students agree with `classes` on own images that they have not seen.

    `sets`: how many transfer sets will be judged; progress needs it. `folds`: how many of the
    `FOLDS` are held back. `fold`: the fold of each image, by default a random one, by the run's
    seed. Students begin with the weights of `network`.
    """

    def __init__(
        self,
        workspace: Workspace,
        network: nn.Module,
        training: Training,
        plain: TransferSet,
        classes: Tensor,
        *,
        sets: int,
        folds: int = FOLDS,
        fold: Int[Tensor, " sample"] | None = None,
    ) -> None:
        self.workspace, self.network = workspace, network
        self.training, self.plain = training, plain
        self.classes, self.folds, self.done, self.total = classes, folds, 0, sets * folds
        draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "folds"))
        drawn = torch.randperm(len(plain), generator=draw) % FOLDS
        self.fold = drawn if fold is None else fold
        self.held = int((self.fold < folds).sum())

    def __call__(self, transfer: TransferSet) -> float:
        """Train a student for each fold; returns the share of images held back that it got right.

        A new image is always on the same side as its parent.
        """
        return float(self.right(transfer).sum()) / self.held

    def right(
        self,
        transfer: TransferSet,
        *,
        seed: int = 0,
        partners: Int[Tensor, " sample"] | None = None,
    ) -> Float[Tensor, " held"]:
        """The same for each image held back, in their order: 1 where its student was right.

        `partners`: for each sample, an image that it was made from as well; it is not learned from
        if that one is held back. Random by `seed`.
        """
        right = torch.zeros(len(self.plain))
        transfer = replace(transfer, images=resident(transfer.images))
        for number in range(self.folds):
            held = self.fold == number
            kept = (~held)[transfer.ids]
            if partners is not None:
                kept &= (~held)[partners]
            seen = transfer.select(kept.nonzero()[:, 0])
            if transfer.first is not None:  # own images come first
                seen = replace(seen, first=int((~held).sum()))
            student = self._student(seen, number + FOLDS * seed)
            rows = held.nonzero()[:, 0]
            answers = predict(student, Rows(self.plain.images, rows), device=self.workspace.device)
            right[rows] = (answers.cpu() == self.classes[rows]).float()
        return right[self.fold < self.folds]

    def _student(self, transfer: TransferSet, seed: int) -> nn.Module:
        with torch.enable_grad():
            student = train(
                copy.deepcopy(self.network),
                transfer,
                self.training,
                seed=seed,
                device=self.workspace.device,
                progress=self._report,
            )
        self.done += 1
        return student

    def _report(self, _: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        self.workspace.progress("students", self.done * total + done, self.total * total, {})
