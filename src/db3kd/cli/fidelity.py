"""The result of an audit as text: how many answers each target takes, and what each step gave."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from db3kd.cli.door import WIDTH
from db3kd.cli.terminal import drawn
from db3kd.errors import plain
from db3kd.job.auditing.told import LIMITS, basis, beyond, needed, sentences, span


def fidelity(found: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """All that `db3kd audit` says at its end; `width`: in columns."""
    return "\n".join(_parts(found, width))


def _parts(found: Mapping[str, Any], width: int) -> Iterator[str]:
    if found["steps"]:
        yield _targets(found, width)
        yield ""
        yield _steps(found, width)
        yield ""
        for text in (*sentences(found), basis(found), beyond(found), LIMITS):
            if text:
                yield textwrap.fill(text, width)
    queries = found["queries"]
    budget = f" of {queries['budget']:,}" if queries["budget"] is not None else ""
    yield f"{queries['spent']:,}{budget} queries spent; everything is in {found['run']}"
    for warning in found["warnings"]:
        yield f"warning: {plain(warning)}"
    if "report" in found:
        yield f"Report: {found['report']}"


def _targets(found: Mapping[str, Any], width: int) -> str:
    lines = _table("agreement", "answers", "95 % interval", "")
    for row in found["targets"]:
        share = f"{100 * row['agreement']:.4g} %"
        lines.add_row(share, needed(row, found), span(row), row["status"])
    return drawn(lines, width)


def _steps(found: Mapping[str, Any], width: int) -> str:
    lines = _table("answers", "agreement %", "95 % interval", "lowest", "highest")
    for step in found["steps"]:
        low, high = step["interval"]
        lines.add_row(
            f"{step['answers']:,}",
            f"{100 * step['mean']:.2f}",
            f"{100 * low:.2f} to {100 * high:.2f}",
            f"{100 * min(step['agreement']):.2f}",
            f"{100 * max(step['agreement']):.2f}",
        )
    return drawn(lines, width)


def _table(*names: str) -> Table:
    lines = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for name in names:
        lines.add_column(name, justify="left" if not name else "right")
    return lines
