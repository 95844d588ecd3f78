"""What an audit has found, as plain data: `audit.json`."""

import math
from collections.abc import Sequence
from typing import Literal

from db3kd.job.auditing.curve import LEVEL, Curve, Interval, Step
from db3kd.job.auditing.tail import Tail, falls_short
from db3kd.storage.files import Json

Status = Literal["reached", "at the first step", "open", "not reached", "out of reach"]
"""Where a target stands.

- "reached": the interval of its number of answers ends within what was bought.
- "at the first step": so does it, and the first step is already enough.
- "open": the curve reaches it, but its interval has no end yet.
- "not reached": the curve ends below it.
- "out of reach": and, going on as it did, it stays below for all that may be bought.
"""


def settled(curve: Curve, tail: Tail | None, target: float, most: int) -> bool:
    """Whether more answers would tell nothing new of a target: it is reached, or out of reach."""
    return _status(curve, tail, target, most) in ("reached", "at the first step", "out of reach")


def _status(curve: Curve, tail: Tail | None, target: float, most: int) -> Status:
    found, interval = curve.reached(target)
    if math.isfinite(interval.high) and math.isfinite(found):
        return "reached" if found else "at the first step"
    if falls_short(tail, target, most):
        return "out of reach"
    return "open" if math.isfinite(found) else "not reached"


def result(steps: Sequence[Step], targets: Sequence[float], *, most: int, seed: int) -> Json:
    """The figures of an audit: each target, each step, and where the curve goes on to.

    Numbers of answers are rounded up. null is no end, or below the first step for a `low` end, or
    not known. `most`: how many answers may be bought. Random by `seed`: the draws of the bootstrap.

    >>> import torch
    >>> draw = torch.Generator().manual_seed(0)
    >>> steps = [Step(n, torch.rand(3, 400, generator=draw) < 1 - 4 / n) for n in (20, 80, 320)]
    >>> found = result(steps, (0.8, 0.9, 0.999), most=640, seed=0)
    >>> [(row["agreement"], row["status"]) for row in found["targets"]]
    [(0.8, 'at the first step'), (0.9, 'reached'), (0.999, 'not reached')]
    """
    if not steps:
        return {"level": LEVEL, "most": most, "targets": [], "steps": [], "tail": None}
    curve = Curve.of(steps, seed=seed)
    tail = Tail.of(curve)
    return {
        "level": LEVEL,
        "most": most,
        "targets": [_target(curve, tail, target, most) for target in targets],
        "steps": [
            {
                "answers": step.answers,
                "agreement": [round(share, 6) for share in step.shares],
                "mean": round(float(curve.mean[number]), 6),
                "interval": _shares(curve.interval(number)),
            }
            for number, step in enumerate(steps)
        ],
        "tail": None
        if tail is None
        else {
            "limit": _shares(tail.limit()),
            "at": {"answers": most, "agreement": _shares(Interval.of(tail.at(most).flatten()))},
        },
    }


def _target(curve: Curve, tail: Tail | None, target: float, most: int) -> Json:
    found, interval = curve.reached(target)
    status = _status(curve, tail, target, most)
    far = None
    if tail is not None and not math.isfinite(found):
        needed = tail.needed(target)
        low = max(needed.low, float(curve.answers[-1]))
        far = [_count(low), _count(needed.high)]
    return {
        "agreement": target,
        "status": status,
        "answers": _count(found) if found else None,
        "low": _count(interval.low) if interval.low else None,
        "high": _count(interval.high) if interval.high else curve.answers[0],
        "extrapolated": far,
    }


def _count(answers: float) -> int | None:
    return math.ceil(answers - 1e-3) if math.isfinite(answers) else None


def _shares(interval: Interval) -> list[float]:
    return [min(1.0, max(0.0, share)) for share in (interval.low, interval.high)]
