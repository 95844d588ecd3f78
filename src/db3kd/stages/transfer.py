"""What a student of own images is trained on, from finished shards."""

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.config.methods import METHODS, Method
from db3kd.data import Images
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.stages import distances, growing, trial
from db3kd.stages.answers import ask_once
from db3kd.stages.classes_met import learnable
from db3kd.stages.table import ANSWERS_SHARD
from db3kd.stages.workspace import Workspace


def transfer_of(
    workspace: Workspace, images: Images, method: Method, labels: Int[Tensor, " sample"] | None
) -> TransferSet:
    """What students of a method learn from; see `Run.transfer_set`."""
    needs = METHODS[method]
    if not needs.own_images:
        raise InputError(f"students of {method!r} do not learn from own images; see `Run.pseudo`")
    begun = workspace.configuration("answers")
    pending = workspace.pending("answers", len(images), ANSWERS_SHARD)
    if not begun or (pending and begun["samples"] == len(images)):
        raise InputError("the images are not labelled yet; label them first")
    answers = ask_once(workspace, "answers", images)
    rows = torch.arange(len(images))
    transfer = TransferSet(images, rows, answers, answers if labels is None else labels)
    if needs.trial:
        found = trial.with_decision(workspace, transfer, truth=labels is not None)
        return learnable(workspace, found)
    if needs.metric is not None:
        transfer = transfer.with_soft(distances.soft(workspace, needs.metric, answers))
    if needs.grown:
        transfer = growing.with_grown(workspace, transfer, images, rows)
    return learnable(workspace, transfer)
