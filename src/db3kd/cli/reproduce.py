"""The verb that makes a table or a figure of the paper anew."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from db3kd.progress import shown

_What = Annotated[
    Literal["table1", "table2", "table3", "table4", "fig4", "fig5", "fig6"],
    Parameter(help="The table or figure."),
]
_Names = Parameter(negative=(), consume_multiple=True)


def reproduce(
    what: _What,
    *,
    scale: Annotated[
        Literal["smoke", "cpu", "full"],
        Parameter(help="Minutes that prove the code; some nights on two cores; the paper's own."),
    ] = "cpu",
    folder: Annotated[
        Path, Parameter(help="Where results, teachers and what takes long are kept.")
    ] = Path("runs/paper"),
    seeds: Annotated[int | None, Parameter(help="Students of each cell.")] = None,
    device: Annotated[str, Parameter(help="Where networks run.")] = "cpu",
    only: Annotated[list[str] | None, _Names, Parameter(help="These systems alone.")] = None,
    setups: Annotated[list[str] | None, _Names, Parameter(help="These data sets alone.")] = None,
    minutes: Annotated[float | None, Parameter(help="Stop after this time.")] = None,
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative=(), help="Show no progress.")
    ] = False,
) -> None:
    """Make a table or a figure of the paper anew, beside the paper's own numbers.

    It runs what is missing, the cheapest first, and can be stopped at any moment. Running it again
    goes on. A cell that was not run says so.
    """
    from db3kd.paper.reproduce import reproduce as made
    from db3kd.student.devices import usable_device

    with shown(quiet=quiet) as progress:
        found = made(
            what,
            scale=scale,
            folder=folder,
            seeds=seeds,
            device=usable_device(device),
            only=only or (),
            setups=setups or (),
            minutes=minutes,
            progress=progress,
        )
    sys.stdout.write(found.text)
    for file in found.files:
        sys.stderr.write(f"wrote {file}\n")
    if found.missing:
        sys.stderr.write("some places are not run yet; run the command again to go on\n")
