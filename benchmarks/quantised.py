"""What 8 bits and JPEG in front of a teacher do to distances and students, and what helps.

    python benchmarks/quantised.py [--quick] --json quantised.json [--work DIR]

The same searches ask a LeNet-5 on MNIST that sees floats, 8 bits, or JPEG of quality 90. `told`
searches know what it sees, `untold` ones do not. A benchmark that was stopped continues when it is
started again. See README.md.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from safetensors.torch import load_file, save
from torch import Tensor

import common
import pupils
import rows
import stale
from db3kd.config.remote import Encoding
from db3kd.config.settings import Search, paper
from db3kd.data import DataSet, TensorImages, in_memory, load
from db3kd.errors import Db3kdError
from db3kd.run import Run
from db3kd.search.boundary import norm
from db3kd.search.robustness import References, choose_references
from db3kd.search.rows import minimal_boundary_distance
from db3kd.storage.files import write_atomically
from db3kd.student.evaluate import accuracy
from db3kd.teachers import quantised, torch_module
from db3kd.teachers.base import Teacher
from db3kd.teachers.encoding.encoder import Encoder
from pupils import PUPILS, Pupil
from teachers import Lesson, trained, training_images

SHAPE = (1, 28, 28)
LESSON = Lesson("lenet5_mnist", "lenet5", "mnist", 60_000, 6)
SIGHTS: dict[str, Encoding] = {
    "float": Encoding(kind="float32"),
    "8bit": Encoding(kind="png"),
    "jpeg90": Encoding(kind="jpeg", quality=90),
}
SOURCES = (*stale.JOINT, "teachers/quantised.py", "teachers/encoding/encoder.py")
SOURCES = (*SOURCES, "teachers/encoding/seen.py")
SEED = 0
FORMAT = 1  # of what is kept: another number where this file changes what is bought

Told = Literal["told", "untold"]


@dataclass(frozen=True)
class Size:
    """How much is measured: rows and their queries, own images and their queries, students."""

    rows: int
    queries: int
    own: int
    per_image: int
    members: int
    seeds: int

    def searches(self) -> dict[str, Search]:
        """The paper's search, as fine as floats allow, and the default search, row by row."""
        return {
            "paper": paper(queries=self.queries, tolerance=1e-5),
            "default": Search(strategy="rows", queries=self.queries),
        }


FULL, QUICK = Size(200, 1000, 300, 100, 3, 3), Size(20, 200, 60, 30, 1, 1)


@dataclass(frozen=True)
class Untold:
    """A teacher that hides that it does not see everything."""

    teacher: Teacher

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.teacher.classes

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel, as a plain pair."""
        low, high = self.teacher.bounds
        return low, high

    def labels(self, images: Tensor, /) -> Tensor:
        """Class index of each image."""
        return self.teacher.labels(images)


@dataclass(frozen=True)
class Bench:
    """The teacher, the images that references are drawn from, the rows, and what students need."""

    teacher: Teacher
    pool: Tensor
    images: Tensor
    target: Tensor
    own: TensorImages
    test: DataSet
    weights: bytes
    folder: Path

    def sighted(self, sight: str, told: Told) -> Teacher:
        """The teacher with this sight."""
        seeing = quantised(self.teacher, SIGHTS[sight], SHAPE)
        return seeing if told == "told" else Untold(seeing)


def main() -> int:
    """Measure whatever is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which results are kept")
    options.add_argument(
        "--taught", nargs="*", default=list(SIGHTS), choices=SIGHTS, help="students of these alone"
    )
    options.add_argument("--threads", type=int, default=1, help="threads of torch; default: 1")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    size = QUICK if given.quick else FULL
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "quantised"
    bench = made(size, work)
    figures: dict[str, float] = {}
    table: list[common.Json] = []
    for name, search in size.searches().items():
        for sight, told in cells():
            table.append(measured(bench, search, name, sight, told))
            common.say(f"  {table[-1]}")
        figures |= summed_up([line for line in table if line["search"] == name])
    for sight, told in [cell for cell in cells() if cell[0] in given.taught]:
        line = taught(bench, size, sight, told)
        common.say(f"  {line}")
        table.append(line)
        figures[f"student.{sight}.{told}"] = line["student"]
        figures[f"student_spread.{sight}.{told}"] = line.get("student_spread", 0.0)
        figures[f"teacher.{sight}"] = line["teacher"]
    setting = {
        "threads": torch.get_num_threads(),
        "quick": given.quick,
        **size.__dict__,
        "searches": {name: msgspec.to_builtins(s) for name, s in size.searches().items()},
        "sights": {name: msgspec.to_builtins(sight) for name, sight in SIGHTS.items()},
        "student": msgspec.to_builtins(pupil(size)),
        "seed": SEED,
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def cells() -> Iterator[tuple[str, Told]]:
    """What the teacher sees, and whether the search is told; floats need no telling."""
    for sight in SIGHTS:
        yield sight, "untold"
        if sight != "float":
            yield sight, "told"


def made(size: Size, work: Path) -> Bench:
    """Make the teacher, and images that it gets right, each with one class to reach."""
    data = training_images(LESSON, rows.POOL + rows.OWN)
    net = trained(LESSON, data)
    teacher = torch_module(net, classes=rows.CLASSES)
    numbers = torch.arange(rows.POOL, rows.POOL + rows.OWN)
    images, labels = data.images.read(numbers), data.labels[numbers]
    taken = (teacher.labels(images) == labels).nonzero()[: size.rows, 0]
    target = (labels[taken] + 1 + torch.arange(len(taken)) % (rows.CLASSES - 1)) % rows.CLASSES
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))
    own = TensorImages(in_memory(data.images).values[order[: size.own]])
    test = load(LESSON.data, "test")
    return Bench(
        teacher,
        data.images.read(torch.arange(rows.POOL)),
        images[taken],
        target,
        own,
        DataSet(in_memory(test.images), test.labels, test.classes),
        LESSON.path.read_bytes(),
        work,
    )


def measured(bench: Bench, search: Search, name: str, sight: str, told: Told) -> common.Json:
    """The distances that a search believes in, and those of the images that the teacher saw."""
    found = searched(bench, search, name, sight, told)
    once = Encoder(SIGHTS[sight], SHAPE)
    point = once.seen(found["point"], times=1)
    true = norm(point - once.seen(bench.images, times=1))
    across = bench.teacher.labels(point) == bench.target
    lost = {
        other: round(float((bench.teacher.labels(saved) != bench.target).float().mean()), 4)
        for other, encoding in SIGHTS.items()
        if sight == "float" != other
        for saved in [Encoder(encoding, SHAPE).seen(found["point"], times=1)]
    }
    moved = norm(point - found["point"])
    return {
        "search": name,
        "sight": sight,
        "told": told,
        "believed": round(float(found["distance"].median()), 4),
        "mbd": round(float(true.median()), 4),
        "believed_mean": round(float(found["distance"].mean()), 4),
        "mbd_mean": round(float(true.mean()), 4),
        "moved_by_sending": round(float(moved.mean()), 4),
        "sent_as_they_are": round(float((moved == 0).float().mean()), 4),
        "not_across": int((~across).sum()),
        "lost_once_saved": lost,
        "queries": round(float(found["queries"].float().mean()), 1),
        "seconds": round(float(found["seconds"]), 1),
    }


def searched(bench: Bench, search: Search, name: str, sight: str, told: Told) -> dict[str, Tensor]:
    """Points, distances and queries of all rows, class after class; kept in the folder."""
    settings = msgspec.json.encode((search, SIGHTS[sight], told, len(bench.target)))
    digest = stale.digest(SOURCES, settings, bench.weights, bytes([FORMAT, SEED]))
    file = bench.folder / f"{name}-{sight}-{told}-{digest}.safetensors"
    if file.exists():
        return load_file(file)
    teacher, started = bench.sighted(sight, told), time.perf_counter()
    answers = teacher.labels(bench.pool)
    chosen, rejected = choose_references(
        answers,
        classes=teacher.classes,
        per_class=search.references,
        generator=torch.Generator().manual_seed(SEED),
    )
    own, count = teacher.labels(bench.images), len(bench.target)
    point, distance = bench.images.clone(), torch.full((count,), torch.inf)
    queries = torch.zeros(count, dtype=torch.int64)
    for k in range(teacher.classes):
        mine, some = (bench.target == k).nonzero()[:, 0], chosen[answers[chosen] == k]
        references = References(bench.pool[some], answers[some], rejected)
        with torch.no_grad():
            found = minimal_boundary_distance(
                teacher,
                bench.images[mine],
                own[mine],
                references,
                search,
                noise_seed=SEED,
                keep_points=True,
            )
        if found.points is None:
            raise RuntimeError("the points were asked for")
        point[mine], distance[mine] = found.points[:, k], found.distance[:, k]
        queries[mine] = found.queries[:, k]
    seconds = torch.tensor(time.perf_counter() - started)
    kept = {"point": point, "distance": distance, "queries": queries, "seconds": seconds}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, save(kept))
    return kept


def summed_up(lines: Sequence[common.Json]) -> dict[str, float]:
    """The figures of one search."""
    figures: dict[str, float] = {}
    floats = next(line for line in lines if line["sight"] == "float")
    for line in lines:
        place = f"{line['sight']}.{line['search']}.{line['told']}"
        figures[f"mbd.{place}"] = line["mbd"]
        figures[f"believed.{place}"] = line["believed"]
        figures[f"mean_over_float.{place}"] = line["mbd_mean"] / floats["mbd_mean"]
        figures[f"not_across.{place}"] = line["not_across"]
        for sight, share in line["lost_once_saved"].items():
            figures[f"lost_once_saved.{sight}.{line['search']}"] = share
    return figures


def pupil(size: Size) -> Pupil:
    """The paper's LeNet-5-Half."""
    full = PUPILS["lenet5"]
    return full if size == FULL else Pupil(full.network, full.width, 100)


def taught(bench: Bench, size: Size, sight: str, told: Told) -> common.Json:
    """Accuracy of students that learn from the soft labels of a run's own search."""
    teacher = bench.sighted(sight, told)
    search = Search(per_image=size.per_image, members=size.members)
    settings = msgspec.json.encode((search, SIGHTS[sight], told, len(bench.own)))
    digest = stale.digest(SOURCES, settings, bench.weights, bytes([FORMAT, SEED]))
    name, started = f"run-{sight}-{told}-{digest}", time.perf_counter()
    with Run(bench.folder / name, teacher, seed=SEED) as run:
        run.answers(bench.own)
        run.measure(bench.own, search)
        transfer, spent = run.transfer_set(bench.own, "mbd"), run.meter.spent
    seconds = time.perf_counter() - started
    accuracies = pupils.taught(
        pupil(size), transfer, bench.test, seeds=size.seeds, folder=bench.folder, name=name
    )
    return {
        "sight": sight,
        "told": told,
        "queries_an_image": round(spent / len(bench.own), 1),
        "buying_s": round(seconds, 1),
        **pupils.line(accuracies),
        "teacher": round(known(bench, sight), 4),
    }


def known(bench: Bench, sight: str) -> float:
    """The accuracy of the teacher with this sight on the test images; kept in the folder."""
    file = bench.folder / f"teacher-{sight}-{stale.digest(SOURCES, bench.weights)}.json"
    if not file.exists():
        teacher, images = bench.sighted(sight, "untold"), bench.test.images
        parts = torch.arange(len(images)).split(1000)
        with torch.no_grad():
            answers = torch.cat([teacher.labels(images.read(part)) for part in parts])
        write_atomically(file, json.dumps(accuracy(answers, bench.test.labels)).encode())
    return float(json.loads(file.read_text()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
