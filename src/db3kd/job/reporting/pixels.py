"""Small images for a page: thumbnails as bytes, and these as `data:` addresses."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from markupsafe import Markup

SIDE = 64  # the longest side of a thumbnail in pixels


def thumbnails(
    images: Float[Tensor, "image channels height width"], bounds: tuple[float, float]
) -> UInt8[Tensor, "image colours y x"]:
    """Images of at most 64 pixels a side, in grey or in three colours, of 0 to 255.

    >>> thumbnails(torch.ones(2, 3, 128, 64), (0.0, 1.0)).shape
    torch.Size([2, 3, 64, 32])
    """
    low, high = bounds
    shown = ((images.float() - low) / (high - low)).clamp(0, 1)
    shown = shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1]
    largest = max(shown.shape[2:])
    if largest > SIDE:
        size = [max(1, round(side * SIDE / largest)) for side in shown.shape[2:]]
        shown = functional.interpolate(shown, size=size, mode="area")
    return (shown * 255).round().to(torch.uint8)


def address(thumbnail: UInt8[Tensor, "colours y x"]) -> "Markup":
    """A thumbnail as an address that holds it: a PNG file in base64.

    >>> str(address(torch.zeros(1, 8, 8, dtype=torch.uint8)))[:22]
    'data:image/png;base64,'
    """
    from markupsafe import Markup
    from PIL import Image

    pixels = thumbnail.permute(1, 2, 0).numpy()
    content = BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(
        content, format="PNG", optimize=True
    )
    return Markup("data:image/png;base64," + base64.b64encode(content.getvalue()).decode())


def change(
    image: Float[Tensor, "channels height width"], point: Float[Tensor, "channels height width"]
) -> Float[Tensor, "channels height width"]:
    """What moved between an image and a point, from 0 to 1; grey where nothing did.

    It is as strong as it can be shown, however small it is.

    >>> change(torch.zeros(1, 1, 2), torch.tensor([[[0.0, -0.1]]]))
    tensor([[[0.5000, 0.0000]]])
    """
    moved = point.float() - image.float()
    most = float(moved.abs().max())
    return 0.5 + moved / (2 * most) if most else torch.full_like(moved, 0.5)
