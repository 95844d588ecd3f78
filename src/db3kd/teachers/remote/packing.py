"""Bodies that a server or a proxy packed although nobody asked it to."""

import zlib
from collections.abc import Mapping

from db3kd.teachers.remote.protocols.reply import header, one_line

_SKIPPED = ("", "identity")
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS


class Unreadable(Exception):
    """A body cannot be unpacked; the text says why.

    >>> str(Unreadable("the reply is packed as 'br'"))
    "the reply is packed as 'br'"
    """


def unpacked(headers: Mapping[str, str], body: bytes, *, most: int) -> bytes | None:
    """The body without its Content-Encoding (RFC 9110, section 8.4); None beyond `most` bytes.

    gzip and deflate are unpacked. A body that is not packed, whatever the header says, is itself.

    Raises:
        Unreadable: it is packed in another way, or is cut.

    >>> import gzip
    >>> packed = gzip.compress(b"[7]")
    >>> unpacked({"content-encoding": "gzip"}, packed, most=10)
    b'[7]'
    >>> unpacked({"content-encoding": "gzip"}, packed, most=2)
    >>> unpacked({"content-encoding": "gzip"}, b"[7]", most=10)
    b'[7]'
    """
    way = header(headers, "Content-Encoding").strip().lower()
    if way in _SKIPPED or not body or body[:1] in b'[{"0123456789':
        return body
    if way not in ("gzip", "x-gzip", "deflate"):
        raise Unreadable(f"the reply is packed as {one_line(way)!r}, which nobody asked for")
    bits = _ZLIB if way == "deflate" else _GZIP
    opened = zlib.decompressobj(-_ZLIB if way == "deflate" and body[:1] != b"\x78" else bits)
    try:
        found = opened.decompress(body, most + 1)
    except zlib.error:
        raise Unreadable(f"the reply is not packed as it says ({way})") from None
    if len(found) > most:
        return None
    if not opened.eof:
        raise Unreadable(f"the reply, packed as {way}, is cut")
    return found
