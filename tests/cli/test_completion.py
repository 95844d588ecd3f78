"""Completion as a shell sees it, and recipes that are nearly named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from db3kd.cli.completion import install
from db3kd.cli.main import app
from db3kd.errors import InputError, RunError

BASH = shutil.which("bash")


def completed(script: Path, folder: Path, *words: str) -> set[str]:
    """What bash offers after these words; the last one is what is being typed."""
    program = """
        . "$1"; shift
        complete -p db3kd >/dev/null || exit 3
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _db3kd
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        [str(BASH), "--norc", "-c", program, "bash", str(script), "db3kd", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_completes_commands_options_and_recipes(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    install(app, "bash", script)
    for name in ("mnist.toml", "mnist_zero.toml", "other.toml"):
        (tmp_path / name).write_text("")
    assert completed(script, tmp_path, "") >= {"run", "label", "check", "status"}
    assert completed(script, tmp_path, "ch") == {"check"}
    assert completed(script, tmp_path, "run", "--qui") == {"--quick", "--quiet"}
    assert completed(script, tmp_path, "run", "mni") == {"mnist.toml", "mnist_zero.toml"}
    assert completed(script, tmp_path, "run", "-q", "oth") == {"other.toml"}


def test_installing_says_where_and_what_is_left_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "db3kd", "--install-completion", "--shell", "bash"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    script = tmp_path / ".local/share/bash-completion/completions/db3kd"
    assert str(script) in done.stdout
    assert "source ~/.bashrc" in done.stdout
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_faults_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written \(.*\); give another file"):
        install(app, "bash", tmp_path / "file" / "script")
    for name in ("ZSH_VERSION", "BASH_VERSION", "FISH_VERSION", "SHELL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")  # no `ps` that knows the parent
    if sys.platform == "win32":
        monkeypatch.delenv("PSModulePath", raising=False)
    with pytest.raises(InputError, match="give --shell"):
        install(app)
