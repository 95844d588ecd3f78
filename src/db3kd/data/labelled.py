"""Images with their labels, if they have any, and the names of their classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.data.content import white_of
from db3kd.data.images import Images, Joined, Rows
from db3kd.errors import InputError, plain

Labels = Tensor | np.ndarray | Sequence[int]
"""What `labels_of` takes."""


def labels_of(given: object) -> Int[Tensor, " sample"]:
    """Labels as db3kd takes them, int64, from what a caller has: a tensor, an array, or a list.

    Raises:
        InputError: they are no whole numbers, or not one for each image; the text says what to do.

    >>> labels_of([2, 0])
    tensor([2, 0])
    >>> labels_of(torch.eye(3))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: labels have shape (3, 3); give one class number for each image, by
    labels.argmax(1) if they are one-hot
    """
    try:
        found = given.detach() if isinstance(given, Tensor) else np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"labels are a {plain(type(given).__name__, 60)} ({plain(error, 100)}); give a tensor,"
            " an array or a list of class numbers"
        ) from None
    if isinstance(found, np.ndarray) and found.dtype.kind in "OUST":
        raise InputError(
            "labels are texts or other objects; give class numbers, by"
            " [classes.index(name) for name in labels]"
        )
    if found.ndim != 1:
        advice = ", by labels.argmax(1) if they are one-hot" if found.ndim == 2 else ""
        advice = ", by labels.reshape(-1)" if found.shape[1:] == (1,) else advice
        raise InputError(
            f"labels have shape {tuple(found.shape)}; give one class number for each image{advice}"
        )
    if isinstance(found, np.ndarray) and found.dtype.kind in "iub":
        found = torch.from_numpy(found.astype(np.int64))
    if isinstance(found, np.ndarray) or found.is_floating_point() or found.is_complex():
        raise InputError(f"labels are {found.dtype}; give whole numbers, as int64 has them")
    return found.long()


@dataclass(frozen=True)
class DataSet:
    """Images, their labels (int64, shape (sample,)) and the names of all classes.

    Without labels `labels` is None, and `classes` may be empty. Labels that are all -1 are none.
    Labels may be given as `labels_of` takes them.

    Raises:
        InputError: images and labels differ in number, the labels are no whole numbers, a label is
            not the number of a class, or the images are not `Images`.

    >>> from db3kd.data import TensorImages
    >>> images = TensorImages(torch.zeros(2, 1, 4, 4))
    >>> DataSet(images, torch.tensor([-1, -1]), ("cat", "dog")).labels is None
    True
    >>> DataSet(images, torch.tensor([0, 2]), ("cat", "dog"))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: image 1 has the label 2; with 2 classes a label is 0 to 1
    """

    images: Images
    labels: Int[Tensor, " sample"] | None
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.images, Images):
            raise InputError(
                f"the images are a {plain(type(self.images).__name__, 60)}; give them by"
                " db3kd.data.images_of"
            )
        classes: object = self.classes
        if not isinstance(classes, Sequence) or isinstance(classes, str):
            raise InputError(
                f"classes is {plain(classes, 60)!r}; give the names of all classes, as a tuple"
            )
        object.__setattr__(self, "classes", tuple(self.classes))
        if self.labels is None:
            return
        labels = labels_of(self.labels)
        object.__setattr__(self, "labels", labels)
        if len(labels) != len(self.images):
            raise InputError(
                f"{len(self.images):,} images have {len(labels):,} labels; give one for each"
            )
        unknown = int((labels == -1).sum())
        if 0 < unknown < len(labels):
            raise InputError(
                f"{unknown:,} of {len(labels):,} images have the label -1, that is none; leave them"
                " out, or give labels to all images or to none"
            )
        if unknown:
            object.__setattr__(self, "labels", None)
        elif len(labels):
            self._check_classes(labels)

    def _check_classes(self, labels: Tensor) -> None:
        wrong = (labels < 0) | (labels >= len(self.classes))
        if not wrong.any():
            return
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"image {row} has the label {int(labels[row])}; "
            + (
                f"with {len(self.classes)} classes a label is 0 to {len(self.classes) - 1}"
                if self.classes
                else "but there are no classes, so name them"
            )
        )

    def __len__(self) -> int:
        return len(self.images)


def subset(data: DataSet, rows: Int[Tensor, " row"]) -> DataSet:
    """Return these rows of a data set, in this order; no image is read.

    Raises:
        InputError: a row is not in the data set.

    >>> from db3kd.data import TensorImages
    >>> data = DataSet(TensorImages(torch.zeros(2, 1, 4, 4)), torch.tensor([0, 1]), ("cat", "dog"))
    >>> subset(data, torch.tensor([1])).labels.tolist()
    [1]
    """
    images, labels = Rows(data.images, rows), data.labels
    some = None if labels is None else labels[rows.to(labels.device)]
    return DataSet(images, some, data.classes)


def joined(parts: Sequence[DataSet]) -> DataSet:
    """Several data sets with the same classes as one, in this order; no image is read.

    Raises:
        InputError: they differ in their classes, in the shape of their images or in what is white,
            or only some have labels.

    >>> from db3kd.data import TensorImages
    >>> one = DataSet(TensorImages(torch.zeros(1, 1, 4, 4)), torch.tensor([1]), ("cat", "dog"))
    >>> joined([one, one]).labels
    tensor([1, 1])
    """
    whole = parts[0]
    white_of([part.images for part in parts])
    for part in parts[1:]:
        if part.classes != whole.classes or (part.labels is None) != (whole.labels is None):
            raise InputError(
                "splits that are taken together must have the same classes, got"
                f" {plain(', '.join(whole.classes), 200)} and {plain(', '.join(part.classes), 200)}"
            )
        labels = None
        if whole.labels is not None and part.labels is not None:
            labels = torch.cat([whole.labels, part.labels])
        whole = DataSet(Joined(whole.images, part.images), labels, whole.classes)
    return whole
