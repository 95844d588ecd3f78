"""What comes back: answers, and every way in which there is none. Nothing here ever raises.

`read` is the one way from a reply to answers: status, JSON, what the protocol finds in it, and one
answer for each image asked. A protocol brings only the part that looks for its own answers.
"""

import codecs
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

import msgspec

from db3kd.teachers.remote.names import Place, Stray, storable

SHOWN = 120  # characters of a server's text that a reason has at most
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
THROTTLED = re.compile(
    rb"throttl|too[ _-]?many[ _-]?requests|rate[ _-]?(limit|exceeded)|\"code\"\s*:\s*1100[56]\b",
    re.IGNORECASE,
)
SEARCHED = 65536  # bytes of a body in which such a word is looked for
YEAR = 366 * 24 * 3600.0
NESTED = 8  # lists of one thing in each other, at most


@dataclass(frozen=True)
class Failed:
    """An image, or a whole request, without an answer.

    `reason` has no header, and at most 120 characters of the body. `retry`: whether asking again
    may help. `after`: seconds that the server wants to be left alone before, if it says so.
    """

    reason: str
    retry: bool
    after: float | None = None


Answer: TypeAlias = str | int | Failed
"""A name or a sentence, which is empty if the teacher said nothing; a whole number; or neither."""

NO_NUMBERS = Failed("the teacher answered scores that are not all numbers", retry=True)
NO_TEXT = Failed("the teacher answered a name that is not text", retry=False)


def read(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    asked: int,
    find: Callable[[object], list[Answer] | Failed],
    *,
    size: int | None = None,
    text: bool = False,
) -> list[Answer]:
    """One answer for each image asked; whatever the server sent, nothing is raised.

    `find` gets the JSON value of the body and returns the answers, or what is wrong with the reply
    as a whole: every image gets that failure, with an excerpt of the body and what Retry-After
    says. `size`: how many bytes of the body are JSON (None: all). `text`: a body may be plain text
    as well, which `find` gets then.

    >>> read(200, {}, b"[7, 3]", 2, lambda value: answers(value, 2, (), "the reply has no list"))
    [7, 3]
    >>> read(200, {"Retry-After": "2"}, b"busy", 1, lambda value: [1])
    [Failed(reason='the reply is not JSON: busy', retry=True, after=2.0)]
    """
    failed = refused(status, headers, body)
    if failed is not None:
        return [failed] * asked
    head = body[:size]
    value = parsed(headers, head)
    if text:
        value = _or_text(value, headers, head)
    found = value if isinstance(value, Failed) else find(value)
    if not isinstance(found, Failed):
        return found
    if found is not value:
        found = unreadable(found.reason, headers, head, retry=found.retry)
    return [found] * asked


def refused(status: int, headers: Mapping[str, str], body: bytes) -> Failed | None:
    """The failure that a status tells (RFC 9110, section 15), or None if it is a success.

    408, 425, 429 and what is wrong with the server (5xx, but 501 and 505) may be asked again; any
    other status if its body speaks of throttling.

    >>> refused(429, {"Retry-After": "3"}, b"later")
    Failed(reason='the server answered 429: later', retry=True, after=3.0)
    >>> refused(400, {}, b'{"code": "ThrottlingException"}').retry, refused(404, {}, b"").retry
    (True, False)
    """
    if 200 <= status < 300:
        return None
    broken = 500 <= status < 600 and status not in (501, 505)
    retry = status in RETRIED or broken or bool(THROTTLED.search(body[:SEARCHED]))
    return unreadable(f"the server answered {status}", headers, body, retry=retry)


def unreadable(what: str, headers: Mapping[str, str], body: bytes, *, retry: bool = True) -> Failed:
    """The failure of a whole reply: what is wrong, the start of the body, and how long to wait.

    >>> unreadable("the reply has no outputs", {}, b'{"error": "busy"}').reason
    'the reply has no outputs: {"error": "busy"}'
    """
    return Failed(with_excerpt(what, body), retry=retry, after=retry_after(headers))


def with_excerpt(what: str, body: bytes) -> str:
    r"""The sentence with the start of a body, as one line that no terminal takes for a command.

    >>> with_excerpt("the server answered 500", b"\x1b[2Jdown\n")
    'the server answered 500:  [2Jdown '
    """
    shown = one_line(body[: 4 * SHOWN].decode(errors="replace"))
    return f"{what}: {shown}" if shown.strip() else what


def one_line(text: str) -> str:
    r"""The start of a server's text, as one line that no terminal takes for a command.

    >>> one_line("FP\x1b32\n")
    'FP 32 '
    """
    return "".join(character if character.isprintable() else " " for character in text[:SHOWN])


def header(headers: Mapping[str, str], name: str) -> str:
    """The value of a header, whatever the case of its name; "" if there is none.

    >>> header({"retry-after": "7"}, "Retry-After")
    '7'
    """
    return next((headers[key] for key in headers if key.lower() == name.lower()), "")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by Retry-After (RFC 9110, section 10.2.3): a number, or a date.

    A date is compared with the server's own clock where the reply has a Date. At most a year.

    >>> retry_after({"Retry-After": "1.5"}), retry_after({"Retry-After": "soon"})
    (1.5, None)
    >>> date = "Wed, 21 Oct 2015 07:28:"
    >>> retry_after({"Retry-After": date + "30 GMT", "Date": date + "10 GMT"})
    20.0
    """
    text = header(headers, "Retry-After").strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", text):
        return min(float(text), YEAR)
    until = _date(text)
    if until is None:
        return None
    now = _date(header(headers, "Date")) or datetime.now(UTC)
    return min(max((until - now).total_seconds(), 0.0), YEAR)


def _date(text: str) -> datetime | None:
    if not 0 < len(text) < 100:
        return None
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def parsed(headers: Mapping[str, str], body: bytes) -> object:
    """The JSON value (RFC 8259) of a body, or `Failed`; of equal keys the last counts.

    >>> parsed({}, b"[1, 2"), parsed({}, b"[1, 2]")
    (Failed(reason='the reply is not JSON: [1, 2', retry=True, after=None), [1, 2])
    """
    try:
        return msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError):  # malformed, not UTF-8, NaN, huge, or nested too deeply
        what = "the reply is not JSON" if body.strip() else "the reply is empty"
        return unreadable(what, headers, body)


def _or_text(value: object, headers: Mapping[str, str], body: bytes) -> object:
    """The text of a plain-text body that is no JSON value, or only the word for one.

    Nothing that is rather a page, damaged JSON, or a word about throttling is an answer.
    """
    kind = header(headers, "Content-Type").strip().lower()
    if not (kind.startswith("text/") and isinstance(value, Failed | bool | None)):
        return value
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return value
    odd = not text.strip() or text.lstrip().startswith(("<", "{", "["))
    return value if odd or THROTTLED.search(body[:SEARCHED]) else text


def answer(value: object, names: Sequence[str] = ()) -> Answer:
    """What one value says of one image: a name, a class, or the best of some scores.

    A text or a whole number is itself, and so is a list of one. An object of scores gives its best
    key; a list of scores the place of the best, or its name if there are `names`. Nothing (null, []
    or {}) is the empty name.

    >>> answer([7.0]), answer({"cat": 0.1, "dog": 0.9}), answer([0.1, 0.9], ("cat", "dog"))
    (7, 'dog', 'dog')
    >>> answer(None), answer(0.5).reason
    ('', 'the teacher answered 0.5, which is neither a name nor a whole number')
    """
    if type(value) is int:  # nearly all are
        return _number(value)
    for _ in range(NESTED):
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
    if isinstance(value, str):
        return name(value)
    if value is None or value == [] or value == {}:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    if isinstance(value, dict):
        best = highest(list(value.values()))
        return _elsewhere(value) if isinstance(best, Failed) else _key(value, best)
    if isinstance(value, list):
        best = highest(value)
        return _elsewhere(value) if isinstance(best, Failed) else placed(best, len(value), names)
    return Failed(f"the teacher answered a {type(value).__name__}, which is not a name", retry=True)


def answers(
    values: object, asked: int, names: Sequence[str], otherwise: str
) -> list[Answer] | Failed:
    """One answer for each image of a list of values; a failure if it is not a list that long.

    `otherwise`: what the failure says.

    >>> answers(["cat", 1], 2, (), "the reply has no list")
    ['cat', 1]
    >>> answers(["cat"], 2, (), "the reply has no list").reason
    'the reply has no list'
    """
    if not isinstance(values, list) or len(values) != asked:
        return Failed(otherwise, retry=True)
    return [answer(value, names) for value in values]


def name(text: str) -> Answer:
    r"""A name, or a sentence, unless it is no text that could be kept.

    >>> name("cat"), name("\ud800").reason
    ('cat', 'the teacher answered a name that is not text')
    """
    return text if storable(text) else NO_TEXT


def placed(place: int, count: int, names: Sequence[str]) -> Answer:
    """The class whose score is the best of `count`: its name, where there are names.

    >>> placed(1, 3, ()), placed(1, 2, ("cat", "dog")), placed(1, 3, ("cat", "dog")).reason
    (1, 'dog', 'the teacher answered 3 scores, and 2 names are given')
    """
    if not names:
        return Place(place, count)
    if len(names) != count:
        reason = f"the teacher answered {count} scores, and {len(names)} names are given"
        return Failed(reason, retry=False)
    return names[place]


def highest(scores: Sequence[object]) -> int | Failed:
    """The place of the highest of some numbers, the first of equal ones.

    >>> highest([0.1, 0.7, 0.7]), highest([0.1, float("nan")]).reason
    (1, 'the teacher answered scores that are not all numbers')
    """
    best, top = 0, None
    for place, score in enumerate(scores):
        if not (type(score) is float or type(score) is int) or score != score:
            return NO_NUMBERS
        if top is None or score > top:
            best, top = place, score
    return best


def _key(scores: Mapping[str, Any], best: int) -> Answer:
    """The key of the highest score, strayed where these are hardly scores.

    {"class_id": 7, "score": 0.9} and {"prediction": 7} are answers that lie further in.
    """
    key, values = list(scores)[best], list(scores.values())
    whole = [value for value in values if type(value) is int and value > 0]
    parts = (
        [value for value in values if value != int(value)]
        if all(map(math.isfinite, values))
        else []
    )
    if (whole and parts) or (len(values) == 1 and (type(values[0]) is int or values[0] > 1)):
        return Stray(key) if storable(key) else NO_TEXT
    return name(key)


def _elsewhere(value: object) -> Failed:
    """What is said of something that is no scores: where it is texts or objects, what it is."""
    inner = list(value.values()) if isinstance(value, dict) else value
    if isinstance(inner, list) and any(isinstance(each, str | dict | list) for each in inner):
        shown = with_excerpt(NO_NUMBERS.reason, msgspec.json.encode(value))
        return replace(NO_NUMBERS, reason=f"{shown}; path says where in it the label is")
    return NO_NUMBERS


def _number(value: int | float) -> Answer:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and value.bit_length() < 64:
        return value
    shown = f"{value:.6g}" if isinstance(value, float) else "a huge number"
    reason = f"the teacher answered {shown}, which is neither a name nor a whole number"
    return Failed(reason, retry=False)
