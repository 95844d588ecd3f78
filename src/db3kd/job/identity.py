"""What the teacher of a recipe is known by: its files, its code, and what it says of itself."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from db3kd.config.recipe import Recipe, TeacherConfig
from db3kd.data.digest import combined
from db3kd.job.reading import Opened
from db3kd.job.sources import digest_of_code, named_files, own_modules
from db3kd.teachers.base import Teacher, identity_of
from db3kd.teachers.onnx import onnx_parts

Digest = Callable[[Path], str]
"""Gives the digest of a file's bytes."""


def identity(recipe: Recipe, made: Teacher, opened: Opened, digest: Digest) -> dict[str, str]:
    """A digest for each part of a recipe's teacher, which was made while `opened` listened.

    - "onnx": the file, and the files beside it that hold its weights.
    - "network": the file of its weights, which is there once it is trained.
    - "function", "torch", "sklearn": the user's own code, the files that the factory read, and what
      it made, as far as that can be told.
    - "remote": what the service says of its model.

    Costs no query.

    Raises:
        InputError: a file cannot be read.
    """
    wanted = recipe.teacher
    if wanted.kind == "onnx":
        return onnx_parts(Path(str(wanted.file)), digest)
    if wanted.kind == "network":
        path = Path(str(wanted.weights))
        return {f"file {path.name}": digest(path)}
    if wanted.kind == "remote":
        return dict(getattr(made, "told", {}))
    return {**_of_factory(wanted, opened, digest), **identity_of(made)}


def _of_factory(wanted: TeacherConfig, opened: Opened, digest: Digest) -> dict[str, str]:
    """The code behind a factory by module, and the files that it read, names or was given."""
    modules = own_modules(str(wanted.factory).partition(":")[0])
    parts = {f"code of {module}": digest_of_code(path) for module, path in modules.items()}
    named = {at for path in modules.values() for at in named_files(path)}
    named |= {at.resolve() for at in _files(wanted.arguments.values())}
    read = {path.resolve() for path in opened.data}
    written = {Path(at).resolve() for at in opened.written}
    by_name: dict[str, list[str]] = {}
    for path in sorted((read | named) - written):
        by_name.setdefault(path.name, []).append(digest(path))
    return parts | {
        f"file {name}": some[0] if len(some) == 1 else combined("files", sorted(some))
        for name, some in by_name.items()
    }


def _files(values: Iterable[object]) -> Iterator[Path]:
    """Those of some values that are paths of files."""
    for value in values:
        with suppress(OSError, ValueError):  # a text that can be no path
            if isinstance(value, str) and Path(value).is_file():
                yield Path(value)
