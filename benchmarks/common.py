"""What all benchmarks share: their options, a description of the machine, and the JSON they write.

Nothing here imports torch, so that the benchmark of memory can stay small itself.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Json = dict[str, Any]
PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("db3kd", "torch", "numpy", "pyarrow", "pillow", "safetensors")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="at most 5 minutes on 2 cores")
    options.add_argument("--json", type=Path, required=True, metavar="FILE", help="result file")
    return options


def write(
    file: Path, *, figures: Mapping[str, float], setting: Json, table: Sequence[Json]
) -> None:
    """Write the result: figures by name, how they were obtained, and every repeat."""
    rounded = {name: round(value, 4) for name, value in figures.items()}
    result = {
        "figures": rounded,
        "setting": setting,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "table": list(table),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in rounded.items():
        print(f"{name} = {value}")


def say(text: str) -> None:
    """Report progress to the user on stderr."""
    print(text, file=sys.stderr, flush=True)


def machine() -> Json:
    """Describe the machine as far as it matters for speed and memory."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "load": [round(load, 2) for load in os.getloadavg()],  # at the end; 0 would be quiet
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def commit() -> str:
    """The commit of the project, with "+changes" if tracked files differ from it."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
