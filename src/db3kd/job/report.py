"""The report of a run: the table of its students, `summary.json`, and pictures."""

import json
from dataclasses import asdict
from pathlib import Path

from db3kd.config.methods import METHODS, Method
from db3kd.job.pictures import by_class, save, tiled
from db3kd.job.session import Job
from db3kd.stages.costs import Price
from db3kd.storage.files import Json, write_atomically

MOST_ROWS = 100  # in a picture


def summary(job: Job) -> Json:
    """Train and evaluate every student; returns the figures of the run, kept in `summary.json`.

    Pseudo samples are also drawn, in `pseudo.png` and `evolution.png`. Costs one query for each
    test image, once in the life of the run.

    Raises:
        Db3kdError: see `Run`.
    """
    methods: dict[str, Json] = {}
    teacher_accuracy: float | None = None
    for method, seed, network in job.students():
        found = job.run.evaluate(network, job.test.images, job.test.labels, name=method, seed=seed)
        teacher_accuracy = found.teacher_accuracy
        row = methods.setdefault(
            method, {"accuracy": [], "agreement": [], "seeds": [], "training_s": []}
        )
        row["accuracy"].append(found.accuracy)
        row["agreement"].append(found.agreement)
        row["seeds"].append(seed)
        row["training_s"].append(job.run.costs.training_seconds(method, seed))
    for method in job.recipe.student.methods:
        price = price_of(job, method)
        methods[method] |= {"queries": price.queries, "label_s": round(price.seconds, 1)}
    pseudo = job.needs.pseudo
    figures = {
        **job.books(),
        "samples": sum(job.run.pseudo.counts) if pseudo else len(job.own),
        "test_samples": len(job.test),
        "teacher": {"accuracy": teacher_accuracy},
        "methods": methods,
    }
    if pseudo:
        figures |= {"classes": job.run.pseudo.counts, "picture": str(draw(job))}
    if job.run.decision is not None:
        figures["spending"] = asdict(job.run.decision)
        if job.run.selection is not None:
            figures["selection"] = asdict(job.run.selection)
    if job.recipe.quick:
        figures["quick"] = True
    text = json.dumps(figures, indent=2).encode() + b"\n"
    write_atomically(job.run.folder / "summary.json", text)
    return figures


def draw(job: Job) -> Path:
    """Draw the pseudo samples, a row for each class, at most a hundred; returns the file."""
    samples, meter = job.run.pseudo.asked(), job.run.meter
    count = min(meter.classes, MOST_ROWS)
    picture = by_class(samples.images, samples.teacher_labels, count, bounds=meter.bounds)
    save(job.run.folder / "pseudo.png", picture)
    evolution = job.run.pseudo.evolution(count)
    if evolution is not None:
        save(job.run.folder / "evolution.png", tiled(evolution, bounds=meter.bounds))
    return job.run.folder / "pseudo.png"


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
