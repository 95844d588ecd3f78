"""Hints name a command that works where db3kd was installed."""

import sys
from pathlib import Path

import pytest

from db3kd.errors import hint

METADATA = """Metadata-Version: 2.4
Name: db3kd
Version: 9.9
Provides-Extra: onnx
Provides-Extra: remote
Requires-Dist: torch>=2.9
Requires-Dist: onnxruntime>=1.22; extra == "onnx"
Requires-Dist: httpx2>=2.16; extra == 'remote'
Requires-Dist: tenacity>=9; extra == 'remote'
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that is found before the real one; its files say how it was made."""
    info = tmp_path / "site" / "db3kd-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    return info


@pytest.mark.parametrize(
    ("installer", "command"),
    [
        ("", "pip install 'db3kd[remote]'"),
        ("pip\n", "pip install 'db3kd[remote]'"),
        ("uv", "uv pip install 'db3kd[remote]'"),
        ("conda", "conda install -c conda-forge httpx2 tenacity"),
    ],
)
def test_the_installer_is_the_one_that_was_used(
    installed: Path, installer: str, command: str
) -> None:
    (installed / "INSTALLER").write_text(installer)
    assert hint("remote") == command


def test_a_checkout_stays_one(installed: Path) -> None:
    (installed / "INSTALLER").write_text("uv")
    url = installed / "direct_url.json"
    url.write_text('{"url": "file:///home/me/my%20code", "dir_info": {"editable": true}}')
    assert hint("onnx") == "uv pip install -e '/home/me/my code[onnx]'"
    url.write_text('{"url": "file:///tmp/db3kd.whl", "archive_info": {}}')
    assert hint("onnx") == "uv pip install 'db3kd[onnx]'"
    for odd in ("", "no JSON", "[]", '{"dir_info": []}', '{"dir_info": {"editable": 1}}'):
        url.write_text(odd)
        assert hint("onnx") == "uv pip install 'db3kd[onnx]'"


def test_tools_have_environments_of_their_own(installed: Path) -> None:
    prefix = Path(sys.prefix)
    (prefix / "pipx_metadata.json").write_text("{}")
    assert hint("remote") == "pipx inject db3kd httpx2 tenacity"
    (prefix / "pipx_metadata.json").unlink()
    (prefix / "uv-receipt.toml").write_text("")
    assert hint("remote") == "uv tool install db3kd --with httpx2 --with tenacity"


def test_a_shell_of_windows_knows_no_single_quotes(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert hint("onnx") == 'pip install "db3kd[onnx]"'
