"""Images from Python: arrays, tensors, PIL images, and what is none of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from db3kd import Run
from db3kd.config.settings import Spend, Training
from db3kd.data import DataSet, TensorImages, images_of
from db3kd.data.labelled import labels_of
from db3kd.errors import InputError
from db3kd.stages.answers import check_labels
from db3kd.student.networks import build
from db3kd.teachers import function

FIRST = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 6), dtype=np.uint8)


@pytest.mark.parametrize(
    "values",
    [
        FIRST,
        FIRST[::-1][::-1],
        np.asfortranarray(FIRST),
        torch.from_numpy(FIRST),
        FIRST.astype(np.float32) / 255,
        (FIRST.astype(np.float32) / 255).astype(">f4"),
        FIRST.astype(np.float64) / 255,
    ],
)
def test_arrays_are_images(values):
    images = images_of(values)
    assert images.shape == (3, 8, 6)
    assert images.read(torch.arange(5)).dtype == torch.float32
    assert torch.allclose(images.read(torch.arange(5)), torch.from_numpy(FIRST) / 255)


def test_an_array_that_cannot_be_written_to():
    frozen = FIRST.copy()
    frozen.flags.writeable = False
    assert torch.equal(TensorImages(frozen).values, torch.from_numpy(FIRST))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_channels_last_is_refused_by_name(channels, kind):
    values = np.zeros((4, 32, 32, channels), kind)
    for given, how in ((values, "transpose"), (torch.from_numpy(values), "permute")):
        with pytest.raises(InputError, match=rf"channels last; .* images.{how}\(0, 3, 1, 2\)"):
            TensorImages(given)
    assert TensorImages(values.transpose(0, 3, 1, 2)).shape == (channels, 32, 32)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 28, 28), (2, 3, 3, 3), (2, 8, 1, 1)])
def test_channels_first_is_taken(shape):
    assert TensorImages(np.zeros(shape, np.uint8)).shape == shape[1:]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"shape \(4, 8, 8\); .* images\[:, None\]"),
        (np.zeros(4, np.uint8), r"shape \(4,\); give four dimensions"),
        (np.zeros((1, 1, 2, 2), np.int64), "are int64; give float32, or uint8"),
        (np.full((1, 1, 2, 2), np.nan), "not finite"),
        (np.full((1, 1, 2, 2), 1e300), "not finite"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.float64), "torch.float64; give float32"),
    ],
)
def test_arrays_that_are_no_images(values, words):
    with pytest.raises(InputError, match=words):
        images_of(values)


def test_images_are_taken_as_they_are():
    images = TensorImages(FIRST)
    assert images_of(images) is images


def test_bright_floats_are_not_scaled():
    assert images_of(np.full((1, 1, 2, 2), 200.0)).read(torch.tensor([0])).max() == 200


def test_pil_images_are_as_in_files():
    clear = Image.new("RGBA", (6, 8), (0, 0, 0, 0))
    turned = Image.new("RGB", (8, 6), "red")
    turned.getexif()[0x0112] = 6
    images = images_of([clear, turned])
    assert images.shape == (3, 8, 6)
    assert images.read(torch.arange(2))[:, :, 0, 0].tolist() == [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    deep = [Image.fromarray(np.array([[value]], np.uint16)) for value in (1000, 4095)]
    found = images_of(deep).read(torch.arange(2)) * 255
    assert found.flatten().round().tolist() == [62.0, 255.0]


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, row):
        return torch.zeros(1, 4, 4), 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([(torch.zeros(1, 4, 4), 0)] * 2, r"list of tuples of 2; .* torch.stack"),
        ([torch.zeros(1, 4, 4)] * 2, r"list of arrays of shape \(1, 4, 4\); .* torch.stack"),
        ([np.zeros((1, 4, 4))] * 2, "numpy.stack"),
        ([Image.new("L", (2, 2)), Image.new("L", (3, 2))], "image 1 has shape .*one size"),
        (["a.png"], "list of str"),
        ([], "an empty list"),
        (Path("photos"), "are a path, 'photos'; open it by db3kd.load"),
        (DataSet(TensorImages(FIRST), None, ()), "its images, by .images"),
        (Pairs(), r"Pairs, as data sets of torch are; stack"),
        (3, "are a builtins.int; give images"),
        (None, "NoneType; give images"),
    ],
)
def test_what_is_none_is_named(given, words):
    with pytest.raises(InputError, match=words):
        images_of(given)


@pytest.mark.parametrize(
    "labels",
    [
        [2, 0],
        (2, 0),
        np.array([2, 0]),
        np.array([2, 0], "uint8"),
        np.array([2, 0], ">i4"),
        torch.tensor([2, 0], dtype=torch.int32),
    ],
)
def test_labels_of_many_types(labels: Any) -> None:
    found = labels_of(labels)
    assert (found.dtype, found.tolist()) == (torch.int64, [2, 0])
    assert torch.equal(check_labels(labels, count=2, classes=3), found)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.eye(3), r"shape \(3, 3\); give one .* by labels.argmax\(1\) if they are one-hot"),
        (torch.zeros(3, 1).long(), r"shape \(3, 1\); give one .* by labels.reshape\(-1\)"),
        (np.int64(3), r"shape \(\); give one class number for each image"),
        ([0.5, 1.0], "labels are float64; give whole numbers"),
        (["cat", "dog"], r"labels are texts .*; give class numbers, by \[classes.index"),
        ([[1], [1, 2]], "labels are a list .*; give a tensor, an array or a list"),
    ],
)
def test_labels_that_are_none(labels: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        labels_of(labels)


def test_a_run_takes_labels_as_they_are_before_it_asks_anything(tmp_path: Path) -> None:
    """Labels of NumPy were refused once all answers were paid."""
    teacher = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    images, labels = torch.rand(40, 1, 8, 8), np.arange(40) % 2
    spend = Spend(per_image=1, trial=0)
    network = build("small", (1, 8, 8), 2, seed=0)
    with Run(tmp_path / "run", teacher, progress=False) as run:
        for wrong in (np.eye(2)[labels], np.array(["a", "b"] * 20), labels[:-1], labels + 1):
            with pytest.raises(InputError, match="label"):
                run.spend(images, network, spend, labels=wrong, training=Training(steps=2))
        assert run.meter.spent == 0
        run.answers(images)
        found = run.transfer_set(images, "ce", labels=labels)
        assert found.labels.tolist() == labels.tolist()


def test_tensors_that_hold_no_plain_values() -> None:
    whole = torch.rand(4, 1, 8, 8)
    for wrong in (whole.to_sparse(), whole.to("meta")):
        with pytest.raises(InputError, match="images are a sparse tensor, or one without values"):
            images_of(wrong)
    assert not images_of(whole.requires_grad_()).read(torch.arange(4)).requires_grad
