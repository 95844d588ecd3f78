"""The Python of the pages runs, each page from its top, with what its reader would have at hand.

The tutorial and README have tests of their own (test_tutorial.py). The images are small, and so are
the numbers of `SMALLER`.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import db3kd
from conftest import make_sandbox
from db3kd.student.card import StudentCard
from db3kd.student.files import save_network
from db3kd.teachers.cached import Store, float_keys
from test_pages import ROOT, blocks, name_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
MINE = """
import torch


def make(shape, classes):
    size = shape[0] * shape[1] * shape[2]
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size, classes))
"""
HERE = "test_tutorial.py runs all of it"
ELSEWHERE = {"docs/tutorial.md": HERE}
SMALLER = {
    "queries=2_000, shape=(1, 8, 8)": "queries=20, shape=(1, 8, 8), training=SHORT",
    "run.spend(images, network)": "run.spend(images, network, PLAN, grow=GROW, training=SHORT)",
    "run.label(images)": 'run.label(images, db3kd.Search(per_image=20, surrogate="none"))',
    "transfer, seed=0, card=card": "transfer, SHORT, seed=0, card=card",
}
FOUND = [page for page in (ROOT / "docs").rglob("*.md") if "```python" in page.read_text("utf-8")]


class Paid:
    """An adapter that tells images apart by a digest, as those of services do."""

    classes, bounds = 10, (0.0, 1.0)
    keys = staticmethod(float_keys)

    def labels(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1).mean(1) * 100).long() % 10


@pytest.fixture
def at_hand(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Names that pages use without saying where they come from, and files, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    make_sandbox(tmp_path, digits)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(12, 1, 8, 8, generator=draw)
    (tmp_path / "photos").mkdir()
    for row, pixels in enumerate(images):
        content = (pixels[0] * 255).to(torch.uint8).numpy()
        Image.fromarray(content).save(tmp_path / "photos" / f"{row}.png")
    (tmp_path / "mine.py").write_text(MINE)
    short = db3kd.Training(steps=2)
    adapter = Paid()
    network = db3kd.networks.build("small", (1, 8, 8), 10, seed=0)
    known = np.asarray(images)
    with (
        db3kd.Run("runs/a", adapter) as run,
        Store(tmp_path / "answers.db3kd") as store,
    ):
        run.answers(images)
        transfer = run.transfer_set(images, "ce")
        path = Path("runs/a/students/auto-0-1a2b3c4d.safetensors")
        save_network(path, network, StudentCard(network="small", shape=(1, 8, 8), classes=10))
        other = Path("own.safetensors")
        save_network(
            other,
            import_module("mine").make((1, 8, 8), 10),
            StudentCard(factory="mine:make", shape=(1, 8, 8), classes=10),
        )
        yield {
            "db3kd": db3kd,
            "safetensors": safetensors,
            "SHORT": short,
            "PLAN": db3kd.Spend(per_image=1, trial=0),
            "GROW": db3kd.Grow(rounds=1, members=1),
            "adapter": adapter,
            "teacher": adapter,
            "images": images,
            "some_images": images,
            "pixels": known,
            "known_images": known.reshape(12, -1),
            "known_labels": np.arange(12) % 3,
            "others": known,
            "names": tuple(map(str, range(10))),
            "network": network,
            "path": other,
            "transfer": transfer,
            "run": run,
            "store": store,
            "identity": "digits",
            "spent": 0,
        }


@pytest.mark.parametrize("page", FOUND, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, at_hand: dict[str, Any]) -> None:
    if name_of(page) in ELSEWHERE:
        pytest.skip(ELSEWHERE[name_of(page)])
    for block in blocks(page):
        if block.kind != "python" or not block.checked:
            continue
        text = block.text
        for old, new in SMALLER.items():
            text = text.replace(old, new)
        for package in ("mlflow", "tensorboard"):
            if f"trackers.{package}" in text and find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        exec(compile("\n" * (block.line) + text, str(page), "exec"), at_hand)
