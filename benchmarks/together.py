"""What Lightning Fabric costs a student that one device trains, and whether several agree.

    python benchmarks/together.py [--quick] --json together.json

Needs the extra `fabric`. Networks learn random images, in batches of 64, on one thread.

- `step_over_plain.NETWORK`: CPU seconds of a step through Fabric with one device, over those of the
  loop without it: the median of repeats that take turns. The loop without it is what db3kd uses.
- `weights_differ.2`: weights that differ after a training by two processes (gloo), which each
  keep theirs.
- `step_over_alone.2`: seconds of a step of two processes on two cores, over those of one process on
  one core. 0.5 would be perfect.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import common
from common import Json
from db3kd.config.settings import Training, settled
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.progress import silent
from db3kd.student import load_network, save_network, train
from db3kd.student.networks import build
from db3kd.student.ranks import Alone, Ranks
from db3kd.student.together import fabric_of
from db3kd.student.training import taught

CASES = {"lenet5_half": ("lenet5", (1, 28, 28), 50), "alexnet_half": ("alexnet", (3, 32, 32), 3)}
TWO = "lenet5_half"


def samples(shape: tuple[int, int, int], count: int) -> TransferSet:
    """Random images and labels."""
    draw = torch.Generator().manual_seed(0)
    images = TensorImages(torch.rand(count, *shape, generator=draw))
    labels = torch.randint(10, (count,), generator=draw)
    return TransferSet(images, torch.arange(count), labels, labels)


def step_seconds(case: str, ranks: Ranks, blocks: int) -> float:
    """CPU seconds of a step: the median of blocks, without the first."""
    name, shape, steps = CASES[case]
    times = [time.process_time()]
    taught(
        ranks,
        build(name, shape, 10, 0.5, seed=0),
        samples(shape, 64 * steps),
        settled(Training(epochs=blocks + 1)),
        seed=0,
        device=torch.device("cpu"),
        progress=silent,
        checkpoint=None,
        identity=None,
        on_epoch=lambda *_: times.append(time.process_time()),
    )
    lengths = [later - earlier for earlier, later in pairwise(times[1:])]
    return statistics.median(lengths) / steps


def one_of_two(folder: Path, steps: int) -> None:
    """What each of two processes does: train, and keep its weights."""
    name, shape, _ = CASES[TWO]
    network = build(name, shape, 10, 0.5, seed=0)
    times: list[float] = []
    train(
        network,
        samples(shape, 64 * 50),
        Training(steps=steps, devices=2),
        seed=0,
        device="cpu",
        on_epoch=lambda *_: times.append(time.perf_counter()),
    )
    rank = os.environ["RANK"]
    save_network(folder / f"{rank}.safetensors", network)
    lengths = [later - earlier for earlier, later in pairwise(times)]
    (folder / f"{rank}.seconds").write_text(str(statistics.median(lengths) / 50))


def two_processes(steps: int) -> tuple[int, float]:
    """How many weights differ, and the seconds of a step."""
    name, shape, _ = CASES[TWO]
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with tempfile.TemporaryDirectory() as folder:
        child = [__file__, "--json", "unused", "--rank-of", folder, "--steps", str(steps)]
        subprocess.run([sys.executable, *words, *child], check=True)
        networks = [
            load_network(Path(folder, f"{rank}.safetensors"), build(name, shape, 10, 0.5, seed=0))
            for rank in (0, 1)
        ]
        seconds = float(Path(folder, "0.seconds").read_text())
    pairs = zip(networks[0].parameters(), networks[1].parameters(), strict=True)
    return sum(int((one != other).sum()) for one, other in pairs), seconds


def main() -> None:
    """Run the benchmark."""
    options = common.parser(__doc__)
    options.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--steps", type=int, default=1000, help=argparse.SUPPRESS)
    given = options.parse_args()
    torch.set_num_threads(1)
    if given.rank_of:
        one_of_two(given.rank_of, given.steps)
        return
    repeats, blocks, steps = (3, 3, 200) if given.quick else (9, 7, 1000)
    fabric, figures, table = fabric_of("cpu", 1), dict[str, float](), list[Json]()
    for case in CASES:
        for number in range(repeats):
            ways: dict[str, Ranks] = {"plain": Alone(), "fabric": fabric}
            order = sorted(ways, reverse=number % 2 > 0)
            seconds: dict[str, Any] = {way: step_seconds(case, ways[way], blocks) for way in order}
            table.append({"case": case, **seconds, "ratio": seconds["fabric"] / seconds["plain"]})
            common.say(f"{case} {number + 1}: {table[-1]['ratio']:.3f}")
        rows = [row for row in table if row["case"] == case]
        figures[f"step_over_plain.{case}"] = statistics.median(row["ratio"] for row in rows)
        figures[f"step_ms.{case}"] = 1000 * statistics.median(row["plain"] for row in rows)
    differ, seconds_of_two = two_processes(steps)
    figures["weights_differ.2"] = differ
    figures["step_over_alone.2"] = 1000 * seconds_of_two / figures[f"step_ms.{TWO}"]
    setting = {"repeats": repeats, "blocks": blocks, "steps": steps, "threads": 1, "batch": 64}
    common.write(given.json, figures=figures, setting=setting, table=table)


if __name__ == "__main__":
    main()
