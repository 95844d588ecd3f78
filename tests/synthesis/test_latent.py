"""Shapes as functions of their latents, and children near those that were asked."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import db3kd.stages.ensemble_labels as ensemble_labels
import db3kd.synthesis.chosen as chosen
from closed_form import Watched, prototypes
from db3kd.config.settings import Synthesis
from db3kd.data import eight_bits
from db3kd.run import Run
from db3kd.student.networks import Shape
from db3kd.synthesis.latent import FARTHEST, NEAREST, Near, latents
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import drawn, numbers
from db3kd.teachers import function

SHAPE = (1, 6, 6)
LENGTH = numbers(SHAPE)


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chosen, ensemble_labels):
        monkeypatch.setattr(module, "LEAST_STEPS", 20)
        monkeypatch.setattr(module, "MOST_STEPS", 20)
    monkeypatch.setattr(chosen, "ASKED", 16)


def random(count: int, shape: Shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, numbers(shape), generator=torch.Generator().manual_seed(seed))


# Images of latents


@given(
    channels=st.sampled_from([1, 3, 4]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_an_image_reads_the_whole_latent_and_does_not_depend_on_its_neighbours(
    channels: int, height: int, width: int, seed: int
) -> None:
    shape = (channels, height, width)
    some = random(40, shape, seed)
    images = drawn(some, shape)
    assert torch.allclose(images[7:8], drawn(some[7:8], shape), atol=1e-5)
    more = torch.cat([some, torch.randn(40, 3)], 1)
    assert torch.equal(drawn(more, shape), images)
    with pytest.raises((RuntimeError, IndexError)):
        drawn(some[:, :-1], shape)


def test_every_number_matters_for_some_image() -> None:
    # A texture's finest points are read by the few images that have as many.
    some = random(3000, SHAPE)
    images = drawn(some, SHAPE)
    for number in range(LENGTH):
        moved = some.clone()
        moved[:, number] += 1
        assert not torch.equal(drawn(moved, SHAPE), images), number


def test_images_are_near_where_their_latents_are() -> None:
    parents, other = random(500, SHAPE), random(500, SHAPE, 1)
    images, before = drawn(parents, SHAPE), 0.0
    for step in (0.02, 0.1, 0.5, 1.0):
        moved = (1 - step**2) ** 0.5 * parents + step * other
        apart = float((drawn(moved, SHAPE) - images).abs().mean())
        assert apart > before
        before = apart
    assert before > 0.2


# Latents of origins


def test_a_child_is_a_step_of_its_parent_and_as_likely() -> None:
    roots = torch.stack([torch.full((2000,), -1), torch.arange(2000)], 1)
    children = torch.stack([torch.arange(2000), torch.arange(2000, 4000)], 1)
    grandchildren = torch.stack([torch.arange(2000, 4000), torch.arange(4000, 6000)], 1)
    asked = torch.cat([roots, children, grandchildren])
    one, two, three = latents(asked, asked, LENGTH).split(2000)
    for some in (two, three):
        assert abs(float(some.mean())) < 0.01
        assert abs(float(some.std()) - 1) < 0.01
    alike = torch.cosine_similarity(one, two)
    assert float(alike.min()) > (1 - FARTHEST**2) ** 0.5 - 0.15
    assert float(alike.max()) > (1 - NEAREST**2) ** 0.5 - 0.01
    assert float(torch.cosine_similarity(one, three).mean()) < float(alike.mean())


def test_a_latent_does_not_depend_on_its_neighbours() -> None:
    asked = torch.tensor([[-1, 3], [0, 4], [1, 5], [-1, 6]])
    whole = latents(asked, asked, LENGTH)
    for row in range(4):
        assert torch.equal(latents(asked[row : row + 1], asked, LENGTH)[0], whole[row])


def test_a_child_of_what_is_not_known_is_no_new_shape() -> None:
    with pytest.raises(IndexError):
        latents(torch.tensor([[0, 4]]), torch.empty(0, 2, dtype=torch.int64), LENGTH)
    dark = function(lambda images: torch.zeros(len(images), dtype=torch.int64), classes=2)
    pool = Pool(8, SHAPE, dark, eight_bit=True)
    pool.add(torch.zeros(4, *SHAPE, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(IndexError):
        Near(seed=0)(pool, 4, 4, 2, torch.Generator())


def test_no_two_candidates_have_the_same_seed_and_children_are_of_every_class() -> None:
    bright = function(lambda images: images.flatten(1).mean(1) > 0.8, classes=2)
    pool, near, draw = Pool(64, SHAPE, bright, eight_bit=True), Near(seed=0), torch.Generator()
    pool.allow(64)
    first = near(pool, 0, 64, 0, draw)
    pool.ask(first.images, first.origins)
    more = [near(pool, before, 200, 100, draw) for before in (64, 264)]
    seeds = torch.cat([made.origins[:, 1] for made in (first, *more)])
    assert len(seeds.unique()) == len(seeds)
    parents = torch.cat([made.origins[:, 0] for made in more])
    assert int((parents >= 0).sum()) == 200
    classes = pool.answers[parents[parents >= 0]]
    assert 70 < int((classes == 1).sum()) < 130  # though few of the images are so bright
    assert int((pool.answers == 1).sum()) < 16


# In a run


def made(folder: Path) -> Run:
    corners = torch.eye(36)[:4]
    return Run(folder, Watched(prototypes(corners)))


def test_origins_are_kept_and_lead_to_the_images(tmp_path: Path) -> None:
    settings = Synthesis(way="latent", ensemble_labels=0, queries=200, rounds=4, width=1.0)
    with made(tmp_path) as run:
        run.synthesize(SHAPE, settings)
    shards = [load_file(file) for file in sorted(tmp_path.glob("synthesis/0*.safetensors"))]
    origins = torch.cat([shard["origins"] for shard in shards])
    images = torch.cat([shard["images"] for shard in shards])
    again = eight_bits(drawn(latents(origins, origins, LENGTH), SHAPE))[0]
    assert len(origins) == 200
    assert int((again.int() - images.int()).abs().max()) <= 1  # batches may round differently
    parents = origins[:, 0]
    assert bool((parents[:50] == -1).all())
    assert bool((parents[50:] >= 0).any())
    assert bool((parents < torch.arange(200)).all())


def test_images_that_the_ensemble_labels_are_others_of_the_same_source(tmp_path: Path) -> None:
    settings = Synthesis(way="latent", ensemble_labels=40, queries=80, rounds=2, width=1.0)
    with made(tmp_path) as run:
        run.synthesize(SHAPE, settings)
        samples = run.pseudo.whole()
        asked = run.pseudo.asked()
    assert len(samples) == 120
    own = asked.images.read(torch.arange(80)).flatten(1)
    more = samples.images.read(torch.arange(80, 120)).flatten(1)
    assert float(torch.cdist(more, own).min()) > 0
