"""A first recipe, with words about what can be set."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from db3kd.errors import InputError, plain
from db3kd.storage.files import write_atomically

_RECIPE = """\
# A recipe for db3kd. Look through it, then:
#
#     db3kd check {file}          ask a few images, and see what a run costs at most
#     db3kd run {file} --quick    take a first look within minutes
#     db3kd run {file}            do the whole job, or continue it
#
# Lines that begin with "# " and a key are examples; remove the "# " to use one.

run = {run}

[data]
{data}
# samples = 1000                  # take only so many of the own images
# test_samples = 1000             # each test image costs an answer
# size = 32                       # height and width, if images differ or the teacher wants others
# channels = 3                    # 3 for colour, 1 for grey
# damaged = "skip"                # leave out images that cannot be decoded

[teacher]
{teacher}
# classes = ["cat", "dog"]        # what its classes are called, in its order; or a file of names
# bounds = [0.0, 255.0]           # the lowest and highest value of a pixel that it takes

[budget]
# queries = 10000                 # the most answers; without it, a recipe's own plan

[student]
network = "small"                 # or lenet5, alexnet, resnet18, resnet34, resnet50
# seeds = [0, 1, 2]               # several students show how much the figures vary
# training = { steps = 10000 }    # how long each is trained
"""
_OWN = "train = {}  # own images; the students learn from them"
_NO_OWN = 'test = "digits"  # CHANGE: images to measure on; add train = ... for own images'
_ONNX = 'kind = "onnx"\nfile = {}'
_OTHER = """\
kind = "function"                 # CHANGE: or onnx, torch, sklearn, remote
factory = "my_teacher:make"       # CHANGE: module:function that returns what is asked"""


def written(paths: Sequence[Path], output: Path) -> str:
    """Write a recipe for a folder of images and an ONNX file; returns what is to be done next.

    What is not given, is marked with CHANGE. A file that is there already is not touched.

    Raises:
        InputError: a path is neither, or two are the same, or `output` is there.
        RunError: `output` cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> written([folder], folder / "recipe.toml")
    '...recipe.toml is written; look for CHANGE in it, then: db3kd check ...recipe.toml'
    """
    images, teacher = _sorted(paths)
    if output.exists():
        raise InputError(f"{output} is there already; remove it, or give another file by -o")
    values = {
        "file": plain(output),
        "run": _quoted(Path("runs", images.resolve().name if images else output.stem)),
        "data": _OWN.format(_quoted(images)) if images else _NO_OWN,
        "teacher": _ONNX.format(_quoted(teacher)) if teacher else _OTHER,
    }
    text = re.sub(r"\{(file|run|data|teacher)\}", lambda found: values[found[1]], _RECIPE)
    write_atomically(output, text.encode())
    change = "" if images and teacher else "look for CHANGE in it, then: "
    return f"{output} is written; {change}db3kd check {output}"


def _sorted(paths: Sequence[Path]) -> tuple[Path | None, Path | None]:
    """The folder of images and the file of the teacher, if they are there."""
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if path.is_file() and path.suffix.lower() == ".onnx"]
    for path in paths:
        if path not in folders and path not in files:
            what = "no ONNX file" if path.exists() else "not there"
            raise InputError(f"{path} is {what}; give a folder of images, or an ONNX file")
    for some in (folders, files):
        if len(some) > 1:
            raise InputError(f"{some[0]} and {some[1]} are of one kind; give one of each at most")
    return (folders[0] if folders else None), (files[0] if files else None)


def _quoted(path: Path) -> str:
    text = path.as_posix()
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InputError(f"{plain(text)} has a name that is not UTF-8; rename it")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
