"""The options that several verbs share."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """The options of every verb that reads a recipe."""

    set_: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--set", "-s"],
            negative=(),
            help="Override a setting: --set student.training.epochs=3.",
        ),
    ] = ()
    json_: Annotated[
        bool, Parameter(name="--json", negative=(), help="Print JSON for a program.")
    ] = False
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], negative=(), help="Show no progress.")
    ] = False
    verbose: Annotated[
        bool, Parameter(name=["--verbose", "-v"], negative=(), help="Show all settings first.")
    ] = False
    redo_damaged: Annotated[
        bool,
        Parameter(
            name="--redo-damaged",
            negative=(),
            help="Buy damaged shards again; their price stays on the books.",
        ),
    ] = False

    @property
    def overrides(self) -> tuple[str, ...]:
        """What is set in the recipe."""
        return self.set_


@Parameter(name="*")
@dataclass(frozen=True)
class Options(Common):
    """The options of every verb that works on the images of a recipe."""

    quick: Annotated[
        bool,
        Parameter(
            name="--quick",
            negative=(),
            help="Take a first look within minutes: few images, short trainings, a folder of its"
            " own.",
        ),
    ] = False
    anyway: Annotated[
        bool,
        Parameter(
            name="--anyway",
            negative=(),
            help="Go on with a teacher whose first answers make no sense beside the true classes.",
        ),
    ] = False

    @property
    def overrides(self) -> tuple[str, ...]:
        """What is set in the recipe, last of all that the look is a quick one."""
        return (*self.set_, "quick=true") if self.quick else self.set_


@Parameter(name="*")
@dataclass(frozen=True)
class Followed(Options):
    """The options of every verb that does a part of a recipe's work."""

    track: Annotated[
        tuple[Literal["tensorboard", "mlflow", "wandb"], ...],
        Parameter(
            name="--track",
            negative=(),
            help="Also show the work in a tracker; needs the extra of that name.",
        ),
    ] = ()
