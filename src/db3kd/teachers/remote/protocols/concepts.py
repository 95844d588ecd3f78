"""Nested JSON with codes of its own, as Clarifai's API speaks it.

A recipe calls it "concepts", which is what that API calls its classes. An image is an "input" with
an id, and an answer is an "output" for such an id, with a list of concepts and their values. An
error is a code inside the JSON, in the reply and again in each output: the status of HTTP may well
be 200.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote.protocols.reply import Answer, Failed, answer, highest, read
from db3kd.teachers.remote.protocols.request import (
    MANY,
    Request,
    check,
    json_request,
    of_model,
    texts,
)

SUCCESS, MIXED = 10000, 10010
DIGITS = 16  # of a request's id
OURS = re.compile(rf"([0-9a-f]{{{DIGITS}}})?-\d+")
THROTTLED = (11005, 11006)
CONNECTION = range(11000, 12000)  # keys, accounts and limits: asking again does not help


@dataclass(frozen=True)
class Concepts:
    """Images as base64 in nested JSON, answers as concepts with values; made by `concepts`."""

    remote: Remote
    encoder: Encoder

    most: ClassVar[int] = MANY

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """One request for all images; answers are matched by ids, of a digest and a place."""
        files = self.encoder.files(images)
        digest = hashlib.sha256(b"".join(files)).hexdigest()[:DIGITS]
        inputs = [
            {"id": one, "data": {"image": {"base64": text}}}
            for one, text in zip(_ids(digest, len(files)), texts(files), strict=True)
        ]
        named = self.remote.model is not None
        url = of_model(self.remote, "outputs") if named else self.remote.url
        return replace(json_request(self.remote, url, {"inputs": inputs}), id=digest)

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image; whatever the server sent, nothing is raised.

        Where some outputs are missing and the others say whose they are, only the missing failed.
        Where none has an id of ours, they are taken in their order.
        """
        return read(status, headers, body, asked, partial(self._found, asked, sent))

    def _found(self, asked: int, sent: str, value: object) -> list[Answer] | Failed:
        code = _code(value)
        if code not in (SUCCESS, MIXED):
            what = f"the reply has {'no status code' if code is None else f'the code {code}'}"
            return Failed(what, _retry(code))
        outputs = value.get("outputs") if isinstance(value, dict) else None
        places = _places(outputs, _ids(sent, asked)) if isinstance(outputs, list) else None
        if not isinstance(outputs, list) or places is None:
            return Failed(f"the reply has no list of {asked} outputs", retry=True)
        found: list[Answer] = [Failed("the reply has no output for the image", retry=True)] * asked
        for place, output in zip(places, outputs, strict=True):
            found[place] = _concept(output)
        return found


def concepts(remote: Remote, encoder: Encoder) -> Concepts:
    """Nested JSON with codes of its own, as Clarifai's API v2 speaks it; concepts are its classes.

    POST {url}, or {url}/v2/models/{model}[/versions/{version}]/outputs. The reply has a code,
    whatever the status of HTTP: 10000 means that all images were answered, 10010 that some were;
    every other one is an error. The answer is the concept with the highest value in the image's
    output, and the empty name if there is none. A query for each image; nothing is random.

    Raises:
        InputError: the images are no files, or a setting that the protocol does not use.

    >>> remote = Remote(url="https://localhost", protocol="concepts", model="animals")
    >>> protocol = concepts(remote, Encoder(remote.encoding, (3, 8, 8)))
    >>> reply = b'''{"status": {"code": 10000}, "outputs": [{"status": {"code": 10000}, "data":
    ...     {"concepts": [{"name": "cat", "value": 0.1}, {"name": "dog", "value": 0.8}]}}]}'''
    >>> protocol.answers(200, {}, reply, 1)
    ['dog']
    """
    check(remote, encoder, uses=("model", "version"), files=True)
    return Concepts(remote, encoder)


def _code(value: object) -> int | None:
    status = value.get("status") if isinstance(value, dict) else None
    code = status.get("code") if isinstance(status, dict) else None
    return code if type(code) is int and 0 <= code < 10**6 else None


def _retry(code: int | None) -> bool:
    return code in THROTTLED or code not in CONNECTION


def _ids(digest: str, asked: int) -> list[str]:
    return [f"{digest}-{place}" for place in range(asked)]


def _places(outputs: list[object], sent: list[str]) -> list[int] | None:
    """Whose each output is: by the ids that were sent, or else by its place if none is missing."""
    ids = [_id(output) for output in outputs]
    known = {one: place for place, one in enumerate(sent)}
    places = [known[given] for given in ids if given in known]
    if len(places) == len(ids) == len(set(places)) and places:
        return places
    if any(OURS.fullmatch(given or "") for given in ids):
        return None  # some are ours and some are not, or are there twice, or of another request
    return list(range(len(sent))) if len(outputs) == len(sent) else None


def _id(output: object) -> str | None:
    entry = output.get("input") if isinstance(output, dict) else None
    given = entry.get("id") if isinstance(entry, dict) else None
    return given if isinstance(given, str) else None


def _concept(output: object) -> Answer:
    code = _code(output)
    if code not in (SUCCESS, None):
        return Failed(f"the output of the image has the code {code}", _retry(code))
    data = output.get("data") if isinstance(output, dict) else None
    found = data.get("concepts") if isinstance(data, dict) else None
    if not isinstance(found, list):
        return "" if data == {} else Failed("the output of the image has no concepts", retry=True)
    if not all(isinstance(each, dict) for each in found):
        return Failed("the output of the image has concepts that are no objects", retry=True)
    if not found:
        return ""
    best = highest([each.get("value") for each in found])
    if isinstance(best, Failed):
        return best
    named = found[best].get("name")
    return answer(named) if isinstance(named, str) else Failed("a concept has no name", retry=True)
