"""The search of all classes at once: accounts, confirmed points, and surrogates of every kind."""

import pytest
import torch
from torch import Tensor, nn

from closed_form import Watching, prototypes
from db3kd.config.remote import Encoding
from db3kd.config.settings import Budget, Search
from db3kd.data import TensorImages
from db3kd.errors import BudgetExhausted
from db3kd.search.boundary import as_seen, norm
from db3kd.search.joint import fitting as lessons
from db3kd.search.joint import loop
from db3kd.search.joint import rounds as joint_rounds
from db3kd.search.joint.front import Front
from db3kd.search.joint.gradients import nearest, tangent
from db3kd.search.joint.in_memory import measure_jointly
from db3kd.search.joint.proposers import DDN_STEPS, ByModel
from db3kd.search.joint.rounds import advance, allowances, others
from db3kd.search.joint.surrogate import Ensemble
from db3kd.search.robustness import References
from db3kd.teachers import function
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter
from db3kd.teachers.quantised import quantised

CLASSES, PIXELS = 4, 16
CORNERS = torch.eye(PIXELS)[:CLASSES] * 3


class Distances(nn.Module):
    """What a surrogate that knows the prototypes would say; `points` may be wrong."""

    def __init__(self, points: Tensor, sign: float = 1.0) -> None:
        super().__init__()
        self.points, self.sign = points, sign

    def forward(self, images: Tensor) -> Tensor:
        return -self.sign * torch.cdist(images.flatten(1), self.points).square()


class Constant(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), CLASSES)
        scores[:, 2] = 5.0
        return scores + 0 * images.sum()


def setting(count: int = 6) -> tuple[Meter, Front, References]:
    draw = torch.Generator().manual_seed(0)
    meter = Meter(prototypes(CORNERS))
    images = CORNERS.repeat(count, 1)[:count] + 0.3 * torch.randn(count, PIXELS, generator=draw)
    others_ = CORNERS.repeat(5, 1) + 0.3 * torch.randn(5 * CLASSES, PIXELS, generator=draw)
    known = others_.reshape(-1, 1, 4, 4)
    teacher = prototypes(CORNERS)
    references = References(known, teacher.labels(known), torch.zeros(CLASSES, dtype=torch.bool))
    origin = images.reshape(-1, 1, 4, 4)
    return meter, Front.at_references(origin, teacher.labels(origin), references), references


def truth(front: Front) -> Tensor:
    """To the half-space of each other prototype; a corner of several cells may be farther."""
    x, own = front.origin.flatten(1), CORNERS[front.teacher_labels]
    gaps = []
    for k in range(CLASSES):
        span = CORNERS[k] - own
        middle = (CORNERS[k] + own) / 2
        gaps.append(((middle - x) * span).sum(1) / span.norm(dim=1).clamp(min=1e-9))
    return torch.stack(gaps, 1)


def check(front: Front, meter: Meter, teacher: Teacher) -> None:
    """Accounts balance, and every distance is of a point that the teacher gives that class."""
    assert int(front.spent.sum()) == meter.spent
    sample, target = others(front)
    points = front.point.of(sample, target)
    assert torch.equal(teacher.labels(points), target)
    apart = norm(points - front.origin[sample])
    torch.testing.assert_close(front.distance[sample, target], apart)


def searched(surrogate: nn.Module | None, until: int = 90) -> tuple[Front, Meter]:
    meter, front, references = setting()
    for number in range(3):
        advance(
            meter, surrogate, front, references, until=until * (number + 1) // 3, first=number == 0
        )
    check(front, meter, prototypes(CORNERS))
    assert int(front.spent.sum(1).max()) <= until
    return front, meter


def ratio(front: Front) -> float:
    rows = others(front)
    return float((front.distance[rows] / truth(front)[rows]).mean())


def test_a_surrogate_is_shown_a_few_large_images_at_a_time() -> None:
    network = Watching()
    images = torch.rand(28, 1, 1, 1).expand(28, 3, 224, 224)
    wanted = torch.zeros(28, dtype=torch.int64)
    assert nearest([network], images, wanted, steps=1, bounds=(0.0, 1.0)).shape == images.shape
    assert tangent(network, images, images, wanted).shape == images.shape
    assert network.shown == [27, 1] * 2


def test_a_surrogate_that_knows_finds_the_closed_form() -> None:
    front, _ = searched(Distances(CORNERS))
    assert 0.99 < ratio(front) < 1.03


def test_it_asks_far_less_than_the_references_need() -> None:
    informed, _ = searched(Distances(CORNERS))
    plain, _ = searched(None)
    assert ratio(informed) < ratio(plain)


@pytest.mark.parametrize(
    "surrogate",
    [Constant(), Distances(CORNERS, sign=-1.0), Distances(CORNERS.roll(1, 0))],
    ids=["constant", "adversarial", "renamed"],
)
def test_a_poor_surrogate_costs_queries_never_truth(surrogate: nn.Module) -> None:
    front, _ = searched(surrogate)  # `check` is in there
    assert ratio(front) >= 0.99


class Lie(nn.Module):
    """Knows every answer, and its gradients lead away from the class that is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.truth, self.lie = Distances(CORNERS), Distances(CORNERS, sign=-1.0)
        self.weight = nn.Parameter(torch.zeros(1))  # says where it is

    def forward(self, images: Tensor) -> Tensor:
        lie = self.lie(images)
        return self.truth(images).detach() * 100 + lie - lie.detach()


class Liar(Ensemble):
    def __init__(self, *_: object, **__: object) -> None:
        nn.Module.__init__(self)
        self.members = nn.ModuleList([Lie()])


def together(surrogate: str) -> float:
    meter, front, references = setting(count=40)
    search = Search(strategy="joint", per_image=180, surrogate=surrogate)
    images = TensorImages(front.origin)
    found = measure_jointly(
        meter,
        front.origin,
        front.teacher_labels,
        references,
        search,
        pool=images,
        answers=front.teacher_labels,
        seed=0,
    )
    assert int(found.queries.sum()) == meter.spent <= 40 * 180
    front.distance[:] = found.distance
    return ratio(front)


def test_a_liar_is_found_out_after_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = together("none")
    monkeypatch.setattr(loop, "Ensemble", Liar)
    monkeypatch.setattr(lessons, "teach", lambda *_, **__: None)
    found = together("small")
    assert found <= 1.01 * alone


def test_an_answer_counts_for_the_class_it_names() -> None:
    _, front, _ = setting()
    front.distance[0, 1] = 50.0
    point = CORNERS[1].reshape(1, 1, 4, 4)
    front.learn(point.repeat(2, 1, 1, 1), torch.tensor([0, 0]), torch.tensor([1, 1]))
    assert front.distance[0, 1] == norm(point - front.origin[:1])
    assert torch.equal(front.point.all()[0, 1], point[0])


def test_of_several_answers_the_nearest_counts() -> None:
    _, front, _ = setting()
    front.distance[0, 1] = 50.0
    far, near = CORNERS[1] * 1.5, CORNERS[1] * 1.1
    points = torch.stack([far, near, far]).reshape(3, 1, 4, 4)
    front.learn(points, torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64))
    assert torch.equal(front.point.all()[0, 1].flatten(), near)


def test_images_do_not_depend_on_their_neighbours() -> None:
    whole, _ = searched(Distances(CORNERS))
    meter, front, references = setting()
    alone = Front.at_references(front.origin[2:3], front.teacher_labels[2:3], references)
    for number in range(3):
        advance(
            meter,
            Distances(CORNERS),
            alone,
            references,
            until=90 * (number + 1) // 3,
            first=number == 0,
        )
    torch.testing.assert_close(alone.distance[0], whole.distance[2])
    assert torch.equal(alone.spent[0], whole.spent[2])


@pytest.mark.parametrize("until", [0, 1, 2, 5, 13])
def test_the_allowance_is_never_exceeded(until: int) -> None:
    meter, front, references = setting()
    advance(meter, Distances(CORNERS), front, references, until=until, first=True)
    assert int(front.spent.sum(1).max()) <= until
    sample, target = others(front)
    assert int(allowances(front, sample, target, until).min()) >= 0


def test_the_budget_of_the_run_is_never_exceeded() -> None:
    _, front, references = setting()
    meter = Meter(prototypes(CORNERS), Budget(queries=40))
    with pytest.raises(BudgetExhausted):
        advance(meter, Distances(CORNERS), front, references, until=90, first=True)
    assert meter.spent <= 40


def test_a_class_without_references_can_still_be_found() -> None:
    meter, front, references = setting()
    front.distance[:, 3] = torch.inf
    front.distance[front.teacher_labels == 3, 3] = 0.0
    advance(meter, Distances(CORNERS), front, references, until=60, first=True)
    rows = front.teacher_labels != 3
    assert bool(front.distance[rows, 3].isfinite().all())


def test_ddn_and_tangent_know_a_plane() -> None:
    plane = Distances(CORNERS)
    origin = CORNERS[:1].reshape(1, 1, 4, 4)
    target = torch.tensor([1])
    wide = (-50.0, 50.0)
    exact = (CORNERS[1] - CORNERS[0]) / 2
    move = (nearest([plane], origin, target, steps=100, bounds=wide) - origin).flatten()
    torch.testing.assert_close(move.norm(), exact.norm(), rtol=0.03, atol=0.0)
    assert torch.cosine_similarity(move, exact, dim=0) > 0.9999
    point = ((CORNERS[0] + CORNERS[1]) / 2 + 0.7 * CORNERS[2]).reshape(1, 1, 4, 4)
    foot = tangent(Distances(CORNERS[:2]), origin, point, target)
    torch.testing.assert_close(foot.flatten(), (CORNERS[0] + CORNERS[1]) / 2)


def test_nearest_keeps_within_the_bounds() -> None:
    draw = torch.Generator().manual_seed(1)
    origin = torch.rand(3, 1, 4, 4, generator=draw)
    found = nearest(
        [Distances(CORNERS)], origin, torch.tensor([0, 1, 2]), steps=20, bounds=(0.0, 1.0)
    )
    assert 0 <= found.min() <= found.max() <= 1


class Heard(nn.Module):
    """A surrogate that knows, and writes into a diary how many rows it was shown."""

    def __init__(self, diary: list[tuple[str, int]]) -> None:
        super().__init__()
        self.known, self.diary = Distances(CORNERS), diary

    def forward(self, images: Tensor) -> Tensor:
        self.diary.append(("surrogate", len(images)))
        scores: Tensor = self.known(images)
        return scores


class Listening:
    """A teacher that keeps what it was shown, and writes its questions into a diary."""

    def __init__(self, teacher: Teacher, diary: list[tuple[str, int]]) -> None:
        self.teacher, self.diary = teacher, diary
        self.classes, self.bounds = teacher.classes, teacher.bounds
        self.shown: list[Tensor] = []

    def labels(self, images: Tensor, /) -> Tensor:
        self.diary.append(("teacher", len(images)))
        self.shown.append(images.clone())
        return self.teacher.labels(images)


@pytest.mark.parametrize("eight_bits", [False, True])
def test_every_probe_is_made_again_bit_by_bit(eight_bits: bool) -> None:
    _, front, references = setting()
    plain = function(prototypes(CORNERS).labels, classes=CLASSES, bounds=(-4.0, 7.0))
    encoding = Encoding(kind="png")
    teacher = quantised(plain, encoding, (1, 4, 4)) if eight_bits else plain
    front = Front.at_references(
        as_seen(front.origin, teacher.bounds), front.teacher_labels, references
    )
    listening = Listening(teacher, [])
    asked, _ = advance(listening, Distances(CORNERS), front, references, until=40, first=True)
    probes = asked.probes(front.origin, teacher.bounds)
    assert torch.equal(probes, torch.cat(listening.shown))
    assert torch.equal(teacher.labels(probes), asked.answers)
    new = asked.best >= 0
    assert int(new.sum()) > 0
    assert torch.equal(front.point.all()[new], probes[asked.best[new]])


@pytest.mark.parametrize("surrogate", [Distances(CORNERS), None], ids=["model", "references"])
def test_how_many_images_ask_together_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, surrogate: nn.Module | None
) -> None:
    whole, _ = searched(surrogate)
    monkeypatch.setattr(joint_rounds, "AT_ONCE", 1)
    alone, _ = searched(surrogate)
    torch.testing.assert_close(alone.distance, whole.distance)
    assert torch.equal(alone.spent, whole.spent)


def test_the_teacher_does_not_wait_for_the_proposals_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joint_rounds, "AT_ONCE", 2 * (CLASSES - 1) * PIXELS)  # two images
    meter, front, references = setting(count=20)
    diary: list[tuple[str, int]] = []
    advance(Listening(meter, diary), Heard(diary), front, references, until=30, first=True)
    before = diary[: next(k for k, (who, _) in enumerate(diary) if who == "teacher")]
    assert sum(rows for _, rows in before) == 2 * (CLASSES - 1) * DDN_STEPS


def test_rows_that_cannot_be_served_cost_no_proposal() -> None:
    meter, front, references = setting(count=20)
    diary: list[tuple[str, int]] = []
    advance(Listening(meter, diary), Heard(diary), front, references, until=4, first=True)
    first = next(rows for who, rows in diary if who == "surrogate")
    assert first == 20  # the nearest class of each image alone


def test_a_normal_is_asked_for_once_where_no_row_has_moved() -> None:
    _, front, _ = setting()
    wrong = Distances(CORNERS.roll(1, 0))  # its steps miss, and are halved
    sample, target = others(front)
    rows = torch.arange(len(sample))
    proposer = ByModel(wrong, front, sample, target, first=False, bounds=(-50.0, 50.0))
    lost = torch.zeros(len(rows), dtype=torch.bool)
    proposer(rows, torch.ones_like(rows), lost)
    seen: list[tuple[str, int]] = []
    proposer.model = Heard(seen)
    proposer(rows, torch.full_like(rows, 2), lost)
    assert seen == []
    front.distance[sample[0], target[0]] *= 0.9
    proposer(rows, torch.full_like(rows, 2), lost)
    assert [count for _, count in seen] == [1]


def test_later_rounds_find_a_class_that_is_not_known_yet() -> None:
    meter, front, references = setting()
    rows = front.teacher_labels != 3
    front.point.place[rows, 3], front.distance[rows, 3] = -1, torch.inf
    advance(meter, Distances(CORNERS), front, references, until=60, first=False)
    assert bool(front.distance[rows, 3].isfinite().all())


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_ddn_finds_a_plane_at_any_scale(scale: float) -> None:
    origin = scale * CORNERS[:1].reshape(1, 1, 4, 4)
    plane = Distances(scale * CORNERS)
    wide = (-50.0 * scale, 50.0 * scale)

    class Sharp(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = plane(images) / scale**2
            return scores

    found = nearest([Sharp()], origin, torch.tensor([1]), steps=DDN_STEPS, bounds=wide)
    exact = scale * (CORNERS[1] - CORNERS[0]) / 2
    move = (found - origin).flatten()
    torch.testing.assert_close(move.norm(), exact.norm(), rtol=0.1, atol=0.0)
    assert torch.cosine_similarity(move, exact, dim=0) > 0.99
