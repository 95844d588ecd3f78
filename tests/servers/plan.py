"""What goes wrong with which request, drawn from a seed and the request's number alone."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Fault = Literal[
    "none",
    "error",  # 500, 502, 503 or 504; the server is not asked
    "error_after",  # the same, after the server was asked: the answer is lost
    "silent",  # accepted and never answered; the server is not asked
    "silent_after",  # the same, after the server was asked
    "reset",  # the connection is reset; the server is not asked
    "reset_after",  # the same, after the server was asked
    "late",  # the whole answer, `delay` seconds late
    "slow",  # the whole answer, dribbling over `delay` seconds
    "busy",  # 429 with Retry-After, also for the next requests (`storm`); the server is not asked
    "nonsense",  # 200 with something that is no answer; the server was asked
    "truncated",  # half of the body that was announced
    "few",  # an answer with one row too few
    "many",  # an answer with one row too many
    "reordered",  # rows the other way round; only where every row has an id, else "none"
    "stale",  # the answer to the request before, with its id; only where replies have ids
    "day",  # 429 for the rest of the day; the server is not asked
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
NOT_ASKED = ("error", "silent", "reset", "busy", "day")


@dataclass(frozen=True)
class Plan:
    """How often which fault comes; the same seed and number always give the same fault.

    Attributes:
        seed: Of the draws.
        shares: How often each fault comes, from 0 to 1; together at most 1, the rest is "none".
        fixed: The fault of single requests, by their numbers, whatever is drawn.
        delay: Seconds of "late" and "slow".
        silence: Seconds after which even "silent" ends, by closing the connection.
        storm: So many requests in a row are answered 429 for every "busy" that is drawn.
        retry_after: Seconds that a 429 of a storm and a 503 ask to wait.
        day: After so many requests everything is answered 429; None: never.
        day_over: Seconds that those ask to wait.
        restarts: Numbers of the requests at which the hook restarts the server.
    """

    seed: int = 0
    shares: Mapping[Fault, float] = field(default_factory=dict)
    fixed: Mapping[int, Fault] = field(default_factory=dict)
    delay: float = 0.5
    silence: float = 600.0
    storm: int = 1
    retry_after: int = 1
    day: int | None = None
    day_over: int = 86_400
    restarts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        unknown = {*self.shares, *self.fixed.values()} - {*FAULTS}
        if unknown or sum(self.shares.values()) > 1 + 1e-9:
            raise ValueError(f"shares of known faults, together at most 1: {unknown or 'too many'}")

    def fault(self, number: int) -> Fault:
        """What goes wrong with the request of this number (from 1)."""
        if self.day is not None and number > self.day:
            return "day"
        if number in self.fixed:
            return self.fixed[number]
        recent = range(max(1, number - self.storm + 1), number)
        if any(self._drawn(earlier) == "busy" for earlier in recent):
            return "busy"
        return self._drawn(number)

    def draws(self, number: int) -> random.Random:
        """Random numbers of one request, other than those that choose its fault."""
        return random.Random(f"{self.seed} {number} details")

    def _drawn(self, number: int) -> Fault:
        left = random.Random(f"{self.seed} {number}").random()
        for fault, share in self.shares.items():
            left -= share
            if left < 0:
                return fault
        return "none"
