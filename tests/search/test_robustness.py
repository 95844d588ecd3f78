import contextlib

import msgspec.structs
import pytest
import torch
from torch import Tensor

from closed_form import WIDE, as_references, half_space, linear
from db3kd.config.methods import Metric
from db3kd.config.settings import Budget, Search, paper
from db3kd.errors import BudgetExhausted, InputError, TeacherError
from db3kd.search.robustness import References, RobustnessMap, Status, choose_references
from db3kd.search.rows import (
    boundary_distance,
    measure,
    minimal_boundary_distance,
    sample_distance,
)
from db3kd.seeds import derive_seed
from db3kd.teachers import function
from db3kd.teachers.meter import Meter

QUICK = paper(queries=300, probes=50)
INF = float("inf")


def line(*values: float) -> Tensor:
    """Images of one pixel."""
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1)


def classes(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def references(images: Tensor, answers: Tensor, rejected: list[bool]) -> References:
    return References(images, answers, torch.tensor(rejected))


def names(robustness: RobustnessMap, sample: int = 0) -> list[str]:
    return [Status(int(value)).name for value in robustness.status[sample]]


# The choice of references


def test_references_are_drawn_by_class_and_ascending() -> None:
    answers = torch.tensor([0, 1, 1, 0, 1, 1, 2])
    draw = torch.Generator().manual_seed(0)
    rows, rejected = choose_references(answers, classes=4, per_class=3, generator=draw)
    assert rows[:2].tolist() == [0, 3]
    assert rows[2:5].tolist() == sorted(rows[2:5].tolist())
    assert set(rows[2:5].tolist()) < {1, 2, 4, 5}
    assert rows[5:].tolist() == [6]
    assert rejected.tolist() == [False] * 4  # nobody said that class 3 was expected


def test_only_images_that_the_teacher_agrees_on_serve() -> None:
    answers, expected = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 0])
    rows, rejected = choose_references(
        answers, classes=4, per_class=9, generator=torch.Generator(), expected=expected
    )
    assert rows.tolist() == [0, 1]
    assert rejected.tolist() == [False, False, True, False]  # 2 was there, but called 0


def test_the_draw_is_the_generators_and_fair() -> None:
    answers = torch.zeros(10, dtype=torch.long)

    def drawn(seed: int) -> list[int]:
        draw = torch.Generator().manual_seed(seed)
        return choose_references(answers, classes=2, per_class=4, generator=draw)[0].tolist()

    assert drawn(5) == drawn(5)
    often = torch.bincount(torch.tensor([row for seed in range(200) for row in drawn(seed)]))
    assert int(often.min()) > 50  # of 80 expected for each row: 4.3 standard deviations below


def test_no_answers_give_no_references() -> None:
    rows, rejected = choose_references(
        torch.zeros(0, dtype=torch.long), classes=3, per_class=2, generator=torch.Generator()
    )
    assert (rows.tolist(), rejected.tolist()) == ([], [False] * 3)


def test_a_seed_of_several_numbers_is_stable() -> None:
    seeds = {derive_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 2) == derive_seed(1, 2) != derive_seed(12)


# Golden numbers


def test_sample_distance_by_hand() -> None:
    # 3-4-5: the nearest of class 1 is at 5 (the other at 10), class 2 at 1, class 3 has none.
    images = torch.tensor([[[[0.0, 0.0]]]])
    starts = torch.tensor([[[[6.0, 8.0]]], [[[3.0, 4.0]]], [[[0.0, 1.0]]]])
    sd = sample_distance(
        images, classes(0), references(starts, classes(1, 1, 2), [False] * 4), keep_points=True
    )
    assert sd.distance.tolist() == [[0.0, 5.0, 1.0, INF]]
    assert sd.queries.tolist() == [[0, 0, 0, 0]]
    assert names(sd) == ["OWN", "CONVERGED", "CONVERGED", "NO_REFERENCE"]
    assert sd.points is not None
    assert sd.points[0, :3].flatten(1).tolist() == [[0, 0], [3, 4], [0, 1]]
    assert (sd.metric, sd.teacher_labels.tolist(), sd.curve.shape) == ("sd", [0], (1, 4, 0))


def test_boundary_distance_by_hand() -> None:
    # On a line: class 1 beyond 0.3 and below -0.2. Tolerance 1/8.
    # Reference 1: ceil(log2(1 / 0.125)) = 3 halvings: 0.5 yes, 0.25 no, 0.375 yes -> 0.375.
    # Reference -2: asked at -0.375: yes; 2 halvings: -0.1875 no, -0.28125 yes -> 0.28125.
    # Reference 3: asked at 0.28125: no, and given up. Queries 3 + 1 + 2 + 1 = 7.
    shown: list[float] = []

    def ask(images: Tensor) -> Tensor:
        shown.extend(images.flatten().tolist())
        return (images.flatten() > 0.3) | (images.flatten() < -0.2)

    teacher = function(ask, classes=2, bounds=WIDE)
    starts = references(line(3, -2, 1), classes(1, 1, 1), [False] * 2)
    bd = boundary_distance(teacher, line(0), classes(0), starts, Search(tolerance=0.125))
    assert shown == [0.5, 0.25, 0.375, -0.375, -0.1875, -0.28125, 0.28125]
    assert bd.distance.tolist() == [[0.0, 0.28125]]
    assert bd.queries.tolist() == [[0, 7]]
    assert names(bd) == ["OWN", "CONVERGED"]
    # The limit cuts that list short: after 3 queries 0.375, after 4 still 0.375, after 6 all but
    # one; with 7 the row is finished and its limit did not matter.
    for limit, distance, status in (
        (1, 0.5, "LIMIT"),
        (2, 0.5, "LIMIT"),
        (3, 0.375, "LIMIT"),
        (4, 0.375, "LIMIT"),
        (6, 0.28125, "LIMIT"),
        (7, 0.28125, "CONVERGED"),
    ):
        search = Search(tolerance=0.125, queries=limit)
        bd = boundary_distance(teacher, line(0), classes(0), starts, search)
        assert (bd.distance[0, 1].item(), bd.queries[0, 1].item()) == (distance, limit)
        assert names(bd)[1] == status


def test_only_the_last_bracket_is_halved_down_to_the_tolerance() -> None:
    # The line of above, tolerance 1/1024. Reference 1: six halvings, to 0.3125. Reference -2: asked
    # at -0.3125: yes; six of ceil(log2(0.3125 * 1024)) = 9 halvings: (0.1953125, 0.2001953125).
    # Reference 3: no. Then the other three of the nine, none of them across.
    shown: list[float] = []

    def ask(images: Tensor) -> Tensor:
        shown.extend(images.flatten().tolist())
        return (images.flatten() > 0.3) | (images.flatten() < -0.2)

    teacher = function(ask, classes=2, bounds=WIDE)
    starts = references(line(3, -2, 1), classes(1, 1, 1), [False] * 2)
    bd = boundary_distance(teacher, line(0), classes(0), starts, Search(tolerance=2.0**-10))
    assert shown[:7] == [0.5, 0.25, 0.375, 0.3125, 0.28125, 0.296875, -0.3125]
    assert shown[7:12] == [-0.15625, -0.234375, -0.1953125, -0.21484375, -0.205078125]
    assert shown[12:14] == [-0.2001953125, 0.2001953125]
    assert shown[14:] == pytest.approx([-0.1977539, -0.1989746, -0.1995850])
    assert bd.distance.tolist() == [[0.0, 0.2001953125]]
    assert (bd.queries.tolist(), names(bd)) == ([[0, 17]], ["OWN", "CONVERGED"])
    for limit in (14, 16):  # one or more of the last three are missing
        search = Search(tolerance=2.0**-10, queries=limit)
        bd = boundary_distance(teacher, line(0), classes(0), starts, search)
        assert (bd.queries.tolist(), names(bd)) == ([[0, limit]], ["OWN", "LIMIT"])


def test_a_reference_nearer_than_the_tolerance_costs_nothing() -> None:
    teacher = function(lambda images: images.flatten() > 0.3, classes=2)
    starts = references(line(0.31), classes(1), [False] * 2)
    bd = boundary_distance(teacher, line(0.29), classes(0), starts, Search(tolerance=0.05))
    assert bd.distance[0, 1].item() == pytest.approx(0.02)
    assert bd.queries.tolist() == [[0, 0]]


def test_the_curve_is_the_best_at_each_checkpoint() -> None:
    normal = torch.zeros(16)
    normal[0] = 1
    teacher = half_space(normal, 1.0)
    start = references((3 * torch.ones(1, 1, 4, 4)), classes(1), [False] * 2)
    search = Search(queries=600, probes=50, checkpoints=(1, 90, 200, 600))
    maps = measure(teacher, torch.zeros(1, 1, 4, 4), classes(0), start, search, noise_seed=0)
    sd, bd, mbd = (maps[m].distance[0, 1].item() for m in ("sd", "bd", "mbd"))
    assert maps["sd"].curve[0, 1].tolist() == [sd] * 4  # 12
    spent = maps["bd"].queries[0, 1].item()
    assert 1 < spent < 90
    assert maps["bd"].curve[0, 1].tolist() == [6.0, bd, bd, bd]  # one halving of 12 by query 1
    curve = maps["mbd"].curve[0, 1].tolist()
    assert curve[0] == 6.0
    assert bd >= curve[1] > curve[2] > curve[3] == mbd
    assert maps["mbd"].curve[0, 0].tolist() == [0.0] * 4


# How a row ends


def test_every_status_has_its_situation() -> None:
    # Class = floor(x), samples at 0.5; class 1 has a start, class 2 was called otherwise, class 3
    # has no image at all.
    teacher = function(lambda images: images.flatten().floor().long(), classes=4, bounds=(0.0, 4.0))
    starts = references(line(1.5), classes(1), [False, False, True, False])
    images = line(0.5, 0.5)
    own = teacher.labels(images)
    maps = measure(teacher, images, own, starts, QUICK, noise_seed=0, expected=classes(0, 1))
    for metric in ("sd", "bd", "mbd"):
        found = maps[metric]
        assert names(found, 0) == ["OWN", "CONVERGED", "REFERENCE_REJECTED", "NO_REFERENCE"]
        assert names(found, 1) == ["OWN"] + ["SAMPLE_REJECTED"] * 3
        assert found.distance[:, 2:].tolist() == [[INF, INF]] * 2
        assert (found.distance[1, 0].item(), found.distance[1, 1].item()) == (0.0, INF)
        assert int(found.queries[1].sum()) == 0
    assert maps["mbd"].distance[0, 1].item() == pytest.approx(0.5, abs=1e-4)
    short = msgspec.structs.replace(QUICK, queries=5)
    maps = measure(teacher, images, own, starts, short, noise_seed=0)
    assert [names(maps[metric])[1] for metric in ("sd", "bd", "mbd")] == [
        "CONVERGED", "LIMIT", "LIMIT"
    ]  # fmt: skip
    assert names(maps["mbd"], 1)[1] == "LIMIT"  # without an expectation nothing is left out


def test_the_own_class_is_what_the_teacher_says_not_what_was_expected() -> None:
    teacher = function(lambda images: images.flatten() > 0.5, classes=2)
    starts = as_references(teacher, line(0.1, 0.9))
    found = measure(
        teacher, line(0.8), classes(1), starts, QUICK, noise_seed=0, expected=classes(0)
    )["mbd"]
    assert names(found) == ["SAMPLE_REJECTED", "OWN"]
    assert found.distance.tolist() == [[INF, 0.0]]


def test_a_sample_identical_with_a_start_is_at_distance_zero() -> None:
    # A noisy or batch-dependent teacher may call two copies of an image differently.
    shown: list[Tensor] = []

    def ask(images: Tensor) -> Tensor:
        shown.append(images.clone())
        return images.flatten(1)[:, 0] > 0.5

    image = torch.full((1, 1, 2, 2), 0.3)
    starts = references(torch.cat([image, image]), classes(1, 1), [False] * 2)
    found = measure(function(ask, classes=2), image, classes(0), starts, QUICK, noise_seed=0)["mbd"]
    assert found.distance.tolist() == [[0.0, 0.0]]
    assert all(bool(torch.isfinite(images).all()) for images in shown)


# Sizes at the edge


def test_zero_samples_give_empty_maps() -> None:
    teacher = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    starts = as_references(teacher, torch.ones(2, 1, 2, 2))
    for metric, found in measure(
        teacher, torch.zeros(0, 1, 2, 2), classes(), starts,
        msgspec.structs.replace(QUICK, checkpoints=(10,)), noise_seed=0, keep_points=True,
    ).items():  # fmt: skip
        assert (found.metric, found.distance.shape, found.curve.shape) == (
            metric,
            (0, 2),
            (0, 2, 1),
        )
        assert found.points is not None
        assert found.points.shape == (0, 2, 1, 2, 2)


def test_without_any_reference_nothing_is_found_and_nothing_asked() -> None:
    def ask(_: Tensor) -> object:
        raise AssertionError("asked")

    nothing = references(torch.zeros(0, 1, 2, 2), classes(), [False, False, True])
    found = measure(
        function(ask, classes=3), torch.zeros(2, 1, 2, 2), classes(0, 2), nothing, QUICK,
        noise_seed=0,
    )["mbd"]  # fmt: skip
    assert names(found, 0) == ["OWN", "NO_REFERENCE", "REFERENCE_REJECTED"]
    assert names(found, 1) == ["NO_REFERENCE", "NO_REFERENCE", "OWN"]
    assert found.distance.tolist() == [[0.0, INF, INF], [INF, INF, 0.0]]


def test_a_hundred_classes_with_few_references() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(100, 6, generator=draw)
    teacher = Meter(linear(weights, torch.zeros(100)))
    starts = as_references(teacher, torch.randn(12, 1, 2, 3, generator=draw))
    images = torch.randn(2, 1, 2, 3, generator=draw)
    own = teacher.labels(images)
    before = teacher.spent
    found = measure(teacher, images, own, starts, Search(queries=80, probes=20), noise_seed=1)[
        "mbd"
    ]
    present = set(starts.answers.tolist())
    for sample in range(2):
        for k in range(100):
            finite = bool(torch.isfinite(found.distance[sample, k]))
            assert finite == (k in present or k == int(own[sample]))
    assert teacher.spent - before == int(found.queries.sum()) > 0


def test_images_are_not_written_to() -> None:
    teacher = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    images, starts = torch.zeros(2, 1, 2, 2), as_references(teacher, torch.ones(2, 1, 2, 2))
    own = classes(0, 0)
    found = measure(teacher, images, own, starts, QUICK, noise_seed=0, keep_points=True)["mbd"]
    assert found.points is not None
    assert (int(images.sum()), int(starts.images.sum()), own.tolist()) == (0, 8, [0, 0])


def test_double_precision_images_are_measured_or_refused() -> None:
    teacher = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    starts = references(torch.ones(1, 1, 2, 2).double(), classes(1), [False] * 2)
    images = torch.zeros(1, 1, 2, 2).double()
    with contextlib.suppress(InputError):
        found = measure(teacher, images, classes(0), starts, QUICK, noise_seed=0)["mbd"]
        assert found.distance[0, 1].item() == pytest.approx(0.5, rel=0.01)


# What cannot work


@pytest.mark.parametrize(
    ("images", "own", "expected", "says"),
    [
        (torch.zeros(2, 1, 2, 2), classes(0), None, "2 images need as many answers, got 1"),
        (torch.zeros(1, 1, 2, 2), classes(0), classes(0, 0), "1 images"),
        (torch.zeros(1, 1, 3, 3), classes(0), None, r"\(1, 2, 2\).*\(1, 3, 3\)"),
        (torch.zeros(1, 3, 2, 2), classes(0), None, r"\(1, 2, 2\).*\(3, 2, 2\)"),
        (torch.zeros(1, 1, 2, 2), classes(2), None, "within the 2 classes"),
        (torch.zeros(1, 1, 2, 2), classes(-1), None, "within the 2 classes"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_a_query(
    images: Tensor, own: Tensor, expected: Tensor | None, says: str
) -> None:
    def ask(_: Tensor) -> object:
        raise AssertionError("asked")

    starts = references(torch.ones(1, 1, 2, 2), classes(1), [False] * 2)
    teacher = function(ask, classes=2)
    mismatch = {len(images), len(own), len(own if expected is None else expected)} != {len(images)}
    # Where two axes called `sample` differ, the shape check of the tests speaks first.
    error = Exception if mismatch else InputError
    with pytest.raises(error, match=None if mismatch else says):
        measure(teacher, images, own, starts, QUICK, noise_seed=0, expected=expected)


def test_a_search_that_cannot_be_is_refused() -> None:
    teacher = function(lambda images: images.flatten() > 0.5, classes=2)
    starts = references(line(1), classes(1), [False] * 2)
    for search in (Search(queries=0), Search(tolerance=0.0), Search(checkpoints=(0,))):
        with pytest.raises(InputError, match="Search"):
            measure(teacher, line(0), classes(0), starts, search, noise_seed=0)
        with pytest.raises(InputError, match="Search"):
            boundary_distance(teacher, line(0), classes(0), starts, search)


def test_references_of_other_classes_than_the_teachers_are_refused() -> None:
    teacher = function(lambda images: images.flatten().long(), classes=3, bounds=(0.0, 3.0))
    starts = references(line(1), classes(1), [False] * 2)
    with pytest.raises(InputError, match="classes"):
        measure(teacher, line(0), classes(0), starts, QUICK, noise_seed=0)


def test_an_exhausted_budget_and_a_failing_teacher_come_through() -> None:
    def ask(images: Tensor) -> Tensor:
        if len(images) and float(images.max()) < 0.6:
            raise ConnectionError("gone")
        return images.flatten() > 0.5

    teacher = function(ask, classes=2)
    starts = references(line(1), classes(1), [False] * 2)
    with pytest.raises(TeacherError, match="gone"):
        measure(teacher, line(0), classes(0), starts, QUICK, noise_seed=0)
    bright = function(lambda images: images.flatten() > 0.5, classes=2)
    with pytest.raises(BudgetExhausted):
        measure(Meter(bright, Budget(queries=5)), line(0), classes(0), starts, QUICK, noise_seed=0)


# One pass or three


def test_one_pass_gives_what_each_metric_gives_alone() -> None:
    draw = torch.Generator().manual_seed(3)
    teacher = linear(torch.randn(3, 8, generator=draw), torch.zeros(3))
    starts = as_references(teacher, torch.randn(12, 1, 2, 4, generator=draw))
    images = torch.randn(3, 1, 2, 4, generator=draw)
    own = teacher.labels(images)
    meters = [Meter(teacher) for _ in range(4)]
    maps = measure(meters[0], images, own, starts, QUICK, noise_seed=5)
    bd = boundary_distance(meters[1], images, own, starts, QUICK)
    mbd = minimal_boundary_distance(meters[2], images, own, starts, QUICK, noise_seed=5)
    alone: dict[Metric, RobustnessMap] = {
        "sd": sample_distance(images, own, starts),
        "bd": bd,
        "mbd": mbd,
    }
    for metric, found in alone.items():
        assert torch.equal(found.distance, maps[metric].distance)
        assert torch.equal(found.queries, maps[metric].queries)
        assert torch.equal(found.status, maps[metric].status)
    assert meters[0].spent == meters[2].spent == int(maps["mbd"].queries.sum())
    assert meters[1].spent == int(maps["bd"].queries.sum())
    sd_only = measure(
        meters[3], images, own, starts, msgspec.structs.replace(QUICK, metric="sd"), noise_seed=5
    )
    assert list(sd_only) == ["sd"]
    assert meters[3].spent == 0


def test_another_seed_takes_another_way() -> None:
    draw = torch.Generator().manual_seed(3)
    teacher = linear(torch.randn(2, 8, generator=draw), torch.zeros(2))
    images = torch.randn(6, 1, 2, 4, generator=draw)
    starts, own = as_references(teacher, images), teacher.labels(images)
    ways = [
        minimal_boundary_distance(teacher, images, own, starts, QUICK, noise_seed=seed).distance
        for seed in (0, 0, 1)
    ]
    assert torch.equal(ways[0], ways[1])
    assert not torch.equal(ways[0], ways[2])
