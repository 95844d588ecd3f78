"""The import order of the house: a file imports only from rooms above it."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import db3kd

ROOMS = (
    "errors",
    "progress",
    "seeds",
    "config",
    "storage",
    "data",
    "teachers",
    "student",
    "search",
    "synthesis",
    "stages",
    "run",
    "job",
    "paper",
    "cli",
    "__main__",
)
HOUSE = Path(str(db3kd.__file__)).parent
FILES = sorted(file for file in HOUSE.rglob("*.py") if file != HOUSE / "__init__.py")
LATE = (
    "pyarrow",
    "PIL",
    "sklearn",
    "onnxruntime",
    "huggingface_hub",
    "onnx",
    "matplotlib",
    "jinja2",
    "pandas",
    "httpx2",
    "pyrate_limiter",
    "tenacity",
    "tensorboard",
    "mlflow",
    "wandb",
    "ray",
    "lightning_fabric",
)


def room(file: Path) -> str:
    first = file.relative_to(HOUSE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(source: str) -> Iterator[tuple[int, str]]:
    """Line and room of every import from the house, at the top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                yield node.lineno, "." * node.level + module
            elif module == "db3kd":  # from db3kd import room
                for alias in node.names:
                    yield node.lineno, alias.name
            elif module.startswith("db3kd."):
                yield node.lineno, module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "db3kd" or alias.name.startswith("db3kd."):
                    yield node.lineno, [*alias.name.split("."), "the package itself"][1]


def wrong_imports(own: str, source: str) -> list[str]:
    above = ROOMS[: ROOMS.index(own)]
    return [
        f"line {line} imports {name}"
        for line, name in imported_rooms(source)
        if name != own and name not in above
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_a_file_imports_only_from_rooms_above_it(file: Path) -> None:
    assert room(file) in ROOMS, f"{room(file)} has no place in the order of rooms yet"
    assert wrong_imports(room(file), file.read_text()) == []


def test_the_rule_catches_what_it_should() -> None:
    for source in (
        "from db3kd.stages import table",
        "import db3kd.stages",
        "import db3kd",
        "from db3kd import stages",
        "from . import student",
        "from .errors import InputError",
        "def late():\n    from db3kd.run import Run",
        "from db3kd.no_such_room import x",
    ):
        assert len(wrong_imports("search", source)) == 1, source
    for source in (
        "from db3kd.teachers import base",
        "from db3kd.teachers.base import Teacher",
        "import db3kd.errors",
        "from db3kd import errors",
        "import torch",
        "from db3kd_other import x",
        "from db3kd.search.robustness import part",  # a package's own files
    ):
        assert wrong_imports("search", source) == [], source


ABOUT = {
    "errors": "the tree of exceptions, drawn at the top of the file",
    "progress": "how long work tells its caller",
    "seeds": "one seed from several words",
    "config": "settings, methods, recipes: what a user may choose",
    "storage": "files, shards, the journal, the tape of a shard in progress",
    "data": "images on demand, their digests, the transfer set",
    "teachers": "the protocol, the meter, one file for each kind of real teacher",
    "student": "networks, soft labels, loss, training, evaluation, files",
    "search": "distances: boundary, descent, rows, joint search",
    "synthesis": "new images: augmentation, acquisition, priors, ascent, rivals",
    "stages": "what a run does, one stage a file; table, workspace, accounts",
    "run": "Run: the public door to the stages",
    "job": "a recipe made to happen: teacher, plan, session, report",
    "cli": "verbs: parse, call one function, print, exit code",
    "paper": "the paper's tables, a customer of the public names",
}


def floors() -> dict[str, int]:
    """The floor of every room: it stands above all that it imports; floor 1 is the ground."""
    found: dict[str, int] = {}
    for name in ROOMS:
        files = [file for file in FILES if room(file) == name]
        below = {other for file in files for _, other in imported_rooms(file.read_text())}
        found[name] = 1 + max((found[other] for other in below - {name}), default=0)
    return found


def picture() -> str:
    """The floors, the top one first, as CONTRIBUTING shows them."""
    known = floors()
    lines = [
        f"{known[name]:>2}  {name:<10} {about}"
        for name, about in sorted(ABOUT.items(), key=lambda row: -known[row[0]])
    ]
    return "\n".join(lines)


def test_every_room_is_in_the_picture() -> None:
    assert set(ABOUT) == set(ROOMS) - {"__main__"}
    # Students are trained in the form that teachers are asked in; a verb makes the paper's tables.
    assert max(floors().values()) <= 12


def loaded_by(*modules: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these modules."""
    program = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "name", ["errors", "config.settings", "config.reading", "stages.accounts", "cli.main"]
)
def test_light_rooms_start_without_torch(name: str) -> None:
    heavy = {"torch", "numpy", *LATE}
    assert loaded_by(f"db3kd.{name}") & heavy == set()


FOLDERS = Path(__file__).parent / "fixtures" / "folders"
LIGHT = {
    "help": (["--help"], 0),
    "version": (["--version"], 0),
    "help of a command": (["run", "--help"], 0),
    "status": (["status", str(FOLDERS / "remote" / "run")], 0),
    "status of distances": (["status", "--json", str(FOLDERS / "together" / "run")], 0),
    "status of pseudo samples": (["status", str(FOLDERS / "without_data" / "run")], 0),
    "status of an ascent": (["status", str(FOLDERS / "ascent" / "run")], 0),
    "status of a broken folder": (["status", "broken"], 1),
    "status of no folder": (["status", "nothing"], 1),
    "init": (["init"], 0),
    "completion": (["--install-completion", "--shell", "bash", "-o", "script"], 0),
    "a recipe that is not there": (["run", "nothing.toml"], 2),
    "a wrong option": (["run", "nothing.toml", "--nonsense"], 2),
}


@pytest.mark.parametrize("name", LIGHT)
def test_light_commands_need_no_torch(name: str, tmp_path: Path) -> None:
    arguments, code = LIGHT[name]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "journal.jsonl").write_text("{this is no journal\n{nor this\n")
    program = (
        "import sys\nfrom db3kd.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    print('ended with', end.code, file=sys.stderr)\n"
        "print('loaded', *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    *_, ended, loaded = done.stderr.splitlines()
    assert ended == f"ended with {code}", done.stderr
    assert set(loaded.split()) & {"torch", "numpy", *LATE} == set()
    assert done.stdout or code


def test_the_house_stays_easy_to_survey() -> None:
    """Few doors at the top, and no room in which one gets lost."""
    entries = {path.name for path in HOUSE.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 18, entries
    assert entries - {"__init__.py", "py.typed"} == {
        name if (HOUSE / name).is_dir() else f"{name}.py" for name in ROOMS
    }
    long = {str(file): len(file.read_text().splitlines()) for file in FILES}
    assert {file: lines for file, lines in long.items() if lines > 500} == {}


def test_optional_libraries_are_imported_late() -> None:
    present = [r for r in ROOMS if importlib.util.find_spec(f"db3kd.{r}") and r != "__main__"]
    assert len(present) > 10
    assert loaded_by(*(f"db3kd.{r}" for r in present)) & set(LATE) == set()
