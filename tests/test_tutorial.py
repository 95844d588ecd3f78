"""The commands of the tutorial do what the page says, in its order; so does the Python of README.

The folder of images is smaller than the page's, and so are the numbers of `SMALLER`. The service is
on this machine. What is printed must have the words of the page; its numbers may differ.
"""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import warm
from onnx_files import save

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PHOTOS, LABELLED = 60, 200  # the page has 1,000 photos
ROUNDS = "[grow]\nrounds = 1\nmembers = 1\n"
SMALLER = {
    "queries = 5000   ": f"queries = 300\n{ROUNDS}",  # in the recipe of `db3kd init`
    "money = 8.00": f"money = 0.60\n{ROUNDS}",
    "budget.queries=5000": "budget.queries=300 -s grow.rounds=1 -s grow.members=1",
    "nodata.toml  ": "nodata.toml --quick -s synthesis.rounds=1  ",
    "(images, network)": "(images, network, grow=db3kd.Grow(rounds=1, members=1))",
    "Spend(per_image=5)": "Spend(per_image=2), grow=db3kd.Grow(rounds=1, members=1)",
    "[900:1100": "[900:1000",
    "5000": "300",
    "samples=100 -s data.test_samples=50": "samples=30 -s data.test_samples=10",
    "money=2": "money=0.15",
}
SERVICE = "https://api.example.com/classify"
OWN = 797  # digits before this one are what the teachers learned from
UNSURE = 0.6  # the service does not know below this probability


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    known = load_digits()
    return np.rint(known.images / 16 * 255).astype(np.uint8), known.target


@cache
def machine() -> Any:
    from sklearn.neural_network import MLPClassifier

    pixels, labels = digits()
    fitted = MLPClassifier((64,), max_iter=60, tol=0, n_iter_no_change=60, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not to learn longer
        return fitted.fit(pixels[:OWN].reshape(-1, 64) / 255, labels[:OWN])


def onnx_file(file: Path) -> None:
    first, second = machine().coefs_
    biases = machine().intercepts_
    nodes = [
        ("Flatten", ["images"], ["flat"], {}),
        ("Gemm", ["flat", "W1", "b1"], ["hidden"], {}),
        ("Relu", ["hidden"], ["rectified"], {}),
        ("Gemm", ["rectified", "W2", "b2"], ["scores"], {}),
    ]
    constants = {"W1": first, "b1": biases[0], "W2": second, "b2": biases[1]}
    save(
        file,
        nodes,
        {"images": ("FLOAT", ("n", 1, 8, 8))},
        {"scores": ("FLOAT", ("n", 10))},
        {name: value.astype("f4") for name, value in constants.items()},
    )


class Service(BaseHTTPRequestHandler):
    """A paid service: it takes an image file, and says {"class": "seven"}, or "unclear"."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for each reply

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        allowed = self.headers.get("Authorization") == "Bearer 1234"
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("L"), dtype=np.float32).reshape(1, -1) / 255
        scores = machine().predict_proba(pixels)[0]
        said = NAMES[scores.argmax()] if scores.max() > UNSURE else "unclear"
        body = json.dumps({"class": said}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    machine()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/classify"
    server.shutdown()
    thread.join()
    server.server_close()


def photos(folder: Path, count: int = PHOTOS, labelled: int = LABELLED) -> None:
    """What the reader has: `photos` without labels, a folder of a few with, and `model.onnx`."""
    pixels, labels = digits()
    (folder / "photos").mkdir()
    for row in range(OWN, OWN + count):
        Image.fromarray(pixels[row]).save(folder / f"photos/{row - OWN:04}.jpg", quality=95)
    for row in range(len(pixels) - labelled, len(pixels)):
        place = folder / "test" / NAMES[labels[row]] / f"{row}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row]).save(place, quality=95)
    onnx_file(folder / "model.onnx")


@dataclass
class Reader:
    """Someone who does what a page says, block by block, in a folder."""

    folder: Path
    change: Callable[[str], str]
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    printed: str = ""
    ran: list[str] = field(default_factory=list)

    def follow(self, page: str) -> None:
        for kind, block in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.DOTALL):
            {"sh": self.shell, "toml": self.file, "diff": self.edit, "python": self.python}.get(
                kind, self.compare
            )(block)

    def shell(self, block: str) -> None:
        self.printed = ""
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(self.change(line), comments=True)
            if words[:1] == ["export"]:
                self.environment.update([words[1].split("=", 1)])
            elif words[:1] == ["db3kd"]:
                self.ran.append(words[1])
                self.call(*(name for word in words[1:] for name in self.globbed(word)))
            else:
                assert words[:2] in ([], ["pip", "install"]), line

    def globbed(self, word: str) -> list[str]:
        if "*" not in word:
            return [word]
        return [str(path.relative_to(self.folder)) for path in sorted(self.folder.glob(word))]

    def call(self, *words: str) -> None:
        self.note(warm.called(words, self.folder, self.at(self.environment)))

    def python(self, block: str) -> None:
        self.printed = ""
        self.note(
            subprocess.run(
                [sys.executable, "-c", self.change(block)],
                cwd=self.folder,
                env=self.at(self.environment),
                capture_output=True,
                text=True,
                encoding="utf-8",
                check=False,
            )
        )

    @staticmethod
    def at(environment: dict[str, str]) -> dict[str, str]:
        return {**environment, "COLUMNS": "120", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}

    def note(self, done: subprocess.CompletedProcess[str]) -> None:
        said = done.stdout + done.stderr
        self.printed += said
        assert "Traceback" not in said, said

    def file(self, block: str) -> None:
        """Write a file whose name is in the first line; other blocks are only there to be read."""
        name = re.match(r"# (\w+\.toml)\n", block)
        if name is not None:
            (self.folder / name[1]).write_text(self.change(block), "utf-8")

    def edit(self, block: str) -> None:
        lines = block.splitlines()
        old, new = ([line[1:] for line in lines if line.startswith(sign)] for sign in "-+")
        file = self.folder / "recipe.toml"
        text = file.read_text("utf-8")
        assert "\n".join(old) in text, f"recipe.toml has no line {old}"
        file.write_text(text.replace("\n".join(old), self.change("\n".join(new))), "utf-8")

    def compare(self, block: str) -> None:
        """Every line that the page shows must have been printed, but for its numbers."""
        seen = {plain(line) for line in self.printed.splitlines()}
        for line in block.splitlines():
            assert line == "..." or plain(line) in seen, f"not printed: {line}\n\n{self.printed}"


def plain(line: str) -> str:
    """A line without numbers, names of students' files, and widths of columns."""
    line = re.sub(r"-[0-9a-f]{8}\.", "-#.", line).replace("\\", "/")
    line = re.sub(r", or [^,]*, as the trial decides", "", line)
    line = re.sub(r"\b(second|minute|hour|day)s?\b", "time", line)  # as fast as it is here
    line = re.sub(r"OSError: [^;]*", "OSError", line)  # words of Pillow
    line = line.replace("test images cannot be", "own images cannot be")  # which, chance decides
    line = re.sub(r"(?<!\S)\.(?!\S)", "0", line)  # as tables have it
    return " ".join(re.sub(r"[-+]?\d[\d.,:]*(e[-+]\d+)?", "#", line).split())


@pytest.fixture
def reader(tmp_path: Path, service: str) -> Reader:
    photos(tmp_path)

    def change(text: str) -> str:
        for old, new in {**SMALLER, SERVICE: service}.items():
            text = text.replace(old, new)
        return text

    return Reader(tmp_path, change)


@pytest.mark.timeout(900)
def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    reader.follow(PAGE.read_text("utf-8"))
    assert set(reader.ran) >= {"init", "check", "run", "export", "predict", "answers", "status"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_jobs_of_readme_do_what_they_say(reader: Reader) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    reader.follow(text[text.index("## In Python") : text.index("## 1,000 images")])
    assert reader.ran == ["init", "check", "run", "run", "predict", "export"]
    assert {file.parent.name for file in reader.folder.glob("runs/*/students")} == {
        "first",
        "photos",
        "nodata-quick",
        "svm",
    }
    assert (reader.folder / "student.onnx").is_file()
