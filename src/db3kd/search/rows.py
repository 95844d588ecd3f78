"""SD, BD and MBD row by row: three ways to fill a `RobustnessMap` (section 3.2.1)."""

import time
from collections.abc import Iterator
from dataclasses import replace

import msgspec.structs
import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.methods import Metric
from db3kd.config.settings import Search
from db3kd.config.types import validated
from db3kd.data import check_images
from db3kd.errors import InputError
from db3kd.search.along_references import along_references
from db3kd.search.boundary import (
    Reaches,
    as_seen,
    asker,
    norm,
)
from db3kd.search.descent import Walk, descend
from db3kd.search.descent.settings import descent_of, noise_of
from db3kd.search.robustness import References, RobustnessMap, Status
from db3kd.teachers.base import Teacher

METRICS: tuple[Metric, ...] = ("sd", "bd", "mbd")  # each starts where the one before ends
ROW_BYTES = 64 * 2**20  # images of the rows that are walked at once; results do not depend on it


def sample_distance(
    images: Float[Tensor, "sample *image"],
    teacher_labels: Int[Tensor, " sample"],
    references: References,
    *,
    expected: Int[Tensor, " sample"] | None = None,
    keep_points: bool = False,
) -> RobustnessMap:
    """Sample distance: from each sample to the nearest reference of every other class (Eq. 2).

    `own` are the teacher's answers to the images. With `expected`, samples that the teacher calls
    something else are left out. Costs no query. Nothing is random.

    Raises:
        InputError: images, answers and references do not fit together.

    >>> near = References(torch.full((1, 1, 2, 2), 0.5), torch.tensor([1]),
    ...                   torch.zeros(2, dtype=torch.bool))
    >>> sample_distance(torch.zeros(1, 1, 2, 2), torch.tensor([0]), near).distance
    tensor([[0., 1.]])
    """
    maps = _measure(
        None, images, teacher_labels, references, Search(metric="sd"), 0, expected, keep_points
    )
    return maps["sd"]


def boundary_distance(
    teacher: Teacher,
    images: Float[Tensor, "sample *image"],
    teacher_labels: Int[Tensor, " sample"],
    references: References,
    search: Search,
    *,
    expected: Int[Tensor, " sample"] | None = None,
    keep_points: bool = False,
) -> RobustnessMap:
    """Boundary distance: to the first crossing on the way to the references of a class (Eq. 3).

    References are tried nearest first; one that is not across at the best distance so far is given
    up after one query. The others are halved to 1/64 of the distance, and only the last of them
    down to `search.tolerance`: where two crossings differ by less than 1/64, the farther one may be
    taken. Costs about 50 queries a row with 20 references, at most `search.queries`. Nothing is
    random.

    Raises:
        InputError: images, answers and references do not fit together.
        BudgetExhausted, TeacherError: from the teacher.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> white = References(torch.ones(1, 1, 2, 2), torch.tensor([1]),
    ...                    torch.zeros(2, dtype=torch.bool))
    >>> bd = boundary_distance(bright, torch.zeros(1, 1, 2, 2), torch.tensor([0]), white, Search())
    >>> round(bd.distance[0, 1].item(), 3), bd.queries[0, 1].item()
    (1.0, 18)
    """
    search = msgspec.structs.replace(validated(search), metric="bd")
    return _measure(teacher, images, teacher_labels, references, search, 0, expected, keep_points)[
        "bd"
    ]


def minimal_boundary_distance(
    teacher: Teacher,
    images: Float[Tensor, "sample *image"],
    teacher_labels: Int[Tensor, " sample"],
    references: References,
    search: Search,
    *,
    noise_seed: int,
    expected: Int[Tensor, " sample"] | None = None,
    keep_points: bool = False,
) -> RobustnessMap:
    """Minimal boundary distance: the BD point moved along the boundary, nearer (Eq. 4, 5).

    Costs at most `search.queries` a row, BD's queries included. The probes are random: drawn from
    `noise_seed` and the number of the step, the same for every row.

    Raises:
        InputError: images, answers and references do not fit together.
        BudgetExhausted, TeacherError: from the teacher.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    >>> white = References(torch.ones(1, 1, 2, 2), torch.tensor([1]),
    ...                    torch.zeros(2, dtype=torch.bool))
    >>> mbd = minimal_boundary_distance(bright, torch.zeros(1, 1, 2, 2), torch.tensor([0]), white,
    ...                                 Search(), noise_seed=0)
    >>> round(mbd.distance[0, 1].item(), 2)
    0.5
    """
    search = msgspec.structs.replace(validated(search), metric="mbd")
    return _measure(
        teacher, images, teacher_labels, references, search, noise_seed, expected, keep_points
    )["mbd"]


def measure(
    teacher: Teacher,
    images: Float[Tensor, "sample *image"],
    teacher_labels: Int[Tensor, " sample"],
    references: References,
    search: Search,
    *,
    noise_seed: int,
    expected: Int[Tensor, " sample"] | None = None,
    keep_points: bool = False,
) -> dict[Metric, RobustnessMap]:
    """Every metric up to `search.metric` in one pass, since BD passes SD and MBD passes BD.

    Costs at most `search.queries` a row in all; the `queries` of each map are what that metric
    alone would have cost. Random as `minimal_boundary_distance`.

    Raises:
        InputError: images, answers and references do not fit together.
        BudgetExhausted, TeacherError: from the teacher.

    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    >>> white = References(torch.ones(1, 1, 2, 2), torch.tensor([1]),
    ...                    torch.zeros(2, dtype=torch.bool))
    >>> maps = measure(bright, torch.zeros(1, 1, 2, 2), torch.tensor([0]), white, Search(),
    ...                noise_seed=0)
    >>> [round(maps[metric].distance[0, 1].item(), 1) for metric in ("sd", "bd", "mbd")]
    [2.0, 1.0, 0.5]
    """
    search = validated(search)
    return _measure(
        teacher, images, teacher_labels, references, search, noise_seed, expected, keep_points
    )


def _measure(
    teacher: Teacher | None,
    images: Tensor,
    teacher_labels: Tensor,
    references: References,
    search: Search,
    noise_seed: int,
    expected: Tensor | None,
    keep_points: bool,
) -> dict[Metric, RobustnessMap]:
    classes = len(references.rejected)
    _check(images, teacher_labels, references, expected, teacher)
    if teacher is not None:
        images = as_seen(images, teacher.bounds)
        references = replace(references, images=as_seen(references.images, teacher.bounds))
    status = _statuses(teacher_labels, references, expected, classes)
    sample, target = (status == Status.CONVERGED).nonzero(as_tuple=True)
    order = references.nearest_first(images)
    metrics = METRICS[: METRICS.index(search.metric) + 1]
    maps = {m: _blank(m, images, teacher_labels, status, search, keep_points) for m in metrics}
    at_once = max(1, ROW_BYTES // (images[0].numel() * 4)) if len(images) else 1
    for part in range(0, len(sample), at_once):
        here = (sample[part : part + at_once], target[part : part + at_once])
        rows = _Rows(
            teacher, images[here[0]], references.images, order[here], here[1], search, noise_seed
        )
        started = time.perf_counter()
        for metric, walk, converged in rows.walks():
            _fill(maps[metric], here, walk, converged, rows.curve)
            seconds = maps[metric].seconds + time.perf_counter() - started
            maps[metric] = replace(maps[metric], seconds=seconds)
    return maps


def _check(
    images: Tensor,
    teacher_labels: Tensor,
    references: References,
    expected: Tensor | None,
    teacher: Teacher | None,
) -> None:
    classes = len(references.rejected)
    if teacher is not None:
        if teacher.classes != classes:
            raise InputError(
                f"the references know {classes} classes, the teacher has {teacher.classes}"
            )
        check_images(images, teacher.bounds)
        check_images(references.images, teacher.bounds)
    for what, given in (("answers", teacher_labels), ("expected labels", expected)):
        if given is not None and len(given) != len(images):
            raise InputError(f"{len(images)} images need as many {what}, got {len(given)}")
    if references.images.shape[1:] != images.shape[1:]:
        raise InputError(
            f"references of shape {tuple(references.images.shape[1:])} cannot serve images of shape"
            f" {tuple(images.shape[1:])}"
        )
    if (
        len(teacher_labels)
        and not 0 <= int(teacher_labels.min()) <= int(teacher_labels.max()) < classes
    ):
        raise InputError(f"answers must lie within the {classes} classes")


def _statuses(
    teacher_labels: Tensor, references: References, expected: Tensor | None, classes: int
) -> Int[Tensor, "sample classes"]:
    """What is known of each row before the search; rows to search are marked CONVERGED."""
    device = teacher_labels.device
    found = torch.zeros(classes, dtype=torch.bool, device=device)
    found[references.answers] = True
    rejected = references.rejected.to(device)
    of_class = torch.full((classes,), int(Status.NO_REFERENCE), device=device)
    of_class[rejected] = Status.REFERENCE_REJECTED
    of_class[found] = Status.CONVERGED
    status = of_class.repeat(len(teacher_labels), 1)
    if expected is not None:
        status[expected.to(device) != teacher_labels] = Status.SAMPLE_REJECTED
    status[torch.arange(len(teacher_labels), device=device), teacher_labels] = Status.OWN
    return status


def _blank(
    metric: Metric,
    images: Tensor,
    teacher_labels: Tensor,
    status: Tensor,
    search: Search,
    keep_points: bool,
) -> RobustnessMap:
    distance = torch.full(status.shape, torch.inf, device=images.device)
    distance[status == Status.OWN] = 0.0
    curve = distance[:, :, None].repeat(1, 1, len(search.checkpoints))
    points = None
    if keep_points:
        points = images[:, None].repeat(1, status.shape[1], *[1] * (images.ndim - 1))
    return RobustnessMap(
        metric,
        teacher_labels,
        distance,
        torch.zeros_like(status),
        status.clone(),
        curve,
        points,
    )


def _fill(
    into: RobustnessMap,
    here: tuple[Tensor, Tensor],
    walk: Walk,
    converged: Tensor,
    curve: Tensor,
) -> None:
    """Write the rows of one part into the map, which was born in `_measure`."""
    into.distance[here] = walk.distance
    into.queries[here] = walk.spent
    into.status[here] = torch.where(converged, int(Status.CONVERGED), int(Status.LIMIT))
    into.curve[here] = curve
    if into.points is not None:
        into.points[here] = walk.point


class _Rows:
    """One part of the rows on its way through the metrics."""

    def __init__(
        self,
        teacher: Teacher | None,
        origin: Tensor,
        references: Tensor,
        order: Tensor,
        target: Tensor,
        search: Search,
        noise_seed: int,
    ) -> None:
        self.teacher, self.search, self.noise_seed = teacher, search, noise_seed
        self.origin, self.references, self.order, self.target = origin, references, order, target
        checkpoints = torch.tensor(search.checkpoints, device=origin.device)
        self.checkpoints = checkpoints.reshape(1, -1)
        self.curve = torch.empty(len(origin), len(search.checkpoints), device=origin.device)

    def walks(self) -> Iterator[tuple[Metric, Walk, Tensor]]:
        """SD, then BD, then MBD, as far as the search goes: state and which rows converged."""
        point = self.references[self.order[:, 0]]
        walk = Walk.at(
            point,
            norm(point - self.origin),
            step=self.search.step,
            spent=torch.zeros_like(self.target),
            limit=self.search.queries,
        )
        self._keep(walk, first=True)
        yield "sd", walk, torch.ones_like(self.target, dtype=torch.bool)
        if self.teacher is None or self.search.metric == "sd":
            return
        asks = asker(self.teacher, Reaches(self.target))
        walk, converged = along_references(
            asks,
            self.origin,
            self.references,
            self.order,
            walk,
            tolerance=self.search.tolerance,
            bounds=self.teacher.bounds,
            after_step=self._keep,
            flips=self.search.flips,
        )
        yield "bd", walk, converged
        if self.search.metric == "bd":
            return
        walk, converged = descend(
            descent_of(self.search),
            asks,
            self.origin,
            walk,
            noise=noise_of(self.search, self.origin, self.noise_seed),
            bounds=self.teacher.bounds,
            after_step=self._keep,
            flips=self.search.flips,
        )
        yield "mbd", walk, converged

    def _keep(self, walk: Walk, first: bool = False) -> None:
        """Keep the best distance at every checkpoint that is not passed yet."""
        open_ = walk.spent[:, None] <= self.checkpoints
        self.curve = torch.where(open_ | first, walk.distance[:, None], self.curve)
