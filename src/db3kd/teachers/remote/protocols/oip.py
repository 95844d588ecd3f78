"""The Open Inference Protocol, version 2, of KServe, Triton and MLServer."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import msgspec
from jaxtyping import Float
from torch import Tensor

from db3kd.config.remote import Remote
from db3kd.errors import InputError
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote.protocols import tensors
from db3kd.teachers.remote.protocols.reply import Answer, Failed, header, parsed, read
from db3kd.teachers.remote.protocols.request import (
    JSON,
    MANY,
    Request,
    check,
    of_model,
    request,
    texts,
)
from db3kd.teachers.remote.protocols.tensors import Entry

USES = ("model", "version", "input", "output", "binary", "classification")
LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class OpenInference:
    """Images as one tensor, answers as another; made by `oip`."""

    remote: Remote
    encoder: Encoder

    most: ClassVar[int] = MANY

    def metadata(self) -> Request:
        """The question what tensors the model takes; `describe` reads the answer.

        >>> remote = Remote(url="http://localhost:8080", protocol="oip", model="digits")
        >>> oip(remote, Encoder(remote.encoding, (1, 8, 8))).metadata()
        Request(method='GET', url='http://localhost:8080/v2/models/digits')
        """
        return replace(
            request(self.remote, of_model(self.remote), b"", {"Accept": JSON}), method="GET"
        )

    def request(self, images: Float[Tensor, "row channels height width"]) -> Request:
        """One request for all images; its id is a digest of them, the same for the same images."""
        shape, kind, data, blob = self._tensor(images)
        digest = hashlib.sha256(f"{kind} {shape} ".encode() + blob).hexdigest()
        entry: dict[str, Any] = {"name": self.remote.input, "shape": shape, "datatype": kind}
        if self.remote.binary:
            entry["parameters"] = {"binary_data_size": len(blob)}
        else:
            entry["data"] = data
            if kind == "BYTES":
                entry["parameters"] = {"content_type": "base64"}  # MLServer decodes it by this
        body: dict[str, Any] = {"id": digest[:16], "inputs": [entry]}
        if self.remote.output is not None:
            output: dict[str, Any] = {"name": self.remote.output}
            if self.remote.classification:
                output["parameters"] = {"classification": 1}
            body["outputs"] = [output]
        if self.remote.binary:
            body["parameters"] = {"binary_data_output": True}
        head = msgspec.json.encode(body)
        headers = {"Content-Type": JSON, "Accept": JSON}
        if self.remote.binary:
            headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(head))}
        sent = head + blob if self.remote.binary else head
        return replace(
            request(self.remote, of_model(self.remote, "infer"), sent, headers), id=body["id"]
        )

    def answers(
        self, status: int, headers: Mapping[str, str], body: bytes, asked: int, sent: str = ""
    ) -> list[Answer]:
        """One answer for each image; whatever the server sent, nothing is raised."""
        length, size = header(headers, LENGTH).strip(), len(body)
        if length.isascii() and length.isdecimal() and len(length) < 12:
            size = int(length)
        found = partial(self._found, asked, sent, body[size:])
        return read(status, headers, body, asked, found, size=size)

    def _found(self, asked: int, sent: str, blob: bytes, value: object) -> list[Answer] | Failed:
        named = value.get("id") if isinstance(value, dict) else None
        if sent and isinstance(named, str) and named not in ("", sent):
            return Failed("the reply is to another request", retry=True)
        wanted = self.remote.output
        output = tensors.chosen(value, wanted)
        if output is None:
            what = f" {wanted!r}" if wanted else ", or several"
            return Failed(f"the reply has no output{what}", retry=True)
        found = tensors.read(output, blob, asked, self.remote.names.names)
        if found is None:
            return Failed(f"the reply's output is not a tensor of {asked} answers", retry=True)
        datatype = output[0].get("datatype")
        if not self.remote.classification or datatype != "BYTES":
            return found
        return [tensors.classified(each, self.remote.names) for each in found]

    def _tensor(self, images: Tensor) -> tuple[list[int], str, list[Any], bytes]:
        """Shape, datatype, and the data: as a list if it is JSON, and always as bytes."""
        if self.encoder.is_file:
            files = self.encoder.files(images)
            coded = [] if self.remote.binary else texts(files)
            return [len(files)], "BYTES", coded, tensors.packed(files)
        array = self.encoder.arrays(images)
        kind = "UINT8" if array.dtype.kind == "u" else "FP32"
        numbers = [] if self.remote.binary else array.ravel().tolist()
        blob = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return list(array.shape), kind, numbers, blob


def oip(remote: Remote, encoder: Encoder) -> OpenInference:
    """The Open Inference Protocol v2, as JSON or with its binary tensor extension.

    POST {url}/v2/models/{model}[/versions/{version}]/infer. Arrays are sent as FP32 or UINT8, files
    as BYTES, which in JSON are base64. In the output, whole numbers of shape [n] or [n, 1] are
    classes, and BYTES are names. Floats of shape [n, classes] are scores; only their argmax leaves.
    With `classification`, Triton is asked for the best class as "score:index:label".
    A query for each image; nothing is random.

    Raises:
        InputError: no model, or a setting that the protocol does not use; or no output to classify.

    >>> remote = Remote(url="http://localhost:8080", protocol="oip", model="digits")
    >>> protocol = oip(remote, Encoder(remote.encoding, (1, 8, 8)))
    >>> reply = b'''{"outputs": [{"name": "y", "datatype": "INT64", "shape": [2, 1],
    ...                           "data": [7, 3]}]}'''
    >>> protocol.answers(200, {}, reply, 2)
    [7, 3]
    """
    check(remote, encoder, uses=USES)
    if remote.model is None:
        raise InputError("protocol 'oip' needs the name of a model; set model")
    if remote.classification and remote.output is None:
        raise InputError("classification is asked of an output by its name; set output")
    return OpenInference(remote, encoder)


def describe(body: bytes) -> tuple[Entry, ...]:
    """The inputs of a model as its metadata names them; () if it does not, or is not metadata.

    >>> describe(b'{"inputs": [{"name": "x", "shape": [-1, 64], "datatype": "FP32"}]}')
    (Entry(name='x', shape=(-1, 64), datatype='FP32'),)
    >>> describe(b'{"inputs": []}'), describe(b"no JSON")
    ((), ())
    """
    value = parsed({}, body)
    entries = value.get("inputs") if isinstance(value, dict) else None
    found = [tensors.entry(each) for each in entries] if isinstance(entries, list) else []
    return tuple(each for each in found if each is not None)


def told(body: bytes, *, pinned: bool = False) -> dict[str, str]:
    """What a model's metadata say of which model it is, by name; {} if it is not metadata.

    Versions, platform, and a digest of its inputs and outputs. With a version that is `pinned` by
    the settings, others that are there do not count.

    >>> body = b'{"name": "m", "versions": ["2"], "platform": "onnx", "inputs": []}'
    >>> found = told(body)
    >>> found["version"], found["platform"], told(b"no JSON")
    ('2', 'onnx', {})
    """
    value = parsed({}, body)
    if not isinstance(value, dict):
        return {}
    found = {}
    versions = value.get("versions")
    if isinstance(versions, list) and versions and not pinned:
        found["version"] = _short(", ".join(sorted(map(str, versions))))
    if value.get("platform"):
        found["platform"] = _short(str(value["platform"]))
    tensors_of = {key: value[key] for key in ("inputs", "outputs") if value.get(key)}
    if tensors_of:
        found["metadata of inputs and outputs"] = _short(json.dumps(tensors_of, sort_keys=True))
    return found


def _short(text: str) -> str:
    """A short plain text as it is, any other one as a digest: a service may send what it likes."""
    plain = re.fullmatch(r"[\w.+:, -]{1,24}", text, flags=re.ASCII)
    return text if plain else hashlib.sha256(text.encode(errors="replace")).hexdigest()
