"""What an audit has found, in words: for a terminal, a page, and the file of a risk."""

from collections.abc import Iterator, Mapping
from typing import Any

Found = Mapping[str, Any]
"""What `db3kd.job.audit` returns, or `audit.json` holds."""


def sentences(found: Found) -> Iterator[str]:
    """A sentence for each target; `found` has at least one step."""
    for row in found["targets"]:
        yield _SENTENCES[row["status"]](found, row)


def needed(row: Mapping[str, Any], found: Found) -> str:
    """How many answers a target takes, in a word.

    >>> row = {"status": "open", "answers": 1987, "low": 980, "high": None}
    >>> needed(row, {"steps": [{"answers": 3075}]})
    '1,987'
    """
    last = found["steps"][-1]["answers"]
    first = found["steps"][0]["answers"]
    if row["status"] == "at the first step":
        return f"at most {first:,}"
    return f"more than {last:,}" if row["answers"] is None else f"{row['answers']:,}"


def span(row: Mapping[str, Any]) -> str:
    """The interval of this number.

    >>> [span({"low": low, "high": high}) for low, high in ((None, 64), (980, None), (1, 2))]
    ['at most 64', 'at least 980', '1 to 2']
    """
    low, high = row["low"], row["high"]
    if high is None:
        return "" if low is None else f"at least {low:,}"
    return f"at most {high:,}" if low is None else f"{low:,} to {high:,}"


def basis(found: Found) -> str:
    """What was measured, and on what."""
    source = {"held back": "own images that were held back"}.get(found["test"]["source"], "")
    images = source or "test images"
    return (
        f"Measured on {found['test']['samples']:,} {images} with {len(found['seeds'])} students"
        f" ({found['student']}) at each of {len(found['steps'])} steps. What is asked:"
        f" {found['way']}. Answers to these test images are not counted."
    )


LIMITS = (
    "The intervals of 95 % cover which test images and which students chance gave, not which images"
    " were asked. The numbers belong to this network and this way of asking: a better attack may"
    " need fewer answers, so each of them is an upper bound of what an attacker needs."
)
"""What the numbers do not say."""


def beyond(found: Found) -> str:
    """Where the curve goes on to; "" if there are too few steps to say.

    >>> beyond({"tail": {"limit": [0.9, 1.0], "at": {"answers": 100, "agreement": [0.8, 0.85]}},
    ...         "steps": [{"answers": 50}]})
    'Fitted to the last steps, a power law gives 80.00 to 85.00 % after 100 answers, and a limit of
    90.00 to 100.00 % however many there are. This is extrapolated, and so uncertain.'
    """
    tail = found["tail"]
    if tail is None:
        return ""
    text = f"a limit of {_percent(tail['limit'])} however many there are"
    at = tail["at"]
    if at["answers"] > found["steps"][-1]["answers"]:
        text = f"{_percent(at['agreement'])} after {at['answers']:,} answers, and {text}"
    return (
        f"Fitted to the last steps, a power law gives {text}. This is extrapolated, and so"
        " uncertain."
    )


def _percent(ends: list[float]) -> str:
    return f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f} %"


def _goal(row: Mapping[str, Any]) -> str:
    return f"agree with the teacher on {100 * row['agreement']:.4g} % of the test images"


def _reached(found: Found, row: Mapping[str, Any]) -> str:
    return (
        f"About {needed(row, found)} answers (95 % interval {span(row)}) were enough for students"
        f" that {_goal(row)}."
    )


def _at_first(found: Found, row: Mapping[str, Any]) -> str:
    count = found["steps"][0]["answers"]
    return (
        f"{count:,} answers, the first step, or fewer were enough for students that {_goal(row)}."
    )


def _open(found: Found, row: Mapping[str, Any]) -> str:
    low = "" if row["low"] is None else f", at least {row['low']:,},"
    last = found["steps"][-1]["answers"]
    return (
        f"About {row['answers']:,} answers{low} were enough for students that {_goal(row)}; the"
        f" interval of this number has no upper end within the {last:,} that were bought."
    )


def _not_reached(found: Found, row: Mapping[str, Any]) -> str:
    last = found["steps"][-1]["answers"]
    return f"{last:,} answers were not enough for students that {_goal(row)}{_further(row)}."


def _out_of_reach(found: Found, row: Mapping[str, Any]) -> str:
    last = found["steps"][-1]["answers"]
    return (
        f"{last:,} answers were not enough for students that {_goal(row)}, and all"
        f" {found['most']:,} of the budget would not be, if the curve goes on as it did"
        f"{_further(row)}."
    )


def _further(row: Mapping[str, Any]) -> str:
    """How many answers a target would take, by extrapolation."""
    if row["extrapolated"] is None:
        return ""
    low, high = row["extrapolated"]
    if low is None:
        return "; extrapolated, no number of answers is"
    if high is None:
        return f"; extrapolated, it takes {low:,} or more, or no number is enough"
    return f"; extrapolated, it takes {low:,} to {high:,}"


_SENTENCES = {
    "reached": _reached,
    "at the first step": _at_first,
    "open": _open,
    "not reached": _not_reached,
    "out of reach": _out_of_reach,
}
