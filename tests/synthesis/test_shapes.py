"""Images of shapes."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from db3kd.synthesis.at_random import noise
from db3kd.synthesis.earlier import shapes_of_latents
from db3kd.synthesis.fields import blended, interpolated
from db3kd.synthesis.shapes import FAMILY, drawn, numbers, shapes


@given(
    count=st.integers(0, 130),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    low=st.sampled_from([0.0, -1.0, 3.0]),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_shapes_of_any_size_are_within_bounds(
    count: int, channels: int, height: int, width: int, low: float, seed: int
) -> None:
    shape, bounds = (channels, height, width), (low, low + 2)
    images = shapes(count, shape, torch.Generator().manual_seed(seed), bounds=bounds)
    assert images.shape == (count, *shape)
    assert images.isfinite().all()
    assert ((images >= low) & (images <= low + 2)).all()
    again = shapes(count, shape, torch.Generator().manual_seed(seed), bounds=bounds)
    assert torch.equal(images, again)


def test_shapes_are_of_all_kinds() -> None:
    images = shapes(2000, (1, 16, 16), torch.Generator().manual_seed(0))
    corner = images[:, 0, 0, 0]
    assert 0.2 < float((corner < 0.05).float().mean()) < 0.8  # a dark ground
    assert 0.03 < float((corner > 0.95).float().mean()) < 0.4
    mirrored = (images - images.flip(3)).abs().flatten(1).mean(1)
    assert float((mirrored < 0.08).float().mean()) > 0.1
    neighbours = (images[..., 1:] - images[..., :-1]).abs().mean()
    noise = (images[torch.randperm(2000)][..., 1:] - images[..., :-1]).abs().mean()
    assert float(neighbours) < 0.5 * float(noise)
    assert float(images.mean(0).std()) < 0.2


def test_neighbours_are_a_family_whose_noise_has_the_same_scales() -> None:
    """How rough its images are tells a family from others, which it does not without."""
    shape, draw = (1, 28, 28), torch.Generator().manual_seed(0)
    alone = drawn(torch.randn(16 * FAMILY, numbers(shape), generator=draw), shape)
    between = []
    for images in (alone, shapes(16 * FAMILY, shape, draw)):
        steps = (images[..., 1:] - images[..., :-1]).abs().flatten(1).mean(1)
        rough = (steps / images.flatten(1).std(1).clamp_min(1e-3)).reshape(16, FAMILY)
        between.append(float(rough.mean(1).var() / rough.var(1).mean() * FAMILY))
    one, many = between  # 1 by chance
    assert one < 3 < 15 < many


def test_colours_differ() -> None:
    images = shapes(500, (3, 8, 8), torch.Generator().manual_seed(0))
    assert float((images[:, 0] - images[:, 1]).abs().mean()) > 0.03


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 12)])
def test_new_shapes_are_like_those_of_latents(shape: tuple[int, int, int]) -> None:
    """Two samples of each way of drawing differ as much as one of each."""
    draw = torch.Generator().manual_seed(0)
    new, more = shapes(4096, shape, draw), shapes(4096, shape, draw)
    old, others = shapes_of_latents(4096, shape, draw), shapes_of_latents(4096, shape, draw)
    for figure in FIGURES:
        one, two, three, four = (figure(images) for images in (new, more, old, others))
        error = max(_apart(one, two), _apart(three, four), 0.02)
        assert _apart(torch.cat([one, two]), torch.cat([three, four])) < 3 * error


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two distribution functions (Kolmogorov and Smirnov)."""
    edges = torch.cat([one, other]).sort().values
    ranks = [torch.searchsorted(some.sort().values, edges, right=True) for some in (one, other)]
    return float((ranks[0] / len(one) - ranks[1] / len(other)).abs().max())


FIGURES: list[Callable[[Tensor], Tensor]] = [
    lambda images: images.flatten(1).mean(1),
    lambda images: images.flatten(1).std(1),
    lambda images: (images[..., 1:] - images[..., :-1]).abs().flatten(1).mean(1),
    lambda images: (images[..., 1:, :] - images[..., :-1, :]).abs().flatten(1).mean(1),
    lambda images: (images - images.flip(3)).abs().flatten(1).mean(1),
    lambda images: images[:, 0, 0, 0],
    lambda images: images[:, -1, images.shape[2] // 2, images.shape[3] // 2],
]


@given(
    down=st.integers(1, 6),
    across=st.integers(1, 6),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
@settings(max_examples=40, deadline=None)
def test_a_family_is_interpolated_as_each_of_its_images_is(
    down: int, across: int, height: int, width: int
) -> None:
    grid = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    points = torch.full((5,), down), torch.full((5,), across)
    alone, found = blended(grid, points, (height, width)), torch.empty(5, height, width)
    interpolated(grid[:, 0, :down, :across], found)
    assert torch.allclose(found, alone[:, 0], atol=1e-5)


def test_noise_is_uniform_up_to_both_ends() -> None:
    draw = torch.Generator().manual_seed(0)
    for bounds in ((0.0, 1.0), (-1.0, 3.0)):
        low, high = bounds
        pixels = noise(501, (3, 20, 15), draw, bounds=bounds).flatten()
        assert len(pixels) == 501 * 3 * 20 * 15
        assert (float(pixels.min()), float(pixels.max())) == pytest.approx(bounds, abs=1e-3)
        even = (pixels - low) / (high - low)
        assert _apart(even[:100_000], torch.linspace(0, 1, 100_000)) < 0.01
        assert abs(float(torch.corrcoef(even[:-1].unfold(0, 4, 4).T)[0, 1:].abs().max())) < 0.01
