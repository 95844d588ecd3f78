"""The stages of ZSDB3KD (section 3.3): noise of every class, its ascent, and augmented copies.

`db3kd.synthesis.ascent` finds noise and pushes it away from the boundary. Here the work is cut into
shards, so that a killed process continues where it stopped. Images are kept as the floats that the
teacher saw.
"""

import json

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.settings import AscentPlan
from db3kd.data import Images, TensorImages
from db3kd.data.stored import StoredImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.search.boundary import shown
from db3kd.seeds import derive_seed
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.networks import Shape
from db3kd.synthesis.ascent.ascend import ascend
from db3kd.synthesis.ascent.starts import find_starts
from db3kd.synthesis.ascent.state import Ascent, Ending, begin
from db3kd.synthesis.augmentation import grow
from db3kd.synthesis.chosen import CHANGES
from db3kd.synthesis.earlier import shapes_of_latents

OTHERS = 100  # noise images of each class that serve as starts of Eq. 8
PIECE = 1024  # most copies in one question


def most_queries(plan: AscentPlan) -> int:
    """The most queries that noise of every class, its ascent and its copies can cost.

    >>> most_queries(AscentPlan(samples=10, noise=5, queries=100, copies=3))
    1080
    """
    return plan.samples * (plan.noise + plan.queries + plan.copies)


def ascend_all(workspace: Workspace, shape: Shape, plan: AscentPlan) -> None:
    """Find noise of every class, push all of it and ask copies of it.

    What is done already is not done again. See `Run.synthesize`. Costs at most `most_queries` of
    the plan. Random by the run's seed.

    Raises:
        InputError: the teacher gives all noise the same class, so there is no boundary.
        ConfigurationDiffers: other settings than before.
        BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
    """
    images, teacher_labels = _starts(workspace, shape, plan)
    if not len(teacher_labels) or bool((teacher_labels == teacher_labels[0]).all()):
        called = f"all noise class {int(teacher_labels[0])}" if len(teacher_labels) else "no answer"
        raise InputError(
            f"the teacher gave {called}, so there is no boundary to ascend from; allow more queries"
            " with synthesis.ascent.noise, or choose another synthesis.way"
        )
    settings = {
        **json.loads(msgspec.json.encode(plan)),
        "shape": list(shape),
        "total": len(teacher_labels),
    }
    workspace.agree("ascent", {**settings, "size": plan.shard, "price": plan.queries})
    if workspace.pending("ascent", len(teacher_labels), plan.shard):
        work = _AscentWork(workspace, images, teacher_labels, plan)
        size, price = plan.shard, plan.queries
        workspace.work("ascent", len(teacher_labels), size, price, work, apart=True)
    if plan.copies:
        _copy(workspace, plan)


def copied(
    images: Float[Tensor, "row *image"],
    count: int,
    *,
    bounds: tuple[float, float],
    draw: torch.Generator,
) -> Float[Tensor, "copy *image"]:
    """`count` augmented copies of each image, in the order of the images.

    Some are mixed or patched with another image. Costs no query. Random by `draw`, a generator on
    the CPU.

    >>> draw = torch.Generator().manual_seed(0)
    >>> black_and_white = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    >>> copied(black_and_white, 3, bounds=(0.0, 1.0), draw=draw).mean((1, 2, 3)) > 0.5
    tensor([False, False, False,  True,  True,  True])
    """
    block = images.repeat_interleave(count, 0)
    return grow(block, torch.arange(len(block)), CHANGES, bounds=bounds, draw=draw).images


def _copy(workspace: Workspace, plan: AscentPlan) -> None:
    """Ask augmented copies of the samples that kept their class (section 4.5), a query each."""
    held, count = (
        sum(sum(done["counts"]) for done in workspace.done("ascent").values()),
        plan.copies,
    )
    workspace.agree("copies", {"total": held, "size": plan.shard, "price": count})
    if not workspace.pending("copies", held, plan.shard):
        return
    images = ascended(workspace).images

    def work(teacher: ReplayTeacher, rows: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
        draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "copies", shard))
        made = copied(images.read(rows), count, bounds=teacher.bounds, draw=draw)
        made = shown(made.to(workspace.device), teacher.bounds)
        called = torch.cat([teacher.labels(part).cpu() for part in torch.split(made, PIECE)])
        counts = torch.bincount(called, minlength=workspace.meter.classes)
        return {"images": made.cpu(), "called": called.to(torch.int32)}, {"counts": counts.tolist()}

    workspace.work("copies", held, plan.shard, count, work, apart=True)


def _starts(workspace: Workspace, shape: Shape, plan: AscentPlan) -> tuple[Tensor, Tensor]:
    """Images and classes of the noise (o_0^m of section 3.3), which is found once."""
    classes = workspace.meter.classes
    wanted, most = -(-plan.samples // classes), plan.samples * plan.noise
    workspace.agree(
        "starts", {"shape": list(shape), "wanted": wanted, "total": 1, "size": 1, "price": most}
    )

    def work(teacher: ReplayTeacher, _: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
        draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "starts", shard))
        found = find_starts(
            teacher,
            shape,
            wanted,
            most=most,
            draw=draw,
            prior=lambda count, draw: shapes_of_latents(count, shape, draw, bounds=teacher.bounds),
        )
        columns = {"images": found.images, "own": found.teacher_labels.to(torch.int32)}
        return columns, {"counts": found.found.tolist()}

    workspace.work("starts", 1, 1, most, work)
    return _starts_of(workspace)


class _AscentWork:
    """The work of one shard: samples of all classes are pushed together."""

    def __init__(
        self, workspace: Workspace, images: Tensor, teacher_labels: Tensor, plan: AscentPlan
    ) -> None:
        self.workspace, self.plan = workspace, plan
        order = _order(workspace, len(teacher_labels))
        self.images, self.teacher_labels = images[order], teacher_labels[order]
        some = [
            (self.teacher_labels == k).nonzero()[:OTHERS, 0] for k in range(workspace.meter.classes)
        ]
        self.others = torch.cat(some)

    def __call__(
        self, teacher: ReplayTeacher, rows: Tensor, shard: int
    ) -> tuple[dict[str, Tensor], Json]:
        plan, device = self.plan, self.workspace.device
        kept: dict[str, Tensor] = {}

        def after(state: Ascent) -> None:
            if plan.every and state.iteration % plan.every == 0:
                kept[f"images.{state.iteration:04}"] = state.image.cpu().clone()

        state = ascend(
            teacher,
            begin(self.images[rows].to(device), self.teacher_labels[rows].to(device), plan),
            self.images[self.others].to(device),
            self.teacher_labels[self.others].to(device),
            plan,
            seed=derive_seed(self.workspace.seed, "ascent", shard),
            after=after,
        )
        columns = {
            **_snapshots(kept, state, plan),
            "images": state.image.cpu(),
            "called": state.teacher_labels.cpu().to(torch.int32),
            "distance": state.best.cpu(),
            "spent": state.spent.cpu().to(torch.int32),
            "status": state.status.cpu().to(torch.int8),
        }
        return columns, self._facts(state)

    def _facts(self, state: Ascent) -> Json:
        lost = state.status == Ending.LOST
        count = torch.bincount(state.status, minlength=len(Ending)).tolist()
        held = torch.bincount(state.teacher_labels[~lost], minlength=self.workspace.meter.classes)
        return {
            "counts": held.tolist(),
            "endings": {ending.name: count[ending] for ending in Ending if count[ending]},
            "mean_distance": round(float(state.best.mean()), 4),
        }


def _snapshots(kept: dict[str, Tensor], state: Ascent, plan: AscentPlan) -> dict[str, Tensor]:
    """The images after every `plan.every` iterations; once all rows have ended, the last images."""
    if not plan.every:
        return {}
    wanted = range(plan.every, plan.iterations + 1, plan.every)
    names = [f"images.{iteration:04}" for iteration in wanted]
    return {name: kept.get(name, state.image.cpu().clone()) for name in names}


def ascended(workspace: Workspace, *, iteration: int | None = None) -> TransferSet:
    """The pseudo samples that kept their class to the end, without copies; costs no query.

    `iteration`: as they were after this many iterations, if these were kept (`AscentPlan.every`);
    0 gives the noise as it was found.

    Raises:
        InputError: the stage is not finished, or that iteration was not kept.
        Damaged: a shard cannot be trusted.
    """
    settings = _check_finished(workspace, "ascent")
    column = "images" if iteration is None else f"images.{iteration:04}"
    if iteration and (not settings["every"] or iteration % settings["every"]):
        raise InputError(
            f"images after {iteration} iterations were not kept; synthesis.ascent.every says which"
            " are"
        )
    done, (channels, height, width) = workspace.done("ascent"), settings["shape"]
    wanted = sorted(done)
    parts = [workspace.read(done[shard]) for shard in wanted]
    called = torch.cat([part["called"].long() for part in parts])
    held = torch.cat([part["status"] != Ending.LOST for part in parts])
    records, shape = [done[shard] for shard in wanted], (channels, height, width)
    stored: Images = StoredImages.of(
        workspace.folder, records, shape, eight_bit=False, column=column
    )
    if iteration == 0:
        stored = TensorImages(_starts_of(workspace)[0][_order(workspace, len(called))])
    whole = TransferSet(stored, torch.arange(len(called)), called, called)
    return whole if bool(held.all()) else whole.select(held.nonzero()[:, 0])


def with_copies(workspace: Workspace, samples: TransferSet) -> TransferSet:
    """The pseudo samples, followed by their copies with the teacher's answers, if any were wanted.

    Raises:
        InputError: the stage is not finished.
        Damaged: a shard cannot be trusted.
    """
    if not workspace.configuration("ascent").get("copies"):
        return samples
    each, done = _check_finished(workspace, "copies")["price"], workspace.done("copies")
    if not done:
        return samples  # no sample kept its class
    records = [{**done[n], "samples": each * done[n]["samples"]} for n in sorted(done)]
    called = torch.cat([workspace.read(record)["called"].long() for record in records])
    stored = StoredImages.of(workspace.folder, records, samples.images.shape, eight_bit=False)
    return samples.joined(TransferSet(stored, torch.arange(len(called)), called, called))


def _check_finished(workspace: Workspace, stage: str) -> Json:
    """The settings of a stage, which must be finished."""
    settings = workspace.configuration(stage)
    if not settings or workspace.pending(stage, settings["total"], settings["size"]):
        raise InputError("the pseudo samples are not all made yet; synthesize them first")
    return settings


def evolution(workspace: Workspace, count: int) -> Float[Tensor, "down across *image"] | None:
    """A sample of each of the first `count` classes, from noise to the end; see `Run.evolution`.

    None if no iterations were kept. Costs no query.
    """
    settings = workspace.configuration("ascent")
    if not settings or not settings["every"]:
        return None
    part = workspace.read(workspace.done("ascent")[0])
    names = sorted(name for name in part if name.startswith("images."))
    shape = part["images"].shape[1:]
    rows = torch.full((count, len(names) + 1, *shape), torch.nan)
    first, teacher_labels = _starts_of(workspace)
    order = _order(workspace, len(teacher_labels))
    for k in range(count):
        mine = ((part["called"] == k) & (part["status"] != Ending.LOST)).nonzero()[:, 0]
        if len(mine):
            rows[k, 0] = first[order[mine[0]]]
            rows[k, 1:] = torch.stack([part[name][mine[0]] for name in names])
    return rows


def _order(workspace: Workspace, count: int) -> Int[Tensor, " row"]:
    """The order in which the noise of all classes is cut into shards, by the run's seed."""
    draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "ascent", "order"))
    return torch.randperm(count, generator=draw)


def _starts_of(workspace: Workspace) -> tuple[Tensor, Tensor]:
    part = workspace.read(workspace.done("starts")[0])
    return part["images"], part["own"].long()
