"""Peak memory of labelling 60,000 and 600,000 images, and of making pseudo samples.

    python benchmarks/memory.py [--quick] --json memory.json

All figures are peak resident memory of a new process.

- `peak_rss_gib.60k`, `peak_rss_gib.600k`: a run measures the distances of this many MNIST images,
  read from a parquet file. The larger file repeats the rows of the smaller one ten times. The query
  limit is small, so that the larger file takes minutes.
- `peak_rss_gib.label_60k` and so on: the same after the process has also made the transfer set,
  whose soft labels grow with the set.
- `peak_rss_gib.default_search`: a few hundred images with the default search, which shows what one
  shard needs.
- `peak_rss_gib.pseudo_80k`: a run makes 80,000 pseudo samples of 3 x 32 x 32 pixels (0.23 GiB) and
  trains a student on them. `times.pseudo_80k` is what it needed for that, divided by their size.

The teacher costs nothing and only counts. With --quick the sizes are 6,000 and 60,000. See
README.md.
"""

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
from db3kd.errors import Db3kdError

SIZES = (60_000, 600_000)
QUICK_SIZES = (6_000, 60_000)
DEFAULT_SEARCH = {"queries": 1000, "references": 100, "shard": 200}
TWO_SHARDS = 400  # images; the second one shows whether the first left something behind
PSEUDO, QUICK_PSEUDO, PIXELS = 80_000, 8_000, (3, 32, 32)


def main() -> int:
    """Write the files, label each in its own process, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--queries", type=int, default=4, help="for each row; default: 4")
    options.add_argument("--references", type=int, default=100, help="of each class; default: 100")
    options.add_argument("--shard", type=int, default=200, help="samples; default: 200")
    options.add_argument("--only", choices=("label", "pseudo"), help="only this half")
    options.add_argument("--label", type=Path, help="used inside: label this file, here and now")
    options.add_argument("--pseudo", type=int, help="used inside: make this many, here and now")
    given = options.parse_args()
    search = {"queries": given.queries, "references": given.references, "shard": given.shard}
    if given.label:
        given.json.write_text(json.dumps(_label(given.label, search)))
        return 0
    if given.pseudo:
        given.json.write_text(json.dumps(_synthesize(given.pseudo)))
        return 0
    figures: dict[str, float] = {}
    table = []
    with tempfile.TemporaryDirectory() as folder:
        if given.only != "pseudo":
            for size in QUICK_SIZES if given.quick else SIZES:
                table.append(_fresh_process(Path(folder), size, search))
                peak = table[-1]["peak_rss_gib"]
                figures[f"peak_rss_gib.{size // 1000}k"] = peak["measure"]
                figures[f"peak_rss_gib.label_{size // 1000}k"] = peak["label"]
            table.append(_fresh_process(Path(folder), TWO_SHARDS, DEFAULT_SEARCH))
            figures["peak_rss_gib.default_search"] = table[-1]["peak_rss_gib"]["measure"]
        if given.only != "label":
            count = QUICK_PSEUDO if given.quick else PSEUDO
            table.append(_process(Path(folder), [f"--pseudo={count}"]))
            figures[f"peak_rss_gib.pseudo_{count // 1000}k"] = table[-1]["peak_rss_gib"]["student"]
            figures[f"times.pseudo_{count // 1000}k"] = table[-1]["times"]
    setting = {**search, "quick": given.quick, "threads": table[0]["threads"]}
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def _fresh_process(folder: Path, size: int, search: common.Json) -> common.Json:
    """Label the first `size` images in a separate process."""
    parquet = folder / "images.parquet"
    _repeat_rows(_mnist(), parquet, size)
    arguments = [f"--{name}={value}" for name, value in search.items()]
    return _process(folder, ["--label", str(parquet), *arguments])


def _process(folder: Path, arguments: list[str]) -> common.Json:
    """Run this file again with these arguments, and return what it wrote."""
    result = folder / "result.json"
    subprocess.run([sys.executable, __file__, "--json", result, *arguments], check=True)
    row: common.Json = json.loads(result.read_text())
    common.say(f"  {row}")
    return row


def _mnist() -> Path:
    from db3kd.data import data_root
    from db3kd.errors import InputError

    root = data_root()
    files = sorted(root.glob("mnist/**/train-*.parquet")) if root else []
    if not files:
        raise InputError(
            f"there is no MNIST in {root or '../shared/data'}; set DB3KD_DATA to a folder that"
            " holds mnist/data/train-00000-of-00001.parquet"
        )
    return files[0]


def _repeat_rows(source: Path, target: Path, size: int) -> None:
    """Write `size` rows by repeating those of a file, with its row groups."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as opened, pq.ParquetWriter(target, opened.schema_arrow) as writer:
        left = size
        while left:
            for group in range(opened.num_row_groups):
                rows = opened.read_row_group(group).slice(0, left)
                writer.write_table(rows)
                left -= rows.num_rows
                if not left:
                    break


def _label(parquet: Path, search: common.Json) -> common.Json:
    """Label one file in this process, and read its peak memory on the way."""
    import torch

    from db3kd.config.settings import Search
    from db3kd.data import ParquetImages
    from db3kd.run import Run
    from db3kd.teachers import function

    images = ParquetImages([parquet])
    prototypes = images.read(torch.arange(10)).flatten(1)
    offset = prototypes.square().sum(1) / 2
    asked = 0

    def nearest(block: torch.Tensor) -> torch.Tensor:
        nonlocal asked
        asked += len(block)
        return (block.flatten(1) @ prototypes.T - offset).argmax(1)

    peak = {"start": _peak()}
    settings = Search(strategy="rows", **search)
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        Run(folder, function(nearest, classes=10), seed=0) as run,
    ):
        run.answers(images)
        peak["answers"] = _peak()
        run.measure(images, settings)
        peak["measure"] = _peak()
        seconds = time.perf_counter() - started
        transfer = run.label(images, settings)
        peak["label"] = _peak()
        spent = run.meter.spent
    if spent != asked or transfer.soft is None or len(transfer.soft) != len(images):
        raise RuntimeError(f"the books say {spent} queries, the teacher counted {asked}")
    return {
        "images": len(images),
        "search": search,
        "peak_rss_gib": peak,
        "queries": spent,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
    }


def _synthesize(count: int) -> common.Json:
    """Make pseudo samples and train a student in this process, and read its peak memory."""
    import msgspec
    import torch

    from db3kd.config.settings import Synthesis, Training
    from db3kd.run import Run
    from db3kd.student.networks import build
    from db3kd.student.training import train
    from db3kd.teachers import function

    def brightest(block: torch.Tensor) -> torch.Tensor:
        return block.mean((2, 3)).argmax(1)

    settings = Synthesis(queries=count, way="shapes", ensemble_labels=0, surrogate="small")
    network = build("small", PIXELS, 3, 0.25, seed=0)
    training = Training(steps=20)
    with (
        tempfile.TemporaryDirectory() as folder,
        Run(folder, function(brightest, classes=3), seed=0) as run,
    ):
        run.synthesize(PIXELS, msgspec.structs.replace(settings, queries=TWO_SHARDS))
    peak = {"start": _peak()}
    with (
        tempfile.TemporaryDirectory() as folder,
        Run(folder, function(brightest, classes=3), seed=0) as run,
    ):
        samples = run.synthesize(PIXELS, settings)
        peak["synthesize"] = _peak()
        train(network, samples, training, seed=0, device="cpu")
        peak["student"] = _peak()
    needed = (peak["student"] - peak["start"]) * 2**30
    return {
        "pseudo_samples": count,
        "peak_rss_gib": peak,
        "gib_of_samples": round(count * math.prod(PIXELS) / 2**30, 4),
        "times": round(needed / (count * math.prod(PIXELS)), 3),
        "threads": torch.get_num_threads(),
    }


def _peak() -> float:
    """Peak resident memory of this process so far, in GiB (Linux counts in KiB)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 4)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
