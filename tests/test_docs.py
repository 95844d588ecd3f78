"""The pages that are made from the program are what the program says; links lead somewhere.

`make docs` writes docs/cli.md, docs/recipe.md, and the floors in CONTRIBUTING.md.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from db3kd.config.recipe import Recipe
from recipe_page import page as recipe_page
from test_imports import picture

ROOT = Path(__file__).parent.parent
VERBS = (
    "init",
    "run",
    "label",
    "grow",
    "synthesize",
    "distill",
    "evaluate",
    "audit",
    "check",
    "answers",
    "status",
    "report",
    "predict",
    "export",
)


def said(*words: str) -> str:
    """What the command line says, 100 columns wide, without colour."""
    found = subprocess.run(
        [sys.executable, "-m", "db3kd", *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
    )
    return "\n".join(line.rstrip() for line in found.stdout.splitlines()).strip()


def page() -> str:
    parts = [f"## db3kd {verb}\n\n```text\n{said(verb, '--help')}\n```\n" for verb in VERBS]
    head = "# The command line\n\nMade by `make docs` from `db3kd --help`.\n"
    return "\n".join([head, f"```text\n{said('--help')}\n```\n", *parts])


def test_the_command_line_page_is_up_to_date():
    assert (ROOT / "docs" / "cli.md").read_text() == page(), "run `make docs`"


def test_the_page_on_recipes_is_up_to_date():
    assert (ROOT / "docs" / "recipe.md").read_text("utf-8") == recipe_page(), "run `make docs`"


def contributing() -> str:
    """CONTRIBUTING.md with the floors as they are."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    begin, end = "<!-- floors, by `make docs` -->\n", "<!-- end of floors -->\n"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n```text\n{picture()}\n```\n\n{end}{after}"


def test_the_floors_in_contributing_are_up_to_date():
    assert (ROOT / "CONTRIBUTING.md").read_text() == contributing(), "run `make docs`"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    assert f"Usage: db3kd {verb}" in said(verb, "--help")


@pytest.mark.parametrize(
    "file", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", file.read_text()):
        assert (file.parent / target).exists(), f"{file.name} links to {target}"


BASE = {
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


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_recipes_in_pages_have_keys_that_are_known(file):
    """Also those that are commented out, as `# key = value`."""
    for block in re.findall(r"```toml\n(.*?)```", file.read_text(), flags=re.DOTALL):
        plain = re.sub(r"(?m)^# (\w+ = )", r"\1", block)
        values = merged(BASE, tomllib.loads(plain))
        tables = (
            values.get("label", {}),
            values.get("synthesis", {}).get("ascent", {}),
            values["student"].get("training", {}),
        )
        for table in tables:
            assert table.pop("preset", "paper") in ("paper", "default")
        msgspec.convert(values, Recipe)


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(page())
    (ROOT / "docs" / "recipe.md").write_text(recipe_page(), "utf-8")
    (ROOT / "CONTRIBUTING.md").write_text(contributing())
