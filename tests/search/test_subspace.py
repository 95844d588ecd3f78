import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from db3kd.search.descent import Full, Smooth, Subspace, Sweep
from db3kd.search.descent.subspace import block, from_frequencies, image_shape

EVERY: tuple[Subspace, ...] = (Full(), Smooth("dct"), Smooth("bilinear"), Sweep())
SHAPES = ((1, 28, 28), (3, 32, 32), (1, 8, 8), (1, 1, 5), (1, 1, 1), (2, 5, 7), (7,), (3, 96, 80))


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + number)


def taken(
    subspace: Subspace, count: int, shape: tuple[int, ...], step: int = 0, before: int = 0
) -> Tensor:
    return subspace.directions(step, before, count, shape, seeded)


@pytest.mark.parametrize("subspace", EVERY, ids=repr)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_directions_have_the_shape_of_images_and_the_length_of_noise(
    subspace: Subspace, shape: tuple[int, ...]
) -> None:
    assert isinstance(subspace, Subspace)
    drawn = taken(subspace, 60, shape)
    assert drawn.shape == (60, *shape)
    assert drawn.dtype == torch.float32
    mean = drawn.flatten(1).square().sum(1).mean().item() / math.prod(shape)
    assert mean == pytest.approx(1.0, rel=0.6 if math.prod(shape) == 1 else 0.35)


@pytest.mark.parametrize("subspace", EVERY, ids=repr)
def test_directions_depend_on_what_they_are_told_only(subspace: Subspace) -> None:
    first = taken(subspace, 9, (1, 6, 6), 3, 100)
    assert torch.equal(first, taken(subspace, 9, (1, 6, 6), 3, 100))
    assert not torch.equal(first, taken(subspace, 9, (1, 6, 6), 4, 109))


def test_full_noise_is_gaussian_from_the_generator_of_the_step() -> None:
    drawn = torch.randn(5, 1, 4, 4, generator=seeded(7))
    assert torch.equal(taken(Full(), 5, (1, 4, 4), 7), drawn)


# Frequencies


def test_two_pixels_by_hand() -> None:
    # The DCT of two: mean (1, 1)/sqrt(2) and difference (1, -1)/sqrt(2).
    mean = from_frequencies(torch.tensor([[[[1.0, 0.0]]]]), (1, 1, 2)).flatten().tolist()
    assert mean == pytest.approx([2**-0.5, 2**-0.5])
    difference = from_frequencies(torch.tensor([[[[0.0, 1.0]]]]), (1, 1, 2)).flatten().tolist()
    assert difference == pytest.approx([2**-0.5, -(2**-0.5)])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 16), (1, 1, 1)], ids=str)
def test_frequencies_keep_lengths_and_angles(shape: tuple[int, ...]) -> None:
    small = block(shape, 0.5)
    drawn = torch.randn(6, *small, generator=seeded(0))
    images = from_frequencies(drawn, shape).flatten(1)
    before = drawn.flatten(1) @ drawn.flatten(1).T
    torch.testing.assert_close(images @ images.T, before, atol=1e-4, rtol=1e-4)


def test_low_frequencies_are_smooth() -> None:
    def roughness(subspace: Subspace) -> float:
        images = taken(subspace, 200, (1, 28, 28))
        return float((images[..., 1:] - images[..., :-1]).square().mean())

    # Independent pixels: the variance of a difference is 2.
    assert roughness(Full()) == pytest.approx(2, rel=0.05)
    for smooth in (Smooth("dct"), Smooth("bilinear"), Sweep()):
        assert roughness(smooth) < 0.8


def test_blocks_are_sized_by_the_image() -> None:
    assert [block((1, 28, 28), share) for share in (0.36, 0.5, 0.72, 1.0)] == [
        (1, 10, 10), (1, 14, 14), (1, 20, 20), (1, 28, 28)
    ]  # fmt: skip
    assert block((3, 1, 5), 0.1) == (3, 1, 1)
    assert image_shape((4, 3, 8, 9)) == (12, 8, 9)
    # 96 x 80 pixels are large: a quarter, 24 x 20 frequencies and not one more.
    drawn = taken(Smooth("dct"), 500, (1, 96, 80)).flatten(1).double()
    assert int(torch.linalg.matrix_rank(drawn, rtol=1e-5)) == 480


# Sweeps


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
@settings(deadline=None, max_examples=30)
def test_a_sweep_is_one_sequence_however_it_is_cut(
    shape: tuple[int, int, int], cuts: list[int]
) -> None:
    subspace, parts, before = Sweep(), [], 0
    for step, count in enumerate(cuts):
        parts.append(taken(subspace, count, shape, step, before))
        before += count
    torch.testing.assert_close(torch.cat(parts), taken(subspace, before, shape))


def test_a_sweep_takes_every_direction_of_its_block_once() -> None:
    shape, levels = (2, 6, 5), ((0.5, 2), (1.0, 1))
    small, whole = math.prod(block(shape, 0.5)), 60  # 2 * 3 * 3
    assert small == 18
    sequence = taken(Sweep(levels), 2 * small + 2 * whole, shape).flatten(1) / 60**0.5
    for first, size in ((0, small), (small, small), (36, whole), (36 + whole, whole)):
        sweep = sequence[first : first + size]
        torch.testing.assert_close(sweep @ sweep.T, torch.eye(size), atol=1e-5, rtol=0)
    # The first two sweeps span the same low frequencies, by other directions.
    one, two = sequence[:small], sequence[small:36]
    torch.testing.assert_close((one @ two.T).square().sum(1), torch.ones(small))
    assert float((one @ two.T).abs().max()) < 0.99


def test_directions_of_a_sweep_have_no_preferred_pixel_of_frequency_space() -> None:
    # Signs and cosines spread each direction over all coefficients: none holds half the energy.
    sequence = taken(Sweep(((1.0, 1),)), 64, (1, 8, 8)).reshape(64, 1, 8, 8)
    assert float(sequence.flatten(1).square().max(1).values.median()) < 32


def test_orthogonal_directions_recover_what_the_docstring_says() -> None:
    # cos^2 of the signed mean with the normal: (2/pi) n/D, against n/(n + (pi/2) D) for Gaussians.
    size, count = 196, 196
    normals = torch.randn(200, size, generator=seeded(5))
    normals /= normals.norm(dim=1, keepdim=True)
    found = []
    for subspace in (Sweep(((1.0, 1),)), Full()):
        drawn = taken(subspace, count, (1, 14, 14)).flatten(1)
        mean = torch.sign(normals @ drawn.T) @ drawn
        mean /= mean.norm(dim=1, keepdim=True)
        found.append(float((mean * normals).sum(1).square().mean()))
    assert found[0] == pytest.approx(2 / math.pi, rel=0.03)
    assert found[1] == pytest.approx(1 / (1 + math.pi / 2), rel=0.1)
