from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import Generator, Tensor

from closed_form import WIDE, half_space, linear, ordered_scores
from db3kd.config.settings import AscentPlan, Budget, paper_ascent
from db3kd.errors import BudgetExhausted, InputError
from db3kd.search.boundary import norm
from db3kd.synthesis.ascent.ascend import ascend
from db3kd.synthesis.ascent.starts import Starts, find_starts, noise
from db3kd.synthesis.ascent.state import Ascent, Ending, begin
from db3kd.teachers import function
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter

DIMENSIONS = 24
UNIT = torch.eye(DIMENSIONS)
CHEAP = AscentPlan(iterations=6, subspace="full")  # the normals here are single pixels
PAPER = paper_ascent(iterations=3, search=600, queries=3 * 900)
BOTH = pytest.mark.parametrize("plan", [CHEAP, PAPER], ids=["cheap", "paper"])


def drawn(count: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = Generator().manual_seed(seed)
    return scale * torch.randn(count, 1, 1, DIMENSIONS, generator=generator)


def nearest_of(points: Tensor, bounds: tuple[float, float] = WIDE) -> Teacher:
    """The nearest prototype's class, exact row by row: the largest of 2 p.x - p.p."""
    return linear(2 * points, -points.square().sum(1), bounds)


def margin(images: Tensor, points: Tensor, own: Tensor) -> Tensor:
    """Distance from each image to the nearest plane between its own prototype and another."""
    x, mine = images.flatten(1), points[own]
    apart = torch.cdist(x, points).square() - (x - mine).square().sum(1, keepdim=True)
    width = 2 * torch.cdist(mine, points)
    planes = apart / width
    planes[torch.arange(len(own)), own] = torch.inf
    return planes.min(1).values


def ascended(
    teacher: Teacher, images: Tensor, others: Tensor, plan: AscentPlan, seed: int = 0
) -> tuple[Ascent, list[Ascent], Meter]:
    meter, states = Meter(teacher), []
    own = teacher.labels(images)
    answers = teacher.labels(others)
    last = ascend(
        meter, begin(images, own, plan), others, answers, plan, seed=seed, after=states.append
    )
    return last, states, meter


@BOTH
def test_on_a_half_space_the_step_is_against_the_normal_and_the_distance_grows_by_it(
    plan: AscentPlan,
) -> None:
    # Class 1 where x0 > 0; the images are at x0 = -0.5, and away from it is -e0, 0.5 an iteration.
    images = drawn(4, scale=0.3)
    images[..., 0] = -0.5
    others = drawn(30, seed=1)
    last, states, _ = ascended(half_space(UNIT[0], 0.0), images, others, plan)
    moved = (last.image - images).flatten(1)
    length = plan.step * plan.iterations
    least = 0.97 if plan.probes == 0 else 0.9
    assert bool((-moved[:, 0] / norm(last.image - images) > least).all())
    assert bool((-moved[:, 0] > least * length).all())
    assert bool((norm(last.image - images) <= length * 1.0001).all())
    true = -last.image.flatten(1)[:, 0]
    assert bool((last.distance >= true * 0.9999).all())  # a confirmed point is never too near
    assert bool((last.distance < true * 1.1).all())
    assert [state.iteration for state in states] == list(range(1, plan.iterations + 1))


def test_eq_4_at_the_boundary_point_is_the_normal() -> None:
    # Q Gaussian probes in D dimensions: cosine about sqrt(2/pi) / sqrt(2/pi + D/Q) = 0.97.
    plan = replace(CHEAP, iterations=1, probes=400, queries=2000, subspace="full")
    images = torch.zeros(3, 1, 1, DIMENSIONS)
    images[..., 0] = torch.tensor([-0.5, -1.0, -2.0])[:, None, None]
    last, _, _ = ascended(half_space(UNIT[0], 0.0), images, drawn(20, seed=1), plan)
    moved = (images - last.image).flatten(1)
    assert norm(moved).tolist() == pytest.approx([0.5] * 3, abs=1e-4)
    assert bool((moved[:, 0] / 0.5 > 0.93).all())
    assert last.spent.min() >= 400


@BOTH
def test_among_prototypes_true_distances_grow(plan: AscentPlan) -> None:
    points = 3 * UNIT[:5]
    teacher, images = nearest_of(points), drawn(10, scale=0.3)
    own = teacher.labels(images)
    last, states, _ = ascended(teacher, images, drawn(40, seed=1), replace(plan, step=0.2))
    first = margin(images, points, own)
    true = [margin(state.image, points, own) for state in states]
    assert bool((true[0] > 0).all())
    assert true[-1].mean() > first.mean() + 0.5 * 0.2 * plan.iterations  # one plane alone: 1.0
    means = [first.mean(), *(t.mean() for t in true)]
    assert all(b > a for a, b in pairwise(means))
    for state in states:  # what is kept was confirmed: a point across, never too near
        there = teacher.labels(state.walk.point)
        assert bool((there != own).all())
        assert bool((state.distance >= margin(state.image, points, own) - 1e-4).all())
        assert torch.allclose(state.distance, norm(state.walk.point - state.image))
    assert torch.equal(teacher.labels(last.image), own)


def test_it_comes_to_rest_where_nothing_can_be_gained() -> None:
    # Between the planes x0 > 1 and x0 < -1 the middle is 0: no distance beyond 1 is possible.
    teacher = function(
        lambda x: 1 + (x[:, 0, 0, 0] > 1).long() - (x[:, 0, 0, 0] < -1).long(),
        classes=3,
        bounds=(-5.0, 5.0),
    )
    plan = replace(CHEAP, iterations=60, step=0.2, patience=5, queries=10_000)
    images = drawn(3, scale=0.1)
    images[..., 0] = torch.tensor([0.9, -0.7, 0.5])[:, None, None]
    others = drawn(20, seed=1)
    others[:, ..., 0] = torch.where(torch.arange(20) % 2 == 0, 2.0, -2.0)[:, None, None]
    last, states, _ = ascended(teacher, images, others, plan)
    assert last.status.tolist() == [Ending.CONVERGED] * 3
    assert bool((last.image[:, 0, 0, 0].abs() < 0.45).all())
    assert len(states) < 60


def test_images_stay_within_the_bounds_and_stop_in_a_corner() -> None:
    teacher = half_space(UNIT[0], 0.5, (0.0, 1.0))
    images = torch.full((2, 1, 1, DIMENSIONS), 0.4)
    others = torch.full((3, 1, 1, DIMENSIONS), 0.9)
    plan = replace(CHEAP, iterations=30, step=0.3, patience=4)
    last, states, _ = ascended(teacher, images, others, plan)
    for state in states:
        assert 0 <= float(state.image.min()) <= float(state.image.max()) <= 1
        assert 0 <= float(state.walk.point.min()) <= float(state.walk.point.max()) <= 1
    assert last.status.tolist() == [Ending.CONVERGED] * 2
    assert bool((last.image[:, 0, 0, 0] < 0.02).all())  # the true distance is 0.5 - x0
    assert bool(((last.distance > 0.48) & (last.distance < 0.7)).all())


@pytest.mark.parametrize(
    "plan",
    [pytest.param(CHEAP, id="cheap"), pytest.param(PAPER, id="paper", marks=pytest.mark.slow)],
)
def test_a_row_depends_on_neither_neighbours_nor_place(plan: AscentPlan) -> None:
    teacher = nearest_of(3 * UNIT[:4])
    images, others = drawn(5, scale=0.5), drawn(25, seed=1)
    plan = replace(plan, iterations=3, queries=700)  # some rows reach it earlier than others
    together, _, _ = ascended(teacher, images, others, plan)
    backwards, _, _ = ascended(teacher, images.flip(0), others, plan)
    for row in range(5):
        alone, _, _ = ascended(teacher, images[row : row + 1], others, plan)
        for state, at in ((alone, 0), (backwards, 4 - row)):
            assert torch.equal(state.image[at], together.image[row])
            assert torch.equal(state.walk.point[at], together.walk.point[row])
            assert state.spent[at] == together.spent[row]
            assert state.status[at] == together.status[row]


@st.composite
def plans(draw: st.DrawFn) -> AscentPlan:
    return AscentPlan(
        starts=draw(st.integers(1, 6)),
        iterations=draw(st.integers(1, 4)),
        queries=draw(st.integers(1, 200)),
        search=draw(st.integers(1, 80)),
        restart_every=draw(st.integers(0, 2)),
        walk_steps=draw(st.integers(1, 2)),
        walk_probes=draw(st.integers(1, 20)),
        probes=draw(st.sampled_from([0, 1, 15])),
        step=draw(st.sampled_from([0.05, 0.5, 4.0])),
        halvings=draw(st.integers(0, 4)),
        descent=draw(st.sampled_from(["cgba_h", "sign_opt"])),
        subspace=draw(st.sampled_from(["dct", "full", "sweep"])),
    )


@settings(max_examples=25, deadline=None)
@given(plan=plans(), seed=st.integers(0, 1000))
def test_accounts_balance_and_no_limit_is_exceeded_by_even_one(plan: AscentPlan, seed: int) -> None:
    teacher = nearest_of(2 * UNIT[:4])
    images, others = drawn(4, seed), drawn(8, seed + 1)
    last, states, meter = ascended(teacher, images, others, plan, seed)
    assert meter.spent == int(last.spent.sum())
    assert int(last.spent.max()) <= plan.queries
    before = torch.zeros_like(last.spent)
    most = plan.search + plan.probes + 2 + plan.halvings + 30
    for state in states:
        assert bool((state.spent >= before).all())
        assert bool((state.spent - before <= most).all())
        before = state.spent
    own = teacher.labels(images)
    assert torch.equal(teacher.labels(last.image), own)  # an image is never left without its class


@BOTH
def test_the_limit_is_reached_and_said(plan: AscentPlan) -> None:
    plan = replace(plan, queries=150)
    last, _, meter = ascended(nearest_of(3 * UNIT[:4]), drawn(5), drawn(25, seed=1), plan)
    assert set(last.status.tolist()) == {Ending.LIMIT}
    assert 146 < int(last.spent.min()) <= int(last.spent.max()) <= 150
    assert meter.spent == int(last.spent.sum())


def test_a_stopped_ascent_goes_on_to_the_same_end() -> None:
    teacher, images, others = nearest_of(3 * UNIT[:4]), drawn(3), drawn(25, seed=1)
    whole, states, _ = ascended(teacher, images, others, CHEAP)
    answers = teacher.labels(others)
    again = ascend(teacher, states[2], others, answers, CHEAP, seed=0)
    assert torch.equal(again.image, whole.image)
    assert torch.equal(again.spent, whole.spent)


def test_a_budget_ends_it_and_the_last_state_is_there() -> None:
    teacher, images, others = nearest_of(3 * UNIT[:4]), drawn(3), drawn(25, seed=1)
    meter, states = Meter(teacher, Budget(queries=1400)), []
    own, answers = teacher.labels(images), teacher.labels(others)
    with pytest.raises(BudgetExhausted):
        ascend(
            meter, begin(images, own, CHEAP), others, answers, CHEAP, seed=0, after=states.append
        )
    assert 0 < int(states[-1].spent.sum()) <= meter.spent <= 1400


def test_without_another_class_nothing_is_asked() -> None:
    teacher = function(lambda x: torch.zeros(len(x)).long(), classes=3, bounds=WIDE)
    last, states, meter = ascended(teacher, drawn(3), drawn(5, seed=1), CHEAP)
    assert last.status.tolist() == [Ending.NO_START] * 3
    assert (meter.spent, len(states)) == (0, 1)
    assert torch.equal(last.image, drawn(3))
    assert bool(torch.isinf(last.distance).all())


@dataclass
class Fickle:
    """After so many images it calls everything class 1."""

    inner: Teacher
    patience: int
    seen: int = field(default=0)

    @property
    def classes(self) -> int:
        return self.inner.classes

    @property
    def bounds(self) -> tuple[float, float]:
        return self.inner.bounds

    def labels(self, images: Tensor, /) -> Tensor:
        self.seen += len(images)
        if self.seen > self.patience:
            return torch.ones(len(images)).long()
        return self.inner.labels(images)


@pytest.mark.parametrize("patience", [0, 30, 700, 1000])
@BOTH
def test_a_class_that_vanishes_is_a_status(plan: AscentPlan, patience: int) -> None:
    inner = half_space(UNIT[0], 0.0)
    images = drawn(3, scale=0.3)
    images[..., 0] = -0.5
    others = drawn(10, seed=1)
    answers = inner.labels(others)
    fickle = Fickle(inner, patience)
    state = begin(images, torch.zeros(3).long(), plan)
    last = ascend(fickle, state, others, answers, plan, seed=0)
    assert last.status.tolist() == [Ending.LOST] * 3
    assert fickle.seen == int(last.spent.sum())
    assert torch.equal(inner.labels(last.image), torch.zeros(3).long())


@BOTH
def test_a_class_that_vanishes_just_before_a_step_is_noticed_by_that_step(plan: AscentPlan) -> None:
    inner = half_space(UNIT[0], 0.0)
    images = -0.5 * UNIT[:1].expand(3, -1).reshape(3, 1, 1, -1)
    others, plan = drawn(10, seed=1), replace(plan, iterations=1)
    calm, _, meter = ascended(inner, images, others, plan)
    fickle = Fickle(inner, meter.spent - 3)  # the last question is the step of all three rows
    state = begin(images, torch.zeros(3).long(), plan)
    last = ascend(fickle, state, others, inner.labels(others), plan, seed=0)
    assert calm.status.tolist() == [Ending.GROWING] * 3
    assert last.status.tolist() == [Ending.LOST] * 3
    assert torch.equal(last.image, images)
    assert fickle.seen == int(last.spent.sum())


def test_sizes_need_not_be_even() -> None:
    shape = (1, 13, 17)
    weights = torch.randn(3, 13 * 17, generator=Generator().manual_seed(0))
    teacher = linear(weights, -weights.sum(1) / 2, (0.0, 1.0))
    starts = find_starts(teacher, shape, 3, most=2000, draw=Generator().manual_seed(1))
    assert starts.found.tolist() == [3, 3, 3]
    for subspace in ("dct", "sweep", "bilinear"):
        plan = replace(CHEAP, iterations=3, subspace=subspace)
        last, states, _ = ascended(teacher, starts.images, starts.images, plan)
        assert last.image.shape == (9, *shape)
        assert states[-1].distance.mean() > states[0].distance.mean()


def test_wrong_input_is_said() -> None:
    teacher = half_space(UNIT[0], 0.0)
    with pytest.raises(InputError, match="2 images need as many"):
        begin(drawn(2), torch.zeros(3).long(), CHEAP)
    state = begin(drawn(2), torch.zeros(2).long(), CHEAP)
    with pytest.raises(InputError, match="cannot serve"):
        ascend(teacher, state, drawn(4), torch.zeros(3).long(), CHEAP, seed=0)
    with pytest.raises(InputError, match="at least 1"):
        find_starts(teacher, (1, 1, 4), 0, most=10, draw=Generator())


@pytest.mark.slow
def test_the_cheap_way_costs_a_fiftieth_of_the_papers() -> None:
    assert AscentPlan().queries * 50 <= paper_ascent().iterations * paper_ascent().search
    last, _, _ = ascended(nearest_of(3 * UNIT[:4]), drawn(4), drawn(25, seed=1), AscentPlan())
    assert int(last.spent.max()) <= AscentPlan().queries
    assert int(last.status.max()) < Ending.LOST
    assert last.iteration > 10


# Starts.


def found(teacher: Teacher, wanted: int, most: int, seed: int = 0, **more: object) -> Starts:
    draw = Generator().manual_seed(seed)
    prior = more.get("prior")
    assert prior is None or callable(prior)
    meter = Meter(teacher, Budget(queries=most))
    starts = find_starts(meter, (1, 8, 8), wanted, most=most, draw=draw, prior=prior)
    assert starts.queries == meter.spent <= most
    assert torch.equal(teacher.labels(starts.images), starts.teacher_labels)
    assert torch.equal(
        torch.bincount(starts.teacher_labels, minlength=teacher.classes), starts.found
    )
    assert bool((starts.found <= wanted).all())
    return starts


def bands(edges: list[float], classes: int) -> Teacher:
    """The class of an image is how many of the edges its mean is above."""
    return function(
        lambda x: (x.flatten(1).mean(1)[:, None] > torch.tensor(edges)).sum(1), classes=classes
    )


def test_every_class_is_found_and_no_more_is_kept_than_wanted() -> None:
    starts = found(bands([0.3, 0.6], 3), 7, 5000)
    assert starts.found.tolist() == [7, 7, 7]
    assert starts.missing.tolist() == []
    assert starts.queries <= 300


def test_one_class_for_everything_ends_soon() -> None:
    teacher = function(lambda x: torch.full((len(x),), 2), classes=5)
    starts = found(teacher, 4, 10**6)
    assert starts.found.tolist() == [0, 0, 4, 0, 0]
    assert starts.missing.tolist() == [0, 1, 3, 4]
    assert starts.queries <= 1000


def test_a_hundred_classes_of_which_noise_hits_three() -> None:
    starts = found(bands([0.3, 0.6], 100), 5, 10**6)
    assert starts.found[:3].tolist() == [5, 5, 5]
    assert starts.missing.tolist() == list(range(3, 100))
    assert starts.queries < 5000


def test_segments_meet_third_classes_that_nothing_drawn_hits() -> None:
    # The prior is grey, 0.1 or 0.9 all over; class 1 is medium grey all over, between the two.
    def prior(count: int, draw: Generator) -> Tensor:
        bright = torch.rand(count, 1, 1, 1, generator=draw) > 0.5
        return torch.where(bright, 0.9, 0.1).expand(count, 1, 8, 8).clone()

    def grey(x: Tensor) -> Tensor:
        mean, even = x.flatten(1).mean(1), x.flatten(1).std(1) < 0.02
        third = torch.where(even & ((mean - 0.5).abs() < 0.1), 1, torch.where(mean > 0.5, 2, 0))
        return torch.where(even, third, 3)

    starts = found(function(grey, classes=4), 5, 4000, prior=prior)
    assert starts.found.tolist() == [5, 5, 5, 5]


def test_a_prior_is_asked_where_noise_is_not_enough() -> None:
    def prior(count: int, draw: Generator) -> Tensor:
        images = torch.zeros(count, 1, 8, 8)
        images[:, :, :4] = torch.rand(count, 1, 1, 1, generator=draw) + 0.01
        return images.clamp(0, 1)

    teacher = function(
        lambda x: (x[:, 0, :4].mean((1, 2)) > x[:, 0, 4:].mean((1, 2)) + 0.3).long(), classes=2
    )
    assert found(teacher, 5, 2000).missing.tolist() == [1]
    assert found(teacher, 5, 2000, prior=prior).found.tolist() == [5, 5]


@settings(max_examples=25, deadline=None)
@given(most=st.integers(0, 700), wanted=st.integers(1, 30), seed=st.integers(0, 99))
def test_starts_never_cost_more_than_allowed(most: int, wanted: int, seed: int) -> None:
    first = found(bands([0.05, 0.5], 4), wanted, most, seed)
    again = found(bands([0.05, 0.5], 4), wanted, most, seed)
    assert torch.equal(first.images, again.images)


def test_noise_fills_its_bounds() -> None:
    images = noise(50, (2, 5, 3), Generator().manual_seed(0), (-2.0, 6.0))
    assert images.shape == (50, 2, 5, 3)
    assert float(images.min()) == -2.0
    assert float(images.max()) == 6.0
    assert float(ordered_scores(images, torch.ones(1, 30), torch.zeros(1)).std()) > 10
