"""A file of frames that is only appended to, and whose end may be anything after a power cut.

A frame has its length and a checksum, so a cut, zeroed or garbled end costs the frames that it
covers and no others. The head of the file says how much was asked, whatever became of the end. It
is written in place, in one small write.
"""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_HEAD = struct.Struct("<8s8sQI")  # magic, start of the machine, asked, checksum of these
_FRAME = struct.Struct("<II")  # length of the content; checksum of the length and the content
_MAGIC = b"db3k/2\r\n"
_CLOSED = bytes(8)  # in place of the machine's start: all of it is on the disk
BEGIN = _HEAD.size  # where the first frame begins


@dataclass(frozen=True)
class Head:
    """What was `asked` in all, and whether that can be relied on: `sure`.

    It can where the file was closed, or the machine has not been started again since: what a
    killed process wrote is there.
    """

    asked: int
    sure: bool


def head(asked: int, *, closed: bool) -> bytes:
    """The head of a file.

    >>> read_head(head(7, closed=True)), read_head(head(7, closed=False)[:-1])
    (Head(asked=7, sure=True), None)
    """
    content = _HEAD.pack(_MAGIC, _CLOSED if closed else machine_start(), asked, 0)[:-4]
    return content + zlib.crc32(content).to_bytes(4, "little")


def read_head(content: bytes) -> Head | None:
    """What the head of a file says; None where it cannot be trusted."""
    found = content[: _HEAD.size]
    if len(found) < _HEAD.size:
        return None
    magic, start, asked, checksum = _HEAD.unpack(found)
    if magic != _MAGIC or checksum != zlib.crc32(found[:-4]):
        return None
    return Head(asked, start in (_CLOSED, machine_start()))


def frame(content: bytes) -> bytes:
    """A frame of this content.

    >>> whole = head(0, closed=True) + frame(b"one") + frame(b"two")
    >>> [content for content, _ in read_frames(whole)], [end for _, end in read_frames(whole[:-1])]
    ([b'one', b'two'], [39])
    """
    length = len(content).to_bytes(4, "little")
    return length + zlib.crc32(content, zlib.crc32(length)).to_bytes(4, "little") + content


def read_frames(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The content of each frame, and where it ends, up to the first that cannot be trusted."""
    at = BEGIN
    while at + _FRAME.size <= len(content):
        length, checksum = _FRAME.unpack_from(content, at)
        body = content[at + _FRAME.size : at + _FRAME.size + length]
        if len(body) < length or frame(body)[4:8] != checksum.to_bytes(4, "little"):
            return
        at += _FRAME.size + length
        yield body, at


@cache
def machine_start() -> bytes:
    """Eight bytes that are others after each start of the machine.

    Where the system tells none (Windows), they are others in each process, so nothing is sure.

    >>> len(machine_start()), machine_start() == machine_start()
    (8, True)
    """
    told = ""
    try:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        else:
            told = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        pass
    digits = told.strip().replace("-", "")[:16]
    return bytes.fromhex(digits) if len(digits) == 16 else os.urandom(8)
