"""The outermost door: whatever happens, one sentence and an exit code that says so."""

import base64
import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import Sandbox, make_sandbox
from db3kd.cli.door import MOST_LINES, Work, cleaned, fault
from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
from db3kd.config.secrets import bytes_without_secrets, secrets_of, without_secrets
from db3kd.data import TensorImages
from db3kd.errors import Damaged, InputError, TeacherError, described, plain
from db3kd.job.adapters import make_teacher
from db3kd.stages.accounts import status
from db3kd.storage.layout import numbered
from db3kd.student.devices import usable_device
from db3kd.student.networks import build, check_network
from db3kd.teachers import function

POSIX = pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX closes the streams")
SECRET = 'pa/ss+wo"rd=\\<7'


class Odd(BaseException):
    """An error of a user's code that is no Exception."""


class Evil(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a text")


# Foreign text


def test_foreign_text_is_one_clean_line() -> None:
    text = plain("\x1b[2J\x1b]0;title\x07 first\nsecond\x9b \u202e\ud800 \x00")
    assert text == "first second\\x9b \\u202e\\ud800 \\x00"
    assert plain(text) == text
    assert len(plain("x" * 10**7)) == 300
    assert plain(Evil()) == ""
    assert described(Evil()) == "Evil"


def test_a_message_has_few_lines() -> None:
    lines = cleaned("\n".join(map(str, range(10**5)))).split("\n")
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == "... and 99,970 lines more"


# Code of a user's teacher


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(), Odd("x"), GeneratorExit(), Evil()])
def test_a_teacher_cannot_leave(error: BaseException) -> None:
    def ask(images: torch.Tensor) -> None:
        raise error

    with pytest.raises(TeacherError, match=f"failed on .*{type(error).__name__}"):
        function(ask, classes=2).labels(torch.zeros(1, 1, 2, 2))


def test_an_interrupt_passes() -> None:
    def ask(images: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        function(ask, classes=2).labels(torch.zeros(1, 1, 2, 2))


class Answers:
    """Answers that leave while they are looked at."""

    def __array__(self, *_: Any, **__: Any) -> None:
        raise SystemExit(0)

    def __len__(self) -> int:
        raise SystemExit(0)


def test_answers_cannot_leave_either() -> None:
    with pytest.raises(TeacherError):
        function(lambda images: Answers(), classes=2).labels(torch.zeros(1, 1, 2, 2))
    with pytest.raises(TeacherError, match="whole numbers"):
        function(lambda images: [2**80], classes=2).labels(torch.zeros(1, 1, 2, 2))


FACTORIES = """
import sys
def leaves(): sys.exit(0)
def stops(): raise GeneratorExit
def colours(): raise ValueError("\\x1b[2J red" + "!" * 10_000_000)
def five(): return 5
class Model:
    @property
    def classes_(self): sys.exit(0)
    def predict(self, images): return images
"""


@pytest.mark.parametrize(
    ("factory", "kind", "words"),
    [
        ("leaves", "function", "failed: SystemExit: 0"),
        ("stops", "torch", "failed: GeneratorExit"),
        ("colours", "function", "failed: ValueError: red!"),
        ("five", "function", "made a int; a function"),
        ("five", "torch", "made a int; a torch module"),
        ("five", "sklearn", "not a fitted classifier"),
        ("Model", "sklearn", "cannot be used as a 'sklearn' teacher: SystemExit: 0"),
    ],
)
def test_factories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str, kind: Any, words: str
) -> None:
    (tmp_path / "door_factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "door_factories", raising=False)
    recipe = Recipe(
        run="r",
        data=DataConfig(train="d"),
        teacher=TeacherConfig(kind=kind, factory=f"door_factories:{factory}"),
        student=StudentConfig(network="small"),
    )
    from db3kd.data import DataSet

    images = DataSet(TensorImages(torch.zeros(2, 1, 8, 8)), torch.tensor([0, 1]), ("cat", "dog"))
    with pytest.raises(InputError) as refused:
        make_teacher(recipe, images)
    assert words in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


# Secrets

SPELLINGS = {
    "plain": SECRET,
    "JSON": json.dumps(SECRET)[1:-1],
    "JSON in JSON": json.dumps(json.dumps(SECRET)),
    "JSON with escaped slashes": json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    "JSON in ASCII alone": "".join(f"\\u{ord(sign):04X}" for sign in SECRET),
    "repr": repr(SECRET),
    "repr of bytes": repr(SECRET.encode()),
    "percent codes": urllib.parse.quote(SECRET, safe=""),
    "percent codes, lower case": "".join(f"%{ord(sign):02x}" for sign in SECRET),
    "percent codes twice": urllib.parse.quote(urllib.parse.quote(SECRET, safe="")),
    "a form": urllib.parse.quote_plus(SECRET),
    "HTML": SECRET.replace("<", "&lt;").replace('"', "&quot;"),
    "hexadecimal": SECRET.encode().hex().upper(),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 for addresses": base64.urlsafe_b64encode(SECRET.encode()).decode(),
    "basic authentication": base64.b64encode(f"me:{SECRET}".encode()).decode(),
    "base64 in an address": urllib.parse.quote(base64.b64encode(f"m:{SECRET}".encode()), safe=""),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_is_hidden_in_every_spelling(spelling: str) -> None:
    text = f"before {SPELLINGS[spelling]} after"
    found = without_secrets(text, (SECRET,))
    assert found.startswith("before ")
    assert found.endswith(" after")
    assert "***" in found
    assert len(found) <= len("before *** after") + 12  # quotes, "me:", ends of base64
    assert bytes_without_secrets(text.encode(), (SECRET,)) == found.encode()


def test_only_what_is_secret_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONE", "1")
    monkeypatch.setenv("KEY", "fedcba")
    monkeypatch.setenv("LONGER", "fedcba99")
    secrets = secrets_of(["${ZONE} ${KEY}", "x ${LONGER} ${NO_SUCH}"])
    assert secrets == ("fedcba99", "fedcba")
    body = bytes(range(256)) + b'{"predictions": [1, 11]}'
    assert bytes_without_secrets(body, secrets) == body
    assert without_secrets("fedcba99", secrets) == "***"


# The log file


def test_the_traceback_is_kept_in_the_run(tmp_path: Path) -> None:
    try:
        raise ValueError(f"\x1b[2J told {SECRET}\nnext")
    except ValueError as error:
        words = fault(error, Work(tmp_path, (SECRET,)))
    log = (tmp_path / "error.log").read_text()
    assert str(tmp_path / "error.log") in words
    assert "Traceback (most recent call last)" in log
    assert "test_door.py" in log
    assert "ValueError: told ***\nnext" in log
    assert "pa/ss" not in log
    assert "\x1b" not in log


def test_elsewhere_if_there_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (None, tmp_path / "nowhere", Path("a\0b")):
        assert fault(MemoryError(), Work(folder)).endswith("is in db3kd-error.log")
        (tmp_path / "db3kd-error.log").unlink()
    assert "too little memory" in fault(MemoryError(), Work())


# The console


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Sandbox:
    """A folder with the journal of a run that has begun."""
    made = make_sandbox(tmp_path_factory.mktemp("door") / "begun", digits)
    from db3kd.run import Run

    Run(made.run, function(lambda images: [0] * len(images), classes=2)).close()
    return made


def shell(sandbox: Sandbox, text: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command by way of a shell, which redirects its streams."""
    return subprocess.run(
        ["sh", "-c", text, "sh", sys.executable, "-m", "db3kd", *words],
        cwd=sandbox.folder,
        capture_output=True,
        text=True,
        check=False,
    )


@POSIX
def test_output_that_nobody_takes(begun: Sandbox) -> None:
    if Path("/dev/full").exists():
        said = shell(begun, 'exec "$@" >/dev/full', "status", "run")
        full = "db3kd: standard output cannot be written (No space left on device)\n"
        assert (said.returncode, said.stderr) == (1, full)
        assert shell(begun, 'exec "$@" 2>/dev/full', "status", "run").returncode == 0
    said = shell(begun, 'exec "$@" >&-', "status", "run")
    assert said.returncode == 1
    assert "standard output cannot be written" in said.stderr
    said = shell(begun, 'exec "$@" <&- 2>&-', "status", "run")
    assert (said.returncode, said.stdout.partition("\n")[0]) == (0, "run: answers")
    said = shell(begun, 'exec "$@" <&- 2>&- >&-', "status", "nowhere")
    assert said.returncode == 1


@POSIX
@pytest.mark.parametrize("words", [("status", "run"), ("--help",)])
def test_a_pipe_that_ended(begun: Sandbox, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        said = subprocess.run(
            [sys.executable, "-m", "db3kd", *words],
            cwd=begun.folder,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (said.returncode, said.stderr) == (141, b"")


def test_a_terminal_that_shows_ascii_only(begun: Sandbox) -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    said = subprocess.run(
        [sys.executable, "-m", "db3kd", "status", "\u00e9t\u00e9"],
        cwd=begun.folder,
        env=ascii_only,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 1
    assert said.stderr == "db3kd: there is no run in \\xe9t\\xe9\n"


def test_a_terminal_of_one_column(begun: Sandbox) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "db3kd", "run", "--help"],
        cwd=begun.folder,
        env={**os.environ, "COLUMNS": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert "Usage" in said.stdout


# Folders and files


def test_other_files_in_a_stage_are_left_alone(begun: Sandbox, tmp_path: Path) -> None:
    for name in (
        "foo.tape",
        "0x.tape",
        "-0001.tape",
        "00000.tape.bak",
        "\u0661\u0661\u0661\u0661\u0661.tape",
    ):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "00002.tape").write_bytes(b"")
    assert [number for number, _ in numbered(tmp_path, ".tape")] == [2]
    stage = begun.run / "answers"
    stage.mkdir()
    (stage / "foo.tape").write_bytes(b"x")
    assert status(begun.run)["queries"]["spent"] == 0
    (stage / "foo.tape").unlink()
    stage.rmdir()


def test_files_and_folders_in_each_others_place(begun: Sandbox, tmp_path: Path) -> None:
    stage = begun.run / "answers"
    stage.write_text("a file")
    with pytest.raises(Damaged, match="answers is not a folder"):
        status(begun.run)
    stage.unlink()
    (stage / "00000.tape").mkdir(parents=True)
    with pytest.raises(Damaged, match=r"00000\.tape is not a file"):
        status(begun.run)
    (stage / "00000.tape").rmdir()
    if os.name == "posix":
        (stage / "00000.tape").symlink_to("00000.tape")
        with pytest.raises(Damaged, match=r"00000\.tape is not a file"):
            status(begun.run)
        (stage / "00000.tape").unlink()
    stage.rmdir()
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(Damaged, match=r"journal\.jsonl is not a file"):
        status(tmp_path)


@pytest.mark.parametrize("folder", ["a\0b", "x" * 5000])
def test_a_folder_that_cannot_be(folder: str) -> None:
    with pytest.raises(InputError, match=r"cannot be read|there is no run"):
        status(folder)


# Devices and networks


@pytest.mark.parametrize(
    "device", ["meta", "mkldnn", "cuda:99", "cuda:99999999999999999999", "nonsense", "fpga", "a\0"]
)
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(InputError, match="cannot be used here") as refused:
        usable_device(device)
    assert len(str(refused.value)) < 250
    usable_device("cpu")


@pytest.mark.parametrize("width", [1e5, 1e308, float("inf"), float("nan"), 0.0, -1.0])
@pytest.mark.parametrize("name", ["small", "alexnet", "resnet50"])
def test_a_width_that_cannot_be(name: str, width: float) -> None:
    with pytest.raises(InputError, match="width must be a number above 0"):
        build(name, (3, 32, 32), 10, width, seed=0)


def test_a_network_that_no_memory_holds() -> None:
    for width, shape, classes in ((500.0, (3, 32, 32), 10), (1.0, (1, 8192, 8192), 10)):
        with pytest.raises(InputError, match="weights for images of"):
            check_network("alexnet" if width > 1 else "lenet5", shape, classes, width)
    with pytest.raises(InputError, match="weights"):
        build("small", (1, 8, 8), 10**9, seed=0)
