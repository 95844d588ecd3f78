"""TOML files as tables, with the line of every key, and overrides of single keys."""

import codecs
import datetime
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from db3kd.errors import RecipeError, plain

Key = tuple[str, ...]  # ("student", "training", "epochs")
LARGEST = 2**20  # bytes of a recipe
DEEPEST = 32  # parts of a key; the time that a long one takes grows with its square


def read_source(path: str | Path) -> str:
    """Return the text of a recipe, with the line ends of Unix, without a byte order mark.

    Raises:
        RecipeError: the file cannot be read, or is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = plain(getattr(error, "strerror", None) or error)
        raise RecipeError(
            f"{path}: cannot be read ({reason}); give the path of a recipe, a TOML file"
        ) from None
    if len(content) > LARGEST:
        raise RecipeError(f"{path}: has more than {LARGEST:,} bytes; give a recipe, a TOML file")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text; save the recipe as UTF-8") from None


def parse_toml(source: str, path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises:
        RecipeError: the text is not TOML; the error begins with file and line.

    >>> parse_toml("run = 'runs/a'", "recipe.toml")
    {'run': 'runs/a'}
    """
    line = _line_of_deep_key(source)
    if line:
        raise RecipeError(f"{path}:{line}: a key has more than {DEEPEST} parts; use fewer")
    try:
        return tomllib.loads(source)
    except (ValueError, RecursionError) as error:
        text, _, place = str(error).rpartition(" (at ")
        found = re.match(r"line (\d+), column (\d+)\)", place)
        if found:
            raise RecipeError(f"{path}:{found[1]}: not TOML: {text} (column {found[2]})") from None
        line = source.rstrip("\n").count("\n") + 1
        raise RecipeError(f"{path}:{line}: not TOML: {text or error} (end of file)") from None


_NO_KEY = re.compile(  # strings and comments; what is not closed ends with its line, or the text
    r'"""(?:\\(?:.|\Z)|[^\\])*?(?:"{3,5}|\Z)|\'\'\'.*?(?:\'{3,5}|\Z)'
    r'|"(?:\\.|[^"\\\n])*"?|\'[^\'\n]*\'?|#[^\n]*',
    re.DOTALL,
)
_DEEP = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{DEEPEST}}}")


def _line_of_deep_key(source: str) -> int:
    """The line of a key of more than `DEEPEST` parts; 0 if there is none. Takes linear time."""

    def emptied(found: re.Match[str]) -> str:
        return "" if found[0][0] == "#" else "s" + "\n" * found[0].count("\n")

    text = _NO_KEY.sub(emptied, source)
    found = _DEEP.search(text)
    return text.count("\n", 0, found.start()) + 1 if found else 0


_TOKEN = re.compile(
    r'(?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')'
    r"|(?P<comment>\#[^\n]*)|(?P<open>[\[{])|(?P<close>[\]}])|(?P<end>\n)|[^\"'\#\[\]{}\n]+",
    re.DOTALL,
)
_PART = re.compile(r"""\s*([A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')\s*(\.?)""")


def _statements(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each statement of a valid TOML source, without comments."""
    line, first, depth, text = 1, 1, 0, ""
    for token in _TOKEN.finditer(source + "\n"):
        kind, word = token.lastgroup, token[0]
        depth += (kind == "open") - (kind == "close")
        if kind == "end" and depth == 0:
            if text.strip():
                yield first, text.strip()
            first, text = line + 1, ""
        elif kind != "comment":
            text += word
        line += word.count("\n")


def lines_of(source: str) -> dict[Key, int]:
    """Return the line of every table and every key; keys of an inline table have its line."""
    lines: dict[Key, int] = {}
    table: Key = ()
    for line, text in _statements(source):
        header = len(text) - len(text.lstrip("["))
        key = _dotted(text[header:])
        if header:
            table = key
        whole = key if header else (*table, *key)
        for length in range(1, len(whole) + 1):
            lines.setdefault(whole[:length], line)
        lines[whole] = line  # `[a]` after `[a.b]`
    return lines


def _dotted(text: str) -> Key:
    """Return the parts of the dotted key that a text starts with."""
    parts: list[str] = []
    at, more = 0, "."
    while more and (found := _PART.match(text, at)):
        part, more = found.groups()
        parts.append(tomllib.loads(f"part = {part}")["part"] if part[0] in "\"'" else part)
        at = found.end()
    return tuple(parts)


def apply_override(override: str, values: dict[str, Any], places: dict[Key, str]) -> None:
    """Put the value of an override into the tables, and note the override as its place."""
    place = f"--set {plain(override, 120)}"
    name, _, text = override.partition("=")
    if not re.fullmatch(r"\s*[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\s*", name) or not text.strip():
        raise RecipeError(f"{place}: give KEY=VALUE, such as student.training.epochs=3")
    if any("\ud800" <= sign <= "\udfff" for sign in override):
        raise RecipeError(f"{place}: not UTF-8 text; give names that are")
    key = tuple(name.strip().split("."))
    if len(key) > DEEPEST or _line_of_deep_key(text):
        raise RecipeError(f"{place}: a key has more than {DEEPEST} parts; use fewer")
    table = values
    for depth, part in enumerate(key[:-1], start=1):
        if part not in table:
            places[key[:depth]] = place
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise RecipeError(f"{place}: {'.'.join(key[:depth])} is a value, not a table")
    table[key[-1]] = _value(text.strip(), place)
    for other in [other for other in places if other[: len(key)] == key]:
        del places[other]
    places[key] = place


def _value(text: str, place: str) -> Any:
    """Parse a TOML value; other text is a string, unless it looks like a broken TOML value."""
    try:
        values = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        if text[0] in "\"'[{":
            raise RecipeError(
                f"{place}: the value is not TOML; check quotes and brackets"
            ) from None
        return text
    value = values["value"]
    plain_word = isinstance(value, datetime.date | datetime.time) or len(values) > 1
    return text if plain_word else value
