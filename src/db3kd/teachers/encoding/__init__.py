"""Images as a model wants them: an array or a file, its size, channels, layout and numbers."""

from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.encoding.local import Entry
from db3kd.teachers.encoding.seen import searched, seen_once

__all__ = ["Encoder", "Entry", "searched", "seen_once"]
