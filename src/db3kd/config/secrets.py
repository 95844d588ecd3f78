"""Secrets: variables of the environment that settings name as ${NAME}, and how texts hide them.

A server may send a secret back, and a library may put it into an error, in another spelling than it
was sent in. One function knows the spellings: plain, escaped as in JSON, in Python or HTML, percent
codes, base64 and hexadecimal, and mixtures of these.
"""

import base64
import os
import re
from collections.abc import Iterable
from functools import lru_cache

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")  # its name is the group
LEAST = 4  # signs of a secret; what is shorter, such as a zone "1", is in half of all texts
HIDDEN = "***"
_NAMED = {'"': "quot", "&": "amp", "'": "apos", "<": "lt", ">": "gt"}  # signs in HTML
_SLASHES, _AND = r"\\{1,16}", "&(?:amp;){0,3}"  # escapes may be escaped again


def secrets_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The values of all variables that these texts name, the longest first.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, DOOR="open sesame"):
    ...     secrets_of(["Bearer ${DOOR}", "${NO_SUCH_VARIABLE}"])
    ('open sesame',)
    """
    names = {name for text in texts for name in VARIABLE.findall(text)}
    found = {os.environ.get(name, "").strip() for name in names}
    return tuple(sorted((secret for secret in found if len(secret) >= LEAST), key=_order))


def without_secrets(text: str, secrets: tuple[str, ...]) -> str:
    """A text with each secret replaced by ***, in whatever spelling it is there.

    >>> without_secrets("key=a%2fb+c, again YS9iK2M=", ("a/b+c",))
    'key=***, again ***M='
    """
    return _pattern(secrets).sub(HIDDEN, text) if secrets else text


def bytes_without_secrets(body: bytes, secrets: tuple[str, ...]) -> bytes:
    r"""The same for bytes of whatever encoding.

    >>> bytes_without_secrets(b'{"echo": "a\\/b\\u002Bc"}', ("a/b+c",))
    b'{"echo": "***"}'
    """
    if not secrets:
        return body
    return _pattern(secrets).sub(HIDDEN, body.decode("latin-1")).encode("latin-1")


def _order(secret: str) -> tuple[int, str]:
    return -len(secret), secret


@lru_cache(maxsize=16)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str]:
    """What finds every spelling; a run has a handful of secrets, so it is made once."""
    words = [word for secret in secrets for word in (secret, *_codes(secret.encode()))]
    parts = ["".join(map(_sign, word)) for word in dict.fromkeys(words)]
    in_hex = [secret.encode().hex() for secret in secrets]
    parts += [f"(?i:{word})" for word in in_hex]
    firsts = {some for word in (*words, *in_hex) for some in (word[0], word[0].upper())}
    firsts |= {sign for word in secrets for sign in word[0].encode().decode("latin-1")[:1]}
    # Most places of a text begin no spelling: to see that first is five times as fast.
    return re.compile(rf"(?=[\\%&{re.escape(''.join(sorted(firsts)))}])(?:{'|'.join(parts)})")


def _codes(secret: bytes) -> list[str]:
    """The base64 of a secret within a longer text, whose first bytes shift it by 0, 1 or 2."""
    found = []
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + secret).decode("ascii")
        first, end = (0, 2, 3)[shift], 8 * (shift + len(secret)) // 6  # signs of the secret alone
        found += [whole[first:end], whole[first:end].replace("+", "-").replace("/", "_")]
    return [word for word in found if len(word) >= LEAST]


def _sign(sign: str) -> str:
    """A pattern for one sign in any spelling; repeats are bounded, so that a search is quick."""
    code, raw = ord(sign), sign.encode("utf-8", "surrogatepass")
    units = sign.encode("utf-16-be", "surrogatepass").hex()
    ways = [
        "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in raw),
        "".join(f"{_SLASHES}u{units[at : at + 4]}" for at in range(0, len(units), 4)),
        "".join(f"{_SLASHES}x{byte:02x}" for byte in raw),
        f"{_SLASHES}x{code:02x}",
        rf"{_AND}\#(?:0{{0,6}}{code}|x0{{0,6}}{code:x});",
    ]
    ways += [f"{_AND}{_NAMED[sign]};"] if sign in _NAMED else []
    ways += [re.escape(raw.decode("latin-1"))] if len(raw) > 1 else []
    ways += [r"\+"] if sign == " " else []
    same = _SLASHES if sign == "\\" else rf"\\{{0,16}}{re.escape(sign)}"
    return f"(?:{same}|(?i:{'|'.join(ways)}))"
