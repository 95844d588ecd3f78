"""Rules that end the asking of a run: the record that a recipe's `stop` fills in."""

from typing import Annotated, Literal

import msgspec


class Stop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When enough was bought, by students that are judged on samples held back.

    - `agreement`: the share of these samples on which they must agree with the teacher.

    In a recipe it is `stop = { agreement = 0.97 }`; `stop = "flat"` ends a run where more answers
    teach nothing more (`docs/stopping.md`).

    >>> Stop(agreement=0.97).agreement
    0.97
    """

    agreement: Annotated[float, msgspec.Meta(gt=0, le=1)]


Rule = Stop | Literal["flat"]
