import math
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError

SAMPLES, CLASSES = 5, 3


def example(soft: torch.Tensor | None = None) -> TransferSet:
    images = torch.arange(SAMPLES, dtype=torch.uint8).reshape(SAMPLES, 1, 1, 1).expand(-1, 1, 2, 2)
    own = torch.arange(SAMPLES) % CLASSES
    return TransferSet(
        TensorImages(images.contiguous()), torch.arange(SAMPLES) + 100, own, own.flip(0), soft
    )


def soft_labels() -> torch.Tensor:
    return torch.arange(SAMPLES * CLASSES, dtype=torch.float32).reshape(SAMPLES, CLASSES)


@given(st.lists(st.integers(0, SAMPLES - 1), max_size=8))
def test_everything_about_a_sample_moves_together(rows: list[int]) -> None:
    whole = example(soft_labels())
    part = whole.select(torch.tensor(rows, dtype=torch.int64))
    assert len(part) == len(part.images) == len(rows)
    assert part.soft is not None
    pixels = part.images.read(torch.arange(len(rows)))[:, 0, 0, 0] * 255
    for at, row in enumerate(rows):
        assert round(float(pixels[at])) == row
        assert int(part.ids[at]) == 100 + row
        assert int(part.teacher_labels[at]) == row % CLASSES
        assert int(part.labels[at]) == (SAMPLES - 1 - row) % CLASSES
        assert part.soft[at].tolist() == soft_labels()[row].tolist()


def test_selecting_again_composes() -> None:
    twice = example().select(torch.tensor([4, 2, 0])).select(torch.tensor([2, 0]))
    assert twice.ids.tolist() == [100, 104]
    assert twice.soft is None


def test_with_soft_replaces_and_removes_only_the_soft_labels() -> None:
    plain = example()
    softened = plain.with_soft(soft_labels())
    assert softened.soft is not None
    assert plain.soft is None
    assert softened.with_soft(None).soft is None
    assert torch.equal(softened.labels, plain.labels)


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        example().soft = soft_labels()  # type: ignore[misc]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_soft_labels_must_be_finite(value: float) -> None:
    soft = soft_labels()
    soft[3, 1] = value
    with pytest.raises(InputError, match="row 3"):
        example(soft)


@pytest.fixture
def no_shape_checks() -> Iterator[None]:
    """What a user has: jaxtyping's own checks run in the tests only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("no_shape_checks")
def test_lengths_must_agree() -> None:
    images, four, five = (
        TensorImages(torch.zeros(5, 1, 2, 2)),
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(5, dtype=torch.int64),
    )
    for name, fields in {
        "ids": (four, five, five),
        "teacher_labels": (five, four, five),
        "labels": (five, five, four),
    }.items():
        with pytest.raises(InputError, match=f"{name} must have one row for each of 5 images"):
            TransferSet(images, *fields)
    with pytest.raises(InputError, match="soft must have one row for each of 5 images, got 4"):
        example(torch.zeros(4, CLASSES))


def test_labels_must_be_classes() -> None:
    with pytest.raises(InputError, match=r"teacher_labels must be from 0 to 1.*got 2 in row 2"):
        example(torch.zeros(SAMPLES, 2))
    images, one = TensorImages(torch.zeros(1, 1, 2, 2)), torch.zeros(1).long()
    with pytest.raises(InputError, match="labels must be 0 or above, got -1 in row 0"):
        TransferSet(images, one, one, one - 1)


def test_labels_must_be_int64() -> None:
    images, one = TensorImages(torch.zeros(1, 1, 2, 2)), torch.zeros(1).long()
    with pytest.raises(InputError, match=r"teacher_labels are torch\.int32"):
        TransferSet(images, one, one.int(), one)


def test_rows_outside_are_refused() -> None:
    with pytest.raises(InputError, match="row 5 was asked for"):
        example().select(torch.tensor([0, 5]))


# Some samples with soft labels, some without


def plain(count: int, first: int = 0) -> TransferSet:
    rows = torch.arange(first, first + count)
    return TransferSet(TensorImages(torch.full((count, 1, 2, 2), 0.5)), rows, rows % 3, rows % 3)


def test_joined_sets_keep_their_soft_labels_row_by_row() -> None:
    soft, more = torch.rand(4, 3), torch.rand(2, 3)
    whole = plain(4).with_soft(soft).joined(plain(3, 10)).joined(plain(2, 20).with_soft(more))
    assert whole.ids.tolist() == [0, 1, 2, 3, 10, 11, 12, 20, 21]
    assert whole.soft_rows is not None
    assert whole.soft is not None
    assert whole.soft_rows.tolist() == [0, 1, 2, 3, -1, -1, -1, 4, 5]
    assert torch.equal(whole.soft, torch.cat([soft, more]))
    part = whole.select(torch.tensor([8, 5, 0]))
    assert part.soft_rows is not None
    assert part.soft is not None
    assert part.soft_rows.tolist() == [5, -1, 0]
    assert torch.equal(part.soft[5], more[1])
    assert whole.with_soft(None).soft_rows is None


def test_a_sample_with_a_soft_label_needs_no_other() -> None:
    without = replace(plain(2).with_soft(torch.rand(2, 3)), labels=torch.tensor([-1, -1]))
    whole = plain(4).joined(without)
    assert whole.labels.tolist() == [0, 1, 2, 0, -1, -1]
    assert whole.select(torch.tensor([5, 0])).labels.tolist() == [-1, 0]
    with pytest.raises(InputError, match=r"labels must be .*got -1 in row 0"):
        without.with_soft(None)
    with pytest.raises(InputError, match=r"labels must be .*got -1 in row 4"):
        replace(whole, soft_rows=torch.tensor([-1, -1, -1, -1, -1, 0]))


def test_joined_sets_without_soft_labels_have_none() -> None:
    whole = plain(2).joined(plain(1))
    assert (len(whole), whole.soft, whole.soft_rows) == (3, None, None)


def test_joined_sets_must_be_of_one_kind() -> None:
    with pytest.raises(InputError, match="number of classes"):
        plain(1).with_soft(torch.zeros(1, 3)).joined(plain(1).with_soft(torch.zeros(1, 4)))
    other = TransferSet(TensorImages(torch.zeros(1, 3, 2, 2)), *[torch.zeros(1).long()] * 3)
    with pytest.raises(InputError, match="shapes"):
        plain(1).joined(other)


@pytest.mark.parametrize("rows", [[0, 2], [-2, 0]])
def test_soft_rows_must_be_rows_of_soft(rows: list[int]) -> None:
    whole = plain(2)
    with pytest.raises(InputError, match="soft_rows"):
        replace(whole, soft=torch.zeros(2, 3), soft_rows=torch.tensor(rows))
