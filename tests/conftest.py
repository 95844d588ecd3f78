"""Shared fixtures; the presence of this file lets every folder of tests import `closed_form`.

`digits` is a folder of images: scikit-learn's 8x8 digits, one folder of PNG files for each class.
`sandbox` is a folder with a recipe for them and a slow SVM that writes down what it is asked.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import warm

# The same examples each time in CI; no deadline, since a busy machine is no fault.
settings.register_profile(
    "db3kd", deadline=None, max_examples=40, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("db3kd")

os.environ.setdefault("DB3KD_REPORT", "0")  # a page takes a second; the tests of it ask for it

TRAIN, TEST = 3, 5  # images of each class
collect_ignore = ["fixtures"]  # recipes and folders of earlier versions, no tests

FACTORY = '''"""An RBF SVM that writes a byte for each image it is asked, and takes its time."""

import os
import time

import numpy as np
from sklearn.svm import SVC


class Counted:
    def __init__(self, svm):
        self.svm, self.classes_ = svm, svm.classes_
        self.log = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.pause = float(os.environ.get("TEACHER_PAUSE", "0"))

    def predict(self, images):
        os.write(self.log, b"." * len(images))
        time.sleep(self.pause)
        return self.svm.predict(images)


def make():
    known = np.load({known!r})
    return Counted(SVC(kernel="rbf", gamma=0.3, C=10).fit(known["images"], known["labels"]))
'''

RECIPE = """run = "run"
seed = 1

[data]
train = "{digits}"

[teacher]
kind = "sklearn"
factory = "svm_teacher:make"
batch = 100000

[label]
metric = "mbd"
references = 5
queries = 60
probes = 20
tolerance = 0.01
checkpoints = [30, 60]
shard = 6
strategy = "rows"

[student]
network = "small"
methods = ["ce", "mbd"]
training = {{ epochs = 3, batch = 16 }}
"""


WITHOUT_DATA = """run = "run"
seed = 1

[data]
test = "{digits}"

[teacher]
kind = "sklearn"
factory = "svm_teacher:make"
batch = 100000

[synthesis]
queries = 1500
rounds = 4
shard = 500

[label]
queries = 30
probes = 10
references = 3
shard = 300
strategy = "rows"

[student]
network = "small"
training = {{ epochs = 3, batch = 16 }}
"""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PNG files, train/0..9 and test/0..9; beside it what the SVM learns from."""
    from PIL import Image
    from sklearn.datasets import load_digits

    known = load_digits()
    pixels = (known.images * 15).astype(np.uint8)
    folder = tmp_path_factory.mktemp("data") / "digits"
    for label in range(10):
        rows = np.nonzero(known.target == label)[0]
        for split, some in (("train", rows[:TRAIN]), ("test", rows[TRAIN : TRAIN + TEST])):
            (folder / split / str(label)).mkdir(parents=True)
            for row in some:
                Image.fromarray(pixels[row]).save(folder / split / str(label) / f"{row:04}.png")
    np.savez(
        folder.parent / "known.npz",
        images=pixels[900:1500].reshape(600, 64) / np.float32(255),
        labels=known.target[900:1500],
    )
    return folder


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes, as on a full disk (the error is another, EFBIG)."""
    resource = pytest.importorskip("resource", reason="limits of a file's size are POSIX")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def student_content(path: Path) -> object:
    """Tensors and metadata of a student's file, without their order in its header."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@dataclass(frozen=True)
class Sandbox:
    """A folder to run recipes in, by processes of their own or within this one."""

    folder: Path
    digits: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def asked(self) -> int:
        """How many images the SVM was really asked, over all processes."""
        log = self.folder / "asked"
        return log.stat().st_size if log.exists() else 0

    def start(self, *words: str, pause: float = 0.0, **options: Any) -> subprocess.Popen[str]:
        """Start a process of its own, with all that belongs to its start."""
        return subprocess.Popen(
            [sys.executable, "-m", "db3kd", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(pause),
            **options,
        )

    def call(self, *words: str, pause: float = 0.0) -> subprocess.CompletedProcess[str]:
        """Call the command line and wait for its end, in a process that starts at once."""
        return warm.called(words, self.folder, self._environment(pause))

    def _environment(self, pause: float) -> dict[str, str]:
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TEACHER_PAUSE": str(pause),
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "TERM": "dumb",
            **self.environment,
        }

    def shards(self, run: str = "run") -> dict[str, object]:
        """Everything that must not depend on interruptions: shards and students."""
        folder = self.folder / run
        return {
            str(path.relative_to(folder)): student_content(path)
            if path.parent.name == "students"
            else path.read_bytes()
            for path in sorted(folder.rglob("*.safetensors"))
        }

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run / "journal.jsonl").read_text().splitlines()]


def make_sandbox(folder: Path, digits: Path) -> Sandbox:
    folder.mkdir(exist_ok=True)
    made = Sandbox(folder, digits)
    known = str(digits.parent / "known.npz")
    made.write("svm_teacher.py", FACTORY.replace("{known!r}", repr(known)))
    made.write("recipe.toml", RECIPE.format(digits=digits))
    made.write("without_data.toml", WITHOUT_DATA.format(digits=digits))
    return made


@pytest.fixture
def sandbox(tmp_path: Path, digits: Path) -> Sandbox:
    return make_sandbox(tmp_path, digits)


@pytest.fixture
def here(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the current directory of this process."""
    monkeypatch.chdir(sandbox.folder)
    monkeypatch.syspath_prepend(str(sandbox.folder))
    monkeypatch.delitem(sys.modules, "svm_teacher", raising=False)
    return sandbox


@pytest.fixture
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing loses power, and waiting for the disk thousands of times takes minutes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: None, raising=False)


@pytest.fixture
def hasty_rivals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small steps of the ways that learn a generator."""
    from db3kd.synthesis import chosen
    from db3kd.synthesis.rivals import dfms, dip_kd, disguide, generator, ideal, qedg

    monkeypatch.setattr(chosen, "LEAST_STEPS", 10)
    monkeypatch.setattr(chosen, "LONG_LEAST", 10)
    monkeypatch.setattr(dip_kd, "BATCH", 16)
    for module in (ideal, qedg, dfms, disguide):
        monkeypatch.setattr(module, "BATCH", 16)
        monkeypatch.setattr(module, "GENERATOR_STEPS", 3)
    for module in (ideal, qedg):
        monkeypatch.setattr(module, "STUDENT_STEPS", 6)
    monkeypatch.setattr(dfms, "CLONE_STEPS", 6)
    monkeypatch.setattr(dfms, "GAN_STEPS", 6)
    monkeypatch.setattr(disguide, "REPLAYS", 6)
    for module in (generator, qedg):
        monkeypatch.setattr(module, "LESSON", 32)
