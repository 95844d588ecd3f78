"""Digests of content, so that images are identified by their pixels and not by name or place."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 22  # of a file, read at once


@runtime_checkable
class Digested(Protocol):
    """Images that can give a digest of their content without decoding it."""

    def digest(self) -> str:
        """SHA-256 of the content."""


def combined(kind: str, parts: Iterable[str]) -> str:
    """One SHA-256 of a kind and several texts, in their order.

    >>> combined("rows", ["a", "b"]) == combined("rows", ["ab", ""])
    False
    """
    whole = hashlib.sha256(kind.encode())
    for part in parts:
        whole.update(f" {len(part)} {part}".encode())
    return whole.hexdigest()


def of_tensor(values: Tensor) -> str:
    """SHA-256 of a tensor: type, shape and every value.

    >>> of_tensor(torch.zeros(2)) == of_tensor(torch.zeros(2, 1))
    False
    """
    whole = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}\n".encode())
    flat = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    whole.update(flat.numpy().data)
    return whole.hexdigest()


def of_state(kinds: Iterable[str], state: Mapping[str, object]) -> str:
    """SHA-256 of the kinds of a module's parts, and of its weights by name.

    What is not a tensor is left out.

    >>> of_state(["Linear"], {"weight": torch.zeros(2)}) == of_state(["Linear"], {})
    False
    """
    weights = [(name, values) for name, values in state.items() if isinstance(values, Tensor)]
    return combined("state", [*kinds, *(f"{name} {of_tensor(value)}" for name, value in weights)])


def of_file(file: Path, tell: Callable[[int, int], None] | None = None) -> str:
    """SHA-256 of a file's bytes, read block by block; `tell` is told how much is done."""
    whole, done, total = hashlib.sha256(), 0, file.stat().st_size
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            whole.update(block)
            done += len(block)
            if tell is not None:
                tell(done, total)
    return whole.hexdigest()
