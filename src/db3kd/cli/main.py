"""The command line: parse, call one function, print, set the exit code.

Exit codes: 0 done, 1 an error in one sentence, 2 usage (a wrong recipe included), 3 the budget is
exhausted, 130 interrupted, 141 the reader of the output went away. Results go to stdout, progress
to stderr. Torch is loaded only after the arguments are parsed, so that help is quick.
"""

import atexit
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from db3kd.cli import report, reproduce, student
from db3kd.cli.door import GONE, Lines, Work, cleaned, console, fault, folded, width_of
from db3kd.cli.options import Common, Followed, Options
from db3kd.cli.recipes import WORK, read
from db3kd.config.audited import SEEDS, TARGETS, audited
from db3kd.errors import BudgetExhausted, Db3kdError, InputError, RecipeError
from db3kd.progress import Progress, shown

if TYPE_CHECKING:
    from db3kd.config.recipe import Recipe

_ABOUT = """Train a small student network from a classifier that answers only with its top-1 class.

The usual commands:

  db3kd check recipe.toml        ask a few images; see what a run costs at most
  db3kd run recipe.toml --quick  take a first look within minutes
  db3kd run recipe.toml          do the whole job, or continue it
"""

app = cyclopts.App(
    name="db3kd",
    help=_ABOUT,
    help_format="plaintext",
    help_epilogue="Running a command again continues it. Exit codes: 0 done, 1 error, 2 usage,"
    " 3 budget exhausted (run again with a larger one), 130 interrupted (everything is saved).",
    version=lambda: version("db3kd"),
    suppress_keyboard_interrupt=False,  # `_exit_code` says that everything is saved
    result_action="return_value",  # what leaves by SystemExit is not ours
)


_COMMON, _DEFAULT, _FOLLOWED = Common(), Options(), Followed()
_Recipe = Annotated[Path, Parameter(help="A TOML file, such as those in the examples folder.")]


@app.command
def run(recipe: _Recipe, *, options: Followed = _FOLLOWED) -> None:
    """Do the whole job of a recipe: buy what its students need, distill, evaluate."""
    _work("run", recipe, options)


@app.command
def label(recipe: _Recipe, *, options: Followed = _FOLLOWED) -> None:
    """Ask the teacher, and measure the distances to its boundary."""
    _work("label", recipe, options)


@app.command
def grow(recipe: _Recipe, *, options: Followed = _FOLLOWED) -> None:
    """Ask the teacher, make new images from your own, and ask for their classes."""
    _work("grow", recipe, options)


@app.command
def synthesize(recipe: _Recipe, *, options: Followed = _FOLLOWED) -> None:
    """Make pseudo samples without any data, and ask for their classes."""
    _work("synthesize", recipe, options)


@app.command
def distill(recipe: _Recipe, *, options: Followed = _FOLLOWED) -> None:
    """Train the students on labels bought before; asks the teacher nothing."""
    _work("distill", recipe, options)


@app.command
def evaluate(recipe: _Recipe, *, options: Followed = _FOLLOWED) -> None:
    """Compare the students with the teacher, and with ground truth, on the test images."""
    _work("evaluate", recipe, options)


@app.command
def audit(
    recipe: _Recipe,
    *,
    targets: Annotated[
        tuple[float, ...],
        Parameter(
            negative=(),
            consume_multiple=True,
            help="Shares of the test images on which students agree with the teacher.",
        ),
    ] = TARGETS,
    seeds: Annotated[int, Parameter(help="How many students there are at each step.")] = SEEDS,
    options: Options = _DEFAULT,
) -> None:
    """Find out how many answers a copy needs: buy in steps until students agree with the teacher.

    Everything goes to a folder of its own, that of the run with "-audit" at its end.
    """
    wanted = read(recipe, options.overrides)
    shown_as = audited(wanted, max(1, seeds))
    if (work := WORK.get(None)) is not None:
        work.folder = Path(shown_as.run)
    _begin("audit", recipe, shown_as, options)
    from db3kd import job
    from db3kd.cli.fidelity import fidelity

    with shown(quiet=options.quiet) as progress:
        found = job.audit(
            wanted,
            targets=targets,
            seeds=seeds,
            progress=_heeding(progress),
            redo_damaged=options.redo_damaged,
            anyway=options.anyway,
        )
    width = width_of(sys.stdout)
    _print(json.dumps(found, indent=2) if options.json_ else fidelity(found, width=width))


@app.command
def check(
    recipe: _Recipe,
    *,
    images: Annotated[int, Parameter(help="How many images to ask.")] = 16,
    canaries: Annotated[
        Path | None,
        Parameter(
            help="Write those always answered alike to this file, for teacher.noise.canaries; costs"
            " 5 more queries per image."
        ),
    ] = None,
    options: Options = _DEFAULT,
) -> None:
    """Ask the teacher a few real questions; say what the run costs, and how long it takes."""
    if images < 1:
        raise InputError(f"--images must be at least 1, got {images}")
    wanted = read(recipe, options.overrides)
    if options.verbose:
        _tell(_first_words("check", recipe, wanted, verbose=True))
    from db3kd.cli.checked import checked
    from db3kd.job.check import check_teacher as look

    found = look(wanted, images=images, canaries=canaries)
    width = width_of(sys.stdout)
    _print(json.dumps(found, indent=2) if options.json_ else checked(found, width=width))


@app.command
def answers(
    recipe: _Recipe,
    *,
    import_: Annotated[
        Path | None,
        Parameter(
            name="--import", help="A parquet table to take answers from, with image and label."
        ),
    ] = None,
    export: Annotated[
        Path | None, Parameter(help="A parquet table to write all the teacher's answers to.")
    ] = None,
    options: Common = _COMMON,
) -> None:
    """Show what was paid for the teacher's answers; import or export them."""
    wanted = read(recipe, options.overrides)
    if options.verbose:
        _tell(_first_words("answers", recipe, wanted, verbose=True))
    from db3kd.job.check import books

    found = books(wanted, taken=import_, given=export)
    if options.json_:
        _print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        _print(f"{name:<12}  {value:,}" if isinstance(value, int) else f"{name:<12}  {value}")


@app.command
def status(
    folder: Annotated[Path, Parameter(help="The folder of the run.")],
    *,
    json_: Annotated[
        bool, Parameter(name="--json", negative=(), help="Print JSON for a program.")
    ] = False,
) -> None:
    """Show what a run folder holds, even while a command is working in it."""
    from db3kd.cli.status import status_text
    from db3kd.stages.accounts import status as read_status

    found = read_status(folder)
    _print(json.dumps(found, indent=2) if json_ else status_text(found))


@app.command
def init(
    *paths: Annotated[
        Path, Parameter(help="A folder of images, and an ONNX file, as far as you have them.")
    ],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="The file to write.")] = Path(
        "recipe.toml"
    ),
) -> None:
    """Write a first recipe, with words about what can be set."""
    from db3kd.cli.init import written

    _print(written(paths, output))


@app.command(name="--install-completion")
def install_completion(
    *,
    shell: Annotated[
        Literal["bash", "zsh", "fish", "powershell"] | None,
        Parameter(help="Which shell; by default the one that runs this."),
    ] = None,
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="A file for the script; by default where the shell looks for such scripts.",
        ),
    ] = None,
) -> None:
    """Let the shell complete commands, options and file names."""
    from db3kd.cli.completion import install

    _print(install(app, shell, output))


app.command(student.predict)
app.command(student.export)
app.command(report.report)
app.command(reproduce.reproduce)


def _work(verb: str, path: Path, options: Followed) -> None:
    recipe = read(path, options.overrides)
    _begin(verb, path, recipe, options)
    from db3kd import job
    from db3kd.cli.terminal import result
    from db3kd.cli.tracking import following
    from db3kd.job.tracking import together

    verbs: dict[str, Callable[..., dict[str, Any]]] = {
        "run": job.run,
        "grow": job.grow,
        "label": job.label,
        "synthesize": job.synthesize,
        "distill": job.distill,
        "evaluate": job.evaluate,
    }
    with shown(quiet=options.quiet) as progress, following(options.track, recipe) as trackers:
        found = verbs[verb](
            recipe,
            progress=_heeding(together(progress, *trackers) if trackers else progress),
            redo_damaged=options.redo_damaged,
            anyway=options.anyway,
        )
        for tracker in trackers:
            tracker.summary(found)
    if options.json_:
        _print(json.dumps(found, indent=2))
    else:
        _print(result(found, steps=recipe.student.training.steps, width=width_of(sys.stdout)))


def _begin(verb: str, path: Path, recipe: "Recipe", options: Options) -> None:
    """Say what begins. All settings are in the log; the terminal shows them if it is asked to."""
    from db3kd.cli.log import LogFile

    logging.getLogger("db3kd").setLevel(logging.INFO)
    work = WORK.get(None)
    if work is not None:
        work.quiet = options.quiet
        work.log = LogFile(work)
        logging.getLogger().addHandler(work.log)
        for line in _first_words(verb, path, recipe, verbose=True):
            work.log.say(line)
    if not options.quiet:
        _tell(_first_words(verb, path, recipe, verbose=options.verbose))


def _first_words(verb: str, path: Path, recipe: "Recipe", *, verbose: bool) -> Iterator[str]:
    from db3kd.cli.opening import opening, settings

    yield from opening(version("db3kd"), verb, path, recipe)
    if verbose:
        yield from (f"  {line}" for line in settings(recipe))


def _tell(lines: Iterable[str]) -> None:
    """Write lines to standard error, folded as the terminal is wide."""
    work = WORK.get(None) or Work()
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip(" ")))
        clean = indent + cleaned(line, work.secrets)
        sys.stderr.write(folded(clean, sys.stderr) + "\n")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


_interrupted = threading.Event()
_over = threading.Event()  # Python ends; an interrupt has nothing to stop any more


def _interrupt(*_: object) -> None:
    if _over.is_set():
        return
    _interrupted.set()
    raise KeyboardInterrupt


def _heeding(progress: Progress) -> Progress:
    """Interrupt at the next report if an interrupt was lost.

    Python loses one that falls into a destructor or a callback, and so does a teacher's client that
    catches everything.
    """

    def report(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        progress(stage, done, total, figures)

    return report


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit.

    >>> main(["--version"])
    Traceback (most recent call last):
    ...
    SystemExit: 0
    """
    work = Work()
    WORK.set(work)
    _interrupted.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with console() as (output, errors):
        lines, seen = logging.StreamHandler(errors), Lines(work)
        lines.setFormatter(seen)
        lines.addFilter(seen.filter)
        logging.getLogger().addHandler(lines)
        code = _exit_code(arguments, work)
        atexit.register(_over.set)  # the first of all that Python does at its exit
        output.flush()
        if output.lost and not code:
            code = GONE if output.quiet else 1
            if not output.quiet:
                _say(f"db3kd: standard output cannot be written ({output.lost})")
        logging.getLogger().removeHandler(lines)
        if work.log is not None:
            logging.getLogger().removeHandler(work.log)
            work.log.end(code)
    raise SystemExit(code)


def _say(text: str) -> None:
    """Write a message to standard error and to the log, clean, and without secrets."""
    work = WORK.get(None) or Work()
    sys.stderr.write(cleaned(text, work.secrets) + "\n")
    if work.log is not None:
        work.log.say(text)


def _exit_code(arguments: list[str] | None, work: Work) -> int:
    try:
        app(arguments, exit_on_error=False, error_console=Console(stderr=True))
    except cyclopts.CycloptsError:
        return 2  # cyclopts has said what is wrong
    except KeyboardInterrupt:
        exec("")  # so that Python forgets an interrupt within `exec`, and does not end by a signal
        _say("db3kd: interrupted; everything is saved, run the command again")
        return 130
    except RecipeError as error:
        _say(str(error))
        return 2
    except Db3kdError as error:
        _say(f"db3kd: {error}")
        return 3 if isinstance(error, BudgetExhausted) else 1
    except BaseException as error:
        _say(f"db3kd: {fault(error, work)}")
        return 1
    return 0
