"""The rounds of a joint search in a run: a shard for each block of images and each round."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data import Images
from db3kd.search.boundary import as_seen
from db3kd.search.joint.front import Front
from db3kd.search.joint.loop import Ask
from db3kd.search.joint.plan import JointPlan
from db3kd.search.joint.rays import Asked
from db3kd.search.joint.surrogate import Known
from db3kd.search.robustness import References
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.batches import resident

NAMES = ("point", "distance", "spent", "tried")  # the columns of a front that a shard keeps


@dataclass(frozen=True)
class KeptRounds:
    """The rounds in a run's folder: what `plan` says, in shards of `size` images.

    The shards of a round are numbered on from those of the round before.
    """

    workspace: Workspace
    images: Images
    teacher_labels: Int[Tensor, " sample"]
    references: References
    plan: JointPlan
    size: int
    per_image: int

    def finished(self, number: int) -> bool:
        """Whether every shard of a round is there."""
        done = self.workspace.done("rounds")
        return all(unit in done for unit in self._units(number))

    def moved(self, number: int) -> float:
        """The mean over its shards of the share of the rows that a round moved."""
        done, units = self.workspace.done("rounds"), self._units(number)
        return sum(float(done[unit]["moved"]) for unit in units) / len(units)

    def known(self, number: int) -> Known:
        """The images' own answers, and those of the rounds before this one."""
        parts = [self._read(unit) for unit in range(self._units(number).start)]
        none = torch.zeros(0, *self.images.shape)
        probes = torch.cat([none.half(), *(part["probes"] for part in parts)])
        probe_answers = torch.cat(
            [none[:, 0, 0, 0].long(), *(part["called"].long() for part in parts)]
        )
        return Known(self.pixels, self.teacher_labels, probes, probe_answers)

    @cached_property
    def pixels(self) -> Images:
        """The images, in memory unless there are too many: a fit reads them thousands of times."""
        return resident(self.images)

    def front(self, rows: Int[Tensor, " row"], shard: int, number: int) -> Front:
        """Where the images of a shard stand before a round; without an earlier one, at references.

        Shards that take no part in the rounds have no earlier one.
        """
        device, bounds = self.workspace.device, self.workspace.meter.bounds
        images = as_seen(self.images.read(rows).to(device), bounds)
        teacher_labels = self.teacher_labels[rows].to(device)
        if not number or shard not in self.plan.shards:
            return Front.at_references(images, teacher_labels, self.references)
        kept = self._read(self._units(number - 1)[self.plan.shards.index(shard)])
        return _front_of(kept, images, teacher_labels)

    def work(self, number: int, ask: Ask) -> None:
        """Do the shards of a round that are not done."""
        blocks = [
            torch.arange(len(self.images))[k * self.size :][: self.size] for k in self.plan.shards
        ]
        most = sum(len(rows) for rows in blocks) * self.per_image
        units, workspace = self._units(number), self.workspace

        def work(teacher: ReplayTeacher, rows: Tensor, unit: int) -> tuple[dict[str, Tensor], Json]:
            front = self.front(rows, self.plan.shards[unit - units.start], number)
            asked, moved = ask(teacher, front)
            return _tensors_of(front, asked), {"moved": round(moved, 4)}

        for unit, rows in zip(units, blocks, strict=True):
            if unit in workspace.done("rounds"):
                continue
            ready = most * unit // (self.plan.rounds * len(blocks))

            def report(used: int, ready: int = ready) -> None:
                figures = {"queries": float(workspace.meter.spent)}
                workspace.progress("rounds", min(most, ready + used), most, figures)

            workspace.shard("rounds", unit, rows, work, report)

    def _units(self, number: int) -> range:
        """The numbers of a round's shards in the stage."""
        count = len(self.plan.shards)
        return range(number * count, (number + 1) * count)

    def _read(self, unit: int) -> dict[str, Tensor]:
        return self.workspace.read(self.workspace.done("rounds")[unit])


def _tensors_of(front: Front, asked: Asked) -> dict[str, Tensor]:
    """What a shard keeps of a round."""
    columns = {name: getattr(front, name).cpu() for name in NAMES}
    answers, sample = asked.answers.cpu().to(torch.int32), asked.sample.cpu().to(torch.int32)
    return {**columns, "probes": asked.probes.cpu(), "called": answers, "asking": sample}


def _front_of(
    kept: dict[str, Tensor],
    images: Float[Tensor, "sample *image"],
    teacher_labels: Int[Tensor, " sample"],
) -> Front:
    """The front that a shard kept."""
    return Front(images, teacher_labels, *(kept[name].to(images.device) for name in NAMES))
