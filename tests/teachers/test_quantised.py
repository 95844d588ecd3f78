"""What the teacher really sees: searches ask for it, and their distances are of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
import torch
from torch import Tensor

from closed_form import as_references, linear
from db3kd.config.remote import Encoding, Remote
from db3kd.config.settings import AscentPlan, Grow, Search, Synthesis
from db3kd.data import TensorImages
from db3kd.errors import InputError
from db3kd.run import Run
from db3kd.search.boundary import bisect, norm
from db3kd.search.joint import plan as stages
from db3kd.search.joint.in_memory import measure_jointly
from db3kd.search.robustness import RobustnessMap, Status
from db3kd.search.rows import measure
from db3kd.synthesis import chosen
from db3kd.teachers import quantised
from db3kd.teachers.base import Bounds, Teacher
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote import remote

SHAPE = (1, 8, 8)
PNG, JPEG = Encoding(kind="png"), Encoding(kind="jpeg", quality=90)
DESCENTS = ("sign_opt", "hop_skip_jump", "cgba_h", "ttba", "ars_opt")
QUICK = Search(strategy="rows", queries=160, probes=40)


@pytest.fixture(autouse=True)
def _short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Surrogates need not know much here."""
    monkeypatch.setattr(stages, "LEAST_STEPS", 30)
    monkeypatch.setattr(stages, "MOST_STEPS", 30)
    monkeypatch.setattr(chosen, "LEAST_STEPS", 30)


@dataclass
class Watched:
    """A teacher that keeps all that it is shown, and shows its bounds as they are."""

    teacher: Teacher
    shown: list[Tensor] = field(default_factory=list)

    @property
    def classes(self) -> int:
        return self.teacher.classes

    @property
    def bounds(self) -> tuple[float, float]:
        return self.teacher.bounds

    def labels(self, images: Tensor, /) -> Tensor:
        self.shown.append(images.clone())
        return self.teacher.labels(images)

    @property
    def asked(self) -> Tensor:
        """All images so far."""
        return torch.cat(self.shown)


class Unaware(Watched):
    """The same, and nobody is told what it sees."""

    @property
    def bounds(self) -> tuple[float, float]:
        low, high = self.teacher.bounds
        return low, high


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def teacher(bounds: tuple[float, float] = (0.0, 1.0)) -> Teacher:
    """Four classes, each the largest of a linear score; the mean of an image says nothing."""
    weights = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    return linear(weights - weights.mean(1, keepdim=True), torch.zeros(4), bounds)


def images(count: int, bounds: tuple[float, float] = (0.0, 1.0), seed: int = 0) -> Tensor:
    return draw(count, *SHAPE, seed=seed) * (bounds[1] - bounds[0]) + bounds[0]


def seen(watched: Watched, asked: Tensor) -> Tensor:
    assert isinstance(watched.teacher.bounds, Bounds)
    return watched.teacher.bounds.seen(asked)


def by_rows(watched: Watched, search: Search, *, count: int = 8) -> RobustnessMap:
    """Distances to all classes; `watched` then has shown what the search asked."""
    samples = images(count, watched.bounds)
    own = watched.teacher.labels(samples)
    references = as_references(watched.teacher, images(40, watched.bounds, seed=1))
    found = measure(watched, samples, own, references, search, noise_seed=3, keep_points=True)
    return found["mbd"]


def together(watched: Watched, surrogate: str) -> RobustnessMap:
    samples = images(12)
    own = watched.teacher.labels(samples)
    search = Search(surrogate=surrogate, per_image=150, members=1)
    references = as_references(watched.teacher, images(40, seed=1))
    return measure_jointly(
        watched, samples, own, references, search, pool=TensorImages(samples), answers=own, seed=0
    )


# The teacher


def test_a_quantised_teacher_answers_for_what_is_left_of_an_image() -> None:
    plain, some = teacher(), images(200)
    eight = quantised(plain, PNG, SHAPE)
    assert eight.bounds == (0.0, 1.0)
    assert isinstance(eight.bounds, Bounds)
    assert eight.bounds.level == pytest.approx(1 / 255)
    assert torch.equal(eight.labels(some), plain.labels((some * 255).round() / 255))
    photo = quantised(plain, JPEG, SHAPE)
    once = Encoder(JPEG, SHAPE).seen(some, times=1)
    assert torch.equal(photo.labels(some), plain.labels(once))
    assert not torch.equal(photo.labels(some), plain.labels(some))


def test_a_teacher_that_is_sent_floats_sees_everything() -> None:
    same, some = quantised(teacher(), Encoding(kind="float32"), SHAPE), images(50)
    assert type(same.bounds) is tuple
    assert torch.equal(same.labels(some), teacher().labels(some))


def test_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="set up for"):
        quantised(teacher(), PNG, (1, 4, 4)).labels(images(1))


def test_a_remote_teacher_has_the_same_bounds_without_being_asked() -> None:
    pytest.importorskip("httpx2")
    for kind in ("png", "uint8"):
        settings = Remote(
            url="https://example.org", protocol="mlflow", encoding=Encoding(kind=kind)
        )
        far = remote(settings, classes=4, bounds=(-1.0, 1.0))
        assert far.bounds == (-1.0, 1.0)
        assert isinstance(far.bounds, Bounds)
        some = images(5, (-1.0, 1.0))
        assert far.bounds.level == pytest.approx(2 / 255)
        assert torch.equal(far.bounds.seen(some), Encoder(PNG, SHAPE, (-1.0, 1.0)).seen(some))
        far.close()
    settings = msgspec.structs.replace(settings, encoding=Encoding(kind="float32"))
    far = remote(settings, classes=4)
    assert type(far.bounds) is tuple
    far.close()


# Searches


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("descent", DESCENTS)
def test_a_search_row_by_row_asks_for_what_is_seen(
    descent: Any, bounds: tuple[float, float]
) -> None:
    watched = Watched(quantised(teacher(bounds), PNG, SHAPE))
    found = by_rows(watched, msgspec.structs.replace(QUICK, descent=descent))
    assert torch.equal(seen(watched, watched.asked), watched.asked)
    assert int(found.queries.sum()) == len(watched.asked)
    assert int(found.queries.max()) <= QUICK.queries
    check_points(watched, found, images(8, bounds))


@pytest.mark.parametrize("surrogate", ["none", "small"])
def test_the_search_of_all_classes_asks_for_what_is_seen(surrogate: str) -> None:
    watched = Watched(quantised(teacher(), PNG, SHAPE))
    found = together(watched, surrogate)
    assert torch.equal(seen(watched, watched.asked), watched.asked)
    assert int(found.queries.sum()) == len(watched.asked)
    check_points(watched, found, images(12))


def check_points(watched: Watched, found: RobustnessMap, samples: Tensor) -> None:
    """Points are seen as they are, have their class, and lie where their distance says."""
    assert found.points is not None
    sample, target = torch.isfinite(found.distance).nonzero(as_tuple=True)
    points, there = found.points[sample, target], seen(watched, samples)[sample]
    away = target != found.teacher_labels[sample]
    assert torch.equal(seen(watched, points[away]), points[away])
    assert torch.equal(watched.teacher.labels(points), target)
    apart = norm(points - there)[away]
    assert torch.allclose(apart, found.distance[sample, target][away], rtol=1e-6)


def test_a_run_asks_for_what_is_seen_in_every_stage(tmp_path: Path) -> None:
    own = TensorImages((images(30) * 255).to(torch.uint8))
    stages: dict[str, Any] = {
        "rows": lambda run: run.measure(own, msgspec.structs.replace(QUICK, queries=60)),
        "together": lambda run: run.measure(own, Search(per_image=80, members=1)),
        "random": lambda run: run.grow(own, Grow(per_image=5, choose="random")),
        "margin": lambda run: run.grow(own, Grow(per_image=5, choose="margin", members=1)),
    }
    for name, stage in stages.items():
        watched = Watched(quantised(teacher(), PNG, SHAPE))
        with Run(tmp_path / name, watched) as run:
            run.answers(own)
            stage(run)
            assert len(watched.asked) == run.meter.spent
        assert torch.equal(seen(watched, watched.asked), watched.asked), name


@pytest.mark.parametrize("way", ["ascent", "shapes", "noise", "chosen", "latent"])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_pseudo_samples_are_what_was_seen(
    way: Any, bounds: tuple[float, float], tmp_path: Path
) -> None:
    watched = Watched(quantised(teacher(bounds), PNG, SHAPE))
    plan = AscentPlan(samples=8, iterations=5, queries=300)
    settings = Synthesis(way=way, queries=60, members=1, ensemble_labels=0, ascent=plan)
    with Run(tmp_path / "run", watched) as run:
        run.synthesize(SHAPE, settings)
        made = run.pseudo.whole()
        assert run.meter.spent == len(watched.asked)
    kept = made.images.read(torch.arange(len(made)))
    assert torch.equal(seen(watched, watched.asked), watched.asked)
    assert torch.equal(seen(watched, kept), kept)
    assert torch.equal(watched.teacher.labels(kept), made.teacher_labels)


@pytest.mark.parametrize(
    ("encoding", "bounds"), [(PNG, (0.0, 1.0)), (PNG, (-1.0, 1.0)), (JPEG, (0.0, 1.0))]
)
def test_grown_images_are_kept_as_they_were_asked(
    encoding: Encoding, bounds: tuple[float, float], tmp_path: Path
) -> None:
    own = TensorImages((images(30) * 255).to(torch.uint8))
    watched = Watched(quantised(teacher(bounds), encoding, SHAPE))
    with Run(tmp_path / "run", watched) as run:
        run.answers(own)
        before = len(watched.asked)
        run.grow(own, Grow(per_image=4, choose="random"))
        kept = run.grown(own).images.read(torch.arange(120))
    assert torch.equal(kept, watched.asked[before:])


# JPEG


@pytest.mark.slow
def test_an_image_in_a_jpeg_search_is_hardly_changed_by_being_sent() -> None:
    """Written twice it is another image, but by less than half; the distance hardly knows."""
    encoder, samples = Encoder(JPEG, (1, 16, 16)), blots(12)
    weights = torch.randn(3, 256, generator=torch.Generator().manual_seed(1))
    plain = linear(weights - weights.mean(1, keepdim=True), torch.zeros(3), (0.0, 1.0))
    changes, errors = [], []
    for kind in (Unaware, Watched):
        watched = kind(quantised(plain, JPEG, (1, 16, 16)))
        references = as_references(watched.teacher, blots(60, seed=1))
        own = watched.teacher.labels(samples)
        found = measure(watched, samples, own, references, QUICK, noise_seed=3, keep_points=True)
        changes.append(norm(encoder.seen(watched.asked, times=1) - watched.asked).mean())
        sample, target = (found["mbd"].distance.isfinite() & ~own_class(own)).nonzero(as_tuple=True)
        assert found["mbd"].points is not None
        points = encoder.seen(found["mbd"].points[sample, target], times=1)
        true = norm(points - encoder.seen(samples, times=1)[sample])
        assert torch.equal(watched.teacher.labels(found["mbd"].points[sample, target]), target)
        errors.append(((found["mbd"].distance[sample, target] / true).log().abs()).median())
    assert changes[1] < changes[0] / 2
    assert errors[1] < 0.05


def blots(count: int, seed: int = 0) -> Tensor:
    """Smooth images with black and white parts, which JPEG rounds again and again."""
    small = draw(count, 1, 4, 4, seed=seed) * 2 - 0.5
    large: Tensor = torch.nn.functional.interpolate(small, (16, 16), mode="bilinear")
    return large.clamp(0, 1)


def own_class(own: Tensor) -> Tensor:
    return torch.arange(3) == own[:, None]


# What awareness is worth, and what it must leave alone


def bracketed(bounds: tuple[float, float], times: int) -> tuple[Any, list[tuple[int, Tensor]]]:
    """Bisect in images of two pixels, where many middles are rounded to the same image."""
    questions: list[tuple[int, Tensor]] = []

    def asks(points: Tensor, rows: Tensor) -> Tensor:
        questions.extend(zip(rows.tolist(), points.flatten(1), strict=True))
        return points.flatten(1).sum(1) > torch.tensor([0.35, 0.6, 1.21])[rows]

    start, rows = torch.zeros(3, 1, 1, 2), torch.arange(3)
    far = torch.tensor([[1.0, 0.1], [0.5, 0.5], [0.9, 0.4]]).reshape(3, 1, 1, 2)
    found = bisect(
        asks,
        start,
        far,
        near=torch.zeros(3),
        rows=rows,
        times=torch.tensor([times, times // 2, times]),
        bounds=bounds,
    )
    return found, questions


def test_a_bisection_asks_for_no_image_twice() -> None:
    encoder = Encoder(PNG, (1, 1, 2))
    aware = Bounds(0.0, 1.0, seen=encoder.seen, level=encoder.levels)
    found, questions = bracketed(aware, 24)
    for row in range(3):
        mine = [tuple(image.tolist()) for asked, image in questions if asked == row]
        assert len(mine) == len(set(mine)) == found.asked[row]
    assert int(found.asked.max()) <= 10
    best = found.point.flatten(1).sum(1) - torch.tensor([0.35, 0.6, 1.21])
    assert (best > 0).all()
    assert (best < 2.1 / 255).all()
    plain, questions = bracketed((0.0, 1.0), 24)
    assert plain.asked.tolist() == [24, 12, 24]
    assert len(questions) == 60


@pytest.mark.parametrize("descent", DESCENTS)
def test_bounds_that_hide_nothing_change_not_one_bit(descent: Any) -> None:
    class All(Watched):
        @property
        def bounds(self) -> tuple[float, float]:
            return Bounds(0.0, 1.0, seen=lambda images: images, level=0.0)

    search = msgspec.structs.replace(QUICK, descent=descent)
    one, other = by_rows(Watched(teacher()), search), by_rows(All(teacher()), search)
    for name in ("distance", "queries", "status", "curve", "points"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.slow
def test_no_distance_is_lost_where_the_teacher_rounds() -> None:
    """The same search, told what is seen, and not told: points nearer, as they are seen."""
    search = msgspec.structs.replace(QUICK, queries=600, descent="sign_opt", subspace="full")
    coarse = Coarse(teacher())
    told, untold = by_rows(Watched(coarse), search), by_rows(Unaware(coarse), search)
    found = told.status == Status.CONVERGED
    found |= told.status == Status.LIMIT
    sample = found.nonzero(as_tuple=True)[0]
    assert untold.points is not None
    samples = images(8)
    true = norm(coarse.seen(untold.points[found]) - coarse.seen(samples)[sample])
    assert told.distance[found].mean() < true.mean()


class Coarse:
    """A teacher that sees 32 grey levels."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.classes = teacher, teacher.classes
        self.bounds = Bounds(0.0, 1.0, seen=self.seen, level=1 / 31)

    def seen(self, images: Tensor) -> Tensor:
        return (images.clamp(0, 1) * 31).round() / 31

    def labels(self, images: Tensor, /) -> Tensor:
        return self.teacher.labels(self.seen(images))
