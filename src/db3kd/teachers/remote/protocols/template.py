"""Any other HTTP service: a body with a place for the image, and a path to the label."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec
from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.errors import InputError
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote.protocols.path import Path, path
from db3kd.teachers.remote.protocols.reply import Answer, Failed, answers, read
from db3kd.teachers.remote.protocols.request import JSON, MANY, Request, check, request, values

ONE, ALL = "{image}", "{images}"


@dataclass(frozen=True)
class Template:
    """A body with a place for the image or the images; made by `template`."""

    remote: Remote
    encoder: Encoder
    path: Path
    many: bool
    whole: object  # the body as a JSON value, or None if it is any other text

    @property
    def most(self) -> int:
        """Images in one request: one for "{image}", no limit for "{images}"."""
        return MANY if self.many else 1

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """The request for all images, or for the one image that the body has a place for.

        Raises:
            InputError: the body has a place for one image, and there is not exactly one.
        """
        if not self.many and len(images) != 1:
            raise InputError(f"the body has a place for one image, and there are {len(images)}")
        sent = values(self.encoder, images)
        value = sent if self.many else sent[0]
        if self.whole is not None:
            body, kind = msgspec.json.encode(_filled(self.whole, value)), JSON
        else:
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            place = ALL if self.many else ONE
            body, kind = (self.remote.body or "").replace(place, text).encode(), "text/plain"
        headers = {"Content-Type": kind, "Accept": JSON}
        return request(self.remote, self.remote.url, body, headers)

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image; whatever the server sent, nothing is raised."""
        found = partial(self._found, asked)
        return read(status, headers, body, asked, found, text=not (self.many or self.path.text))

    def _found(self, asked: int, value: object) -> list[Answer] | Failed:
        many = self.many or self.path.many
        what = f"the reply has no {f'{asked} answers' if many else 'answer'} at {self.path.text!r}"
        said = self.path.listed(value, many=many)
        return answers(said, asked, self.remote.names.names, what)


def template(remote: Remote, encoder: Encoder) -> Template:
    """Any service that takes a body with the image in it, and answers JSON or plain text.

    The body is JSON if it starts like an object or a list. In it the text "{image}" becomes the
    image, base64 of a file or a nested list of an array, and "{images}" a list of all of them; a
    file may also stand inside a longer text ("data:image/png;base64,{image}"). Any other body is
    sent as text, with the same places. `path` leads to the answer, or to a list of one for each
    image; without one the reply to one image may be plain text. A query for each image; nothing is
    random.

    Raises:
        InputError: no body, or one without a place for the image; a path that cannot be read.

    >>> import torch
    >>> remote = Remote(url="http://localhost/classify", protocol="template", path="result.class",
    ...                 body='{"picture": "{image}", "top": 1}')
    >>> protocol = template(remote, Encoder(remote.encoding, (1, 8, 8)))
    >>> protocol.request(torch.zeros(1, 1, 8, 8)).body[:21]
    b'{"picture":"iVBORw0KG'
    >>> protocol.answers(200, {}, b'{"result": {"class": "cat"}}', 1)
    ['cat']
    """
    check(remote, encoder, uses=("path", "body", "method"))
    if not remote.body:
        raise InputError('protocol \'template\' needs a body with "{image}" or "{images}" in it')
    whole = _parsed(remote.body)
    texts = [remote.body] if whole is None else list(_texts(whole))
    one, many = (any(place in text for text in texts) for place in (ONE, ALL))
    if one == many:
        found = "both" if one else "neither"
        raise InputError(f'the body must have "{{image}}" or "{{images}}" in it; it has {found}')
    if whole is not None:
        _check_places(texts, file=encoder.is_file)
    return Template(remote, encoder, path(remote.path), many, whole)


def _parsed(body: str) -> object:
    """The body as a JSON value; None if it is meant to be any other text."""
    start = body.lstrip()
    if not start.startswith(("{", "[")) or start.startswith((ONE, ALL)):
        return None
    try:
        return json.loads(body, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise InputError(
            f"the body is not JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON that can be sent: {error}") from None


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is not a JSON number")


def _texts(value: object) -> Iterator[str]:
    """Every text of a JSON value; keys are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _check_places(texts: Sequence[str], *, file: bool) -> None:
    for text in texts:
        if ALL in text and text != ALL:
            raise InputError(f'"{{images}}" becomes a list and must be a text of its own: {text!r}')
        if ONE in text and text != ONE and not file:
            raise InputError(f'"{{image}}" becomes a list and must be a text of its own: {text!r}')


def _filled(value: object, image: object) -> object:
    """The JSON value with the image, or the images, in their places."""
    if isinstance(value, dict):
        return {key: _filled(each, image) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, image) for each in value]
    if value in (ONE, ALL):
        return image
    if isinstance(value, str) and isinstance(image, str):
        return value.replace(ONE, image)
    return value
