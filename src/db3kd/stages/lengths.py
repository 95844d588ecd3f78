"""Stages whose length is not settled at their start: they may grow, or end early."""

from collections.abc import Callable, Iterable

from db3kd.stages.executor import Work
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json


def agree_up_to(workspace: Workspace, stage: str, configuration: Json) -> int:
    """As `Workspace.agree`, for a stage whose `total` may grow; returns the largest total so far.

    Raises:
        ConfigurationDiffers: anything else differs.
    """
    recorded, wanted = workspace.configuration(stage), int(configuration["total"])
    total = int(recorded.get("total", wanted))
    workspace.agree(stage, {**configuration, "total": total})
    if wanted > total:
        named = workspace.named(stage)
        workspace.journal.append("stage", stage=named, configuration=configuration)
    return max(total, wanted)


def cut(workspace: Workspace, stage: str, total: int) -> None:
    """Record that a stage ends after fewer samples than were `planned`, or after all of these.

    What is done already must be whole shards, and no more than `total`.
    """
    known = workspace.configuration(stage)
    planned = int(known.pop("planned", known["total"]))
    more = {} if total == planned else {"planned": planned}
    configuration = {**known, "total": total, **more}
    named = workspace.named(stage)
    workspace.journal.append("stage", stage=named, configuration=configuration)


def begun(workspace: Workspace, stage: str, shard: int) -> bool:
    """Whether anything was asked of a shard, or of one after it."""
    name = workspace.named(stage)
    asked = {number for some, number in workspace.journal.bounds if some == name}
    return any(number >= shard for number in asked | set(workspace.done(stage)))


def work_until(
    workspace: Workspace,
    stage: str,
    samples: int,
    size: int,
    work: Work,
    *,
    ends: Iterable[int],
    enough: Callable[[int], bool],
) -> None:
    """Do the shards of a stage until there is enough, and record where that was.

    `enough` is asked after each number of shards in `ends`, unless more were begun.

    Raises:
        BudgetExhausted, TeacherError, Damaged, RunError: as `Workspace.work`.
    """
    for end in ends:
        workspace.work(stage, end * size, size, 1, work)
        if not begun(workspace, stage, end) and enough(end):
            cut(workspace, stage, end * size)
            return
    workspace.work(stage, samples, size, 1, work)
