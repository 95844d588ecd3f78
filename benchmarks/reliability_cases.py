"""What `reliability.py` interrupts: tiny recipes of every stage, and teachers that keep a log.

Images are 8x8, of three classes. A local teacher writes a byte for each image it is asked; a
remote one is a server in a process of its own, which writes a digest of each image it classified:

    python benchmarks/reliability_cases.py FOLDER

It prints its port and serves until its stdin is closed. The log of `http://.../LIFE/invocations` is
FOLDER/LIFE/classified. Nothing here imports torch.
"""

import hashlib
import json
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

CLASSES, SIDE = 3, 8
TRAIN, TEST = 7, 4  # images of each class
LOCAL_BATCH = 32
REMOTE_BATCH, CONCURRENCY = 8, 2
PAUSE, REMOTE_PAUSE = 0.002, 0.01  # seconds that a teacher takes for what is asked at once
RECIPES = ("rows", "joint", "grow", "auto", "synthesis", "ascent")
TEACHERS = ("local", "remote", "paid")  # the last: remote, with a price and a budget of money

HEAD = """run = "{run}"
seed = 1

[data]
{split} = "{images}"

[student]
network = "small"
methods = {methods}
training = {{ epochs = {epochs}, batch = 12 }}
"""
STAGES = {
    "rows": """[label]
metric = "mbd"
strategy = "rows"
references = 2
queries = 24
probes = 10
tolerance = 0.01
shard = 6
""",
    "joint": """[label]
strategy = "joint"
references = 2
per_image = 24
members = 1
shard = 6
""",
    "grow": """[grow]
per_image = 20
rounds = 2
shard = 60
members = 1
""",
    "auto": """[spend]
per_image = 20
[grow]
rounds = 2
shard = 60
members = 1
[label]
references = 2
members = 1
shard = 6
""",
    "synthesis": """[synthesis]
queries = 200
rounds = 2
shard = 80
members = 1
ensemble_labels = 30
""",
    "ascent": """[synthesis]
way = "ascent"
ascent = { samples = 12, iterations = 4, queries = 80, search = 30, shard = 6, copies = 2 }
""",
}
METHODS = {
    "rows": '["ce", "mbd"]',
    "joint": '["ce", "mbd"]',
    "grow": '["grown"]',
    "auto": '["auto"]',
    "synthesis": '["pseudo"]',
    "ascent": '["pseudo"]',
}
LOCAL = """[teacher]
kind = "function"
factory = "counted_teacher:make"
batch = {batch}
"""
REMOTE = """[teacher]
kind = "remote"
{price}
[teacher.remote]
url = "{url}"
protocol = "mlflow"
encoding = {{ kind = "float32" }}
batch = {batch}
concurrency = {concurrency}
timeout = 20.0
"""
FACTORY = '''"""The nearest of three means; writes a byte for each image it is asked."""

import os
import time

import torch

MEANS = torch.tensor({means!r})
LOG = os.open("asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def make():
    def nearest(images):
        os.write(LOG, b"." * len(images))
        time.sleep({pause})
        return torch.cdist(images.flatten(1).double(), MEANS.double()).argmin(1)

    return nearest
'''


@dataclass(frozen=True)
class Case:
    """One recipe with one teacher."""

    recipe: str
    teacher: str

    @property
    def name(self) -> str:
        """How the results call it."""
        return f"{self.recipe}, {self.teacher}"

    @property
    def remote(self) -> bool:
        """Whether a store has the books."""
        return self.teacher != "local"

    @property
    def on_the_way(self) -> int:
        """The most images that were sent and whose answers are not kept."""
        return REMOTE_BATCH * CONCURRENCY if self.remote else LOCAL_BATCH


CASES = tuple(Case(recipe, teacher) for recipe in RECIPES for teacher in TEACHERS)


def means() -> np.ndarray:
    """One picture for each class, (3, 64) on the 256 levels."""
    soft = np.random.default_rng(7).random((CLASSES, SIDE // 2, SIDE // 2))
    return np.rint(soft.repeat(2, 1).repeat(2, 2).reshape(CLASSES, -1) * 255)


def write_images(folder: Path) -> None:
    """Noisy pictures of each class as PNG files, below train and test."""
    from PIL import Image

    draw = np.random.default_rng(1)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for label, mean in enumerate(means()):
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                noisy = np.clip(mean + draw.normal(0, 30, mean.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy.reshape(SIDE, SIDE)).save(place / f"{number}.png")


def write_case(case: Case, folder: Path, images: Path, url: str, run: str = "run") -> None:
    """Recipe and teacher in a folder of their own."""
    own = case.recipe in ("synthesis", "ascent")
    text = HEAD.format(
        run=run,
        split="test" if own else "train",
        images=images,
        methods=METHODS[case.recipe],
        epochs=8,
    )
    price = "price = { per_1000 = 1000.0 }" if case.teacher == "paid" else ""
    teacher = LOCAL.format(batch=LOCAL_BATCH)
    if case.remote:
        teacher = REMOTE.format(
            price=price,
            url=f"{url}/{folder.name}",
            batch=REMOTE_BATCH,
            concurrency=CONCURRENCY,
        )
    (folder / "recipe.toml").write_text(text + STAGES[case.recipe] + teacher)
    levels = (means() / 255).tolist()
    (folder / "counted_teacher.py").write_text(FACTORY.format(means=levels, pause=PAUSE))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder = Path()
    means = means() / 255

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rows = np.array(asked["inputs"], np.float32).reshape(len(asked["inputs"]), -1)
        lines = "".join(hashlib.sha256(row.tobytes()).hexdigest()[:16] + "\n" for row in rows)
        log = self.folder / self.path.split("/")[1] / "classified"
        with suppress(FileNotFoundError), log.open("ab", buffering=0) as file:
            file.write(lines.encode())
        time.sleep(REMOTE_PAUSE)
        gaps = ((rows[:, None] - self.means[None]) ** 2).sum(2)
        content = json.dumps({"predictions": gaps.argmin(1).tolist()}).encode()
        with suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news here."""


def serve(folder: Path) -> None:
    """Classify until stdin is closed."""
    _Handler.folder = folder
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
