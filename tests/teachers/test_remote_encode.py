"""Images as they are sent, and answers as class indices."""

import hashlib
import pickle
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from db3kd.config.remote import Encoding, Names, Remote
from db3kd.errors import InputError, TeacherError
from db3kd.stages.through_leader import Described
from db3kd.teachers.base import Bounds
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote import remote
from db3kd.teachers.remote.names import LabelMap

BOUNDS = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-2.1, 2.64)]
RGB = torch.tensor([[10, 20], [30, 40], [50, 60]], dtype=torch.uint8).reshape(1, 3, 1, 2)
RED_GREEN_BLUE = torch.eye(3).reshape(1, 3, 1, 3)  # three pixels beside each other


def noise(rows: int, *shape: int, seed: int = 5) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed))


def smooth(rows: int, channels: int = 1, seed: int = 5) -> Tensor:
    small = noise(rows, channels, 4, 4, seed=seed)
    return torch.nn.functional.interpolate(small, (16, 16), mode="bilinear")


def opened(file: bytes) -> np.ndarray[tuple[int, ...], Any]:
    """A file as Pillow reads it: (height, width, channels) or (height, width)."""
    return np.asarray(Image.open(BytesIO(file)))


# What the teacher sees


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("kind", ["uint8", "png"])
def test_eight_bits_are_within_half_a_level_and_stay(
    kind: Any, bounds: tuple[float, float]
) -> None:
    encoder = Encoder(Encoding(kind=kind), (3, 5, 4), bounds)
    images = noise(40, 3, 5, 4) * (bounds[1] - bounds[0]) + bounds[0]
    seen = encoder.seen(images)
    width = (bounds[1] - bounds[0]) / 255
    assert encoder.levels == pytest.approx(width)
    assert float((seen - images).abs().max()) <= width * 0.5001
    assert torch.equal(encoder.seen(seen), seen)
    assert seen.min() >= bounds[0]
    assert seen.max() <= bounds[1]
    assert encoder.keys(seen) == encoder.keys(images)


def test_levels_from_0_to_1_are_those_of_our_data() -> None:
    levels = torch.arange(256).float().div(255).reshape(256, 1, 1, 1)
    encoder = Encoder(Encoding(), (1, 1, 1))
    assert torch.equal(encoder.seen(levels), levels)
    values = [int(opened(file)[0, 0]) for file in encoder.files(levels)]
    assert values == list(range(256))


def test_float32_is_clipped_alone() -> None:
    encoder = Encoder(Encoding(kind="float32"), (1, 1, 3), (-1.0, 1.0))
    images = torch.tensor([-3.0, 0.123456, 2.0]).reshape(1, 1, 1, 3)
    assert encoder.levels == 0.0
    assert encoder.seen(images).flatten().tolist() == [-1.0, images[0, 0, 0, 1].item(), 1.0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["same", "rgb", "bgr"])
def test_jpeg_that_rests_is_what_is_read(channels: int, order: Any) -> None:
    encoder = Encoder(Encoding(kind="jpeg", quality=90, channels=order), (channels, 16, 16))
    images = smooth(20, channels)
    seen = encoder.seen(images)
    rests = [torch.equal(a, b) for a, b in zip(encoder.seen(seen), seen, strict=True)]
    assert sum(rests) > 10
    assert float((seen - images).abs().mean()) < 4 / 255
    for image, file, rest in zip(seen, encoder.files(seen), rests, strict=True):
        read = np.atleast_3d(opened(file)).transpose(2, 0, 1)
        wanted = (image * 255).round().numpy()
        if order == "bgr":
            wanted = wanted[::-1]
        off = np.abs(read - wanted).max()  # grey sent as colours is three times the same
        assert off == 0 if rest else off <= 8


def test_what_has_no_counterpart_is_rounded_alone() -> None:
    images = smooth(3, 3)
    rounded = Encoder(Encoding(), (3, 16, 16)).seen(images)
    for encoding in (
        Encoding(kind="jpeg", size=(8, 8)),
        Encoding(kind="jpeg", channels="grey"),
        Encoding(kind="uint8", size=(32, 20)),
    ):
        assert torch.equal(Encoder(encoding, (3, 16, 16)).seen(images), rounded)


# What is sent


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_read_as_it_was_written(channels: int) -> None:
    encoder = Encoder(Encoding(), (channels, 7, 9))
    images = noise(6, channels, 7, 9)
    for image, file in zip(encoder.seen(images), encoder.files(images), strict=True):
        read = np.atleast_3d(opened(file)).transpose(2, 0, 1)
        assert np.array_equal(read, (image * 255).round().numpy())
    assert encoder.files(images) == encoder.files(images.clone())


def test_jpeg_is_near_what_was_written_and_better_with_quality() -> None:
    images, errors = smooth(8, 3), []
    for quality in (30, 95):
        files = Encoder(Encoding(kind="jpeg", quality=quality), (3, 16, 16)).files(images)
        read = np.stack([opened(file) for file in files]).transpose(0, 3, 1, 2)
        errors.append(np.abs(read / 255 - images.numpy()).max())
    assert errors[1] < 12 / 255 < errors[0]


@pytest.mark.parametrize(
    ("channels", "pixels"),
    [
        ("same", [[10, 30, 50], [20, 40, 60]]),
        ("rgb", [[10, 30, 50], [20, 40, 60]]),
        ("bgr", [[50, 30, 10], [60, 40, 20]]),
        ("grey", [[26], [36]]),  # 0.299 * 10 + 0.587 * 30 + 0.114 * 50 = 26.3
    ],
)
def test_channels_of_hand_made_pixels(channels: Any, pixels: list[list[int]]) -> None:
    images = RGB.float() / 255
    array = Encoder(Encoding(kind="uint8", channels=channels, layout="hwc"), (3, 1, 2))
    assert array.arrays(images)[0, 0].tolist() == pixels
    png = Encoder(Encoding(channels=channels), (3, 1, 2))
    assert np.atleast_3d(opened(png.files(images)[0]))[0].tolist() == pixels
    floats = Encoder(Encoding(kind="float32", channels=channels, scale=255.0), (3, 1, 2))
    assert np.allclose(floats.arrays(images)[0, :, 0].T, pixels, atol=0.5)


def test_grey_is_sent_three_times_and_weighed_as_pillow_does() -> None:
    grey = torch.tensor([[0.0, 0.2]]).reshape(1, 1, 1, 2)
    for channels in ("rgb", "bgr"):
        encoder = Encoder(Encoding(kind="uint8", channels=channels), (1, 1, 2))
        assert encoder.arrays(grey).tolist() == [[[[0, 51]], [[0, 51]], [[0, 51]]]]
    assert Encoder(Encoding(kind="uint8", channels="grey"), (1, 1, 2)).arrays(grey).size == 2
    ours = Encoder(Encoding(kind="uint8", channels="grey"), (3, 1, 3)).arrays(RED_GREEN_BLUE)
    theirs = Image.fromarray((RED_GREEN_BLUE[0] * 255).byte().permute(1, 2, 0).numpy()).convert("L")
    assert ours.ravel().tolist() == np.asarray(theirs).ravel().tolist() == [76, 150, 29]


def test_layouts_and_numbers() -> None:
    images = RGB.float() / 255
    arrays = {
        layout: Encoder(Encoding(kind="uint8", layout=layout), (3, 1, 2)).arrays(images)
        for layout in ("chw", "hwc", "flat")
    }
    assert {name: array.shape for name, array in arrays.items()} == {
        "chw": (1, 3, 1, 2),
        "hwc": (1, 1, 2, 3),
        "flat": (1, 6),
    }
    assert arrays["flat"].tolist() == [[10, 20, 30, 40, 50, 60]]
    assert all(array.dtype == np.uint8 and array.flags.c_contiguous for array in arrays.values())

    encoding = Encoding(kind="float32", scale=2.0, mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 4.0))
    encoder = Encoder(encoding, (3, 1, 1), (-1.0, 1.0))
    sent = encoder.arrays(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1))
    assert sent.dtype == np.float32
    assert sent.ravel().tolist() == [0.0, 0.0, 0.0]
    one = Encoding(kind="float32", mean=(0.5,), std=(0.5,), channels="bgr")
    assert Encoder(one, (3, 1, 2)).arrays(torch.ones(1, 3, 1, 2)).tolist() == [[[[1.0, 1.0]]] * 3]


def test_size_is_made_as_pillow_makes_it() -> None:
    images = smooth(1, 1)
    for size in ((8, 8), (32, 24)):
        ours = Encoder(Encoding(kind="uint8", size=size), (1, 16, 16)).arrays(images)
        grey = Image.fromarray((images[0, 0] * 255).round().byte().numpy())
        theirs = np.asarray(grey.resize(size[::-1], Image.Resampling.BILINEAR))
        assert ours.shape == (1, 1, *size)
        assert np.abs(ours[0, 0].astype(int) - theirs).max() <= 1
        file = Encoder(Encoding(size=size), (1, 16, 16)).files(images)[0]
        assert np.array_equal(opened(file), ours[0, 0])
    same = Encoder(Encoding(kind="jpeg", size=(16, 16)), (1, 16, 16))
    assert not same.resizes


KINDS = [
    Encoding(kind="float32", mean=(0.5,), std=(0.2,)),
    Encoding(kind="float32", size=(5, 3), layout="flat"),
    Encoding(kind="uint8", size=(9, 3), channels="bgr", layout="hwc"),
    Encoding(),
    Encoding(kind="jpeg", channels="grey"),
]


@pytest.mark.parametrize("encoding", KINDS, ids=str)
def test_an_image_is_sent_alike_alone_and_in_any_memory_order(encoding: Encoding) -> None:
    encoder = Encoder(encoding, (3, 6, 6))
    images = noise(9, 3, 6, 6)
    together, seen = encoder.keys(images), encoder.seen(images)
    assert together == [encoder.keys(image[None])[0] for image in images]
    assert torch.equal(seen, torch.cat([encoder.seen(image[None]) for image in images]))
    last = images.to(memory_format=torch.channels_last)
    assert together == encoder.keys(last)
    assert together[::2] == encoder.keys(images[::2])
    assert encoder.keys(images[:0]) == []
    assert encoder.seen(images[:0]).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("encoding", KINDS, ids=str)
@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(0, 1023), min_size=2, max_size=2), at=st.integers(0, 107))
def test_keys_are_equal_if_what_is_sent_is(encoding: Encoding, values: list[int], at: int) -> None:
    encoder = Encoder(encoding, (3, 6, 6))
    images = noise(1, 3, 6, 6).repeat(2, 1, 1, 1)
    images.view(2, -1)[:, at] = torch.tensor(values) / 1023
    if encoder.is_file:
        sent = encoder.files(images)
        assert encoder.keys(images) == [hashlib.sha256(file).digest() for file in sent]
    else:
        sent = [array.tobytes() for array in encoder.arrays(images)]
    one, other = encoder.keys(images)
    assert (one == other) == (sent[0] == sent[1])
    assert len(one) == 32


def test_keys_tell_kinds_and_shapes_apart_but_not_the_sign_of_zero() -> None:
    flat = torch.zeros(1, 1, 2, 3)
    encodings = (Encoding(kind="uint8"), Encoding(kind="uint8", layout="flat"), Encoding())
    keys = {Encoder(encoding, (1, 2, 3)).keys(flat)[0] for encoding in encodings}
    keys |= {
        Encoder(encoding, (1, 3, 2)).keys(flat.reshape(1, 1, 3, 2))[0] for encoding in encodings
    }
    assert len(keys) == 5  # flat arrays of 2 by 3 and 3 by 2 are sent alike
    floats = Encoder(Encoding(kind="float32"), (1, 2, 3))
    assert floats.keys(-flat) == floats.keys(flat)


@pytest.mark.parametrize(
    ("encoding", "shape", "bounds", "message"),
    [
        ({"mean": (0.5,)}, (1, 2, 2), (0, 1), "mean, std and scale are for kind 'float32' alone"),
        ({"kind": "jpeg", "scale": 2.0}, (1, 2, 2), (0, 1), "for kind 'float32' alone"),
        ({"kind": "float32", "mean": (0.5,)}, (1, 2, 2), (0, 1), "mean and std belong together"),
        ({"kind": "float32", "std": (0.5,)}, (1, 2, 2), (0, 1), "mean and std belong together"),
        (
            {"kind": "float32", "mean": (0.0, 0.0), "std": (1.0,)},
            (3, 2, 2),
            (0, 1),
            "mean has 2 numbers; give one, or 3",
        ),
        (
            {"kind": "float32", "mean": (0.0,) * 3, "std": (1.0,) * 3, "channels": "grey"},
            (3, 2, 2),
            (0, 1),
            "mean has 3 numbers; give one, or 1",
        ),
        ({"kind": "float32", "mean": (0.0,), "std": (0.0,)}, (1, 2, 2), (0, 1), r"\$.std"),
        ({"kind": "float32", "mean": (float("nan"),), "std": (1.0,)}, (1, 2, 2), (0, 1), "finite"),
        ({"kind": "jpeg", "quality": 0}, (1, 2, 2), (0, 1), r"\$.quality"),
        ({"layout": "hwc"}, (1, 2, 2), (0, 1), "layout 'hwc' is for arrays, and 'png' is a file"),
        ({}, (2, 2, 2), (0, 1), "png needs images of 1 or 3 channels, and these have 2"),
        ({"kind": "uint8", "channels": "rgb"}, (4, 2, 2), (0, 1), "channels 'rgb' needs images"),
        ({}, (1, 0, 2), (0, 1), "shape must be"),
        ({}, (1, 2, 2), (1, 1), "bounds must be"),
        ({}, (1, 2, 2), (0, float("inf")), "bounds must be"),
        ({}, (1, 2, 2), (1e6, 1e6 + 1), "fewer than 256 values"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    encoding: dict[str, Any], shape: tuple[int, int, int], bounds: tuple[float, float], message: str
) -> None:
    low, high = bounds
    with pytest.raises(InputError, match=message) as raised:
        Encoder(Encoding(**encoding), shape, (float(low), float(high)))
    assert "\n" not in str(raised.value)


def test_images_that_cannot_be_sent_are_refused() -> None:
    encoder = Encoder(Encoding(), (1, 2, 2))
    with pytest.raises(InputError, match="set up for"):
        encoder.seen(torch.zeros(1, 1, 2, 3))
    broken = torch.zeros(3, 1, 2, 2)
    broken[1, 0, 1, 1] = float("nan")
    for ask in (encoder.seen, encoder.files, encoder.keys):
        with pytest.raises(InputError, match="image 1 has a value of nan"):
            ask(broken)
    with pytest.raises(InputError, match="ask for files"):
        encoder.arrays(torch.zeros(1, 1, 2, 2))
    with pytest.raises(InputError, match="ask for arrays"):
        Encoder(Encoding(kind="uint8"), (1, 2, 2)).files(torch.zeros(1, 1, 2, 2))


# Names

CATS = ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "classes", "answer", "index"),
    [
        (Names(), 3, 2, 2),
        (Names(), 3, 2.0, 2),
        (Names(), 3, "2", 2),
        (Names(synonyms={"two": "2"}), 3, "two", 2),
        (Names(names=CATS), 2, "dog", 1),
        (Names(names=CATS), 2, 1, 1),
        (Names(names=CATS, ignore_case=True), 2, "DOG", 1),
        (Names(names=CATS, synonyms={"puppy": "dog"}), 2, "puppy", 1),
        (Names(names=CATS, synonyms={"281": "cat"}), 2, 281, 0),
        (Names(names=CATS, synonyms={"Puppy": "Dog"}, ignore_case=True), 2, "puppy", 1),
        (Names(names=("7", "3")), 2, 3, 1),
        (Names(names=("7", "3")), 2, 3.0, 1),
        (Names(names=CATS, unknown="other"), 3, "cow", 2),
        (Names(names=CATS, unknown="other"), 3, 2, 2),
        (Names(names=CATS, unknown="other"), 3, None, 2),
        (Names(names=CATS, unknown="other"), 3, ["cat"], 2),
        (Names(names=CATS, unknown="other"), 3, "", 2),
        (Names(names=CATS, unknown="other"), 3, float("nan"), 2),
        (Names(unknown="other"), 3, 7, 2),
        (Names(unknown="other"), 3, 1, 1),
    ],
)
def test_answers_that_are_classes(names: Names, classes: int, answer: object, index: int) -> None:
    assert LabelMap(names, classes).index(answer) == index


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        *((Names(), answer) for answer in (2, -1, 0.5, "cat", "", "2.0", "٢", None, [], 10**400)),
        *((Names(), answer) for answer in (float("inf"), float("nan"), True, "9" * 5000)),
        *((Names(names=CATS), answer) for answer in ("Cat", "cats", "1", 2, True, None, "x" * 500)),
        *((Names(unknown="extend"), answer) for answer in ("", None, 0.5, "x" * 1001, "\ud800")),
        (Names(names=("7", "3")), 1),
        (Names(names=("cat",), unknown="other"), True),
        (Names(names=("cat",), unknown="other"), {"cat": 1}),
    ],
)
def test_answers_that_are_none(names: Names, answer: object) -> None:
    with pytest.raises(TeacherError) as raised:
        LabelMap(names, 2).index(answer)
    assert len(str(raised.value)) < 300
    assert str(raised.value).isprintable()


def test_names_are_learned_in_order_and_kept() -> None:
    names = Names(names=("cat",), unknown="extend", ignore_case=True, synonyms={"puppy": "Dog"})
    labels = LabelMap(names, 3)
    assert [labels.index(said) for said in ("Cow", "CAT", "cow", "puppy", "dog")] == [1, 0, 1, 2, 2]
    assert labels.learned == ("Cow", "Dog")
    with pytest.raises(TeacherError, match="all 3 classes have other names"):
        labels.index("ant")
    again = LabelMap(names, 3, labels.learned)
    assert [again.index(said) for said in ("dog", "cat", "COW")] == [2, 0, 1]
    numbers = LabelMap(Names(unknown="extend"), 3)
    assert [numbers.index(said) for said in (281, 5.0, "281", 0)] == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("names", "classes", "learned", "message"),
    [
        (Names(), 1, (), "at least 2 classes"),
        (Names(names=CATS), 3, (), "2 names do not make 3 classes"),
        (Names(names=CATS, unknown="other"), 2, (), 'one class for "other" do not make 2'),
        (Names(names=("a", "b", "c"), unknown="extend"), 2, (), "3 names do not make 2"),
        (Names(names=("a", "a")), 2, (), "must be different and not empty"),
        (Names(names=("a", "A"), ignore_case=True), 2, (), "must be different"),
        (Names(names=("a", "")), 2, (), "not empty"),
        (Names(names=CATS, synonyms={"puppy": "hound"}), 2, (), "stands for 'hound'"),
        (Names(names=CATS, synonyms={"dog": "cat"}), 2, (), "is itself a name"),
        (Names(synonyms={"A": "1", "a": "0"}, ignore_case=True), 2, (), "two synonyms"),
        (Names(names=CATS), 2, ("cow",), "learned before"),
        (Names(unknown="extend"), 2, ("a", "b", "c"), "3 names exceed 2 classes"),
    ],
)
def test_names_that_cannot_work_are_refused(
    names: Names, classes: int, learned: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        LabelMap(names, classes, learned)


@settings(max_examples=300, deadline=None)
@given(
    answers=st.lists(
        st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.just([]))
    ),
    unknown=st.sampled_from(["refuse", "other", "extend"]),
    named=st.booleans(),
)
def test_any_answer_is_a_class_or_a_teacher_error(
    answers: list[object], unknown: Any, named: bool
) -> None:
    names = Names(names=(CATS if unknown == "other" else (*CATS, "cow")) * named, unknown=unknown)
    labels = LabelMap(names, 3)
    for answer in answers:
        try:
            index = labels.index(answer)
        except TeacherError:
            continue
        assert 0 <= index < 3
        assert labels.index(answer) == index  # and the second time the same


@pytest.mark.parametrize("kind", ["png", "jpeg", "uint8", "float32"])
def test_the_bounds_of_a_remote_teacher_can_be_sent_to_a_worker(kind: Any) -> None:
    encoding = Encoding(kind=kind, size=(6, 6) if kind == "png" else None)
    teacher = remote(
        Remote(url="http://localhost", protocol="oip", model="m", encoding=encoding), classes=3
    )
    images = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    again = pickle.loads(pickle.dumps(Described.of(teacher, {})))
    assert (again.bounds, again.classes) == ((0.0, 1.0), 3)
    assert isinstance(again.bounds, Bounds) == (kind != "float32")
    if isinstance(again.bounds, Bounds):
        assert again.bounds.level == teacher.bounds.level
        assert torch.equal(again.bounds.seen(images), teacher.seen(images))
    teacher.close()
