"""The stage that makes pseudo samples without data, each asked once.

`db3kd.synthesis` makes them. Here the work is cut into shards, so that a killed process continues
where it stopped. After each shard, the networks that a way has learned are kept in the same folder.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import msgspec
import torch
from torch import Tensor

from db3kd.config.settings import Search, Synthesis
from db3kd.data import Images, Joined
from db3kd.data.digest import combined
from db3kd.data.stored import StoredImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import ConfigurationDiffers, Damaged, InputError, plain
from db3kd.seeds import derive_seed
from db3kd.stages.ascent import ascend_all, ascended, most_queries, with_copies
from db3kd.stages.classes_met import check_way, warn_of_missing
from db3kd.stages.distances import check_search, measure_all, soft
from db3kd.stages.ensemble_labels import images_for, invent, invented
from db3kd.stages.lengths import agree_up_to, work_until
from db3kd.stages.table import shards_of
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.fast import fast_form
from db3kd.student.networks import Shape, build, check_network, network_of
from db3kd.synthesis import WAYS
from db3kd.synthesis.chosen import Source, descendants
from db3kd.synthesis.latent import Near
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.public import Public
from db3kd.synthesis.way import DRAWING, Task, Way
from db3kd.teachers.base import met_of

QUERIES = 25_000  # without `Synthesis.queries` and without a budget
LESSONS = 16  # how often students learn, at most, unless more `rounds` are wanted
MEMORY = 2**28  # bytes of pseudo samples that are kept in memory; more of them stay in their shards
POOL = "pool"  # the word for the digest of the images in the settings of a folder
PLACE = "pseudo"  # before the names of stages that measure pseudo samples, on the books

_log = logging.getLogger("db3kd")


def planned_total(settings: Synthesis, *, budget: int | None, reserved: int) -> int:
    """How many queries are planned: as many as wanted, or what a budget leaves.

    There is one for each pseudo sample. By way "ascent" it is the most that may be spent.

    >>> planned_total(Synthesis(), budget=30_000, reserved=10_000)
    20000
    """
    if settings.way == "ascent":
        return most_queries(settings.ascent)
    if settings.queries is not None:
        return settings.queries
    return QUERIES if budget is None else max(0, budget - reserved)


def shard_size(settings: Synthesis, total: int) -> int:
    """How many pseudo samples are made, asked and resumed as one; students learn in between.

    >>> shard_size(Synthesis(), 25_000)
    3125
    """
    return max(1, min(settings.shard, -(-total // settings.rounds)))


def check_synthesis(settings: Synthesis, shape: Shape, classes: int) -> None:
    """Refuse a network that does not fit, before anything is bought.

    Raises:
        InputError: a network that is unknown or does not fit the images.

    >>> check_synthesis(Synthesis(surrogate="lenet6"), (1, 28, 28), 10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: unknown network 'lenet6'; did you mean lenet5?
    """
    if settings.way == "ascent":
        return
    check_network(network_of(settings.surrogate, shape), shape, classes, settings.width)


def check_budget(total: int, *, budget: int | None, reserved: int) -> None:
    """Refuse a budget that leaves nothing to ask with.

    Raises:
        InputError: not a single pseudo sample can be paid for.

    >>> check_budget(0, budget=10_000, reserved=10_000)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the budget of 10,000 queries leaves none for pseudo samples, since ...
    """
    if total < 1:
        raise InputError(
            f"the budget of {budget:,} queries leaves none for pseudo samples, since {reserved:,}"
            " are for test images; raise budget.queries"
        )


def planned(workspace: Workspace, settings: Synthesis, *, reserved: int) -> int:
    """How many queries are planned, or were when the stage began; see `Run.planned_synthesis`."""
    begun = workspace.configuration("synthesis")
    wanted = (None, begun.get("planned"))  # what is enough was bought, though more was wanted
    if begun and settings.queries in wanted and settings.way != "ascent":
        return int(begun["total"])
    return planned_total(settings, budget=workspace.meter.budget.queries, reserved=reserved)


def synthesize(
    workspace: Workspace,
    shape: Shape,
    settings: Synthesis,
    images: Images | None = None,
    *,
    reserved: int,
    enough: Callable[[int], bool] | None = None,
) -> TransferSet:
    """Make and ask all pseudo samples that are not there yet; see `Run.synthesize`.

    `enough`: says after so many shards, wherever students learn, whether to stop there.
    """
    check_synthesis(settings, shape, workspace.meter.classes)
    check_way(workspace.meter, settings)
    total = planned(workspace, settings, reserved=reserved)
    check_budget(total, budget=workspace.meter.budget.queries, reserved=reserved)
    more = 0
    if settings.way == "ascent":
        ascend_all(workspace, shape, settings.ascent)
    else:
        more = _ask_all(workspace, shape, settings, total, images, enough)
    warn_of_missing(workspace)
    return whole(workspace, ensemble_labels=more > 0)


def _ask_all(
    workspace: Workspace,
    shape: Shape,
    settings: Synthesis,
    total: int,
    images: Images | None,
    enough: Callable[[int], bool] | None,
) -> int:
    """Ask what is not there yet, and then let an ensemble label more images if that is wanted.

    Returns how many were to be labelled.
    """
    begun = workspace.configuration("synthesis")
    planned = int(begun.get("planned", total))
    size = shard_size(settings, planned)
    asked = json.loads(msgspec.json.encode(settings))
    del asked["ensemble_labels"]  # another student may want none, or want them later on
    drawing = begun.get("drawing", 1) if begun else DRAWING  # the first one had no word
    plan = {"shape": list(shape), "total": total, "size": size}
    named: Json = {"drawing": drawing} if drawing > 1 else {}
    cut = {"planned": planned} if planned > total else {}
    pool = _pool_named(workspace, settings, images, begun)
    workspace.agree("synthesis", {**asked, **plan, **named, **pool, **cut})
    learned = lessons(planned, size, settings.rounds)
    taught = None if drawing < 2 else learned
    work = _SynthesisWork(
        workspace, shape, settings, planned, size, images, drawing=drawing, lessons=taught
    )
    if workspace.pending("synthesis", total, size) and enough is None:
        workspace.work("synthesis", total, size, 1, work)
    elif enough is not None and not cut:
        ends = sorted(count // size for count in learned)
        work_until(workspace, "synthesis", total, size, work, ends=ends, enough=enough)
        total = int(workspace.configuration("synthesis")["total"])
    more = images_for(network_of(settings.surrogate, shape), settings, shape, asked=total)
    if more:
        settings = msgspec.structs.replace(settings, ensemble_labels=more)
        shards = shards_of(total, size)
        invent(workspace, work.pool_before(shards), settings, lambda: work.source_after(shards))
    return more


def _pool_named(
    workspace: Workspace, settings: Synthesis, images: Images | None, begun: Json
) -> Json:
    """What the pool of images is known by, where there is one; earlier folders do not know it.

    Raises:
        ConfigurationDiffers: the folder was begun with other images.
    """
    if images is None or (begun and POOL not in begun):
        return {}
    found = _digest(workspace, images)
    if begun and begun[POOL] != found:
        raise ConfigurationDiffers(
            f"the images of {plain(settings.images or 'the pool', 100)} are not those that"
            f" {workspace.folder} was begun with: their content or their order is another; put"
            " the old ones back, or use another folder"
        )
    return {POOL: found}


def _digest(workspace: Workspace, images: Images) -> str:
    """What a pool of images is known by: the content of all of them, in their order."""
    if isinstance(images, Joined):  # of files perhaps, whose images may differ in size
        return combined("joined", [_digest(workspace, p) for p in (images.first, images.second)])
    return workspace.digests.of_images(images, max(1, len(images)))


def lessons(total: int, size: int, rounds: int) -> frozenset[int]:
    """After how many answers students learn: where rounds of whole shards of `size` end.

    There are 16 rounds at most, or as many as are wanted.

    >>> sorted(lessons(100, 20, rounds=5)), len(lessons(1_000_000, 16_384, rounds=8))
    ([20, 40, 60, 80], 15)
    """
    shards = shards_of(total, size)
    most = min(shards, max(LESSONS, rounds))
    return frozenset(-(-number * shards // most) * size for number in range(1, most))


def doublings(size: int, total: int) -> frozenset[int]:
    """After how many answers students learn where the total may still grow: twice a doubling.

    >>> sorted(doublings(10, 100))
    [10, 20, 30, 40, 60, 80]
    """
    times = range(total.bit_length())
    return frozenset(n for part in (1, 3) for k in times if (n := size * part << k) < total)


def ask_up_to(
    workspace: Workspace,
    shape: Shape,
    settings: Synthesis,
    images: Images | None,
    *,
    wanted: int,
    size: int,
) -> TransferSet:
    """Make and ask the first `wanted` pseudo samples, as far as they are not there; returns them.

    More may be wanted later, so students learn at `doublings` of the shards' `size`.

    Costs at most `wanted` queries. Random, and errors: as `Run.synthesize`.
    """
    check_synthesis(settings, shape, workspace.meter.classes)
    check_way(workspace.meter, settings)
    known = json.loads(msgspec.json.encode(settings))
    for name in ("ensemble_labels", "queries", "rounds", "shard"):
        del known[name]
    plan = {"shape": list(shape), "total": wanted, "size": size, "drawing": DRAWING}
    before = workspace.configuration("synthesis")
    plan |= _pool_named(workspace, settings, images, before)
    begun = int(before.get("total", 0))
    for some in sorted({min(begun, wanted), wanted} - {0}):  # what was begun ends as it was planned
        named = {**known, **plan, "total": some, "learning": "doubling"}
        total = agree_up_to(workspace, "synthesis", named)
        if workspace.pending("synthesis", some, size):
            taught = doublings(size, total)
            work = _SynthesisWork(
                workspace, shape, settings, total, size, images, drawing=DRAWING, lessons=taught
            )
            workspace.work("synthesis", some, size, 1, work)
    return first(workspace, shards_of(wanted, size))


class _SynthesisWork:
    """The work of one shard."""

    def __init__(
        self,
        workspace: Workspace,
        shape: Shape,
        settings: Synthesis,
        total: int,
        size: int,
        images: Images | None,
        *,
        drawing: int,
        lessons: frozenset[int] | None,
    ) -> None:
        self.workspace, self.settings, self.shape, self.total = workspace, settings, shape, total
        each = math.prod(shape) * (1 if _eight_bit(workspace) else 4)
        self._room = size if total * each > MEMORY else None
        classes = workspace.meter.classes
        name = network_of(settings.surrogate, shape)
        self.task = Task(
            shape,
            classes,
            queries=total,
            device=workspace.device,
            student=lambda seed: fast_form(
                build(name, shape, classes, settings.width, seed=seed), workspace.device
            ),
            members=settings.members,
            candidates=settings.candidates,
            images=images,
            lessons=lessons,
            drawing=drawing,
            finding=met_of(workspace.meter) is not None,
        )
        self._next = -1  # the shard that pool and networks are ready for
        self._pool: Pool
        self._way: Way

    def __call__(
        self, teacher: ReplayTeacher, rows: Tensor, shard: int
    ) -> tuple[dict[str, Tensor], Json]:
        self._prepare(shard)
        pool, before = self._pool, len(self._pool)
        pool.teacher = teacher
        pool.allow(len(rows))
        self._next = -1  # until the shard is whole
        self._way.spend(
            pool, seed=derive_seed(self.workspace.seed, "synthesis", shard), report=self._report
        )
        if pool.rest:
            raise InputError(f"way {self.settings.way!r} left {pool.rest} queries unspent")
        if _learns(self._way):
            self.workspace.keep("synthesis", shard + 1, self._way.networks)
        self._next = shard + 1
        called = pool.answers[before:]
        counts = torch.bincount(called, minlength=pool.classes)
        columns = {"images": pool.values[-len(rows) :], "called": called.to(torch.int32)}
        if pool.origins is not None:
            columns["origins"] = pool.origins[before:]
        facts = self._way.facts if isinstance(self._way, Public) else {}
        return columns, {"counts": counts.tolist(), **facts}

    def _prepare(self, shard: int) -> None:
        """Pool and networks as they were before a shard."""
        workspace = self.workspace
        if self._next == shard:
            if self._room is not None:
                self._pool.settle(_stored(workspace, range(shard)))
            return
        self._way = self._way_before(shard)
        self._pool = self.pool_before(shard)

    def _way_before(self, shard: int) -> Way:
        """The way with what it had learned before a shard."""
        workspace = self.workspace
        way = WAYS[self.settings.way](self.task, seed=derive_seed(workspace.seed, "way"))
        if shard and _learns(way) and workspace.recall("synthesis", shard, way.networks) < shard:
            raise Damaged(
                f"what was learned before shard {shard} of {workspace.folder}/synthesis is missing;"
                f" put a copy of surrogate-{shard:02}.safetensors back, or use another folder"
            )
        return way

    def source_after(self, shards: int) -> Source:
        """Where images come from that an ensemble labels, after all shards of the way."""
        if self.settings.way == "latent":
            return Near(seed=derive_seed(self.workspace.seed, "unasked"))
        if self.settings.way != "public":
            return descendants
        way = self._way if self._next == shards else self._way_before(shards)
        assert isinstance(way, Public)
        return way.source

    def pool_before(self, shard: int) -> Pool:
        """All that was asked before a shard."""
        workspace = self.workspace
        if self._next == shard:
            return self._pool
        pool = Pool(
            self.total,
            self.shape,
            workspace.meter,
            eight_bit=_eight_bit(workspace),
            device=workspace.device,
            room=self._room,
        )
        if self._room is not None:
            pool.settle(_stored(workspace, range(shard)))
        done = workspace.done("synthesis")
        for earlier in range(shard):
            part = workspace.read(done[earlier])
            values = part["images"] if self._room is None else None
            pool.add(values, part["called"].long(), part.get("origins"))
        return pool

    def _report(self, what: str, done: int, total: int) -> None:
        self.workspace.progress(what, done, total, {})


def _learns(way: Way) -> bool:
    """Whether a way has anything to keep."""
    return any(True for _ in way.networks.parameters())


def _eight_bit(workspace: Workspace) -> bool:
    """Whether pseudo samples are rounded to 8 bits: if the teacher takes values from 0 to 1."""
    return tuple(workspace.meter.bounds) == (0.0, 1.0)


def _stored(workspace: Workspace, shards: Iterable[int]) -> StoredImages:
    """The pseudo samples of finished shards, read on demand."""
    done = workspace.done("synthesis")
    channels, height, width = workspace.configuration("synthesis")["shape"]
    records, shape = [done[shard] for shard in shards], (channels, height, width)
    return StoredImages.of(workspace.folder, records, shape, eight_bit=_eight_bit(workspace))


def sources(workspace: Workspace) -> Json | None:
    """What the way "public" asked from which source, and what its trial found; None by others.

    `photographs` says how many were there to crop from, `damaged` how many could not be used.
    """
    records = [r for _, r in sorted(workspace.done("synthesis").items()) if "sources" in r]
    if not records:
        return None
    asked = {
        name: sum(r["sources"].get(name, 0) for r in records) for name in records[0]["sources"]
    }
    trial = next((r["trial"] for r in records if "trial" in r), None)
    known = {name: records[-1][name] for name in ("photographs", "damaged")}
    return {"asked": asked, "trial": trial, **known}


def made(workspace: Workspace) -> TransferSet:
    """The pseudo samples that were asked, without copies; costs no query.

    Images are read when they are needed.

    Raises:
        InputError: the stage is not finished.
        Damaged: a shard cannot be trusted.
    """
    if workspace.configuration("starts"):
        return ascended(workspace)
    settings = workspace.configuration("synthesis")
    if not settings or workspace.pending("synthesis", settings["total"], settings["size"]):
        raise InputError("the pseudo samples are not all made yet; synthesize them first")
    return _made(workspace, sorted(workspace.done("synthesis")))


def first(workspace: Workspace, shards: int) -> TransferSet:
    """The pseudo samples of the first shards; these must be finished. Costs no query."""
    return _made(workspace, list(range(shards)))


def _made(workspace: Workspace, wanted: list[int]) -> TransferSet:
    """The pseudo samples of some finished shards."""
    done = workspace.done("synthesis")
    called = [workspace.read(done[shard])["called"].long() for shard in wanted]
    answers = torch.cat([torch.zeros(0, dtype=torch.int64), *called])
    stored = _stored(workspace, wanted)
    return TransferSet(stored, torch.arange(len(answers)), answers, answers)


def whole(workspace: Workspace, *, ensemble_labels: bool = True) -> TransferSet:
    """The pseudo samples with their copies, and then the images that an ensemble labelled.

    With such images, a training of some `steps` repeats the others until they are half of what it
    sees. Costs no query.

    Raises:
        InputError: a stage is not finished.
        Damaged: a shard cannot be trusted.
    """
    samples = with_copies(workspace, made(workspace))
    more = invented(workspace, eight_bit=_eight_bit(workspace)) if ensemble_labels else None
    if more is None:
        return samples
    return replace(samples.joined(more), first=len(samples))


def measure(workspace: Workspace, search: Search) -> None:
    """Measure the distances of pseudo samples; references are drawn from the samples.

    Costs as `Run.measure`, without its answers: these are bought already. Random by the run's seed.

    Raises:
        InputError: the pseudo samples are not all made yet, or the search does not fit them.
        ConfigurationDiffers: other settings than before.
        BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
    """
    samples = made(workspace)
    check_search(search, samples.images.shape, workspace.meter.classes)
    part = workspace.within(PLACE)
    part.agree("answers", {"samples": len(samples)})
    measure_all(part, samples.images, samples.teacher_labels, search)


def measured_samples(workspace: Workspace) -> TransferSet:
    """Pseudo samples with soft labels by distance (Eq. 6 and 7), then copies with answers only."""
    samples, part = made(workspace), workspace.within(PLACE)
    return with_copies(workspace, samples.with_soft(soft(part, "mbd", samples.teacher_labels)))
