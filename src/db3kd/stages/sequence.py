"""Answers bought in steps, each twice the one before, so that the first ones serve every later one.

With own images these are asked first, in a random order. When all are asked, new images are made
from them, as many again at each step. Without own images pseudo samples are asked. Nobody has to
know at the start how many answers there will be.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.config.settings import Grow, Synthesis
from db3kd.config.types import validated
from db3kd.data import Images, Rows, check_images, images_of
from db3kd.data.given import Given
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.seeds import derive_seed
from db3kd.stages import growing, synthesis
from db3kd.stages.answers import ask_once, check_any
from db3kd.stages.classes_met import check_way, learnable
from db3kd.stages.lengths import agree_up_to
from db3kd.stages.table import ANSWERS_SHARD
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.networks import Shape

OWN = "audit/answers"  # the stage of own images that are asked in steps
FEWEST = 16  # answers of the first step, at least
PARTS = 8  # of the own images: the first step
SHARDS = 64  # of all that may be bought: the first step, where own images do not run out
QUARTERS = 4  # shards of new images that are as many as the own ones


@runtime_checkable
class AnswerSequence(Protocol):
    """Answers that are bought in steps, `most` in all."""

    @property
    def steps(self) -> list[int]:
        """How many answers there are after each step; the last may be a short one.

        A folder keeps the length of its first step when `most` is raised later.
        """

    def upto(self, count: int) -> TransferSet:
        """Buy the first answers, up to the end of a step, and return what a student learns from.

        Costs what is not there yet, `count` queries at most.

        Raises:
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
            ConfigurationDiffers: other images or settings than before.
        """


def doubling(first: int, last: int) -> list[int]:
    """Some number, its doubles, and the last one.

    >>> doubling(38, 300), doubling(4, 4), doubling(4, 3)
    ([38, 76, 152, 300], [4], [3])
    """
    found = []
    while first < last:
        found.append(first)
        first *= 2
    return [*found, last] if last > 0 else []


@dataclass(frozen=True)
class PseudoSequence:
    """Pseudo samples; `images` are unlabelled ones, for the ways that need them."""

    workspace: Workspace
    shape: Shape
    settings: Synthesis
    images: Images | None
    most: int

    @property
    def steps(self) -> list[int]:
        """See `AnswerSequence`; the first step is a 64th of all."""
        size = self._size
        return doubling(size, self.most // size * size)

    def upto(self, count: int) -> TransferSet:
        """See `AnswerSequence`."""
        found = synthesis.ask_up_to(
            self.workspace,
            self.shape,
            self.settings,
            self.images,
            wanted=count,
            size=self._size,
        )
        return learnable(self.workspace, found)

    @property
    def _size(self) -> int:
        begun = self.workspace.configuration("synthesis")
        return int(begun["size"]) if begun else first_step(self.most, at_most=self.settings.shard)


def first_step(most: int, *, at_most: int) -> int:
    """The first step on the way to the most that may be bought.

    >>> first_step(25_000, at_most=16_384), first_step(500, at_most=16_384)
    (391, 16)
    """
    return min(at_most, max(FEWEST, -(-most // SHARDS)))


@dataclass(frozen=True)
class OwnSequence:
    """Own images in a random order, and then new images that are made from all of them.

    Random by the run's seed: the order, and what `Run.grow` draws.
    """

    workspace: Workspace
    images: Images
    settings: Grow
    most: int

    @property
    def steps(self) -> list[int]:
        """See `AnswerSequence`; a step ends where the last own image is asked."""
        count, most, size = len(self.images), self.most, self._size
        if most < count:
            return doubling(size, most // size * size)
        each, parts = self._shards
        found, grown = doubling(size, count), (most - count) // each
        if not self.settings.augmentations:
            return found
        return found + [count + each * shards for shards in _ends(parts, grown, halves=False)]

    def upto(self, count: int) -> TransferSet:
        """See `AnswerSequence`."""
        check_any(self.images)
        own = len(self.images)
        rows = self._order[: min(count, own)]
        answers = self._ask(len(rows))
        known = TransferSet(Rows(self.images, rows), rows, answers, answers)
        if count > own:
            called = torch.empty_like(answers)
            called[rows] = answers
            each, parts = self._shards
            more = growing.grow_up_to(
                self.workspace,
                self.images,
                called,
                self.settings,
                wanted=count - own,
                size=each,
                ends=tuple(_ends(parts, -(-(count - own) // each), halves=True)),
            )
            new = TransferSet(more.images, more.parents, more.answers, more.answers)
            known = replace(known.joined(new), first=own)
        return learnable(self.workspace, known)

    def _ask(self, count: int) -> Tensor:
        """The classes of the first images in their order; those that are not there are asked."""
        workspace, order, size = self.workspace, self._order, self._size
        digest = workspace.digests.of_images(self.images, ANSWERS_SHARD)
        known = {"samples": len(order), "images": digest, "total": count, "size": size}
        agree_up_to(workspace, OWN, known)

        def work(teacher: ReplayTeacher, rows: Tensor, _: int) -> tuple[dict[str, Tensor], Json]:
            block = self.images.read(order[rows])
            check_images(block, teacher.bounds)
            called = teacher.labels(block.to(workspace.device))
            return {"own": called.cpu().to(torch.int32)}, {}

        workspace.work(OWN, count, size, 1, work)
        done = workspace.done(OWN)
        return torch.cat([workspace.read(done[n])["own"] for n in range(-(-count // size))]).long()

    @property
    def _order(self) -> Tensor:
        draw = torch.Generator().manual_seed(derive_seed(self.workspace.seed, "audit", "order"))
        return torch.randperm(len(self.images), generator=draw)

    @property
    def _size(self) -> int:
        begun, own = self.workspace.configuration(OWN), len(self.images)
        if begun:
            return int(begun["size"])
        if self.most < own:
            return first_step(self.most, at_most=ANSWERS_SHARD)
        return min(ANSWERS_SHARD, max(FEWEST, -(-own // PARTS)))

    @property
    def _shards(self) -> tuple[int, int]:
        """New images in a shard, and how many shards are about as many as the own images."""
        begun, own = self.workspace.configuration("grow"), len(self.images)
        if not begun:
            eight_bit = growing.kept_as_bytes(self.workspace, self.images)
            most = growing.most_in_a_shard(self.settings, self.images.shape, eight_bit=eight_bit)
        each = int(begun["size"]) if begun else min(most, -(-own // QUARTERS))
        return each, -(-own // each)


def _ends(parts: int, shards: int, *, halves: bool) -> list[int]:
    """After how many shards of new images there are twice as many answers, in all; then the last.

    With `halves` also in the middle of each doubling, and then the last doubling is a whole one.

    >>> _ends(4, 20, halves=False), _ends(4, 20, halves=True)
    ([4, 12, 20], [2, 4, 8, 12, 20, 28])
    """
    found: list[int] = []
    begin, width = 0, parts
    while begin < shards:
        if halves and width > 1:
            found.append(begin + width // 2)
        begin, width = begin + width, 2 * width
        found.append(begin)
    return found if halves else sorted({min(end, shards) for end in found})


@dataclass(frozen=True)
class Steps:
    """The answers of a run that is bought in steps: `Run.steps` makes one.

    This is not for a folder in which `Run.grow` or `Run.synthesize` was called.
    """

    workspace: Workspace

    def tests(self, images: Given) -> Int[Tensor, " sample"]:
        """Ask for the class of every test image, once, as `Run.evaluate`; costs one query each.

        Raises:
            InputError, ConfigurationDiffers, BudgetExhausted, TeacherError: as `Run.answers`.
        """
        return ask_once(self.workspace, "evaluate", images_of(images))

    def own(self, images: Given, settings: Grow | None = None, *, most: int) -> OwnSequence:
        """Own images, and then new ones made from them, to be bought in steps, `most` in all.

        Of `settings`, `per_image` and `rounds` do not count: new images are as many as are bought,
        and students learn at each step and between two of them. Costs no query yet. Random by the
        run's seed: the order of the images, and what `Run.grow` draws.

        Raises:
            InputError: the students' network does not fit the images.
        """
        images, settings = images_of(images), validated(settings or Grow())
        if settings.augmentations:
            growing.check_growing(settings, images.shape, self.workspace.meter.classes)
        return OwnSequence(self.workspace, images, settings, most)

    def pseudo(
        self,
        shape: Shape,
        settings: Synthesis | None = None,
        *,
        most: int,
        images: Given | None = None,
    ) -> PseudoSequence:
        """Pseudo samples, to be bought in steps, `most` in all.

        Of `settings`, `queries`, `rounds`, `ensemble_labels` and `ascent` do not count: no image
        gets ensemble labels. Costs no query yet. The other arguments, and what is random, are as
        for `Run.synthesize`.

        Raises:
            InputError: a network that does not fit; or way "ascent", which has no steps.
        """
        settings = validated(settings or Synthesis())
        if settings.way == "ascent":
            raise InputError(
                'pseudo samples by way "ascent" cannot be bought in steps; take another'
                " synthesis.way"
            )
        synthesis.check_synthesis(settings, shape, self.workspace.meter.classes)
        check_way(self.workspace.meter, settings)
        some = None if images is None else images_of(images)
        return PseudoSequence(self.workspace, shape, settings, some, most)
