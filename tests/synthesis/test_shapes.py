"""Images of shapes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
