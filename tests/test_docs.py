"""The pages that are made from the program are what the program says.

`make docs` writes docs/cli.md, docs/recipe.md, and the floors in CONTRIBUTING.md.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


if __name__ == "__main__":
    (ROOT / "docs" / "cli.md").write_text(page())
    (ROOT / "docs" / "recipe.md").write_text(recipe_page(), "utf-8")
    (ROOT / "CONTRIBUTING.md").write_text(contributing())
