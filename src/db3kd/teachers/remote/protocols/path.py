"""A tiny language that says where in a JSON value the label is."""

import re
from dataclasses import dataclass, field

from db3kd.errors import InputError

STEP = re.compile(
    r"""(?P<dot>\.)?(?P<key>[^\s.*\[\]"']+) | \[(?P<place>[0-9]{1,9})\] | \[(?P<all>\*)\]
    | \["(?P<quoted>[^"]*)"\]""",
    re.VERBOSE,
)


class Missing:
    """What a path finds where there is nothing.

    >>> path("a").one({})
    Missing
    """

    def __repr__(self) -> str:
        return "Missing"


MISSING = Missing()


@dataclass(frozen=True)
class Path:
    """Where in a JSON value the label is: keys, places in lists, and None for "each of a list".

    >>> path("outputs[*].label").steps
    ('outputs', None, 'label')
    """

    text: str
    steps: tuple[str | int | None, ...] = field(repr=False)

    @property
    def many(self) -> bool:
        """Whether it has a `[*]`, and so finds a list with one thing for each image."""
        return None in self.steps

    def one(self, value: object) -> object:
        """What is at the path, or `Missing`; of a path with `[*]` a list.

        >>> path("[0].label").one([{"label": "cat"}])
        'cat'
        >>> path("[*].label").one([{"label": "cat"}, {}])
        ['cat', Missing]
        """
        if not self.many:
            return _followed(value, self.steps)
        star = self.steps.index(None)
        values = _followed(value, self.steps[:star])
        if not isinstance(values, list):
            return MISSING
        return [_followed(each, self.steps[star + 1 :]) for each in values]

    def listed(self, value: object, *, many: bool) -> object:
        """What is at the path as a list with one thing for each image, or `Missing`.

        `many`: the teacher's own list is there, one thing for each image; else the one thing of
        one image.

        >>> path("a").listed({"a": 7}, many=False), path("a").listed({"a": [7, 3]}, many=True)
        ([7], [7, 3])
        """
        found = self.one(value)
        return found if many or isinstance(found, Missing) else [found]


def path(text: str) -> Path:
    """Read a path: `a.b[0].c`, `["any key"]`, `[*]` for one of each image; "" is the whole value.

    Raises:
        InputError: names the position at which it cannot be read, counted from 0.

    >>> path('a["b c"][2]').steps
    ('a', 'b c', 2)
    >>> path("a..b")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: path 'a..b' cannot be read at position 1, '..b'; ...
    """
    steps: list[str | int | None] = []
    at = 0
    while at < len(text):
        step = STEP.match(text, at)
        if step is None or (step["key"] is not None and bool(step["dot"]) != bool(steps)):
            raise InputError(
                f"path {text!r} cannot be read at position {at}, {text[at : at + 20]!r}; write"
                ' steps like a.b, [0], [*] or ["any key"]'
            )
        if step["all"] and None in steps:
            raise InputError(f"path {text!r} has a second [*] at position {at}; one is allowed")
        if step["place"] is not None:
            steps.append(int(step["place"]))
        else:
            steps.append(None if step["all"] else step["key"] or step["quoted"])
        at = step.end()
    return Path(text, tuple(steps))


def _followed(value: object, steps: tuple[str | int | None, ...]) -> object:
    for step in steps:
        match value, step:
            case dict(), str() if step in value:
                value = value[step]
            case list(), int() if step < len(value):
                value = value[step]
            case _:
                return MISSING
    return value
