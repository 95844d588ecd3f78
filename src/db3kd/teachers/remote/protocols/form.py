"""An upload as a browser sends it: image files in a field of a form, and a label in the answer."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.errors import InputError
from db3kd.teachers.encoding import Encoder
from db3kd.teachers.remote.protocols.path import Path, path
from db3kd.teachers.remote.protocols.reply import Answer, Failed, answers, read
from db3kd.teachers.remote.protocols.request import JSON, MANY, Request, check, request

ENDINGS = {"png": "png", "jpeg": "jpg"}  # of file names
BOUNDARY = 32  # characters between the parts


@dataclass(frozen=True)
class Form:
    """A form with an image file, or with several; made by `form`."""

    remote: Remote
    encoder: Encoder
    path: Path

    @property
    def most(self) -> int:
        """Images in one request: one, or no limit where the path has a `[*]`."""
        return MANY if self.path.many else 1

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """The form for these images; the same one for the same images.

        Raises:
            InputError: the path has no `[*]`, and there is not exactly one image.
        """
        if len(images) > self.most or not len(images):
            raise InputError(f"the path has no [*], so a form is for one image, not {len(images)}")
        files, media = self.encoder.files(images), self.encoder.media_type
        ending = ENDINGS[self.encoder.encoding.kind]
        boundary = hashlib.sha256(b"".join(files)).hexdigest()[:BOUNDARY]
        kind = f"multipart/form-data; boundary={boundary}"
        bare = request(self.remote, self.remote.url, b"", {"Content-Type": kind, "Accept": JSON})
        parts = [
            (self.remote.field, (f"image-{number}.{ending}", file, media))
            for number, file in enumerate(files)
        ]
        return replace(bare, fields=self.remote.fields, files=parts)

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image; whatever the server sent, nothing is raised."""
        found = partial(self._found, asked)
        return read(status, headers, body, asked, found, text=not self.path.text)

    def _found(self, asked: int, value: object) -> list[Answer] | Failed:
        many = self.path.many
        what = f"the reply has no {f'{asked} answers' if many else 'answer'} at {self.path.text!r}"
        said = self.path.listed(value, many=many)
        return answers(said, asked, self.remote.names.names, what)


def form(remote: Remote, encoder: Encoder) -> Form:
    """A form (RFC 7578, multipart/form-data) to {url}, as FastAPI takes uploads.

    The image is a file in `field`, beside the texts in `fields`. `path` leads to the answer. With a
    `[*]` in it, a request has up to `batch` files in that field, and the answers are a list. A
    query for each image; nothing is random.

    Raises:
        InputError: the images are no files, a setting that the protocol does not use, or a path
            that cannot be read.

    >>> import torch
    >>> remote = Remote(url="http://localhost/upload", protocol="form", path="prediction")
    >>> protocol = form(remote, Encoder(remote.encoding, (1, 8, 8)))
    >>> [(field, (name, content, kind))] = protocol.request(torch.zeros(1, 1, 8, 8)).files
    >>> field, name, content[1:4], kind
    ('file', 'image-0.png', b'PNG', 'image/png')
    >>> protocol.answers(200, {}, b'{"prediction": "cat"}', 1)
    ['cat']
    """
    check(remote, encoder, uses=("path", "method", "field", "fields"), files=True)
    if remote.method == "GET":
        raise InputError("protocol 'form' uploads files, which method 'GET' cannot; leave it out")
    if remote.field in remote.fields:
        raise InputError(f"fields has {remote.field[:60]!a}, the field of the image; rename one")
    if "" in remote.fields:
        raise InputError("fields has an empty name; name each field")
    if any(name.lower() == "content-type" for name in remote.headers):
        raise InputError("header 'Content-Type' is set by db3kd for protocol 'form'; leave it out")
    return Form(remote, encoder, path(remote.path))
