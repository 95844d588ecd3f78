"""The report of a run: the table of its students, `summary.json`, pictures, and a page."""

import json
import logging
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgspec
import torch

from db3kd.config.methods import METHODS, Method
from db3kd.config.reading import told
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError, described
from db3kd.job.pictures import by_class, save, tiled
from db3kd.job.reporting import write_report
from db3kd.job.reporting.findings import class_counts, never_met
from db3kd.job.reporting.gallery import keep_gallery
from db3kd.job.reporting.records import Records
from db3kd.job.session import Job
from db3kd.stages.classes_met import taught
from db3kd.stages.costs import Price
from db3kd.stages.stopping import told as rule_told
from db3kd.stages.students import Evaluation
from db3kd.storage.files import Json, write_atomically
from db3kd.student.evaluate import interval
from db3kd.teachers.base import known_of, met_of, unsure_of

MOST_ROWS = 100  # in a picture
_log = logging.getLogger("db3kd")


def summary(job: Job) -> Json:
    """Train and evaluate every student; returns the figures of the run, kept in `summary.json`.

    What students learn from is also drawn, in `images.png`, or for pseudo samples in `pseudo.png`
    and `evolution.png`. Thumbnails of these are kept, and `report.html` is written. Agreement comes
    with its interval of 95 %. Costs one query for each test image, once in the life of the run.

    Raises:
        Db3kdError: see `Run`.
    """
    methods, last = judged(job)
    if job.sets.test is None:
        job.warn("there are no test images, so nobody knows how well these students do")
    pseudo = job.needs.pseudo
    unknown = tell_of_classes(job)
    figures = {
        **job.books(),
        "samples": sum(job.run.pseudo.counts) if pseudo else len(job.own),
        "test_samples": job.sets.tests,
        "test": {"source": job.sets.source, "samples": job.sets.tests},
        "teacher": {"accuracy": None if last is None else last.teacher_accuracy},
        "methods": methods,
        "class_names": list(job.names),
        **found_so_far(job),
        "warnings": job.warnings,
        "recipe": told(job.recipe),
    }
    if unknown:
        figures["unknown"] = unknown
    if last is not None and last.unsure:
        figures["test"]["unsure"] = last.unsure
    if pseudo:
        figures |= {"classes": job.run.pseudo.counts}
        if job.run.pseudo.sources is not None:
            figures |= {"sources": job.run.pseudo.sources}
    known = learned(job)
    figures["picture"] = str(draw(job, known))
    test = None if job.sets.test is None else job.sets.test.images
    keep_gallery(job.run, known, test, pseudo=pseudo)
    if job.run.decision is not None:
        figures["spending"] = asdict(job.run.decision)
        if job.run.selection is not None:
            figures["selection"] = asdict(job.run.selection)
    stopped, rule = job.run.stops.stopped, job.recipe.stop
    if stopped is not None and rule is not None:
        figures["stopped"] = {**asdict(stopped), "saved": stopped.saved, "rule": rule_told(rule)}
    if job.recipe.quick:
        figures["quick"] = True
    text = json.dumps(figures, indent=2).encode() + b"\n"
    write_atomically(job.run.folder / "summary.json", text)
    page = show(job.run.folder)
    return figures if page is None else {**figures, "report": page}


def found_so_far(job: Job) -> Json:
    """Where classes are found: their names, how many may be, and which ones students lack."""
    meter = job.run.meter
    if met_of(meter) is None:
        return {}
    names = list(job.names)
    known = {method: taught(meter, job.samples(method)) for method in job.recipe.student.methods}
    lacking = {method: names[count:] for method, count in known.items() if count < len(names)}
    return {"class_names": names, "found": {"most": meter.classes - 1, "lacking": lacking}}


def tell_of_classes(job: Job) -> int:
    """Warn of classes that students cannot learn; returns how many answers teach nothing."""
    unsure, counts = unsure_of(job.run.meter), class_counts(Records.of(job.run.folder))
    if not counts:
        return 0
    met = torch.stack(list(counts.values())).sum(0)
    whole, unknown = int(met.sum()), 0 if unsure is None else int(met[unsure])
    if 2 * unknown > whole:
        job.warn(
            f"the teacher did not know the class of {unknown:,} of {whole:,} images, so students"
            f" learn from the other {whole - unknown:,}"
        )
    text = never_met(met[: known_of(job.run.meter)], job.names)
    if text is not None:
        job.warn(text)
    return unknown


def judged(job: Job) -> tuple[dict[Method, Json], Evaluation | None]:
    """Train and evaluate every student; returns the figures by method, and the last evaluation.

    Costs one query for each test image, once in the life of the run.
    """
    methods: dict[Method, Json] = {}
    test, found = job.sets.test, None
    for method, seed, network in job.students():
        row = methods.setdefault(
            method, {"accuracy": [], "agreement": [], "seeds": [], "training_s": [], "files": []}
        )
        curves = row.setdefault("cascade", [])
        row["seeds"].append(seed)
        row["training_s"].append(job.run.costs.training_seconds(method, seed))
        row["files"].append(job.run.costs.student_file(method, seed))
        if test is not None:
            found = job.run.evaluate(network, test.images, test.labels, name=method, seed=seed)
        row["accuracy"].append(None if found is None else found.accuracy)
        row["agreement"].append(None if found is None else found.agreement)
        curve = None if found is None else found.cascade
        curves.append(json.loads(msgspec.json.encode(curve)))  # lists, as in the file
    for method, row in methods.items():
        price = price_of(job, method)
        row |= {"queries": price.queries, "label_s": round(price.seconds, 1)}
        if found is not None:
            share = statistics.fmean(row["agreement"])
            row["agreement_interval"] = list(interval(share, found.samples - found.unsure))
    return methods, found


def learned(job: Job) -> TransferSet:
    """What students of the last method learn from; pseudo samples without their copies."""
    if job.needs.pseudo:
        return job.run.pseudo.asked()
    return job.run.transfer_set(job.own.images, job.recipe.student.methods[-1], labels=job.truth)


def draw(job: Job, known: TransferSet) -> Path:
    """Draw what students learn from, a row for each class, at most a hundred; returns the file."""
    meter = job.run.meter
    count = min(meter.classes if met_of(meter) is None else known_of(meter), MOST_ROWS)
    picture = by_class(known.images, known.teacher_labels, count, bounds=meter.bounds)
    if not job.needs.pseudo:
        save(job.run.folder / "images.png", picture)
        return job.run.folder / "images.png"
    save(job.run.folder / "pseudo.png", picture)
    evolution = job.run.pseudo.evolution(count)
    if evolution is not None:
        save(job.run.folder / "evolution.png", tiled(evolution, bounds=meter.bounds))
    return job.run.folder / "pseudo.png"


def show(folder: Path) -> str | None:
    """Write `report.html` beside the summary; as `shown`. Costs no query."""
    return shown("report.html", lambda: write_report([folder]))


def shown(name: str, make: Callable[[], Path]) -> str | None:
    """Make a page or a picture; returns its file, or None where it cannot be made.

    Everything is saved by then, so what goes wrong here is a warning. Nothing is written where the
    environment has DB3KD_REPORT=0, which saves a second for each of many short runs.
    """
    if os.environ.get("DB3KD_REPORT") == "0":
        return None
    try:
        return str(make())
    except InputError as error:  # jinja2 or matplotlib is missing
        _log.info("%s", error)
    except Exception as error:
        _log.warning("%s could not be made: %s", name, described(error))
    return None


def price_of(job: Job, method: Method) -> Price:
    """What the labels would have cost for this method alone."""
    needs, costs = METHODS[method], job.run.costs
    if needs.pseudo:
        measured = () if needs.metric is None else ("pseudo/",)
        return costs.stages("synthesis", "starts", "ascent", "copies", *measured)
    if needs.trial:
        return costs.labels
    price = Price(len(job.own), 0.0)
    if needs.grown:
        bought = job.run.grown(job.own.images)
        price += Price(len(bought.answers), bought.seconds)
    if needs.metric is not None:
        found = job.run.distances(needs.metric)
        price += Price(int(found.queries.sum()), found.seconds)
    return price
