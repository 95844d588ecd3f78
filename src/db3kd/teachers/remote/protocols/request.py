"""What is sent: a request as a value, made of settings that were checked before."""

import base64
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import msgspec
from torch import Tensor

from db3kd.config.remote import Remote, Verb
from db3kd.config.secrets import VARIABLE
from db3kd.config.types import validated
from db3kd.errors import InputError
from db3kd.teachers.encoding.encoder import Encoder

JSON = "application/json"
MANY = sys.maxsize  # images in one request, where the protocol has no limit of its own
NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # of a header: RFC 9110, section 5.1
VALUE = re.compile(r"[\x20-\x7e]*")  # of a header: its visible part that every server reads alike
OURS = ("content-length", "transfer-encoding", "host", "connection")
SECRET = re.compile(
    r"auth|cookie|secret|token|passw|credential|api[-_]?key|(^|[-_])key$|(^|[-_])sig(nature)?$",
    re.IGNORECASE,
)
CHOICES = (
    *("model", "version", "input", "output", "binary", "classification"),
    *("path", "body", "field", "fields", "method"),
)
File: TypeAlias = tuple[str, tuple[str, bytes, str]]
"""A file of a form: its field; its name, its bytes and its media type."""


@dataclass(frozen=True)
class Request:
    """An HTTP request (RFC 9110); `${NAME}` in a value of its headers is still to be replaced.

    `id`: by what name a reply may call it, where the protocol has names for requests. A form
    (RFC 7578) has `files` and `fields` in place of a body; values of `fields` are as those of
    headers.

    >>> Request("POST", "http://localhost/invocations", {"Accept": "text/plain"}, b"{}")
    Request(method='POST', url='http://localhost/invocations')
    """

    method: Verb
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    id: str = field(default="", repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Sequence[File] = field(default=(), repr=False)


def request(remote: Remote, url: str, body: bytes, headers: Mapping[str, str]) -> Request:
    """A request with our own headers, unless the settings have one of the same name.

    >>> remote = Remote(url="http://a", protocol="raw", headers={"content-type": "image/x-png"})
    >>> request(remote, "http://a", b"", {"Content-Type": "image/png", "Accept": JSON}).headers
    {'Accept': 'application/json', 'content-type': 'image/x-png'}
    """
    given = {name.lower() for name in remote.headers}
    own = {name: value for name, value in headers.items() if name.lower() not in given}
    return Request(remote.method, url, {**own, **remote.headers}, body)


def json_request(remote: Remote, url: str, value: object) -> Request:
    """A request whose body is a JSON value, and whose reply should be one.

    >>> json_request(Remote(url="http://a", protocol="mlflow"), "http://a", {"inputs": []}).body
    b'{"inputs":[]}'
    """
    headers = {"Content-Type": JSON, "Accept": JSON}
    return request(remote, url, msgspec.json.encode(value), headers)


def texts(files: Sequence[bytes]) -> list[str]:
    """Files as JSON can hold them: base64 (RFC 4648, section 4).

    >>> texts([b"cat"])
    ['Y2F0']
    """
    return [base64.b64encode(file).decode() for file in files]


def values(encoder: Encoder, images: Tensor) -> list[Any]:
    """Images as JSON can hold them, one each: base64 of a file, or nested lists of numbers.

    >>> import torch
    >>> from db3kd.config.remote import Encoding
    >>> values(Encoder(Encoding(kind="uint8"), (1, 1, 2)), torch.ones(1, 1, 1, 2))
    [[[[255, 255]]]]
    """
    if encoder.is_file:
        return list(texts(encoder.files(images)))
    found: list[Any] = encoder.arrays(images).tolist()
    return found


def of_model(remote: Remote, *more: str) -> str:
    """The address of the model, and of its version if one is set: {url}/v2/models/...

    >>> of_model(Remote(url="http://a", protocol="oip", model="digits", version="3"), "infer")
    'http://a/v2/models/digits/versions/3/infer'
    """
    version = () if remote.version is None else ("versions", remote.version)
    return address(remote.url, "v2", "models", remote.model or "", *version, *more)


def address(url: str, *parts: str) -> str:
    """The address with further parts at the end of its path, whatever characters are in them.

    >>> address("https://host/base/?zone=1", "v2", "models", "a/b c")
    'https://host/base/v2/models/a%2Fb%20c?zone=1'
    """
    if not parts:
        return url
    whole = urlsplit(url)
    path = "/".join([whole.path.rstrip("/"), *(quote(part, safe="") for part in parts)])
    return urlunsplit((whole.scheme, whole.netloc, path, whole.query, ""))


def check(remote: Remote, encoder: Encoder, *, uses: Sequence[str], files: bool = False) -> None:
    """Refuse settings that contradict each other, or that the protocol does not use.

    `uses`: which of `CHOICES` it has a use for. `files`: it can send files alone.

    Raises:
        InputError: says which setting, and what would work; never a value of a header.

    >>> remote = Remote(url="http://localhost", protocol="raw", model="digits")
    >>> check(remote, Encoder(remote.encoding, (1, 4, 4)), uses=("path",), files=True)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: protocol 'raw' has no use for model; leave it out
    """
    validated(remote)
    if encoder.encoding != remote.encoding:
        raise InputError("the encoder has another encoding than the settings of the teacher")
    _check_url(remote.url)
    for name, value in remote.headers.items():
        _check_header(name, value)
    for name, value in remote.fields.items():
        _check_value(f"field {name[:60]!a}", name, value)
    plain = Remote(url=remote.url, protocol=remote.protocol)
    for choice in CHOICES:
        if choice not in uses and getattr(remote, choice) != getattr(plain, choice):
            raise InputError(f"protocol {remote.protocol!r} has no use for {choice}; leave it out")
    for choice in ("model", "version", "input", "output", "field"):
        if getattr(remote, choice) in ("", ".", ".."):
            raise InputError(f"{choice} must be a name, got {getattr(remote, choice)!r}")
    if files and not encoder.is_file:
        kind = encoder.encoding.kind
        raise InputError(f"protocol {remote.protocol!r} sends 'png' or 'jpeg' files, not {kind!r}")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.username is not None or parts.password is not None:
        raise InputError("url must hold no user and no password; send them in a header")
    printable = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not host or not printable or parts.fragment:
        raise InputError(f"url must be like 'https://host/path', got {_plain(url)}")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        _check_value(f"{name[:60]!a} of url", name, value)


def _plain(url: str) -> str:
    """An address without what may be secret in it: all that follows a question mark or an @."""
    return json.dumps(re.split(r"[?#]", url)[0].rpartition("@")[2][:100])


def _check_header(name: str, value: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"{name[:60]!a} is not a name of a header; use letters, digits and '-'")
    if not VALUE.fullmatch(value):
        raise InputError(f"header {name!r} has a line break or a character that is not ASCII")
    if name.lower() in OURS:
        raise InputError(f"header {name!r} is set by db3kd; leave it out")
    _check_value(f"header {name!r}", name, value)


def _check_value(what: str, name: str, value: str) -> None:
    """Refuse a secret that is written down, and a variable that is not written as one."""
    if "${" in VARIABLE.sub("", value):
        raise InputError(f"{what} has a '${{' that no '}}' ends; write '${{NAME}}'")
    if SECRET.search(name) and not VARIABLE.search(value):
        raise InputError(
            f"{what} may be secret; give it by an environment variable, as '${{NAME}}'"
        )
