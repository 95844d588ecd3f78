"""The rounds of a joint search in a run: a shard for each block of images and each round."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.data import Images
from db3kd.errors import Damaged
from db3kd.search.boundary import as_seen
from db3kd.search.joint.asked import Asked
from db3kd.search.joint.front import Front
from db3kd.search.joint.loop import Ask
from db3kd.search.joint.plan import JointPlan
from db3kd.search.joint.surrogate import Known
from db3kd.search.robustness import References
from db3kd.stages.executor import Part
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.batches import resident
from db3kd.teachers.found import cut

FRONT = ("distance", "spent", "tried")  # the columns of a front that a shard keeps
ASKED = ("direction", "ray", "share", "sample", "answers", "best")  # of `Asked`
OLD = "probes"  # a column of shards in which probes and points were kept, until December 2026


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
        none = torch.zeros(0, *self.images.shape)
        probes, called = [none.half()], [none[:, 0, 0, 0].long()]
        for unit in range(self._units(number).start):
            points, answers, _ = probes_of(
                self.workspace, self.images, unit, self.plan.shards, self.size
            )
            probes.append(points.half())
            called.append(answers)
        return Known(self.pixels, self.teacher_labels, torch.cat(probes), torch.cat(called))

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
        front = Front.at_references(images, self.teacher_labels[rows].to(device), self.references)
        if shard in self.plan.shards:
            for earlier in range(number):
                unit = self._units(earlier)[self.plan.shards.index(shard)]
                front = _after(front, _read(self.workspace, unit), bounds)
        return front

    def work(self, number: int, ask: Ask) -> None:
        """Do the shards of a round that are not done."""
        blocks = [self._span(shard) for shard in self.plan.shards]
        most = sum(len(span) for span in blocks) * self.per_image
        units, workspace = self._units(number), self.workspace

        def work(teacher: ReplayTeacher, rows: Tensor, unit: int) -> tuple[dict[str, Tensor], Json]:
            front = self.front(rows, self.plan.shards[unit - units.start], number)
            asked, moved = ask(cut(teacher, front.classes), front)
            return _tensors_of(front, asked, teacher.bounds), {"moved": round(moved, 4)}

        all_units, done = self.plan.rounds * len(blocks), workspace.done("rounds")
        parts = [
            Part(unit, span, most * (unit + 1) // all_units - most * unit // all_units)
            for unit, span in zip(units, blocks, strict=True)
            if unit not in done
        ]
        ready = most * units.stop // all_units - sum(part.most for part in parts)

        def tell(used: int) -> None:
            figures = {"queries": float(workspace.meter.spent), **workspace.executor.figures()}
            workspace.progress("rounds", ready + used, most, figures)

        workspace.do("rounds", parts, work, tell, apart=True)

    def _span(self, shard: int) -> range:
        return range(shard * self.size, min(len(self.images), (shard + 1) * self.size))

    def _units(self, number: int) -> range:
        """The numbers of a round's shards in the stage."""
        count = len(self.plan.shards)
        return range(number * count, (number + 1) * count)


def probes_of(
    workspace: Workspace, images: Images, unit: int, shards: Sequence[int], size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The probes of a shard, what the teacher called them, and the row that each was asked for.

    `shards` are those of `size` images that take part in the rounds. Costs no query.

    Raises:
        Damaged: the shard cannot be trusted.
    """
    first = shards[unit % len(shards)] * size
    kept = _read(workspace, unit)
    if OLD in kept:
        return kept[OLD].float(), kept["called"].long(), kept["asking"].long() + first
    rows, bounds = torch.arange(first, min(first + size, len(images))), workspace.meter.bounds
    asked = _asked_of(kept)
    origin = as_seen(images.read(rows), bounds)
    return _made_again(asked, kept, origin, bounds), asked.answers, asked.sample + first


def _read(workspace: Workspace, unit: int) -> dict[str, Tensor]:
    return workspace.read(workspace.done("rounds")[unit])


def _tensors_of(front: Front, asked: Asked, bounds: tuple[float, float]) -> dict[str, Tensor]:
    """What a shard keeps of a round: rays, and a checksum of the probes that they lead to."""
    columns = {name: getattr(front, name).cpu() for name in FRONT}
    columns |= {name: getattr(asked, name).cpu() for name in ASKED}
    small = {
        name: part.to(torch.int32) if part.dtype == torch.int64 else part
        for name, part in columns.items()
    }
    checksum = 0
    for _, probes in asked.blocks(front.origin, bounds):
        checksum = _checksum(probes, checksum)
    return small | {"checksum": torch.tensor([checksum])}


def _asked_of(kept: Mapping[str, Tensor]) -> Asked:
    """What a shard says that a round asked."""
    columns = {name: kept[name] for name in ASKED}
    return Asked(**{k: v if v.is_floating_point() else v.long() for k, v in columns.items()})


def _made_again(
    asked: Asked,
    kept: Mapping[str, Tensor],
    origin: Tensor,
    bounds: tuple[float, float],
    wanted: Tensor | None = None,
) -> Tensor:
    """Some probes of a shard, made again; all are the same bits, or nobody gets any.

    `wanted` says which, in ascending order; None for all.
    """
    count = len(asked.ray)
    which = torch.arange(count) if wanted is None else wanted
    found, checksum = origin.new_empty(len(which), *origin.shape[1:]), 0
    for some, probes in asked.blocks(origin, bounds):
        checksum = _checksum(probes, checksum)
        first, stop = torch.searchsorted(which, torch.tensor([some.start, some.stop])).tolist()
        found[first:stop] = probes[which[first:stop] - some.start]
    if checksum != int(kept["checksum"]):
        raise Damaged(
            "the probes of a round cannot be made again: images are read, or encoded, otherwise"
            " than when they were asked; use the versions of then, or another folder"
        )
    return found


def _checksum(probes: Tensor, before: int) -> int:
    """The checksum of some probes and of those before them."""
    return zlib.crc32(probes.cpu().contiguous().numpy().data, before)


def _after(front: Front, kept: Mapping[str, Tensor], bounds: tuple[float, float]) -> Front:
    """A front after a round, from where it stood before and what the shard kept."""
    device = front.origin.device
    if OLD in kept:
        new = kept["distance"].isfinite()
        new[torch.arange(len(new)), front.teacher_labels.cpu()] = False
        points = kept["point"][new]
    else:
        asked = _asked_of(kept)
        new = asked.best >= 0
        wanted, which = torch.unique(asked.best[new], return_inverse=True)
        points = _made_again(asked, kept, front.origin.cpu(), bounds, wanted)[which]
    sample, target = new.nonzero(as_tuple=True)
    front.point.put(sample.to(device), target.to(device), points.to(device))
    distance, spent, tried = (kept[name].to(device) for name in FRONT)
    labels, point = front.teacher_labels, front.point
    return Front(front.origin, labels, point, distance, spent.long(), tried.long())
