"""What a surrogate learns in a run: lessons, kept next to the shards of a stage."""

from collections.abc import Callable
from dataclasses import dataclass

from db3kd.search.joint.lessons import learn
from db3kd.search.joint.surrogate import Ensemble, Known
from db3kd.stages.workspace import Workspace


@dataclass(frozen=True)
class KeptLessons:
    """The lessons of a stage in a run's folder, as `rounds/surrogate-03.safetensors`.

    A lesson that a kill interrupted is given again from its beginning, so nothing but time is lost.
    """

    workspace: Workspace
    stage: str

    def recall(self, number: int, surrogate: Ensemble) -> int:
        """Fill a surrogate with the newest lesson kept, up to this one; its number, or -1.

        Raises:
            Damaged: its file cannot be trusted.
        """
        return self.workspace.recall(self.stage, number, surrogate)

    def keep(
        self, number: int, surrogate: Ensemble, *, steps: int, probes: int, wall_s: float
    ) -> None:
        """Keep a surrogate after a lesson, and put it on the books."""
        self.workspace.keep(
            self.stage, number, surrogate, steps=steps, probes=probes, wall_s=wall_s
        )

    def report(self, number: int, done: int, total: int) -> None:
        """Tell how many steps of a lesson are done."""
        self.workspace.progress(f"lesson-{number + 1}", done, total, {})


def fit_surrogate(
    workspace: Workspace,
    stage: str,
    number: int,
    surrogate: Ensemble,
    known: Callable[[int], Known],
) -> None:
    """Give a surrogate all its lessons up to this one; those that are kept are read.

    `known` says what there is to learn before a round. Costs no query. Random by the run's seed.
    """
    lessons = KeptLessons(workspace, stage)
    learn(surrogate, number, known, lessons, seed=workspace.seed, device=workspace.device)
