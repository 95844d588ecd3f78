"""A scikit-learn classifier of 8x8 digits that writes down every image it is asked.

Every server loads it as it would load any scikit-learn model; it runs in `.venv-servers` only.
"""

import base64
import binascii
import hashlib
import io
import json
import os
from typing import Any

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

SEEN = "DIGITS_SEEN"  # the variable with the path of the file in which it writes


def pixels(images: Any) -> np.ndarray:
    """The images as rows of 64 numbers from 0 to 1.

    Floats are from 0 to 1 already; whole numbers are grey levels from 0 to 255; bytes are image
    files, strings the same in base64.
    """
    if isinstance(images, list) and images and isinstance(images[0], bytes | str):
        return np.stack([pixels_of_file(image) for image in images])
    array = np.asarray(images)
    if np.issubdtype(array.dtype, np.integer):
        array = array / 255
    return array.reshape(len(array), -1).astype(np.float32)


def pixels_of_file(content: bytes | str) -> np.ndarray:
    """The 64 pixels of an image file, whose size and colours are what they need not be."""
    if isinstance(content, str):
        try:
            content = base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise ValueError("this is no base64") from error
    with Image.open(io.BytesIO(content)) as image:
        small = image.convert("L").resize((8, 8), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.float32).ravel() / 255


def write_down(rows: np.ndarray) -> None:
    """Add one line to the file of what was seen: how many images, and a digest of each."""
    if SEEN not in os.environ:
        return
    levels = np.rint(rows * 255).astype(np.uint8)
    digests = [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in levels]
    line = json.dumps({"images": len(digests), "digests": digests}) + "\n"
    file = os.open(os.environ[SEEN], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Digits(LogisticRegression):  # type: ignore[misc]
    """Logistic regression that takes images in every form in which servers hand them over."""

    def predict(self, images: Any) -> Any:
        """The class of each image."""
        rows = pixels(images)
        write_down(rows)
        return super().predict(rows)

    def predict_proba(self, images: Any) -> Any:
        """The probability of each class, a row for each image."""
        rows = pixels(images)
        write_down(rows)
        return super().predict_proba(rows)
