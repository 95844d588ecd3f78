"""ZSDB3KD, the paper's own way without data: accuracy by iterations and by samples (Fig. 6).

    python benchmarks/ascent.py [--quick] --json ascent.json [--work DIR] [--samples N]

A run pushes noise of every class away from the boundary. Students half as wide as the teacher then
learn from the pseudo samples: as they were after every tenth iteration, with copies; from a part of
the last ones; from the last ones without copies; and with soft labels from distances.

- `accuracy.DATA.iterations.N`, `.samples.N`, `.alone.N`, `.mbd.N`: mean over seeds of the student's
  accuracy in percent, after the last step. N counts iterations, or samples that were pushed.
- `queries.DATA.ascent`, `.mbd`: what it cost, by the books and by a counter inside the teacher.
- `queries.DATA.beside`: copies of earlier iterations, which only the curve needs.

A benchmark that was stopped continues when it is started again. See README.md.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch

import common
import frontier
import frontier_plot
import picture
import spending
import stale
from db3kd.config.settings import AscentPlan, Search, Synthesis, Training, paper_ascent
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError
from db3kd.job.pictures import by_class, save, tiled
from db3kd.run import Run
from db3kd.stages.ascent import copied
from db3kd.storage.files import write_atomically
from db3kd.student.batches import resident
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.training import train
from db3kd.teachers.base import Teacher

EVERY = 5  # iterations between two that are kept; students learn from every other of these
LEAST = 500  # pseudo samples of the smallest part; each part is twice the one before
PER_IMAGE = 100  # answers for the distances of a sample
PUSHED = ("starts", "ascent", "copies")  # stages
STEPS, BATCH = 10_000, 64
FORMAT = 1  # of what is kept: another number where this file changes what is bought


@dataclass(frozen=True)
class Lesson:
    """What a student learns from; `kind` and `number` are those in the name of the figure."""

    kind: str
    number: int
    samples: TransferSet


def main() -> int:
    """Run the ascent, measure and train whatever is missing, and write the result."""
    options = common.parser(__doc__)
    options.add_argument("--work", type=Path, help="folder in which runs are kept")
    options.add_argument("--case", default="mnist", help="the data set; default: mnist")
    options.add_argument("--samples", type=int, default=2000, help="pseudo samples; default: 2000")
    options.add_argument("--paper", action="store_true", help="the paper's ascent, 65 times dearer")
    options.add_argument("--without-distances", action="store_true", help="measure no distances")
    options.add_argument("--seeds", type=int, default=3, help="students per figure")
    options.add_argument("--steps", type=int, default=STEPS, help="training batches per student")
    options.add_argument("--device", default="cpu", help="where networks run; default: cpu")
    options.add_argument("--threads", type=int, help="threads of torch; default: torch's own")
    given = options.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    work = given.work or Path(tempfile.gettempdir()) / "db3kd-benchmarks" / "ascent"
    case = next(case for case in spending.CASES if case.name == given.case)
    problem = frontier.made(case, work, given)
    count = 100 if given.quick else given.samples
    plan = (paper_ascent if given.paper else AscentPlan)(samples=count, every=EVERY)
    seeds, steps = (1, 200) if given.quick else (given.seeds, given.steps)
    search = None if given.quick or given.without_distances else Search(per_image=PER_IMAGE)
    figures, table = measured(problem, plan, search, given.json, steps=steps, seeds=seeds)
    setting = {"device": given.device, "threads": torch.get_num_threads(), "plan": repr(plan)}
    common.write(given.json, figures=figures, setting=setting, table=table)
    draw(table, given.json.with_suffix(".png"), given.case)
    return 0


def measured(
    problem: frontier.Problem,
    plan: AscentPlan,
    search: Search | None,
    file: Path,
    *,
    steps: int,
    seeds: int,
) -> tuple[dict[str, float], list[common.Json]]:
    """Return figures and table; the plots of Fig. 6 are written next to the result."""
    name, shape = problem.case.name, problem.test.images.shape
    sources = (*stale.JOINT, "synthesis/*.py", "synthesis/ascent/*.py", "stages/ascent.py")
    kept = stale.digest(sources, repr((plan, search, FORMAT)).encode(), problem.weights)
    folder = problem.folder / f"{plan.samples}-{kept}"
    counter, table = folder / "seen-by-teacher", []
    teacher = frontier.Counted(problem.teacher, counter)
    with Run(folder, teacher, device=problem.device) as run:
        samples = run.synthesize(shape, Synthesis(way="ascent", ascent=plan))
        file.parent.mkdir(parents=True, exist_ok=True)
        bounds, classes = run.meter.bounds, run.meter.classes
        last = run.pseudo.asked()
        classwise = by_class(last.images, last.teacher_labels, classes, bounds=bounds)
        save(file.with_suffix(".classes.png"), classwise)
        evolution = run.pseudo.evolution(classes)
        if evolution is not None:
            save(file.with_suffix(".evolution.png"), tiled(evolution, bounds=bounds))
        figures = {f"queries.{name}.ascent": float(run.costs.stages(*PUSHED).queries)}
        for lesson in lessons(problem, run, plan, samples, search):
            found = [student(problem, lesson, folder, steps, seed) for seed in range(seeds)]
            table.append(
                {
                    "data": name,
                    "kind": lesson.kind,
                    "number": lesson.number,
                    "iteration": lesson.number if lesson.kind == "iterations" else plan.iterations,
                    "samples": len(lesson.samples),
                    "accuracy": round(mean(found), 2),
                    "spread": round(stdev(found), 2) if seeds > 1 else None,
                    "accuracies": [round(each, 2) for each in found],
                    "teacher": round(problem.reached, 2),
                    "steps": steps,
                }
            )
            figures[f"accuracy.{name}.{lesson.kind}.{lesson.number}"] = mean(found)
            common.say(f"  {table[-1]}")
        if search is not None:
            figures[f"queries.{name}.mbd"] = float(run.costs.stages("pseudo/").queries)
        figures[f"queries.{name}.booked"] = float(run.meter.spent)
        early = [line for line in table if line["kind"] == "iterations"]
        beside = sum(line["samples"] * plan.copies // (1 + plan.copies) for line in early)
        figures[f"queries.{name}.beside"] = float(beside)
    figures[f"queries.{name}.seen_by_teacher"] = float(sum(map(int, counter.read_text().split())))
    return figures, table


def lessons(
    problem: frontier.Problem,
    run: Run,
    plan: AscentPlan,
    samples: TransferSet,
    search: Search | None,
) -> Iterator[Lesson]:
    """What students learn from, costly soft labels last; all samples are those at the end."""
    pushed = len(samples) // (1 + plan.copies)
    sizes = [LEAST * 2**k for k in range(20) if LEAST * 2**k < pushed]
    for count in (*sizes, pushed):
        copies = torch.arange(pushed, pushed + count * plan.copies)
        yield Lesson("samples", count, samples.select(torch.cat([torch.arange(count), copies])))
    yield Lesson("alone", pushed, samples.select(torch.arange(pushed)))
    for iteration in range(0, plan.iterations, 2 * EVERY):
        early = run.pseudo.after(iteration)
        yield Lesson("iterations", iteration, with_copies(problem.teacher, early, plan.copies))
    if search is not None:
        yield Lesson("mbd", pushed, run.measure_pseudo(search))


def with_copies(teacher: Teacher, samples: TransferSet, count: int) -> TransferSet:
    """Samples with copies, made as the ascent does with its last ones; not on the run's books."""
    draw, images = torch.Generator().manual_seed(0), samples.images.read(torch.arange(len(samples)))
    made = copied(images, count, bounds=teacher.bounds, draw=draw)
    called = torch.cat([teacher.labels(part) for part in torch.split(made, 256)])
    rows = torch.arange(len(made))
    return samples.joined(TransferSet(TensorImages(made), rows, called, called))


def student(
    problem: frontier.Problem, lesson: Lesson, folder: Path, steps: int, seed: int
) -> float:
    """Accuracy of one student in percent after the last step; kept in the folder."""
    name = f"{lesson.kind}-{lesson.number}-{steps}-{seed}-{stale.digest(stale.STUDENT)}.json"
    if (folder / name).exists():
        return float(json.loads((folder / name).read_text())["accuracy"])
    net, samples = frontier.student(problem, seed), lesson.samples
    samples = replace(samples, images=resident(samples.images))
    train(net, samples, Training(steps=steps, batch=BATCH), seed=seed, device=problem.device)
    answers = predict(net, problem.test.images, device=problem.device).cpu()
    found = 100 * accuracy(answers, problem.test.labels)
    write_atomically(folder / name, json.dumps({"accuracy": found}).encode())
    return found


def draw(table: list[common.Json], file: Path, name: str) -> None:
    """Plot accuracy by iterations and by samples, with the paper's figure as a line."""
    plt = picture.pyplot()
    if plt is None or not table:
        return
    figure, grid = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    by_samples = [line for line in table if line["kind"] == "samples"]
    by_iterations = [line for line in table if line["kind"] == "iterations"] + by_samples[-1:]
    panels = (("iterations", "iteration", by_iterations), ("samples", "number", by_samples))
    for axes, (kind, across, lines) in zip(grid, panels, strict=True):
        axes.errorbar(
            [line[across] for line in lines],
            [line["accuracy"] for line in lines],
            [line["spread"] or 0.0 for line in lines],
            marker="o",
            color="0.0",
            markersize=4,
            capsize=2,
        )
        for line in table:
            if line["kind"] == "mbd" and kind == "samples":
                axes.plot([line["number"]], [line["accuracy"]], "D", color="#b2182b")
                axes.annotate("with distances", (line["number"], line["accuracy"]), fontsize=7)
        if name in frontier_plot.PAPER:
            axes.axhline(frontier_plot.PAPER[name][0], color="0.7", linestyle="--", linewidth=1)
        axes.set_xlabel(kind, fontsize=9)
        axes.tick_params(labelsize=8)
        picture.plain(axes)
    grid[0].set_ylabel("test accuracy of the student, %", fontsize=9)
    figure.suptitle(f"ZSDB3KD, {name}; dashed: the paper", x=0.01, ha="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Db3kdError as error:
        common.say(f"error: {error}")
        sys.exit(1)
