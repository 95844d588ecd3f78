"""Students, judged on own images that are held back from them; costs no query."""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.data import Rows
from db3kd.data.transfer_set import TransferSet
from db3kd.seeds import derive_seed
from db3kd.stages.workspace import Workspace
from db3kd.student.batches import resident
from db3kd.student.evaluate import predict
from db3kd.student.training import train

FOLDS = 5  # parts of the own images; each is held back once


class Judge:
    """How often students agree with `classes` on own images that they have not seen.

    `sets`: how many transfer sets will be judged; progress needs it. `folds`: how many of the
    `FOLDS` are held back. `fold`: to which of these each image belongs; by default, that is random
    by the run's seed. Students begin with the weights of `network`.
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
        fold: Tensor | None = None,
    ) -> None:
        self.workspace, self.network = workspace, network
        self.training, self.plain = training, plain
        self.classes, self.folds, self.done, self.total = classes, folds, 0, sets * folds
        draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "folds"))
        self.fold = torch.randperm(len(plain), generator=draw) % FOLDS if fold is None else fold
        self.held = int((self.fold < folds).sum())

    def __call__(self, transfer: TransferSet) -> float:
        """Train a student for each fold; returns the share of images held back that it got right.

        A new image is always on the same side as its parent.
        """
        return int(self.marks(transfer).sum()) / self.held

    def marks(self, transfer: TransferSet, partners: Tensor | None = None) -> Tensor:
        """Train a student for each fold; returns for each image held back whether it is right.

        `partners`: for each sample, an image that it was made from as well; it is not learned from
        if that one is held back.
        """
        right = torch.zeros(len(self.plain), dtype=torch.bool)
        transfer = replace(transfer, images=resident(transfer.images))
        for number in range(self.folds):
            held = self.fold == number
            kept = (~held)[transfer.ids]
            if partners is not None:
                kept &= (~held)[partners]
            seen = transfer.select(kept.nonzero()[:, 0])
            if transfer.first is not None:  # own images come first
                seen = replace(seen, first=int((~held).sum()))
            student = self._student(seen, number)
            rows = held.nonzero()[:, 0]
            answers = predict(student, Rows(self.plain.images, rows), device=self.workspace.device)
            right[rows] = answers.cpu() == self.classes[rows]
        return right[self.fold < self.folds]

    def _student(self, transfer: TransferSet, number: int) -> nn.Module:
        with torch.enable_grad():
            student = train(
                copy.deepcopy(self.network),
                transfer,
                self.training,
                seed=number,
                device=self.workspace.device,
                progress=self._report,
            )
        self.done += 1
        return student

    def _report(self, _: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        self.workspace.progress("students", self.done * total + done, self.total * total, {})
