"""A teacher on a CPU: as written, by the rewrites of `db3kd.teachers.faster`, and by OpenVINO.

    pip install openvino
    python benchmarks/backends.py --threads 1 --json backends.json

- `FORM_over_plain.NAME`: images per second of a network in another form, over those of the module
  as written. Forms: "adapter" (`torch_module`), "latency", "throughput" (OpenVINO by that hint).
- `FORM_differ.NAME`: how many of 2,000 test images get another label.
- `FORM_start.NAME`: seconds until a form can be asked.

All forms answer one block in turns within one process; `over_plain_cpu` has CPU time.
"""

import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

import common
from db3kd.data import load
from db3kd.teachers import torch_module
from db3kd.teachers.base import micro_batches
from throughput import FULL, POOL, QUICK, Case, _network, _plain

BATCH, TURNS, TESTED = 256, 9, 2000
CASES = (FULL[0], QUICK[1], Case("resnet18_cifar10", "resnet18", "cifar10", 2_000, 2, 0, 256))
Ask = Callable[[Tensor], Tensor]
Json = common.Json


def openvino(net: nn.Module, image: Tensor, hint: str, threads: int) -> Ask:
    """Compile a network for OpenVINO in float32 and return how to ask it for labels."""
    import openvino as ov

    model = ov.convert_model(net, example_input=image)
    model.reshape([-1, *image.shape[1:]])
    setting = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": hint}
    compiled = ov.Core().compile_model(model, "CPU", setting | {"INFERENCE_NUM_THREADS": threads})
    queue = ov.AsyncInferQueue(compiled)
    found: dict[int, Tensor] = {}
    queue.set_callback(
        lambda request, place: found.update(
            {place: torch.from_numpy(request.get_output_tensor().data).argmax(1)}
        )
    )

    def ask(images: Tensor) -> Tensor:
        for place, part in enumerate(micro_batches(images, BATCH)):
            queue.start_async([part.numpy()], place)
        queue.wait_all()
        return torch.cat([found.pop(place) for place in sorted(found)])

    return ask


def forms(case: Case, net: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, Ask], Json]:
    """Every form of one network, and the seconds that each took to be ready."""
    blank, threads = torch.zeros(1, *shape), torch.get_num_threads()
    makers: dict[str, Callable[[], Ask]] = {
        "plain": lambda: _plain(net, BATCH),
        "adapter": lambda: torch_module(net, classes=10).labels,
        "latency": lambda: openvino(net, blank, "LATENCY", threads),
        "throughput": lambda: openvino(net, blank, "THROUGHPUT", threads),
    }
    asks: dict[str, Ask] = {}
    starts: Json = {}
    for name, maker in makers.items():
        started = time.perf_counter()
        asks[name] = maker()
        asks[name](blank)
        starts[name] = time.perf_counter() - started
    common.say(f"{case.name}: seconds to start {starts}")
    return asks, starts


def main() -> int:
    """Measure every case and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--case", help="only this case, for example lenet5_mnist")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    figures: dict[str, float] = {}
    table: list[Json] = []
    for case in CASES:
        if given.case not in (None, case.name):
            continue
        data = load(case.data, f"train[:{max(case.train, POOL)}]")
        net = _network(case, data)
        tested = load(case.data, f"test[:{TESTED}]").images.read(torch.arange(TESTED))
        asks, starts = forms(case, net, tuple(data.images.shape))
        wanted = asks["plain"](tested)
        block = tested[: case.burst]
        wall: dict[str, list[float]] = {name: [] for name in asks}
        cpu: dict[str, list[float]] = {name: [] for name in asks}
        for turn in range(TURNS):
            for name in asks if turn % 2 else reversed(asks):
                started, used = time.perf_counter(), time.process_time()
                asks[name](block)
                cpu[name].append(time.process_time() - used)
                wall[name].append(time.perf_counter() - started)
        for name in asks:
            row: Json = {
                "over_plain": median(wall["plain"]) / median(wall[name]),
                "over_plain_cpu": median(cpu["plain"]) / median(cpu[name]),
                "differ": int((asks[name](tested) != wanted).sum()),
                "start": starts[name],
            }
            figures |= {f"{name}_{figure}.{case.name}": value for figure, value in row.items()}
            table.append({"case": case.name, "form": name, **row})
            common.say(f"  {table[-1]}")
    common.write(given.json, figures=figures, setting={"threads": given.threads}, table=table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
