"""Pixels: from an open image to 8-bit grey or RGB of the wanted size, as a viewer shows it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from db3kd.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 8192  # pixels of a side that images are made into
MOST_PIXELS = 2**28  # of an image that is resized, before its edges are cut off
LARGEST_FILE = 2**28  # bytes of one encoded image
LONGEST = 4  # times the shorter side of a photograph
FULL = 65535.0  # white in 16 bits
TOPS = (255.0, 1023.0, 4095.0, FULL)  # white in 8, 10, 12 and 16 bits
ORIENTATION = 0x0112  # the tag of EXIF
ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}  # what may hold it

Size = int | tuple[int, ...] | None
"""A side, or height and width; None leaves images as they are."""


class Unfit(ValueError):
    """An image that cannot be used; the text goes on after its name, as in "is empty"."""


@dataclass(frozen=True)
class Form:
    """The size and the colours that images are converted to.

    `top` is the value that is white in grey images of more than 8 bits.
    """

    size: Size
    channels: int | None
    top: float = field(default=FULL, repr=False)

    def __post_init__(self) -> None:
        if self.size is not None and not (
            len(self._sides) == 2 and all(map(_is_side, self._sides))
        ):
            raise InputError(
                f"size is {self.size}; give the side of the image, at least 1 and at most"
                f" {LARGEST:,}, or (height, width), or None"
            )
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}; give 1 (grey), 3 (RGB) or None")

    @property
    def box(self) -> tuple[int, int] | None:
        """Height and width, where they are given."""
        if self.size is None:
            return None
        height, width = self._sides
        return height, width

    @property
    def _sides(self) -> tuple[int, ...]:
        if isinstance(self.size, tuple):
            return self.size
        return () if self.size is None else (self.size, self.size)

    @property
    def words(self) -> str:
        """What the pixels depend on besides the files."""
        return f"{self}" if self.top == FULL else f"{self} top {self.top:.9g}"


def _is_side(side: object) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= LARGEST


def turned(image: "Image") -> "Image":
    """The first frame of an image, loaded and turned as its EXIF says."""
    from PIL import ImageOps

    image.load()
    if image.format is not None and not image.info.keys() & ORIENTED:
        return image  # it saves a third of the time of a small image
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF turns nothing, as in a viewer
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def is_deep(image: "Image") -> bool:
    """Whether an image is grey of more than 8 bits, so that a set must say what is white."""
    return image.mode.startswith("I") or image.mode == "F"


def depth_of(image: "Image") -> tuple[float, bool]:
    """The highest value of a deep image, and whether its values are fractions or whole numbers."""
    return float(_values(image).max()), image.mode == "F"


def top_of(depths: Iterable[tuple[float, bool]]) -> float:
    """The value that is white in deep images: that of the fewest bits which hold all of them.

    `depths`: of each image, by `depth_of`. It is 1 where all are fractions of 1.

    >>> top_of([(700.0, False), (3000.0, False)]), top_of([(0.5, True)])
    (4095.0, 1.0)
    """
    found = list(depths)
    highest = max((value for value, _ in found), default=0.0)
    if highest <= 0:
        return FULL
    if highest <= 1 and all(fractions for _, fractions in found):
        return 1.0
    return next(top for top in TOPS if highest <= top)


def _values(image: "Image") -> Any:
    """The values of a deep image, all from 0 to 65535."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= FULL:  # nor is it so with nan
        raise Unfit(
            f"holds values from {low:.9g} to {high:.9g}; give 8 or 16 bits, or fractions of 1"
        )
    return values


def pixels(image: "Image", form: Form) -> Any:
    """Convert an image to uint8 of shape (channels, height, width).

    Transparency is put on white.

    Raises:
        Unfit: it is too long, or its values are not those of the set.
    """
    from PIL import Image

    grey = image.mode in ("L", "1") or is_deep(image)
    if is_deep(image):
        image = Image.fromarray(_eight_bits(image, form.top))
    elif image.has_transparency_data:
        image = _on_white(image)
    elif image.mode == "LAB":
        image = _of_lab(image)
    grey = grey if form.channels is None else form.channels == 1
    mode = "L" if grey else "RGB"
    found = np.asarray(_resized(image if image.mode == mode else image.convert(mode), form.box))
    return found[None] if grey else found.transpose(2, 0, 1)


def shrunk(found: Any, side: int) -> "Image":
    """Pixels of (channels, height, width) as an image whose shorter side has at most `side`.

    Of an image that is more than four times as long as it is wide, the middle is kept.

    >>> shrunk(np.zeros((3, 90, 1000), np.uint8), 45).size
    (180, 45)
    """
    from PIL import Image

    height, width = found.shape[1:]
    most = LONGEST * min(height, width)
    down, across = max(0, height - most) // 2, max(0, width - most) // 2
    found = found[:, down : down + most, across : across + most]
    image = Image.fromarray(
        np.ascontiguousarray(found[0] if len(found) == 1 else found.transpose(1, 2, 0))
    )
    if min(image.size) <= side:
        return image
    scale = side / min(image.size)
    size = max(side, round(scale * image.width)), max(side, round(scale * image.height))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _eight_bits(image: "Image", top: float) -> Any:
    values = _values(image)
    if values.max() > top:
        raise Unfit(
            f"has a value of {float(values.max()):.9g}, but the first images of the set hold"
            f" nothing above {top:.9g}, which was taken as white; convert them to 8 bits"
        )
    found = np.rint(values / (top / 255)).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        found[values == clear] = 255
    return found


def _on_white(image: "Image") -> "Image":
    from PIL import Image

    image = image.convert("LA") if image.mode == "La" else image
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image.convert("RGBA"))
    return page.convert("RGB")


def _of_lab(image: "Image") -> "Image":
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    return image if found is None else found


def _resized(image: "Image", box: tuple[int, int] | None) -> "Image":
    """Resize an image until it just covers a box of (height, width), and cut its middle."""
    from PIL import Image

    if box is None or image.size == (box[1], box[0]):
        return image
    high, wide = box
    width, height = image.size
    side, wanted = (height, high) if high * width >= wide * height else (width, wide)
    width, height = (
        max(wide, round(width * wanted / side)),
        max(high, round(height * wanted / side)),
    )
    if width * height > MOST_PIXELS:
        raise Unfit(
            f"of {image.width} x {image.height} pixels is too long to be resized to"
            f" {wide} x {high}; cut it"
        )
    left, top = (width - wide) // 2, (height - high) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + wide, top + high))
