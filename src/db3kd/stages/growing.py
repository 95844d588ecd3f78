"""The stage that grows: new images made from the user's own, in rounds, each asked once.

`synthesis.augmentation` makes the images, and `synthesis.acquisition` chooses among them. Here the
work is cut into shards, so that a killed process continues where it stopped.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.config.settings import AugmentationName, Grow
from db3kd.data import Images, Joined, eight_bits
from db3kd.data.stored import StoredImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.search.boundary import level_of, shown
from db3kd.search.joint.surrogate import Ensemble, Known
from db3kd.seeds import derive_seed
from db3kd.stages.lengths import agree_up_to, work_until
from db3kd.stages.surrogates import fit_surrogate
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.batches import resident
from db3kd.student.networks import Shape, check_network, network_of
from db3kd.synthesis.acquisition import ACQUISITIONS, acquire, rare
from db3kd.synthesis.augmentation import grow
from db3kd.teachers.base import met_of

ASKED = 1024  # most images in one question
BLOCK_BYTES = 2**25  # of the candidates of one question, as 32-bit numbers
MADE_BYTES, FEWEST_MADE = 2**21, 32  # of images that are made at once, and the fewest of them
SHARD_BYTES = 2**28  # of images in one file
KEPT = 0.9  # how often a flip must keep the class, as a share of how often other images do


@dataclass(frozen=True)
class GrowthPlan:
    """`total` new images in shards of `size`, and which shard belongs to which of the `rounds`.

    `ends`: after how many shards each round ends; without it, rounds are equally long.

    >>> plan = GrowthPlan.of(Grow(per_image=30), samples=300, shape=(1, 28, 28), eight_bit=True)
    >>> plan, [plan.round_of(shard) for shard in range(plan.shards)]
    (GrowthPlan(total=9000, size=2250, rounds=4, ends=()), [0, 1, 2, 3])
    """

    total: int
    size: int
    rounds: int
    ends: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, settings: Grow, *, samples: int, shape: tuple[int, int, int], eight_bit: bool
    ) -> "GrowthPlan":
        """Plan the growth of `samples` own images; with `eight_bit`, a value takes one byte."""
        total = samples * settings.per_image
        most = most_in_a_shard(settings, shape, eight_bit=eight_bit)
        size = max(1, min(most, -(-total // settings.rounds)))
        return cls(total, size, max(1, min(settings.rounds, -(-total // size))))

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-self.total // self.size)

    def round_of(self, shard: int) -> int:
        """The round that a shard belongs to."""
        if self.ends:
            return bisect_right(self.ends, shard)
        return shard * self.rounds // self.shards

    def before(self, number: int) -> range:
        """The shards of the rounds before round `number`."""
        if self.ends:
            return range(self.ends[number - 1] if number else 0)
        return range(-(-number * self.shards // self.rounds))


def check_growing(settings: Grow, shape: Shape, classes: int) -> None:
    """Refuse settings that make no new image, or a network that does not fit; before any query.

    Raises:
        InputError: no augmentation is switched on, or the students' network is unknown or does not
            fit the images.

    >>> check_growing(Grow(augmentations=()), (1, 28, 28), 10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: no augmentation is switched on, so nothing new can be made; ...
    """
    if not settings.per_image:
        return
    if not settings.augmentations:
        raise InputError(
            "no augmentation is switched on, so nothing new can be made; name some in"
            " grow.augmentations, or set grow.per_image = 0"
        )
    if settings.choose != "random":
        check_network(network_of(settings.surrogate, shape), shape, classes)


def grow_all(
    workspace: Workspace,
    images: Images,
    teacher_labels: Int[Tensor, " sample"],
    settings: Grow,
    *,
    earlier: "Growth | None" = None,
    enough: Callable[[int], bool] | None = None,
) -> None:
    """Make and ask all new images that are not there yet; see `Run.grow`.

    `earlier`: what was grown before; the students that choose learn from it as well. `enough`: says
    after so many shards, at the end of each round but the last, whether to stop there.
    """
    plan = GrowthPlan.of(
        settings,
        samples=len(images),
        shape=images.shape,
        eight_bit=kept_as_bytes(workspace, images),
    )
    named = {**json.loads(msgspec.json.encode(settings)), "total": plan.total, "size": plan.size}
    ended = workspace.configuration("grow")
    if ended.get("planned") == plan.total:
        named |= {"total": ended["total"], "planned": plan.total}
    workspace.agree("grow", named)
    if not named["total"] or not workspace.pending("grow", named["total"], plan.size):
        return
    work = _GrowingWork(workspace, images, teacher_labels, settings, plan, earlier)
    if enough is not None:
        ends = [len(plan.before(number)) for number in range(plan.rounds)]
        work_until(workspace, "grow", plan.total, plan.size, work, ends=ends, enough=enough)
        return
    for number in range(plan.rounds):
        shards = range(plan.before(number).stop, plan.before(number + 1).stop)
        if workspace.executor.apart and not all(n in workspace.done("grow") for n in shards):
            work.teach(number)
        workspace.work("grow", plan.total, plan.size, 1, work, shards=shards, apart=True)


def grow_up_to(
    workspace: Workspace,
    images: Images,
    teacher_labels: Int[Tensor, " sample"],
    settings: Grow,
    *,
    wanted: int,
    size: int,
    ends: tuple[int, ...],
) -> "Growth":
    """Make and ask the first `wanted` new images, as far as they are not there; returns them.

    More may be wanted later. `size`: of a shard. `ends`: after how many shards students learn; they
    may go beyond what is wanted.

    Costs at most `wanted` queries. Random, and errors: as `Run.grow`.
    """
    known: Json = json.loads(msgspec.json.encode(settings))
    del known["per_image"], known["rounds"], known["shard"]
    agree_up_to(workspace, "grow", {**known, "total": wanted, "size": size, "learning": "doubling"})
    plan = GrowthPlan(wanted, size, len(ends), ends)
    if workspace.pending("grow", wanted, size):
        work = _GrowingWork(workspace, images, teacher_labels, settings, plan, None)
        workspace.work("grow", wanted, size, 1, work)
    return _growth(workspace, images, range(plan.shards))


def most_in_a_shard(settings: Grow, shape: tuple[int, int, int], *, eight_bit: bool) -> int:
    """The most new images in one shard; with `eight_bit`, a value takes one byte.

    >>> most_in_a_shard(Grow(), (3, 224, 224), eight_bit=True)
    1783
    """
    each = math.prod(shape) * (1 if eight_bit else 4)
    return min(settings.shard, max(1, SHARD_BYTES // each))


def kept_as_bytes(workspace: Workspace, images: Images) -> bool:
    """Whether new images are kept as bytes: if own images are, and the teacher takes every byte."""
    low, high = bounds = workspace.meter.bounds
    if level_of(bounds):  # its levels are those of bytes only from 0 to 1
        return images.eight_bit and (low, high) == (0, 1)
    return images.eight_bit and low <= 0 and high >= 1


class _GrowingWork:
    """The work of one shard: make images, choose among them, ask."""

    def __init__(
        self,
        workspace: Workspace,
        images: Images,
        teacher_labels: Tensor,
        settings: Grow,
        plan: GrowthPlan,
        earlier: "Growth | None",
    ) -> None:
        self.workspace, self.images, self.teacher_labels, self.earlier = (
            workspace,
            images,
            teacher_labels,
            earlier,
        )
        self.settings, self.plan = settings, plan
        self.eight_bit = kept_as_bytes(workspace, images)
        aware = level_of(workspace.meter.bounds) > 0
        self.bounds = (0.0, 1.0) if self.eight_bit and not aware else workspace.meter.bounds
        seed = derive_seed(workspace.seed, "grow", "order")
        self.order = torch.randperm(
            len(teacher_labels), generator=torch.Generator().manual_seed(seed)
        )
        self._taught: dict[int, Ensemble] = {}  # the students of the last round only

    def __call__(
        self, teacher: ReplayTeacher, rows: Tensor, shard: int
    ) -> tuple[dict[str, Tensor], Json]:
        number = self.plan.round_of(shard)
        students = self.teach(number)
        draw = torch.Generator().manual_seed(derive_seed(self.workspace.seed, "grow", shard))
        sought = None if students is None else self._sought(number)
        parts = [
            self._asked(teacher, block, self._changes(number), students, sought, draw)
            for block in self._blocks(rows)
        ]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return columns, self._facts(columns)

    @cached_property
    def pixels(self) -> Images:
        """The own images, in memory unless there are too many: each is read for every new one."""
        return resident(self.images)

    def teach(self, number: int) -> Ensemble | None:
        """The students that choose in a round, taught with every answer before it, if any do."""
        if self.settings.choose == "random":
            return None
        if number not in self._taught:
            workspace, shape = self.workspace, self.images.shape
            students = Ensemble(
                network_of(self.settings.surrogate, shape),
                shape,
                workspace.meter.classes,
                members=self.settings.members,
                seed=derive_seed(workspace.seed, "students"),
            ).to(workspace.device)
            fit_surrogate(workspace, "grow", number, students, self._known)
            self._taught = {number: students}
        return self._taught[number]

    def _sought(self, number: int) -> Tensor | None:
        """Where classes are found, the rare class of each own image, or of what was made of it.

        -1 for the others. Students do not see a class that was just met.
        """
        teacher = self.workspace.meter
        if met_of(teacher) is None:
            return None
        here = _growth(self.workspace, self.images, self.plan.before(number))
        answers, parents = self.teacher_labels, torch.arange(len(self.teacher_labels))
        for more in (self.earlier, here):
            if more is not None:
                answers = torch.cat([answers, more.answers])
                parents = torch.cat([parents, more.parents])
        counts = answers.bincount(minlength=teacher.classes)
        counts[-1] = 0  # "I do not know"
        few = rare(counts)[answers]
        sought = torch.full_like(self.teacher_labels, -1)
        sought[parents[few]] = answers[few]
        return sought

    def _known(self, number: int) -> Known:
        """All answers from before a round."""
        here = _growth(self.workspace, self.images, self.plan.before(number))
        known, answers = self.pixels, self.teacher_labels
        for more in (self.earlier, here):
            if more is not None:
                known, answers = Joined(known, more.images), torch.cat([answers, more.answers])
        none = torch.zeros(0, *self.images.shape)
        return Known(
            resident(known),
            answers,
            none,
            none[:, 0, 0, 0].long(),
        )

    def _blocks(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The rows, in parts whose candidates fit into memory."""
        each = math.prod(self.images.shape) * 4
        if self.settings.choose != "random":
            each *= self.settings.candidates
        return torch.split(rows, max(1, min(ASKED, BLOCK_BYTES // each)))

    def _changes(self, number: int) -> tuple[AugmentationName, ...]:
        """The augmentations of a round; no flips if these changed the class too often before."""
        names = self.settings.augmentations
        if number and "flip" in names and not self._flips_keep():
            return tuple(name for name in names if name != "flip")
        return names

    def _flips_keep(self) -> bool:
        done = self.workspace.done("grow")
        facts = [done[shard]["kept"] for shard in self.plan.before(1)]
        (same, count), (flipped_same, flipped) = (
            [sum(fact[kind][k] for fact in facts) for k in (0, 1)] for kind in (0, 1)
        )
        return not count or not flipped or flipped_same * count >= KEPT * same * flipped

    def _asked(
        self,
        teacher: ReplayTeacher,
        rows: Tensor,
        names: tuple[AugmentationName, ...],
        students: Ensemble | None,
        sought: Tensor | None,
        draw: torch.Generator,
    ) -> dict[str, Tensor]:
        """Make images for these rows, choose among them if there are students, and ask."""
        wanted = len(rows)
        if students is not None:
            count = self.settings.candidates
            rows = (rows[:, None] * count + torch.arange(count)).flatten()
        some = max(FEWEST_MADE, MADE_BYTES // (math.prod(self.images.shape) * 4))
        parts = [self._made(part, names, draw) for part in torch.split(rows, some)]
        columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        seen = columns.pop("shown")
        if students is not None:
            of = None if sought is None else sought[columns["parents"].cpu()]
            score = ACQUISITIONS[self.settings.choose]
            chosen = acquire(students.each(seen), score, wanted, sought=of)
            seen = seen[chosen]
            columns = {name: column[chosen.to(column.device)] for name, column in columns.items()}
        answers = teacher.labels(seen).to(torch.int32)
        return {name: column.cpu() for name, column in {**columns, "called": answers}.items()}

    def _made(
        self, rows: Tensor, names: tuple[AugmentationName, ...], draw: torch.Generator
    ) -> dict[str, Tensor]:
        """New images, both as they are kept and as they are shown to the teacher."""
        parents = self.order[rows % len(self.order)]
        made = grow(
            self.pixels.read(parents).to(self.workspace.device),
            parents,
            names,
            bounds=self.bounds,
            draw=draw,
        )
        kept = seen = shown(made.images, self.bounds)
        if self.eight_bit:
            kept, seen = eight_bits(seen)
        return {
            "shown": seen,
            "images": kept,
            "parents": made.parents,
            "partners": made.partners,
            "flipped": made.flipped.to(torch.uint8),
        }

    def _facts(self, columns: dict[str, Tensor]) -> Json:
        """How many kept their parent's class, out of how many: unflipped images, then flipped."""
        same = columns["called"] == self.teacher_labels[columns["parents"]]
        flipped = columns["flipped"] > 0
        groups = (same[~flipped], same[flipped])
        return {"kept": [[int(group.sum()), len(group)] for group in groups]}


@dataclass(frozen=True)
class Growth:
    """What was grown: new images, and the teacher's `answers` to them.

    `parents` and `partners` are the rows of the own images that they were made from. `seconds` says
    how long it took, with the students that choose.
    """

    images: StoredImages
    answers: Int[Tensor, " grown"]
    parents: Int[Tensor, " grown"]
    partners: Int[Tensor, " grown"]
    seconds: float


def grown(workspace: Workspace, images: Images) -> Growth:
    """What the stage has bought, from its finished shards; costs no query.

    Each shard is read once and checked.

    Raises:
        InputError: the stage is not finished.
        Damaged: a shard cannot be trusted.
    """
    settings = workspace.configuration("grow")
    if not settings or workspace.pending("grow", settings["total"], settings["size"]):
        raise InputError("not all new images are grown yet; grow them first")
    return _growth(workspace, images, sorted(workspace.done("grow")))


def _growth(workspace: Workspace, images: Images, shards: Iterable[int]) -> Growth:
    done, wanted = workspace.done("grow"), list(shards)
    columns: dict[str, list[Tensor]] = {"called": [], "parents": [], "partners": []}
    for shard in wanted:
        part = workspace.read(done[shard])
        for name, found in columns.items():
            found.append(part[name].long())
    none = torch.zeros(0, dtype=torch.int64)
    records = [done[shard] for shard in wanted]
    stored = StoredImages.of(
        workspace.folder, records, images.shape, eight_bit=kept_as_bytes(workspace, images)
    )
    seconds = float(sum(done[shard]["wall_s"] for shard in wanted))
    whole = {name: torch.cat([none, *found]) for name, found in columns.items()}
    return Growth(stored, whole["called"], whole["parents"], whole["partners"], seconds)


def growth(workspace: Workspace, images: Images, shards: int) -> Growth:
    """What the first shards have bought; these must be finished. Costs no query."""
    return _growth(workspace, images, range(shards))


def with_grown(
    workspace: Workspace,
    transfer: TransferSet,
    images: Images,
    rows: Int[Tensor, " row"],
    *,
    truth: Int[Tensor, " sample"] | None = None,
) -> TransferSet:
    """Samples, followed by what was grown from `images`; `rows` are the ids of these images.

    `truth`: the true class by id. With it, only new images are added that the teacher gives their
    parent's true class. Costs no query.

    Raises:
        InputError, Damaged: as `grown`.
    """
    more = grown(workspace, images)
    first = len(transfer) if transfer.first is None else transfer.first
    made = TransferSet(more.images, rows[more.parents], more.answers, more.answers)
    if truth is not None:
        made = made.select((truth[made.ids] == made.teacher_labels).nonzero()[:, 0])
    return replace(transfer.joined(made), first=first)
