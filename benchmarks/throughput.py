"""How much of a teacher's raw speed is left when distances are searched with it.

    python benchmarks/throughput.py [--quick] --json throughput.json

- `mbd_over_raw.NAME`: queries per second of MBD labelling, through the meter, divided by images per
  second of the same teacher at its best batch size.
- `taped_over_raw.NAME`: the same with the tape, as in a run.
- `grow_over_raw.NAME`: the same for the stage "grow" in a run, with images asked at random.
- `shapes_over_raw.NAME`, `noise_over_raw.NAME`: the same for pseudo samples, without any data.
- `adapter_over_plain.NAME`: images per second of the same teacher, divided by those of the bare
  module as it was written, at its best batch size, in turns of one block of images.

Search and raw teacher take turns about once a second within one process, so that both meet the same
conditions. Each repeat gives one ratio; the figure is their median. See README.md.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

import common
from db3kd.config.settings import Grow, Search, Synthesis, Training, Ways
from db3kd.data import DataSet, TensorImages, in_memory, load, subset
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Damaged, Db3kdError, InputError
from db3kd.run import Run
from db3kd.search.robustness import References, choose_references
from db3kd.search.rows import measure
from db3kd.stages.taped import ReplayTeacher
from db3kd.storage.tape import Tape
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.files import load_network, save_network
from db3kd.student.networks import build
from db3kd.student.training import train
from db3kd.teachers import torch_module
from db3kd.teachers.base import Teacher, micro_batches
from db3kd.teachers.meter import Meter
from db3kd.teachers.torch_module import TorchTeacher

BATCHES = (64, 128, 200, 256, 512, 1024)  # candidates for the raw teacher
POOL = 20_000  # images that references are drawn from
SLICE = 1.0  # seconds of search between two turns of the raw teacher
GROWN_FROM, GROWN = 1000, 200  # own images, and how many are made of each
TURNS = 11  # of the adapter and of the module as written, in one repeat


@dataclass(frozen=True)
class Case:
    """A teacher, what it is trained on, and how much is searched."""

    name: str
    network: str
    data: str
    train: int  # images
    epochs: int
    samples: int
    burst: int  # images in one turn of the raw teacher


FULL = (
    Case("lenet5_mnist", "lenet5", "mnist", 60_000, 2, 30, 2048),
    Case("alexnet_cifar10", "alexnet", "cifar10", 20_000, 3, 20, 512),
)
QUICK = (
    Case("lenet5_mnist", "lenet5", "mnist", 10_000, 2, 20, 1024),
    Case("alexnet_cifar10", "alexnet", "cifar10", 4_000, 2, 6, 256),
)


@dataclass
class TakingTurns:
    """A teacher that now and then stops the search's clock and gives the raw teacher a turn."""

    teacher: Teacher
    raw: Teacher
    block: Tensor
    asked: int = 0
    inside: float = 0.0  # seconds of the search that the teacher itself took
    images: int = 0  # of the raw teacher
    seconds: float = 0.0  # of the raw teacher
    cpu: float = 0.0  # of the raw teacher
    batches: list[int] = field(default_factory=list)
    _last: float = field(default_factory=time.perf_counter)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.teacher.classes

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a pixel."""
        return self.teacher.bounds

    def labels(self, images: Tensor, /) -> Tensor:
        """Class index of each image; when a slice is over, the raw teacher gets a turn."""
        started = time.perf_counter()
        answers = self.teacher.labels(images)
        ended = time.perf_counter()
        self.inside += ended - started
        self.asked += len(images)
        self.batches.append(len(images))
        if ended - self._last > SLICE:
            cpu = time.process_time()
            self.raw.labels(self.block)
            self._last = time.perf_counter()
            self.cpu += time.process_time() - cpu
            self.seconds += self._last - ended
            self.images += len(self.block)
        return answers


def main() -> int:
    """Run every case and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--threads", type=int, help="threads of torch; default: torch's own")
    options.add_argument("--repeats", type=int, help="default: 5, with --quick 1")
    options.add_argument("--queries", type=int, default=1000, help="per row; default: 1000")
    options.add_argument("--samples", type=int, help="default: 30 and 20, with --quick 20 and 6")
    options.add_argument("--case", help="only this case, for example lenet5_mnist")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    repeats = given.repeats or (1 if given.quick else 5)
    search = Search(strategy="rows", queries=given.queries)
    figures, settings, table = {}, {}, []
    for case in QUICK if given.quick else FULL:
        if given.case not in (None, case.name):
            continue
        try:
            bench = Bench.of(case, search, given.samples or case.samples)
        except InputError as error:
            common.say(f"error: {error}")
            return 1
        settings[case.name] = bench.setting()
        rows = [bench.repeat(taped) for _ in range(repeats) for taped in (False, True)]
        table += rows
        for name, taped in (("mbd", False), ("taped", True)):
            some = [row for row in rows if row["taped"] == taped]
            figures[f"{name}_over_raw.{case.name}"] = median(row["ratio"] for row in some)
            figures[f"{name}_over_raw_cpu.{case.name}"] = median(row["ratio_cpu"] for row in some)
        for name in ("grow", "shapes", "noise"):
            rows = [bench.stage(name) for _ in range(repeats)]
            table += rows
            figures[f"{name}_over_raw.{case.name}"] = median(row["ratio"] for row in rows)
            figures[f"{name}_over_raw_cpu.{case.name}"] = median(row["ratio_cpu"] for row in rows)
        rows = [bench.turns() for _ in range(repeats)]
        table += rows
        figures[f"adapter_over_plain.{case.name}"] = median(row["ratio"] for row in rows)
        figures[f"adapter_over_plain_cpu.{case.name}"] = median(row["ratio_cpu"] for row in rows)
    setting = {
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "queries": search.queries,
        "references": search.references,
        "quick": given.quick,
        "cases": settings,
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


@dataclass(frozen=True)
class Bench:
    """What the repeats of one case share."""

    case: Case
    search: Search
    teacher: TorchTeacher
    raw: Teacher
    best: int
    rates: dict[int, float]
    plain: Callable[[Tensor], Tensor]
    plain_best: int
    plain_rates: dict[int, float]
    agrees: float
    images: Tensor
    own: Tensor
    references: References
    block: Tensor
    parents: TensorImages

    @classmethod
    def of(cls, case: Case, search: Search, samples: int) -> "Bench":
        """Train the teacher, ask about the references, and find the best batch size."""
        data = load(case.data, f"train[:{max(case.train, POOL)}]")
        data = DataSet(in_memory(data.images), data.labels, data.classes)
        net = _network(case, data)
        teacher: TorchTeacher = torch_module(net, classes=10)
        pool = subset(data, torch.arange(POOL))
        answers = predict(net, pool.images, device="cpu", batch=256)
        chosen, rejected = choose_references(
            answers,
            classes=10,
            per_class=search.references,
            generator=torch.Generator().manual_seed(0),
        )
        references = References(pool.images.read(chosen), answers[chosen], rejected)
        block = pool.images.read(torch.arange(case.burst))
        teacher.labels(block)  # finds out how to ask
        raws = {batch: torch_module(net, classes=10, batch=batch) for batch in BATCHES}
        best, rates = _best_batch({batch: raw.labels for batch, raw in raws.items()}, block)
        plains = {batch: _plain(net, batch) for batch in BATCHES}
        plain_best, plain_rates = _best_batch(plains, block)
        common.say(f"{case.name}: {teacher.chosen}; {rates[best]:.0f} images/s at {best}")
        common.say(f"  as written {plain_rates[plain_best]:.0f} images/s at {plain_best}")
        return cls(
            case,
            search,
            teacher,
            raws[best],
            best,
            rates,
            plains[plain_best],
            plain_best,
            plain_rates,
            accuracy(answers, pool.labels),
            pool.images.read(torch.arange(samples)),
            answers[:samples],
            references,
            block,
            TensorImages(in_memory(data.images).values[:GROWN_FROM]),
        )

    def setting(self) -> common.Json:
        """The setting of this case."""
        return {
            "network": self.case.network,
            "data": self.case.data,
            "trained_on": self.case.train,
            "epochs": self.case.epochs,
            "accuracy_on_pool": round(self.agrees, 4),
            "samples": len(self.own),
            "raw_batch": self.best,
            "raw_rates_by_batch": {str(batch): round(r) for batch, r in self.rates.items()},
            "adapter": self.teacher.chosen,
            "plain_batch": self.plain_best,
            "plain_rates_by_batch": {str(b): round(r) for b, r in self.plain_rates.items()},
        }

    def turns(self) -> common.Json:
        """Show the block to the adapter and to the module as written in turns."""
        asks = {"adapter": self.teacher.labels, "plain": self.plain}
        wall: dict[str, list[float]] = {name: [] for name in asks}
        cpu: dict[str, list[float]] = {name: [] for name in asks}
        answers: dict[str, Tensor] = {}
        for turn in range(TURNS):
            for name in asks if turn % 2 else reversed(asks):
                started, used = time.perf_counter(), time.process_time()
                answers[name] = asks[name](self.block)
                cpu[name].append(time.process_time() - used)
                wall[name].append(time.perf_counter() - started)
        row = {
            "case": self.case.name,
            "ratio": round(median(wall["plain"]) / median(wall["adapter"]), 4),
            "ratio_cpu": round(median(cpu["plain"]) / median(cpu["adapter"]), 4),
            "adapter_per_second": round(len(self.block) / median(wall["adapter"]), 1),
            "plain_per_second": round(len(self.block) / median(wall["plain"]), 1),
            "labels_differ": int((answers["adapter"] != answers["plain"]).sum()),
        }
        common.say(f"  {row}")
        return row

    def repeat(self, taped: bool) -> common.Json:
        """Label all samples once, with turns of the raw teacher in between."""
        with tempfile.TemporaryDirectory() as folder:
            turns = TakingTurns(self.teacher, self.raw, self.block)
            meter = Meter(turns)
            tape = Tape(Path(folder) / "0.tape", classes=10) if taped else None
            started, cpu = time.perf_counter(), time.process_time()
            with torch.no_grad():
                measure(
                    ReplayTeacher(meter, tape) if tape else meter,
                    self.images,
                    self.own,
                    self.references,
                    self.search,
                    noise_seed=0,
                )
            seconds = time.perf_counter() - started - turns.seconds
            cpu = time.process_time() - cpu - turns.cpu
            if tape:
                tape.close()
        if not turns.images:
            raise InputError("the search took less than a second; give more --samples")
        mbd, raw = turns.asked / seconds, turns.images / turns.seconds
        row = {
            "case": self.case.name,
            "taped": taped,
            "ratio": round(mbd / raw, 4),
            "ratio_cpu": round(turns.asked / cpu / (turns.images / turns.cpu), 4),
            "mbd_per_second": round(mbd, 1),
            "raw_per_second": round(raw, 1),
            "cpu_per_wall": round(cpu / seconds, 3),
            "cpu_per_wall_raw": round(turns.cpu / turns.seconds, 3),
            "share_in_teacher": round(turns.inside / seconds, 4),
            "queries": turns.asked,
            "seconds": round(seconds, 2),
            "raw_seconds": round(turns.seconds, 2),
            "mean_batch": round(turns.asked / len(turns.batches), 1),
            "share_of_queries_in_batches_below_64": round(
                sum(batch for batch in turns.batches if batch < 64) / turns.asked, 4
            ),
        }
        common.say(f"  {row}")
        return row

    def stage(self, name: str) -> common.Json:
        """Grow or synthesise images in a run, with turns of the raw teacher in between."""
        turns = TakingTurns(self.teacher, self.raw, self.block)
        with tempfile.TemporaryDirectory() as folder, Run(folder, turns) as run:
            run.answers(self.parents)
            turns.asked, turns.images, turns.seconds, turns.cpu, turns.inside = 0, 0, 0.0, 0.0, 0.0
            started, cpu = time.perf_counter(), time.process_time()
            if name == "grow":
                run.grow(self.parents, Grow(per_image=GROWN, choose="random"))
            else:
                queries = GROWN_FROM * GROWN
                way: Ways = "shapes" if name == "shapes" else "noise"
                run.synthesize(self.parents.shape, Synthesis(way=way, queries=queries))
            seconds = time.perf_counter() - started - turns.seconds
            cpu = time.process_time() - cpu - turns.cpu
        made_per_s, raw = turns.asked / seconds, turns.images / turns.seconds
        row = {
            "case": self.case.name,
            "stage": name,
            "ratio": round(made_per_s / raw, 4),
            "ratio_cpu": round(turns.asked / cpu / (turns.images / turns.cpu), 4),
            "made_per_second": round(made_per_s, 1),
            "raw_per_second": round(raw, 1),
            "cpu_per_wall": round(cpu / seconds, 3),
            "share_in_teacher": round(turns.inside / seconds, 4),
            "made": turns.asked,
        }
        common.say(f"  {row}")
        return row


def _network(case: Case, data: DataSet) -> nn.Module:
    """Train briefly, or load the weights of an earlier benchmark."""
    net = build(case.network, data.images.shape, 10, seed=0)
    folder = Path(tempfile.gettempdir()) / "db3kd-benchmarks"
    path = folder / f"{case.name}-{case.train}-{case.epochs}.safetensors"
    if path.exists():
        try:
            return load_network(path, net).eval()
        except (InputError, Damaged):
            common.say(f"{path} does not fit, training again")
    started = time.perf_counter()
    part = subset(data, torch.arange(case.train))
    transfer = TransferSet(part.images, torch.arange(case.train), part.labels, part.labels)
    train(net, transfer, Training(epochs=case.epochs), seed=0, device="cpu")
    common.say(f"{case.name}: trained in {time.perf_counter() - started:.0f} s")
    folder.mkdir(exist_ok=True)
    save_network(path, net)
    return net.eval()


def _plain(net: nn.Module, batch: int) -> Callable[[Tensor], Tensor]:
    """The bare module as it was written, without the adapter's checks."""

    def ask(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.cat([net(part).argmax(1) for part in micro_batches(images, batch)])

    return ask


def _best_batch(
    asks: dict[int, Callable[[Tensor], Tensor]], block: Tensor
) -> tuple[int, dict[int, float]]:
    """The batch size at which a teacher is fastest, by the median of five rounds in turn."""
    asks = {batch: ask for batch, ask in asks.items() if batch <= len(block)}
    rates: dict[int, list[float]] = {batch: [] for batch in asks}
    for ask in asks.values():
        ask(block[:1])  # whatever a first question costs
    for _ in range(5):
        for batch, ask in asks.items():
            started = time.perf_counter()
            ask(block)
            rates[batch].append(len(block) / (time.perf_counter() - started))
    medians = {batch: median(found) for batch, found in rates.items()}
    return max(medians, key=lambda batch: medians[batch]), medians


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
