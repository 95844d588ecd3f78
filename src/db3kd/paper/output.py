"""Tables as data for programs, as CSV, and as Markdown to read."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from db3kd.paper.cells import Workbook
from db3kd.paper.setups import SETUPS
from db3kd.paper.systems import SYSTEMS
from db3kd.paper.tables import Column, Row, Table
from db3kd.storage.files import Json

FIELDS = (
    "table", "column", "system", "data", "model", "ours", "spread", "seeds", "paper", "difference",
    "queries", "cpu_s", "teacher", "smaller", "device", "commit", "date", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """What a table says in one place; `ours` is None if no cell there was run.

    Accuracies are in percent; `ours` is the mean over `seeds` students, `spread` their standard
    deviation. `cpu_s` is the mean of the cells; what they share counts in the one that came first.
    """

    row: Row
    column: Column
    paper: float | None
    results: tuple[Json, ...]

    @property
    def ours(self) -> float | None:
        """The mean accuracy of our students."""
        return mean(each["accuracy"] for each in self.results) if self.results else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, of two or more."""
        found = [each["accuracy"] for each in self.results]
        return stdev(found) if len(found) > 1 else None

    @property
    def text(self) -> str:
        """What is written in the table: our mean and spread, and the paper's number."""
        paper = "" if self.paper is None else f" ({self.paper:.2f})"
        if self.ours is None:
            return f"not run{paper}"
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.ours:.2f}{spread}{paper}"


def places(book: Workbook, table: Table, seeds: int) -> list[list[Place]]:
    """Every place of a table with the results that are there, row by row; nothing is run."""
    found: dict[tuple[int, int], Place] = {}
    for across, column in enumerate(table.columns):  # a column at a time: a setup is opened once
        for down, row in enumerate(table.rows):
            cells = [table.cell(row, column, seed) for seed in range(seeds)]
            results = tuple(r for r in map(book.result, cells) if r is not None)
            found[down, across] = Place(row, column, row.paper[across], results)
    return [
        [found[down, across] for across in range(len(table.columns))]
        for down in range(len(table.rows))
    ]


def markdown(table: Table, found: Sequence[Sequence[Place]], scale: str) -> str:
    """The table to read: ours ± spread over seeds, and the paper's numbers in brackets."""
    heads = [column.title for column in table.columns]
    lines = [
        f"## {table.title}\n",
        f"Test accuracy of students in percent, mean ± standard deviation over seeds, after the"
        f" last step; in brackets the paper's. Scale: {scale}.\n",
        "| system | data | model | " + " | ".join(heads) + " |",
        "| --- | --- | --- | " + " | ".join("---" for _ in heads) + " |",
    ]
    for row, across in zip(table.rows, found, strict=True):
        system = SYSTEMS[row.system]
        label = f"{system.label} ({row.note})" if row.note else system.label
        cells = " | ".join(place.text for place in across)
        lines.append(f"| {label} | {system.data} | {system.model} | {cells} |")
    return "\n".join([*lines, "", *_below(table, found, scale), ""])


def _below(table: Table, found: Sequence[Sequence[Place]], scale: str) -> list[str]:
    """What is smaller than in the paper, what was asked, and where it was run."""
    lines = []
    for setup in dict.fromkeys(column.setup for column in table.columns):
        words = SETUPS[setup].sizes[scale].words  # type: ignore[index]
        lines += [f"- {SETUPS[setup].title}: {words}."] if words else []
    for across in found:
        asked = [
            f"{place.results[0]['queries']:,} ({place.column.title})"
            for place in across
            if place.results and place.results[0]["queries"]
        ]
        if asked:
            lines.append(f"- {SYSTEMS[across[0].row.system].label} asked {', '.join(asked)}.")
    done = [result for across in found for place in across for result in place.results]
    devices = sorted({f"{r['device']}, {r['commit']}, {r['date']}" for r in done})
    lines += [f"- Run on {device}." for device in devices]
    missing = sum(not place.results for across in found for place in across)
    if missing:
        lines.append(f"- {missing} of {len(table.rows) * len(table.columns)} places: not run.")
    return lines


def as_json(table: Table, found: Sequence[Sequence[Place]]) -> list[Json]:
    """A record for every place of a table, with the names in `FIELDS`."""
    return [_record(table, place) for across in found for place in across]


def as_csv(records: Sequence[Json]) -> str:
    """The same as CSV.

    >>> as_csv([]).startswith("table,column,system")
    True
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def _record(table: Table, place: Place) -> Json:
    system, results = SYSTEMS[place.row.system], place.results

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 2)

    both = place.ours is not None and place.paper is not None
    first: Json = results[0] if results else {}
    return {
        "table": table.name,
        "column": place.column.title,
        "system": system.label,
        "data": system.data,
        "model": system.model,
        "ours": rounded(place.ours),
        "spread": rounded(place.spread),
        "seeds": len(results),
        "paper": place.paper,
        "difference": rounded(place.ours - place.paper) if both else None,  # type: ignore[operator]
        "queries": first.get("queries"),
        "cpu_s": round(mean(r["cpu_s"] for r in results), 1) if results else None,
        "teacher": rounded(first.get("teacher")),
        "smaller": first.get("smaller"),
        "device": first.get("device"),
        "commit": first.get("commit"),
        "date": first.get("date"),
        "note": place.row.note,
    }
