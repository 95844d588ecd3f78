"""Images on demand: their interface, images in memory, views of other images, and checks."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from db3kd.data._decode import check_rows
from db3kd.data.arrays import tensor_of
from db3kd.data.digest import Digested, combined, of_tensor
from db3kd.errors import InputError


@runtime_checkable
class Images(Protocol):
    """Images on demand: float32, of shape (channels, height, width) each.

    Values are in [0, 1] unless a class says otherwise. `shape` is that of one image. `eight_bit`
    says whether every value is k/255 for a whole number k.

    >>> images: Images = TensorImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    >>> len(images), images.shape, images.eight_bit
    (2, (1, 4, 4), True)
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    @property
    def eight_bit(self) -> bool:
        """Whether every value is k/255 for a whole number k."""

    def __len__(self) -> int: ...

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows, in any order and with repeats if wanted."""


def content_digest(images: Images) -> str:
    """SHA-256 of the content of images: equal digests mean equal pixels in the same order.

    Images in files are identified by the digests of the files, so the same pixels stored in another
    way may have another digest. Images without a `digest` method are all read, 1024 at a time.
    Costs no query.

    >>> dark, light = TensorImages(torch.zeros(2, 1, 4, 4)), TensorImages(torch.ones(2, 1, 4, 4))
    >>> content_digest(dark) == content_digest(light)
    False
    """
    if isinstance(images, Digested):
        return images.digest()
    blocks = torch.split(torch.arange(len(images)), 1024)
    return combined(f"pixels {images.shape}", (of_tensor(images.read(rows)) for rows in blocks))


@dataclass(frozen=True, init=False)
class TensorImages:
    """Images in memory.

    `values` has shape (sample, channels, height, width), and may be a NumPy array. uint8 is read as
    value / 255. float32 is read as it is, and may have other bounds than [0, 1].

    Raises:
        InputError: `values` does not have four dimensions, has its channels last, or is neither
            uint8 nor float32 (float64 of NumPy is converted).

    >>> images = TensorImages(torch.full((3, 1, 2, 2), 51, dtype=torch.uint8))
    >>> images.read(torch.tensor([2, 0])).unique().tolist()
    [0.20000000298023224]
    """

    values: UInt8[Tensor, "..."] | Float[Tensor, "..."]

    def __init__(self, values: Tensor | NDArray[Any]) -> None:
        object.__setattr__(self, "values", tensor_of(values))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        _, channels, height, width = self.values.shape
        return channels, height, width

    @property
    def eight_bit(self) -> bool:
        """Whether every value is k/255 for a whole number k."""
        return self.values.dtype == torch.uint8

    def __len__(self) -> int:
        return len(self.values)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows, in any order and with repeats if wanted."""
        check_rows(rows, len(self))
        block = self.values.index_select(0, rows.to(self.values.device))
        return block.float().div_(255) if self.eight_bit else block

    def digest(self) -> str:
        """SHA-256 of the values."""
        return of_tensor(self.values)


def eight_bits(
    images: Float[Tensor, "row *image"],
) -> tuple[UInt8[Tensor, "row *image"], Float[Tensor, "row *image"]]:
    """Round images in [0, 1] to 8 bits; return them as they are kept, and as they are shown.

    The kept images are uint8. The shown images are float32, exactly the kept values / 255.

    >>> kept, shown = eight_bits(torch.tensor([[0.0, 0.501, 1.0]]))
    >>> kept, bool((shown * 255 == kept).all())
    (tensor([[  0, 128, 255]], dtype=torch.uint8), True)
    """
    # By way of 16 bits, which is four times as fast on a CPU.
    levels = images.mul(255).round_()
    return levels.to(torch.int16).to(torch.uint8), levels.div_(255)


@dataclass(frozen=True)
class Rows:
    """Some rows of other images, in the order given; no image is read or copied.

    Raises:
        InputError: a row is not in the images.

    >>> ramp = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    >>> view = Rows(TensorImages(ramp), torch.tensor([3, 1]))
    >>> (view.read(torch.tensor([0, 1])) * 255).flatten().tolist()
    [3.0, 1.0]
    """

    images: Images
    rows: Int[Tensor, " sample"]

    def __post_init__(self) -> None:
        check_rows(self.rows, len(self.images))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.images.shape

    @property
    def eight_bit(self) -> bool:
        """Whether every value is k/255 for a whole number k."""
        return self.images.eight_bit

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows, in any order and with repeats if wanted."""
        check_rows(rows, len(self))
        return self.images.read(self.rows[rows.to(self.rows.device)])

    def digest(self) -> str:
        """SHA-256 of the digest of the other images, and of the rows."""
        return combined("rows", (content_digest(self.images), of_tensor(self.rows)))


@dataclass(frozen=True)
class Joined:
    """Two sets of images of the same shape, one after the other; no image is read or copied.

    Raises:
        InputError: the two sets differ in shape.

    >>> black = TensorImages(torch.zeros(2, 1, 2, 2, dtype=torch.uint8))
    >>> white = TensorImages(torch.ones(1, 1, 2, 2))
    >>> both = Joined(black, white)
    >>> len(both), both.eight_bit, both.read(torch.tensor([2, 0]))[:, 0, 0, 0]
    (3, False, tensor([1., 0.]))
    """

    first: Images
    second: Images

    def __post_init__(self) -> None:
        if self.first.shape != self.second.shape:
            raise InputError(
                f"images have shapes {self.first.shape} and {self.second.shape}; give one shape"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.first.shape

    @property
    def eight_bit(self) -> bool:
        """Whether every value is k/255 for a whole number k."""
        return self.first.eight_bit and self.second.eight_bit

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def read(self, rows: Int[Tensor, " row"]) -> Float[Tensor, "row channels height width"]:
        """Return the images of these rows, in any order and with repeats if wanted."""
        check_rows(rows, len(self))
        late = rows >= len(self.first)
        early = self.first.read(rows[~late])
        found = early.new_empty((len(rows), *self.shape))
        found[~late] = early
        found[late] = self.second.read(rows[late] - len(self.first)).to(found.device)
        return found

    def digest(self) -> str:
        """SHA-256 of both digests."""
        return combined("joined", (content_digest(self.first), content_digest(self.second)))


def in_memory(images: Images) -> TensorImages:
    """Read all images into memory, 1024 at a time.

    8-bit images are kept as uint8, in a quarter of the memory that float32 takes. Images that are
    in memory already are returned as they are.

    >>> ramp = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    >>> in_memory(Rows(TensorImages(ramp), torch.tensor([3, 1]))).values.flatten()
    tensor([3, 1], dtype=torch.uint8)
    """
    if isinstance(images, TensorImages):
        return images
    like = images.read(torch.arange(0))  # no rows, but on the right device
    kind = torch.uint8 if images.eight_bit else torch.float32
    values = like.new_empty((len(images), *images.shape), dtype=kind)
    for first in range(0, len(images), 1024):
        end = min(first + 1024, len(images))
        block = images.read(torch.arange(first, end))
        values[first:end] = (block * 255).round() if images.eight_bit else block
    return TensorImages(values)


def check_images(images: Tensor, bounds: tuple[float, float], *, first: int = 0) -> None:
    """Refuse images unless they are float32, of four dimensions, finite and within `bounds`.

    `first` is the number of the first image, if these are part of a larger set.

    Raises:
        InputError: the images break one of these rules; the text says which, and names the first
            wrong image.

    >>> check_images(torch.full((2, 1, 4, 4), 1.5), (0.0, 1.0))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: image 0 has a value of 1.5, out of the bounds [0.0, 1.0]; ...
    """
    if images.dtype != torch.float32:
        raise InputError(f"images are {images.dtype}; give float32, by images.float()")
    if images.ndim != 4:
        raise InputError(
            f"images have shape {tuple(images.shape)}; give four dimensions:"
            " (row, channels, height, width)"
        )
    low, high = bounds
    wrong = ~(images.isfinite() & (images >= low) & (images <= high))
    if wrong.any():
        row = int(wrong.flatten(1).any(dim=1).nonzero()[0])
        value = float(images[row][wrong[row]][0])
        row += first
        if not np.isfinite(value):
            raise InputError(f"image {row} has a value of {value}; give finite values")
        raise InputError(
            f"image {row} has a value of {value:.9g}, out of the bounds [{low}, {high}]; scale the"
            " images into the bounds, or give the bounds that the teacher expects"
        )
