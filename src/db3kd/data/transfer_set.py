"""What a student is trained on: images with stable ids, labels and soft labels."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data import Images, Joined, Rows
from db3kd.errors import InputError


@dataclass(frozen=True, eq=False)
class TransferSet:
    """The transfer set of section 3.2.3; the student cannot tell whether its samples are real.

    Row s of every field is the same sample. All whole numbers are int64.

    - `images`: in the units of the teacher's images.
    - `ids`: a name that stays with the sample, its row number in the source. A grown image has the
      id of its parent, so a split by id never separates the two.
    - `teacher_labels`: the teacher's answer m.
    - `labels`: y of Eq. 1, the ground truth where it is known, otherwise the teacher's answer. -1
      marks a sample that has a soft label only.
    - `soft`: the activations `a` of Eq. 7, *before* temperature and softmax. With None a student
      learns from `labels` alone.
    - `soft_rows`: for each sample its row of `soft`, or -1 if it has no soft label. None means that
      row s of `soft` belongs to sample s.
    - `first`: how many samples at the start are own images; the others were made from them. A
      training of few steps shows the own images more often (`student.repeats`).

    Raises:
        InputError: the fields differ in length; `ids` or labels are not int64; a label is negative
            or not a class of `soft` (only a sample with a soft label may have -1); a row in
            `soft_rows` does not exist; or `soft` is not finite.

    >>> from db3kd.data import TensorImages
    >>> images, m = TensorImages(torch.zeros(2, 1, 4, 4)), torch.tensor([2, 0])
    >>> plain = TransferSet(images, ids=torch.arange(2), teacher_labels=m, labels=m)
    >>> len(plain), plain.soft is None
    (2, True)
    """

    images: Images
    ids: Int[Tensor, "sample"]
    teacher_labels: Int[Tensor, "sample"]
    labels: Int[Tensor, "sample"]
    soft: Float[Tensor, "some classes"] | None = None
    soft_rows: Int[Tensor, "sample"] | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        for name, values in (
            ("ids", self.ids),
            ("teacher_labels", self.teacher_labels),
            ("labels", self.labels),
        ):
            self._check_length(name, len(values))
            if values.dtype != torch.int64:
                raise InputError(f"{name} are {values.dtype}; give int64, by {name}.long()")
        if self.soft_rows is not None:
            self._check_soft_rows(self.soft_rows)
        if self.soft is not None:
            if self.soft_rows is None:
                self._check_length("soft", len(self.soft))
            finite = self.soft.isfinite().all(dim=1)
            if not bool(finite.all()):
                row = int((~finite).nonzero()[0])
                raise InputError(
                    f"soft labels must be finite, but row {row} is not; give activations of Eq. 7"
                )
        self._check_range("teacher_labels", self.teacher_labels)
        known = self.labels >= 0
        self._check_range("labels", self.labels.where(known | (self._soft_rows() < 0), 0))

    def _check_length(self, name: str, length: int) -> None:
        if length != len(self.images):
            raise InputError(
                f"{name} must have one row for each of {len(self.images):,} images, got {length:,}"
            )

    def _check_soft_rows(self, rows: Tensor) -> None:
        self._check_length("soft_rows", len(rows))
        count = 0 if self.soft is None else len(self.soft)
        wrong = (rows < -1) | (rows >= count)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"soft_rows must be from -1 (no soft label) to {count - 1} (the last soft label),"
                f" got {int(rows[row])} in row {row}"
            )

    def _check_range(self, name: str, values: Tensor) -> None:
        wrong = values < 0
        limit = "0 or above"
        if self.soft is not None:
            wrong |= values >= self.soft.shape[1]
            limit = f"from 0 to {self.soft.shape[1] - 1}, the classes of the soft labels"
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InputError(f"{name} must be {limit}, got {int(values[row])} in row {row}")

    def __len__(self) -> int:
        return len(self.ids)

    def with_soft(self, soft: Float[Tensor, "sample classes"] | None) -> "TransferSet":
        """Return the same samples with other soft labels (activations of Eq. 7), or with none.

        Raises:
            InputError: `soft` does not fit, as for a new transfer set.

        >>> from db3kd.data import TensorImages
        >>> label = torch.tensor([1])
        >>> plain = TransferSet(TensorImages(torch.zeros(1, 1, 4, 4)), label, label, label)
        >>> plain.with_soft(torch.tensor([[0.5, 2.0]])).soft
        tensor([[0.5000, 2.0000]])
        """
        return replace(self, soft=soft, soft_rows=None)

    def joined(self, more: "TransferSet") -> "TransferSet":
        """Return these samples followed by others; no image is read.

        Either set may lack soft labels. `first` is not kept.

        Raises:
            InputError: the images differ in shape, or the soft labels in the number of classes.

        >>> from db3kd.data import TensorImages
        >>> label = torch.tensor([1])
        >>> plain = TransferSet(TensorImages(torch.zeros(1, 1, 4, 4)), label, label, label)
        >>> plain.joined(plain.with_soft(torch.tensor([[0.5, 2.0]]))).soft_rows
        tensor([-1,  0])
        """
        known = [part for part in (self.soft, more.soft) if part is not None]
        if len({part.shape[1] for part in known}) > 1:
            raise InputError("the soft labels of the two sets differ in the number of classes")
        mine, others = self._soft_rows(), more._soft_rows()
        before = 0 if self.soft is None else len(self.soft)
        others = torch.where(others < 0, others, others + before)
        return TransferSet(
            Joined(self.images, more.images),
            torch.cat([self.ids, more.ids]),
            torch.cat([self.teacher_labels, more.teacher_labels]),
            torch.cat([self.labels, more.labels]),
            torch.cat(known) if known else None,
            torch.cat([mine, others]) if known else None,
        )

    def without(self, unsure: int | None) -> "TransferSet":
        """Return the samples that the teacher did not give its last class, "I do not know".

        Soft labels lose the column of this class. With None the set is returned as it is. With an
        earlier class, the classes after it go as well.

        Raises:
            InputError: no sample is left.

        >>> from db3kd.data import TensorImages
        >>> ids, labels = torch.arange(3), torch.tensor([0, 2, 1])
        >>> whole = TransferSet(TensorImages(torch.zeros(3, 1, 4, 4)), ids, labels, labels)
        >>> whole.without(2).ids
        tensor([0, 2])
        """
        if unsure is None:
            return self
        known = self.teacher_labels < unsure
        if not bool(known.any()):
            raise InputError(
                f"the teacher does not know the class of a single one of {len(self):,} images, so"
                " there is nothing to learn from"
            )
        some = self.select(known.nonzero()[:, 0])
        soft = None if some.soft is None else some.soft[:, :unsure]
        first = None if self.first is None else int(known[: self.first].sum())
        return replace(some, soft=soft, first=first)

    def _soft_rows(self) -> Tensor:
        if self.soft is None:
            return torch.full_like(self.ids, -1)
        return torch.arange(len(self)) if self.soft_rows is None else self.soft_rows

    def select(self, rows: Int[Tensor, "row"]) -> "TransferSet":
        """Return these rows in this order, with repeats if wanted; no image is read or copied.

        Ids, answers and labels go with their rows. `first` is not kept.

        Raises:
            InputError: a row is not in the set.

        >>> from db3kd.data import TensorImages
        >>> ids, labels = torch.tensor([7, 8, 9]), torch.tensor([0, 1, 2])
        >>> whole = TransferSet(TensorImages(torch.zeros(3, 1, 4, 4)), ids, labels, labels)
        >>> whole.select(torch.tensor([2, 0])).ids
        tensor([9, 7])
        """
        images = Rows(self.images, rows)
        soft, soft_rows = self.soft, self.soft_rows
        if soft_rows is not None:
            soft_rows = soft_rows[rows]
        elif soft is not None:
            soft = soft[rows]
        return replace(
            self,
            images=images,
            ids=self.ids[rows],
            teacher_labels=self.teacher_labels[rows],
            labels=self.labels[rows],
            soft=soft,
            soft_rows=soft_rows,
            first=None,
        )
