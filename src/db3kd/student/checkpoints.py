"""The checkpoint of a training: exactly what its loop changes, and whose it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from db3kd.errors import Damaged
from db3kd.student.files import mismatch, read_tensors, state_of, write_tensors

Moments = dict[int, dict[str, Tensor]]


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    mean: Mapping[str, Tensor],
    identity: Mapping[str, str],
    epoch: int,
) -> None:
    """Write what a training has changed by the end of an epoch, whole or not at all.

    `mean`: the mean of its weights so far, if they are averaged.
    """
    tensors = {f"network.{name}": value for name, value in state_of(network).items()}
    for number, optimiser in enumerate(optimisers):
        for index, moments in optimiser.state_dict()["state"].items():
            for name, moment in moments.items():
                tensors[f"{_place(number)}.{index}.{name}"] = _copy(moment)
    tensors |= {f"mean.{name}": _copy(value) for name, value in mean.items()}
    write_tensors(path, tensors, {**identity, "epoch": str(epoch)})


def resumed(
    path: Path,
    network: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    mean: dict[str, Tensor],
    identity: Mapping[str, str],
) -> int:
    """Restore network, optimisers and mean from a checkpoint; return the number of epochs done.

    Raises:
        Damaged: another training wrote it, or it cannot be read.
    """
    tensors, metadata = read_tensors(path)
    for key, value in identity.items():
        if metadata.get(key) != value:
            raise Damaged(
                f"{path} is not a checkpoint of this training: its {key} is {metadata.get(key)},"
                f" not {value}; remove it to start over"
            )
    state = _within(tensors, "network.")
    wrong = mismatch(state, network.state_dict())
    if wrong:
        raise Damaged(f"{path} is a checkpoint of another network: {wrong}")
    network.load_state_dict(state)
    mean.update(_within(tensors, "mean."))
    for number, optimiser in enumerate(optimisers):
        moments: Moments = {}
        for name, tensor in _within(tensors, _place(number) + ".").items():
            index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = tensor
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": moments, "param_groups": groups})
        _lay_out(optimiser)
    return int(metadata["epoch"])


def _lay_out(optimiser: torch.optim.Optimizer) -> None:
    """Lay out what an optimiser remembers like the weights; fused steps go by their order."""
    for weight, moments in optimiser.state.items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.shape == weight.shape:
                moments[name] = torch.empty_like(weight).copy_(moment)


def _place(number: int) -> str:
    """The first word of the names of an optimiser's tensors; the first has no number."""
    return f"optimiser{number or ''}"


def _within(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
