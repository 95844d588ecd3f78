"""Which classes the teacher gave to pseudo samples, and which it hardly ever gave."""

import logging

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.stages.workspace import Workspace
from db3kd.teachers.base import unsure_of

RARE = 5  # samples of a class that are too few to learn it from
_log = logging.getLogger("db3kd")


def counts(workspace: Workspace) -> Int[Tensor, " classes"]:
    """How many pseudo samples, copies included, the teacher gave each class."""
    whole = torch.zeros(workspace.meter.classes, dtype=torch.int64)
    for stage in ("synthesis", "ascent", "copies"):
        for record in workspace.done(stage).values():
            whole += torch.tensor(record["counts"])
    return whole


def warn_of_missing(workspace: Workspace) -> None:
    """Name the classes that the teacher gave to no pseudo sample, or to very few."""
    met, unsure = counts(workspace), unsure_of(workspace.meter)
    if unsure is not None:
        whole, unknown = int(met.sum()), int(met[unsure])
        if 2 * unknown > whole:
            _log.warning(
                "the teacher did not know the class of %s of %s pseudo samples, so students learn"
                " from the other %s",
                f"{unknown:,}",
                f"{whole:,}",
                f"{whole - unknown:,}",
            )
        met = met[:unsure]
    missing, rare = (met == 0).nonzero()[:, 0].tolist(), ((met > 0) & (met < RARE)).nonzero()[:, 0]
    if missing:
        _log.warning(
            "no pseudo sample is of class %s (%s of %s classes), so students cannot learn these",
            _named(missing),
            len(missing),
            len(met),
        )
    if len(rare):
        _log.warning(
            "fewer than %s pseudo samples each are of class %s, so students hardly learn these",
            RARE,
            _named(rare.tolist()),
        )


def _named(classes: list[int]) -> str:
    return ", ".join(map(str, classes[:10])) + (", ..." if len(classes) > 10 else "")
