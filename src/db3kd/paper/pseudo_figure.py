"""The paper's Figure 6: how pseudo samples evolve, what they look like, and what they teach."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from db3kd.config.settings import Synthesis
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.baselines import dafl, zskd
from db3kd.paper.bench import Bench
from db3kd.paper.cells import Workbook, digest_of
from db3kd.paper.points import Figure, accuracies, holds, means, told
from db3kd.paper.setups import SETUPS
from db3kd.run import Run
from db3kd.stages.ascent import copied
from db3kd.storage.files import Json

AVERAGED = 1_000  # pseudo samples of a class, at most, in the averages
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the pseudo samples, as 1k to 8k of 8k a class


def fig6(book: Workbook, *, setups: Collection[str] = (), seeds: int | None = None) -> Figure:
    """Fig. 6: how pseudo samples evolve, what they look like, and what students learn from them.

    By default of MNIST, as in the paper. Averages by class stand beside those of ZSKD and DAFL.
    Costs as ZSDB3KD, and copies of earlier iterations, which only the curve needs.
    """
    records: list[Json] = []
    images: list[tuple[str, Tensor]] = []
    for setup in setups or ("mnist",):
        bench = book.bench(setup)
        (student, net), *_ = bench.setup.students.items()
        plan, title = bench.size.ascent, bench.setup.title
        with bench.run("ascent") as run:
            samples = run.synthesize(bench.known.images.shape, Synthesis(way="ascent", ascent=plan))
            evolution = run.pseudo.evolution(bench.classes)
            if evolution is not None:
                images.append((f"{title}: from noise, left, to the end of the ascent", evolution))
            last = run.pseudo.asked()
            images.append((f"{title}: averages by class", _averages(bench, last)))
            for kind, number, lesson in _lessons(bench, run, samples):
                records += accuracies(
                    bench, net, seeds, f"fig6/{kind}/{number}", lesson,
                    setup=setup, student=student, kind=kind, number=number,
                )  # fmt: skip
    text = told("Fig. 6: ZSDB3KD", records, ("setup", "kind"), "number")
    for setup in setups or ("mnist",):
        for kind in ("iterations", "samples"):
            mine = [r for r in records if (r["setup"], r["kind"]) == (setup, kind)]
            reached = [m for _, m, _ in means(mine, "number")]
            grows = len(reached) > 1 and reached[-1] > reached[0]
            text += (
                f"- Accuracy grows with {kind}, {SETUPS[setup].title}:"
                f" {holds(grows)}"
                f" ({' to '.join(f'{m:.2f}' for m in (reached[0], reached[-1]))}).\n"
            )
    text += "- Averages by class, from above: ZSDB3KD, ZSKD, DAFL.\n"
    return Figure("fig6", "ZSDB3KD", text, records, images=tuple(images))


def _lessons(
    bench: Bench, run: Run, samples: TransferSet
) -> Iterator[tuple[str, int, Callable[[], TransferSet]]]:
    """What students learn from: samples after some iterations, and shares of the last ones.

    Every sample comes with its copies (section 4.5).
    """
    plan = bench.size.ascent
    for iteration in range(0, plan.iterations, plan.every) if plan.every else ():
        yield "iterations", iteration, partial(_early, bench, run, iteration)
    yield "iterations", plan.iterations, partial(replace, samples)
    pushed = len(samples) // (1 + plan.copies)
    for share in SHARES:
        count = max(1, round(share * pushed))
        copies = torch.arange(pushed, pushed + count * plan.copies)
        rows = torch.cat([torch.arange(count), copies])
        yield "samples", count, partial(samples.select, rows)


def _early(bench: Bench, run: Run, iteration: int) -> TransferSet:
    """Samples after an iteration, with copies as the ascent makes of its last ones.

    Costs one query a copy, beside the books of the run.
    """
    samples, teacher = run.pseudo.after(iteration), bench.labels
    draw, images = torch.Generator().manual_seed(0), samples.images.read(torch.arange(len(samples)))
    made = copied(images, bench.size.ascent.copies, bounds=teacher.bounds, draw=draw)
    called = torch.cat([teacher.labels(part).cpu() for part in torch.split(made, 256)])
    rows = torch.arange(len(made))
    return samples.joined(TransferSet(TensorImages(made), rows, called, called))


def _averages(bench: Bench, ours: TransferSet) -> Float[Tensor, "system class *image"]:
    """The mean image of each class: of ours, of ZSKD's and of DAFL's; NaN for a class without."""
    data, net = bench.setup.data, next(iter(bench.setup.students.values()))
    rows = torch.arange(len(ours))
    found = [(ours.images.read(rows), ours.teacher_labels)]
    for name, system in (("zskd", zskd), ("dafl", dafl)):
        settings = system.settings(data, bench.scale)
        task = bench.task(net, 0, "fig6", f"{name}-{digest_of(settings)}")
        found.append(system.impressions(task, bench.open(), settings))
    return torch.stack([_by_class(made, labels, bench.classes) for made, labels in found])


def _by_class(images: Tensor, labels: Tensor, classes: int) -> Float[Tensor, "class *image"]:
    made = torch.full((classes, *images.shape[1:]), torch.nan)
    for k in range(classes):
        mine = images[labels == k][:AVERAGED]
        if len(mine):
            made[k] = mine.float().mean(0)
    return made
