"""The loop of the joint search: who proposes in each round, and what comes after the last.

The loop is the same in memory and in a run. `Rounds` and `Surrogates` say where rounds and
surrogates are kept.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, runtime_checkable

from jaxtyping import Int
from torch import Tensor

from db3kd.config.settings import Search
from db3kd.data import Images
from db3kd.search.joint.asked import Asked
from db3kd.search.joint.fitting import Surrogates, fit
from db3kd.search.joint.front import Front
from db3kd.search.joint.plan import USEFUL, knows, one_round, rest, result
from db3kd.search.joint.surrogate import Ensemble, Known
from db3kd.search.robustness import References, RobustnessMap
from db3kd.seeds import derive_seed
from db3kd.student.networks import network_of
from db3kd.teachers.base import Teacher

_log = logging.getLogger("db3kd")
Ask = Callable[[Teacher, Front], tuple[Asked, float]]
"""A round for the images of a front: its probes, and the share of the rows that moved."""


@runtime_checkable
class Rounds(Protocol):
    """Where the rounds are kept: in memory, or in the folder of a run."""

    def finished(self, number: int) -> bool:
        """Whether a round is over for every image."""

    def work(self, number: int, ask: Ask) -> None:
        """Do a round for every image that it is not done for, and keep what was found."""

    def moved(self, number: int) -> float:
        """The share of the rows that a finished round moved."""

    def known(self, number: int) -> Known:
        """All answers that there are before a round."""


@dataclass
class JointSearch:
    """The joint search of some images, by rounds that are kept as they end.

    `images` and `teacher_labels` are what the surrogate learns from first. Random, drawn from
    `seed`: first weights and batches of the surrogate.
    """

    search: Search
    number_of_rounds: int
    images: Images
    teacher_labels: Int[Tensor, " sample"]
    references: References
    rounds: Rounds
    surrogates: Surrogates
    seed: int
    device: str
    _taught: dict[int, Ensemble | None] = field(default_factory=dict)  # the last one

    def run(self) -> None:
        """Do the rounds that are not finished; costs at most `search.per_image` queries an image.

        Raises:
            BudgetExhausted, TeacherError: from the teacher.
        """
        for number in range(self.number_of_rounds):
            if not self.rounds.finished(number):
                self.rounds.work(number, partial(self._ask, number, self.surrogate(number)))

    def finish(self, teacher: Teacher, front: Front, *, learned: bool, seed: int) -> RobustnessMap:
        """Spend what is left for some images after the rounds, and say what was found.

        `learned`: whether these images took part in the rounds. The map's seconds are those of this
        call. Random: the noise of the walks, drawn from `seed`.

        Raises:
            BudgetExhausted, TeacherError: from the teacher.
        """
        started = time.perf_counter()
        surrogate = None if learned else self.surrogate(self.number_of_rounds)
        rest(teacher, front, self.search, surrogate, self.references, learned=learned, seed=seed)
        return result(front, seconds=time.perf_counter() - started)

    def surrogate(self, number: int) -> Ensemble | None:
        """The surrogate that proposes in a round; None where references are better.

        They are better where the round before moved hardly any row, and where the surrogate does
        not know the images' own answers. Both cost no query to find out.
        """
        if self.search.surrogate == "none":
            return None
        if number and self.rounds.moved(number - 1) < USEFUL:
            return None
        if number not in self._taught:
            surrogate: Ensemble | None = self._taught_before(number)
            if surrogate and not knows(surrogate, self.images, self.teacher_labels):
                _log.warning("the surrogate cannot learn these answers; references alone are used")
                surrogate = None
            self._taught = {number: surrogate}
        return self._taught[number]

    def _taught_before(self, number: int) -> Ensemble:
        """A surrogate with all its fits before a round, the kept ones and new ones."""
        shape, classes = self.images.shape, len(self.references.rejected)
        name, first = network_of(self.search.surrogate, shape), derive_seed(self.seed, "surrogate")
        surrogate = Ensemble(name, shape, classes, members=self.search.members, seed=first)
        surrogate = surrogate.to(self.device)
        known = self.rounds.known
        fit(surrogate, number, known, self.surrogates, seed=self.seed, device=self.device)
        return surrogate

    def _ask(
        self, number: int, surrogate: Ensemble | None, teacher: Teacher, front: Front
    ) -> tuple[Asked, float]:
        return one_round(
            teacher,
            surrogate,
            front,
            self.references,
            number=number,
            rounds=self.number_of_rounds,
            per_image=self.search.per_image,
        )
