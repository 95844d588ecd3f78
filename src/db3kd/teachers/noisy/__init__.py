"""Teachers that do not always say the same: how often, what to do about it, and when to stop.

`flip_rate` measures it, `Voting` asks again and lets the majority decide, `Canary` notices that the
model behind the door was changed. See `docs/noisy.md`; `search.boundary.bisect_noisy` is the search
that takes wrong answers into account.
"""

from db3kd.teachers.noisy.canary import Canary, canaries
from db3kd.teachers.noisy.flips import FlipRate, flip_rate, margin_for
from db3kd.teachers.noisy.voting import Voting

__all__ = ["Canary", "FlipRate", "Voting", "canaries", "flip_rate", "margin_for"]
