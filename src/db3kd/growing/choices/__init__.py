"""Which of the images that could be asked are asked: one file for each way, one interface."""

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor

from db3kd.config.settings import Choice
from db3kd.growing.choices.disagreement import disagreement
from db3kd.growing.choices.doubt import doubt

Score = Callable[[Float[Tensor, "student row classes"]], Float[Tensor, " row"]]
"""How much is to be learned from asking: from the log-probabilities of some students."""

SCORES: Mapping[Choice, Score] = {"doubt": doubt, "disagreement": disagreement}
"""All but "random", which needs no students."""

__all__ = ["SCORES", "Score", "disagreement", "doubt"]
