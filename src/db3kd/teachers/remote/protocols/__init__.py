"""Protocols: images into requests, replies into answers. Pure functions; nothing is sent here."""

from collections.abc import Callable, Mapping
from typing import Protocol as Kind
from typing import runtime_checkable

from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.config.secrets import VARIABLE
from db3kd.config.types import validated
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote.protocols.concepts import concepts
from db3kd.teachers.remote.protocols.form import form
from db3kd.teachers.remote.protocols.mlflow import mlflow
from db3kd.teachers.remote.protocols.oip import OpenInference, describe, oip, told
from db3kd.teachers.remote.protocols.raw import raw
from db3kd.teachers.remote.protocols.reply import Answer, Failed
from db3kd.teachers.remote.protocols.request import Request
from db3kd.teachers.remote.protocols.template import template

__all__ = [
    "VARIABLE",
    "Answer",
    "Failed",
    "OpenInference",
    "Protocol",
    "Request",
    "concepts",
    "describe",
    "form",
    "mlflow",
    "of",
    "oip",
    "raw",
    "template",
    "told",
]


@runtime_checkable
class Protocol(Kind):
    """How a service is asked and how it answers; it sends nothing itself.

    >>> remote = Remote(url="http://localhost:5000", protocol="mlflow")
    >>> protocol = of(remote, Encoder(remote.encoding, (1, 8, 8)))
    >>> protocol.answers(503, {"Retry-After": "2"}, b"busy", 1)
    [Failed(reason='the server answered 503: busy', retry=True, after=2.0)]
    """

    @property
    def most(self) -> int:
        """Images in one request, at most."""

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """The request for these images, within the encoder's bounds."""

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image asked, in their order; it never raises.

        `sent`: the request's id; a reply that names another one is to another request, and failed.
        A request that failed as a whole is the same `Failed` for every image.
        """


def of(remote: Remote, encoder: Encoder) -> Protocol:
    """The protocol that the settings name.

    Raises:
        InputError: settings that contradict each other, or that the protocol does not use.

    >>> remote = Remote(url="http://localhost:8080", protocol="oip", model="digits")
    >>> of(remote, Encoder(remote.encoding, (1, 8, 8))).most > 10**9
    True
    """
    makers: dict[str, Callable[[Remote, Encoder], Protocol]] = {
        "oip": oip,
        "mlflow": mlflow,
        "raw": raw,
        "form": form,
        "concepts": concepts,
        "template": template,
    }
    return makers[validated(remote).protocol](remote, encoder)
