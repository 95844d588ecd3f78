"""The result of a check as text, with a small table of what the teacher confuses."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from db3kd.cli.door import WIDTH
from db3kd.cli.terminal import drawn
from db3kd.errors import plain
from db3kd.job.duration import otherwise
from db3kd.progress import lasting

MOST_NAMES, LISTED = 12, 8  # classes in a table, and mistakes in a list
WIDEST, GAP = 20, 3  # columns of a name, and between two numbers
LEAST_SECONDS = 0.5  # of a stage without answers, to be in the table


def checked(found: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """What a check of a teacher found, as text.

    >>> print(checked({"images": 16, "questions": 67, "classes": 10, "met": 8, "as_labelled": 15,
    ...                "flips": 0, "rounding": None, "latency_s": 0.012, "per_second": 450.0,
    ...                "queries": {"answers": 300, "evaluate": 100, "total": 400}, "money": 0.6,
    ...                "currency": "EUR",
    ...                "time": {"seconds": 62.0, "seconds_otherwise": None, "stages": [
    ...                    {"words": "the images' own answers", "answers": 300, "steps": 0,
    ...                     "images": 0, "seconds": 1.5},
    ...                    {"words": "students", "answers": 0, "steps": 2000, "images": 0,
    ...                     "seconds": 60.5}]}}))
    16 images were asked, in 67 questions:
      classes     8 of 10 met; 15 of 16 answers are the images' labels
      repeated    0 of 16 answers differed
      8 bits      the teacher sees only these
      one image   0.012 s
      together    450.0 images per second
    The run takes about 62 seconds here, and costs at most 400 queries, 0.60 EUR:
      the images' own answers   300 answers     2 seconds
      students                  2,000 steps    60 seconds
    """
    images = found["images"]
    rounding = "the teacher sees only these"
    if found["rounding"] is not None:
        rounding = f"{found['rounding']} of {images} mixed images get another class once rounded"
    money = ""
    if found["money"] is not None:
        money = f", {found['money']:,.2f} {found['currency']}".rstrip()
    total = found["queries"]["total"]
    labelled = ""
    if found["as_labelled"] is not None:
        labelled = f"; {found['as_labelled']} of {images} answers are the images' labels"
    matrix = [confusion(found["confusion"], width=width)] if found.get("confusion") else []
    return "\n".join(
        (
            f"{images} images were asked, in {found['questions']} questions:",
            f"  classes     {_met(found)}{labelled}",
            f"  repeated    {found['flips']} of {images} answers differed",
            f"  8 bits      {rounding}",
            f"  one image   {found['latency_s']:g} s",
            f"  together    {found['per_second']:,} images per second",
            *matrix,
            *(f"warning: {plain(text, 600)}" for text in found.get("warnings") or ()),
            f"The run takes about {lasting(found['time']['seconds'])}{otherwise(found['time'])}"
            f" here, and costs at most {total:,} queries{money}:",
            *stages(found["time"]["stages"], width=width),
        )
    )


def _met(found: Mapping[str, Any]) -> str:
    """How many classes were met, or which, where nobody knew them beforehand."""
    names = found.get("class_names")
    if names is None:
        return f"{found['met']} of {found['classes']} met"
    named = ", ".join(repr(plain(name, 40)) for name in names[:MOST_NAMES])
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"{len(names)} found{': ' * bool(names)}{named}{more}; a run may find more"


def stages(rows: Sequence[Mapping[str, Any]], *, width: int = WIDTH) -> list[str]:
    """The stages of a forecast that take at least half a second, a line for each.

    >>> stages([{"words": "students", "answers": 0, "steps": 300, "images": 9, "seconds": 7.2}])
    ['  students   300 steps   7 seconds']
    """
    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    for justify in ("left", "right", "right"):
        lines.add_column(justify=justify)
    shown = [row for row in rows if row["seconds"] >= LEAST_SECONDS or row["answers"]]
    for row in shown:
        of = next((kind for kind in ("steps", "answers", "images") if row[kind]), None)
        size = "" if of is None else f"{row[of]:,} {of}"
        lines.add_row(f"  {row['words']}", size, lasting(row["seconds"]))
    return drawn(lines, width).split("\n") if shown else []


def confusion(found: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """How often images of one class were given another one, as a table.

    `found["matrix"]` has a row for each class of the images, whose names are `found["true"]`, and a
    column for each class of the teacher, `found["names"]`. Where names do not fit over the columns,
    class numbers do. Of more than `MOST_NAMES` classes the most frequent mistakes are listed.

    >>> names = ["cat", "dog"]
    >>> print(confusion({"names": names, "true": names, "matrix": [[7, 1], [0, 8]]}))
    Answers to the images of each class:
           cat   dog
      cat    7     1
      dog    .     8
    """
    names, true, matrix = found["names"], found["true"], found["matrix"]
    if len({*names, *true}) > MOST_NAMES:
        return _mistakes(names, true, matrix)
    rows, columns = range(len(true)), range(len(names))
    heads = [_name(names[column]) for column in columns]
    sides = [_name(true[row]) for row in rows]
    room = width - 2 - max((side.cell_len for side in sides), default=0)
    gap = GAP
    if sum(max(3, head.cell_len) + gap for head in heads) > room:
        gap = 1
        heads = [Text(str(column)) for column in columns]
        numbers = {names[column]: Text(f"{column} ") for column in columns}
        sides = [numbers.get(true[row], Text()) + _name(true[row]) for row in rows]
        met = {true[row] for row in rows}
        sides += [number + _name(name) for name, number in numbers.items() if name not in met]
    lines = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    lines.add_column("", no_wrap=True)
    for over in heads:
        lines.add_column(over, justify="right", min_width=3, no_wrap=True)
    for place, side in enumerate(sides):  # the last ones may be of classes without an image
        counts = matrix[rows[place]] if place < len(rows) else [0] * len(names)
        lines.add_row(Text("  ") + side, *(f"{counts[k]:,}" if counts[k] else "." for k in columns))
    return f"Answers to the images of each class:\n{drawn(lines, width)}"


def _mistakes(names: Sequence[str], true: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """The most frequent mistakes, a line for each."""
    wrong = [
        (count, row, column)
        for row, counts in zip(true, matrix, strict=True)
        for column, count in zip(names, counts, strict=True)
        if count and row != column
    ]
    if not wrong:
        return "No image was given another class than its own."
    wrong.sort(key=lambda mistake: -mistake[0])
    lines = [
        f"  {_name(row)} taken for {_name(to)} ({count:,})" for count, row, to in wrong[:LISTED]
    ]
    more = len(wrong) - len(lines)
    return "\n".join(
        ("Mistakes, the most frequent first:", *lines, *([f"  and {more:,} more"] if more else []))
    )


def _name(name: str) -> Text:
    text = Text(plain(name, 60))
    text.truncate(WIDEST, overflow="ellipsis")
    return text
