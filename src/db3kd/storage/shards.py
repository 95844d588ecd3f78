"""Shards: tensors in one safetensors file, checked by its digest. Nothing is ever unpickled."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from db3kd.errors import Damaged
from db3kd.storage.files import REPAIR, write_atomically


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as one safetensors file, whole or not at all; returns its SHA-256.

    Raises:
        RunError: the file cannot be written.

    >>> import tempfile, torch
    >>> target = Path(tempfile.mkdtemp()) / "0.safetensors"
    >>> digest = write_shard(target, {"own": torch.tensor([1, 2])})
    >>> read_shard(target, digest)["own"]
    tensor([1, 2])
    """
    content = safetensors.torch.save({k: v.contiguous().cpu() for k, v in tensors.items()})
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def read_shard(path: Path, digest: str) -> dict[str, Tensor]:
    """Read a shard and check it against the digest that the journal holds.

    Raises:
        Damaged: the file is missing, or its content is not what was written.

    >>> read_shard(Path("no-such.safetensors"), "")
    Traceback (most recent call last):
    ...
    db3kd.errors.Damaged: no-such.safetensors is missing; ...
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path} is missing; {REPAIR}") from None
    except OSError as error:  # a folder; no permission
        raise Damaged(f"{path} cannot be read ({error.strerror}); {REPAIR}") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise Damaged(f"{path} is cut or altered ({len(content):,} bytes); {REPAIR}")
    return safetensors.torch.load(content)
