"""Requests and replies of every protocol, without a server; and whatever else a server may send."""

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from db3kd.config.remote import Encoding, Names, Remote
from db3kd.errors import InputError, TeacherError
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote import protocols
from db3kd.teachers.remote.names import LabelMap
from db3kd.teachers.remote.protocols import Failed, Protocol, Request
from db3kd.teachers.remote.protocols.path import path

URL = "http://localhost:8080"
LENGTH = "Inference-Header-Content-Length"
IMAGES = torch.randint(0, 256, (3, 3, 4, 5), generator=torch.Generator().manual_seed(1)) / 255
PIXELS = (IMAGES * 255).round().byte().numpy()
ARRAY = Encoding(kind="uint8")
FLOAT = Encoding(kind="float32", layout="flat")


def made(protocol: Any = "oip", **choices: Any) -> Protocol:
    if protocol == "oip":
        choices = {"model": "digits", **choices}
    remote = Remote(url=choices.pop("url", URL), protocol=protocol, **choices)
    return protocols.of(remote, Encoder(remote.encoding, (3, 4, 5)))


def said(protocol: Protocol, reply: object, asked: int, **headers: str) -> list[Any]:
    body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return protocol.answers(200, headers, body, asked)


def pixels(file: bytes) -> np.ndarray[tuple[int, ...], Any]:
    return np.asarray(Image.open(BytesIO(file))).transpose(2, 0, 1)


# The Open Inference Protocol


def read_binary(request: Request) -> tuple[dict[str, Any], np.ndarray[tuple[int, ...], Any]]:
    """An independent reader of a request with one binary tensor, by the text of the extension."""
    length = int(request.headers[LENGTH])
    head = json.loads(request.body[:length])
    (entry,) = head["inputs"]
    blob = request.body[length:]
    assert entry["parameters"]["binary_data_size"] == len(blob)
    if entry["datatype"] == "BYTES":
        found, at = [], 0
        while at < len(blob):
            (size,) = struct.unpack_from("<I", blob, at)
            found.append(blob[at + 4 : at + 4 + size])
            at += 4 + size
        return entry, np.array(found, object)
    code = {"FP32": "f", "UINT8": "B"}[entry["datatype"]]
    count = math.prod(entry["shape"])
    return entry, np.array(struct.unpack(f"<{count}{code}", blob)).reshape(entry["shape"])


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("encoding", [ARRAY, FLOAT, Encoding()], ids=["uint8", "float32", "png"])
def test_oip_sends_what_a_reader_reads(encoding: Encoding, binary: bool) -> None:
    request = made(encoding=encoding, binary=binary, input="x", output="y").request(IMAGES)
    assert request.method == "POST"
    assert request.url == f"{URL}/v2/models/digits/infer"
    if binary:
        entry, data = read_binary(request)
        head = json.loads(request.body[: int(request.headers[LENGTH])])
        assert head["parameters"] == {"binary_data_output": True}
        assert request.headers["Content-Type"] == "application/octet-stream"
    else:
        head = json.loads(request.body)
        (entry,) = head["inputs"]
        data = np.array(entry["data"], object if encoding.kind == "png" else None)
        assert request.headers["Content-Type"] == "application/json"
    assert (head["outputs"], entry["name"], len(head["id"])) == ([{"name": "y"}], "x", 16)
    if encoding.kind == "png":
        assert (entry["datatype"], entry["shape"]) == ("BYTES", [3])
        files = data if binary else [base64.b64decode(text, validate=True) for text in data]
        for file, wanted in zip(files, PIXELS, strict=True):
            assert np.array_equal(pixels(file), wanted)
    else:
        assert entry["datatype"] == {"uint8": "UINT8", "float32": "FP32"}[encoding.kind]
        assert entry["shape"] == ([3, 3, 4, 5] if encoding == ARRAY else [3, 60])
        wanted = PIXELS if encoding == ARRAY else IMAGES.numpy().reshape(3, 60)
        assert np.array_equal(np.asarray(data, np.float32).ravel(), wanted.ravel())


def test_oip_names_what_it_asks_and_asks_what_it_takes() -> None:
    one = made(version="3", url="https://host/base/?zone=1", encoding=ARRAY)
    assert isinstance(one, protocols.OpenInference)
    assert one.request(IMAGES).url == "https://host/base/v2/models/digits/versions/3/infer?zone=1"
    assert one.metadata().url == "https://host/base/v2/models/digits/versions/3?zone=1"
    assert made(model="../a b").request(IMAGES).url == f"{URL}/v2/models/..%2Fa%20b/infer"
    ids = [json.loads(one.request(images).body)["id"] for images in (IMAGES, IMAGES, 1 - IMAGES)]
    assert ids[0] == ids[1] != ids[2]
    inputs = [{"name": "x", "shape": [-1, 60], "datatype": "FP32"}, {"name": "y"}, 3]
    (entry,) = protocols.describe(json.dumps({"name": "digits", "inputs": inputs}).encode())
    assert (entry.name, entry.shape, entry.datatype) == ("x", (-1, 60), "FP32")
    for body in (b"", b"null", b"{}", b'{"inputs": {}}', b'{"inputs": [null]}'):
        assert protocols.describe(body) == ()


def tensor(datatype: str, shape: list[int], data: object, **more: object) -> dict[str, Any]:
    return {"outputs": [{"name": "y", "datatype": datatype, "shape": shape, "data": data, **more}]}


NOT_NUMBERS = "scores that are not all numbers"


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (tensor("INT64", [3], [7, 0, 3]), [7, 0, 3]),
        (tensor("INT32", [3, 1], [7, 0, 3]), [7, 0, 3]),
        (tensor("INT32", [3, 1], [[7], [0], [3]]), [7, 0, 3]),
        (tensor("FP64", [3], [7.0, 0.0, 3]), [7, 0, 3]),
        (tensor("FP32", [3, 2], [0.1, 0.9, 2, 1, -3.0, -2.5]), [1, 0, 1]),
        (tensor("FP32", [3, 2, 1, 1], [[[[0.1]], [[0.9]]]] * 3), [1, 1, 1]),
        (tensor("BYTES", [3, 1], ["cat", "dog", ""]), ["cat", "dog", ""]),
        (tensor("FP32", [3, 1], [0.25, 1, 1]), ["neither a name nor a whole number", 1, 1]),
        (tensor("FP32", [3, 2], [0.1, None, 2, 1, True, 0]), [NOT_NUMBERS, 0, NOT_NUMBERS]),
        (tensor("INT64", [3], [1, True, 2**70]), [1, "is not a name", "a huge number"]),
        (tensor("INT64", [3, 2], [0] * 6), ["2 values of INT64"] * 3),
        (tensor("BOOL", [3], [True, False, True]), ["is not a name"] * 3),
        (tensor("FP32", [2, 2], [1, 2, 3, 4]), ["not a tensor of 3"] * 3),
        (tensor("FP32", [3, 2], [1, 2, 3, 4]), ["not a tensor of 3"] * 3),
        (tensor("FP32", [3, 2, 2], [0] * 12), ["not a tensor of 3"] * 3),
        (tensor("FP32", [3, -2], [0] * 6), ["not a tensor of 3"] * 3),
        (tensor("FP32", [3, 10**30], [0] * 6), ["not a tensor of 3"] * 3),
        (tensor("BYTES", [3], [1, 2, 3]), ["is not a name"] * 3),
        ({"outputs": []}, ["no output, or several"] * 3),
        ({"error": "model is loading"}, ["model is loading"] * 3),
    ],
)
def test_oip_replies(reply: object, found: list[Any]) -> None:
    for answer, wanted in zip(said(made(), reply, 3), found, strict=True):
        if isinstance(answer, Failed):
            assert wanted in answer.reason
        else:
            assert answer == wanted
            assert isinstance(answer, type(wanted))


def test_oip_chooses_the_output_by_name() -> None:
    both = {"outputs": [tensor("INT64", [1], [1])["outputs"][0], {**BINARY_SCORES, "name": "z"}]}
    assert said(made(output="y"), both, 1) == [1]
    assert said(made(output="w"), both, 1)[0].reason.startswith("the reply has no output 'w'")


BINARY_SCORES = {"name": "y", "datatype": "FP32", "shape": [2, 3]}


def binary(datatype: str, shape: list[int], blob: bytes, *, before: bytes = b"") -> Any:
    """A reply with binary outputs: body, and its header."""
    parameters = {"binary_data_size": len(blob)}
    outputs = [{"name": "y", "datatype": datatype, "shape": shape, "parameters": parameters}]
    if before:
        first = {"binary_data_size": len(before)}
        outputs.insert(0, {"name": "first", "datatype": "x", "shape": [], "parameters": first})
    head = json.dumps({"outputs": outputs}).encode()
    return head + before + blob, {LENGTH: str(len(head))}


@pytest.mark.parametrize(
    ("datatype", "shape", "blob", "found"),
    [
        ("INT64", [2, 1], struct.pack("<2q", 7, 3), [7, 3]),
        ("UINT16", [2], struct.pack("<2H", 7, 3), [7, 3]),
        ("FP32", [2, 3], struct.pack("<6f", 0, 1, 2, 9, 1, -math.inf), [2, 0]),
        ("FP32", [2, 3], struct.pack("<6f", 0, 1, math.nan, 9, 1, 3), [NOT_NUMBERS, 0]),
        ("FP16", [2, 2], np.array([0, 1, 3, 2], "<f2").tobytes(), [1, 0]),
        ("BF16", [2, 2], b"\x00\x00\x80\x3f\x40\x40\x00\x40", [1, 0]),  # 0, 1, 3, 2
        ("BYTES", [2], struct.pack("<I3sI3s", 3, b"cat", 3, b"dog"), ["cat", "dog"]),
        ("BYTES", [2], struct.pack("<I3sI3s", 3, b"cat", 3, b"d\xffg"), ["cat", "not text"]),
        ("BYTES", [2], struct.pack("<I3sI3s", 3, b"cat", 9, b"dog"), ["not a tensor of 2"] * 2),
        ("BYTES", [2], struct.pack("<I3s", 3, b"cat"), ["not a tensor of 2"] * 2),
        ("FP32", [2, 3], bytes(23), ["not a tensor of 2"] * 2),
        ("UINT64", [2], struct.pack("<2Q", 2**63, 1), ["a huge number", 1]),
        ("BOOL", [2], b"\x00\x01", ["not a tensor of 2"] * 2),
    ],
)
def test_oip_reads_binary_tensors(datatype: str, shape: list[int], blob: bytes, found: Any) -> None:
    for before, output in ((b"", None), (b"some bytes", "y")):
        body, headers = binary(datatype, shape, blob, before=before)
        protocol = made(output=output, binary=True)
        for headers_sent in (headers, {LENGTH.lower(): headers[LENGTH]}):
            answers = protocol.answers(200, headers_sent, body, 2)
            for answer, wanted in zip(answers, found, strict=True):
                assert wanted in answer.reason if isinstance(answer, Failed) else answer == wanted
        cut = protocol.answers(200, headers, body[:-1], 2)
        assert all(isinstance(answer, Failed) and answer.retry for answer in cut)


# The others


@pytest.mark.parametrize(
    ("choices", "reply", "found"),
    [
        ({}, [7, 3.0], [7, 3]),
        ({}, ["cat", "dog"], ["cat", "dog"]),
        ({}, [[0.1, 0.9], [3, 2]], [1, 0]),
        ({}, [[7], [3]], [7, 3]),
        ({}, {"label": ["cat", "dog"]}, ["cat", "dog"]),
        ({"output": "b"}, {"a": [0, 0], "b": [7, 3]}, [7, 3]),
        ({"path": "label"}, [{"label": "cat", "score": 1}, {"score": 1}], ["cat", None]),
        ({"names": Names(names=("cat", "dog"))}, [[0.1, 0.9], [0.1, 0.2, 0.3]], ["dog", None]),
        ({}, [7], [None, None]),
        ({}, {"a": [0, 0], "b": [7, 3]}, [None, None]),
        ({}, [True, None], [None, ""]),
    ],
)
def test_mlflow(choices: dict[str, Any], reply: object, found: list[Any]) -> None:
    answers = said(made("mlflow", encoding=FLOAT, **choices), {"predictions": reply}, 2)
    assert [None if isinstance(answer, Failed) else answer for answer in answers] == found


def test_mlflow_sends_nested_lists_or_base64() -> None:
    request = made("mlflow", encoding=ARRAY).request(IMAGES)
    assert request.url == f"{URL}/invocations"
    assert np.array_equal(json.loads(request.body)["inputs"], PIXELS)
    texts = json.loads(made("mlflow").request(IMAGES).body)["inputs"]
    assert np.array_equal(pixels(base64.b64decode(texts[2])), PIXELS[2])


def test_raw_sends_the_file_alone() -> None:
    for kind in ("png", "jpeg"):
        encoding = Encoding(kind=kind)  # type: ignore[arg-type]
        request = made("raw", encoding=encoding, method="PUT").request(IMAGES[:1])
        assert (request.method, request.url) == ("PUT", URL)
        assert request.headers["Content-Type"] == f"image/{kind}"
        assert pixels(request.body).shape == (3, 4, 5)
    mine = made("raw", headers={"content-type": "image/x-png"}).request(IMAGES[:1])
    assert mine.headers == {"Accept": "application/json", "content-type": "image/x-png"}
    assert made("raw").most == 1
    with pytest.raises(InputError, match="one image at a time"):
        made("raw").request(IMAGES)


@pytest.mark.parametrize(
    ("where", "reply", "found"),
    [
        ("", {"tabby": 0.9, "tiger": 0.1}, "tabby"),
        ("", "tabby", "tabby"),
        ("", 7, 7),
        ("[0].label", [{"label": "tabby", "score": 0.9}, {"label": "tiger"}], "tabby"),
        ('a["b.c"]', {"a": {"b.c": [0.1, 0.7]}}, 1),
        ("[0].label", [], "nothing at"),
        ("", {"error": "busy", "code": 3}, NOT_NUMBERS),
        ("", [["cat", "dog"]], NOT_NUMBERS),
        ("", {"label": "cat", "score": 0.9}, '{"label":"cat","score":0.9}; path says where'),
        ("", [{"label": "cat", "score": 0.9}] * 2, '"score":0.9}]; path says where'),
        ("", [None, None], NOT_NUMBERS),
        ("a", {"a": {}}, ""),
    ],
)
def test_raw_finds_the_label(where: str, reply: object, found: str | int) -> None:
    (answer,) = said(made("raw", path=where), reply, 1)
    if isinstance(answer, Failed):
        assert str(found) in answer.reason
    else:
        assert answer == found


def concept(code: int, *named: tuple[str, object], **more: object) -> dict[str, Any]:
    found = [{"name": name, "value": value} for name, value in named]
    return {"status": {"code": code}, "data": {"concepts": found}, **more}


def test_concepts_send_base64_in_nested_json() -> None:
    protocol = made("concepts", model="animals", version="a1")
    request = protocol.request(IMAGES)
    assert request.url == f"{URL}/v2/models/animals/versions/a1/outputs"
    assert made("concepts").request(IMAGES).url == URL
    inputs = json.loads(request.body)["inputs"]
    assert [entry["id"] for entry in inputs] == [f"{request.id}-{place}" for place in range(3)]
    assert protocol.request(1 - IMAGES).id != request.id == protocol.request(IMAGES).id
    for entry, wanted in zip(inputs, PIXELS, strict=True):
        assert np.array_equal(pixels(base64.b64decode(entry["data"]["image"]["base64"])), wanted)


def test_concepts_of_all_of_some_and_of_none() -> None:
    protocol = made("concepts")
    cat, none = concept(10000, ("dog", 0.1), ("cat", 0.8)), concept(10000)
    assert said(protocol, {"status": {"code": 10000}, "outputs": [cat, none]}, 2) == ["cat", ""]

    mixed = {"status": {"code": 10010}, "outputs": [concept(11005), cat, concept(11102)]}
    first, second, third = said(protocol, mixed, 3)
    assert (second, first.retry, third.retry) == ("cat", True, False)

    def named(place: object, output: dict[str, Any]) -> dict[str, Any]:
        return {**output, "input": {"id": place}}

    some = {"status": {"code": 10000}, "outputs": [named("-2", cat), named("-0", none)]}
    first, second, third = said(protocol, some, 3)  # in another order, and one is missing
    assert (first, second.retry, third) == ("", True, "cat")
    other = "0123456789abcdef"  # another request's
    for ids in (("-0", "-0", "-1"), ("-0", "-1", "-7"), ("-0", "-1", 2), (f"{other}-0",) * 3):
        outputs = [named(place, cat) for place in ids]
        lost = said(protocol, {"status": {"code": 10000}, "outputs": outputs}, 3)
        assert all(isinstance(answer, Failed) and answer.retry for answer in lost)
    theirs = [named(place, cat) for place in ("a7", "b9")]
    assert said(protocol, {"status": {"code": 10000}, "outputs": theirs}, 2) == ["cat", "cat"]


@pytest.mark.parametrize(
    ("status", "code", "retry"),
    [
        (200, 11005, True),
        (200, 11006, True),
        (400, 11005, True),
        (400, 11102, False),
        (200, 11001, False),
        (401, 11001, False),
        (200, 10030, True),
        (200, None, True),
    ],
)
def test_codes_inside_a_body(status: int, code: int | None, retry: bool) -> None:
    body = json.dumps({"status": {"code": code, "description": "no"}, "outputs": []}).encode()
    (failed,) = made("concepts").answers(status, {}, body, 1)
    assert isinstance(failed, Failed)
    assert failed.retry is retry


def test_template_puts_the_image_in_its_place() -> None:
    body = '{"a": ["{image}", {"b": "data:image/png;base64,{image}"}], "{image}": null, "n": 1.5}'
    request = made("template", body=body, path="x").request(IMAGES[:1])
    sent = json.loads(request.body)
    assert np.array_equal(pixels(base64.b64decode(sent["a"][0])), PIXELS[0])
    assert sent["a"][1]["b"] == f"data:image/png;base64,{sent['a'][0]}"
    assert (sent["{image}"], sent["n"]) == (None, 1.5)

    many = made("template", body='["{images}"]', encoding=ARRAY, path="[*]")
    assert np.array_equal(json.loads(many.request(IMAGES).body), PIXELS[None])
    assert many.most > 10**6
    one = made("template", body='["{image}"]', encoding=ARRAY)
    assert np.array_equal(json.loads(one.request(IMAGES[:1]).body), PIXELS[:1])
    with pytest.raises(InputError, match="a place for one image, and there are 3"):
        one.request(IMAGES)

    text = made("template", body="image={image}&top=1", headers={"Content-Type": "text/csv"})
    plain = text.request(IMAGES[:1])
    assert plain.headers["Content-Type"] == "text/csv"
    file = plain.body.removeprefix(b"image=").removesuffix(b"&top=1")
    assert np.array_equal(pixels(base64.b64decode(file)), PIXELS[0])
    alone = made("template", body=" {images}", encoding=ARRAY).request(IMAGES)
    assert np.array_equal(json.loads(alone.body), PIXELS)


@pytest.mark.parametrize(
    ("body", "where", "reply", "found"),
    [
        ('["{image}"]', "a.b", {"a": {"b": "cat"}}, ["cat"]),
        ('["{image}"]', "[*].b", [{"b": "cat"}], ["cat"]),
        ('["{images}"]', "a[*].b", {"a": [{"b": "cat"}, {}, {"b": [0, 1]}]}, ["cat", None, 1]),
        ('["{images}"]', "a", {"a": ["cat", 3, {"x": 1, "y": 2}]}, ["cat", 3, "y"]),
        ('["{images}"]', "a", {"a": ["cat", 3]}, [None] * 3),
        ('["{images}"]', "a[*]", {"a": {}}, [None] * 3),
        ('["{image}"]', "a", {}, [None]),
    ],
)
def test_template_finds_the_labels(body: str, where: str, reply: object, found: list[Any]) -> None:
    answers = said(made("template", body=body, path=where), reply, len(found))
    assert [None if isinstance(answer, Failed) else answer for answer in answers] == found


# Settings


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"model": None}, "protocol 'oip' needs the name of a model; set model"),
        ({"model": ".."}, "model must be a name, got '..'"),
        ({"path": "a"}, "protocol 'oip' has no use for path"),
        ({"method": "PUT"}, "protocol 'oip' has no use for method"),
        ({"protocol": "mlflow", "binary": True}, "has no use for binary"),
        ({"protocol": "mlflow", "path": "a..b"}, "path 'a..b' cannot be read at position 1"),
        ({"protocol": "raw", "path": "[*]"}, "has a [*], and 'raw' has one image"),
        ({"protocol": "raw", "path": "a[x]"}, "path 'a[x]' cannot be read at position 1, '[x]'"),
        ({"protocol": "raw", "path": ".a"}, "cannot be read at position 0"),
        ({"protocol": "raw", "path": "a.b "}, "cannot be read at position 3, ' '"),
        ({"protocol": "raw", "path": "[0]a"}, "cannot be read at position 3, 'a'"),
        (
            {"protocol": "raw", "encoding": FLOAT},
            "'raw' sends 'png' or 'jpeg' files, not 'float32'",
        ),
        ({"protocol": "concepts", "encoding": ARRAY}, "'concepts' sends 'png' or 'jpeg' files"),
        ({"protocol": "template"}, "protocol 'template' needs a body"),
        ({"protocol": "template", "body": '{"a": 1}'}, "it has neither"),
        ({"protocol": "template", "body": '{"{image}": 1}'}, "it has neither"),
        ({"protocol": "template", "body": '["{image}", "{images}"]'}, "it has both"),
        ({"protocol": "template", "body": '{"a": "{image}",}'}, "not JSON at line 1, column 17"),
        ({"protocol": "template", "body": '["{image}", NaN]'}, "NaN is not a JSON number"),
        ({"protocol": "template", "body": "[" * 99999 + '"{image}"'}, "not JSON that can be sent"),
        ({"protocol": "template", "body": '["x{images}"]'}, "must be a text of its own"),
        (
            {"protocol": "template", "body": '["x{image}"]', "encoding": ARRAY},
            "must be a text of its own",
        ),
        ({"protocol": "template", "body": '["{images}"]', "path": "a[*][*]"}, "a second [*]"),
        ({"url": "localhost:8080"}, "url must be like"),
        ({"url": "ftp://localhost"}, "url must be like"),
        ({"url": "http://"}, "url must be like"),
        ({"url": "http://host:99999/"}, "url must be like"),
        ({"url": "http://host/a\r\nb: c"}, "url must be like"),
        ({"url": "https://user:s3cret@host/"}, "url must hold no user and no password"),
        ({"url": "//user:s3cret@host/?key=s3cret"}, "url must hold no user"),
        ({"url": "host/?key=s3cret"}, "url must be like"),
        ({"headers": {"X-A": "a\r\ns3cret: b"}}, "header 'X-A' has a line break"),
        ({"headers": {"X-A": "s3cret é"}}, "a character that is not ASCII"),
        ({"headers": {"X A": "1"}}, "'X A' is not a name of a header"),
        ({"headers": {"": "1"}}, "'' is not a name of a header"),
        ({"headers": {"Content-Length": "1"}}, "is set by db3kd"),
        ({"headers": {"Authorization": "Bearer s3cret"}}, "by an environment variable"),
        ({"headers": {"X-Api-Key": "s3cret"}}, "by an environment variable"),
        ({"headers": {"X-A": "s3cret ${A"}}, "has a '${' that no '}' ends"),
        ({"headers": {"api_key": "s3cret"}}, "by an environment variable"),
        ({"url": "https://host/a?zone=1&api_key=s3cret"}, "'api_key' of url may be secret"),
        ({"url": "https://host/a?key=s3cret"}, "'key' of url may be secret"),
        ({"url": "https://host/a?sig=s3cret"}, "'sig' of url may be secret"),
        ({"url": "https://host/a?zone=${A"}, "has a '${' that no '}' ends"),
        ({"batch": 0}, "$.batch"),
        ({"encoding": Encoding(mean=(1.0,))}, "mean, std and scale are for kind 'float32'"),
    ],
)
def test_settings_that_cannot_work_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        made(**choices)
    assert message in str(raised.value)
    assert str(raised.value).isprintable()
    assert "s3cret" not in str(raised.value)


def test_the_encoder_is_that_of_the_settings() -> None:
    with pytest.raises(InputError, match="another encoding"):
        protocols.of(Remote(url=URL, protocol="raw"), Encoder(Encoding(quality=3), (3, 4, 5)))


def test_headers_keep_the_names_of_variables_and_no_text_shows_them() -> None:
    headers = {"Authorization": "Key ${TOKEN}", "Accept": "text/html"}
    request = made("concepts", headers=headers).request(IMAGES)
    assert request.headers == {"Content-Type": "application/json", **headers}
    assert "TOKEN" not in repr(request)
    assert "base64" not in repr(request)


@pytest.mark.parametrize("text", ["", "a", "a.b", "[0]", "[0].a", "a[0][1].b", '["x.y"]', '[""].a'])
def test_paths_that_can_be_read(text: str) -> None:
    assert not path(text).many
    assert path(f"{text}[*]").many


# Whatever a server may send

NOW = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("status", "headers", "body", "retry", "after"),
    [
        *((status, {}, b"", True, None) for status in (408, 429, 500, 502, 503, 504, 529)),
        *((status, {}, b"", False, None) for status in (100, 304, 400, 401, 404, 422, 501, 0)),
        (429, {"retry-after": " 7 "}, b"", True, 7.0),
        (429, {"RETRY-AFTER": "0.5"}, b"", True, 0.5),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "date": NOW}, b"", True, 30.0),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:30 -0000", "Date": NOW}, b"", True, 30.0),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT", "Date": NOW}, b"", True, 0.0),
        (503, {"Retry-After": NOW}, b"", True, 0.0),
        (503, {"Retry-After": "-3"}, b"", True, None),
        (503, {"Retry-After": "1e9"}, b"", True, None),
        (503, {"Retry-After": "999999999999"}, b"", True, 366 * 86400.0),
        (503, {"Retry-After": "Wed, 99 Oct 99999 07:28:00 GMT"}, b"", True, None),
        (400, {}, b'{"__type": "ThrottlingException"}', True, None),
        (400, {}, b"TooManyRequestsException", True, None),
        (403, {"Retry-After": "9"}, b"API rate limit exceeded", True, 9.0),
        (400, {}, b"Too many requests", True, None),
        (400, {}, b"bad shape", False, None),
    ],
)
def test_statuses(
    status: int, headers: dict[str, str], body: bytes, retry: bool, after: float | None
) -> None:
    for name in ("oip", "mlflow", "raw", "concepts"):
        failed, again = made(name).answers(status, headers, body, 2)
        assert failed == again
        assert isinstance(failed, Failed)
        assert (failed.retry, failed.after) == (retry, after)


def test_reasons_show_little_of_the_body_and_no_commands() -> None:
    body = b"\x1b[31m\x00\xff\n" + b"x" * 10_000
    (failed,) = made("raw").answers(500, {"X-Secret": "s3cret"}, body, 1)
    assert isinstance(failed, Failed)
    assert failed.reason.isprintable()
    assert failed.reason == "the server answered 500:  [31m �" + " " + "x" * 112


CONFIGURED: tuple[Callable[[], Protocol], ...] = (
    lambda: made(encoding=FLOAT),
    lambda: made(binary=True, output="y"),
    lambda: made("mlflow", names=Names(names=("cat", "dog"))),
    lambda: made("mlflow", path="[0].label", output="y"),
    lambda: made("raw"),
    lambda: made("raw", path="[0].label"),
    lambda: made("concepts"),
    lambda: made("template", body='["{image}"]', path="a.b"),
    lambda: made("template", body='["{images}"]', path="a[*].b"),
    lambda: made("form"),
    lambda: made("form", path="a[*].b"),
    lambda: made(output="y", classification=True, names=Names(names=("cat", "dog"))),
)
VALID: tuple[Any, ...] = (
    tensor("INT64", [3, 1], [7, 0, 3], parameters={"binary_data_size": 24}),
    tensor("FP32", [3, 2], [[0.1, 0.9], [1, 2], [3, 4]], parameters={"content_type": "np"}),
    tensor("BYTES", [3], ["cat", "dog", "cow"]),
    tensor("BYTES", [3, 1], ["0.9:1:dog", "1e-5:0:cat", "-inf:7"]),
    {"predictions": [[0.1, 0.9], [3, 2], [1, 1]]},
    {"predictions": {"y": [[{"label": "cat"}], [{"label": "dog"}], [{"label": 3}]]}},
    {"tabby": 0.9, "tiger": 0.1},
    [{"label": "tabby", "score": 0.9}],
    {
        "status": {"code": 10000},
        "outputs": [concept(10000, ("cat", 0.5), input={"id": f"-{place}"}) for place in range(3)],
    },
    {"a": [{"b": "cat"}, {"b": [1, 2]}, {"b": {"x": 0.5}}]},
    {"a": {"b": ["cat"]}},
)
KEYS = ("outputs", "predictions", "status", "code", "data", "concepts", "name", "value", "shape")
KEYS += ("datatype", "parameters", "binary_data_size", "label", "a", "b", "y", "input", "id")


class Pairs(dict[str, Any]):
    """An object that writes each of its pairs, also those with equal keys."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__({"": 0} if pairs else {})  # or the encoder takes it for empty
        self._pairs = pairs

    def items(self) -> Any:
        return self._pairs


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10000, 10010, 11005, 0, -1, 2**63, 2**64, 10**400, 3, 1]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            *("INT64", "FP32", "BF16", "BYTES", "UINT7", "y", "0", "2", "\ud800", "x" * 2000),
            *("nan:1", "0.9:9:", "A cat.", "A cat, or a dog?", "cat " * 3000),
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(st.tuples(st.sampled_from(KEYS) | st.text(max_size=3), inner), max_size=4).map(
            Pairs
        ),
    ),
    max_leaves=12,
)


def changed(value: Any, draw: Callable[[Any], Any]) -> Any:
    """A reply in which one thing somewhere is left out, doubled, or something else."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        pairs = [(k, changed(v, draw) if k == key else v) for k, v in value.items()]
        return Pairs(pairs + pairs[: draw(st.integers(0, 1))])
    if isinstance(value, list) and value and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        middle = draw(st.sampled_from(["in", "out", "twice"]))
        inside = {"in": [changed(value[at], draw)], "out": [], "twice": [value[at]] * 2}
        return [*value[:at], *inside[middle], *value[at + 1 :]]
    return draw(VALUES)


def written(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:  # Python itself refuses to write integers of more than 4,300 digits
        return b"1" * 9000


@st.composite
def mutated(draw: Callable[[Any], Any]) -> bytes:
    return written(changed(draw(st.sampled_from(VALID)), draw))


@st.composite
def damaged(draw: Callable[[Any], Any]) -> bytes:
    """A valid reply with some bytes cut out, or others put in; sometimes with a binary part."""
    body = bytearray(written(draw(st.sampled_from(VALID))) + draw(st.binary(max_size=24)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(len(body), start + 12)))
        body[start:end] = draw(st.binary(max_size=4) | st.sampled_from([b"NaN", b"1e999", b"[["]))
    return bytes(body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body)


@st.composite
def nested(draw: Callable[[Any], Any]) -> bytes:
    depth = draw(st.sampled_from([2, 7, 9, 30, 400, 990, 1100, 100_000]))
    opened, closed = draw(
        st.sampled_from([(b"[", b"]"), (b'{"a":', b"}"), (b'{"outputs":[', b"]}")])
    )
    start = draw(st.sampled_from([b"", b'{"predictions":', b'{"a":{"b":', b'{"outputs":[{"data":']))
    inside = draw(st.sampled_from([b"1", b"", b'"cat"', b"NaN", b"-" + b"9" * 5000]))
    return start + opened * depth + inside + closed * draw(st.sampled_from([0, depth]))


SAID = st.sampled_from(["cat", "A cat.", "dog\n", "7", "\ufeff", "<html>", "throttled", "\x00"])
BODIES: Mapping[str, st.SearchStrategy[bytes]] = {
    "bytes": st.binary(max_size=200),
    "json": VALUES.map(written),
    "mutated": mutated(),
    "damaged": damaged(),
    "nested": nested(),
    "text": st.lists(SAID | st.text(max_size=9), max_size=4).map(
        lambda said: " ".join(said).encode()
    ),
}
NUMBERS = st.integers(-9, 400).map(str) | st.sampled_from(["٣", "9" * 5000, "", "1.5", "nan", "+3"])
HEADERS = st.dictionaries(
    st.sampled_from(
        [LENGTH, LENGTH.lower(), "Retry-After", "Date", "X-Secret", "Content-Type", ""]
    ),
    st.sampled_from(["text/plain", "Text/HTML; charset=x"])
    | NUMBERS
    | st.text(max_size=30)
    | st.sampled_from([NOW, NOW.replace("2015", "9999"), "s3cret"]),
)
STATUSES = st.one_of(
    st.just(200),
    st.just(200),
    st.sampled_from([200, 201, 204, 400, 429, 503]),
    st.integers(-1, 1000),
)
MAPS = (
    LabelMap(Names(), 3),
    LabelMap(Names(names=("cat", "dog"), unknown="other"), 3),
    LabelMap(Names(unknown="extend"), 5),
    LabelMap(Names(names=("cat", "dog"), unknown="drop"), 3, pattern=r"\b(cat|d.g)\b"),
    LabelMap(Names(unknown="extend"), 5, pattern=r"(\w+)\W*$"),
)


def check_anything(status: int, headers: dict[str, str], body: bytes, asked: int) -> None:
    """What holds of every protocol's answers, whatever it is given."""
    for protocol in PROTOCOLS:
        answers = protocol.answers(status, headers, body, asked)
        assert len(answers) == asked
        for answer in answers:
            assert isinstance(answer, str | int | Failed)
            if isinstance(answer, Failed):
                assert answer.reason.isprintable()
                assert len(answer.reason) < 250
                assert "s3cret" not in answer.reason or b"s3cret" in body
                assert answer.after is None or 0 <= answer.after <= 366 * 86400
                continue
            assert 200 <= status < 300
            answer.encode() if isinstance(answer, str) else answer.to_bytes(8, "big", signed=True)
            for labels in MAPS:
                with suppress(TeacherError):
                    assert 0 <= labels.index(answer) < 5
    assert isinstance(protocols.describe(body), tuple)


PROTOCOLS = [make() for make in CONFIGURED]


def fuzz(bodies: st.SearchStrategy[bytes], cases: int) -> None:
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(STATUSES, HEADERS, bodies, st.sampled_from([3, 3, 3, 1, 1, 2, 4]))
    def run(status: int, headers: dict[str, str], body: bytes, asked: int) -> None:
        check_anything(status, headers, body, asked)

    run()


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        ("bytes", 300),
        ("json", 500),
        ("mutated", 1000),
        ("damaged", 500),
        ("nested", 300),
        ("text", 300),
    ],
)
def test_no_reply_raises(kind: str, cases: int) -> None:
    fuzz(BODIES[kind], cases)


@pytest.mark.parametrize("datatype", ["\x1b[2J", "BYTES\n", "x" * 5000])
def test_a_datatype_of_any_text_is_told_in_one_short_line(datatype: str) -> None:
    output = {"name": "y", "datatype": datatype, "shape": [1, 2], "data": [0.1, 0.9]}
    check_anything(200, {}, json.dumps({"outputs": [output]}).encode(), 1)


ODD = (None, True, 0, -1, 3, 2**70, 0.5, math.nan, "", "x", [], {}, [None] * 3, [[]] * 3, {"a": 1})


def variants(value: Any) -> Iterator[Any]:
    """Every reply in which one thing is something odd, or is left out."""
    yield from ODD
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: odd} for odd in variants(value[key]))
    if isinstance(value, list):
        for at in range(len(value)):
            yield value[:at] + value[at + 1 :]
            yield from ([*value[:at], odd, *value[at + 1 :]] for odd in variants(value[at]))


@pytest.mark.parametrize("valid", VALID, ids=range(len(VALID)))
def test_no_reply_with_one_odd_thing_in_it_raises(valid: Any) -> None:
    for value in variants(valid):
        for asked in (1, 3):
            check_anything(200, {}, written(value), asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cases"),
    [("bytes", 20_000), ("json", 30_000), ("mutated", 40_000), ("damaged", 30_000)],
)
def test_no_reply_raises_in_many_cases(kind: str, cases: int) -> None:
    fuzz(BODIES[kind], cases)


def test_the_fuzzing_reaches_every_kind_of_answer() -> None:
    """Of the replies that are mutated some are still answers, or the fuzzing would say little."""
    met: list[set[str]] = [set() for _ in PROTOCOLS]

    @settings(max_examples=500, deadline=None, database=None, derandomize=True)
    @given(mutated())
    def run(body: bytes) -> None:
        for kinds, protocol in zip(met, PROTOCOLS, strict=True):
            for asked in (1, 3):
                kinds.update(type(each).__name__ for each in protocol.answers(200, {}, body, asked))

    run()
    assert all("Failed" in kinds for kinds in met)
    assert sum(len(kinds) > 1 for kinds in met) >= len(met) - 3, met


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab.[]*0\"'\\ é", max_size=12), VALUES)
def test_any_path_is_read_or_refused_with_a_position(text: str, value: object) -> None:
    try:
        read = path(text)
    except InputError as error:
        message = str(error)
    else:
        message = "at position "
        with suppress(ValueError):  # a number that Python's own reader refuses
            read.one(json.loads(written(value)))
    assert "at position " in message


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | mutated().map(lambda body: body.decode(errors="replace")))
def test_any_body_of_a_template_is_used_or_refused(body: str) -> None:
    for end in ("", '"{image}"', "{image}", '{"a": "{images}"}'):
        with suppress(InputError):
            protocol = made("template", body=body + end)
            images = IMAGES if protocol.most > 1 else IMAGES[:1]
            assert protocol.request(images).body
