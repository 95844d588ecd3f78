"""Every exception that db3kd raises on purpose.

Db3kdError
├── InputError (also a ValueError)   the caller gave something that cannot work
│   ├── RecipeError                  a recipe is wrong; the message names file and line
│   └── NoSplit                      a data set is there, but not this split of it
├── TeacherError                     the teacher failed, or answered something that is not a label
├── BudgetExhausted                  the next question would exceed the budget; nothing was asked
│   └── MoneyExhausted               the same for money
└── RunError                         a run folder cannot be used
    ├── ConfigurationDiffers         it was made with other settings
    ├── Damaged                      a journal, shard or answer file is missing, cut or altered
    └── Busy                         another process is working in it

A row of a search that fails raises nothing. The result holds its status.

Text that others wrote (a library, a server, the user's code, a file) enters a message by `plain` or
`described` alone: on one line, without signs that a terminal obeys, and not too long. The command
that installs what is missing comes from `hint`.
"""

import json
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")  # of terminals


def plain(text: object, most: int = 300) -> str:
    r"""Foreign text as a part of a sentence: one line, no control characters, at most `most` long.

    Text that cannot be had, since it fails to be made, is left out.

    >>> plain("\x1b[31mred\x1b[0m\n  and\tso on\x00")
    'red and so on\\x00'
    >>> plain("ha" * 1000, most=8)
    'haha ...'
    """
    try:
        words = str(text)
    except Exception:  # of code that is not ours
        return ""
    words = words[: 8 * most + 1000]  # what is escaped only grows
    words = " ".join(_CODES.sub("", words).split())
    shown = "".join(sign if sign.isprintable() else _escaped(sign) for sign in words)
    return shown if len(shown) <= most else f"{shown[: most - 4]} ..."


def described(error: BaseException, most: int = 300) -> str:
    """Kind and text of an exception of others, as a part of a sentence.

    >>> described(KeyError("cat")), described(SystemExit())
    ("KeyError: 'cat'", 'SystemExit')
    """
    kind, text = plain(type(error).__name__, 60), plain(error, most)
    return f"{kind}: {text}" if text else kind


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def hint(extra: str) -> str:
    """The command that installs an extra, in the way in which db3kd itself was installed.

    The ways are pip, uv, a tool of uv, pipx and conda, and a checkout that is worked on.

    >>> "install" in hint("onnx"), "onnx" in hint("onnx")
    (True, True)
    """
    try:
        here = distribution("db3kd")
    except PackageNotFoundError:  # run from a folder
        return f"pip install {_quoted(f'db3kd[{extra}]')}"
    by = (here.read_text("INSTALLER") or "").strip()
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").exists():
        return f"pipx inject db3kd {_packages(here, extra)}"
    if (prefix / "uv-receipt.toml").exists():
        names = " ".join(f"--with {name}" for name in _packages(here, extra).split())
        return f"uv tool install db3kd {names}"
    if by == "conda":
        return f"conda install -c conda-forge {_packages(here, extra)}"
    checkout = _checkout(here)
    what = f"{checkout or 'db3kd'}[{extra}]"
    return f"{'uv ' * (by == 'uv')}pip install {'-e ' * bool(checkout)}{_quoted(what)}"


def _packages(here: Distribution, extra: str) -> str:
    """The names of the packages of an extra."""
    ours = [line for line in here.requires or () if re.search(rf"extra *== *.{extra}\b", line)]
    names = (re.match(r"[\w.-]+", line) for line in ours)
    return " ".join(name[0] for name in names if name) or extra


def _checkout(here: Distribution) -> str:
    """The folder of an editable installation; "" if it is another one."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname  # slow to load

    with suppress(ValueError, TypeError, KeyError, AttributeError):
        found = json.loads(here.read_text("direct_url.json") or "{}")
        if found["dir_info"].get("editable"):
            return plain(url2pathname(urlsplit(found["url"]).path))
    return ""


def _quoted(text: str) -> str:
    return f'"{text}"' if sys.platform == "win32" else f"'{text}'"


class Db3kdError(Exception):
    """The base of all errors of db3kd; the text is one sentence for the user.

    >>> from db3kd import status
    >>> try:
    ...     status("no-such-folder")
    ... except Db3kdError as error:
    ...     print(error)
    there is no run in no-such-folder
    """


class InputError(Db3kdError, ValueError):
    """The caller gave something that cannot work; the text says what, and what would.

    >>> from db3kd.teachers import function
    >>> try:
    ...     function(len, classes=1)
    ... except ValueError as error:
    ...     print(error)
    a teacher needs at least 2 classes, got 1
    """


class RecipeError(InputError):
    """A recipe is wrong; the text begins with its file and line.

    >>> from db3kd.config.toml import parse_toml
    >>> parse_toml("run = runs/a", "recipe.toml")
    Traceback (most recent call last):
    ...
    db3kd.errors.RecipeError: recipe.toml:1: not TOML: Invalid value (column 7)
    """


class NoSplit(InputError):
    """A data set is there, but it has no split of this name; the text says which it has.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from db3kd.data import load
    >>> folder = tempfile.mkdtemp()
    >>> (Path(folder) / "val" / "cat").mkdir(parents=True)
    >>> load(folder, "test")
    Traceback (most recent call last):
    ...
    db3kd.errors.NoSplit: no split 'test' in ...; it has val
    """

    def __init__(self, text: str, splits: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.splits = tuple(splits)


class TeacherError(Db3kdError):
    """The teacher failed, or answered something that is not a label.

    >>> import torch
    >>> from db3kd.teachers import function
    >>> function(lambda images: [2], classes=2).labels(torch.zeros(1, 1, 8, 8))
    Traceback (most recent call last):
    ...
    db3kd.errors.TeacherError: the teacher answered class 2; it was said to have 2; class
    indices count from 0
    """


class BudgetExhausted(Db3kdError):
    """The next question would exceed the budget; it was not asked.

    `spent`, `asked` (the size of the refused question) and `budget` are in queries. `stage` is the
    part of the run that the budget is for, "" for the whole run.

    >>> str(BudgetExhausted(spent=90, asked=20, budget=100))
    'the budget of 100 queries is exhausted: 90 are spent and the next question needs 20; run again
    with a larger budget to continue'
    """

    def __init__(self, *, spent: int, asked: int, budget: int, stage: str = "") -> None:
        self.spent, self.asked, self.budget, self.stage = spent, asked, budget, stage
        where = f" of stage {stage!r}" if stage else ""
        super().__init__(
            f"the budget{where} of {budget:,} queries is exhausted: {spent:,} are spent and the"
            f" next question needs {asked:,}; run again with a larger budget to continue"
        )


class MoneyExhausted(BudgetExhausted):
    """The next call would cost more money than is left; it was not made.

    `spent`, `asked` and `budget` are in images, since a price is for images. The first `since` of
    them were charged at earlier prices, `before` in all.

    >>> str(MoneyExhausted(spent=90, asked=20, budget=100, per_1000=20.0, currency="EUR"))
    'the budget of 2.00 EUR is exhausted: 1.80 EUR are spent and the next call costs 0.40 EUR; run
    again with a larger budget to continue'
    """

    def __init__(
        self,
        *,
        spent: int,
        asked: int,
        budget: int,
        per_1000: float,
        currency: str,
        since: int = 0,
        before: float = 0.0,
    ) -> None:
        super().__init__(spent=spent, asked=asked, budget=budget)

        def money(images: int, before: float = before - since * per_1000 / 1000) -> str:
            return f"{before + images * per_1000 / 1000:,.2f} {currency}".rstrip()

        self.args = (
            f"the budget of {money(budget)} is exhausted: {money(spent)} are spent and the next"
            f" call costs {money(asked, 0.0)}; run again with a larger budget to continue",
        )


class RunError(Db3kdError):
    """A run folder cannot be used.

    >>> from pathlib import Path
    >>> from db3kd.storage.shards import read_shard
    >>> try:
    ...     read_shard(Path("no-such.safetensors"), "")
    ... except RunError as error:
    ...     print(error)
    no-such.safetensors is missing; put a copy of it back, or run again with --redo-damaged to buy
    its answers a second time
    """


class ConfigurationDiffers(RunError):
    """A run folder was made with other settings; the text shows each difference.

    >>> import tempfile
    >>> from db3kd import Run
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> folder = tempfile.mkdtemp()
    >>> Run(folder, bright, seed=0).close()
    >>> Run(folder, bright, seed=1)
    Traceback (most recent call last):
    ...
    db3kd.errors.ConfigurationDiffers: ... was made with other settings (seed: 0 -> 1); ...
    """


class Damaged(RunError):
    """A file of a run is missing, cut or altered; the text names file and place.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from db3kd.storage.shards import read_shard, write_shard
    >>> file = Path(tempfile.mkdtemp()) / "00000.safetensors"
    >>> digest = write_shard(file, {})
    >>> _ = file.write_bytes(b"cut")
    >>> read_shard(file, digest)
    Traceback (most recent call last):
    ...
    db3kd.errors.Damaged: ...00000.safetensors is cut or altered (3 bytes); put a copy of it ...
    """


class Busy(RunError):
    """Another process is working in the run folder.

    >>> import tempfile
    >>> from db3kd import Run
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1).mean(1) > 0.5, classes=2)
    >>> folder = tempfile.mkdtemp()
    >>> with Run(folder, bright):
    ...     Run(folder, bright)
    Traceback (most recent call last):
    ...
    db3kd.errors.Busy: another process is working in ...; wait for it or stop it first
    """


def error_of(kind: str, text: str, otherwise: type[Db3kdError] = RunError) -> Db3kdError:
    """The error that another process met, made again from its kind and text.

    `otherwise`: the kind of an error that only db3kd's own code would understand.

    >>> error_of("TeacherError", "it failed"), error_of("KeyError", "cat")
    (TeacherError('it failed'), RunError('cat'))
    """
    kinds = (InputError, TeacherError, RunError, ConfigurationDiffers, Damaged, Busy)
    return {each.__name__: each for each in kinds}.get(kind, otherwise)(text)
