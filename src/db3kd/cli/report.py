"""The verb that writes the report of a run, or of several side by side."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    *runs: Annotated[Path, Parameter(help="The folder of a run, or of several.")],
    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            help="The file to write; by default report.html in the folder of the run, of several"
            " runs in this folder.",
        ),
    ] = None,
) -> None:
    """Write a page on a run, or several side by side: one HTML file that opens offline."""
    from db3kd.job.reporting import write_report

    sys.stdout.write(f"{write_report(runs, output)}\n")
