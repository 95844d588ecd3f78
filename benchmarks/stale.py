"""When a kept result is stale: what it was made of, as a few letters in its name."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import db3kd

ROWS = ("boundary.py", "robustness.py", "descent/*.py")  # the sources that search row by row
TOGETHER = (*ROWS, "amortised/*.py", "networks.py", "teachers/rewrites.py")
STUDENT = ("student.py", "soft_labels.py", "networks.py")


def digest(patterns: Sequence[str], *parts: bytes) -> str:
    """Of the package's sources that match, and of whatever else the result depends on."""
    house = Path(db3kd.__file__).parent
    found = hashlib.blake2b(digest_size=8)
    for pattern in patterns:
        for file in sorted(house.glob(pattern)):
            found.update(file.read_bytes())
    for part in parts:
        found.update(part)
    return found.hexdigest()
