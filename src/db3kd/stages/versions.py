"""What a process computes with: versions, threads, machine, GPU, and the commit of db3kd."""

import json
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import torch

PACKAGES = ("numpy", "safetensors", "pillow")


@cache  # reading a version takes a millisecond
def _installed(name: str) -> str:
    return version(name)


def versions() -> dict[str, str]:
    """All that numbers may depend on, by name; what is not known is left out.

    >>> versions().keys() >= {"db3kd", "machine", "numpy", "torch"}
    True
    """
    known = {
        "db3kd": _installed("db3kd"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "machine": platform.platform(),
        **{name: _installed(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        known["gpu"] = torch.cuda.get_device_name()
    found = commit()
    return {**known, "commit": found} if found else known


@cache
def commit() -> str:
    """The commit of the db3kd that runs: of its installation or of its checkout; "" if unknown.

    >>> len(commit()) in (0, 40)
    True
    """
    with suppress(PackageNotFoundError, ValueError, AttributeError, TypeError):
        found = json.loads(distribution("db3kd").read_text("direct_url.json") or "{}")
        if "vcs_info" in found:
            return str(found["vcs_info"]["commit_id"])
    return head(Path(__file__).parents[3] / ".git")


def head(git: Path) -> str:
    """The commit that is checked out, by a folder `.git`; "" where it cannot be read.

    >>> import tempfile
    >>> git = Path(tempfile.mkdtemp())
    >>> _ = (git / "HEAD").write_text("ref: refs/heads/main")
    >>> _ = (git / "packed-refs").write_text(f"{'ab' * 20} refs/heads/main")
    >>> head(git) == "ab" * 20
    True
    """
    try:
        text = (git / "HEAD").read_text().strip()
        if not text.startswith("ref: "):
            return text
        name = text.removeprefix("ref: ")
        loose = git / name
        if loose.exists():
            return loose.read_text().strip()
        lines = (git / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""
