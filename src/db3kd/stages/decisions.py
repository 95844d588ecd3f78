"""What a trial decided, in words; from plain data, as the journal and a summary have it."""

from collections.abc import Iterator, Mapping
from typing import Any

USES = {"grown": "new images", "mbd": "distances", "ce": "nothing more"}
_STUDENTS = {"ce": "own images alone", "grown": "new images", "mbd": "distances"}


def decided(found: Mapping[str, Any]) -> str:
    """What the answers buy, and why, as text.

    >>> print(decided({"use": "mbd", "why": "by trial", "agreement": {"grown": 0.9, "mbd": 0.92},
    ...                "held": 300}))
    distances (by trial: on 300 images held back, agreement with the teacher is 90.0% for students
    of new images, 92.0% for students of distances)
    >>> print(decided({"use": "ce", "why": "by trial", "agreement": {}, "held": 300,
    ...                "gains": {"mbd": {"share": 0.001, "error": 0.008}}, "unspent": 2085,
    ...                "next": {"grown": {"share": -0.002, "error": 0.005}}}))
    nothing more (by trial: measured distances add 0.1 ± 0.8 points to sample distances; 2,085
    answers stay unspent; the next 1,000 answers would add -0.2 ± 0.5 points by new images)
    """
    facts = list(_facts(found))
    return f"{USES[found['use']]} ({found['why']}{': ' if facts else ''}{'; '.join(facts)})"


def _facts(found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("agreement"):
        shares = [
            f"{100 * share:.1f}% for students of {_STUDENTS[use]}"
            for use, share in found["agreement"].items()
        ]
        held = f"on {found['held']:,} images held back"
        yield f"{held}, agreement with the teacher is {', '.join(shares)}"
    gains = found.get("gains", {})
    if "mbd" in gains:
        yield f"measured distances add {_points(gains['mbd'])} to sample distances"
    if found.get("unspent"):
        yield f"{found['unspent']:,} answers stay unspent"
    ahead = [f"{_points(gain)} by {USES[use]}" for use, gain in found.get("next", {}).items()]
    if ahead:
        yield f"the next 1,000 answers would add {', '.join(ahead)}"


def _points(gain: Mapping[str, float]) -> str:
    return f"{100 * gain['share']:.1f} ± {100 * gain['error']:.1f} points"
