"""What a surrogate learns in a run: a lesson before each round, kept beside the round's shards."""

import logging
import time
from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.config.settings import Search
from db3kd.data import Images
from db3kd.search.boundary import as_seen
from db3kd.search.joint.front import Front
from db3kd.search.joint.plan import USEFUL, JointPlan, front_of, knows, steps_of
from db3kd.search.joint.surrogate import Ensemble, Known, teach
from db3kd.search.robustness import References
from db3kd.seeds import derive_seed
from db3kd.stages.workspace import Workspace
from db3kd.student.networks import network_of

_log = logging.getLogger("db3kd")


class Surrogates:
    """The surrogate of each round, taught from every answer of the rounds before.

    A lesson is drawn from the run's seed and kept as `rounds/surrogate-03.safetensors`; one that a
    kill interrupted is given again from its beginning, so nothing but time is lost.
    """

    def __init__(
        self,
        workspace: Workspace,
        images: Images,
        teacher_labels: Int[Tensor, " sample"],
        search: Search,
        plan: JointPlan,
    ) -> None:
        self.workspace, self.images, self.teacher_labels, self.search, self.plan = (
            workspace,
            images,
            teacher_labels,
            search,
            plan,
        )
        self._taught: dict[int, Ensemble | None] = {}  # the last one

    def before(self, number: int) -> Ensemble | None:
        """The surrogate that proposes in this round; None where references are better.

        It is not asked where it does not know the images' own answers, which costs no query to
        find out, nor once a round of its proposals moved hardly any row.
        """
        if self.search.surrogate == "none":
            return None
        if number and self._moved(number - 1) < USEFUL:
            return None
        if number not in self._taught:
            surrogate: Ensemble | None = self._load(number)
            if surrogate and not knows(surrogate, self.images, self.teacher_labels):
                _log.warning("the surrogate cannot learn these answers; references alone are used")
                surrogate = None
            self._taught = {number: surrogate}
        return self._taught[number]

    def front(self, rows: Int[Tensor, " row"], unit: int, references: References) -> Front:
        """What a shard of an earlier round kept; before the first one, the references."""
        device, bounds = self.workspace.device, self.workspace.meter.bounds
        images, teacher_labels = (
            as_seen(self.images.read(rows).to(device), bounds),
            self.teacher_labels[rows].to(device),
        )
        if unit < 0:
            return Front.at_references(images, teacher_labels, references)
        return front_of(self._read(unit), images, teacher_labels)

    def _moved(self, number: int) -> float:
        """The share of the rows that a round moved."""
        done = self.workspace.done("rounds")
        units = range(number * len(self.plan.shards), (number + 1) * len(self.plan.shards))
        return sum(float(done[unit]["moved"]) for unit in units) / len(units)

    def _read(self, unit: int) -> dict[str, Tensor]:
        return self.workspace.read(self.workspace.done("rounds")[unit])

    def _load(self, number: int) -> Ensemble:
        """Read the surrogate of a round, or teach it."""
        name, shape = network_of(self.search.surrogate, self.images.shape), self.images.shape
        surrogate = Ensemble(
            name,
            shape,
            self.workspace.meter.classes,
            members=self.search.members,
            seed=derive_seed(self.workspace.seed, "surrogate"),
        ).to(self.workspace.device)
        fit_surrogate(self.workspace, "rounds", number, surrogate, self._known)
        return surrogate

    def _known(self, number: int) -> Known:
        units = range(number * len(self.plan.shards))
        parts = [self._read(unit) for unit in units]
        none = torch.zeros(0, *self.images.shape)
        probes = torch.cat([none.half(), *(part["probes"] for part in parts)])
        probe_answers = torch.cat(
            [none[:, 0, 0, 0].long(), *(part["called"].long() for part in parts)]
        )
        return Known(self.images, self.teacher_labels, probes, probe_answers)


def fit_surrogate(
    workspace: Workspace,
    stage: str,
    number: int,
    surrogate: Ensemble,
    known: Callable[[int], Known],
) -> None:
    """Give a surrogate all its lessons up to this one, those that are kept already left out.

    `known` says what there is to learn before a round. Costs no query. Random by the run's seed.
    """
    for later in range(workspace.recall(stage, number, surrogate) + 1, number + 1):
        started = time.perf_counter()
        answers = known(later)
        steps = steps_of(answers)
        total = steps * len(surrogate.members)

        def report(done: int, later: int = later, total: int = total) -> None:
            workspace.progress(f"lesson-{later + 1}", done, total, {})

        with torch.enable_grad():
            teach(
                surrogate,
                answers,
                steps=steps,
                seed=derive_seed(workspace.seed, "lesson", later),
                device=workspace.device,
                report=report,
            )
        workspace.keep(
            stage,
            later,
            surrogate,
            steps=steps,
            probes=len(answers.probes),
            wall_s=round(time.perf_counter() - started, 3),
        )
