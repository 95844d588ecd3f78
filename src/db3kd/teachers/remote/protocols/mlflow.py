"""The scoring server of MLflow."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote.protocols.path import Path, path
from db3kd.teachers.remote.protocols.reply import Answer, Failed, answers, read
from db3kd.teachers.remote.protocols.request import (
    MANY,
    Request,
    address,
    check,
    json_request,
    values,
)


@dataclass(frozen=True)
class Mlflow:
    """Images as `inputs`, answers as `predictions`; made by `mlflow`."""

    remote: Remote
    encoder: Encoder
    path: Path

    most: ClassVar[int] = MANY

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """One request for all images: nested lists of numbers, or base64 of files."""
        url = address(self.remote.url, "invocations")
        return json_request(self.remote, url, {"inputs": values(self.encoder, images)})

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image; whatever the server sent, nothing is raised."""
        return read(status, headers, body, asked, partial(self._found, asked))

    def _found(self, asked: int, value: object) -> list[Answer] | Failed:
        said = value.get("predictions") if isinstance(value, dict) else None
        if isinstance(said, dict):
            output = self.remote.output
            said = said.get(output) if output or len(said) != 1 else next(iter(said.values()))
        if isinstance(said, list) and self.path.steps:
            said = [self.path.one(each) for each in said]
        what = f"the reply has no list of {asked} predictions"
        return answers(said, asked, self.remote.names.names, what)


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
