"""A classifier behind HTTP as a teacher; see `remote`."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.remote import Encoding, Kind, Remote, who
from db3kd.config.types import MOST_CLASSES
from db3kd.errors import InputError, TeacherError, hint
from db3kd.teachers.base import check_kind
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.encoding.seen import searched, seen_once
from db3kd.teachers.parts import Collected, Keeper, Rows
from db3kd.teachers.remote import protocols
from db3kd.teachers.remote.names import LabelMap
from db3kd.teachers.remote.protocols import Answer, Failed, Protocol, Request

if TYPE_CHECKING:
    from db3kd.teachers.remote.transport import Calls, Transport

DEFAULT_INPUT = Remote(url="", protocol="oip").input
NOT_TOLD = ("input", "binary", "method")  # they change nothing that is seen, or said
_KINDS: dict[str, Kind] = {"FP32": "float32", "UINT8": "uint8", "BYTES": "png"}
_log = logging.getLogger("db3kd")


class RemoteTeacher:
    """A classifier behind HTTP, made by `remote`; `close` it when all is asked.

    >>> from db3kd.config.remote import Names
    >>> names = Names(names=("cat", "dog"), unknown="other")
    >>> teacher = remote(Remote(url="http://localhost", protocol="raw", names=names))
    >>> teacher.classes, teacher.calls.sent
    (3, 0)
    """

    def __init__(
        self,
        settings: Remote,
        classes: int,
        bounds: tuple[float, float],
        limits: str | None,
        *,
        finding: bool = False,
    ) -> None:
        self.settings, self.classes, self.finding = settings, classes, finding
        self.bounds = _searched(settings.encoding, bounds)
        self.learn(())
        self.transport = _transport(settings, limits)
        self.remember: Callable[[tuple[str, ...]], None] = lambda names: None
        self.told: dict[str, str] = {}
        """What the service says of which model answers, once it was asked: `discover`."""
        self._shape: tuple[int, int, int] | None = None
        self._encoder: Encoder
        self._protocol: Protocol

    def __repr__(self) -> str:
        return f"RemoteTeacher({self.settings.url!r}, classes={self.classes})"

    @property
    def calls(self) -> "Calls":
        """What was sent so far."""
        return self.transport.calls

    @property
    def names(self) -> tuple[str, ...] | None:
        """What its classes are called, without the one of `unsure`; None if that is not fixed."""
        return self.labelled.known

    @property
    def unsure(self) -> int | None:
        """The class of "I do not know", the last, where unknown answers are dropped."""
        drops = self.finding or self.settings.names.unknown == "drop"
        return self.classes - 1 if drops else None

    @property
    def met(self) -> tuple[str, ...] | None:
        """The names met so far, where nobody said the classes; else None."""
        return self.labelled.learned if self.finding else None

    @property
    def identity(self) -> str:
        """Who answers, and as what it is shown images: answers of another are not its own."""
        settings = self.settings
        told = {k: v for k, v in who(settings).items() if k not in NOT_TOLD}
        told["classes"] = self.classes
        if self.finding:
            told["finding"] = True
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return f"{settings.protocol} {settings.url} {digest[:16]}"

    def discover(self) -> None:
        """Fill in what settings leave open from the model's metadata, where the protocol has any.

        "oip": the name of the only input, and if `encoding` is not said, what it takes: an array
        or a file, in one row where its shape has two axes. No query. A server that tells nothing
        changes nothing.
        """
        if self.settings.protocol != "oip":
            return
        plain = protocols.oip(self.settings, Encoder(self.settings.encoding, (1, 1, 1), (0.0, 1.0)))
        try:
            status, body = self.transport.fetch(plain.metadata())
        except TeacherError:
            return
        if status == 200:
            self.told = protocols.told(body, pinned=self.settings.version is not None)
        entries = protocols.describe(body) if status == 200 else ()
        if len(entries) != 1:
            return
        [entry], settings = entries, self.settings
        if settings.input == DEFAULT_INPUT:
            settings = msgspec.structs.replace(settings, input=entry.name)
        if settings.encoding == Encoding() and entry.datatype in _KINDS:
            flat = len(entry.shape) == 2 and entry.datatype != "BYTES"
            kind = Encoding(kind=_KINDS[entry.datatype], layout="flat" if flat else "chw")
            settings = msgspec.structs.replace(settings, encoding=kind)
        if settings != self.settings:
            words = (settings.input, settings.encoding.kind, settings.encoding.layout)
            _log.info("the model's metadata say: input %s, %s, %s", *words)
            self.settings = settings
            low, high = self.bounds
            self.bounds = _searched(settings.encoding, (low, high))

    def learn(self, names: Sequence[str]) -> None:
        """Take up names of classes that were met by an earlier process."""
        settings = self.settings
        self.labelled = LabelMap(
            settings.names,
            self.classes,
            names,
            pattern=settings.pattern,
            finding=self.finding,
        )

    def seen(self, images: Float[Tensor, "row *image"]) -> Float[Tensor, "row *image"]:
        """The images as the teacher will see them; no query."""
        return self._ready(images).seen(images, times=1)

    def keys(self, images: Float[Tensor, "row *image"]) -> list[bytes]:
        """For each image a digest of exactly what is sent for it."""
        return self._ready(images).keys(images)

    def labels(self, images: Float[Tensor, "row *image"], /) -> Int[Tensor, " row"]:
        """Class index of each image; one query each, failed calls not counted."""
        found = Collected(len(images))
        self.answer(images, found)
        return found.answers.to(images.device)

    def answer(self, images: Float[Tensor, "row *image"], keeper: Keeper, /) -> None:
        """Ask for all; each part that is answered is settled at once, whatever becomes of others.

        Raises:
            InputError, TeacherError: as `remote` and `Transport.run`.
        """
        if not len(images):
            return
        self._ready(images)
        shown = images.detach().to("cpu", torch.float32)
        size = min(self.settings.batch, self._protocol.most)

        def parts() -> Iterator[_Part]:
            for first in range(0, len(shown), size):
                rows = range(first, min(first + size, len(shown)))
                yield _Part(self._protocol, self.labelled, shown, rows, keeper)

        def done(parts: list[_Part]) -> None:
            self.remember(self.labelled.learned)
            rows = [row for part in parts for row in part.answered]
            classes = [part.classes[row] for part in parts for row in part.answered]
            failed = [row for part in parts for row in part.failed]
            keeper.settle(rows, classes, failed=failed)

        self.transport.run(parts(), done)

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()

    def _ready(self, images: Tensor) -> Encoder:
        """Encoder and protocol for images of this shape; a teacher is asked one shape only."""
        channels, height, width = shape = tuple(images.shape[1:])
        if self._shape is None:
            self._shape = (channels, height, width)
            self._encoder = Encoder(self.settings.encoding, self._shape, self.bounds)
            self._protocol = protocols.of(self.settings, self._encoder)
        if shape != self._shape:
            raise InputError(f"this teacher was shown images of {self._shape}, now {shape}")
        return self._encoder


def _searched(encoding: Encoding, bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds for searches; they can be sent to another process, where the teacher is not."""
    return searched(encoding, bounds, partial(seen_once, encoding, bounds))


def _transport(settings: Remote, limits: str | None) -> "Transport":
    try:
        from db3kd.teachers.remote.transport import Transport
    except ImportError:
        raise InputError(f"a remote teacher needs the extra: {hint('remote')}") from None
    return Transport(settings, limits=limits)


class _Part:
    """Some rows of a question; those that are answered are not asked again."""

    def __init__(
        self,
        protocol: Protocol,
        labelled: LabelMap,
        images: Tensor,
        rows: Rows,
        keeper: Keeper,
    ) -> None:
        self.protocol, self.labelled, self.images, self.keeper = protocol, labelled, images, keeper
        self.rows, self.classes = rows, dict[int, int]()
        self.sent = self._failed = False
        self._request: Request | None = None

    @property
    def open(self) -> list[int]:
        """Rows without an answer."""
        return [row for row in self.rows if row not in self.classes]

    @property
    def answered(self) -> list[int]:
        return [row for row in self.rows if row in self.classes]

    @property
    def failed(self) -> list[int]:
        """Rows whose calls failed; those of a call that was given up may have been answered."""
        return self.open if self.sent and self._failed else []

    @property
    def size(self) -> int:
        return len(self.rows) - len(self.classes)

    def claim(self) -> int:
        if self.sent:  # a process that is killed now may have paid for these twice
            self.keeper.settle((), (), retried=self.size)
        else:
            self.rows = self.keeper.claim(self.rows)
            self.sent = len(self.rows) > 0
        return self.size

    def fail(self) -> None:
        self._failed = True

    def request(self) -> Request:
        if self._request is None:
            self._request = self.protocol.request(self.images[self.open])
        return self._request

    def take(self, status: int, headers: Mapping[str, str], body: bytes, /) -> Failed | None:
        here = self.open
        worst: Failed | None = None
        known: dict[Answer, int | Failed] = {}
        sent = "" if self._request is None else self._request.id
        answers = self.protocol.answers(status, headers, body, len(here), sent)
        for row, answer in zip(here, answers, strict=True):
            if answer not in known:
                known[answer] = self._index(answer)
            found = known[answer]
            if isinstance(found, int):
                self.classes[row] = found
            elif worst is None or not found.retry:
                worst = found
        if self.size < len(here):
            self._request = None  # the next is for fewer images
        return worst

    def _index(self, answer: Answer) -> int | Failed:
        if isinstance(answer, Failed):
            return answer
        try:
            return self.labelled.index(answer)
        except TeacherError as error:
            return Failed(str(error), retry=False)


def remote(
    settings: Remote,
    *,
    classes: int | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    limits: str | None = None,
    most_classes: int = MOST_CLASSES,
) -> RemoteTeacher:
    """Hide a classifier behind HTTP behind the label-only door.

    `db3kd.config.remote.Remote` says how it is asked. `classes` may be left out where names are
    given; it counts the class of "other", and not that of "drop", which the teacher has besides.
    Without either, classes are found: each new answer is the next one, `most_classes` at most.
    `limits`: a file for limits a day. It is asked concurrently, with retries; a class index leaves,
    nothing else. Images are encoded as `settings.encoding` says, so what it sees of an image is
    `seen`. No secret is kept: headers and fields are filled from the environment for each call.

    Costs one query for each image that is answered; calls that fail are counted in `calls`. Random:
    the pauses between attempts.

    Raises:
        InputError: settings that do not go together, or an address that is not allowed.
        TeacherError: when asked, if it stays away, or answers something that is not a label.

    >>> teacher = remote(Remote(url="https://example.org", protocol="mlflow"), classes=10)
    >>> teacher
    RemoteTeacher('https://example.org', classes=10)
    """
    named = len(settings.names.names)
    if named and settings.names.unknown != "extend":
        known = named + (settings.names.unknown == "other")
        if classes not in (None, known):
            raise InputError(f"the teacher's names are of {known} classes, not of {classes}")
        classes = known
    if classes is None:
        return _finding(settings, most_classes, bounds, limits)
    check_kind(classes, bounds)
    unsure = settings.names.unknown == "drop"
    return RemoteTeacher(settings, classes + unsure, bounds, limits)


def _finding(
    settings: Remote, most: int, bounds: tuple[float, float], limits: str | None
) -> RemoteTeacher:
    """A teacher whose classes are found: what its answers say are names, numbers as well."""
    names = settings.names
    if names.unknown == "other" or names.names:
        raise InputError(
            "say how many classes the teacher knows (classes); without that they are found, and"
            ' then names are not given, nor unknown = "other"'
        )
    check_kind(most, bounds)
    names = msgspec.structs.replace(names, unknown="extend")
    settings = msgspec.structs.replace(settings, names=names)
    return RemoteTeacher(settings, most + 1, bounds, limits, finding=True)
