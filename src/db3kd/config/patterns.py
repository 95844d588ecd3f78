"""Regular expressions that a recipe may contain."""

import re
import warnings

from db3kd.errors import InputError, plain

LONGEST = 1000  # characters of a pattern


def compiled(pattern: str) -> re.Pattern[str]:
    r"""A regular expression of Python's, ready to search with.

    How long a search may take is up to the pattern: it is the user's own.

    Raises:
        InputError: it is too long, empty, or no regular expression.

    >>> compiled(r"\b(cat|dog)\b").search("a dog.")[1]
    'dog'
    >>> compiled("(cat")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the pattern '(cat' is no regular expression (missing ), unterminated
    subpattern at position 0); write one as Python's re knows them
    """
    if not 0 < len(pattern) <= LONGEST:
        raise InputError(
            f"the pattern has {len(pattern):,} characters; give one of 1 to {LONGEST:,}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Python's next version may read otherwise
            return re.compile(pattern)
    except (re.error, Warning, RecursionError, OverflowError) as error:
        raise InputError(
            f"the pattern {plain(pattern, 60)!r} is no regular expression ({plain(error, 100)});"
            " write one as Python's re knows them"
        ) from None
