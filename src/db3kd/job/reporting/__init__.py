"""A run as one page: what was found, what it cost, where it fails; read from its folder alone."""

from collections.abc import Sequence
from pathlib import Path

from db3kd.errors import InputError, hint
from db3kd.storage.files import Json, write_atomically

NAME = "report.html"


def write_report(folders: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write the report of a run, or of several side by side, as one HTML file; returns it.

    `output`: by default `report.html` in the folder of the run; of several runs, in this folder.
    Costs no query. Nothing is random.

    Raises:
        InputError: a folder holds no run; or jinja2 or matplotlib is not installed.
        Damaged: a journal cannot be trusted. Other files that cannot be read are named in the
            report.
        RunError: a newer version made the folder, or the file cannot be written.

    >>> write_report(["no-such-folder"])
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: there is no run in no-such-folder
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise InputError("name the folder of a run, or of several")
    _check_installed(NAME)
    from db3kd.job.reporting.page import page

    target = Path(output) if output else (paths[0] if len(paths) == 1 else Path()) / NAME
    write_atomically(target, page(paths).encode("utf-8"))
    return target


def write_curve(steps: Sequence[Json], targets: Sequence[float], output: Path) -> Path:
    """Draw the agreement of an audit's students by answers, as an SVG file; returns it.

    `steps`: as in `audit.json`. Costs no query.

    Raises:
        InputError: matplotlib is not installed.
        RunError: the file cannot be written.
    """
    _check_installed(output.name)
    from db3kd.job.reporting import charts

    drawn = charts.alone(charts.fidelity(steps, targets))
    write_atomically(output, drawn.encode("utf-8"))
    return output


def _check_installed(name: str) -> None:
    try:
        import jinja2
        import matplotlib  # noqa: F401

        del jinja2
    except ImportError as error:
        raise InputError(f"{name} needs {error.name}: {hint('report')}") from None
