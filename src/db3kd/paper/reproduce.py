"""Make a table or a figure of the paper anew, as far as time allows; `db3kd reproduce` calls it."""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from db3kd.errors import InputError
from db3kd.paper import output
from db3kd.paper.cells import Workbook, by_effort
from db3kd.paper.claims import claims
from db3kd.paper.drawing import drawn
from db3kd.paper.figures import fig4, fig5
from db3kd.paper.points import Figure
from db3kd.paper.pseudo_figure import fig6
from db3kd.paper.setups import SETUPS
from db3kd.paper.systems import SYSTEMS
from db3kd.paper.tables import TABLES
from db3kd.paper.task import Scale
from db3kd.progress import Progress, silent
from db3kd.storage.files import write_atomically

What = Literal["table1", "table2", "table3", "table4", "fig4", "fig5", "fig6"]


class TimeUp(Exception):
    """The minutes that were given are over; everything is saved."""


@dataclass(frozen=True)
class Reproduced:
    """What was made: text to read, the files that were written, and how many cells are missing."""

    text: str
    files: tuple[Path, ...]
    missing: int


def reproduce(
    what: What,
    *,
    scale: Scale = "cpu",
    folder: Path = Path("runs/paper"),
    seeds: int | None = None,
    device: str = "cpu",
    only: Collection[str] = (),
    setups: Collection[str] = (),
    minutes: float | None = None,
    progress: Progress = silent,
) -> Reproduced:
    """Run what is missing of a table or a figure, the cheapest first, and write it.

    It can be stopped at any moment, and goes on when it is called again. Tables share their cells.

    - `scale`: "smoke" proves the code within minutes, "cpu" takes two cores some nights, "full" is
      the paper's setting. What is smaller than in the paper is named in the result.
    - `seeds`: students of each cell; by default those of the scale.
    - `only`, `setups`: run these systems or setups alone; others keep what they have.
    - `minutes`: stop after this many; what was begun goes on at the next call.

    Costs what the systems cost, in answers of teachers that are trained here. Random: fixed seeds.

    Raises:
        InputError: there is no such table, figure, scale, system or setup, or no seed is wanted.
        Db3kdError: a data set is missing, or a file cannot be written.
    """
    _check(what, scale, only, setups)
    if seeds is not None and seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}")
    book = Workbook(folder, scale, device=device, progress=_until(progress, minutes))
    place = folder / scale
    place.mkdir(parents=True, exist_ok=True)
    if what not in TABLES:
        return _figure(what, book, place, setups, seeds)
    table = TABLES[what]
    wanted = {column.setup: None for column in table.columns}
    counts = seeds or max(SETUPS[setup].sizes[scale].seeds for setup in wanted)
    cells = [
        cell
        for cell in by_effort(table.cells(counts))
        if (not only or cell.system in only) and (not setups or cell.setup in setups)
    ]
    failed: list[str] = []
    try:
        for number, cell in enumerate(cells):
            progress(f"{what}: {cell.name}", number, len(cells), {})
            book.bench(cell.setup).check()
            try:
                book.run(cell)
            except InputError as error:
                failed.append(f"- {cell.name} cannot be run: {error}\n")
        progress(what, len(cells), len(cells), {})
    except TimeUp:
        pass
    found = output.places(book, table, counts)
    records = output.as_json(table, found)
    text = output.markdown(table, found, scale) + "".join(failed) + "\n" + claims(what, found)
    files = {
        "md": text,
        "csv": output.as_csv(records),
        "json": json.dumps(records, indent=1, ensure_ascii=False) + "\n",
    }
    return Reproduced(
        text,
        _written(place, what, files),
        sum(not one.results for across in found for one in across),
    )


def _check(what: str, scale: str, only: Collection[str], setups: Collection[str]) -> None:
    known: list[tuple[str, Collection[str], Collection[str]]] = [
        ("table or figure", (what,), get_args(What)),
        ("scale", (scale,), get_args(Scale)),
        ("system", only, SYSTEMS),
        ("setup", setups, SETUPS),
    ]
    for word, given, names in known:
        for name in given:
            if name not in names:
                raise InputError(f"there is no {word} {name!r}; there are {', '.join(names)}")


def _figure(
    what: str, book: Workbook, place: Path, setups: Collection[str], seeds: int | None
) -> Reproduced:
    make: Mapping[str, Callable[..., Figure]] = {"fig4": fig4, "fig5": fig5, "fig6": fig6}
    try:
        made = make[what](book, setups=setups, seeds=seeds)
    except TimeUp:
        return Reproduced(f"{what}: the time is up before it is whole\n", (), 1)
    files = {"md": made.text, "json": json.dumps(made.records, indent=1) + "\n"}
    pictures = drawn(made, place / what)
    return Reproduced(made.text, (*_written(place, what, files), *pictures), 0)


def _written(place: Path, name: str, files: Mapping[str, str]) -> tuple[Path, ...]:
    made = []
    for end, text in files.items():
        file = place / f"{name}.{end}"
        write_atomically(file, text.encode())
        made.append(file)
    return tuple(made)


def _until(progress: Progress, minutes: float | None) -> Progress:
    """Progress that ends the work once the minutes are over."""
    if minutes is None:
        return progress
    end = time.monotonic() + 60 * minutes

    def told(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        progress(stage, done, total, figures)
        if time.monotonic() > end:
            raise TimeUp

    return told
