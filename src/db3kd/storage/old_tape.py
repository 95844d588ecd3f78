"""Tapes of run folders of format 1 and 2, read so that a shard in progress goes on."""

import struct
import zlib

_HEAD = struct.Struct("<4sIII")  # what, how many images, key of the question, checksum of these
_ASKED, _LOST = b"ask:", b"lost"


def is_old(content: bytes) -> bool:
    """Whether this is a tape of an older format.

    >>> is_old(b"ask:..."), is_old(b"")
    (True, False)
    """
    return content[:4] in (_ASKED, _LOST)


def read_old(content: bytes, width: int) -> tuple[list[tuple[int, int, bytes]], int]:
    """The questions that have answers (count, key, bytes of the answers), and how many are lost.

    A byte stands for an answer or less, so no more is lost at a damaged place than bytes follow it.

    >>> ask = _HEAD.pack(b"ask:", 2, 5, zlib.crc32(_HEAD.pack(b"ask:", 2, 5, 0)[:12]))
    >>> read_old(ask + b"ab" + zlib.crc32(b"ab").to_bytes(4, "little") + ask, width=1)
    ([(2, 5, b'ab')], 2)
    """
    found: list[tuple[int, int, bytes]] = []
    at, lost = 0, 0
    while at + _HEAD.size <= len(content):
        what, count, key, checksum = _HEAD.unpack_from(content, at)
        if checksum != zlib.crc32(content[at : at + 12]) or what not in (_ASKED, _LOST):
            return found, lost + len(content) - at
        body = at + _HEAD.size
        if what == _LOST:
            at, lost = body, lost + count
            continue
        at = body + count * width + 4
        answers = content[body : at - 4]
        if at > len(content) or zlib.crc32(answers).to_bytes(4, "little") != content[at - 4 : at]:
            return found, lost + count + max(0, len(content) - at)
        found.append((count, key, answers))
    return found, lost
