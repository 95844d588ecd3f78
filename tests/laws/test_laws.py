"""Laws of the search, checked with real searches on teachers whose boundary is known.

The teachers of `linear` sum in a fixed order, so their answers do not depend on the batch and
every law that says "the same" means every bit.
"""

from dataclasses import dataclass, replace
from typing import get_args

import msgspec.structs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from closed_form import (
    WIDE,
    as_references,
    ball,
    half_space,
    linear,
    ordered_scores,
    prototypes,
    to_half_space_in_box,
    to_largest,
)
from db3kd.config.methods import Metric
from db3kd.config.settings import Budget, Descents, Search, Subspaces
from db3kd.errors import BudgetExhausted
from db3kd.search import rows
from db3kd.search.boundary import norm
from db3kd.search.robustness import References, RobustnessMap, Status
from db3kd.search.rows import METRICS, measure
from db3kd.teachers import function
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter


@dataclass(frozen=True)
class World:
    """A linear teacher, samples and references, and how to search; all drawn from one seed."""

    weights: Tensor
    offsets: Tensor
    images: Tensor
    starts: Tensor
    bounds: tuple[float, float]
    search: Search
    seed: int

    @property
    def teacher(self) -> Teacher:
        return linear(self.weights, self.offsets, self.bounds)

    def measured(
        self, teacher: Teacher | None = None, rows: Tensor | None = None, keep_points: bool = False
    ) -> dict[Metric, RobustnessMap]:
        images = self.images if rows is None else self.images[rows]
        return measure(
            teacher or self.teacher,
            images,
            self.teacher.labels(images),
            as_references(self.teacher, self.starts),
            self.search,
            noise_seed=self.seed,
            keep_points=keep_points,
        )


DESCENTS: tuple[Descents, ...] = get_args(Descents)
SUBSPACES: tuple[Subspaces, ...] = get_args(Subspaces)
limits = st.one_of(st.integers(1, 50), st.integers(51, 250))


@st.composite
def worlds(draw: st.DrawFn, boxed: bool | None = None) -> World:
    seed = draw(st.integers(0, 2**31))
    dimensions, classes = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    boxed = draw(st.booleans()) if boxed is None else boxed
    generator = torch.Generator().manual_seed(seed)

    def images(count: int) -> Tensor:
        shape = (count, 1, 1, dimensions)
        drawn = torch.randn(shape, generator=generator)
        return torch.sigmoid(3 * drawn) if boxed else drawn

    weights = torch.randn(classes, dimensions, generator=generator)
    offsets = 0.3 * torch.randn(classes, generator=generator) - boxed * weights.sum(1) / 2
    search = Search(
        queries=draw(limits),
        probes=draw(st.integers(1, 40)),
        step=draw(st.sampled_from([0.02, 0.2, 2.0])),
        tolerance=draw(st.sampled_from([1e-5, 1e-3, 0.1])),
        descent=draw(st.sampled_from(DESCENTS)),
        subspace=draw(st.sampled_from(SUBSPACES)),
        checkpoints=(3, 17, 40, 90, 250, 500),
    )
    return World(
        weights,
        offsets,
        images(draw(st.integers(1, 3))),
        images(draw(st.integers(1, 12))),
        (0.0, 1.0) if boxed else WIDE,
        search,
        seed,
    )


def same(one: RobustnessMap, other: RobustnessMap) -> None:
    """Bit for bit."""
    assert torch.equal(one.teacher_labels, other.teacher_labels)
    assert torch.equal(one.distance, other.distance)
    assert torch.equal(one.queries, other.queries)
    assert torch.equal(one.status, other.status)
    assert torch.equal(one.curve, other.curve)


few = settings(deadline=None, max_examples=12)


@given(worlds())
@few
def test_each_metric_is_at_most_the_one_before(world: World) -> None:
    maps = world.measured()
    sd, bd, mbd = (maps[metric].distance for metric in METRICS)
    assert bool((mbd <= bd).all())
    assert bool((bd <= sd).all())
    found = torch.isfinite(sd)
    assert torch.equal(found, torch.isfinite(mbd))
    assert bool((mbd >= 0).all())
    assert not bool(torch.isnan(mbd).any())


@given(worlds(), st.sampled_from(METRICS))
@few
def test_accounts_balance_and_no_row_exceeds_its_limit(world: World, metric: Metric) -> None:
    shown = 0

    def ask(images: Tensor) -> Tensor:
        nonlocal shown
        shown += len(images)
        return ordered_scores(images, world.weights, world.offsets).argmax(1)

    meter = Meter(function(ask, classes=len(world.weights), bounds=world.bounds))
    search = msgspec.structs.replace(world.search, metric=metric)
    maps = replace(world, search=search).measured(meter)
    assert list(maps) == list(METRICS[: METRICS.index(metric) + 1])
    assert shown == meter.spent == int(maps[metric].queries.sum())
    for before, after in zip(list(maps), list(maps)[1:], strict=False):
        assert bool((maps[before].queries <= maps[after].queries).all())
    assert int(maps[metric].queries.max()) <= search.queries


@pytest.mark.parametrize("descent", DESCENTS)
@pytest.mark.parametrize("queries", [*range(1, 20), 27, 33, 41, 50])
def test_a_row_alone_costs_what_its_accounts_say(queries: int, descent: Descents) -> None:
    # One row, so the meter's total is the row's: no limit is exceeded, even by one.
    draw = torch.Generator().manual_seed(queries)
    world = World(
        torch.randn(2, 5, generator=draw), torch.zeros(2), torch.randn(1, 1, 1, 5, generator=draw),
        torch.randn(9, 1, 1, 5, generator=draw), WIDE,
        Search(queries=queries, probes=7, tolerance=0.1, descent=descent), queries,
    )  # fmt: skip
    meter = Meter(world.teacher)
    found = world.measured(meter)["mbd"]
    assert meter.spent == int(found.queries.sum()) <= queries
    for status, spent in zip(found.status[0].tolist(), found.queries[0].tolist(), strict=True):
        assert status != Status.LIMIT or spent > queries - 4  # a row does not give up early


@given(worlds(), st.integers(0, 1200))
@few
def test_a_budget_is_never_exceeded(world: World, queries: int) -> None:
    shown = 0

    def ask(images: Tensor) -> Tensor:
        nonlocal shown
        shown += len(images)
        return ordered_scores(images, world.weights, world.offsets).argmax(1)

    needed = int(world.measured()["mbd"].queries.sum())
    meter = Meter(
        function(ask, classes=len(world.weights), bounds=world.bounds), Budget(queries=queries)
    )
    if needed <= queries:
        world.measured(meter)
    else:
        with pytest.raises(BudgetExhausted) as caught:
            world.measured(meter)
        assert caught.value.spent == shown
        assert shown + caught.value.asked > queries
    assert shown == meter.spent <= queries


@given(worlds(), st.data())
@few
def test_a_row_does_not_depend_on_its_neighbours_or_its_place(
    world: World, data: st.DataObject
) -> None:
    whole = world.measured()
    count = len(world.images)
    order = torch.tensor(data.draw(st.permutations(range(count))))
    permuted = world.measured(rows=order)
    for metric in METRICS:
        place = order.argsort()
        assert torch.equal(permuted[metric].distance[place], whole[metric].distance)
        assert torch.equal(permuted[metric].queries[place], whole[metric].queries)
        assert torch.equal(permuted[metric].status[place], whole[metric].status)
        assert torch.equal(permuted[metric].curve[place], whole[metric].curve)
    for row in range(count):
        alone = world.measured(rows=torch.tensor([row]))
        for metric in METRICS:
            assert torch.equal(alone[metric].distance[0], whole[metric].distance[row])
            assert torch.equal(alone[metric].queries[0], whole[metric].queries[row])
            assert torch.equal(alone[metric].status[0], whole[metric].status[row])


@given(worlds(), st.integers(1, 6))
@settings(deadline=None, max_examples=6)
def test_how_many_rows_are_walked_at_once_does_not_matter(world: World, at_once: int) -> None:
    whole = world.measured()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "ROW_BYTES", at_once * world.images[0].numel() * 4)
        parted = world.measured()
    for metric in METRICS:
        same(whole[metric], parted[metric])


@pytest.mark.parametrize(
    ("descent", "subspace"),
    [(descent, "full") for descent in DESCENTS] + [("cgba_h", other) for other in SUBSPACES[1:]],
)
def test_large_images_do_not_depend_on_their_neighbours_either(
    descent: Descents, subspace: Subspaces
) -> None:
    # Beyond 32,768 numbers a sum over one row alone may be split between threads.
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 105, 105, generator=draw)
    starts = torch.rand(1, 3, 105, 105, generator=draw)
    images[:, 0, 0, 0], starts[:, 0, 0, 0] = 0.1, 0.9
    teacher = function(lambda shown: shown[:, 0, 0, 0] > 0.7, classes=2)
    references, own = as_references(teacher, starts), torch.zeros(2, dtype=torch.long)
    search = Search(queries=40, probes=4, tolerance=1e-2, descent=descent, subspace=subspace)
    whole = measure(teacher, images, own, references, search, noise_seed=0)["mbd"]
    alone = measure(teacher, images[1:], own[1:], references, search, noise_seed=0)["mbd"]
    assert torch.equal(alone.distance[0], whole.distance[1])
    assert torch.equal(alone.queries[0], whole.queries[1])


@given(worlds(), st.data())
@few
def test_renaming_classes_permutes_the_result(world: World, data: st.DataObject) -> None:
    classes = len(world.weights)
    name = torch.tensor(data.draw(st.permutations(range(classes))))  # new name of each class
    old = name.argsort()
    whole = world.measured()
    renamed = replace(world, weights=world.weights[old], offsets=world.offsets[old]).measured()
    for metric in METRICS:
        assert torch.equal(renamed[metric].teacher_labels, name[whole[metric].teacher_labels])
        assert torch.equal(renamed[metric].distance[:, name], whole[metric].distance)
        assert torch.equal(renamed[metric].queries[:, name], whole[metric].queries)
        assert torch.equal(renamed[metric].status[:, name], whole[metric].status)


@given(worlds(), st.sampled_from([-5, -1, 1, 3]))
@few
def test_scaling_space_scales_distances(world: World, power: int) -> None:
    # By a power of two, which is exact in floating point.
    factor = 2.0**power
    search = msgspec.structs.replace(
        world.search, step=world.search.step * factor, tolerance=world.search.tolerance * factor
    )
    scaled = replace(
        world,
        weights=world.weights / factor,
        images=world.images * factor,
        starts=world.starts * factor,
        bounds=(world.bounds[0] * factor, world.bounds[1] * factor),
        search=search,
    ).measured()
    whole = world.measured()
    for metric in METRICS:
        assert torch.equal(scaled[metric].distance, whole[metric].distance * factor)
        assert torch.equal(scaled[metric].queries, whole[metric].queries)
        assert torch.equal(scaled[metric].status, whole[metric].status)


@given(worlds())
@few
def test_every_point_is_what_its_distance_says(world: World) -> None:
    for found in world.measured(keep_points=True).values():
        assert found.points is not None
        assert float(found.points.min()) >= world.bounds[0]
        assert float(found.points.max()) <= world.bounds[1]
        for row in range(len(world.images)):
            answers = world.teacher.labels(found.points[row])
            apart = norm(found.points[row] - world.images[row])
            for k in range(len(world.weights)):
                if torch.isfinite(found.distance[row, k]):
                    assert int(answers[k]) == k
                    assert float(apart[k]) == float(found.distance[row, k])
                else:
                    assert torch.equal(found.points[row, k], world.images[row])


@given(worlds())
@few
def test_curves_fall_and_end_at_the_distance(world: World) -> None:
    checkpoints = torch.tensor(world.search.checkpoints)
    for found in world.measured().values():
        before, after = found.curve[..., :-1], found.curve[..., 1:]
        assert bool((after <= before).all())
        assert bool((found.curve >= found.distance[..., None]).all())
        over = found.queries[..., None] <= checkpoints
        assert torch.equal(
            torch.where(over, found.curve, found.distance[..., None]),
            found.distance[..., None].expand_as(found.curve),
        )


@given(worlds(boxed=True))
@few
def test_only_points_within_the_bounds_are_ever_shown(world: World) -> None:
    least, most = 1.0, 0.0

    def ask(images: Tensor) -> Tensor:
        nonlocal least, most
        least, most = min(least, float(images.min())), max(most, float(images.max()))
        return ordered_scores(images, world.weights, world.offsets).argmax(1)

    world.measured(function(ask, classes=len(world.weights)))
    assert least >= 0
    assert most <= 1


# Closed forms: every row within 1% after 2,000 queries in 64 dimensions.

DIMENSIONS, ROWS = 64, 6
THOROUGH = Search(queries=2000)


def reached(teacher: Teacher, images: Tensor, starts: Tensor, seed: int) -> RobustnessMap:
    own = teacher.labels(images)
    references = as_references(teacher, starts)
    return measure(teacher, images, own, references, THOROUGH, noise_seed=seed)["mbd"]


def cloud(count: int, draw: torch.Generator) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=draw)


def within_one_percent(found: Tensor, exact: Tensor) -> None:
    assert bool((found >= exact * (1 - 1e-4) - 1e-4).all()), (found - exact).min()
    assert bool((found <= exact * 1.01).all()), (found / exact).max()


@pytest.mark.parametrize("seed", range(3))
def test_half_space(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    normal = torch.randn(DIMENSIONS, generator=draw)
    normal /= normal.norm()
    images, starts = cloud(ROWS, draw), cloud(20, draw)
    images += (-1.0 - images.flatten(1) @ normal)[:, None, None, None] * normal.reshape(1, 8, 8)
    teacher = half_space(normal, 0.5)
    found = reached(teacher, images, starts, seed)
    exact = 0.5 - images.flatten(1) @ normal
    within_one_percent(found.distance[:, 1], exact)


@pytest.mark.parametrize("seed", range(3))
def test_ball(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    centre = cloud(1, draw).flatten() / 2
    images = 2 * cloud(ROWS, draw)
    starts = centre.reshape(1, 1, 8, 8) + 0.3 * cloud(20, draw)
    teacher = ball(centre, 4.0)
    assert teacher.labels(starts).all()
    assert not teacher.labels(images).any()
    found = reached(teacher, images, starts, seed)
    within_one_percent(found.distance[:, 1], (images.flatten(1) - centre).norm(dim=1) - 4.0)


@pytest.mark.parametrize(
    ("descent", "subspace"),
    [(descent, subspace) for descent in DESCENTS for subspace in ("full", "sweep")]
    + [("cgba_h", "dct"), ("cgba_h", "bilinear")],
)
def test_every_descent_reaches_a_plane_and_a_ball(descent: Descents, subspace: Subspaces) -> None:
    # Half the frequencies cannot span a normal that has all: "dct" and "bilinear" stay behind.
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(DIMENSIONS, generator=draw)
    normal /= normal.norm()
    images, starts = cloud(2, draw), 2 * cloud(20, draw)
    images += (-1.0 - images.flatten(1) @ normal)[:, None, None, None] * normal.reshape(1, 8, 8)
    centre = 4 * normal
    far = centre.reshape(1, 1, 8, 8) + 0.3 * cloud(20, draw)
    exact = (0.5 - images.flatten(1) @ normal, (images.flatten(1) - centre).norm(dim=1) - 4.0)
    search = Search(queries=1000, descent=descent, subspace=subspace)
    within = 1.05 if subspace in ("full", "sweep") else 1.6
    for teacher, origins, reached_from in zip(
        (half_space(normal, 0.5), ball(centre, 4.0)), exact, (starts, far), strict=True
    ):
        own, references = teacher.labels(images), as_references(teacher, reached_from)
        assert not own.any()
        maps = measure(teacher, images, own, references, search, noise_seed=0)
        found = maps["mbd"].distance[:, 1]
        assert bool((found >= origins * (1 - 1e-4)).all())
        assert bool((found <= origins * within).all()), (found / origins).max()
        assert bool((found < maps["bd"].distance[:, 1]).all())


@pytest.mark.parametrize("seed", range(3))
def test_nearest_of_two_prototypes(seed: int) -> None:
    # From prototype 0's cell to the plane half-way: ((x - p1)^2 - (x - p0)^2) / (2 |p1 - p0|).
    draw = torch.Generator().manual_seed(seed)
    points = 2 * torch.randn(2, DIMENSIONS, generator=draw)
    images = points[0].reshape(1, 8, 8) + cloud(ROWS, draw)
    starts = points[1].reshape(1, 8, 8) + cloud(20, draw)
    found = reached(prototypes(points), images, starts, seed)
    flat = images.flatten(1)
    gap = (flat - points[1]).square().sum(1) - (flat - points[0]).square().sum(1)
    within_one_percent(found.distance[:, 1], gap / (2 * (points[1] - points[0]).norm()))


@pytest.mark.parametrize("seed", range(2))
def test_nearest_of_five_prototypes(seed: int) -> None:
    # Prototypes 6 e_k: class k is where coordinate k is the largest of five. From (0.6, x1 .. x4)
    # with x1 .. x4 between -0.4 and -0.2, the nearest point of class k has x0 = xk > 0.1, so no
    # other class is in the way: (0.6 - xk) / sqrt(2).
    draw = torch.Generator().manual_seed(seed)
    images, starts = cloud(2, draw), cloud(60, draw)
    images[:, 0, 0, 0] = 0.6
    images[:, 0, 0, 1:5] = -0.2 - 0.2 * torch.rand(2, 4, generator=draw)
    found = reached(prototypes(6 * torch.eye(DIMENSIONS)[:5]), images, starts, seed)
    assert found.teacher_labels.tolist() == [0, 0]
    exact = (0.6 - images[:, 0, 0, 1:5]) / 2**0.5
    within_one_percent(found.distance[:, 1:], exact)
    for image, row in zip(images, exact, strict=True):
        shortest = [to_largest(image.flatten(), k, 5) for k in range(1, 5)]
        assert row.tolist() == pytest.approx(shortest, rel=1e-5)


@pytest.mark.parametrize("seed", range(2))
def test_nearest_of_five_prototypes_with_corners(seed: int) -> None:
    # Where several classes meet, the sign of a probe says little about the way: within 10%.
    draw = torch.Generator().manual_seed(seed)
    images, starts = cloud(1, draw), cloud(60, draw)
    images[:, 0, 0, 0] += 3
    found = reached(prototypes(6 * torch.eye(DIMENSIONS)[:5]), images, starts, seed)
    assert found.teacher_labels.tolist() == [0]
    exact = torch.tensor(
        [[to_largest(image.flatten(), k, 5) for k in range(1, 5)] for image in images]
    )
    assert bool((found.distance[:, 1:] >= exact * (1 - 1e-4)).all())
    assert bool((found.distance[:, 1:] <= exact * 1.1).all())


@pytest.mark.parametrize("seed", range(3))
def test_where_the_box_cuts_off_the_nearest_point(seed: int) -> None:
    # Samples in a corner of [0, 1]: most of the way along the normal leaves the box.
    draw = torch.Generator().manual_seed(seed)
    normal = torch.randn(DIMENSIONS, generator=draw)
    normal /= normal.norm()
    images = 0.1 * torch.rand(4, 1, 8, 8, generator=draw)
    starts = (normal > 0).float().reshape(1, 1, 8, 8) * torch.rand(20, 1, 8, 8, generator=draw)
    teacher = half_space(normal, 1.5, (0.0, 1.0))
    own, references = teacher.labels(images), as_references(teacher, starts)
    assert not own.any()
    assert references.answers.any()
    maps = measure(teacher, images, own, references, THOROUGH, noise_seed=seed, keep_points=True)
    sd, bd, mbd = (maps[metric].distance[:, 1] for metric in METRICS)
    assert bool((mbd <= bd).all())
    assert bool((bd <= sd).all())
    points = maps["mbd"].points
    assert points is not None
    assert 0 <= float(points.min()) <= float(points.max()) <= 1
    unclipped = 1.5 - images.flatten(1) @ normal
    nearest = images.flatten(1) + unclipped[:, None] * normal
    assert bool(((nearest < 0) | (nearest > 1)).any(1).all())  # or the box would not matter
    exact = torch.tensor([to_half_space_in_box(image, normal, 1.5) for image in images])
    assert bool((exact > unclipped).all())
    assert bool((mbd >= exact * (1 - 1e-4)).all())
    assert bool((mbd <= exact * 1.1).all()), mbd / exact


def test_references_that_are_not_asked_again_need_no_query_to_be_starts() -> None:
    teacher = Meter(half_space(torch.ones(1), 0.5))
    starts = References(torch.ones(1, 1, 1, 1), torch.tensor([1]), torch.zeros(2, dtype=torch.bool))
    search = Search(metric="sd")
    measure(teacher, torch.zeros(1, 1, 1, 1), torch.tensor([0]), starts, search, noise_seed=0)
    assert teacher.spent == 0
