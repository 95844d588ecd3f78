"""Recipes in a folder: which one may be meant."""

import os
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from db3kd.errors import plain

MOST_FILES, MOST_NAMED = 1000, 5  # of a folder: looked at, and named


def others(path: Path) -> str:
    """What to say of the other recipes in its folder if there is no such file; "" if there is.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> others(folder / "mnst.toml")
    ''
    >>> _ = (folder / "mnist.toml").write_text("")
    >>> others(folder / "mnst.toml")
    '; did you mean ...mnist.toml?'
    >>> others(folder)
    '; recipes there: mnist.toml'
    """
    try:
        if path.is_file():
            return ""
        folder = path if path.is_dir() else path.parent
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MOST_FILES)]
    except (OSError, ValueError):
        return ""
    recipes = sorted(name for name in names if name.endswith(".toml"))
    near = get_close_matches(path.name.removesuffix(".toml") + ".toml", recipes, n=1)
    if near and folder != path:
        return f"; did you mean {plain(folder / near[0])}?"
    more = ", ..." if len(recipes) > MOST_NAMED else ""
    named = ", ".join(plain(name, 60) for name in recipes[:MOST_NAMED])
    return f"; recipes there: {named}{more}" if recipes else ""
