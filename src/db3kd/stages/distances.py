"""The stage that measures distances: row by row, or in rounds for all classes at once.

What is asked is decided in `search.rows` and `search.joint`. Here it is cut into shards, so that a
killed process continues where it was.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.methods import Metric
from db3kd.config.settings import Search, is_joint, most_queries
from db3kd.data import Images
from db3kd.errors import InputError
from db3kd.search.boundary import as_seen
from db3kd.search.joint.loop import JointSearch
from db3kd.search.joint.plan import JointPlan, check_joint, shard_of
from db3kd.search.robustness import (
    References,
    RobustnessMap,
    Status,
    choose_references,
    wide_labels,
    widened,
)
from db3kd.search.rows import measure, sample_distance
from db3kd.seeds import derive_seed
from db3kd.stages.executor import Work
from db3kd.stages.nearest import MOST_BYTES, keep_nearest, wanted
from db3kd.stages.rounds import KeptRounds, probes_of
from db3kd.stages.surrogates import KeptSurrogates
from db3kd.stages.table import ANSWERS_SHARD, search_of, shards_of
from db3kd.stages.taped import ReplayTeacher
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.student.soft_labels import concentrate, reciprocal_activations
from db3kd.teachers.base import met_of, unsure_of
from db3kd.teachers.found import cut


def check_search(search: Search, shape: tuple[int, int, int], classes: int) -> None:
    """Refuse settings that would be ignored, or cannot work, before anything is bought.

    Raises:
        InputError: a setting that has a meaning row by row only; a surrogate that does not fit.

    >>> check_search(Search(queries=10), (1, 28, 28), 10)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: queries = 10 counts for each class, row by row; set ...
    """
    if not is_joint(search):
        return
    if search.queries != Search().queries:
        raise InputError(
            f"queries = {search.queries} counts for each class, row by row; set strategy = "
            '"rows", or per_image instead'
        )
    if search.flips:
        raise InputError(
            f'flips = {search.flips} has a meaning row by row only; set strategy = "rows", or let'
            " each answer be voted on (teacher.noise)"
        )
    check_joint(search, shape, classes)


def measure_all(
    workspace: Workspace, images: Images, teacher_labels: Tensor, search: Search
) -> None:
    """Measure the distances of all images, those that are not measured yet; see `Run.measure`."""
    width = _width(workspace, teacher_labels)
    search = _agreed(workspace, images, search, width)
    if not workspace.pending("distances", len(images), search.shard):
        return
    teacher_labels = teacher_labels.clamp(max=width - 1)
    references = _references(workspace, images, teacher_labels, search, width)
    make = _jointly if is_joint(search) else _by_rows
    work = make(workspace, images, teacher_labels, search, references)
    price = most_queries(search, workspace.meter.classes)
    workspace.work("distances", len(images), search.shard, price, work, apart=True)


def _width(workspace: Workspace, teacher_labels: Int[Tensor, " sample"]) -> int:
    """How many classes a search has: all, or where they are found those of the images, and one.

    There would be no image of the others to start from. The last is then all that is none of these:
    "I do not know", and classes that are met during the search.
    """
    meter = workspace.meter
    if met_of(meter) is None:
        return meter.classes
    known = teacher_labels[teacher_labels != unsure_of(meter)]
    return min(meter.classes, int(known.max()) + 2) if len(known) else 2


def _agreed(workspace: Workspace, images: Images, search: Search, width: int) -> Search:
    """Agree on a search; its shards are as they were when it began, or as memory allows now."""
    settings = json.loads(msgspec.json.encode(search))
    if not search.flips:
        del settings["flips"]
    begun = workspace.configuration("distances")
    if width != workspace.meter.classes:
        settings["classes"] = width
    size = shard_of(search, images.shape, width)
    if begun:
        size = begun.get("size", search.shard)
    if size != search.shard:
        settings["size"] = size
    workspace.agree("distances", settings)
    return msgspec.structs.replace(search, shard=size)


def probes(workspace: Workspace, images: Images) -> tuple[Tensor, Tensor, Tensor]:
    """All probes of the rounds, what the teacher called them, and the row that each was asked for.

    Raises:
        InputError: there are no rounds.
    """
    done = workspace.done("rounds")
    if not done:
        raise InputError("there are no probes; measure distances of all classes at once first")
    begun, classes = workspace.configuration("distances"), workspace.meter.classes
    search, width = search_of(begun), begun.get("classes", classes)
    plan = JointPlan.of(search, samples=len(images), shape=images.shape, classes=width)
    columns: list[list[Tensor]] = [[], [], []]
    for unit in sorted(done):
        found = probes_of(workspace, images, unit, plan.shards, search.shard)
        for column, values in zip(columns, found, strict=True):
            column.append(values)
    called = wide_labels(torch.cat(columns[1]), width, classes)
    return torch.cat(columns[0]), called, torch.cat(columns[2])


def measured(workspace: Workspace, metric: Metric) -> RobustnessMap:
    """The distances of every image, from the finished shards; see `Run.distances`."""
    names = ("distance", "queries", "status", "curve")
    whole = _columns(workspace, metric, ["own", *(f"{metric}.{name}" for name in names)])
    seconds = sum(record["seconds"][metric] for record in workspace.done("distances").values())
    if metric == "mbd":
        seconds += _seconds_of_rounds(workspace)
    columns = {name: whole[f"{metric}.{name}"] for name in names}
    return RobustnessMap(metric, whole["own"].long(), **columns, seconds=seconds)


def found(workspace: Workspace, metric: Metric) -> Float[Tensor, "sample classes"]:
    """The distances alone, as `measured` has them."""
    name = f"{metric}.distance"
    return _columns(workspace, metric, [name])[name]


def soft(
    workspace: Workspace, metric: Metric, teacher_labels: Int[Tensor, " sample"]
) -> Float[Tensor, "sample classes"]:
    """Soft labels by the distances that were measured: Eq. 6 and 7."""
    return soft_labels(found(workspace, metric), teacher_labels)


def soft_labels(
    distance: Float[Tensor, "sample classes"], teacher_labels: Int[Tensor, " sample"]
) -> Float[Tensor, "sample classes"]:
    """Eq. 6 and 7, some thousand samples at a time, in place of the distances.

    >>> soft_labels(torch.tensor([[torch.inf, 1.0, 2.0]]), torch.tensor([0]))
    tensor([[0.6667, 0.4444, 0.2222]])
    """
    soft = distance
    for block in torch.arange(len(soft)).tensor_split(shards_of(len(soft), ANSWERS_SHARD)):
        soft[block] = concentrate(
            reciprocal_activations(soft[block], teacher_labels[block]), teacher_labels[block]
        )
    return soft


def _seconds_of_rounds(workspace: Workspace) -> float:
    """What rounds and their surrogates took; nothing where the search was row by row."""
    rounds = [record["wall_s"] for record in workspace.done("rounds").values()]
    return float(sum(rounds)) + surrogate_seconds(workspace)


def surrogate_seconds(workspace: Workspace) -> float:
    """What fitting the surrogates before the rounds took.

    The fit after the last round belongs to the distances, and is counted there.
    """
    count = workspace.configuration("rounds").get("rounds", 0)
    surrogates = workspace.surrogates("rounds").items()
    return float(sum(record["wall_s"] for number, record in surrogates if number < count))


def _columns(workspace: Workspace, metric: Metric, names: list[str]) -> dict[str, Tensor]:
    """Columns of the finished distances, one shard in memory at a time."""
    search, samples = workspace.configuration("distances"), workspace.samples
    size = search_of(search).shard if search else 1
    shards = shards_of(samples, size) if search else 0
    done = workspace.done("distances")
    if not shards or len(done) < shards:
        raise InputError(f"distances are not measured yet ({len(done)} of {shards} shards)")
    whole: dict[str, Tensor] = {}
    for shard in range(shards):
        part = workspace.read(done[shard])
        if f"{metric}.distance" not in part:
            raise InputError(
                f"{workspace.folder} measured {search['metric']!r}, not {metric!r}{_advice(search)}"
            )
        for name in names:
            if name not in whole:
                whole[name] = part[name].new_empty(samples, *part[name].shape[1:])
            whole[name][shard * size :][: len(part[name])] = part[name]
    return whole


def _advice(search: Json) -> str:
    """What to do where a metric is missing, if there is more than to measure it."""
    if (search["metric"], search.get("strategy")) != ("mbd", "joint"):
        return ""
    return '; set strategy = "rows", in another folder'


def _references(
    workspace: Workspace, images: Images, teacher_labels: Tensor, search: Search, width: int
) -> References:
    if bool((teacher_labels == teacher_labels[0]).all()):
        raise InputError(
            f"the teacher answered class {int(teacher_labels[0])} to all {len(teacher_labels):,}"
            " images; without a second class there is no boundary to measure"
        )
    rows, rejected = choose_references(
        teacher_labels,
        classes=width,
        per_class=search.references,
        generator=torch.Generator().manual_seed(derive_seed(workspace.seed, "references")),
    )
    return References(
        images.read(rows).to(workspace.device),
        teacher_labels[rows].to(workspace.device),
        rejected.to(workspace.device),
    )


def _jointly(
    workspace: Workspace,
    images: Images,
    teacher_labels: Tensor,
    search: Search,
    references: References,
) -> Work:
    """Do the rounds; returns the work that makes the distances of a shard from them."""
    classes = len(references.rejected)
    references = replace(references, images=as_seen(references.images, workspace.meter.bounds))
    plan = JointPlan.of(search, samples=len(images), shape=images.shape, classes=classes)
    workspace.agree("rounds", {"rounds": plan.rounds, "shards": len(plan.shards)})
    rounds = KeptRounds(
        workspace, images, teacher_labels, references, plan, search.shard, search.per_image
    )
    joint = JointSearch(
        search,
        plan.rounds,
        images,
        teacher_labels,
        references,
        rounds,
        KeptSurrogates(workspace, "rounds"),
        workspace.seed,
        workspace.device,
    )
    joint.run()
    if workspace.executor.apart and len(plan.shards) < shards_of(len(images), search.shard):
        joint.surrogate(plan.rounds)  # which is kept then, for those that do the other shards

    def work(teacher: ReplayTeacher, rows: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
        front = rounds.front(rows, shard, plan.rounds)
        seed, learned = derive_seed(workspace.seed, "distances", shard), shard in plan.shards
        mbd = joint.finish(cut(teacher, classes), front, learned=learned, seed=seed)
        sd = sample_distance(front.origin, front.teacher_labels, references)
        tensors, facts = _tensors({"sd": sd, "mbd": mbd}, rows, teacher.classes)
        count = wanted(shard, shards_of(len(images), search.shard))
        if count:
            whole, last = widened(mbd, teacher.classes), classes - 1
            facts |= keep_nearest(
                workspace,
                shard,
                count,
                whole,
                front.origin,
                lambda some, other: front.point.of(some, other.clamp(max=last)),
            )
        return tensors, facts

    return work


def _by_rows(
    workspace: Workspace,
    images: Images,
    teacher_labels: Tensor,
    search: Search,
    references: References,
) -> Work:
    """The work of one shard of the distances stage."""

    def work(teacher: ReplayTeacher, rows: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
        origin = images.read(rows).to(workspace.device)
        count = wanted(shard, shards_of(len(images), search.shard))
        classes = len(references.rejected)
        fits = origin.nbytes * classes <= MOST_BYTES
        maps = measure(
            cut(teacher, classes),
            origin,
            teacher_labels[rows].to(workspace.device),
            references,
            search,
            noise_seed=derive_seed(workspace.seed, "distances", shard),
            keep_points=count > 0 and fits,
        )
        tensors, facts = _tensors(maps, rows, teacher.classes)
        found = maps[search.metric]
        points = found.points
        if points is not None:
            seen = as_seen(origin, workspace.meter.bounds)
            facts |= keep_nearest(
                workspace,
                shard,
                count,
                widened(found, teacher.classes),
                seen,
                lambda some, other: points[some, other.clamp(max=classes - 1)],
            )
        return tensors, facts

    return work


def _tensors(
    maps: Mapping[Metric, RobustnessMap], rows: Tensor, classes: int
) -> tuple[dict[str, Tensor], Json]:
    """What a shard keeps of its maps, and what the journal says of them."""
    tensors, seconds, queries = {"ids": rows}, {}, {}
    for metric, searched in maps.items():
        found = widened(searched, classes)
        tensors["own"] = found.teacher_labels.to(torch.int32)
        tensors[f"{metric}.distance"] = found.distance
        tensors[f"{metric}.queries"] = found.queries.to(torch.int32)
        tensors[f"{metric}.status"] = found.status.to(torch.int8)
        tensors[f"{metric}.curve"] = found.curve
        seconds[metric] = round(found.seconds, 3)
        queries[metric] = int(found.queries.sum())
    count = torch.bincount(searched.status.flatten().long(), minlength=len(Status)).tolist()
    statuses = {status.name: count[status] for status in Status if count[status]}
    return tensors, {"seconds": seconds, "spent": queries, "statuses": statuses}
