"""What pages show is true: links and anchors, every command, recipe and piece of Python.

Commands are parsed by the command line and not run; recipes are read and checked; Python is
compiled, and its names and keywords are looked up. Slow tests run the Python (test_tutorial.py runs
all of the tutorial and of README). A block that cannot be checked has a comment before it:
`<!-- unchecked: why -->`.
"""

import ast
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import db3kd
from db3kd.cli.main import app
from db3kd.config.checks import contradictions
from db3kd.config.reading import PRESETS
from db3kd.config.recipe import Recipe

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
UNCHECKED = re.compile(r"<!-- unchecked: \S.*-->\s*$")
OTHERS = {"text", "diff"}  # what is printed, and changes of a file; the tutorial's are compared


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


class Block(NamedTuple):
    page: Path
    kind: str
    text: str
    line: int
    checked: bool


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        before = text[: found.start()]
        line = before.count("\n") + 1
        yield Block(page, found[2], found[3], line, UNCHECKED.search(before) is None)


BLOCKS = [block for page in PAGES for block in blocks(page)]


def of(*kinds: str) -> pytest.MarkDecorator:
    some = [block for block in BLOCKS if block.kind in kinds and block.checked]
    return pytest.mark.parametrize(
        "block", some, ids=lambda block: f"{name_of(block.page)}:{block.line}"
    )


def test_every_block_says_what_it_is() -> None:
    kinds = {"python", "sh", "console", "toml"}
    wrong = [f"{name_of(b.page)}:{b.line} {b.kind}" for b in BLOCKS if b.kind not in kinds | OTHERS]
    assert wrong == []
    assert kinds <= {block.kind for block in BLOCKS if block.checked}


# Links and anchors


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as servers of repositories and the site make them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        found[slug] = found.get(slug, 0) + 1
    twice = {f"{slug}-{number}" for slug, n in found.items() for number in range(1, n)}
    return {*found, *twice}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor[1:] in anchors(file), f"{name_of(page)} links to {target}{anchor}"


def test_the_site_shows_every_page_once() -> None:
    """Pages that the site makes itself are named in `mkdocs_hooks.PAGES`, or are of the API."""
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"([\w/.-]+\.md)$", nav, re.MULTILINE)
    assert len(named) == len(set(named))
    hooks = (ROOT / "mkdocs_hooks.py").read_text("utf-8")
    made = {
        "design/index.md",
        *re.findall(r'^    "[\w/]+\.md": "(\w+\.md)",$', hooks, re.MULTILINE),
    }
    docs = {str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*.md")}
    shown = {name for name in named if not name.startswith("api")}
    assert shown == docs - {"README.md"} | made


# Commands


def lines_of(block: Block) -> list[str]:
    text = block.text.replace("\\\n", " ")
    if block.kind == "console":  # what follows no prompt was printed
        text = "\n".join(re.findall(r"^\$ (.*)$", text, re.MULTILINE))
    return [line for line in text.splitlines() if shlex.split(line, comments=True)]


@of("sh", "console")
def test_commands_are_such_that_the_program_takes(block: Block) -> None:
    for line in lines_of(block):
        for words in simple(shlex.split(line, comments=True)):
            check_command(words)


def simple(words: list[str]) -> Iterator[list[str]]:
    """The single commands of a line, without the variables that are set for them."""
    at = 0
    for end in [*(i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words)]:
        some = words[at:end]
        while some and re.match(r"\w+=", some[0]):
            some = some[1:]
        yield some
        at = end + 1


def check_command(words: list[str]) -> None:
    first = words[0].removeprefix(".venv/bin/")
    if first == "db3kd":
        app.parse_args(words[1:], exit_on_error=False, print_error=False)
    elif first == "make":
        targets = re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), words
    elif "install" in words:
        extras = re.findall(r"\[([\w,]+)\]", " ".join(words))
        assert {extra for some in extras for extra in some.split(",")} <= EXTRAS, words
    elif first in ("python", "python3") and not words[1].startswith("-"):
        assert (ROOT / words[1]).is_file(), words
    else:
        known = {"python3", "export", ".", "cd", "tensorboard", "wandb", "mlflow", "pip", "git"}
        assert first in known | {"uv", "uvx", "docker"}, words


EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
)


# Recipes

BASE: dict[str, Any] = {
    "run": "runs/a",
    "data": {"train": "mnist"},
    "teacher": {"kind": "onnx", "file": "teacher.onnx"},
    "student": {"network": "lenet5"},
}


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The tables of a page's example, put into those of a whole recipe."""
    found = {**first, **second}
    for key in first.keys() & second.keys():
        if isinstance(first[key], dict) and isinstance(second[key], dict):
            found[key] = merged(first[key], second[key])
    return found


@of("toml")
def test_recipes_can_be_read_and_have_no_contradictions(block: Block) -> None:
    """What a page shows of one is put into a whole one."""
    shown = tomllib.loads(block.text)
    values = merged(base_for(shown), shown)
    recipe = msgspec.convert(without_presets(values), Recipe)
    assert [text for _, text in contradictions(recipe)] == []


@of("toml")
def test_keys_that_are_commented_out_are_known(block: Block) -> None:
    shown = tomllib.loads(re.sub(r"(?m)^# (\w+ = )", r"\1", block.text))
    msgspec.convert(without_presets(merged(base_for(shown), shown)), Recipe)


def base_for(shown: dict[str, Any]) -> dict[str, Any]:
    """What a page leaves out, which depends on what it shows."""
    base = {name: dict(v) if isinstance(v, dict) else v for name, v in BASE.items()}
    if "remote" in shown.get("teacher", {}):
        base["teacher"] = {"kind": "remote", "classes": 10}
    elif "kind" in shown.get("teacher", {}):
        base["teacher"] = {}
    if "factory" in shown.get("student", {}) or "timm" in shown.get("student", {}):
        base["student"] = {}
    if "synthesis" in shown or "train" not in shown.get("data", {"train": ""}):
        base["data"] = {} if "data" in shown else {"size": 8, "channels": 1}
        base["student"] = {**base["student"], "methods": ["pseudo"]}
    return base


def without_presets(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that presets stand for."""
    for path, presets in PRESETS.items():
        *around, last = path
        table = values
        for name in around:
            table = table.get(name, {})
        preset = table.get(last, {}).get("preset") if isinstance(table.get(last), dict) else None
        if preset is not None:
            rest = {k: v for k, v in table[last].items() if k != "preset"}
            table[last] = merged(dict(presets.get(preset, {})), rest)
    return values


# Python


@of("python")
def test_python_compiles_and_names_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text)
    known = dict(imports(tree))
    for node in ast.walk(tree):
        found = looked_up(node, known)
        if isinstance(node, ast.Call):
            check_keywords(node, looked_up(node.func, known))
        assert found is not MISSING, f"{ast.unparse(node)} at line {block.line}"


MISSING = object()


def imports(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """What a block imports from the package; the package itself, as pages may say it before."""
    yield "db3kd", db3kd
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("db3kd"):
            module = import_module(str(node.module))
            for alias in node.names:
                yield alias.asname or alias.name, getattr(module, alias.name)


def looked_up(node: ast.AST, known: dict[str, Any]) -> Any:
    """What a dotted name stands for: None if it is not the package's, MISSING if it is wrong."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        inside = looked_up(node.value, known)
        if inspect.ismodule(inside) and not hasattr(inside, node.attr):
            try:
                return import_module(f"{inside.__name__}.{node.attr}")
            except ImportError:
                return MISSING
        if inspect.ismodule(inside):
            return getattr(inside, node.attr)
    return None


def check_keywords(call: ast.Call, called: Any) -> None:
    if called is None or called is MISSING:
        return
    parameters = inspect.signature(called).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
    assert given <= parameters.keys(), f"{ast.unparse(call.func)} takes no {given}"


def test_the_checks_find_what_they_should() -> None:
    page = ROOT / "docs" / "none.md"
    for kind, text, check in (
        ("python", "db3kd.no_such_name(1)", test_python_compiles_and_names_what_there_is),
        ("python", "db3kd.Budget(question=1)", test_python_compiles_and_names_what_there_is),
        ("toml", "[budget]\nquestions = 1", test_recipes_can_be_read_and_have_no_contradictions),
        ("toml", "# spend = { nothing = 1 }", test_keys_that_are_commented_out_are_known),
        ("sh", "db3kd run a.toml --nonsense", test_commands_are_such_that_the_program_takes),
        ("sh", "pip install 'db3kd[nonsense]'", test_commands_are_such_that_the_program_takes),
        ("console", "$ make nonsense", test_commands_are_such_that_the_program_takes),
    ):
        with pytest.raises(Exception, match=r"no|No|make|install"):
            check(Block(page, kind, text, 1, True))
