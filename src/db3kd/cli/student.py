"""The verbs about a student that is trained: ask it, and make it a file of other programs."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from db3kd.cli.door import cleaned
from db3kd.errors import Db3kdError, InputError, plain

if TYPE_CHECKING:
    from db3kd.student.loaded import Student

MANY = 256  # images from which on progress is shown
Row = tuple[str, str, float]
"""An image, its class, and the probability of that."""

_Student = Annotated[Path, Parameter(help="A file of a student, in the folder of its run.")]
_Factory = Annotated[
    str | None,
    Parameter(help="The module:function that makes a student of your own; its code is run."),
]
_Flag = Parameter(negative=())


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
    factory: _Factory = None,
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative=(), help="Show no progress.")
    ] = False,
) -> None:
    """Say which class a student gives images, and how probable it finds that."""
    from db3kd.student.loaded import load_student
    from db3kd.student.pictures import image_files

    files = image_files(images)
    loaded = load_student(student, factory=factory)
    damaged: list[Path] = []
    rows = _asked(loaded, files, damaged, quiet=quiet)
    if csv_ is not None:
        _write_table(csv_, list(rows))
        _print(f"{len(files) - len(damaged):,} images are in {csv_}")
    elif json_:
        found = [dict(zip(("image", "class", "probability"), row, strict=True)) for row in rows]
        _print(json.dumps(found, indent=2))
    else:
        for file, name, probability in rows:
            _print(f"{plain(file, 2000)}\t{plain(name, 200)}\t{probability:.4f}")
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


def _asked(
    student: "Student", files: list[Path], damaged: list[Path], *, quiet: bool
) -> Iterator[Row]:
    """The student's answers, in order; images that cannot be used are said and noted."""
    import torch

    from db3kd.progress import shown
    from db3kd.student.networks import inference_batch
    from db3kd.student.pictures import picture

    shape, size = student.card.shape, inference_batch(student.card.shape)
    with shown(quiet=quiet or len(files) < MANY) as progress:
        for start in range(0, len(files), size):
            known: list[Path] = []
            pixels = []
            for file in files[start : start + size]:
                try:
                    pixels.append(picture(file, shape))
                    known.append(file)
                except Db3kdError as error:
                    damaged.append(file)
                    sys.stderr.write(f"db3kd: {cleaned(str(error))}\n")
            if known:
                scores, places = student.scores(torch.stack(pixels)).max(1)
                for file, place, score in zip(known, places, scores, strict=True):
                    yield str(file), student.classes[int(place)], round(float(score), 6)
            progress("predict", min(start + size, len(files)), len(files), {})


def _write_table(file: Path, rows: list[Row]) -> None:
    from db3kd.storage.files import write_atomically

    held = io.StringIO()
    table = csv.writer(held, lineterminator="\n")
    table.writerows([("image", "class", "probability"), *rows])
    write_atomically(file, held.getvalue().encode("utf-8", "surrogateescape"))


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
