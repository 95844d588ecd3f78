"""Code of the user's own: "module:function" as the user writes it, found and called.

No file that db3kd reads is ever a reason to run code: only the user names what is called.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from db3kd.errors import InputError, described, plain

Factory = str | Callable[..., Any]


def call_factory(factory: Factory, offered: Mapping[str, Any] | None = None) -> Any:
    """Call a "module:function", or the function itself, with those of the keywords it takes.

    Modules of the current folder are found. `offered`: keywords by name; a function that takes any
    keyword gets all of them.

    Raises:
        InputError: the module or the function is not there, or fails in any way.

    >>> call_factory("collections:Counter", {"shape": 3})
    Counter({'shape': 3})
    >>> call_factory(lambda: "plain", {"shape": 3})
    'plain'
    >>> call_factory("collections:Counters")
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: the factory 'collections:Counters' failed: AttributeError: ...
    """
    try:
        found = _found(factory) if isinstance(factory, str) else factory
        return found(**_taken(found, offered or {}))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a script without a main guard may call sys.exit
        raise InputError(f"{factory_text(factory)} failed: {described(error)}") from error


def factory_text(factory: Factory) -> str:
    """A factory as a part of a sentence.

    >>> factory_text("mine:make"), factory_text(factory_text)
    ("the factory 'mine:make'", "the factory 'factory_text'")
    """
    name = factory if isinstance(factory, str) else getattr(factory, "__name__", "of yours")
    return f"the factory {plain(name, 200)!r}"


def _found(name: str) -> Any:
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module)
    for part in function.split("."):
        found = getattr(found, part)
    return found


def _taken(function: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that a function takes; none if it does not say what it takes."""
    try:
        known = inspect.signature(function).parameters.values() if offered else ()
    except (TypeError, ValueError):
        return {}
    if any(one.kind is one.VAR_KEYWORD for one in known):
        return dict(offered)
    named = {one.name for one in known if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return {name: value for name, value in offered.items() if name in named}
