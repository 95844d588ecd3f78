"""One image file as the body of a request, and a label somewhere in the answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.errors import InputError
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote.protocols.path import Path, path
from db3kd.teachers.remote.protocols.reply import Answer, Failed, answers, read
from db3kd.teachers.remote.protocols.request import JSON, Request, check, request


@dataclass(frozen=True)
class Raw:
    """An image file a request; made by `raw`."""

    remote: Remote
    encoder: Encoder
    path: Path

    most: ClassVar[int] = 1

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """The request for one image: its file is the body.

        Raises:
            InputError: there is not exactly one image.
        """
        if len(images) != 1:
            raise InputError(f"protocol 'raw' sends one image at a time, not {len(images)}")
        headers = {"Content-Type": self.encoder.media_type, "Accept": JSON}
        return request(self.remote, self.remote.url, self.encoder.files(images)[0], headers)

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image; whatever the server sent, nothing is raised."""
        found = partial(self._found, asked)
        return read(status, headers, body, asked, found, text=not self.path.text)

    def _found(self, asked: int, value: object) -> list[Answer] | Failed:
        what = f"the reply has nothing at {self.path.text!r}"
        said = self.path.listed(value, many=False)
        return answers(said, asked, self.remote.names.names, what)


def raw(remote: Remote, encoder: Encoder) -> Raw:
    """An image file as the body of a request to {url}, as TorchServe and Hugging Face take it.

    `path` leads to the label: TorchServe's {"tabby": 0.9, ...} is the object of scores at "",
    Hugging Face's [{"label": "tabby", ...}, ...] has it at "[0].label"; at "" a reply may also be
    plain text. One image a request; a
    query for each image; nothing is random.

    Raises:
        InputError: the images are no files, a setting that the protocol does not use, or a path
            that cannot be read.

    >>> remote = Remote(url="http://localhost/predictions/cats", protocol="raw")
    >>> protocol = raw(remote, Encoder(remote.encoding, (1, 8, 8)))
    >>> protocol.answers(200, {}, b'{"tabby": 0.9, "tiger": 0.1}', 1)
    ['tabby']
    """
    check(remote, encoder, uses=("path", "method"), files=True)
    where = path(remote.path)
    if where.many:
        raise InputError(f"path {remote.path!r} has a [*], and 'raw' has one image in a request")
    return Raw(remote, encoder, where)
