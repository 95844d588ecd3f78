"""Damaged and absurd input at every door: how many cases end well, are refused, or fail.

python benchmarks/fuzz.py [--cases 200000] [--doors recipe,parquet] [--seed 0] --json FILE

Each case is made from its number alone. It ends well if the door gives a result, or refuses with
an error of db3kd in words, within 20 seconds and with 2 GiB more memory than an idle process has.
Cases run in child processes, so that a crash is one failure among others.
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import common

SECONDS, BYTES = 20.0, 2 * 2**30  # for one case
AT_ONCE = 2000  # cases of one child process, whose imports take as long as hundreds of cases
LONGEST = 5000  # signs of a refusal
TOLD = 100  # failures
NUMBERS = (
    0,
    1,
    -1,
    2**31,
    2**40,
    2**63 - 1,
    2**63,
    10**30,
    1e5,
    1e308,
    -1e308,
    "nan",
    "inf",
    1e-320,
)
TEXTS = (
    "",
    "\0",
    "a\0b",
    "x" * 5000,
    "~nobody/x",
    "..",
    "/dev/null",
    "\u202e",
    "cuda:99",
    "meta",
    "a/b/c",
)


def changed(content: bytes, chance: random.Random) -> bytes:
    """Bytes that were altered, cut out, doubled or cut off in a few places."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content) + 1)
        end = min(len(content), place + int(2 ** chance.uniform(0, 9)))
        way = chance.randrange(6)
        if way == 0:
            content = content[:place] if chance.random() < 0.3 else content
        elif way == 1:
            content = content[:place] + content[end:]
        elif way == 2:
            content = content[:end] + content[place:]
        elif way == 3:
            content = (
                content[:place] + bytes([chance.choice((0, 127, 128, 255))]) + content[place + 1 :]
            )
        elif way == 4:
            content = content[:place] + chance.randbytes(end - place) + content[end:]
        else:
            number = chance.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1)).to_bytes(8, "little")
            content = content[:place] + number + content[place + 8 :]
    return content


RECIPE = """run = "run"
[data]
train = "digits"
size = 8
labels = "teacher"
[teacher]
kind = "function"
factory = "f:make"
bounds = [0.0, 1.0]
[budget]
queries = 100
[label]
per_image = 30
[student]
network = "small"
width = 0.5
methods = ["mbd"]
training = { steps = 2, batch = 4 }
"""


def recipe(folder: Path, chance: random.Random) -> None:
    """A recipe that was changed, or is huge, deep or full of numbers that cannot be."""
    from db3kd.config.reading import read_recipe, resolved

    text = RECIPE.encode()
    way = chance.randrange(6)
    if way == 0:
        key = ".".join(["a"] * int(10 ** chance.uniform(0, 5)))
        text += chance.choice((f"{key} = 1\n", f"[{key}]\n", f"x = {{ {key} = 1 }}\n")).encode()
    elif way == 1:
        text += "".join(f"k{n} = 1\n" for n in range(int(10 ** chance.uniform(0, 5)))).encode()
    elif way == 2:
        depth = int(10 ** chance.uniform(0, 5))
        text += f"x = {chance.choice(('[', '{a=', '[[', '((')) * depth}".encode()
    elif way == 3:
        value = chance.choice((*NUMBERS, "9" * 5000, "0x" + "f" * 5000))
        text = text.replace(
            chance.choice((b"8", b"0.5", b"100", b"30", b"0.0")), str(value).encode()
        )
    elif way == 4:
        text = text.replace(b"digits", chance.choice(TEXTS).encode().replace(b"\0", b"\\u0000"))
    else:
        text = changed(text, chance)
    (folder / "r.toml").write_bytes(text)
    resolved(read_recipe(folder / "r.toml"))


def override(folder: Path, chance: random.Random) -> None:
    """An override with a value that cannot be, and what is checked before a question is asked."""
    from db3kd.config.reading import read_recipe, resolved
    from db3kd.student.devices import usable_device
    from db3kd.student.networks import check_network

    (folder / "r.toml").write_text(RECIPE)
    plain = resolved(read_recipe(folder / "r.toml"))
    keys = [
        f"{table}.{key}"
        for table, inner in plain.items()
        if isinstance(inner, dict)
        for key in inner
    ]
    key = chance.choice([*keys, "device", "run", "seed", "student.training.batch"])
    value = chance.choice((*NUMBERS, *map(json.dumps, TEXTS), *TEXTS, "[" * 1000, "\udcff"))
    found = read_recipe(folder / "r.toml", [f"{key}={value}"])
    resolved(found)
    usable_device(found.device)
    check_network(str(found.student.network), (1, 8, 8), 10, found.student.width)


def opened(folder: Path, chance: random.Random) -> None:
    """Open a folder as a data set, and read its images."""
    import torch

    from db3kd.data import load

    size, split = None, "train"
    if chance.random() < 0.2:
        size = chance.choice((4, 300, *(n for n in NUMBERS if isinstance(n, int))))
    if chance.random() < 0.2:
        split = chance.choice(("train[:3]", "train[" + "9" * 5000 + ":]", "\0", "train[5:2]"))
    data = load(str(folder), split, size=size, channels=chance.choice((None, 1, 3)))
    data.images.read(torch.arange(min(len(data), 50)))


def parquet(folder: Path, chance: random.Random) -> None:
    """A parquet file whose bytes were changed, or whose columns are of another kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image: Any = [{"bytes": PNG}] * 20
    labels: Any = pa.array([0, 1] * 10, pa.int64())
    told = {
        b"huggingface": json.dumps(
            {"info": {"features": {"label": {"names": ["a", "b"]}}}}
        ).encode()
    }
    way = chance.randrange(8)
    if way == 0:
        labels = pa.array([0] * 19 + [chance.choice((-1, 10**5, 10**9, 2**63 - 1))], pa.int64())
        told = {}
    elif way == 1:
        other = chance.choice(
            ("abc", 7 * 10**9, None, b"", [PNG], PNG[: chance.randrange(len(PNG))])
        )
        image = pa.array([{"bytes": other}] * 20)
    elif way == 2:
        deep = b'{"info":' * int(10 ** chance.uniform(0, 5))
        told = {
            b"huggingface": chance.choice(
                (deep, b"[]", b'{"info": {"features": {"label": {"names": 5}}}}')
            )
        }
    elif way == 3:
        labels = pa.array(chance.choice(([0.5] * 20, ["x"] * 20, [None] * 20, [True] * 20)))
    table = pa.table({"image": image, "label": labels}).replace_schema_metadata(told)
    file = folder / "train-00000-of-00001.parquet"
    codec = chance.choice(("none", "snappy", "zstd"))
    pq.write_table(table, file, compression=codec, row_group_size=chance.choice((5, 100)))
    if way > 3:
        file.write_bytes(changed(file.read_bytes(), chance))
    opened(folder, chance)


def images(folder: Path, chance: random.Random) -> None:
    """Image files whose bytes were changed, and entries that are no files, or no folders."""
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        content = ENCODED[chance.choice(sorted(ENCODED))]
        content = changed(content, chance) if chance.random() < 0.4 else content
        (folder / name / "0.png").write_bytes(content)
    place = folder / chance.choice(("cat", "dog", "."))
    name = chance.choice(
        ("x.png", "train-0.parquet", "\u202e.png", "train", ".png", "y" * 250, "\udcff.png")
    )
    way = chance.randrange(5)
    if way == 0:
        (place / name).mkdir()
    elif way == 1:
        (place / name).symlink_to(name)  # to itself
    elif way == 2 and hasattr(os, "mkfifo"):
        os.mkfifo(place / name)
    elif way == 3:
        (place / name).write_bytes(b"")
    opened(folder, chance)


def run_folder(folder: Path, chance: random.Random) -> None:
    """The folder of a run with entries of another kind than was left there."""
    from db3kd.run import Run
    from db3kd.stages.accounts import status
    from db3kd.teachers import function

    run = folder / "run"
    Run(run, function(len, classes=2)).close()
    name = chance.choice(
        (
            "answers",
            "answers/foo.tape",
            "answers/00000.tape",
            "answers/0x.tape",
            "journal.jsonl",
            "answers/\udcff.tape",
        )
    )
    place = run / name
    if place.is_file():
        place.unlink()
    place.parent.mkdir(exist_ok=True)
    way = chance.randrange(3)
    if way == 0:
        place.mkdir()
    elif way == 1:
        place.write_bytes(chance.randbytes(chance.randrange(60)))
    else:
        place.symlink_to(place.name)
    status(run)


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [0.1, 0.9, 2, 1]}
TEXT = {"name": "y", "datatype": "BYTES", "shape": [2], "data": ["cat", "dog"]}
CONCEPTS = {"data": {"concepts": [{"name": "cat", "value": 0.5}]}}
SERVERS: tuple[tuple[dict[str, Any], int, Any], ...] = (  # settings, images asked, a good reply
    ({"protocol": "oip", "model": "m"}, 2, {"outputs": [OUTPUT]}),
    ({"protocol": "oip", "model": "m", "output": "y"}, 2, {"outputs": [TEXT]}),
    ({"protocol": "mlflow"}, 2, {"predictions": [[0.1, 0.9], [3, 2]]}),
    (
        {"protocol": "mlflow", "path": "[0].label", "output": "y"},
        2,
        {"predictions": {"y": [[{"label": "cat"}], [{"label": 1}]]}},
    ),
    ({"protocol": "raw"}, 1, {"cat": 0.9, "dog": 0.1}),
    ({"protocol": "raw", "path": "[0].label"}, 1, [{"label": "cat", "score": 0.9}]),
    ({"protocol": "concepts"}, 2, {"status": {"code": 10000}, "outputs": [CONCEPTS, CONCEPTS]}),
    ({"protocol": "template", "body": '["{image}"]', "path": "a.b"}, 1, {"a": {"b": "dog"}}),
    (
        {"protocol": "template", "body": '["{images}"]', "path": "a[*].b"},
        2,
        {"a": [{"b": "cat"}, {"b": [0.5, 1]}]},
    ),
    ({"protocol": "form", "path": "a[*].b"}, 2, {"a": [{"b": "cat"}, {"b": {"x": 0.5}}]}),
)


def replies(folder: Path, chance: random.Random) -> None:
    """What a server says, changed in its values or its bytes, deep, or with odd headers."""
    from db3kd.config.remote import Names, Remote
    from db3kd.errors import TeacherError
    from db3kd.teachers.encoding.encoder import Encoder
    from db3kd.teachers.remote import protocols
    from db3kd.teachers.remote.names import LabelMap

    del folder
    settings, asked, reply = chance.choice(SERVERS)
    reply = odd(reply, chance)
    body, way = json.dumps(reply).encode(), chance.randrange(4)
    if way == 0:
        body = changed(body, chance)
    elif way == 1:
        depth = int(10 ** chance.uniform(0, 5))
        body = chance.choice((b"[", b'{"a":', b'{"outputs":[')) * depth + body
    headers = {
        chance.choice(("Content-Type", "Retry-After", "Inference-Header-Content-Length", "Date")):
        str(chance.choice((*NUMBERS, *TEXTS, "text/plain", "12")))
        for _ in range(chance.randrange(3))
    }  # fmt: skip
    remote = Remote(url="http://localhost/x", **settings)
    protocol = protocols.of(remote, Encoder(remote.encoding, (3, 4, 5)))
    status = chance.choice((*[200] * 9, 204, 429, 503, -1))
    answers, refused = protocol.answers(status, headers, body, asked), 0
    if len(answers) != asked:
        raise AssertionError(f"{len(answers)} answers to {asked} images")
    labels = LabelMap(Names(names=("cat", "dog")), 2)
    for answer in answers:
        if isinstance(answer, protocols.Failed):
            refused += 1
        else:
            labels.index(answer)
    if refused:
        raise TeacherError("a row has no answer")


def odd(value: Any, chance: random.Random) -> Any:
    """The same value, with something odd in a place or two."""
    if chance.random() < 0.03:
        return chance.choice((*NUMBERS, *TEXTS, None, True, [], {}, [None] * 3, "cat"))
    if isinstance(value, dict):
        return {key: odd(inner, chance) for key, inner in value.items() if chance.random() < 0.97}
    if isinstance(value, list):
        return [odd(inner, chance) for inner in value]
    return value


DOORS: dict[str, Callable[[Path, random.Random], None]] = {
    "recipe": recipe,
    "override": override,
    "parquet": parquet,
    "images": images,
    "run_folder": run_folder,
    "replies": replies,
}
PNG = b""
ENCODED: dict[str, bytes] = {}


def prepared() -> None:
    """Import what the doors need, and limit the memory of this process to some more than that."""
    global PNG
    from io import BytesIO

    import pyarrow.parquet  # noqa: F401
    import torch
    from PIL import Image

    import db3kd.run  # noqa: F401
    from db3kd.config.reading import read_recipe

    with tempfile.TemporaryDirectory() as folder:  # or every case would be refused for one reason
        (Path(folder) / "r.toml").write_text(RECIPE)
        read_recipe(Path(folder) / "r.toml")
    torch.set_num_threads(1)
    for form in ("PNG", "JPEG", "BMP", "WEBP"):
        file = BytesIO()
        Image.effect_noise((8, 8), 60).save(file, form)
        ENCODED[form] = file.getvalue()
    PNG = ENCODED["PNG"]
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def child(door: str, numbers: list[int], tell: multiprocessing.connection.Connection) -> None:
    """Do some cases; tells the number of each before it begins, and what became of it."""
    import warnings

    warnings.simplefilter("ignore")
    prepared()
    from db3kd.errors import Db3kdError

    for number in numbers:
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        tell.send(("begin", number, ""))
        try:
            DOORS[door](folder, random.Random(f"{door} {number}"))
            tell.send(("result", number, ""))
        except Db3kdError as error:
            long = len(str(error)) > LONGEST or not str(error).strip()
            tell.send(("failed" if long else "refused", number, f"{len(str(error))} signs" * long))
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"
            tell.send(("failed", number, text))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    tell.send(("end", -1, ""))


class Batch:
    """A child process with some cases, and what it has told so far."""

    def __init__(self, door: str, numbers: list[int]) -> None:
        self.door, self.left = door, list(numbers)
        self.tell, other = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=child, args=(door, numbers, other), daemon=True)
        self.process.start()
        other.close()
        self.now, self.since = -1, time.monotonic() + 60  # imports take some time

    def heard(self) -> tuple[str, int, str] | None:
        """One message; a silent or dead process is a failure of the case that it was at."""
        try:
            if self.tell.poll(0.01):
                what, number, text = self.tell.recv()
                self.since, self.now = time.monotonic(), number
                if what in ("result", "refused", "failed"):
                    self.left.remove(number)
                return what, number, text
        except EOFError:
            return self._lost(f"the process ended with code {self.process.exitcode}")
        if time.monotonic() - self.since > SECONDS:
            self.process.kill()
            return self._lost(f"no end within {SECONDS:g} s")
        return None

    def _lost(self, text: str) -> tuple[str, int, str]:
        self.process.join()
        if self.now in self.left:
            self.left.remove(self.now)
        return "lost", self.now, text


def main() -> None:
    """Run the cases and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--doors", default=",".join(DOORS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    doors = wanted.doors.split(",")
    each = -(-wanted.cases // len(doors))
    waiting = [
        (door, [wanted.seed + n for n in range(first, min(each, first + AT_ONCE))])
        for first in range(0, each, AT_ONCE)
        for door in doors
    ]
    counts: dict[str, Counter[str]] = {door: Counter() for door in doors}
    failures: list[dict[str, object]] = []
    working: list[Batch] = []
    while waiting or working:
        while waiting and len(working) < wanted.workers:
            working.append(Batch(*waiting.pop(0)))
        for batch in list(working):
            told = batch.heard()
            if told is None or told[0] == "begin":
                continue
            what, number, text = told
            if what in ("end", "lost"):
                working.remove(batch)
                if what == "lost" and batch.left:
                    waiting.append((batch.door, batch.left))
            if what in ("failed", "lost"):
                failures.append({"door": batch.door, "number": number, "what": text})
            if what != "end":
                counts[batch.door]["failed" if what == "lost" else what] += 1
    found = {
        "cases": sum(sum(some.values()) for some in counts.values()),
        "failed": len(failures),
        "seed": wanted.seed,
        "doors": {door: dict(some) for door, some in counts.items()},
        "failures": failures[:TOLD],
        "machine": common.machine(),
        "versions": common.versions(),
        "commit": common.commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
    }
    text = json.dumps(found, indent=2)
    print(text)  # failures are in it
    if wanted.json:
        wanted.json.write_text(text + "\n")
    # A door that gives no result at all was not tried: its cases are refused for another reason.
    sys.exit(bool(failures) or any(not some["result"] for some in counts.values()))


if __name__ == "__main__":
    main()
