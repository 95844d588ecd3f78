"""Whatever a user calls an image, as a student takes it: files, arrays, pictures and tensors."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.data import Images
from db3kd.data._decode import decoded
from db3kd.data._pixels import FULL, LARGEST_FILE, Form, pixels, turned
from db3kd.data.classes import EXTENSIONS, tell_others
from db3kd.errors import InputError, described, plain
from db3kd.student.networks import Shape, inference_batch

KINDS = "a file, a folder, a PIL image, an array or tensor of uint8 or of floats 0 to 1, or a list"
COLOURS = (1, 3, 4)  # channels of one image


def image_files(places: Iterable[str | Path]) -> list[Path]:
    """The files of images that are named, and those in folders that are, at any depth.

    The files of a folder are in the order of their names. Hidden ones are left out, and those with
    other endings than `data.classes.EXTENSIONS`, which is said (`data.classes.tell_others`).

    Raises:
        InputError: a place is not there, or a folder holds no images.

    >>> image_files(["no-such.png"])
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: there is no file or folder no-such.png
    """
    found: list[Path] = []
    for place in map(Path, places):
        try:
            inside = sorted(filter(_is_picture, place.rglob("*"))) if place.is_dir() else [place]
            there = place.exists()
        except (OSError, ValueError) as error:
            raise InputError(f"{plain(place)} cannot be read ({described(error)})") from None
        if not there:
            raise InputError(f"there is no file or folder {plain(place)}")
        if place.is_dir():
            inside = [at for at in inside if _is_shown(at.relative_to(place))]
            others = (at for at in place.rglob("*") if at.suffix.lower() not in EXTENSIONS)
            inner = [at.relative_to(place) for at in others if at.is_file()]
            tell_others(plain(place), sorted(str(at) for at in inner if _is_shown(at)))
        if not inside:
            raise InputError(f"{plain(place)} holds no images ({', '.join(EXTENSIONS)})")
        found += inside
    return found


def picture(
    given: object, shape: Shape, white: float | None = None
) -> Float[Tensor, "channels height width"]:
    """One image, converted to a shape (channels, height, width) as for the training.

    Files, PIL images and uint8 arrays are recoloured, resized and cut. Floats must have the size
    already. An array is (height, width), or has its channels first or last. `white` is the value
    that is white in grey images of more than 8 bits; without it that of 16.

    Raises:
        InputError: it is no image, or cannot be converted.

    >>> picture(np.full((4, 4, 3), 255, "uint8"), (1, 2, 2)).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """
    form = _form(shape, white)
    if isinstance(given, str | Path):
        return _scaled(_read(Path(given), form), shape, str(given))
    if isinstance(given, np.ndarray | Tensor):
        return _of_array(_array(given), shape, form)
    from PIL import Image

    if isinstance(given, Image.Image):
        return _scaled(_formed(given, form), shape, "the picture")
    raise InputError(f"an image is {plain(type(given).__name__, 60)}; give {KINDS}")


def batches(
    given: object, shape: Shape, white: float | None = None
) -> Iterator[Float[Tensor, "row channels height width"]]:
    """All images that are given, a batch at a time; `white` as in `picture`.

    Raises:
        InputError: as `picture` and `image_files`.
    """
    size = inference_batch(shape)
    if isinstance(given, Images):
        if given.shape != shape:
            raise InputError(f"the images are {given.shape}; the student takes {shape}")
        yield from map(given.read, torch.split(torch.arange(len(given)), size))
        return
    waiting: list[Tensor] = []
    for one in _each(given, shape):
        waiting.append(picture(one, shape, white))
        if len(waiting) == size:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)


def _each(given: object, shape: Shape) -> Iterator[object]:
    """The images of what may be one of them, a folder, an array of several, or a list."""
    if isinstance(given, str | Path):
        yield from image_files([given])
    elif isinstance(given, np.ndarray | Tensor):
        yield from _array(given) if _is_several(tuple(given.shape), shape) else (given,)
    elif isinstance(given, Iterable) and not isinstance(given, bytes | dict):
        for one in given:
            folder = isinstance(one, str | Path) and Path(one).is_dir()
            yield from image_files([one]) if folder else (one,)
    else:
        yield given


def _is_several(found: Sequence[int], shape: Shape) -> bool:
    """Whether an array holds several images and not one."""
    if len(found) == 2 and found[1] == math.prod(shape) not in (found[0], shape[2]):
        raise InputError(
            f"an array of {tuple(found)} may be {found[0]} flat rows or one grey image; give"
            f" {(found[0], *shape)}, by images.reshape(-1, {', '.join(map(str, shape))})"
        )
    if len(found) == 3 and shape[0] == 1:
        fits = tuple(found[1:]) == shape[1:]
        if found[0] in COLOURS[1:] and (fits or found[2] not in COLOURS):
            raise InputError(
                f"an array of {tuple(found)} may be {found[0]} grey images or one with colours;"
                f" give {(found[0], 1, *found[1:])}, or a list of images"
            )
        return found[0] != 1 and fits
    return len(found) == 4


def _array(given: Any) -> Any:
    if not isinstance(given, Tensor):
        return given
    held = given.detach().cpu()
    return (held.float() if held.dtype == torch.bfloat16 else held).numpy()


def _of_array(found: Any, shape: Shape, form: Form) -> Tensor:
    """An array of one image, whose channels are first, last, or none."""
    held = found[..., None] if found.ndim == 2 else found
    if held.ndim == 3 and _channels_first(held.shape, shape):
        held = held.transpose(1, 2, 0)
    if held.ndim != 3 or held.shape[2] not in {*COLOURS, shape[0]} or not held.size:
        raise InputError(
            f"an image is an array of {found.shape}; give (height, width), or with 1 or 3 channels"
            " first or last"
        )
    if held.dtype == np.uint8:
        if held.shape == (*shape[1:], shape[0]):
            return _scaled(held.transpose(2, 0, 1), shape, "the array")
        from PIL import Image

        values = np.ascontiguousarray(held[..., 0] if held.shape[2] == 1 else held)
        return _scaled(_formed(Image.fromarray(values), form), shape, "the array")
    if not np.issubdtype(held.dtype, np.floating):
        raise InputError(f"an image is an array of {held.dtype}; give uint8, or floats of 0 to 1")
    if held.shape != (*shape[1:], shape[0]):
        raise InputError(
            f"an image is an array of {found.shape}; floats are not resized, so give"
            f" {shape} (channels, height, width), or uint8"
        )
    low, high = float(held.min()), float(held.max())
    if not 0 <= low <= high <= 1:
        raise InputError(
            f"an image holds floats of {low:g} to {high:g}; give floats of 0 to 1, or uint8"
        )
    return torch.tensor(held.transpose(2, 0, 1).astype(np.float32))


def _channels_first(found: Sequence[int], shape: Shape) -> bool:
    if tuple(found[1:]) == shape[1:]:
        return found[0] in {*COLOURS, shape[0]}
    return found[0] in COLOURS and found[2] not in COLOURS


def _form(shape: Shape, white: float | None) -> Form:
    channels, height, width = shape
    known = channels if channels in (1, 3) else None
    return Form((height, width), known, FULL if white is None else white)


def _read(file: Path, form: Form) -> Any:
    def encoded(_: int) -> bytes:
        if file.stat().st_size > LARGEST_FILE:
            raise InputError(f"{plain(file)} has more than {LARGEST_FILE:,} bytes")
        return file.read_bytes()

    return np.asarray(decoded(encoded, lambda _: plain(file), 0, form))


def _formed(image: Any, form: Form) -> Any:
    try:
        return pixels(turned(image), form)
    except InputError:
        raise
    except Exception as error:  # of a decoder, which works only now
        raise InputError(f"a picture cannot be decoded: {described(error)}") from None


def _scaled(found: Any, shape: Shape, where: str) -> Tensor:
    if found.shape != shape:
        raise InputError(
            f"{plain(where)} is {found.shape} (channels, height, width); the student takes {shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(found).copy()).float().div_(255)


def _is_picture(at: Path) -> bool:
    return at.suffix.lower() in EXTENSIONS and (at.is_file() or not at.exists())  # or a dead link


def _is_shown(inner: Path) -> bool:
    return not any(part.startswith(".") for part in inner.parts)
