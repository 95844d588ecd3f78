"""The verbs about a student that is trained: ask it, and make it a file of other programs."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from db3kd.cli.door import cleaned
from db3kd.errors import Db3kdError, InputError, plain

if TYPE_CHECKING:
    from torch import Tensor

    from db3kd.student.loaded import Student

MANY = 256  # images from which on progress is shown
Said = tuple[str, float] | tuple[str, float, str]
"""The class of an image, the probability of that, and who said it if there are two."""
COLUMNS = ("image", "class", "probability")

_Student = Annotated[Path, Parameter(help="A file of a student, in the folder of its run.")]
_Factory = Annotated[
    str | None,
    Parameter(help="The module:function that makes a student of your own; its code is run."),
]
_Flag = Parameter(negative=())


@Parameter(name="*")
@dataclass(frozen=True)
class Asking:
    """The options of a student that may ask its teacher."""

    below: Annotated[
        float | None,
        Parameter(
            name="--ask-teacher-below",
            help="Pass images to the teacher whose class the student finds less probable than this;"
            " summary.json of the run says what which threshold brings.",
        ),
    ] = None
    teacher: Annotated[
        Path | None, Parameter(help="The recipe of that teacher; its money pays for it.")
    ] = None
    most: Annotated[
        int | None, Parameter(help="The most images to pass on; the others keep their answer.")
    ] = None
    temperature: Annotated[
        float | None,
        Parameter(
            help="What calibrates the probabilities; by default that in summary.json of the"
            " student's run."
        ),
    ] = None


_ALONE = Asking()


def predict(
    student: _Student,
    images: Annotated[
        list[Path],
        Parameter(help="Files of images, or folders of them.", negative=(), consume_multiple=True),
    ],
    *,
    csv_: Annotated[
        Path | None, Parameter(name="--csv", help="Write a table to this file instead.")
    ] = None,
    json_: Annotated[
        bool, Parameter(name="--json", negative=(), help="Print JSON for a program.")
    ] = False,
    asking: Asking = _ALONE,
    factory: _Factory = None,
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative=(), help="Show no progress.")
    ] = False,
) -> None:
    """Say which class a student gives images, and how probable it finds that."""
    if asking != _ALONE and (asking.below is None or asking.teacher is None):
        raise InputError(
            "to ask the teacher, give both --ask-teacher-below THRESHOLD and --teacher RECIPE"
        )
    if asking.most is not None and asking.most < 0:
        raise InputError(f"--most must be at least 0, got {asking.most}")
    from db3kd.student.loaded import load_student
    from db3kd.student.pictures import image_files

    files = image_files(images)
    loaded = load_student(student, factory=factory)
    damaged: list[Path] = []
    with _answering(loaded, student, asking) as answering:
        rows = _asked(loaded, answering, files, damaged, quiet=quiet)
        if csv_ is not None:
            _write_table(csv_, [answering.columns, *rows])
            _print(f"{len(files) - len(damaged):,} images are in {csv_}")
        elif json_:
            found = [dict(zip(answering.columns, row, strict=True)) for row in rows]
            _print(json.dumps(found, indent=2))
        else:
            for file, name, probability, *by in rows:
                told = (plain(file, 2000), plain(name, 200), f"{probability:.4f}", *by)
                _print("\t".join(told))
    if damaged:
        raise InputError(f"{len(damaged):,} of {len(files):,} images cannot be used; see above")


def export(
    student: _Student,
    file: Annotated[
        Path | None, Parameter(help="The file to write; by default one beside the student.")
    ] = None,
    *,
    onnx: Annotated[bool, _Flag, Parameter(help="Make an ONNX file.")] = False,
    torch_export: Annotated[
        bool, _Flag, Parameter(help="Make a program of torch.export (.pt2).")
    ] = False,
    input_: Annotated[
        Literal["float32", "uint8"],
        Parameter(name="--input", help="What it takes: pixels of 0 to 1, or of 0 to 255."),
    ] = "float32",
    images: Annotated[
        list[Path] | None,
        Parameter(help="A folder of images to compare on, as well as noise.", negative=()),
    ] = None,
    factory: _Factory = None,
    json_: Annotated[
        bool, Parameter(name="--json", negative=(), help="Print JSON for a program.")
    ] = False,
) -> None:
    """Write a student as a file of other programs, once this answers as the student does."""
    if onnx == torch_export:
        raise InputError("give --onnx or --torch-export, which say what is written")
    from dataclasses import asdict

    from db3kd.student.export import export_onnx, export_torch
    from db3kd.student.loaded import load_student

    write: Callable[..., Any] = export_onnx if onnx else export_torch
    target = file or student.with_suffix(".onnx" if onnx else ".pt2")
    found = write(load_student(student, factory=factory), target, dtype=input_, images=images)
    if json_:
        _print(json.dumps({"file": str(target), **asdict(found)}, indent=2))
        return
    _print(
        f"{target}: on {found.images:,} images its scores differ by at most {found.difference:.2g},"
        f" and {100 * found.labels:.1f}% of the classes are the same"
    )


@dataclass(frozen=True)
class _Answering:
    """What answers images, so many at once, and the columns of the rows that this makes."""

    answer: Callable[["Tensor"], list[Said]]
    size: int
    columns: tuple[str, ...]


@contextmanager
def _answering(student: "Student", file: Path, asking: Asking) -> Iterator[_Answering]:
    """The student alone, or with its teacher behind it; what the teacher did is said at the end."""
    from db3kd.data import TensorImages
    from db3kd.student.networks import inference_batch

    size = inference_batch(student.card.shape)
    if asking.below is None or asking.teacher is None:

        def alone(pixels: "Tensor") -> list[Said]:
            scores, places = student.scores(TensorImages(pixels)).max(1)
            return [
                (student.classes[at], round(score, 6))
                for at, score in zip(places.tolist(), scores.tolist(), strict=True)
            ]

        yield _Answering(alone, size, COLUMNS)
        return
    from db3kd.cli.recipes import read
    from db3kd.job.cascade import opened_cascade
    from db3kd.job.teacher import paid
    from db3kd.student.cascade import BATCHES

    recipe, temperature = read(asking.teacher), _temperature(file, asking)
    tally: Counter[str] = Counter()
    with opened_cascade(
        student, recipe, asking.below, temperature=temperature, most=asking.most
    ) as (cascade, pipeline):

        def both(pixels: "Tensor") -> list[Said]:
            found = cascade.ask(TensorImages(pixels))
            by = ["teacher" if theirs else "student" for theirs in found.by_teacher.tolist()]
            tally.update(images=len(pixels), over=int(found.over.sum()), **Counter(by))
            names = [student.classes[at] for at in found.classes.tolist()]
            shares = [round(share, 6) for share in found.probability.tolist()]
            return list(zip(names, shares, by, strict=True))

        yield _Answering(both, BATCHES * size, (*COLUMNS, "by"))
        _say(_tallied(tally, cascade.meter.spent, paid(pipeline).get("paid", {})))


def _temperature(file: Path, asking: Asking) -> float:
    """The temperature that calibrates a student; where it is from is said."""
    from db3kd.job.cascade import calibration_beside

    if asking.temperature is not None:
        return asking.temperature
    found = calibration_beside(file)
    if found is None:
        _say(
            "no summary of its run lies beside the student, so its probabilities are taken as they"
            " are; --temperature calibrates them"
        )
        return 1.0
    on = f"fitted on {found.fitted_on:,} test images" if found.fitted_on else "too few to fit it"
    _say(
        f"probabilities are calibrated by the temperature {found.temperature:.4g} of the run ({on})"
    )
    return found.temperature


def _tallied(tally: Mapping[str, int], asked: int, paid: Mapping[str, Any]) -> str:
    """What the teacher did, as a sentence.

    >>> _tallied({"images": 50, "teacher": 12, "over": 3}, 12, {"money": 0.5, "currency": "EUR"})
    "12 of 50 images have the teacher's class, for 12 queries (0.50 EUR in all, with the run's); 3
    more were to be passed on, but the budget is exhausted: they have the student's own"
    """
    money = ""
    if paid.get("money") is not None:
        money = f" ({paid['money']:,.2f} {paid['currency']}".rstrip() + " in all, with the run's)"
    text = (
        f"{tally.get('teacher', 0):,} of {tally['images']:,} images have the teacher's class, for"
        f" {asked:,} {'query' if asked == 1 else 'queries'}{money}"
    )
    if tally.get("over"):
        text += (
            f"; {tally['over']:,} more were to be passed on, but the budget is exhausted: they have"
            " the student's own"
        )
    return text


def _asked(
    student: "Student", by: _Answering, files: list[Path], damaged: list[Path], *, quiet: bool
) -> Iterator[tuple[Any, ...]]:
    """The answers to images, in order; images that cannot be used are said and noted."""
    import torch

    from db3kd.progress import shown
    from db3kd.student.pictures import picture

    card, size = student.card, by.size
    with shown(quiet=quiet or len(files) < MANY) as progress:
        for start in range(0, len(files), size):
            known: list[Path] = []
            pixels = []
            for file in files[start : start + size]:
                try:
                    pixels.append(picture(file, card.shape, card.white))
                    known.append(file)
                except Db3kdError as error:
                    damaged.append(file)
                    _say(str(error))
            if known:
                for file, said in zip(known, by.answer(torch.stack(pixels)), strict=True):
                    yield str(file), *said
            progress("predict", min(start + size, len(files)), len(files), {})


def _write_table(file: Path, rows: list[tuple[Any, ...]]) -> None:
    from db3kd.storage.files import write_atomically

    held = io.StringIO()
    csv.writer(held, lineterminator="\n").writerows(rows)
    write_atomically(file, held.getvalue().encode("utf-8", "surrogateescape"))


def _say(text: str) -> None:
    sys.stderr.write(f"db3kd: {cleaned(text)}\n")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
