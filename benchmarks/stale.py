"""Tells when a kept result is stale: its name holds a digest of what it depends on."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import db3kd

ROWS = ("search/*.py", "search/descent/*.py")  # the sources that search row by row
JOINT = (*ROWS, "search/joint/*.py", "student/networks.py", "teachers/rewrites.py")
STUDENT = ("student/*.py",)


def digest(patterns: Sequence[str], *parts: bytes) -> str:
    """Digest of the package's sources that match, and of whatever else the result depends on.

    A pattern without a file is an error, since the result would no longer depend on a source that
    was moved.
    """
    house = Path(db3kd.__file__).parent
    found = hashlib.blake2b(digest_size=8)
    for pattern in patterns:
        files = sorted(house.glob(pattern))
        if not files:
            raise FileNotFoundError(f"no source of db3kd is {pattern}")
        for file in files:
            found.update(file.read_bytes())
    for part in parts:
        found.update(part)
    return found.hexdigest()
