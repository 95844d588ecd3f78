"""Networks on disk: safetensors files with a checksum. No code in a file is ever run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from db3kd.errors import Damaged, InputError, plain
from db3kd.storage.files import Json, write_atomically
from db3kd.student.card import StudentCard, written


def save_network(path: Path, network: nn.Module, card: StudentCard | None = None) -> None:
    """Write a network's weights to a safetensors file, whole or, if that fails, not at all.

    `card`: what the file says of it, so that `load_student` needs the file alone.

    Raises:
        InputError: something in the card cannot be.
        RunError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(Path(folder) / "student.safetensors", nn.Linear(2, 1))
    ...     [file.name for file in Path(folder).iterdir()]
    ['student.safetensors']
    """
    known = {"format": "db3kd network 1"} if card is None else written(card)
    write_tensors(path, state_of(network), known)


def load_network(path: Path, network: nn.Module) -> nn.Module:
    """Load the weights of a safetensors file into a network, in place, and return the network.

    Files of other programs can be loaded as well if names and shapes fit. No code in a file is ever
    run.

    Raises:
        InputError: there is no such file, or its tensors do not fit this network; the text names
            the first one that differs.
        Damaged: the file cannot be read, or differs from its checksum.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_network(Path(folder) / "student.safetensors", nn.Linear(2, 1))
    ...     load_network(Path(folder) / "student.safetensors", nn.Linear(3, 1))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: ...student.safetensors does not fit this network: weight is ...
    """
    tensors, _ = read_tensors(path)
    wrong = mismatch(tensors, network.state_dict())
    if wrong:
        raise InputError(f"{path} does not fit this network: {wrong}")
    network.load_state_dict(tensors)
    return network


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights, on the CPU."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in network.state_dict().items()
    }


def mismatch(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Describe the first tensor that differs in name or shape; an empty text if all fit."""
    for name in sorted(set(given) | set(wanted)):
        if name not in given:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} is unknown to it"
        shapes = tuple(given[name].shape), tuple(wanted[name].shape)
        if shapes[0] != shapes[1]:
            return f"{name} is {shapes[0]} in the file and {shapes[1]} in the network"
    return ""


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 of tensors with their names, types and shapes, and of metadata."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file, whole or not at all; equal content gives equal bytes."""
    known = {**metadata, "sha256": digest_of(tensors, metadata)}
    one = {"db3kd": json.dumps(known, sort_keys=True)}  # one key: several come in any order
    write_atomically(path, safetensors.torch.save(tensors, one))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Json]:
    """Return tensors and metadata of a safetensors file, compared with its checksum if it has one.

    Raises:
        InputError: there is no such file.
        Damaged: the file cannot be read, or differs from its checksum.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("db3kd", "{}"))
            if not isinstance(metadata, dict):
                raise ValueError("what db3kd wrote is no table")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise Damaged(
            f"{path} cannot be read as safetensors ({plain(error)}); if a run wrote it, remove it"
            " or restore a copy"
        ) from None
    checksum = metadata.pop("sha256", None)
    if checksum is not None and checksum != digest_of(tensors, metadata):
        raise Damaged(f"{path} differs from its checksum; remove it or restore a copy")
    return tensors, metadata
