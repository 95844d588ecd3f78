"""What a run folder holds, as text."""

from collections.abc import Mapping
from typing import Any

from db3kd.stages.decisions import decided


def status_text(found: Mapping[str, Any]) -> str:
    """What `db3kd.status` found, as text.

    >>> print(status_text({"run": "runs/mnist", "stage": "answers", "students": [], "figures": [],
    ...                    "stages": {"answers": {"done": 1, "shards": 2}}, "decision": None,
    ...                    "queries": {"budget": 900, "spent": 50, "reserved": 9, "lost": 0}}))
    runs/mnist: answers
      answers   1 of 2 shards
      queries   50 of 900 (9 reserved, 0 lost)
      students  0
    """
    queries = found["queries"]
    budget = f" of {queries['budget']:,}" if queries["budget"] is not None else ", no budget"
    lines = [f"{found['run']}: {found['stage']}"]
    width = max(map(len, [*found["stages"], "students"]))
    for name, stage in found["stages"].items():
        lines.append(f"  {name:<{width}}  {stage['done']:,} of {stage['shards']:,} shards")
    lines.append(
        f"  {'queries':<{width}}  {queries['spent']:,}{budget}"
        f" ({queries['reserved']:,} reserved, {queries['lost']:,} lost)"
    )
    if found["decision"] is not None:
        lines.append(f"  {'spent on':<{width}}  {decided(found['decision'])}")
    lines.append(f"  {'students':<{width}}  {len(found['students'])}")
    for figure in found["figures"]:
        accuracy = "unknown" if figure["accuracy"] is None else f"{100 * figure['accuracy']:.2f}%"
        lines.append(
            f"  {figure['name']} seed {figure['seed']}: accuracy {accuracy},"
            f" agreement {100 * figure['agreement']:.2f}%"
        )
    return "\n".join(lines)
