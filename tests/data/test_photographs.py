"""Photographs of any size: they are kept small, damaged ones are told, crops are fine and fit."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from db3kd.data import Images, Rows, TensorImages, load
from db3kd.data.images import Joined
from db3kd.data.photographs import Photographs, photographs
from db3kd.errors import InputError

SHAPE = (3, 8, 8)


def draw(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def folder_of(place: Path, sizes: list[tuple[int, int]], *, mode: str = "RGB") -> Images:
    """PNG and JPEG files of these sizes, each of one colour."""
    place.mkdir(parents=True)
    for number, size in enumerate(sizes):
        name = f"{number:02}.{'png' if number % 2 else 'jpg'}"
        Image.new(mode, size, 40 * number if mode == "L" else (40 * number, 0, 0)).save(
            place / name
        )
    return load(str(place), "train", channels=3).images


def test_each_is_kept_in_its_own_shape_no_finer_than_crops_need(tmp_path: Path) -> None:
    sizes = [(400, 300), (20, 30), (5000, 40), (33, 31), (7, 5)]
    found = photographs(folder_of(tmp_path / "a", sizes), SHAPE, draw())
    assert sorted(image.size for image in found.kept) == sorted(
        [(43, 32), (20, 30), (128, 32), (33, 31), (7, 5)]  # four times 8 pixels, or what there is
    )
    assert found.crops(50, draw()).shape == (50, *SHAPE)


def test_a_crop_is_what_resizing_by_pixels_gives() -> None:
    """Without a change of scale a crop has the photograph's own pixels."""
    ramp = torch.arange(32.0).repeat(3, 32, 1)[None] / 255
    found = photographs(TensorImages(ramp), (3, 32, 32), draw())
    crops = found.crops(300, draw())
    assert crops.shape[0] == 300
    steps = (crops[:, 0, 16, 24] - crops[:, 0, 16, 8]).abs() * 255 / 16
    assert 0.49 < float(steps.min()) < 0.6 < 0.9 < float(steps.max()) < 1.1  # half to all of it
    rises = crops[:, 0, 16, 24] > crops[:, 0, 16, 8]
    assert 0.4 < float(rises.float().mean()) < 0.6  # the others are mirrored


def test_small_crops_of_fine_photographs_have_no_moire() -> None:
    """A chequerboard of single pixels is grey when it is seen from afar."""
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2
    found = photographs(TensorImages(board.float()[None, None]), (1, 64, 64), draw())
    assert found.kept[0].size == (256, 256)
    wide = Photographs((1, 8, 8), found.kept).crops(200, draw())
    far = wide.flatten(1).std(1)
    assert float(far.median()) < 0.1


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    grey = TensorImages(torch.full((2, 1, 12, 12), 0.5))
    assert photographs(grey, SHAPE, draw()).crops(3, draw()).shape == (3, 3, 8, 8)
    red = folder_of(tmp_path / "red", [(20, 20)] * 3)
    crops = photographs(red, (1, 8, 8), draw()).crops(9, draw())
    assert crops.shape == (9, 1, 8, 8)


def test_the_same_seed_gives_the_same_crops_and_another_gives_others(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "a", [(40, 30), (30, 60), (50, 50)])
    one, same = (photographs(images, SHAPE, draw()).crops(20, draw(1)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, photographs(images, SHAPE, draw()).crops(20, draw(2)))


def test_no_more_are_kept_than_there_is_room_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = torch.randint(0, 255, (500, 3, 16, 16), generator=draw()).to(torch.uint8)
    with caplog.at_level(logging.INFO):
        found = photographs(TensorImages(pixels), SHAPE, draw(), room=100 * 3 * 256)
    assert len(found.kept) == 100
    assert "100 of 500 photographs are used" in caplog.text


def test_views_and_joined_sets_of_several_sizes(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "a", [(40, 30), (30, 60)])
    two = TensorImages(torch.rand(3, 3, 10, 10, generator=draw()))
    small = Rows(one, torch.tensor([1]))
    assert photographs(small, SHAPE, draw()).kept[0].size == (30, 60)
    joined = object.__new__(Joined)  # as of a folder whose first images are alike
    object.__setattr__(joined, "first", one)
    object.__setattr__(joined, "second", two)
    assert len(photographs(joined, SHAPE, draw()).kept) == 5


def test_damaged_photographs_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = folder_of(tmp_path / "a", [(40, 30)] * 8)
    (tmp_path / "a" / "03.png").write_bytes(b"")
    (tmp_path / "a" / "05.png").write_bytes(b"<html>no image</html>")
    whole = (tmp_path / "a" / "06.jpg").read_bytes()
    (tmp_path / "a" / "06.jpg").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        found = photographs(images, SHAPE, draw())
    assert (len(found.kept), found.damaged) == (5, 3)
    assert "3 of 8 photographs cannot be used and are left out: " in caplog.text
    for reason in ("it is empty", "it is a web page", "06.jpg"):
        assert reason in caplog.text


def test_where_none_can_be_used_the_first_is_named(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "a", [(40, 30)] * 2)
    for name in ("00.jpg", "01.png"):
        (tmp_path / "a" / name).write_bytes(b"GIF8 but no more")
    with pytest.raises(InputError, match="2 of 2 photographs cannot be used, and there are no"):
        photographs(images, SHAPE, draw())
    with pytest.raises(InputError, match="there are no photographs"):
        photographs(TensorImages(torch.zeros(0, 3, 9, 9)), SHAPE, draw())


def test_a_large_jpeg_is_read_at_a_fraction_of_its_size(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((1600, 1200), Image.Resampling.BICUBIC)
    large.save(tmp_path / "a.jpg", quality=95)
    images = load(str(tmp_path), "train", channels=3).images
    kept = photographs(images, SHAPE, draw()).kept[0]
    exact = large.resize(kept.size, Image.Resampling.BICUBIC)
    apart = np.asarray(kept, dtype=float) - np.asarray(exact, dtype=float)
    assert kept.size == (43, 32)
    assert np.abs(apart).mean() < 4
