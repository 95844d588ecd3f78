"""Damaged images are found before anything is paid."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from kept import filled, packed, png
from PIL import Image

from db3kd.data import Joined, Rows, TensorImages, damaged, load, subset
from db3kd.errors import InputError

SPOILT = {1: b"", 3: png()[:40], 4: b"GIF89a", 6: None}  # the last has another shape


@pytest.fixture(params=["folder", "zip", "tar", "parquet", "csv"])
def spoilt(request, tmp_path):
    """A set of eight images, four of them damaged."""
    folder = filled(tmp_path / "set", *[f"{row}.png" for row in range(8)])
    Image.new("L", (5, 5)).save(folder / "6.png")
    for row, content in SPOILT.items():
        if content is not None:
            (folder / f"{row}.png").write_bytes(content)
    if request.param == "parquet":
        images = [(folder / f"{row}.png").read_bytes() for row in range(8)]
        pq.write_table(pa.table({"image": images}), tmp_path / "set.parquet", row_group_size=3)
    if request.param == "csv":
        (folder / "train.csv").write_text("file\n" + "".join(f"{row}.png\n" for row in range(8)))
    if request.param in ("zip", "tar"):
        packed(folder, request.param)
    places = {"folder": folder, "csv": folder / "train.csv"}
    return load(str(places.get(request.param, tmp_path / f"set.{request.param}")), "train")


def test_damaged_images_are_found(spoilt):
    found = damaged(spoilt.images)
    assert [row for row, _ in found] == [1, 3, 4, 6]
    reasons = dict(found)
    assert "is empty" in reasons[1]
    assert "has shape (1, 5, 5) but the first image has (1, 3, 2)" in reasons[6]
    assert all(reason.startswith(f"image {row} (") for row, reason in found)
    good = torch.tensor([0, 2, 5, 7])
    assert damaged(subset(spoilt, good).images) == []
    assert spoilt.images.read(good).shape == (4, 1, 3, 2)


def test_views_name_their_own_rows(spoilt):
    view = Rows(Rows(spoilt.images, torch.tensor([7, 3, 0, 3])), torch.tensor([1, 2, 3, 0]))
    assert [row for row, _ in damaged(view)] == [0, 2]
    black = TensorImages(torch.zeros(3, 1, 3, 2))
    assert [row for row, _ in damaged(Joined(black, view))] == [3, 5]
    assert damaged(black) == []


def test_it_tells_how_far_it_is(spoilt):
    told = []
    damaged(spoilt.images, lambda done, total: told.append((done, total)))
    assert told[0] == (0, 8)


def test_the_first_image_may_be_damaged(tmp_path):
    filled(tmp_path, *[f"{row:02}.png" for row in range(20)])
    for row in range(15):
        (tmp_path / f"{row:02}.png").write_bytes(b"")
    data = load(str(tmp_path), "train")
    assert data.images.shape == (1, 3, 2)
    assert len(damaged(data.images)) == 15
    (tmp_path / "15.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the first 16 images can be used: image 0 \("):
        load(str(tmp_path), "train")
