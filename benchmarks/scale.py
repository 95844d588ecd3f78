"""What workers cost, and how far one process can lead them.

    python benchmarks/scale.py [--quick] --json scale.json

- `cpu_efficiency.ray2`: answers per CPU second of two Ray workers and the process that leads them,
  divided by those of two plain processes, in turns. The stage is "grow", with images at random.
- `turn_ms`, `lease_ms`: what an order to a worker, and a bound in the journal, take of the leading
  process.
- `efficiency.N`, `ledger_load.N`, `lost.N`: of a simulated run of 1e9 answers by N workers: its
  share of the speed that all have together, how busy the leading process is, and answers that ends
  of workers lose.

Two cores show exactness and CPU, not speed-up. `tests/faults/test_cluster.py` kills workers.
"""

import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import common
from common import Json

SHARD, QUESTION = 4096, 1024  # answers
WORKERS = (64, 256, 1000)


# What workers cost


def recipe_of(folder: Path, name: str, samples: int, per_image: int, *, led: bool) -> Any:
    """A recipe that grows images of MNIST at random, asked of a LeNet-5."""
    from db3kd.config.cluster import Cluster
    from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
    from db3kd.config.settings import Grow

    return Recipe(
        run=str(folder / name),
        data=DataConfig(train="mnist", samples=samples, test_samples=10),
        teacher=TeacherConfig(
            kind="network", network="lenet5", weights=str(folder / "lenet5.safetensors")
        ),
        grow=Grow(per_image=per_image, choose="random", shard=SHARD, rounds=1),
        student=StudentConfig(network="lenet5", methods=("grown",)),
        cluster=Cluster(engine="ray" if led else "none"),
    )


def child(folder: Path, name: str, samples: int, per_image: int, led: bool) -> None:
    """Grow, and print how many CPU seconds that took."""
    from db3kd.job.session import opened

    recipe = recipe_of(folder, name, samples, per_image, led=led)
    with opened(recipe) as job:
        job.run.answers(job.own.images)
        places = [place for r in job.run.journal.all("epoch") for place in r["workers"]]
        workers = [int(place.rpartition(" ")[2]) for place in places]
        before = time.process_time() + sum(map(cpu_of, workers))
        started, asked = time.monotonic(), job.run.meter.spent
        job.run.grow(job.own.images, recipe.grow)
        cpu = time.process_time() + sum(map(cpu_of, workers)) - before
        answers = job.run.meter.spent - asked
        print(json.dumps({"cpu": cpu, "wall": time.monotonic() - started, "answers": answers}))


def cpu_of(process: int) -> float:
    """CPU seconds of a process so far."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def compare(repeats: int, samples: int, per_image: int) -> list[Json]:
    """Two plain processes and two workers, in turns."""
    from db3kd.student.files import save_network
    from db3kd.student.networks import build

    found: list[Json] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_network(folder / "lenet5.safetensors", build("lenet5", (1, 28, 28), 10, 1.0, seed=0))
        for repeat in range(repeats):
            plain = [start(folder, f"plain-{repeat}-{k}", samples, per_image) for k in (0, 1)]
            alone = [ended(process) for process in plain]
            led = ended(start(folder, f"led-{repeat}", samples, 2 * per_image, led=True))
            rates = [
                sum(x["answers"] for x in some) / sum(x["cpu"] for x in some)
                for some in (alone, [led])
            ]
            found.append({"plain": rates[0], "ray2": rates[1], "ratio": rates[1] / rates[0]})
            common.say(f"repeat {repeat + 1}: {found[-1]}")
    return found


def start(
    folder: Path, name: str, samples: int, per_image: int, *, led: bool = False
) -> "subprocess.Popen[str]":
    """Start a process that grows."""
    words = [str(folder), name, str(samples), str(per_image), str(int(led))]
    command = [sys.executable, __file__, "--child", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def ended(process: "subprocess.Popen[str]") -> Json:
    """Wait for such a process; what it has printed."""
    out, _ = process.communicate()
    if process.returncode:
        sys.exit(f"a process of the benchmark ended with {process.returncode}")
    found: Json = json.loads(out.splitlines()[-1])
    return found


# What leading costs


def costs(count: int) -> dict[str, float]:
    """Milliseconds of an order to a worker and back, and of a bound in the journal."""
    import ray

    from db3kd.storage.journal import Journal

    class Idle:
        def turn(self, order: object) -> object:
            return order

    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    try:
        actor = ray.remote(Idle).remote()
        ray.get(actor.turn.remote(0))
        begun = time.process_time()
        for number in range(count):
            ray.wait([turn := actor.turn.remote(number)])
            ray.get(turn)
        turn_ms = 1000 * (time.process_time() - begun) / count
    finally:
        ray.shutdown()
    with tempfile.TemporaryDirectory(dir=".") as place:
        journal, begun = Journal(Path(place) / "journal.jsonl"), time.perf_counter()
        for number in range(count):
            journal.append("tape", stage="grow", shard=number, bound=1024)
        lease_ms = 1000 * (time.perf_counter() - begun) / count
        journal.close()
    return {"turn_ms": turn_ms, "lease_ms": lease_ms}


# A simulation of many workers


@dataclass(frozen=True)
class Cluster:
    """A simulated run; all times in seconds."""

    workers: int
    answers: int
    per_second: float  # answers of a worker
    turn: float  # of the leading process, for an order
    lease: float  # for a line in the journal
    life: float  # of a worker, on average
    start: float  # of a worker, until it asks
    beat: float  # between signs of life


def simulated(cluster: Cluster, seed: int = 0) -> Json:
    """Let workers do shards, and one process lead them.

    A worker comes to the leading process for a shard, for each doubling of its bound, and at the
    end; these are served one after the other. Signs of life take a turn each.
    """
    draw = random.Random(seed)
    left, served, busy, lost, now = -(-cluster.answers // SHARD), 0.0, 0.0, 0, 0.0
    bounds = [QUESTION, QUESTION, 2 * QUESTION]  # answers between leases
    beats = min(0.95, cluster.workers * cluster.turn / cluster.beat)  # share of the leading process
    ready = [
        (draw.uniform(0, cluster.start), worker, len(bounds)) for worker in range(cluster.workers)
    ]
    heapq.heapify(ready)
    while ready:
        came, worker, step = heapq.heappop(ready)
        if step == len(bounds):  # at the end of a shard, or before the first
            if not left:
                now = max(now, came)
                continue
            left, step = left - 1, 0
            need = 2 * cluster.lease + 2 * cluster.turn  # the shard's line, and the first bound
        else:
            need = cluster.lease + cluster.turn
        need /= 1 - beats
        served = max(served, came) + need
        busy += need * (1 - beats)
        until = served + bounds[step] / cluster.per_second
        if draw.random() < 1 - 2.718281828 ** -((until - served) / cluster.life):
            lost += QUESTION // 2
            until += cluster.start + draw.uniform(0, until - served)
        heapq.heappush(ready, (until, worker, step + 1))
    ideal = cluster.answers / (cluster.workers * cluster.per_second)
    return {
        **asdict(cluster),
        "hours": now / 3600,
        "efficiency": ideal / now,
        "ledger_load": min(1.0, busy / now + beats),
        "lost": lost,
    }


def main() -> None:
    """Measure, simulate and write."""
    from db3kd.config.cluster import Cluster as Settings
    from db3kd.stages.ray_crew import beat_of

    options = common.parser(__doc__).parse_args()
    repeats, samples, per_image = (2, 1000, 20) if options.quick else (5, 3000, 30)
    known = costs(300)
    table: list[Json] = []
    figures = dict(known)
    for workers in WORKERS:
        for per_second in (100.0, 1000.0):
            found = simulated(
                Cluster(
                    workers=workers,
                    answers=10**9,
                    per_second=per_second,
                    turn=known["turn_ms"] / 1000,
                    lease=known["lease_ms"] / 1000,
                    life=6 * 3600.0,
                    start=30.0,
                    beat=beat_of(Settings(engine="ray", workers=workers)),
                )
            )
            table.append(found)
            common.say(f"{workers} workers of {per_second:g} a second: {found['efficiency']:.3f}")
        for name in ("efficiency", "ledger_load", "lost"):
            figures[f"{name}.{workers}"] = float(table[-2][name])
    compared = compare(repeats, samples, per_image)
    figures["cpu_efficiency.ray2"] = median(row["ratio"] for row in compared)
    setting = {"shard": SHARD, "question": QUESTION, "figures_are_of": "100 answers a second"}
    common.write(options.json, figures=figures, setting=setting, table=[*table, *compared])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(
            Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6] == "1"
        )
    else:
        main()
