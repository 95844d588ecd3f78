"""What the documentation site needs besides docs/: other pages, files they link to, the API.

The pages in docs/ stay plain files with links that work on any server of repositories. Here README,
the changelog and the like become pages of the site too, and links between all of them are changed
to match. A file that a page links to, such as a result in JSON, comes along.
"""

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent
SOURCE = ROOT / "src" / "db3kd"
PAGES = {
    "README.md": "index.md",
    "docs/README.md": "pages.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
ROOMS = {
    "run": "The run",
    "job": "Recipes at work, scikit-learn, trackers",
    "config": "Settings and recipes",
    "data": "Data",
    "teachers": "Teachers",
    "student": "Students",
    "search": "Distances",
    "stages": "What a run leaves",
    "progress": "Progress",
    "errors": "Errors",
}
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)(\[[^\]]*\])\(([^)\s#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is not in docs/, and everything that a page links to."""
    files.remove(files.src_uris["README.md"])
    for path, uri in PAGES.items():
        files.append(_made(config, uri, (ROOT / path).read_text("utf-8")))
    for uri, text in {"design/index.md": _notes(), **_api()}.items():
        files.append(_made(config, uri, text))
    for file in list(files.documentation_pages()):
        for path in _linked(_home(file.src_uri), file.content_string):
            uri = _uri(path)
            if uri is not None and uri not in files.src_uris:
                files.append(_made(config, uri, (ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Lead every link to where its target is in the site."""
    home = _home(page.file.src_uri)

    def led(link: re.Match[str]) -> str:
        sign, text, target, anchor = link.groups("")
        path = _path(home, target)
        if path is None:
            return link[0]
        uri = _uri(path)
        if uri is None:
            return text[1:-1]  # a folder has no page
        start = posixpath.dirname(page.file.src_uri) or "."
        return f"{sign}{text}({posixpath.relpath(uri, start)}{anchor})"

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(led, part) for part in parts[::2]]
    return "".join(parts)


def _made(config: MkDocsConfig, uri: str, content: str | bytes) -> File:
    return File.generated(config, uri, content=content)


def _home(uri: str) -> str:
    """Where a page of the site lies in the repository."""
    return next((path for path, other in PAGES.items() if other == uri), f"docs/{uri}")


def _uri(path: str) -> str | None:
    """Where a file of the repository is in the site; None for a folder."""
    if path in PAGES:
        return PAGES[path]
    if path == "docs/design":
        return "design/index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path}" if (ROOT / path).is_file() else None


def _path(home: str, target: str) -> str | None:
    """The target of a link from a page, in the repository; None for an address elsewhere."""
    if re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), target))


def _linked(home: str, text: str) -> Iterator[str]:
    for part in FENCE.split(text)[::2]:
        for link in LINK.finditer(part):
            path = _path(home, link[3])
            if path is not None and not path.startswith("docs/") and (ROOT / path).is_file():
                yield path


def _notes() -> str:
    lines = ["# Design notes", "", "Why things are as they are, newest first.", ""]
    for file in sorted((ROOT / "docs" / "design").glob("*.md"), reverse=True):
        title = file.read_text("utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- {file.name[:10]}: [{title}]({file.name})")
    return "\n".join(lines) + "\n"


# The API: every public name of the package, a page for each room that holds some.


def _api() -> dict[str, str]:
    tree = ast.parse((SOURCE / "__init__.py").read_text("utf-8"))
    homes, modules = _dictionary(tree, "_HOME"), _dictionary(tree, "_MODULES")
    named: dict[str, list[str]] = {room: [] for room in ROOMS}
    for name, home in sorted(homes.items()):
        named[home.partition(".")[0]].append(_entry(f"db3kd.{name}", f"{home}.{name}"))
    for name, home in sorted(modules.items()):
        room = home.partition(".")[0]
        others = [other for other in _public(home) if other not in homes]
        if any(other in modules.values() and other != home for other in (name,)):
            continue
        named[room].append(f"## db3kd.{name}\n\n{_first_words(home)}\n")
        named[room] += [_entry(f"db3kd.{name}.{one}", f"{home}.{one}", 3) for one in others]
    pages = {
        f"api/{room}.md": f"# {title}\n\n" + "\n".join(named[room])
        for room, title in ROOMS.items()
        if named[room]
    }
    rows = [f"- [{ROOMS[room]}](api/{room}.md)" for room in ROOMS if named[room]]
    head = "# The public names\n\nEverything that `import db3kd` gives, by the room it lives in.\n"
    return {**pages, "api.md": "\n".join([head, *rows, ""])}


def _entry(title: str, home: str, level: int = 2) -> str:
    options = f"    options:\n      heading: {title}\n      heading_level: {level}\n"
    return f"::: db3kd.{home}\n{options}"


def _dictionary(tree: ast.Module, name: str) -> dict[str, str]:
    """A table of the package, read without importing anything."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise KeyError(name)


def _module(home: str) -> ast.Module:
    path = SOURCE.joinpath(*home.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text("utf-8"))


def _public(home: str) -> list[str]:
    """The public functions and classes of a module, in its order."""
    tree = _module(home)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    made = (ast.FunctionDef, ast.ClassDef)
    return [n.name for n in tree.body if isinstance(n, made) and not n.name.startswith("_")]


def _first_words(home: str) -> str:
    return (ast.get_docstring(_module(home)) or "").partition("\n\n")[0]


class Examples(griffe.Extension):
    """Shows the examples of docstrings as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence every example of a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _fenced(obj.docstring.value)


def _fenced(text: str) -> str:
    blocks = re.split(r"\n{2,}", text)
    shown = [f"```pycon\n{one}\n```" if one.lstrip().startswith(">>>") else one for one in blocks]
    return "\n\n".join(shown)
