"""Images that a caller gives from Python, whatever holds them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from db3kd.data._pixels import Form, Unfit, depth_of, is_deep, pixels, top_of, turned
from db3kd.data.images import Images, TensorImages
from db3kd.data.labelled import DataSet
from db3kd.errors import InputError, described, plain

Given = Images | Tensor | np.ndarray | Sequence[Any]
"""What `images_of` takes."""

ACCEPTED = (
    "give images as db3kd.load opens them, a tensor or NumPy array of (sample, channels, height,"
    " width), or a list of PIL images"
)


def images_of(given: object) -> Images:
    """Images as db3kd takes them, from what a caller has; costs no query.

    `given`: images on demand, as they are; a tensor or NumPy array of (sample, channels, height,
    width), see `TensorImages`; or PIL images of one size, which are converted as those in files.

    Raises:
        InputError: it is something else; the text says what.

    >>> images_of(np.zeros((5, 3, 8, 8), np.uint8)).shape
    (3, 8, 8)
    >>> images_of("photos")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the images are a path, 'photos'; open it by db3kd.load, and give its
    images
    """
    if isinstance(given, Tensor | np.ndarray):
        return TensorImages(given)
    if isinstance(given, Images):
        return given
    if isinstance(given, DataSet):
        raise InputError("the images are a data set of db3kd; give its images, by .images")
    if isinstance(given, str) or hasattr(given, "__fspath__"):
        raise InputError(
            f"the images are a path, {plain(given, 100)!r}; open it by db3kd.load, and give its"
            " images"
        )
    if isinstance(given, list | tuple):
        return _of_list(list(given))
    kind = f"{type(given).__module__}.{type(given).__qualname__}"
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        raise InputError(
            f"the images are a {plain(kind, 100)}, as data sets of torch are; stack its images, by"
            " torch.stack([image for image, _ in data])"
        )
    raise InputError(f"the images are a {plain(kind, 100)}; {ACCEPTED}")


def _of_list(given: list[Any]) -> Images:
    from PIL import Image

    if not given:
        raise InputError(f"the images are an empty list; {ACCEPTED}")
    other = next((each for each in given if not isinstance(each, Image.Image)), None)
    if other is None:
        return _of_pil(given)
    if isinstance(other, list | tuple):
        raise InputError(
            f"the images are a list of tuples of {len(other)}; give the images alone, by"
            " torch.stack([image for image, label in pairs])"
        )
    if isinstance(other, Tensor | np.ndarray):
        stack = "torch.stack" if isinstance(other, Tensor) else "numpy.stack"
        raise InputError(
            f"the images are a list of arrays of shape {tuple(other.shape)}; give one array, by"
            f" {stack}(images)"
        )
    raise InputError(f"the images are a list of {plain(type(other).__name__, 60)}; {ACCEPTED}")


def _of_pil(given: list[Any]) -> TensorImages:
    found: list[Any] = []
    try:
        images = [turned(image) for image in given]
        top = top_of(depth_of(image) for image in images if is_deep(image))
        found += (pixels(image, Form(None, None, top)) for image in images)
    except Unfit as error:
        raise InputError(f"image {len(found)} {error}") from None
    except Exception as error:  # of files that were opened, but not read yet
        raise InputError(f"the images cannot be decoded: {described(error)}") from None
    for row, image in enumerate(found):
        if image.shape != found[0].shape:
            raise InputError(
                f"image {row} has shape {image.shape} but the first image has {found[0].shape}"
                " (channels, height, width); give images of one size and mode"
            )
    return TensorImages(torch.from_numpy(np.stack(found)))
