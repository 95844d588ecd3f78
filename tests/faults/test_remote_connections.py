"""Connections that do not come about, and bodies that were packed on their way."""

import gzip
import ssl
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from remote_tools import Tiny, asking, one_sentence, settings, some_images, tiny_server

from db3kd.errors import InputError, TeacherError
from db3kd.teachers.remote import connections
from db3kd.teachers.remote.packing import Unreadable, unpacked

REPLY = b'{"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [3]}]}'


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    with tiny_server() as made:
        yield made


def refusal(folder: Path, url: str, **choices: object) -> str:
    remote = settings(url, attempts=1, **choices)
    with (
        pytest.raises((InputError, TeacherError)) as stop,
        asking(folder, remote) as asked,
    ):
        asked.teacher.labels(some_images(1))
    return one_sentence(stop.value)


@pytest.mark.parametrize("kind", ["gzip", "x-gzip", "deflate", "raw deflate"])
def test_a_packed_reply_is_unpacked(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    raw = zlib.compressobj(wbits=-15)
    ways = {"deflate": zlib.compress, "raw deflate": lambda some: raw.compress(some) + raw.flush()}
    body = ways.get(kind, gzip.compress)(REPLY)
    head = {"Content-Encoding": kind.split()[-1], "Content-Type": "application/json"}
    tiny.special = lambda headers, _: (200, head, body)
    with asking(tmp_path, settings(tiny.url)) as asked:
        assert asked.teacher.labels(some_images(1)).tolist() == [3]
    tiny.special = lambda headers, _: (200, head, ways.get(kind, gzip.compress)(b" " * 30_000))
    if kind != "raw deflate":
        said = refusal(tmp_path / "large", tiny.url, largest_reply=20_000)
        assert "20,000 bytes (largest_reply)" in said


@pytest.mark.parametrize(
    ("way", "body", "reason"),
    [
        ("br", b"\x0b\x02\x80", "packed as 'br', which nobody asked for"),
        ("gzip", b"<html>", "not packed as it says"),
        ("gzip", gzip.compress(b"[7]", mtime=0)[:-4], "is cut"),
    ],
)
def test_what_cannot_be_unpacked_is_said(way: str, body: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        unpacked({"Content-Encoding": way}, body, most=100)


def test_why_nobody_answers_is_said(tiny: Tiny, tmp_path: Path) -> None:
    assert "nobody listens there" in refusal(tmp_path / "a", "http://127.0.0.1:1/")
    there = tiny.url.replace("http:", "https:")
    assert "https is not spoken there" in refusal(tmp_path / "b", there)
    unknown = "https://no-such-host.invalid/"
    assert "nobody knows a host of that name" in refusal(tmp_path / "c", unknown)
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_message = "self-signed certificate"
    told = connections.why(error)
    assert "not trusted: self-signed certificate; SSL_CERT_FILE" in told


def test_a_redirect_says_where_it_leads(tiny: Tiny, tmp_path: Path) -> None:
    tiny.special = lambda headers, _: (307, {"Location": "https://there.example/v2/?key=7"}, b"")
    assert "(https://there.example/v2/); give that" in refusal(tmp_path, tiny.url)


@pytest.mark.parametrize(
    ("url", "name", "value", "reason"),
    [
        ("https://example.invalid/", "SSL_CERT_FILE", "no/such.pem", "SSL_CERT_FILE of the"),
        ("https://localhost:1/", "SSL_CERT_FILE", "no/such.pem", "SSL_CERT_FILE of the"),
        ("https://localhost:1/", "SSL_CERT_FILE", __file__, "SSL_CERT_FILE of the"),
        ("https://example.invalid/", "HTTPS_PROXY", "odd://u:s3cret@h", "the proxy that"),
        ("https://example.invalid/", "ALL_PROXY", "http://u:s3cret@127.0.0.1:99999", "failed"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, name: str, value: str, reason: str
) -> None:
    for other in ("NO_PROXY", "no_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, value)
    told = refusal(tmp_path, url)
    assert reason in told
    assert "s3cret" not in told
