"""Images change within what is promised, by the seed alone, and labels follow them."""

import sys
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from db3kd.config.settings import TrainingAugmentation
from db3kd.errors import InputError
from db3kd.student import augmenting
from db3kd.student.augmenting import Augmenter

NAMES = get_args(TrainingAugmentation)
SHAPES = [(1, 28, 28), (3, 32, 32), (3, 8, 12), (1, 9, 8), (4, 8, 8)]
JOINING = ("mixup", "cutmix")


def batch(shape: tuple[int, ...], rows: int = 64) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(1))


def dots(height: int, width: int, row: int, column: int, rows: int = 200) -> Tensor:
    """Black images with a smooth bright dot, which a resampling keeps in place."""
    down = torch.exp(-((torch.arange(height) - row) ** 2) / 2.0)
    across = torch.exp(-((torch.arange(width) - column) ** 2) / 2.0)
    return (down[:, None] * across).expand(rows, 1, height, width).contiguous()


def centres(images: Tensor) -> Tensor:
    """Where the mass of each image lies: (row of the batch, (row, column))."""
    mass = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    down = (mass.sum(2) * torch.arange(images.shape[2])).sum(1)
    across = (mass.sum(1) * torch.arange(images.shape[3])).sum(1)
    return torch.stack([down, across], 1)


# All of them


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_images_change_but_neither_their_shape_nor_their_range(
    name: TrainingAugmentation, shape: tuple[int, ...]
) -> None:
    images = batch(shape)
    before, augmenter = images.clone(), Augmenter((name,), shape)
    made = augmenter(images, seed=5)
    assert made.images.shape == images.shape
    assert made.images.dtype == torch.float32
    assert 0 <= float(made.images.min()) < float(made.images.max()) <= 1
    changed = (made.images != before).flatten(1).any(1).float().mean()
    assert changed > 0.3
    assert torch.equal(images, before)
    assert (made.partner is None) == (name not in JOINING) == (made.share is None)


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES])
def test_the_seed_alone_decides_and_no_generator_moves(names: tuple) -> None:
    shape = (3, 16, 16)
    images, first, second = batch(shape), Augmenter(names, shape), Augmenter(names, shape)
    torch.manual_seed(17)
    state = torch.get_rng_state()
    made = first(images, seed=5)
    other = second(images, seed=6)  # and now it has a past, as after a kill the other has none
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(18)
    again = second(images, seed=5)
    assert torch.equal(made.images, again.images)
    assert not torch.equal(made.images, other.images)
    if made.partner is not None:
        assert torch.equal(made.partner, again.partner)
        assert torch.equal(made.share, again.share)


def test_the_order_of_the_names_does_not_matter() -> None:
    images = batch((3, 16, 16))
    made = Augmenter(("crop", "rotate", "flip", "erase"), (3, 16, 16))(images, 2)
    again = Augmenter(("erase", "flip", "rotate", "crop", "crop"), (3, 16, 16))(images, 2)
    assert torch.equal(made.images, again.images)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_may_be_one_image(name: TrainingAugmentation) -> None:
    images = batch((3, 8, 12), 1)
    assert Augmenter((name,), (3, 8, 12))(images, 0).images.shape == images.shape


# One by one


@pytest.mark.parametrize(("height", "width", "down", "across"), [(28, 28, 4, 4), (8, 12, 1, 2)])
def test_a_crop_is_a_window_of_the_reflected_image(
    height: int, width: int, down: int, across: int
) -> None:
    images = batch((3, height, width), 40)
    made = Augmenter(("crop",), (3, height, width))(images, 1).images
    padded = functional.pad(images, (across, across, down, down), mode="reflect")
    places = [(y, x) for y in range(2 * down + 1) for x in range(2 * across + 1)]
    windows = torch.stack([padded[..., y : y + height, x : x + width] for y, x in places])
    gap = (windows - made).abs().amax((2, 3, 4)).min(0)
    assert float(gap.values.max()) < 1e-5
    assert len(gap.indices.unique()) > 5


def test_a_shift_is_at_most_an_eighth_and_fills_with_the_edge() -> None:
    dot = dots(32, 48, 16, 24)
    moved = centres(Augmenter(("shift",), (1, 32, 48))(dot, 1).images) - centres(dot)
    furthest = moved.abs().amax(0)
    assert torch.all(furthest <= torch.tensor([4.0, 6.0]) + 0.05)
    assert torch.all(furthest > torch.tensor([3.0, 4.5]))
    grey = torch.full((50, 1, 32, 48), 0.5)
    assert torch.allclose(Augmenter(("shift",), (1, 32, 48))(grey, 1).images, grey)


def test_a_rotation_keeps_the_distance_from_the_centre_in_images_of_any_proportion() -> None:
    dot, centre = dots(32, 64, 16, 48), torch.tensor([15.5, 31.5])
    arm = centres(Augmenter(("rotate",), (1, 32, 64))(dot, 1).images) - centre
    assert torch.allclose(arm.norm(dim=1), torch.tensor(16.5), atol=0.3)
    degrees = torch.rad2deg(torch.atan2(arm[:, 0], arm[:, 1]))
    assert 12 < float(degrees.max()) < 17.5
    assert -15 < float(degrees.min()) < -9


def test_about_half_are_flipped_left_to_right() -> None:
    images = batch((3, 8, 12), 200)
    made = Augmenter(("flip",), (3, 8, 12))(images, 1).images
    same = (made == images).flatten(1).all(1)
    mirrored = (made == images.flip(3)).flatten(1).all(1)
    assert torch.all(same ^ mirrored)
    assert 0.35 < float(mirrored.float().mean()) < 0.65


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colour_changes_no_place(channels: int) -> None:
    """Pixels that were equal stay equal, and a grey image of three channels stays grey."""
    images = batch((1, 8, 8), 60).mul(4).round().div(4).expand(60, channels, 8, 8)
    made = Augmenter(("colour",), (channels, 8, 8))(images, 1).images
    for image, new in zip(images, made, strict=True):
        for value in image.unique():
            assert float(new[image == value].std()) < 1e-5
    assert float((made.mean((1, 2, 3)) - images.mean((1, 2, 3))).abs().max()) > 0.05


def test_erasing_leaves_a_black_rectangle_of_bounded_size_in_half_of_the_images() -> None:
    images = batch((3, 32, 32), 400).clamp_min(0.01)
    made = Augmenter(("erase",), (3, 32, 32))(images, 1).images
    gone = made == 0
    assert torch.equal(made[~gone], images[~gone])
    hole = gone.all(1)
    assert torch.equal(hole, gone.any(1))
    area = hole.float().mean((1, 2))
    assert 0.4 < float((area > 0).float().mean()) < 0.6
    low, high = augmenting.ERASED
    assert low - 0.01 < float(area[area > 0].min()) < float(area.max()) < high + 0.02
    box = hole.any(2).sum(1) * hole.any(1).sum(1)
    assert torch.equal(box, hole.sum((1, 2)))


# Two images joined


def test_mixup_is_the_stated_share_of_both() -> None:
    images = batch((3, 8, 12), 100)
    made = Augmenter(("mixup",), (3, 8, 12))(images, 1)
    share = made.share.reshape(-1, 1, 1, 1)
    wanted = share * images + (1 - share) * images[made.partner]
    assert torch.allclose(made.images, wanted, atol=1e-6)
    assert float(made.share.min()) < 0.1 < 0.9 < float(made.share.max())


def test_cutmix_states_how_many_pixels_are_its_own() -> None:
    images = torch.linspace(0, 1, 100).reshape(-1, 1, 1, 1).expand(100, 3, 9, 16)
    made = Augmenter(("cutmix",), (3, 9, 16))(images, 1)
    own = (made.images == images).float().mean((1, 2, 3))
    moved = made.partner != torch.arange(100)
    assert torch.allclose(own[moved], made.share[moved])
    strange = torch.where(made.images == images, images[made.partner], made.images)
    assert torch.equal(strange, images[made.partner].expand_as(strange))
    assert float(made.share.min()) < 0.1 < 0.9 < float(made.share.max())
    assert abs(float(made.share.mean()) - 0.5) < 0.1


def test_a_batch_draws_one_of_both_ways_to_join() -> None:
    images = torch.eye(2)[torch.arange(8) % 2].reshape(8, 2, 1, 1).expand(8, 2, 8, 8)
    both = Augmenter(JOINING, (2, 8, 8))
    mixes = {bool(((x > 0) & (x < 1)).any()) for x in (both(images, s).images for s in range(20))}
    assert mixes == {True, False}


# What a user did wrong


def test_without_the_extra_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    with pytest.raises(InputError, match=r"the extra: .*augment"):
        Augmenter(("crop",), (1, 8, 8))
    assert Augmenter(JOINING, (1, 8, 8))(batch((1, 8, 8)), 0).partner is not None


def test_a_shape_without_room_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 2x2 pixels, got \(1, 1, 8\)"):
        Augmenter(("crop",), (1, 1, 8))
