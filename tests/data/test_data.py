import hashlib
import json
import re
import sys
import types
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from db3kd.data import (
    DataSet,
    FolderImages,
    Images,
    ParquetImages,
    Rows,
    TensorImages,
    _decode,
    check_images,
    data_root,
    in_memory,
    load,
    parquet,
    subset,
)
from db3kd.errors import InputError, NoSplit

MNIST_MD5 = {
    "train": "6510e85a72c3e9475c492d559d3770d2",
    "test": "240610fa99e73bfa49df8e7fc24d3206",
}


def real(name):
    root = data_root()
    if root is None or not (root / name).is_dir():
        pytest.skip(f"the data set {name} is not in DB3KD_DATA or ../shared/data")
    return name


def encoded(pixels, kind="PNG"):
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def random_pixels(count, height=5, width=4, channels=1, seed=0):
    shape = (count, height, width) if channels == 1 else (count, height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(file, images, labels=None, names=None, image="image", label="label", group=7):
    table = pa.table(
        {
            image: [{"bytes": one, "path": None} for one in images],
            label: pa.array(labels or [0] * len(images)),
        }
    )
    if names:
        info = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=group)
    return file


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory):
    """50 images in 3 files and 9 row groups, and their pixels."""
    folder = tmp_path_factory.mktemp("set")
    pixels = random_pixels(50)
    for shard, some in enumerate((slice(0, 20), slice(20, 21), slice(21, 50))):
        write(
            folder / f"data/train-{shard:05d}-of-00003.parquet",
            [encoded(one) for one in pixels[some]],
            labels=[k % 3 for k in range(50)][some],
            names=["a", "b", "c"],
        )
    return folder, pixels


# Real data sets


@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.slow), "test"])
def test_mnist_is_the_published_array(split):
    values = in_memory(load(real("mnist"), split).images).values
    assert values.dtype == torch.uint8
    assert hashlib.md5(values.squeeze(1).numpy().tobytes()).hexdigest() == MNIST_MD5[split]


def test_mnist_labels():
    mnist = load(real("mnist"), "train")
    digest = hashlib.md5(mnist.labels.to(torch.uint8).numpy().tobytes()).hexdigest()
    assert digest == "e86ee40d66677c011a9abda399ec8c4d"
    assert mnist.classes == tuple("0123456789")


def test_cifar10():
    cifar = load(real("cifar10"), "test")
    assert (len(cifar), cifar.images.shape) == (10_000, (3, 32, 32))
    assert cifar.classes[:2] == ("airplane", "automobile")
    values = in_memory(cifar.images).values.permute(0, 2, 3, 1).contiguous()
    assert hashlib.md5(values.numpy().tobytes()).hexdigest() == "6d2714505047e13831cd876923568712"


def test_cifar100_has_fine_labels():
    cifar = load(real("cifar100"), "test[:500]")
    assert (len(cifar.classes), len(cifar)) == (100, 500)
    assert int(cifar.labels.max()) > 20


def test_flowers_at_64():
    flowers = load(real("flowers102"), "validation", size=64)
    assert flowers.images.shape == (3, 64, 64)
    block = flowers.images.read(torch.tensor([1019, 0]))
    assert block.shape == (2, 3, 64, 64)
    whole = load("flowers102", "validation").images.read(torch.tensor([1019, 0]))
    # halving 128 to 64 keeps local means: compare 4 x 4 means of the small with 8 x 8 of the large
    small = torch.nn.functional.avg_pool2d(block, 4)
    large = torch.nn.functional.avg_pool2d(whole, 8)
    assert (small - large).abs().max() < 0.05


# Parquet


def test_parquet_reads_what_was_written(three_shards):
    folder, pixels = three_shards
    train = load(str(folder), "train")
    assert train.classes == ("a", "b", "c")
    assert train.labels.tolist() == [k % 3 for k in range(50)]
    assert train.labels.dtype == torch.int64
    read = train.images.read(torch.arange(50))
    assert read.dtype == torch.float32
    expected = torch.from_numpy(pixels).float()[:, None] / 255
    assert torch.equal(read, expected)
    assert torch.equal(in_memory(train.images).values[:, 0], torch.from_numpy(pixels))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.integers(0, 49), max_size=30), cut=st.integers(0, 30))
def test_any_rows_in_any_order_and_blocks(three_shards, rows, cut):
    folder, pixels = three_shards
    images = load(str(folder), "train").images
    rows = torch.tensor(rows, dtype=torch.int64)
    whole = images.read(rows)
    assert torch.equal(whole, torch.from_numpy(pixels[rows.numpy()]).float()[:, None] / 255)
    assert torch.equal(torch.cat([images.read(rows[:cut]), images.read(rows[cut:])]), whole)


@pytest.mark.parametrize("limit", [2, 3, 7, 1000])
def test_no_more_than_one_row_group_or_block_is_in_memory(three_shards, monkeypatch, limit):
    folder, pixels = three_shards
    monkeypatch.setattr(parquet, "ROWS_IN_MEMORY", limit)
    images = ParquetImages(sorted(folder.glob("data/*")))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0)).tolist()
    for row in [*range(50), *order]:
        got = images.read(torch.tensor([row]))[0, 0]
        assert torch.equal(got, torch.from_numpy(pixels[row]).float() / 255)
        assert 0 < len(images._block) <= min(limit, 7)  # row groups of the fixture hold 7


def test_each_block_is_read_once_in_a_read(three_shards, monkeypatch):
    folder, _ = three_shards
    images = ParquetImages(sorted(folder.glob("data/*")))
    opened = []
    original = parquet._blocks
    monkeypatch.setattr(parquet, "_blocks", lambda *place: opened.append(place) or original(*place))
    images.read(torch.arange(50).flip(0))
    # 20 = 7 + 7 + 6, 1, 29 = 4 * 7 + 1: nine row groups
    # the first of them is in memory since its image told the shape
    assert opened == images._groups[1:]
    assert len(opened) == 8


def test_without_names_classes_are_numbers(tmp_path):
    image = encoded(random_pixels(1)[0])
    write(tmp_path / "test-00000-of-00001.parquet", [image] * 3, [0, 4, 1], label="fine_label")
    assert load(str(tmp_path), "test").classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize("place", ["data", ".", "some_config"])
def test_places_of_split_files(tmp_path, place):
    write(tmp_path / place / "train-00000-of-00001.parquet", [encoded(random_pixels(1)[0])])
    assert len(load(str(tmp_path), "train")) == 1


def test_unknown_split_lists_the_splits(three_shards):
    with pytest.raises(InputError, match=r"no split 'tset' in .*; it has train$"):
        load(str(three_shards[0]), "tset")


def test_two_configurations_are_not_mixed(tmp_path):
    for config in ("a", "b"):
        write(tmp_path / config / "train-0.parquet", [encoded(random_pixels(1)[0])])
    with pytest.raises(InputError, match=r"in several folders; name one: .*a, .*b$"):
        load(str(tmp_path), "train")
    assert len(load(str(tmp_path / "a"), "train")) == 1


def test_a_missing_shard_is_no_smaller_set(tmp_path):
    image = encoded(random_pixels(1)[0])
    write(tmp_path / "train-00000-of-00002.parquet", [image])
    with pytest.raises(InputError, match="has 1 parquet files, but"):
        load(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train[:3]", [0, 1, 2]), ("train[47:]", [47, 48, 49]), ("train[20:22]", [20, 21])],
)
def test_slices(three_shards, split, expected):
    folder, pixels = three_shards
    part = load(str(folder), split)
    assert part.labels.tolist() == [k % 3 for k in expected]
    assert torch.equal(in_memory(part.images).values[:, 0], torch.from_numpy(pixels[expected]))
    assert isinstance(part.images, Rows)


@pytest.mark.parametrize("split", ["train[:51]", "train[5:5]", "train[50:]", "train[9:2]"])
def test_a_slice_beyond_the_rows_is_refused(three_shards, split):
    with pytest.raises(InputError, match="it has 50 rows"):
        load(str(three_shards[0]), split)


@pytest.mark.parametrize("split", ["", "train[-3:]", "train[3]", "train[", "../train", "a b"])
def test_a_split_that_is_no_split(three_shards, split):
    with pytest.raises(InputError, match="give a name, or a name and rows"):
        load(str(three_shards[0]), split)


def test_a_large_row_group_is_streamed(tmp_path):
    noise = np.random.default_rng(0).bytes(40_000 * 800)
    images = [noise[k : k + 800] for k in range(0, len(noise), 800)]
    file = write(tmp_path / "train-0.parquet", images, group=len(images))
    del images
    before, peak, count = pa.total_allocated_bytes(), 0, 0
    blocks = parquet._blocks(file, 0, "image")
    while count < 40_000:
        block = next(blocks)
        count += len(block)
        peak = max(peak, pa.total_allocated_bytes() - before)
        del block
    assert peak < 8e6  # of 32e6 in the row group


# Damaged and odd files


def one_bad(tmp_path, bad, label=0):
    good = encoded(random_pixels(1)[0])
    return write(tmp_path / "train-0.parquet", [good] * 9 + [bad], [0] * 9 + [label])


@pytest.mark.parametrize("bad", [b"", b"no image", encoded(random_pixels(1)[0])[:40]])
def test_an_undecodable_image_is_named(tmp_path, bad):
    images = ParquetImages([one_bad(tmp_path, bad)])
    images.read(torch.arange(9))
    for _ in range(2):
        with pytest.raises(InputError, match=r"^image 9 \(.*train-0.parquet, row group 1\) cannot"):
            images.read(torch.arange(10))
    assert len(images.read(torch.arange(9))) == 9  # and the others still read


def test_an_empty_row_is_named(tmp_path):
    images = ParquetImages([one_bad(tmp_path, None)])
    with pytest.raises(InputError, match=r"^image 9 \(.*\) is empty"):
        images.read(torch.tensor([9]))


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [(random_pixels(1, 6, 4)[0], "(1, 6, 4)"), (random_pixels(1, channels=3)[0], "(3, 5, 4)")],
)
def test_an_image_of_another_shape_is_named(tmp_path, pixels, shape):
    file = one_bad(tmp_path, encoded(pixels))
    message = f"has shape {shape} but the first image has (1, 5, 4)"
    with pytest.raises(InputError, match=re.escape(message) + ".*size= or channels="):
        ParquetImages([file]).read(torch.tensor([9]))
    assert ParquetImages([file], size=4, channels=3).read(torch.arange(10)).shape == (10, 3, 4, 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "WEBP"]),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
    cut=st.integers(0, 400),
)
@pytest.mark.filterwarnings("default")
def test_damaged_bytes_are_an_image_or_an_input_error(tmp_path, kind, at, byte, cut):
    whole = bytearray(encoded(random_pixels(1, 8, 8)[0], kind))
    whole[at % len(whole)] = byte
    try:
        image = _decode.decoded(
            lambda row: bytes(whole[: len(whole) - cut]), str, 0, _decode.Form(4, 3)
        )
    except InputError:
        return
    assert image.shape == (3, 4, 4)


@pytest.mark.parametrize("label", [-2, 3])
def test_a_label_that_is_no_class_is_named(tmp_path, label):
    image = encoded(random_pixels(1)[0])
    write(tmp_path / "test-0.parquet", [image] * 3, [0, label, 1], names=["a", "b", "c"])
    with pytest.raises(InputError, match=f"image 1 has the label {label}; .* 0 to 2"):
        load(str(tmp_path), "test")


def test_labels_of_minus_one_are_none_if_all_are(tmp_path):
    image = encoded(random_pixels(1)[0])
    write(tmp_path / "test-0.parquet", [image] * 3, [-1, -1, -1], names=["a", "b", "c"])
    test = load(str(tmp_path), "test")
    assert (test.labels, test.classes, len(test)) == (None, ("a", "b", "c"), 3)
    assert load(str(tmp_path), "test[1:]").labels is None
    write(tmp_path / "train-0.parquet", [image] * 3, [-1, 1, -1])
    with pytest.raises(InputError, match=r"^2 of 3 images have the label -1, that is none"):
        load(str(tmp_path), "train")


def test_an_empty_label_is_refused(tmp_path):
    write(tmp_path / "test-0.parquet", [encoded(random_pixels(1)[0])] * 2, [0, None])
    with pytest.raises(InputError, match=r"column 'label' of .* has empty rows"):
        load(str(tmp_path), "test")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scan": [{"bytes": b"x"}], "label": [0]}, "the columns scan, label; none .* image="),
        ({"image": ["x"], "label": [0]}, "is string; give the encoded image as binary"),
        ({"image": [b"x"], "img": [b"x"]}, "image, img; several could be .* image="),
        ({"image": pa.array([], pa.struct({"bytes": pa.binary()}))}, "no images"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    with pytest.raises(InputError, match=message):
        load(str(tmp_path), "train")


def test_without_the_extra_parquet_files_are_refused_in_one_sentence(three_shards, monkeypatch):
    folder, _ = three_shards
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"^parquet files need the extra: .*install.*parquet"):
        load(str(folder), "train")


def test_a_file_that_is_not_parquet(tmp_path):
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1 is not all it takes")
    with pytest.raises(InputError, match=r"train-0.parquet cannot be read as a parquet file"):
        load(str(tmp_path), "train")


def test_a_file_damaged_inside(tmp_path):
    pixels = random_pixels(40, 16, 16)
    file = write(tmp_path / "train-0.parquet", [encoded(one) for one in pixels], group=10)
    images = ParquetImages([file])
    content = bytearray(file.read_bytes())
    start = pq.ParquetFile(file).metadata.row_group(3).column(0).dictionary_page_offset
    content[start : start + 40] = b"\xff" * 40
    file.write_bytes(content)
    for _ in range(2):
        with pytest.raises(InputError, match=r"row group 3 of .*train-0.parquet cannot be read"):
            images.read(torch.tensor([35]))
    assert images.read(torch.tensor([5])).shape == (1, 1, 16, 16)


# Colour and size


def read_one(tmp_path, image, name="0.png", **form):
    (tmp_path / "all").mkdir(exist_ok=True)
    image.save(tmp_path / "all" / name)
    return FolderImages(tmp_path, **form).read(torch.tensor([0]))[0]


def test_grey_stays_one_channel(tmp_path):
    pixels = np.array([[0, 51], [102, 255]], dtype=np.uint8)
    read = read_one(tmp_path, Image.fromarray(pixels))
    assert torch.equal(read, torch.from_numpy(pixels).float()[None] / 255)


def test_one_bit_is_black_and_white(tmp_path):
    pixels = np.array([[True, False]])
    assert read_one(tmp_path, Image.fromarray(pixels)).tolist() == [[[1.0, 0.0]]]


def test_sixteen_bits_are_rounded_to_eight(tmp_path):
    # 65535 / 257 = 255; 257 / 257 = 1; 385 / 257 = 1.498 -> 1; 386 / 257 = 1.502 -> 2
    pixels = np.array([[65535, 257, 385, 386]], dtype=np.uint16)
    read = read_one(tmp_path, Image.fromarray(pixels)) * 255
    assert read.round().tolist() == [[[255.0, 1.0, 1.0, 2.0]]]


@pytest.mark.parametrize("mode", ["P", "RGBA", "RGB", "LA"])
def test_everything_else_is_rgb(tmp_path, mode):
    assert read_one(tmp_path, Image.new(mode, (3, 2))).shape == (3, 2, 3)


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30])
    image.info["transparency"] = b"\x00\x80"
    assert (read_one(tmp_path, image)[:, 0, 0] * 255).round().tolist() == [255.0] * 3


def test_channels_convert(tmp_path):
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    # ITU-R 601 luma of red: 0.299 * 255 = 76.2 -> 76
    assert (read_one(tmp_path, red, channels=1) * 255).round().unique().tolist() == [76.0]
    assert read_one(tmp_path, Image.new("L", (2, 2), 9), channels=3).shape == (3, 2, 2)


@pytest.mark.parametrize("shape", [(20, 40), (40, 20), (33, 21), (8, 8), (6, 30)])
def test_size_is_a_centred_square(tmp_path, shape):
    # left-right ramp of 0 .. 1 over the width: the centre of the square is the centre of the ramp
    ramp = np.tile(np.linspace(0, 255, shape[1]).round().astype(np.uint8), (shape[0], 1))
    read = read_one(tmp_path, Image.fromarray(ramp), size=8)
    assert read.shape == (1, 8, 8)
    assert abs(float(read.mean()) - 0.5) < 0.05
    # one pixel of the result spans min(shape) / 8 of the image
    slope = float((read[0, :, 5] - read[0, :, 2]).mean()) / 3
    assert abs(slope - min(shape) / 8 / (shape[1] - 1)) < 0.04


def test_size_that_fits_changes_nothing(tmp_path):
    image = Image.fromarray(random_pixels(1, 6, 6)[0])
    assert torch.equal(read_one(tmp_path, image, size=6), read_one(tmp_path, image))


def test_size_has_no_aliasing(tmp_path):
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)  # half black, half white
    read = read_one(tmp_path, Image.fromarray(board), size=16)
    assert (read - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("form", [{"size": 0}, {"channels": 2}])
def test_size_and_channels_that_cannot_be(tmp_path, form):
    with pytest.raises(InputError, match=next(iter(form))):
        read_one(tmp_path, Image.new("L", (2, 2)), **form)


# Folders of images


def make_folder(folder, counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for k in range(count):
            kind = (".png", ".JPG", ".bmp", ".jpeg")[k % 4]
            Image.new("L", (4, 3), 10 * k).save(folder / name / f"{k}{kind}")
    return folder


def test_a_folder_of_classes(tmp_path):
    folder = make_folder(tmp_path / "pets", {"dog": 2, "cat": 5})
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "README.md").write_text("no class")
    pets = load(str(folder), "train")
    assert pets.classes == ("cat", "dog")
    assert pets.labels.tolist() == [0] * 5 + [1] * 2
    assert (len(pets), pets.images.shape) == (7, (1, 3, 4))
    read = in_memory(pets.images).values.float().mean(dim=(1, 2, 3))
    assert (read - torch.tensor([0.0, 10, 20, 30, 40, 0, 10])).abs().max() <= 1  # JPEG is lossy
    assert torch.equal(
        pets.images.read(torch.tensor([6, 0, 6])),
        torch.cat([pets.images.read(torch.tensor([k])) for k in (6, 0, 6)]),
    )


def test_one_class_is_enough(tmp_path):
    assert load(str(make_folder(tmp_path, {"only": 1})), "train").classes == ("only",)


def test_a_folder_of_splits(tmp_path):
    make_folder(tmp_path, {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1})
    assert len(load(str(tmp_path), "train")) == 5
    assert len(load(str(tmp_path), "val")) == 2
    assert len(load(str(tmp_path / "val"), "val")) == 2
    with pytest.raises(InputError, match=r"no split 'test' in .*; it has train, val$"):
        load(str(tmp_path), "test")


def test_training_images_are_never_given_as_a_test_split(tmp_path):
    make_folder(tmp_path, {"cat": 1})
    with pytest.raises(InputError, match=r"no split 'test' .* it has train only"):
        load(str(tmp_path), "test")


def test_an_empty_class_is_named(tmp_path):
    make_folder(tmp_path, {"cat": 1, "dog": 0})
    with pytest.raises(InputError, match=r"dog holds no images \(.png"):
        load(str(tmp_path), "train")


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*missing"):
        FolderImages(tmp_path / "missing")
    with pytest.raises(InputError, match="holds no images"):
        load(str(tmp_path), "train")


def test_an_undecodable_file_is_named(tmp_path):
    make_folder(tmp_path, {"cat": 2})
    (tmp_path / "cat" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    images = load(str(tmp_path), "train").images
    with pytest.raises(InputError, match=r"^image 2 \(.*9.png\) cannot be decoded"):
        images.read(torch.tensor([2]))


# Names


def test_data_root(tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("DB3KD_DATA", raising=False)
    assert data_root() is None
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert data_root() == Path("../shared/data")
    monkeypatch.setenv("DB3KD_DATA", str(tmp_path / "own"))
    assert data_root() == tmp_path / "own"


def test_names_below_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DB3KD_DATA", str(tmp_path))
    make_folder(tmp_path / "pets", {"cat": 1})
    make_folder(tmp_path / "birds", {"owl": 1})
    assert load("pets", "train").classes == ("cat",)
    with pytest.raises(InputError) as caught:
        load("pet", "train")
    assert str(caught.value) == (
        "no data set 'pet'; give a folder, a hub id (owner/name), or one of birds, pets in"
        f" DB3KD_DATA, which is {tmp_path}"
    )


def test_no_root_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DB3KD_DATA", raising=False)
    with pytest.raises(InputError, match=r"one of \(none\) in DB3KD_DATA, which is not set$"):
        load("mnist", "train")
    monkeypatch.setenv("DB3KD_DATA", str(tmp_path / "missing"))
    with pytest.raises(InputError, match=r"DB3KD_DATA, which is .*missing$"):
        load("mnist", "train")


@pytest.mark.parametrize("name", ["", "/no/such/folder", "./pets", "../pets"])
def test_a_path_that_is_not_there_is_no_hub_id(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no data set"):
        load(name, "train")


def test_the_hub_without_its_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"there is no folder 'owner/name'; .*\[hub\]"):
        load("owner/name", "train")


def test_the_hub_is_asked_for_one_split(tmp_path, monkeypatch):
    write(tmp_path / "data" / "train-00000-of-00001.parquet", [encoded(random_pixels(1)[0])])
    asked = []

    def snapshot_download(name, *, repo_type, allow_patterns):
        asked.append((name, repo_type, allow_patterns))
        return str(tmp_path)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert len(load("owner/name", "train[:1]")) == 1
    assert len(load("owner/name/data", "train")) == 1
    assert asked == [
        ("owner/name", "dataset", ["*train-*.parquet"]),
        ("owner/name", "dataset", ["data/train-*.parquet"]),
    ]
    with pytest.raises(InputError, match=r"'owner/name/other' on the .* no parquet files of split"):
        load("owner/name/other", "train")


def test_the_hub_that_cannot_be_reached(monkeypatch):
    def snapshot_download(name, **_):
        raise OSError("no route to host\nand many lines more")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(InputError, match=r"hub failed: no route to host$"):
        load("owner/name", "train")


# In memory, views and checks


def test_uint8_tensors_are_read_as_parts_of_255():
    images = TensorImages(torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1))
    assert images.eight_bit
    assert torch.equal(images.read(torch.arange(256)).flatten(), torch.arange(256) / 255)
    assert torch.equal(in_memory(Rows(images, torch.arange(256))).values, images.values)


def test_float_tensors_are_kept(tmp_path):
    values = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    images = TensorImages(values)
    assert not images.eight_bit
    assert images.shape == (2, 3, 4)
    assert torch.equal(images.read(torch.tensor([4, 0, 4])), values[[4, 0, 4]])
    assert in_memory(images) is images
    assert torch.equal(in_memory(Rows(images, torch.tensor([3, 1]))).values, values[[3, 1]])


@pytest.mark.parametrize(
    "values", [torch.zeros(3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.float64)]
)
def test_tensors_that_are_no_images(values):
    with pytest.raises(InputError, match=r"shape \(3, 4, 4\)|torch.float64; give float32"):
        TensorImages(values)


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there(tmp_path, row):
    make_folder(tmp_path, {"cat": 5})
    tensors = TensorImages(torch.zeros(5, 1, 3, 4))
    for images in (FolderImages(tmp_path), tensors, Rows(tensors, torch.arange(5))):
        with pytest.raises(InputError, match=f"^row {row} was asked for; there are 5 rows"):
            images.read(torch.tensor([0, row]))
    with pytest.raises(InputError, match=f"^row {row} "):
        subset(DataSet(tensors, torch.zeros(5, dtype=torch.int64), ("a",)), torch.tensor([row]))


def test_subsets_of_subsets():
    whole = DataSet(
        TensorImages(torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1)),
        torch.arange(9),
        tuple("abcdefghi"),
    )
    part = subset(subset(whole, torch.tensor([8, 6, 4, 2])), torch.tensor([3, 0, 0]))
    assert part.labels.tolist() == [2, 8, 8]
    assert in_memory(part.images).values.flatten().tolist() == [2, 8, 8]
    assert part.classes == whole.classes


def test_every_kind_of_images_keeps_the_protocol(three_shards, tmp_path):
    kinds = (
        TensorImages(torch.zeros(2, 1, 5, 4)),
        ParquetImages(sorted(three_shards[0].glob("data/*"))),
        FolderImages(make_folder(tmp_path, {"cat": 1})),
    )
    for images in (*kinds, Rows(kinds[1], torch.tensor([1]))):
        assert isinstance(images, Images)
        assert images.read(torch.arange(0)).shape == (0, *images.shape)
        assert images.read(torch.arange(1)).dtype == torch.float32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0]), "2 images have 1 labels"),
        (torch.tensor([0, 2]), "image 1 has the label 2; with 2 classes a label is 0 to 1"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(InputError, match=message):
        DataSet(TensorImages(torch.zeros(2, 1, 1, 1)), labels, ("a", "b"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "image 1 has a value of nan; give finite values"),
        (float("inf"), "image 1 has a value of inf; give finite values"),
        (1.5, r"image 1 has a value of 1.5, out of the bounds \[0.0, 1.0\]"),
        (-1e-9, r"image 1 has a value of -9.99999972e-10, out"),
    ],
)
def test_check_images_names_the_first_bad_row(value, message):
    images = torch.zeros(4, 1, 2, 2)
    images[1, 0, 1, 1] = images[3] = value
    with pytest.raises(InputError, match=message):
        check_images(images, (0.0, 1.0))


def test_check_images_takes_what_is_in_bounds():
    check_images(torch.tensor([-2.0, 3.0]).reshape(2, 1, 1, 1), (-2.0, 3.0))
    check_images(torch.zeros(0, 1, 2, 2), (0.0, 1.0))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 2, 2), r"shape \(1, 2, 2\); give four dimensions"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.float64), "torch.float64; give float32"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "torch.uint8; give float32"),
    ],
)
def test_check_images_wants_float32_of_four_dimensions(images, message):
    with pytest.raises(InputError, match=message):
        check_images(images, (0.0, 1.0))


# Odd files


def odd_parquet(folder: Path, images: Any, labels: Any, told: Any = None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"image": images, "label": labels}).replace_schema_metadata(told)
    pq.write_table(table, folder / "train-00000-of-00001.parquet", compression="none")
    return folder / "train-00000-of-00001.parquet"


def one_png() -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.new("L", (8, 8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("label", [100_000, 10**9, 2**63 - 1])
def test_a_label_that_counts_no_classes(tmp_path: Path, label: int) -> None:
    odd_parquet(tmp_path, [{"bytes": one_png()}] * 3, [0, 1, label])
    with pytest.raises(InputError, match=f"is {label}, but labels count classes from 0"):
        load(str(tmp_path), "train")


@pytest.mark.parametrize("value", ["abc", 7_000_000_000, 0.5, [b"x"]])
def test_images_that_are_not_bytes(tmp_path: Path, value: Any) -> None:
    odd_parquet(tmp_path, [{"bytes": value}] * 3, [0, 1, 0])
    with pytest.raises(InputError, match="give the encoded image as binary"):
        load(str(tmp_path), "train")


@pytest.mark.parametrize(
    "told",
    [b'{"info":' * 100_000, b"[]", b'{"info": {"features": {"label": {"names": "ab"}}}}', b"\xff"],
)
def test_metadata_that_names_no_classes(tmp_path: Path, told: bytes) -> None:
    odd_parquet(tmp_path, [{"bytes": one_png()}] * 4, [0, 1, 0, 1], {b"huggingface": told})
    assert load(str(tmp_path), "train").classes == ("0", "1")


def test_a_damaged_column_of_labels(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    file = odd_parquet(tmp_path, [{"bytes": one_png()}] * 400, [0, 1] * 200)
    column = pq.ParquetFile(file).metadata.row_group(0).column(1)
    first, size = column.dictionary_page_offset, column.total_compressed_size
    content = bytearray(file.read_bytes())
    content[first : first + size] = b"\xff" * size
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"column 'label' of .* cannot be read"):
        load(str(tmp_path), "train")


@pytest.mark.parametrize("size", [8193, 2**40, 2**63 - 1])
def test_a_size_that_cannot_be(tmp_path: Path, size: int) -> None:
    odd_parquet(tmp_path, [{"bytes": one_png()}] * 2, [0, 1])
    with pytest.raises(InputError, match="give the side of the image"):
        load(str(tmp_path), "train", size=size)


@pytest.mark.parametrize("split", ["train[:" + "9" * 5000 + "]", "\0", "x" * 10**6])
def test_a_split_that_cannot_be(tmp_path: Path, split: str) -> None:
    odd_parquet(tmp_path, [{"bytes": one_png()}] * 2, [0, 1])
    with pytest.raises(InputError) as refused:
        load(str(tmp_path), split)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "~no-such-user/x"])
def test_a_name_that_cannot_be(name: str) -> None:
    with pytest.raises(InputError) as refused:
        load(name, "train")
    assert len(str(refused.value)) < 500


def test_a_folder_that_is_called_like_a_file(tmp_path: Path) -> None:
    file = odd_parquet(tmp_path, [{"bytes": one_png()}] * 2, [0, 1])
    file.unlink()
    file.mkdir()
    with pytest.raises(InputError):
        load(str(tmp_path), "train")


def test_two_splits_are_taken_one_after_the_other(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("train", "dog"), ("validation", "cat")):
        (tmp_path / split / name).mkdir(parents=True)
        Image.new("L", (2, 2), len(split)).save(tmp_path / split / name / "0.png")
    Image.new("L", (2, 2)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(InputError, match="the same classes, got cat, dog and cat"):
        load(str(tmp_path), "train+validation")
    (tmp_path / "validation" / "dog").mkdir()
    Image.new("L", (2, 2), 9).save(tmp_path / "validation" / "dog" / "0.png")
    data = load(str(tmp_path), "train+validation[1:]")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert (data.images.read(torch.tensor([3])) * 255).round().unique().tolist() == [9]
    with pytest.raises(NoSplit):
        load(str(tmp_path), "train+test")
