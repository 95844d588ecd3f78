"""The user's own code behind a factory, by what it does: comments and layout do not count."""

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from db3kd.data.digest import combined
from db3kd.job.reading import is_own

MODELS = (
    *(".bst", ".cbm", ".gguf", ".h5", ".hdf5", ".joblib", ".keras", ".npy", ".npz", ".onnx"),
    *(".pb", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tflite", ".ubj"),
)
"""Endings of files of models: libraries may read them unseen, or only when they are asked."""


def own_modules(name: str) -> dict[str, Path]:
    """The file of a module that is loaded, and those of all of the user's own that it imports.

    A module is the user's own if it is no library's and lies in the working folder, or beside the
    first one.
    """
    found: dict[str, Path] = {}
    waiting = [name]
    while waiting:
        module = sys.modules.get(waiting.pop())
        file = None if module is None else getattr(module, "__file__", None)
        if module is None or module.__name__ in found or not file:
            continue
        path = Path(file)
        if path.suffix != ".py" or not is_own(path) or not path.is_file():
            continue
        if found and not _is_near(path, next(iter(found.values()))):
            continue
        found[module.__name__] = path
        waiting += _imported(module, _parsed(path))
    return found


def digest_of_code(file: Path) -> str:
    r"""A digest of what a file of Python says, without comments, docstrings and layout.

    The same code has the same one under every version of Python that db3kd knows.

    >>> import tempfile
    >>> a, b = (Path(tempfile.mkdtemp()) / "make.py" for _ in range(2))
    >>> a.write_text("def make():\n    'The teacher.'\n    return (1 +2)  # three") > 0
    True
    >>> b.write_text("def make(): return 1 + 2") > 0
    True
    >>> digest_of_code(a) == digest_of_code(b)
    True
    """
    return combined("code", _said(_parsed(file)))


def named_files(file: Path) -> list[Path]:
    """Files of models that a file of Python names in a text, from the working folder or from it.

    They may lie in folders that it names, too, as in `Path("models") / "digits.pkl"`. Not all are
    read while the factory is called (`MODELS`). Files called caches are left out.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "models").mkdir()
    >>> (folder / "models" / "digits.pkl").write_bytes(b"weights")
    7
    >>> (folder / "make.py").write_text("place = ('models', 'digits.pkl')") > 0
    True
    >>> [at.name for at in named_files(folder / "make.py")]
    ['digits.pkl']
    """
    nodes = [node for node in ast.walk(_parsed(file)) if isinstance(node, ast.Constant)]
    texts = {node.value for node in nodes if isinstance(node.value, str)}
    names = {
        text for text in texts if text.lower().endswith(MODELS) and "cache" not in text.lower()
    }
    if not names:
        return []
    places = [Path.cwd(), file.parent]
    words = [text for text in texts if 0 < len(text) < 200 and "\n" not in text]
    places += [
        Path(at, word) for at in places for word in words if _is(Path.is_dir, Path(at, word))
    ]
    found = {Path(at, name) for at in places for name in names}
    return sorted({at.resolve() for at in found if _is(Path.is_file, at)})


def _is(kind: Callable[[Path], bool], path: Path) -> bool:
    """Whether a path is of a kind; a text that is no path is of none."""
    try:
        return kind(path)
    except (OSError, ValueError):
        return False


def _is_near(path: Path, first: Path) -> bool:
    real = path.resolve()
    return any(real.is_relative_to(at) for at in (Path.cwd().resolve(), first.resolve().parent))


def _parsed(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def _imported(module: ModuleType, tree: ast.Module) -> Iterator[str]:
    """The names of modules that a module imports, and of the packages that they are in."""
    package = module.__package__ or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join([*(parts if node.level else []), *filter(None, [node.module])])
            names = [start, *(f"{start}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            steps = name.split(".")
            yield from (".".join(steps[:end]) for end in range(1, len(steps) + 1))


def _said(node: object) -> Iterator[str]:
    """A tree as texts: kinds of nodes and what they hold; what is empty is left out."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            held = _without_docstring(node, value) if name == "body" else value
            if held is None or held == [] or name in ("kind", "type_comment", "type_ignores"):
                continue
            yield name
            yield from _said(held)
        yield "end"
    elif isinstance(node, list):
        for each in node:
            yield from _said(each)
        yield "end"
    else:
        yield f"{type(node).__name__} {node!r}"


def _without_docstring(node: ast.AST, body: object) -> object:
    holder = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if not holder or not isinstance(body, list) or not body:
        return body
    first = body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if text and isinstance(first.value.value, str) else body
