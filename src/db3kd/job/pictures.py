"""Pictures of pseudo samples, as in Fig. 6 of the paper: PNG files, made by Pillow alone."""

from io import BytesIO
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from db3kd.data import Images
from db3kd.storage.files import write_atomically

SIDE = 56  # the least side of an image in pixels; smaller ones are enlarged
GAP = 2  # white pixels between two images
SHOWN = 12  # images of a class
AVERAGED = 1000  # most images of a class in its average


def tiled(
    images: Float[Tensor, "down across channels height width"], *, bounds: tuple[float, float]
) -> Float[Tensor, "channels y x"]:
    """Many images in one, in rows; NaN becomes white.

    >>> tiled(torch.zeros(2, 3, 1, 56, 56), bounds=(0.0, 1.0)).shape
    torch.Size([1, 114, 172])
    """
    down, across, channels, height, width = images.shape
    times = max(1, -(-SIDE // max(height, width)))
    low, high = bounds
    flat = ((images - low) / (high - low)).nan_to_num(nan=1.0).clamp(0, 1).flatten(0, 1)
    large = functional.interpolate(flat, scale_factor=times, mode="nearest")
    padded = functional.pad(large, (0, GAP, 0, GAP), value=1.0)
    _, _, tall, wide = padded.shape
    whole = padded.reshape(down, across, channels, tall, wide).permute(2, 0, 3, 1, 4)
    return whole.reshape(channels, down * tall, across * wide)[:, :-GAP, :-GAP]


def save(path: Path, picture: Float[Tensor, "channels y x"]) -> None:
    """Write a picture with values from 0 to 1 as a PNG file, whole or not at all.

    Raises:
        RunError: the file cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "white.png"
    >>> save(file, torch.ones(1, 4, 4)); file.read_bytes()[1:4]
    b'PNG'
    """
    from PIL import Image

    pixels = (picture.cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    some = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels[:, :, :3]
    content = BytesIO()
    Image.fromarray(some).save(content, format="PNG")
    write_atomically(path, content.getvalue())


def by_class(
    images: Images, classes: Int[Tensor, " row"], count: int, *, bounds: tuple[float, float]
) -> Float[Tensor, "channels y x"]:
    """A row for each of the first `count` classes: the average of its images, then some of them.

    A class without images has a white row. Nothing is random: the images are taken at even
    distances.

    >>> from db3kd.data import TensorImages
    >>> by_class(TensorImages(torch.zeros(2, 1, 56, 56)), torch.tensor([0, 1]), 2,
    ...          bounds=(0.0, 1.0)).shape
    torch.Size([1, 114, 752])
    """
    rows = torch.full((count, SHOWN + 1, *images.shape), torch.nan)
    for k in range(count):
        mine = (classes == k).nonzero()[:, 0]
        if len(mine):
            spread = mine[torch.linspace(0, len(mine) - 1, min(len(mine), AVERAGED)).long()]
            rows[k, 0] = images.read(spread).mean(0)
            some = mine[torch.linspace(0, len(mine) - 1, min(len(mine), SHOWN)).long()]
            rows[k, 1 : len(some) + 1] = images.read(some)
    return tiled(rows, bounds=bounds)
