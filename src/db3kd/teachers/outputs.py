"""What models return, as class indices: which output it is, and what its numbers mean."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.errors import TeacherError, plain
from db3kd.teachers.classes import Classes

UNTOLD = (
    "gives one score for each image, and whether that is a probability (the border is 0.5) or a"
    " logit (the border is 0) cannot be told; let it return two scores, or a class index"
)


def top(
    scores: Tensor, rows: int, known: Classes, border: Callable[[], float], what: str
) -> Int[Tensor, " row"]:
    """The class of each row of what a model returned, where that is what it should be.

    - Scores (row, classes), with further axes of length 1 or without: that of the highest. Of one
      image they may lack the axis of images.
    - One score for two classes, (row) or (row, 1): class 1 above `border()`, class 0 elsewhere.
    - Whole numbers (row) or (row, 1): answers of the model (`Classes.indices`).

    Raises:
        TeacherError: another shape, or scores that are not numbers.

    >>> top(torch.tensor([[0.2, 0.8]]), 1, Classes(2), lambda: 0.5, "the model")
    tensor([1])
    """
    shape = tuple(scores.shape)
    if rows == 1 and shape in ((), (known.width,)):
        scores = scores[None]
    elif len(shape) > 2 and sum(size != 1 for size in shape[1:]) <= 1:
        scores = scores.flatten(1)
    scored = scores.shape == (rows, known.width)
    one = scores.shape in ((rows,), (rows, 1))
    if one and not scored and not scores.is_floating_point():
        return known.indices(scores.reshape(rows), rows)
    if not scored and not (one and known.width == 2):
        raise TeacherError(
            f"{what} returned {shape} for {rows} images;"
            f" scores of shape ({rows}, {known.width}) are expected"
        )
    if torch.isnan(scores).any():
        raise TeacherError(f"{what} returned scores that are not a number")
    highest = scores.argmax(1) if scored else (scores.reshape(rows) > border()).long()
    return known.of_scores(highest)


def picked(returned: object, rows: int, width: int | None, output: str | None) -> Tensor:
    """The scores in what a torch module returned: a tensor, or something that holds one.

    With `output` that entry: a key, an attribute, or a place in a tuple. Without it "logits", or in
    a tuple the first scores of `width` classes, or else the only ones. Without `width`, scores of
    any number of classes.

    Raises:
        TeacherError: no such entry, or several.

    >>> picked({"logits": torch.zeros(3, 2), "features": torch.zeros(3, 9)}, 3, 2, None).shape
    torch.Size([3, 2])
    """
    if output is None and isinstance(returned, Tensor):
        return returned
    entries = dict(_entries(returned))
    if output is not None:
        named = entries.get(output)
        if not isinstance(named, Tensor):
            raise TeacherError(
                f"the module returned {_listed(entries, returned)}; there are no scores in"
                f" {plain(output, 60)!r}, which output names"
            )
        return named
    logits = entries.get("logits", getattr(returned, "logits", None))
    if isinstance(logits, Tensor):
        return logits
    fits = [entry for entry in entries.values() if _scores(entry, rows, width)]
    if not fits and width in (None, 2):
        fits = [entry for entry in entries.values() if _scores(entry, rows, 1)]
    if len(fits) == 1 or (fits and isinstance(returned, tuple | list)):
        found: Tensor = fits[0]
        return found
    wanted = "classes" if width is None else width
    advice = "; say which are right by output" if entries else ""
    raise TeacherError(
        f"the module returned {_listed(entries, returned)} for {rows} images;"
        f" scores of shape ({rows}, {wanted}) are expected{advice}"
    )


def _entries(returned: object) -> Iterator[tuple[str, Any]]:
    if isinstance(returned, Mapping):
        yield from ((str(name), entry) for name, entry in returned.items())
    elif isinstance(returned, tuple) and hasattr(returned, "_fields"):
        yield from zip(returned._fields, returned, strict=True)
    elif isinstance(returned, tuple | list):
        yield from ((str(place), entry) for place, entry in enumerate(returned))
    elif not isinstance(returned, Tensor):
        yield from getattr(returned, "__dict__", {}).items()


def _scores(entry: object, rows: int, width: int | None) -> bool:
    """Whether this can be scores of that many classes."""
    if not isinstance(entry, Tensor) or not entry.is_floating_point() or entry.ndim < 2:
        return False
    shape = tuple(entry.shape)
    plain_shape = shape[0] == rows and shape[2:] == (1,) * len(shape[2:])
    return plain_shape and (shape[1] > 1 if width is None else shape[1] == width)


def _listed(entries: Mapping[str, object], returned: object) -> str:
    """The kind of what was returned, and the shapes in it."""
    kind = plain(type(returned).__name__, 60)
    shapes = [
        f"{plain(name, 40)} {tuple(entry.shape)}"
        for name, entry in list(entries.items())[:6]
        if isinstance(entry, Tensor)
    ]
    return f"{kind} of {', '.join(shapes)}" if shapes else kind
