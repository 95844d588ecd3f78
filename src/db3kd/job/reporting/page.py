"""The report as one HTML file: it opens offline, prints, and holds nothing that runs.

The template puts in no text that was not cleaned and escaped: `finalize` sees every value.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from db3kd.config.secrets import secrets_of, without_secrets
from db3kd.errors import plain
from db3kd.job.reporting import charts, findings, sections
from db3kd.job.reporting.findings import Standing
from db3kd.job.reporting.records import Records
from db3kd.stages.versions import versions
from db3kd.storage.files import Json

LONGEST = 2000  # signs of one foreign text


def page(folders: Sequence[Path]) -> str:
    """The report of these runs as text; see `write_report`."""
    found = [Records.of(folder) for folder in folders]
    secrets = secrets_of(json.dumps(records.told.get("recipe")) for records in found)
    environment = Environment(
        autoescape=True,
        finalize=_cleaned(secrets),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    runs = [_run(records, whole=len(found) == 1) for records in found]
    return environment.from_string(text).render(
        runs=runs,
        side=_side_by_side(found, runs) if len(found) > 1 else None,
        version=versions()["db3kd"],
        word=findings.mean_of,
        lasting=findings.lasting,
    )


def _cleaned(secrets: tuple[str, ...]) -> Callable[[object], object]:
    """What every value of the template passes: text becomes plain, and secrets are hidden."""

    def finalize(value: object) -> object:
        if isinstance(value, Markup) or not isinstance(value, str):
            return value
        return plain(without_secrets(value, secrets), LONGEST)

    return finalize


def _run(records: Records, *, whole: bool) -> Json:
    """What the template shows of one run; not all of it if there are several."""
    found = findings.standings(records)
    known: Json = {
        "folder": str(records.folder),
        "verdict": findings.verdict(records, found),
        "numbers": findings.numbers(records, found),
        "students": found,
        "teacher": findings.teacher_accuracy(records),
        "chart": sections.students(records, found),
        "audit": sections.audit(records),
    }
    if known["audit"] and not found:
        known["verdict"] = known["audit"]["basis"][0]
        known["numbers"] = [
            *(
                (count, f"answers until {share} agree")
                for share, count, *_ in known["audit"]["rows"]
            ),
            *known["numbers"][2:3],
        ]
    if whole:
        known |= {
            "spending": sections.spending(records),
            "confusion": sections.confusion(records),
            "cascade": sections.cascade(records),
            "distances": sections.distances(records),
            "nearest": sections.nearest(records),
            "samples": sections.samples(records),
            "losses": sections.losses(records),
            "costs": sections.costs(records, found),
            "provenance": list(sections.provenance(records)),
        }
    known["concerns"] = list(dict.fromkeys(findings.concerns(records)))  # now all faults are known
    return known


def _side_by_side(found: Sequence[Records], runs: Sequence[Json]) -> Json:
    """The frontier of accuracy against answers, and what makes it an unfair comparison."""
    points: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        standing: list[Standing] = run["students"]
        mine = [
            (float(row.queries), 100 * statistics.fmean(row.accuracy))
            for row in standing
            if row.queries and row.accuracy
        ]
        if mine:
            points[run["folder"]] = mine
    best = _best_for_the_price([point for mine in points.values() for point in mine])
    tests = {json.dumps(r.status["configuration"].get("evaluate", {}).get("images")) for r in found}
    teachers = {
        json.dumps([i["parts"] for i in r.journal.all("identity") if i["of"] == "teacher"][-1:])
        for r in found
    }
    notes = []
    if len(tests) > 1:
        notes.append("these runs were not measured on the same test images")
    if len(teachers) > 1:
        notes.append("these runs do not have the same teacher, or not all of them recorded it")
    return {"chart": charts.frontier(points, best) if points else None, "notes": notes}


def _best_for_the_price(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats with as few queries, by queries.

    >>> _best_for_the_price([(10.0, 90.0), (5.0, 80.0), (20.0, 85.0), (10.0, 70.0)])
    [(5.0, 80.0), (10.0, 90.0)]
    """
    kept: list[tuple[float, float]] = []
    for queries, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((queries, accuracy))
    return kept
