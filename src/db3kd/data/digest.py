"""Digests of content, so that images are identified by their pixels and not by name or place."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


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


def of_file(file: Path) -> str:
    """SHA-256 of a file's bytes, read block by block."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
