"""Cells of the paper's tables: one system teaches one student, with one seed, for one number.

Each cell that was run is a small JSON file. What cells share, such as distances, is kept beside
them. So a table can be stopped at any moment and continued, and two tables share their cells.
"""

import hashlib
import json
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from db3kd.paper.bench import Bench
from db3kd.paper.setups import SETUPS
from db3kd.paper.systems import SYSTEMS, System
from db3kd.paper.task import Scale
from db3kd.progress import Progress, silent
from db3kd.stages.versions import commit
from db3kd.storage.files import Json, write_atomically

FORMAT = 1  # another one where the code of systems changes what they teach


@dataclass(frozen=True, order=True)
class Cell:
    """A system, whom it teaches, and with which seed; `student` is a name of the setup's students.

    >>> Cell("mnist", "LeNet-5-half", "ce", 0).name
    'mnist/LeNet-5-half/ce/0'
    """

    setup: str
    student: str
    system: str
    seed: int

    @property
    def name(self) -> str:
        """What progress and files call it."""
        return "/".join((self.setup, self.student.replace("/", "-"), self.system, str(self.seed)))


class Workbook:
    """All cells at one scale, in one folder; nothing is made before it is asked for.

    >>> import tempfile
    >>> book = Workbook(Path(tempfile.mkdtemp()), "smoke")
    >>> book.result(Cell("mnist", "LeNet-5-half", "ce", 0)) is None
    True
    """

    def __init__(
        self, folder: Path, scale: Scale, *, device: str = "cpu", progress: Progress = silent
    ) -> None:
        self.folder, self.scale, self.device = folder / scale, scale, device
        self.progress = progress
        self._benches: dict[str, Bench] = {}

    def bench(self, setup: str) -> Bench:
        """The images, teacher and runs of a setup; another folder for every other setting."""
        if setup not in self._benches:
            known = SETUPS[setup]
            about = (FORMAT, known.teacher, known.split, known.sizes[self.scale])
            digest = digest_of(about)
            place = self.folder / f"{setup}-{digest}"
            self._benches[setup] = Bench(known, self.scale, place, self.device, self.progress)
        return self._benches[setup]

    def file(self, cell: Cell) -> Path:
        """Where the result of a cell is."""
        bench = self.bench(cell.setup)
        return bench.folder.joinpath("cells", *place(bench, cell)).with_suffix(".json")

    def result(self, cell: Cell) -> Json | None:
        """What a cell gave; None if it was not run."""
        file = self.file(cell)
        return dict(json.loads(file.read_text())) if file.exists() else None

    def run(self, cell: Cell) -> Json:
        """Run a cell, unless it was run before; returns its result.

        Costs what its system costs, in queries of its own teacher here. Random by the cell's seed.

        Raises:
            Db3kdError: from the system, or a data set that is missing.
        """
        found = self.result(cell)
        if found is not None:
            return found
        bench, system = self.bench(cell.setup), SYSTEMS[cell.system]
        wall, cpu = time.monotonic(), time.process_time()
        result = _taught(bench, system, cell)
        result |= {
            "cpu_s": round(time.process_time() - cpu, 1),
            "wall_s": round(time.monotonic() - wall, 1),
            **provenance(self.device),
        }
        write_atomically(self.file(cell), json.dumps(result, indent=1).encode() + b"\n")
        return result


def place(bench: Bench, cell: Cell) -> tuple[str, str, str]:
    """The folder of a cell, below that of its setup; another one for other settings.

    What a system keeps there is read again by its name alone, so the folder must tell the rest.
    """
    _, student, name, seed = cell.name.split("/")
    settings = SYSTEMS[cell.system].settings(bench.setup.data, bench.scale)
    return student, name, f"{seed}-{digest_of(settings)}"


def digest_of(settings: object) -> str:
    """The part of a folder's name that tells settings apart.

    >>> len(digest_of(("ban", 3))), digest_of(3) == digest_of(4)
    (8, False)
    """
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:8]


def _taught(bench: Bench, system: System, cell: Cell) -> Json:
    net = bench.setup.students.get(cell.student, bench.setup.teacher)
    task = bench.task(net, cell.seed, "students", *place(bench, cell))
    settings = system.settings(bench.setup.data, bench.scale)
    network, queries = system.teach(bench, task, settings)
    return {
        "setup": cell.setup,
        "student": cell.student,
        "system": cell.system,
        "seed": cell.seed,
        "scale": bench.scale,
        "accuracy": round(bench.accuracy(network), 3),
        "teacher": round(bench.reached, 3),
        "queries": queries,
        "smaller": bench.size.words,
        "settings": repr(settings),
    }


def effort(cell: Cell) -> int:
    """How long a cell takes; only the order matters.

    >>> effort(Cell("mnist", "LeNet-5-half", "ce", 0))
    10
    """
    return SETUPS[cell.setup].effort * SYSTEMS[cell.system].effort


def by_effort(cells: Iterable[Cell]) -> list[Cell]:
    """Different cells in the order in which they are run: the cheapest first.

    >>> some = [Cell("mnist", "LeNet-5-half", name, 0) for name in ("mbd", "ce")]
    >>> [cell.system for cell in by_effort(some)]
    ['ce', 'mbd']
    """
    return sorted(set(cells), key=lambda cell: (effort(cell), cell))


def provenance(device: str) -> Json:
    """Where and by what a result was made.

    >>> sorted(provenance("cpu"))
    ['commit', 'date', 'device', 'versions']
    """
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return {
        "commit": commit() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{name}, {threads} thread{'s' if threads != 1 else ''}",
        "versions": {"db3kd": version("db3kd"), "torch": str(torch.__version__)},
    }
