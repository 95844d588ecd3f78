"""Recipes: how a command reads one, and which one may be meant."""

import json
import os
from collections.abc import Sequence
from contextvars import ContextVar
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from db3kd.cli.door import Work
from db3kd.errors import RecipeError, plain

if TYPE_CHECKING:
    from db3kd.config.recipe import Recipe

MOST_FILES, MOST_NAMED = 1000, 5  # of a folder: looked at, and named
WORK: ContextVar[Work] = ContextVar("WORK")  # of the command that runs


def read(path: Path, overrides: Sequence[str] = ()) -> "Recipe":
    """Read a recipe, and note where its errors are to be kept and what these must not tell."""
    from db3kd.config.reading import read_recipe, resolved
    from db3kd.config.secrets import secrets_of

    try:
        recipe = read_recipe(path, overrides)
    except RecipeError as error:
        raise RecipeError(f"{error}{others(path)}") from None
    work = WORK.get(None)
    if work is not None:
        work.folder = Path(recipe.run)
        work.secrets = secrets_of([json.dumps(resolved(recipe))])
    return recipe


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
