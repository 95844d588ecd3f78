"""The scoring server of MLflow."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.teachers.remote.encode import Encoder
from db3kd.teachers.remote.protocols.path import Path, path
from db3kd.teachers.remote.protocols.reply import (
    Answer,
    Failed,
    answers,
    parsed,
    refused,
    unreadable,
)
from db3kd.teachers.remote.protocols.request import JSON, Request, address, check, request
from db3kd.teachers.remote.protocols.tensors import MANY


@dataclass(frozen=True)
class Mlflow:
    """Images as `inputs`, answers as `predictions`; made by `mlflow`."""

    remote: Remote
    encoder: Encoder
    path: Path

    @property
    def most(self) -> int:
        """Images in one request, at most: no limit of the protocol's own."""
        return MANY

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """One request for all images: nested lists of numbers, or base64 of files."""
        inputs: list[Any]
        if self.encoder.is_file:
            inputs = [base64.b64encode(file).decode() for file in self.encoder.files(images)]
        else:
            inputs = self.encoder.arrays(images).tolist()
        body = msgspec.json.encode({"inputs": inputs})
        url = address(self.remote.url, "invocations")
        return request(self.remote, url, body, {"Content-Type": JSON, "Accept": JSON})

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image; whatever the server sent, nothing is raised."""
        failed = refused(status, headers, body)
        if failed is not None:
            return [failed] * asked
        value = parsed(headers, body)
        if isinstance(value, Failed):
            return [value] * asked
        said = value.get("predictions") if isinstance(value, dict) else None
        if isinstance(said, dict):
            output = self.remote.output
            said = said.get(output) if output or len(said) != 1 else next(iter(said.values()))
        if isinstance(said, list) and self.path.steps:
            said = [self.path.one(each) for each in said]
        found = answers(said, asked, self.remote.names.names)
        if found is None:
            what = f"the reply has no list of {asked} predictions"
            return [unreadable(what, headers, body)] * asked
        return found


def mlflow(remote: Remote, encoder: Encoder) -> Mlflow:
    """The scoring protocol of MLflow 2 and 3: POST {url}/invocations.

    Sent is {"inputs": [...]}, arrays as nested lists, files as base64. Of {"predictions": [...]}
    each is a number, a name, or a list or an object of scores; `path` leads further into each, and
    `output` chooses where there are lists by name. A query for each image; nothing is random.

    Raises:
        InputError: a setting that the protocol does not use, or a path that cannot be read.

    >>> remote = Remote(url="http://localhost:5000", protocol="mlflow")
    >>> protocol = mlflow(remote, Encoder(remote.encoding, (1, 8, 8)))
    >>> protocol.answers(200, {}, b'{"predictions": [7.0, "cat", [0.2, 0.8]]}', 3)
    [7, 'cat', 1]
    """
    check(remote, encoder, uses=("output", "path"))
    return Mlflow(remote, encoder, path(remote.path))
