"""Uploads as forms to a server on loopback, which reads them with Python's own reader of mail."""

import email
import email.policy
import io
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from PIL import Image
from remote_tools import (
    NAMES,
    Reply,
    asking,
    classify,
    levels_of,
    listening,
    one_sentence,
    some_images,
    tiny_server,
    told_by,
    told_by_files,
    told_by_objects,
)

from db3kd.config.remote import Encoding, Names, Remote
from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import unsure_of
from db3kd.teachers.encoding import Encoder
from db3kd.teachers.remote import protocols, transport

TOKEN = "DB3KD_TEST_TOKEN"


@dataclass(frozen=True)
class Part:
    """What came in one part of a form."""

    field: str
    file: str | None
    kind: str
    content: bytes


def parts_of(headers: Mapping[str, str], body: bytes) -> list[Part]:
    start = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    whole = email.message_from_bytes(start + body, policy=email.policy.HTTP)
    assert whole.is_multipart()
    return [
        Part(
            str(part.get_param("name", header="content-disposition")),
            part.get_filename(),
            part.get_content_type(),
            part.get_payload(decode=True),  # type: ignore[arg-type]
        )
        for part in whole.iter_parts()  # type: ignore[attr-defined]
    ]


@dataclass
class Uploads:
    """A service as FastAPI's tutorial has it: what was uploaded, and what it says of each file."""

    url: str = ""
    wanted: str = "file"
    forms: list[list[Part]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    special: Any = None

    def reply(self, headers: Mapping[str, str], body: bytes) -> Reply:
        parts = parts_of(headers, body)
        self.forms.append(parts)
        self.bodies.append(body)
        files = [part for part in parts if part.field == self.wanted and part.file]
        if not files:
            return 422, {}, json.dumps({"detail": "Field required"}).encode()
        images = [np.asarray(Image.open(io.BytesIO(part.content)).convert("L")) for part in files]
        names = [NAMES[k] for k in classify(np.stack(images).reshape(-1, 64))]
        found: Reply = self.special(names, parts) if self.special else json_reply(names)
        return found


def json_reply(names: Sequence[str]) -> Reply:
    value = {"prediction": names[0], "all": [{"label": name} for name in names]}
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    made = Uploads()
    with tiny_server() as tiny:
        made.url, tiny.special = f"{tiny.url}/upload", made.reply
        yield made


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LONGEST_PAUSE", 0.2)


def settings(url: str, **changes: Any) -> Remote:
    plain: dict[str, Any] = {"path": "prediction", "names": Names(names=NAMES)}
    return Remote(url=url, protocol="form", **{**plain, **changes})


@pytest.mark.parametrize(("kind", "ending"), [("png", "png"), ("jpeg", "jpg")])
def test_an_image_is_uploaded_as_a_file_of_a_form(
    uploads: Uploads, tmp_path: Path, kind: Any, ending: str
) -> None:
    uploads.wanted = "the image"
    fields = {"model": "größe\r\n--x", "top": "1"}
    encoding = Encoding(kind=kind)
    remote = settings(uploads.url, field=uploads.wanted, fields=fields, encoding=encoding)
    images = some_images(5)
    with asking(tmp_path, remote) as asked:
        answers = asked.teacher.labels(images)
        assert asked.known(images).tolist() == answers.tolist()
    seen = Encoder(encoding, (1, 8, 8)).files(images)
    assert sorted(form[-1].content for form in uploads.forms) == sorted(seen)
    if kind == "png":
        assert answers.tolist() == classify(levels_of(images))
    for form in uploads.forms:
        texts = {part.field: part.content.decode() for part in form[:-1]}
        assert texts == fields
        assert (form[-1].field, form[-1].file) == (uploads.wanted, f"image-0.{ending}")
        assert form[-1].kind == f"image/{kind}"


def test_several_files_go_into_one_form_where_the_answer_is_a_list(
    uploads: Uploads, tmp_path: Path
) -> None:
    images = some_images(10)
    with asking(tmp_path, settings(uploads.url, path="all[*].label", batch=4)) as asked:
        assert asked.teacher.labels(images).tolist() == classify(levels_of(images))
    assert sorted(len(form) for form in uploads.forms) == [2, 4, 4]
    assert {part.file for form in uploads.forms for part in form} == {
        f"image-{number}.png" for number in range(4)
    }


def test_the_same_image_is_the_same_request_and_is_asked_once(
    uploads: Uploads, tmp_path: Path
) -> None:
    failing = [True]

    def once(names: Sequence[str], parts: Any) -> Reply:
        return (503, {}, b"busy") if failing and failing.pop() else json_reply(names)

    uploads.special = once
    image = some_images(1)
    with asking(tmp_path, settings(uploads.url)) as asked:
        first = asked.teacher.labels(image)
    with asking(tmp_path, settings(uploads.url, batch=1, timeout=9.0)) as asked:
        assert asked.teacher.labels(image).tolist() == first.tolist()
    assert len(uploads.bodies) == 2
    assert uploads.bodies[0] == uploads.bodies[1]


def test_text_sentences_and_doubts(uploads: Uploads, tmp_path: Path) -> None:
    def says(names: Sequence[str], parts: Any) -> Reply:
        word = names[0]
        said = {"three": "I'm not sure.", "four": "Four, or five."}.get(word, f"It is {word}.\n")
        return 200, {"Content-Type": "text/plain"}, said.encode()

    uploads.special = says
    images = some_images(40)
    remote = settings(
        uploads.url,
        path="",
        pattern=rf"(?i)\b({'|'.join(NAMES)})\b",
        names=Names(names=NAMES, ignore_case=True, unknown="drop"),
    )
    wanted = [10 if k in (3, 4) else k for k in classify(levels_of(images))]
    assert 10 in wanted
    with asking(tmp_path, remote) as asked:
        assert unsure_of(asked.teacher) == 10
        assert asked.teacher.labels(images).tolist() == wanted
        count = len(uploads.forms)
        assert asked.teacher.labels(images).tolist() == wanted
        assert len(uploads.forms) == count == asked.books()["answered"]
    refusing = replace(remote, names=Names(names=NAMES, ignore_case=True))
    with asking(tmp_path, refusing) as asked, pytest.raises(TeacherError) as raised:
        asked.teacher.labels(images)
    assert "the pattern finds" in one_sentence(raised.value)


def echo(names: Sequence[str], parts: Sequence[Part]) -> Reply:
    """A server that says in its reply what it was sent."""
    return 401, {}, b"bad key " + parts[0].content


def said_as_label(names: Sequence[str], parts: Sequence[Part]) -> Reply:
    return 200, {"Content-Type": "text/plain"}, parts[0].content


@pytest.mark.parametrize("special", [None, echo, said_as_label])
def test_a_secret_in_a_field_is_sent_and_found_nowhere(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, special: Any
) -> None:
    secret = f"s3cr3t-{uuid.uuid4().hex}"
    monkeypatch.setenv(TOKEN, secret)
    uploads.special, said = special, []
    path = "" if special is said_as_label else "prediction"
    remote = settings(uploads.url, fields={"api_key": f"${{{TOKEN}}}"}, path=path, attempts=2)
    with listening() as log, asking(tmp_path, remote) as asked:
        try:
            asked.teacher.labels(some_images(6))
            assert special is None
        except TeacherError as error:
            assert special is not None
            one_sentence(error)
            said += told_by(error)
        said += [repr(asked), repr(vars(asked.remote)), repr(vars(asked.remote.transport))]
        said += [asked.stack.identity, *told_by_objects()]
    assert [text[:300] for text in (*log.texts, *said) if secret[:12] in text] == []
    assert not any(secret[:12].encode() in content for content in told_by_files(tmp_path))
    assert {form[0].content.decode() for form in uploads.forms} == {secret}


def test_a_variable_that_is_missing_is_named_and_nothing_is_sent(
    uploads: Uploads, tmp_path: Path
) -> None:
    remote = settings(uploads.url, fields={"key": "${NO_SUCH_SECRET}"})
    with asking(tmp_path, remote) as asked, pytest.raises(InputError) as raised:
        asked.teacher.labels(some_images(2))
    assert "the environment has no NO_SUCH_SECRET" in one_sentence(raised.value)
    assert uploads.forms == []


def test_a_form_that_the_service_does_not_take_is_told(uploads: Uploads, tmp_path: Path) -> None:
    remote = settings(uploads.url, field="picture")
    with asking(tmp_path, remote) as asked, pytest.raises(TeacherError) as raised:
        asked.teacher.labels(some_images(2))
    assert "the server answered 422: " in one_sentence(raised.value)
    assert "Field required" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": Encoding(kind="float32")}, "'form' sends 'png' or 'jpeg' files, not 'float"),
        ({"method": "GET"}, "which method 'GET' cannot"),
        ({"field": ""}, "field must be a name"),
        ({"fields": {"": "x"}}, "fields has an empty name"),
        ({"fields": {"file": "x"}}, "fields has 'file', the field of the image"),
        ({"fields": {"token": "s3cret"}}, "field 'token' may be secret"),
        ({"fields": {"a": "${A"}}, "field 'a' has a '${' that no '}' ends"),
        ({"headers": {"content-TYPE": "multipart/form-data"}}, "is set by db3kd for protocol 'fo"),
        ({"model": "x"}, "protocol 'form' has no use for model"),
        ({"protocol": "raw", "field": "image"}, "protocol 'raw' has no use for field"),
        ({"protocol": "raw", "fields": {"a": "b"}}, "protocol 'raw' has no use for fields"),
        ({"path": "a..b"}, "cannot be read at position 1"),
    ],
)
def test_forms_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    remote = replace(settings("http://localhost"), **changes)
    with pytest.raises(InputError) as raised:
        protocols.of(remote, Encoder(remote.encoding, (1, 8, 8)))
    assert message in one_sentence(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_form_without_a_list_is_for_one_image() -> None:
    remote = settings("http://localhost")
    with pytest.raises(InputError, match="a form is for one image, not 2"):
        protocols.of(remote, Encoder(remote.encoding, (1, 8, 8))).request(torch.zeros(2, 1, 8, 8))
