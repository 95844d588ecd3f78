"""The images of a training: what is kept in memory, and the order of the batches."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from db3kd.data import Images, Rows, TensorImages, in_memory

RESIDENT_BYTES = 2 * 2**30
"""Sets up to this size are kept in memory; on a GPU, up to a quarter of the free memory."""
WINDOW_BYTES = 2**30
"""How much of a larger set is read and shuffled at a time."""
BLOCK = 64
"""How many neighbouring images are read together, since reading files at random places is slow."""


def resident(images: Images) -> Images:
    """Return the same images, in memory if they take at most `RESIDENT_BYTES`. Costs no query.

    >>> view = Rows(TensorImages(torch.zeros(2, 1, 4, 4)), torch.tensor([1]))
    >>> isinstance(resident(view), TensorImages)
    True
    """
    small = len(images) * image_bytes(images) <= RESIDENT_BYTES
    return in_memory(images) if small else images


def on_device(images: Images, torch_device: torch.device) -> Tensor | None:
    """Return all images on the device, in the type they are kept in; None if they are too large."""
    if isinstance(images, TensorImages) and images.values.device == torch_device:
        return images.values
    limit = RESIDENT_BYTES
    if torch_device.type == "cuda":
        limit = torch.cuda.mem_get_info(torch_device)[0] // 4
    if len(images) * image_bytes(images) > limit:
        return None
    return in_memory(images).values.to(torch_device)


def image_bytes(images: Images) -> int:
    """Bytes of one image as it is kept in memory."""
    return math.prod(images.shape) * (1 if images.eight_bit else 4)


def spans(count: int, batch: int) -> list[tuple[int, int]]:
    """Cut a set into batches (start, stop); a last batch of one image joins the one before it."""
    starts = list(range(0, count, batch))
    if batch > 1 and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def batches_of(
    images: Images,
    resident: Tensor | None,
    order: Tensor,
    batch: int,
    torch_device: torch.device,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every row of `order` once, in batches of (images, rows) on the device, shuffled.

    A set in memory is shuffled as a whole. For a larger set, blocks of neighbours are shuffled. As
    many blocks as fit into a window are then read in file order, and the window is shuffled.
    Random: `generator`.
    """
    cuts = spans(len(order), batch)
    window = len(cuts)
    if resident is None:
        blocks = torch.split(order, BLOCK)
        shuffled = torch.randperm(len(blocks), generator=generator).tolist()
        order = torch.cat([blocks[block] for block in shuffled])
        window = max(1, WINDOW_BYTES // (image_bytes(images) * batch))
    for group in (cuts[at : at + window] for at in range(0, len(cuts), window)):
        first, last = group[0][0], group[-1][1]
        rows = order[first:last].sort().values
        values = in_memory(Rows(images, rows)).values if resident is None else resident
        shuffle = torch.randperm(len(rows), generator=generator)
        rows = rows[shuffle]
        places = (shuffle if resident is None else rows).to(values.device)
        rows = rows.to(torch_device)
        for start, stop in group:
            pixels = values.index_select(0, places[start - first : stop - first]).to(torch_device)
            scaled = pixels if pixels.is_floating_point() else pixels.float().div_(255)
            yield scaled, rows[start - first : stop - first]
