"""How fast a remote teacher is asked through MLServer, compared with a bare load generator.

    python benchmarks/remote.py [--quick] --json remote.json

- `remote_over_bare.mlserver`: images per second of `db3kd.teachers.remote`, which keeps every
  answer in a store before it is used, divided by those of a bare client. That client sends the same
  requests, made in advance, as many at a time, and throws the replies away.
- `adapter_over_bare.mlserver`: the same without the store.

All take turns on one server, in another order each turn. A figure is the median of the ratios of
the turns; the table has their quartiles. The server is stock MLServer with a classifier of
scikit-learn's digits and one worker, on this machine. Run `make servers` first. See README.md.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median, quantiles

import httpx2
import torch
from torch import Tensor

import common
from db3kd.config.remote import Encoding, Remote
from db3kd.errors import Db3kdError
from db3kd.teachers.cached import CachedTeacher, Store
from db3kd.teachers.encoding.encoder import Encoder
from db3kd.teachers.remote import RemoteTeacher, remote
from db3kd.teachers.remote.protocols import Request, of

sys.path.insert(0, str(common.PROJECT / "tests"))
from servers import real

TURNS, QUICK_TURNS = 31, 3
IMAGES, QUICK_IMAGES = 8_192, 2_048  # images in a turn; QUESTION, in a question
QUESTION = 4_096


def main() -> int:
    """Ask in turns, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--batch", type=int, default=64, help="images in a request")
    options.add_argument("--concurrency", type=int, default=4, help="requests at a time")
    given = options.parse_args()
    if real.MISSING:
        common.say(f"error: {real.MISSING}")
        return 1
    turns = QUICK_TURNS if given.quick else TURNS
    with tempfile.TemporaryDirectory() as folder, real.mlserver(Path(folder)) as server:
        settings = Remote(
            url=server.url,
            protocol="oip",
            model="digits",
            encoding=Encoding(kind="float32"),
            batch=given.batch,
            concurrency=given.concurrency,
        )
        images = made(server, QUICK_IMAGES if given.quick else IMAGES)
        teacher = remote(settings, classes=10)
        turn = [0]

        def kept(part: Tensor) -> None:
            turn[0] += 1  # a store of its own, so that nothing is known
            with Store(Path(folder) / f"{turn[0]}.db3kd") as store:
                asked(CachedTeacher(teacher, store, teacher.identity, key=teacher.keys), part)

        ways: dict[str, Callable[[Tensor], None]] = {
            "bare": lambda part: bare(requests(settings, part), given.concurrency),
            "adapter": lambda part: asked(teacher, part),
            "remote": kept,
        }
        seconds = in_turns(ways, images, turns)
        teacher.close()
    rates = {name: [len(images) / each for each in some] for name, some in seconds.items()}
    ratios = {
        name: [own / bare for own, bare in zip(some, rates["bare"], strict=True)]
        for name, some in rates.items()
    }
    figures = {f"{name}_over_bare.mlserver": median(ratios[name]) for name in ("remote", "adapter")}
    table = [
        {
            "way": name,
            "images_per_second": [round(r) for r in some],
            "over_bare_quartiles": [round(q, 4) for q in quantiles(ratios[name], n=4)],
        }
        for name, some in rates.items()
    ]
    setting = {
        "batch": given.batch,
        "concurrency": given.concurrency,
        "images": len(images),
        "question": QUESTION,
        "turns": turns,
    }
    common.write(given.json, figures=figures, setting=setting, table=table)
    return 0


def made(server: real.Server, count: int) -> Tensor:
    """Images that all differ: the known digits, each a little darker than the one before."""
    known = torch.as_tensor(server.known.images)
    rows = torch.arange(count)
    return known[rows % len(known)] * (1 - rows / (2 * count)).reshape(-1, 1, 1, 1)


def in_turns(
    ways: dict[str, Callable[[Tensor], None]], images: Tensor, turns: int
) -> dict[str, list[float]]:
    """The seconds of each way, turn by turn; a first turn warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        first = turn % len(ways)
        for name, way in (*list(ways.items())[first:], *list(ways.items())[:first]):
            started = time.perf_counter()
            way(images)
            if turn:
                seconds[name].append(time.perf_counter() - started)
        common.say(f"  turn {turn} of {turns}")
    return seconds


def asked(teacher: CachedTeacher | RemoteTeacher, images: Tensor) -> None:
    """Ask about all images, in questions of a run's size."""
    for part in torch.split(images, QUESTION):
        teacher.labels(part)


_READY: dict[int, list[Request]] = {}


def requests(settings: Remote, images: Tensor) -> list[Request]:
    """Exactly the requests that the adapter sends, made once."""
    if not _READY:
        channels, height, width = images.shape[1:]
        protocol = of(settings, Encoder(settings.encoding, (channels, height, width), (0.0, 1.0)))
        _READY[0] = [protocol.request(part) for part in torch.split(images, settings.batch)]
    return _READY[0]


def bare(ready: Sequence[Request], concurrency: int) -> None:
    """Send them, a fixed number at a time; read the replies and throw them away."""
    asyncio.run(_bare(ready, concurrency))


async def _bare(ready: Sequence[Request], concurrency: int) -> None:
    rest = iter(ready)
    async with httpx2.AsyncClient(trust_env=False, timeout=60.0) as client:

        async def work() -> None:
            for one in rest:
                reply = await client.request(
                    one.method, one.url, headers=dict(one.headers), content=one.body
                )
                reply.raise_for_status()

        await asyncio.gather(*(work() for _ in range(concurrency)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
