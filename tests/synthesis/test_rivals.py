"""Rivals that learn without data: what they ask, that nothing but the seed decides, and use."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from db3kd.student.networks import Shape, build
from db3kd.synthesis import chosen
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.rivals import dfms, dip_kd, disguide, generator, ideal, qedg
from db3kd.synthesis.way import Task, Way
from db3kd.teachers import function
from db3kd.teachers.base import Teacher

Make = Callable[..., Way]
WAYS: list[Make] = [dip_kd.DipKd, ideal.Ideal, qedg.Qedg, dfms.Dfms, disguide.Disguide]
every_way = pytest.mark.parametrize("make", WAYS, ids=lambda make: make.__name__)


pytestmark = pytest.mark.usefixtures("hasty_rivals")


def task_of(shape: Shape = (1, 8, 8), classes: int = 4, queries: int = 50) -> Task:
    def student(seed: int) -> nn.Module:
        return build("small", shape, classes, width=0.5, seed=seed)

    return Task(shape, classes, queries=queries, device="cpu", student=student)


def brightest_quadrant(bounds: tuple[float, float] = (0.0, 1.0)) -> Teacher:
    """Which quarter of the image is the lightest."""

    def ask(images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)

    return function(lambda images: ask(images).argmax(1), classes=4, bounds=bounds)


def pool_for(task: Task, teacher: Teacher, *, eight_bit: bool = True) -> Pool:
    return Pool(task.queries, task.shape, teacher, eight_bit=eight_bit)


def silent(what: str, done: int, total: int) -> None:
    assert 0 < done <= total, (what, done, total)


def spend(way: Way, pool: Pool, queries: int, *, seed: int = 1) -> None:
    pool.allow(queries)
    way.spend(pool, seed=seed, report=silent)


@every_way
def test_asks_exactly_what_it_may_shard_by_shard(make: Make) -> None:
    task, asked = task_of(), []
    quadrant = brightest_quadrant()

    def counting(images: Tensor) -> Tensor:
        asked.append(len(images))
        return quadrant.labels(images)

    way, pool = make(task, seed=0), pool_for(task, function(counting, classes=4))
    assert isinstance(way, Way)
    for shard, queries in enumerate((33, 1, 16)):
        spend(way, pool, queries, seed=shard)
        assert pool.rest == 0
    assert sum(asked) == len(pool) == 50
    spend(way, pool, 0)
    assert len(pool) == 50
    # Neither a constant nor one image again and again.
    assert len(pool.values.flatten(1).unique(dim=0)) > 40


@every_way
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 3.0)])
def test_images_are_within_the_bounds_and_use_them(make: Make, bounds: tuple[float, float]) -> None:
    task, seen = task_of(), []
    quadrant = brightest_quadrant(bounds)

    class Outer(Pool):
        def ask(self, images: Tensor) -> Tensor:
            seen.append(images)  # before the pool clips
            return super().ask(images)

    pool = Outer(50, task.shape, quadrant, eight_bit=False)
    spend(make(task, seed=0), pool, 50)
    images = torch.cat(seen)
    assert bounds[0] <= images.min()
    assert images.max() <= bounds[1]
    assert images.max() - images.min() > 0.5 * (bounds[1] - bounds[0])


@every_way
def test_the_seed_decides_and_the_global_generator_does_not(make: Make) -> None:
    task = task_of()

    def images(own: int, seed: int, of_the_world: int) -> Tensor:
        torch.default_generator.manual_seed(of_the_world)
        pool = pool_for(task, brightest_quadrant())
        before = torch.get_rng_state()
        with torch.no_grad():  # learning must switch gradients on by itself
            spend(make(task, seed=own), pool, 40, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return pool.values

    first = images(0, 1, 2)
    assert torch.equal(images(0, 1, 99), first)
    assert not torch.equal(images(0, 5, 2), first)
    assert not torch.equal(images(7, 1, 2), first)


@every_way
def test_a_rebuilt_way_continues_as_if_nothing_had_happened(make: Make) -> None:
    task, teacher = task_of(), brightest_quadrant()
    way, pool = make(task, seed=0), pool_for(task, teacher)
    spend(way, pool, 30, seed=1)
    kept = {name: value.clone() for name, value in way.networks.state_dict().items()}
    again = pool_for(task, teacher)
    again.add(pool.values.clone(), pool.answers.clone())

    spend(way, pool, 20, seed=2)
    rebuilt = make(task, seed=0)
    rebuilt.networks.load_state_dict(kept)
    spend(rebuilt, again, 20, seed=2)
    assert torch.equal(again.values, pool.values)
    after = way.networks.state_dict()
    for name, value in rebuilt.networks.state_dict().items():
        assert torch.equal(value, after[name]), name
    assert any(not torch.equal(kept[name], after[name]) for name in kept)  # it did learn


@every_way
def test_the_weights_matter_to_what_is_asked(make: Make) -> None:
    task = task_of()
    pools = []
    for learned in (True, False):
        way, pool = make(task, seed=0), pool_for(task, brightest_quadrant())
        spend(way, pool, 30, seed=1)
        if not learned:
            way = make(task, seed=0)  # as if its networks had not been kept
        spend(way, pool, 20, seed=2)
        pools.append(pool.values)
    assert not torch.equal(*pools)


@every_way
@pytest.mark.parametrize("answer", [0, 3])
def test_a_teacher_of_one_word_is_no_trouble(make: Make, answer: int) -> None:
    task = task_of()
    pool = pool_for(task, function(lambda images: [answer] * len(images), classes=4))
    way = make(task, seed=0)
    spend(way, pool, 25)
    spend(way, pool, 25, seed=2)
    assert pool.counts()[answer] == 50
    assert all(value.isfinite().all() for value in way.networks.state_dict().values())


@every_way
@pytest.mark.parametrize("shape", [(1, 13, 17), (3, 8, 8), (2, 16, 5)])
def test_odd_sizes_and_colours(make: Make, shape: Shape) -> None:
    task = task_of(shape, queries=20)
    pool = pool_for(task, brightest_quadrant())
    spend(make(task, seed=0), pool, 20)
    assert pool.values.shape == (20, *shape)


@every_way
def test_a_network_with_dropout_and_batch_normalisation(make: Make) -> None:
    shape = (1, 15, 15)

    def student(seed: int) -> nn.Module:
        return build("alexnet", shape, 4, width=0.01, seed=seed)

    task = Task(shape, 4, queries=17, device="cpu", student=student)
    pools = [pool_for(task, brightest_quadrant()) for _ in range(2)]
    for number, pool in enumerate(pools):
        torch.default_generator.manual_seed(number)  # dropout must not draw from it
        way = make(task, seed=0)
        spend(way, pool, 16)
        spend(way, pool, 1)  # a single image
    assert torch.equal(pools[0].values, pools[1].values)


@every_way
def test_its_student_learns_an_easy_task(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ideal, qedg, dfms, disguide):
        monkeypatch.setattr(module, "BATCH", 50)
        monkeypatch.setattr(module, "GENERATOR_STEPS", 6)
    for module, name in (
        (ideal, "STUDENT_STEPS"),
        (qedg, "STUDENT_STEPS"),
        (dfms, "CLONE_STEPS"),
        (disguide, "REPLAYS"),
    ):
        monkeypatch.setattr(module, name, 30)
    monkeypatch.setattr(chosen, "LONG_LEAST", 300)
    task, teacher = task_of(queries=300), brightest_quadrant()
    way, pool = make(task, seed=0), pool_for(task, teacher)
    spend(way, pool, 300)
    student = way.networks.get_submodule("student").eval()
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(500, 1, 4, 4, generator=draw)  # nothing that any of them was fitted to
    images = nn.functional.interpolate(coarse, size=(8, 8))
    with torch.no_grad():
        agreement = (student(images).argmax(1) == teacher.labels(images)).float().mean()
    assert agreement > 0.5, float(agreement)  # chance is 0.25


# What each of them is about


@pytest.mark.parametrize(("low", "shape"), [(0.0, (1, 8, 12)), (-1.0, (3, 9, 9))])
def test_moved_images_keep_within_the_bounds_and_differ(low: float, shape: Shape) -> None:
    draw = torch.Generator().manual_seed(0)
    light = torch.ones(64, *shape, requires_grad=True)
    made = generator.moved(light, draw, low=low, turn=(1.6, 3.1), upside=True)
    assert made.shape == light.shape
    assert made.min() >= low - 1e-6
    assert made.max() <= 1 + 1e-6
    missing = made.flatten(1).amin(1) < low + 0.5  # is dark, unless an image hardly moved
    assert missing.float().mean() > 0.9
    (slope,) = torch.autograd.grad(made.sum(), light)
    assert bool((slope.flatten(1).abs().sum(1) > 0).all())
    corner = torch.full((64, *shape), low)
    corner[..., : shape[1] // 2, : shape[2] // 2] = 1.0
    for turn, upside, quadrants in (
        ((0.0, 0.0), False, 2),  # mirrored or not
        ((0.0, 0.0), True, 4),
        ((3.14, 3.15), False, 2),  # upside down, and mirrored or not
    ):
        made = generator.moved(corner, draw, low=low, turn=turn, upside=upside)
        lightest = nn.functional.adaptive_avg_pool2d(made.mean(1, keepdim=True), 2).flatten(1)
        met = lightest.argmax(1).unique()
        assert len(met) == quadrants, (turn, upside)
        assert (int(met.min()) == 2) == (turn[0] > 0), met


def taught(network: nn.Module) -> nn.Module:
    """The network, after lessons about quadrants on images that no way has made."""
    draw, teacher = torch.Generator().manual_seed(9), brightest_quadrant()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        images = nn.functional.interpolate(torch.rand(64, 1, 4, 4, generator=draw), size=(8, 8))
        loss = nn.functional.cross_entropy(network(images), teacher.labels(images))
        generator.descend(optimiser, loss)
    return network


def test_ideal_s_images_are_what_they_were_aimed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    aims = []
    real = ideal.targets

    def targets(count: int, classes: int, draw: torch.Generator) -> Tensor:
        aims.append(real(count, classes, draw))
        return aims[-1]

    monkeypatch.setattr(ideal, "targets", targets)
    monkeypatch.setattr(ideal, "moved", lambda images, draw, low: images)  # quadrants stay
    monkeypatch.setattr(ideal, "BATCH", 40)
    monkeypatch.setattr(ideal, "GENERATOR_STEPS", 60)
    monkeypatch.setattr(ideal, "INFORMATION", 1.0)  # doubt weighs more among four classes
    task = task_of(queries=40)
    way, pool = ideal.Ideal(task, seed=0), pool_for(task, brightest_quadrant())
    taught(way.networks.get_submodule("student"))
    spend(way, pool, 40)
    aimed = torch.cat(aims)
    assert aimed.bincount().tolist() == [10] * 4
    assert (pool.answers == aimed).float().mean() > 0.6  # chance is 0.25


def test_qedg_asks_what_its_student_doubts(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of()
    way = qedg.Qedg(task, seed=0)
    teacher, sure = brightest_quadrant(), []
    student = taught(way.networks.get_submodule("student"))

    class Watched(Pool):
        def ask(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                sure.append(student.eval()(images).softmax(1).amax(1))
            student.train()
            return super().ask(images)

    monkeypatch.setattr(qedg, "BATCH", 25)
    monkeypatch.setattr(qedg, "GENERATOR_STEPS", 30)
    spend(way, Watched(50, task.shape, teacher, eight_bit=True), 50)
    assert (torch.cat(sure) <= qedg.DOUBTFUL + 0.02).float().mean() > 0.9


def test_qedg_stops_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qedg, "DOUBTFUL", 0.0)  # no image is ever doubtful
    calls = []
    painted = generator.painted

    def counted(*args: object, **options: object) -> Tensor:
        calls.append(1)
        return painted(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(qedg, "painted", counted)
    task = task_of()
    pool = pool_for(task, brightest_quadrant())
    spend(qedg.Qedg(task, seed=0), pool, 50)
    assert len(pool) == 50
    assert len(calls) == qedg.TRIES * len(generator.portions(50, qedg.BATCH))


class Sided(nn.Module):
    """As sure of class 0 as the left pixel is light, of class 1 as the right one is."""

    def forward(self, images: Tensor) -> Tensor:
        return 10 * images[:, 0, 0, :]


def test_qedg_mirrors_only_what_keeps_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qedg, "FLIPS", 1.0)
    image = torch.tensor([[[[1.0, 0.0]]]])
    draw = torch.Generator().manual_seed(0)

    def loss(answer: int) -> float:
        return qedg.lesson(Sided(), image, torch.tensor([answer]), draw).item()

    # Answer 0: its mirror image is class 1, so it stays, and is right. Answer 1: it is wrong, its
    # mirror image is surely class 1, so it takes its place, and is right.
    assert loss(0) == pytest.approx(0.0, abs=1e-3)
    assert loss(1) == pytest.approx(0.0, abs=1e-3)
    monkeypatch.setattr(qedg, "FLIPS", 0.0)
    assert loss(1) == pytest.approx(qedg.WRONG * 10, rel=1e-3)


def test_dfms_begins_with_shapes_and_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    monkeypatch.setattr(dfms._Gan, "learn", lambda *_: drawn.append("gan"))
    real = dfms.shapes

    def shapes(count: int, shape: Shape, draw: torch.Generator) -> Tensor:
        drawn.append(str(count))
        return real(count, shape, draw)

    monkeypatch.setattr(dfms, "shapes", shapes)
    task = task_of(queries=50)  # ten of them are shapes
    way, pool = dfms.Dfms(task, seed=0), pool_for(task, brightest_quadrant())
    spend(way, pool, 7)
    assert drawn == ["gan", "7"]
    spend(way, pool, 5)
    assert drawn == ["gan", "7", "3", "gan"]


def test_shapes_have_edges_colours_and_differ() -> None:
    images = dfms.shapes(50, (3, 16, 16), torch.Generator().manual_seed(0))
    several = [len(image.flatten(1).unique(dim=1)[0]) for image in images]
    assert max(several) <= dfms.FIGURES + 1
    assert sum(count > 1 for count in several) > 45
    assert len(images.flatten(1).unique(dim=0)) == 50
    inside = dfms._inside(
        torch.tensor([0, 1, 2]).reshape(1, 3, 1, 1),
        torch.full((1, 1, 1, 1), 0.9),
        torch.tensor([[-0.9, 0.9]]).reshape(1, 1, 1, 2),
    )
    # The corner of the box is in the rectangle; the triangle has its base at the bottom.
    assert inside[0, :, 0].tolist() == [[False, False], [True, True], [False, True]]


def test_disguide_s_generator_finds_disagreement() -> None:
    task = task_of()
    way = disguide.Disguide(task, seed=0)
    names = ("student", "second", "generator")
    one, other, painter = (way.networks.get_submodule(name) for name in names)
    taught(one)
    taught(other)
    optimiser = torch.optim.Adam(painter.parameters(), lr=0.01)
    latents = torch.randn(64, generator.LATENT, generator=torch.Generator().manual_seed(0))

    def disagreement() -> Tensor:
        images = painter(latents)
        return disguide.disagreement(one(images).softmax(1), other(images).softmax(1))

    before = disagreement().item()
    with generator.fixed(one, other):
        for _ in range(20):
            generator.descend(optimiser, disguide._loss([one, other], painter(latents)))
    assert disagreement().item() > 1.5 * before


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 4, 4), (1, 28, 28), (3, 32, 32), (3, 64, 40)])
def test_the_generator_is_small(shape: Shape) -> None:
    for contrast in (True, False):
        made = generator.seeded(lambda c=contrast: generator.ImageGenerator(shape, contrast=c), 0)
        assert sum(weights.numel() for weights in made.parameters()) < 350_000
        assert made(torch.randn(2, generator.LATENT)).shape == (2, *shape)


def test_looking_leaves_a_network_as_it_was_even_after_an_error() -> None:
    network = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), generator.fixed(network):
        raise ZeroDivisionError
    assert network.training
    assert network.weight.requires_grad
