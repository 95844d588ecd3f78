"""What goes into a store and comes out of it."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from db3kd.errors import InputError
from db3kd.teachers.parts import Classes

KEY = 32  # bytes of a SHA-256 digest
LARGEST = 2**32 - 1  # class that fits a block


@dataclass(frozen=True)
class Imported:
    """What became of the rows of a table.

    `added`: new answers. `known`: rows whose key was known before, in the store or the table; what
    was known stays. `differ`: those of them that say another class.
    """

    added: int
    known: int
    differ: int


@dataclass(frozen=True)
class Block:
    """Answers that were kept together; `at` is in seconds since 1970."""

    identity: str
    at: float
    keys: list[bytes]
    classes: list[int]


def checksum(teacher: int, at: int, keys: bytes, classes: bytes) -> int:
    """CRC-32 of all that a block holds.

    >>> checksum(1, 0, b"", b"")
    1773486779
    """
    return zlib.crc32(classes, zlib.crc32(keys, zlib.crc32(f"{teacher} {at}".encode())))


def checked(keys: Sequence[bytes], classes: Classes) -> list[int]:
    """Classes as a list, if they and the keys are what a block can hold.

    Raises:
        InputError: not one class for each key, a key of other than 32 bytes, a class below 0.

    >>> checked([b"k" * 32], (4,))
    [4]
    >>> checked([b"cat"], [4])
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: keys must be 32 bytes long; SHA-256 digests are
    """
    values = classes.tolist() if isinstance(classes, Tensor) else list(classes)
    if len(values) != len(keys):
        raise InputError(f"{len(values)} classes for {len(keys)} keys; give one for each")
    if set(map(len, keys)) - {KEY}:
        raise InputError(f"keys must be {KEY} bytes long; SHA-256 digests are")
    if values and not 0 <= min(values) <= max(values) <= LARGEST:
        wrong = min(values) if min(values) < 0 else max(values)
        raise InputError(f"classes must be from 0 to {LARGEST}, got {wrong}")
    return values
