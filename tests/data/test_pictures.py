"""Kinds and modes of images, as a viewer shows them."""

import logging
import struct
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from db3kd.data import FolderImages, TensorImages, load
from db3kd.data._decode import decoded
from db3kd.data._pixels import Form
from db3kd.data.content import white_of
from db3kd.data.images import Rows
from db3kd.errors import InputError

RAMP = (np.arange(64).reshape(8, 8) * 4).astype(np.uint8)


def saved(folder, *images, end="png", **more):
    """A set of one class of these images."""
    (folder / "all").mkdir(parents=True)
    for row, image in enumerate(images):
        image.save(folder / "all" / f"{row:03}.{end}", **more)
    return folder


def shown(folder, *images, end="png", **more):
    """The pixels of the first of some images, 0 to 255."""
    images = FolderImages(saved(folder, *images, end=end, **more))
    return (images.read(torch.tensor([0]))[0] * 255).round().to(torch.uint8).numpy()


def deep(*values, kind=np.uint16):
    return Image.fromarray(np.array([values], kind))


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        *(("png", "PNG"), ("bmp", "BMP"), ("dib", "DIB"), ("webp", "WEBP"), ("gif", "GIF")),
        *(("ppm", "PPM"), ("pgm", "PPM"), ("pnm", "PPM"), ("tif", "TIFF"), ("TIFF", "TIFF")),
    ],
)
def test_kinds_of_files(tmp_path, end, kind):
    more = {"lossless": True} if kind == "WEBP" else {}
    found = shown(tmp_path, Image.fromarray(RAMP), end=end, format=kind, **more)
    assert np.array_equal(found[0], RAMP)
    assert len({plane.tobytes() for plane in found}) == 1


@pytest.mark.parametrize("end", ["jpg", "jpeg", "jfif", "jpe"])
def test_endings_of_jpeg(tmp_path, end):
    found = shown(tmp_path, Image.fromarray(RAMP), end=end, format="JPEG", quality=95)
    assert np.abs(found[0].astype(int) - RAMP).max() < 16


def test_a_file_is_what_it_is_whatever_its_ending(tmp_path):
    found = shown(tmp_path, Image.new("RGB", (4, 4), "red"), end="jpg", format="GIF")
    assert found[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"%PDF-1.7 ...", "a PDF file"),
        (b"<!DOCTYPE html><title>404", "a web page"),
        (b"<svg xmlns='...'>", "an SVG"),
        (b"\0\0\0 ftypheic\0\0", "a HEIC file"),
        (b"\x89PNG\r\n\x1a\n", "PNG file|cannot be decoded"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"abc", r"it begins with b'abc'"),
    ],
)
def test_what_is_no_image_is_named(content, words):
    with pytest.raises(InputError, match=words) as refused:
        decoded(lambda row: content, "image {} (0.jpg)".format, 3, Form(None, None))
    assert str(refused.value).startswith("image 3 (0.jpg) cannot be decoded: ")
    assert "BytesIO" not in str(refused.value)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PCX", "TGA", "SGI"])
def test_other_decoders_are_not_used(kind):
    file = BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind)
    with pytest.raises(InputError, match="cannot be decoded: it is "):
        decoded(lambda row: file.getvalue(), "image {}".format, 0, Form(None, None))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_nothing_is_white(tmp_path, mode):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 51))
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    if mode == "PA":
        image.putalpha(Image.fromarray(np.array([[0, 255, 51]], np.uint8)))
    found = shown(tmp_path, image, end="png" if mode != "PA" else "tif")
    assert found.shape == (3, 1, 3)
    assert np.abs(found[:, 0].astype(int) - [255, 0, 204]).max() <= 1


def test_a_colour_that_is_transparent_is_white(tmp_path):
    rgb = Image.fromarray(np.array([[[9, 9, 9], [0, 0, 0]]], np.uint8))
    assert shown(tmp_path, rgb, transparency=(9, 9, 9))[0].tolist() == [[255, 0]]
    (tmp_path / "grey").mkdir()
    grey = Image.fromarray(np.array([[9, 0]], np.uint8))
    assert shown(tmp_path / "grey", grey, transparency=9).tolist() == [[[255, 0]]]


def test_palettes_are_rgb_even_if_grey(tmp_path):
    assert shown(tmp_path, Image.new("P", (2, 2), 3)).shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("mode", "end", "colour"),
    [("CMYK", "tif", (0, 255, 255, 0)), ("CMYK", "jpg", (0, 255, 255, 0))],
)
def test_inks_become_light(tmp_path, mode, end, colour):
    found = shown(tmp_path, Image.new(mode, (8, 8), colour), end=end)
    assert np.abs(found[:, 4, 4].astype(int) - [255, 0, 0]).max() < 8


def test_lab_and_luma_become_rgb(tmp_path):
    red = Image.new("RGB", (2, 2), (200, 30, 40))
    to = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    for name, image in (("lab", ImageCms.applyTransform(red, to)), ("ycc", red.convert("YCbCr"))):
        (tmp_path / name).mkdir()
        found = shown(tmp_path / name, image, end="tif")
        assert np.abs(found[:, 0, 0].astype(int) - [200, 30, 40]).max() < 6, name


@pytest.mark.parametrize("end", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns(tmp_path, end, orientation):
    quarters = np.zeros((16, 32), np.uint8)
    quarters[:8, 16:], quarters[8:, :16], quarters[8:, 16:] = 80, 160, 240
    exif = Image.Exif()
    exif[0x0112] = orientation
    # How the tag says that the kept rows and columns lie: the place of its first row and column.
    right = {
        1: quarters,
        2: quarters[:, ::-1],
        3: quarters[::-1, ::-1],
        4: quarters[::-1],
        5: quarters.T,
        6: quarters.T[:, ::-1],
        7: quarters.T[::-1, ::-1],
        8: quarters.T[::-1],
    }[orientation]
    found = shown(tmp_path, Image.fromarray(quarters).convert("RGB"), end=end, exif=exif)[0]
    assert found.shape == right.shape
    assert np.abs(found[4::8, 4::8].astype(int) - right[4::8, 4::8]).max() < 12


def test_damaged_exif_turns_nothing():
    file = BytesIO()
    Image.fromarray(RAMP).save(file, "PNG", exif=b"Exif\0\0MM\0*\xff\xff")
    found = decoded(lambda row: file.getvalue(), str, 0, Form(None, None))
    assert np.array_equal(found[0], RAMP)


# More than 8 bits


@pytest.mark.parametrize(
    ("highest", "top"),
    [(200, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (4096, 65535)],
)
def test_the_fewest_bits_that_hold_the_first_images(tmp_path, caplog, highest, top):
    with caplog.at_level(logging.WARNING, logger="db3kd"):
        found = shown(tmp_path, deep(0, 100), deep(highest, 0))
    assert found.tolist() == [[[0, round(100 * 255 / top)]]]
    notes = [note.getMessage() for note in caplog.records]
    if top == 65535:
        assert not notes
    else:
        (note,) = notes
        assert f"nothing above {top}, so {top} is taken as white" in note


def test_sets_of_another_white_are_not_taken_together(tmp_path):
    for split, highest in (("train", 4000), ("test", 60000), ("val", 3000)):
        saved(tmp_path / split, deep(highest))
    dark, light, like = (load(str(tmp_path), split).images for split in ("train", "test", "val"))
    plain = TensorImages(torch.zeros(1, 1, 1, 1))
    assert white_of([dark, plain, Rows(like, torch.tensor([0]))]) == 4095
    assert white_of([light]) == 65535
    assert white_of([plain]) is None
    with pytest.raises(InputError, match="4095 for white in one set and 65535 in another; convert"):
        white_of([dark, light])
    with pytest.raises(InputError, match="for white in one set"):
        load(str(tmp_path), "train+test")


def test_an_image_is_not_stretched_on_its_own(tmp_path):
    images = FolderImages(saved(tmp_path, deep(1000), deep(4000)))
    assert (images.read(torch.tensor([0, 1])).flatten() * 255).round().tolist() == [62.0, 249.0]


def test_an_image_above_the_white_of_the_set_is_refused(tmp_path):
    images = FolderImages(saved(tmp_path, *[deep(4000)] * 64, deep(5000)))
    with pytest.raises(InputError, match=r"^image 64 \(.*064.png\) has a value of 5000, but"):
        images.read(torch.tensor([64]))
    assert "4095" in str(images.fault(64))


def test_darkness_says_nothing_about_bits(tmp_path):
    images = FolderImages(saved(tmp_path, *[deep(0)] * 64, deep(65535)))
    assert images.read(torch.tensor([64])).item() == 1.0


@pytest.mark.parametrize(
    ("values", "kind", "end", "expected"),
    [
        ((0, 65535), np.int32, "tif", [0, 255]),
        ((0.0, 0.2, 1.0), np.float32, "tif", [0, 51, 255]),
        ((0.0, 51.0, 255.0), np.float32, "tif", [0, 51, 255]),
        ((0, 65535), np.uint16, "tif", [0, 255]),
        ((0, 257, 65535), np.uint16, "pgm", [0, 1, 255]),
    ],
)
def test_other_deep_images(tmp_path, values, kind, end, expected):
    assert shown(tmp_path, deep(*values, kind=kind), end=end).tolist() == [[expected]]


@pytest.mark.parametrize("values", [(-1, 5), (0, 70000), (0.0, float("nan"))])
def test_values_that_are_no_light(tmp_path, values):
    kind = np.float32 if isinstance(values[0], float) else np.int32
    with pytest.raises(InputError, match=r"holds values from .*; give 8 or 16 bits"):
        shown(tmp_path, deep(*values, kind=kind), end="tif")


def test_the_white_of_a_set_is_part_of_its_digest(tmp_path):
    for name, last in (("a", 4000), ("b", 5000)):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, deep(1000), deep(last))
    from db3kd.data.content import content_of

    a, b = (FolderImages(tmp_path / name) for name in "ab")
    first = torch.tensor([0])
    assert a.encoded(0) == b.encoded(0)
    assert content_of(a, first, 1) != content_of(b, first, 1)


# Frames and sizes


@pytest.mark.parametrize(("end", "kind"), [("gif", "GIF"), ("tif", "TIFF"), ("webp", "WEBP")])
def test_the_first_frame_is_taken_and_this_is_said_once(tmp_path, caplog, end, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    folder = tmp_path / "all"
    folder.mkdir()
    for row in range(3):
        more = {"lossless": True} if kind == "WEBP" else {}
        frames[0].save(
            folder / f"{row}.{end}", kind, save_all=True, append_images=frames[1:], **more
        )
    with caplog.at_level(logging.WARNING, logger="db3kd"):
        found = load(str(tmp_path), "train").images.read(torch.arange(3))
    assert found[:, :, 0, 0].tolist() == [[1.0, 0.0, 0.0]] * 3
    assert len([note for note in caplog.records if "several frames" in note.getMessage()]) == 1


@pytest.mark.parametrize(
    ("size", "kept", "box"),
    [
        ((8, 4), (16, 16), (8, 4)),  # too wide: the middle columns
        ((4, 8), (16, 16), (4, 8)),
        ((3, 5), (7, 2), (3, 5)),
        ((16, 16), (16, 16), (16, 16)),
    ],
)
def test_an_oblong_size_covers_the_box(tmp_path, size, kept, box):
    height, width = kept
    ramp = np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))
    images = FolderImages(saved(tmp_path, Image.fromarray(ramp)), size=size)
    found = images.read(torch.tensor([0]))[0]
    assert found.shape == (1, *box)
    assert abs(float(found.mean()) - 0.5) < 0.05  # the middle


@pytest.mark.parametrize("size", [(0, 4), (4, 8193), (4,), (1, 2, 3), (2**40, 1)])
def test_an_oblong_size_that_cannot_be(tmp_path, size):
    with pytest.raises(InputError, match=r"or \(height, width\)"):
        load(str(saved(tmp_path, Image.fromarray(RAMP))), "train", size=size)


def test_a_bomb_is_refused_by_its_header():
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 60000, 60000, 1, 24, *[0] * 6)
    with pytest.raises(InputError, match=r"^image 0 is too large"):
        decoded(lambda row: header, "image {}".format, 0, Form(None, None))
