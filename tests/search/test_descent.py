import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from closed_form import WIDE, ball, half_space
from db3kd.config.settings import Budget
from db3kd.search.boundary import Leaves, Reaches, asker, norm
from db3kd.search.descent import (
    ArsOpt,
    CgbaH,
    Descent,
    Full,
    HopSkipJump,
    SignOpt,
    Sweep,
    Ttba,
    Walk,
    descend,
)
from db3kd.search.descent.tangent import pressed
from db3kd.search.descent.walk import Noise
from db3kd.teachers import function
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter

DIMENSIONS = 32
UNIT = torch.eye(DIMENSIONS)


DESCENTS: tuple[Descent, ...] = (
    SignOpt(probes=100),
    CgbaH(),
    HopSkipJump(probes=100),
    Ttba(),
    ArsOpt(),
)
RIVALS = DESCENTS[1:]


def name(descent: Descent) -> str:
    return type(descent).__name__


every_descent = pytest.mark.parametrize("descent", DESCENTS, ids=name)
every_rival = pytest.mark.parametrize("descent", RIVALS, ids=name)


def noise(seed: int = 0, dimensions: int = DIMENSIONS) -> Noise:
    def draw(step: int, before: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + step)
        return torch.randn(count, 1, 1, dimensions, generator=generator)

    return draw


def start(*rows: Tensor, limit: int = 1500) -> Walk:
    point = torch.stack(rows).reshape(len(rows), 1, 1, -1)
    nothing = torch.zeros(len(rows), dtype=torch.long)
    return Walk.at(point, norm(point), step=0.2, spent=nothing, limit=limit)


def walked(
    teacher: Teacher, walk: Walk, *, descent: Descent | None = None, seed: int = 0
) -> tuple[Walk, Tensor, list[Walk], Meter]:
    """Walk from the origin towards class 1, with every state on the way."""
    meter, states = Meter(teacher, Budget(queries=len(walk.point) * walk.limit)), [walk]
    last, converged = descend(
        descent or SignOpt(probes=100),
        asker(meter, Reaches(torch.ones(len(walk.point)).long())),
        torch.zeros_like(walk.point),
        walk,
        noise=noise(seed),
        bounds=teacher.bounds,
        after_step=states.append,
    )
    return last, converged, states, meter


SLANTED = UNIT[0] + 2.5 * UNIT[1] - 3 * UNIT[2]  # in the half-space x0 > 0.9, at distance 4.03


def test_a_walk_starts_with_clean_books() -> None:
    walk = start(SLANTED, 2 * SLANTED, limit=70)
    assert walk.left.tolist() == [70, 70]
    assert walk.misses.tolist() == [0, 0]
    assert walk.step.tolist() == pytest.approx([0.2, 0.2])


@every_descent
def test_each_is_a_descent(descent: Descent) -> None:
    assert isinstance(descent, Descent)
    counts = [descent.probes_at(step) for step in range(500)]
    assert counts == sorted(counts)
    assert 1 <= counts[0] <= counts[-1] <= 200


@every_rival
def test_probes_grow_with_the_square_root_of_the_step_up_to_their_most(descent: Descent) -> None:
    first = descent.probes_at(0)
    assert descent.probes_at(1) == min(200, round(first * 2**0.5), descent.probes_at(10**6))
    assert type(descent)(probes=1).probes_at(99) == 1


@every_descent
@pytest.mark.parametrize("seed", range(3))
def test_half_space_and_ball_are_reached_within_one_percent(descent: Descent, seed: int) -> None:
    # From 0 to the half-space x0 > 0.9: 0.9. To the ball around 2 e1 with radius 1.5: 0.5.
    last, _, _, _ = walked(half_space(UNIT[0], 0.9), start(SLANTED), descent=descent, seed=seed)
    assert 0.9 - 1e-5 <= last.distance.item() < 0.909
    inside = 2 * UNIT[1] + 0.8 * UNIT[2] - 0.9 * UNIT[3]
    last, _, _, _ = walked(ball(2 * UNIT[1], 1.5), start(inside), descent=descent, seed=seed)
    assert 0.5 - 1e-5 <= last.distance.item() < 0.505


@every_descent
def test_every_state_is_confirmed_nearer_and_paid_for(descent: Descent) -> None:
    teacher = half_space(UNIT[0], 0.9)
    last, _, states, meter = walked(
        teacher, start(SLANTED, 2 * SLANTED, limit=900), descent=descent
    )
    assert len(states) > 5
    for before, after in itertools.pairwise(states):
        assert bool((after.distance <= before.distance).all())
        assert bool((after.spent >= before.spent).all())
        assert bool((after.spent <= 900).all())
        assert bool((teacher.labels(after.point) == 1).all())
        assert torch.equal(after.distance, norm(after.point))
    assert meter.spent == int(last.spent.sum())


@every_descent
@pytest.mark.parametrize("limit", [*range(1, 20), 33, 40, 41, 42, 50, 101, 333])
def test_a_limit_is_never_exceeded_not_even_by_one(descent: Descent, limit: int) -> None:
    teacher = half_space(UNIT[0], 0.9)
    last, _, _, meter = walked(teacher, start(SLANTED, limit=limit), descent=descent)
    assert meter.spent == last.spent.item() <= limit
    if limit >= 4:
        assert last.spent.item() > 0


@every_descent
def test_a_row_that_gains_nothing_stops_after_its_patience(descent: Descent) -> None:
    # Across is only the start itself and its close surroundings, which no candidate meets.
    point = torch.full((1, 1, 1, DIMENSIONS), 1.0)

    def island(images: Tensor) -> Tensor:
        return norm(images - point) < 1e-3

    for patience in (1, 2, 5):
        patient = type(descent)(probes=20, patience=patience)
        last, converged, states, _ = walked(
            function(island, classes=2, bounds=WIDE), start(point.flatten()), descent=patient
        )
        assert converged.tolist() == [True]
        assert last.misses.item() == patience
        gains = [a.distance.item() - b.distance.item() for a, b in itertools.pairwise(states)]
        assert all(gain <= 1e-3 * norm(point).item() for gain in gains[-patience:])


def test_a_row_at_its_limit_has_not_converged() -> None:
    last, converged, _, _ = walked(half_space(UNIT[0], 0.9), start(SLANTED, limit=120))
    assert converged.tolist() == [False]
    assert last.left.item() < 4


def test_noise_is_drawn_once_a_step_in_order_and_never_for_nothing() -> None:
    drawn: list[int] = []

    def counted(step: int, before: int, count: int) -> Tensor:
        drawn.append(step)
        assert (before, count) == (100 * step, 100)
        return noise()(step, before, count)

    asks = asker(half_space(UNIT[0], 0.9), Reaches(torch.tensor([1])))
    walk = start(SLANTED, limit=700)
    states: list[Walk] = []
    descend(
        SignOpt(probes=100), asks, torch.zeros_like(walk.point), walk, noise=counted, bounds=WIDE,
        after_step=states.append,
    )  # fmt: skip
    assert drawn == list(range(len(states)))
    drawn.clear()
    empty = start(SLANTED, limit=3)
    after, converged = descend(
        SignOpt(), asks, torch.zeros_like(walk.point), empty, noise=counted, bounds=WIDE,
        after_step=states.append,
    )  # fmt: skip
    assert (drawn, after.spent.tolist(), converged.tolist()) == ([], [0], [False])
    assert torch.equal(after.point, empty.point)


COLUMNS = ("point", "distance", "step", "spent", "misses", "memory")


@every_descent
def test_a_step_leaves_other_rows_and_its_arguments_alone(descent: Descent) -> None:
    walk = start(SLANTED, 2 * SLANTED)
    kept = [getattr(walk, column).clone() for column in COLUMNS]
    asks = asker(half_space(UNIT[0], 0.9), Reaches(torch.tensor([1, 1])))
    origin, one = torch.zeros_like(walk.point), torch.tensor([1])
    after = descent.step(asks, origin, walk, noise()(0, 0, 50), one, WIDE)
    for column, before in zip(COLUMNS, kept, strict=True):
        assert torch.equal(getattr(walk, column), before)
        assert torch.equal(getattr(after, column)[0], before[0])
    assert after.distance[1] < walk.distance[1]
    assert after.spent[1] > 0
    assert int(norm(origin).sum()) == 0


@every_descent
@pytest.mark.parametrize("seed", range(3))
def test_leaving_finds_the_nearest_side_of_a_slab(descent: Descent, seed: int) -> None:
    # Class 1 is -0.6 < x0 < 0.8, class 0 below it, class 2 above. The nearest way out of 0 is to
    # class 0 at 0.6. Untargeted, a walk that starts in class 2 ends at 0.8, one in class 0 at 0.6.
    def slab(images: Tensor) -> Tensor:
        first = images.flatten(1)[:, 0]
        return 1 - (first <= -0.6).long() + (first >= 0.8).long()

    teacher = Meter(function(slab, classes=3, bounds=WIDE))
    rows = (0.9 * UNIT[0] + 2 * UNIT[1], -UNIT[0] + UNIT[2] - 2 * UNIT[3])
    walk = start(*rows)
    last, _ = descend(
        descent, asker(teacher, Leaves(torch.tensor([1, 1]))),
        torch.zeros_like(walk.point), walk, noise=noise(seed), bounds=WIDE,
        after_step=lambda _: None,
    )  # fmt: skip
    assert last.distance.tolist() == pytest.approx([0.8, 0.6], rel=0.01)
    assert 1 not in teacher.labels(last.point).tolist()
    assert teacher.spent == int(last.spent.sum()) + 2  # and the two of the line above


@every_descent
def test_leaving_one_class_of_two_is_reaching_the_other(descent: Descent) -> None:
    walk, teacher = start(SLANTED, 2 * SLANTED, limit=400), half_space(UNIT[0], 0.9)
    ends = [
        descend(
            descent, asker(teacher, criterion), torch.zeros_like(walk.point), walk,
            noise=noise(), bounds=WIDE, after_step=lambda _: None,
        )[0]
        for criterion in (Reaches(torch.tensor([1, 1])), Leaves(torch.tensor([0, 0])))
    ]  # fmt: skip
    assert torch.equal(ends[0].point, ends[1].point)
    assert torch.equal(ends[0].spent, ends[1].spent)


@every_descent
def test_a_line_has_no_tangent_and_stays_where_it_is(descent: Descent) -> None:
    walk = start(torch.tensor([1.0]), limit=300)
    last, _ = descend(
        descent, asker(half_space(torch.ones(1), 0.9999), Reaches(torch.tensor([1]))),
        torch.zeros_like(walk.point), walk, noise=noise(0, 1), bounds=WIDE,
        after_step=lambda _: None,
    )  # fmt: skip
    assert 0.9999 <= last.distance.item() <= 1.0


@every_descent
def test_only_points_within_the_bounds_are_shown(descent: Descent) -> None:
    shown: list[Tensor] = []

    def ask(images: Tensor) -> Tensor:
        shown.append(images.clone())
        return images.flatten(1)[:, 0] > 0.9

    point = torch.ones(DIMENSIONS)
    last, _, _, _ = walked(function(ask, classes=2), start(point, limit=800), descent=descent)
    everything = torch.cat(shown)
    assert float(everything.min()) >= 0
    assert float(everything.max()) <= 1
    assert last.distance.item() < 0.92  # of 0.9; it began at sqrt(32) = 5.66


@every_rival
def test_pixels_that_are_pressed_against_a_bound_are_not_probed(descent: Descent) -> None:
    # Only pixel 0 counts, all others are best at 0. Once they are there and the memory pushes them
    # out, probes leave them alone.
    point = torch.zeros(DIMENSIONS)
    point[0], point[1] = 0.8, 0.8
    walk = start(point, limit=400)
    memory = -torch.ones_like(walk.point)
    memory[..., :2] = 1.0
    shown: list[Tensor] = []

    def ask(images: Tensor) -> Tensor:
        shown.append(images.clone())
        return images.flatten(1)[:, 0] > 0.7

    asks = asker(function(ask, classes=2), Reaches(torch.tensor([1])))
    walk = replace(walk, memory=memory)
    drawn = noise()(0, 0, 30)
    descent.step(asks, torch.zeros_like(walk.point), walk, drawn, torch.tensor([0]), (0.0, 1.0))
    probes = next(images for images in shown if len(images) == 30).flatten(1)
    assert bool((probes[:, 2:] == 0).all())
    assert bool((probes[:, :2] != point[:2]).all())


def test_a_pixel_is_pressed_only_at_a_bound_and_outwards() -> None:
    point, push = torch.tensor([[0, 0, 1, 1, 0.5]]), torch.tensor([[-1.0, 1, 1, -1, -1]])
    assert pressed(point, push, (0.0, 1.0)).tolist() == [[True, False, True, False, False]]
    assert not pressed(point, torch.zeros_like(push), (0.0, 1.0)).any()


@every_rival
def test_low_frequencies_find_a_smooth_boundary_with_fewer_queries(descent: Descent) -> None:
    # A half-space whose normal is the mean: one of the four lowest of 256 frequencies.
    normal = torch.full((256,), 1 / 16)
    drawn = torch.randn(256, generator=torch.Generator().manual_seed(1))
    point = (2 * normal + 0.5 * drawn).reshape(1, 1, 16, 16)
    asks = asker(half_space(normal, 0.9), Reaches(torch.tensor([1])))
    ends = []
    for subspace in (Sweep(), Full()):
        walk = Walk.at(point, norm(point), step=0.2, spent=torch.tensor([0]), limit=400)
        last, _ = descend(
            descent, asks, torch.zeros_like(point), walk, bounds=WIDE, after_step=lambda _: None,
            noise=lambda step, before, count, source=subspace: source.directions(
                step, before, count, (1, 16, 16), lambda k: torch.Generator().manual_seed(k)
            ),
        )  # fmt: skip
        ends.append(last.distance.item())
    assert 0.9 <= ends[0] < ends[1]
