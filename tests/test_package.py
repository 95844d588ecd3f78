"""What is shipped: wheel, sdist, what both say of the package, and what the source imports."""

import ast
import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}  # where they differ
THEIRS = {"pandas", "joblib"}  # the user's model needs them, or scikit-learn brings them


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()  # type: ignore[index]


@cache
def imported() -> tuple[tuple[str, str, bool], ...]:
    return tuple(look())


def look() -> Iterator[tuple[str, str, bool]]:
    """File, top-level package, and whether it is imported as soon as the file is."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        at_once = set(map(id, tree.body))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                yield str(file.relative_to(ROOT)), name.partition(".")[0], id(node) in at_once


def test_everything_that_is_imported_is_declared() -> None:
    core = {normal(name) for name in PROJECT["dependencies"]}
    extras = {normal(name) for some in EXTRAS.values() for name in some}
    for file, package, at_once in imported():
        if package in sys.stdlib_module_names or package == "db3kd" or package in THEIRS:
            continue
        name = normal(NAMES.get(package, package))
        assert name in core | extras, f"{file} imports {package}, which nothing declares"
        if at_once and not is_behind_a_late_import(file):
            assert name in core, f"{file} imports {package} at once, which is of an extra"


def is_behind_a_late_import(file: str) -> bool:
    """Files that are loaded only once their extra is known to be there."""
    return file.startswith(("src/db3kd/teachers/remote/", "src/db3kd/job/reporting/"))


def test_every_extra_is_used() -> None:
    """By the source; or by the tests, the site or the benchmarks, as their names say."""
    used = {normal(NAMES.get(package, package)) for _, package, _ in imported()}
    around = {"dev", "docs", "benchmarks"}
    unused = {
        name: packages
        for name, packages in EXTRAS.items()
        if name not in around and not used & {normal(one) for one in packages}
    }
    assert unused == {"tensorboard": ["tensorboard>=2.18"]}  # torch imports it


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh sdist and wheel."""
    pytest.importorskip("hatchling")
    pytest.importorskip("hatch_fancy_pypi_readme")
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def files(*folders: str) -> set[str]:
    """What lies in folders of the source, but for what Python and the tests leave there."""
    left = ("__pycache__", ".pytest_cache", ".hypothesis")
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(p.relative_to(ROOT)) for p in found if not set(p.parts) & set(left)}


def test_the_sdist_holds_all_that_its_tests_need(shipped: Path) -> None:
    (file,) = shipped.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files("src", "tests", "examples", "docs", "benchmarks")
    assert wanted - held == set()
    assert {"tests/conftest.py", "tests/servers/conftest.py", "tests/fixtures/make_runs.py"} <= held
    around = {"pyproject.toml", "Makefile", "constraints.txt", "mkdocs.yml", "mkdocs_hooks.py"}
    assert around | {"README.md", "CHANGELOG.md", "LICENSE", "Dockerfile", ".dockerignore"} <= held
    assert not [name for name in held if name.startswith((".venv", "runs/", "site/", ".github"))]


def test_the_wheel_holds_the_package_and_nothing_else(shipped: Path) -> None:
    (file,) = shipped.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        held = set(archive.namelist())
    assert {name for name in held if ".dist-info/" not in name} == {
        name.removeprefix("src/") for name in files("src/db3kd")
    }
    assert {"db3kd/py.typed", "db3kd/job/reporting/report.html.jinja"} <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_the_page_on_an_index_is_complete(shipped: Path) -> None:
    (file,) = shipped.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        told = email.message_from_bytes(archive.read(name))
    links = dict(line.split(", ", 1) for line in told.get_all("Project-URL", []))
    assert links.keys() >= {"Homepage", "Source", "Documentation", "Changelog", "Issues"}
    assert told["License-Expression"] == "Apache-2.0"
    text = str(told.get_payload())
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    assert [one for one in targets if not re.match(r"https?:|mailto:|#", one)] == []


def test_the_versions_of_python_are_those_that_are_tested() -> None:
    workflow = ROOT / ".github" / "workflows" / "test.yml"
    if not workflow.exists():
        pytest.skip("an sdist has no workflows")
    tested = re.search(r"python: (\[.*\])", workflow.read_text("utf-8"))
    assert tested is not None
    prefix = "Programming Language :: Python :: 3."
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert named == ast.literal_eval(tested[1])
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_the_container_copies_what_is_sent_to_its_builder() -> None:
    sent = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied: set[str] = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            copied |= set(words[1:-1])
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)
