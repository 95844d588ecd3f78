"""Images as they are shown to a model, sent or on this machine, and what it sees of them."""

import hashlib
import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from db3kd.config.remote import Encoding
from db3kd.config.types import validated
from db3kd.errors import InputError

TRIES = 8  # times that an image is sent through JPEG until it comes to rest
GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue: ITU-R BT.601, as Pillow has them


@dataclass(frozen=True)
class Encoder:
    """Turns images into what is sent, and says how much of them the teacher sees.

    PNG is ISO/IEC 15948, JPEG is ISO/IEC 10918, both written by Pillow. `shape` is (channels,
    height, width) of the user's images; `bounds` their lowest and highest value. It asks nothing,
    and nothing of it is random. The order is: clip, round to 256 levels (all but float32), resize,
    channels, then layout, scale, mean and std.

    Raises:
        InputError: settings that contradict each other or the images.

    >>> encoder = Encoder(Encoding(kind="uint8", layout="flat"), (1, 1, 2))
    >>> encoder.arrays(torch.tensor([[[[0.2, 0.5]]]]))
    array([[ 51, 128]], dtype=uint8)
    >>> encoder.seen(torch.tensor([[[[0.2, 0.5]]]]))
    tensor([[[[0.2000, 0.5020]]]])
    """

    encoding: Encoding
    shape: tuple[int, int, int]
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        validated(self.encoding)
        _check_images(self)
        _check_numbers(self.encoding, _channels_sent(self.encoding, self.shape[0]))

    @property
    def is_file(self) -> bool:
        """Whether an image is sent as a file, not as an array."""
        return self.encoding.kind in ("png", "jpeg")

    @property
    def media_type(self) -> str:
        """What a file is called in HTTP: "image/png" or "image/jpeg"."""
        return f"image/{self.encoding.kind}"

    @property
    def levels(self) -> float:
        """The size of one grey level in the units of the image; 0.0 for float32."""
        low, high = self.bounds
        return 0.0 if self.encoding.kind == "float32" else (high - low) / 255

    @property
    def resizes(self) -> bool:
        """Whether the teacher's size differs from that of the images."""
        return self.encoding.size not in (None, self.shape[1:])

    def seen(
        self, images: Float[Tensor, "row channels height width"], *, times: int = TRIES
    ) -> Float[Tensor, "row channels height width"]:
        """Return the images as the teacher will see them, in the user's own space.

        float32 is clipped alone. 8 bits: rounded to 256 levels of the bounds. JPEG: written and
        read again until that changes nothing, 8 `times` at most; an image that has not come to rest
        by then is returned as it was read last. Once is what a teacher gets. Where the teacher's
        size differs, or it sees colours as grey, nothing of the user's own space corresponds to
        what it sees, and pixels are rounded to 256 levels.

        Raises:
            InputError: another shape, or a value that is not a number.

        >>> Encoder(Encoding(), (1, 1, 1), (-1.0, 1.0)).seen(torch.full((1, 1, 1, 1), 3.0)).item()
        1.0
        """
        self._check(images)
        if self.encoding.kind == "float32":
            return images.clamp(*self.bounds)
        pixels = self._pixels(images)
        if self.encoding.kind == "jpeg" and not self.resizes and not self._greys:
            pixels = self._at_rest(pixels.cpu(), times).to(images.device)
        table = _levels(self.bounds).to(images.device)
        return table.index_select(0, pixels.flatten().int()).reshape(images.shape)

    def arrays(self, images: Float[Tensor, "row channels height width"]) -> NDArray[Any]:
        """Return one float32 or uint8 array of all images, laid out and normalised.

        Its shape is (row, channels, height, width), (row, height, width, channels) or
        (row, channels * height * width), by the layout, with the channels and the size sent.

        Raises:
            InputError: the kind is a file's, another shape, or a value that is not a number.

        >>> encoder = Encoder(Encoding(kind="float32", mean=(0.5,), std=(0.25,)), (1, 1, 1))
        >>> encoder.arrays(torch.ones(2, 1, 1, 1)).ravel().tolist()
        [2.0, 2.0]
        """
        return self.tensor(images.cpu()).numpy()

    def tensor(self, images: Float[Tensor, "row channels height width"]) -> Tensor:
        """Return what `arrays` does as a tensor, where the images are.

        Raises:
            InputError: the kind is a file's, another shape, or a value that is not a number.

        >>> encoder = Encoder(Encoding(kind="float32", mean=(0.5,), std=(0.5,)), (1, 1, 2))
        >>> encoder.tensor(torch.tensor([[[[0.0, 1.0]]]]))
        tensor([[[[-1.,  1.]]]])
        """
        if self.is_file:
            raise InputError(f"{self.encoding.kind} images are files; ask for files, not arrays")
        self._check(images)
        sent = self._units(images) if self.encoding.kind == "float32" else self._pixels(images)
        sent = self._adapted(sent.contiguous())
        if self.encoding.kind == "float32":
            sent = self._normalised(sent)
        if self.encoding.layout == "hwc":
            sent = sent.permute(0, 2, 3, 1)
        return sent.flatten(1) if self.encoding.layout == "flat" else sent.contiguous()

    def files(self, images: Float[Tensor, "row channels height width"]) -> list[bytes]:
        """Return one PNG or JPEG file for each image; the same pixels give the same bytes.

        Raises:
            InputError: the kind is an array's, another shape, or a value that is not a number.

        >>> Encoder(Encoding(), (1, 4, 4)).files(torch.zeros(1, 1, 4, 4))[0][1:4]
        b'PNG'
        """
        if not self.is_file:
            raise InputError(f"{self.encoding.kind} images are arrays; ask for arrays, not files")
        self._check(images)
        return self._written(self._pixels(images).cpu().contiguous())

    def keys(self, images: Float[Tensor, "row channels height width"]) -> list[bytes]:
        """Return for each image the SHA-256 (FIPS 180-4, 32 bytes) of exactly what is sent for it.

        Of a file that is all its bytes; of an array, its kind, its shape and its numbers.

        Raises:
            InputError: another shape, or a value that is not a number.

        >>> encoder = Encoder(Encoding(kind="uint8"), (1, 1, 1))
        >>> one, other = encoder.keys(torch.tensor([0.5, 0.501]).reshape(2, 1, 1, 1))
        >>> len(one), one == other
        (32, True)
        """
        if self.is_file:
            return [hashlib.sha256(file).digest() for file in self.files(images)]
        arrays = self.arrays(images)
        start = f"{arrays.dtype.str}{arrays.shape[1:]}".encode()
        content, size = memoryview(arrays.tobytes()), max(1, arrays[:1].nbytes)
        ends = range(size, len(content) + 1, size)
        return [hashlib.sha256(start + content[end - size : end]).digest() for end in ends]

    @property
    def _greys(self) -> bool:
        return self.encoding.channels == "grey" and self.shape[0] != 1

    def _check(self, images: Tensor) -> None:
        if tuple(images.shape[1:]) != self.shape:
            raise InputError(
                f"images have shape {tuple(images.shape[1:])}; the teacher was set up for"
                f" {self.shape} (channels, height, width)"
            )
        if images.isnan().any():
            row = int(images.isnan().flatten(1).any(1).nonzero()[0])
            raise InputError(f"image {row} has a value of nan; give finite values")

    def _pixels(self, images: Tensor) -> UInt8[Tensor, "row channels height width"]:
        return _rounded(images, self.bounds)

    def _units(self, images: Tensor) -> Float[Tensor, "row channels height width"]:
        """0 to `scale`; the 0.0 that is added turns -0.0 into it."""
        low, high = self.bounds
        return images.clamp(low, high).sub(low).mul(self.encoding.scale / (high - low)).add(0.0)

    def _adapted(self, sent: Tensor) -> Tensor:
        """Size and channels as the teacher wants them; whole numbers stay whole."""
        if self.resizes:
            large = functional.interpolate(
                sent.float(), self.encoding.size, mode="bilinear", antialias=True
            )
            sent = large.round().to(torch.uint8) if sent.dtype == torch.uint8 else large
        match self.encoding.channels, sent.shape[1]:
            case "rgb" | "bgr", 1:
                return sent.expand(-1, 3, -1, -1)
            case "bgr", _:
                return sent.flip(1)
            case "grey", 3:
                red, green, blue = sent.float().unbind(1)
                grey = (red * GREY[0] + green * GREY[1] + blue * GREY[2]).unsqueeze(1)
                return grey.round().to(torch.uint8) if sent.dtype == torch.uint8 else grey
        return sent

    def _normalised(self, sent: Tensor) -> Tensor:
        if not self.encoding.mean:
            return sent
        mean, std = sent.new_tensor(self.encoding.mean), sent.new_tensor(self.encoding.std)
        return (sent - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)

    def _written(self, pixels: UInt8[Tensor, "row channels height width"]) -> list[bytes]:
        from PIL import Image

        kind, files = self.encoding.kind, []
        options = {"compress_level": 1}  # higher ones are no smaller on small images, and slower
        if kind == "jpeg":
            options = {"quality": self.encoding.quality, "subsampling": 0}
        for image in _compact(self._adapted(pixels).permute(0, 2, 3, 1)):
            content = BytesIO()
            Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
                content, format=kind, **options
            )
            files.append(content.getvalue())
        return files

    def _read(self, files: list[bytes]) -> UInt8[Tensor, "row channels height width"]:
        """The pixels of our own files, in the user's order of channels."""
        from PIL import Image

        images = np.stack([np.asarray(Image.open(BytesIO(file))) for file in files])
        pixels = torch.from_numpy(images.reshape(*images.shape[:3], -1)).permute(0, 3, 1, 2)
        if self.encoding.channels == "bgr":
            pixels = pixels.flip(1)
        return pixels[:, : self.shape[0]]  # grey that is sent as colours comes back three times

    def _at_rest(
        self, pixels: UInt8[Tensor, "row channels height width"], times: int
    ) -> UInt8[Tensor, "row channels height width"]:
        pixels, moving = pixels.clone(), torch.arange(len(pixels))
        for _ in range(times):
            if not len(moving):
                break
            before = pixels[moving].contiguous()
            after = self._read(self._written(before))
            pixels[moving] = after
            moving = moving[(after != before).flatten(1).any(1)]
        return pixels


def _compact(sent: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(sent.numpy())


def _rounded(images: Tensor, bounds: tuple[float, float]) -> UInt8[Tensor, "..."]:
    low, high = bounds
    # By way of 16 bits: four times as fast on a CPU.
    units = images.clamp(low, high).sub(low).mul(255 / (high - low))
    return units.round().to(torch.int16).to(torch.uint8)


def _levels(bounds: tuple[float, float]) -> Float[Tensor, "256"]:
    """The value of each of the 256 levels."""
    low, high = bounds
    return (torch.arange(256, dtype=torch.float64).div_(255) * (high - low) + low).float()


def _channels_sent(encoding: Encoding, channels: int) -> int:
    return {"same": channels, "grey": 1}.get(encoding.channels, 3)


def _check_images(encoder: Encoder) -> None:
    encoding, (channels, height, width) = encoder.encoding, encoder.shape
    if min(channels, height, width) < 1:
        raise InputError(f"shape must be (channels, height, width), got {encoder.shape}")
    low, high = encoder.bounds
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"bounds must be (lowest, highest), got {encoder.bounds}")
    levels = _levels(encoder.bounds)
    if not torch.equal(_rounded(levels, encoder.bounds).int(), torch.arange(256).int()):
        raise InputError(f"float32 has fewer than 256 values in the bounds {encoder.bounds}")
    if channels not in (1, 3) and (encoding.channels != "same" or encoder.is_file):
        what = encoding.kind if encoding.channels == "same" else f"channels {encoding.channels!r}"
        raise InputError(f"{what} needs images of 1 or 3 channels, and these have {channels}")


def _check_numbers(encoding: Encoding, channels: int) -> None:
    kind, mean, std = encoding.kind, encoding.mean, encoding.std
    if kind != "float32" and (mean or std or encoding.scale != 1.0):
        raise InputError(f"mean, std and scale are for kind 'float32' alone, not {kind!r}")
    if kind in ("png", "jpeg") and encoding.layout != "chw":
        raise InputError(f"layout {encoding.layout!r} is for arrays, and {kind!r} is a file")
    if bool(mean) != bool(std):
        raise InputError("mean and std belong together; give both, or neither")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (0, 1, channels):
            raise InputError(
                f"{name} has {len(values)} numbers; give one, or {channels}, one for each channel"
                " that is sent"
            )
        if not all(map(math.isfinite, values)):
            raise InputError(f"{name} must be finite numbers, got {values}")
    if not math.isfinite(encoding.scale):
        raise InputError(f"scale must be a finite number, got {encoding.scale}")
