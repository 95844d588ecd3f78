"""Surrogates of a run: kept after each fit, next to the shards of a stage."""

from collections.abc import Callable
from dataclasses import dataclass

from db3kd.search.joint.fitting import fit
from db3kd.search.joint.surrogate import Ensemble, Known
from db3kd.stages.workspace import Workspace


@dataclass(frozen=True)
class KeptSurrogates:
    """The surrogates of a stage in a run's folder, as `rounds/surrogate-03.safetensors`.

    A fit that a kill interrupted begins again, so nothing but time is lost.
    """

    workspace: Workspace
    stage: str

    def recall(self, number: int, surrogate: Ensemble) -> int:
        """Load the newest fit kept, up to this number; returns which it is, or -1.

        Raises:
            Damaged: its file cannot be trusted.
        """
        return self.workspace.recall(self.stage, number, surrogate)

    def keep(
        self, number: int, surrogate: Ensemble, *, steps: int, probes: int, wall_s: float
    ) -> None:
        """Keep a surrogate after a fit, and put it on the books."""
        self.workspace.keep(
            self.stage, number, surrogate, steps=steps, probes=probes, wall_s=wall_s
        )

    def report(self, number: int, done: int, total: int) -> None:
        """Tell how many steps of a fit are done."""
        self.workspace.progress(f"surrogate-{number + 1}", done, total, {})


def fit_surrogate(
    workspace: Workspace,
    stage: str,
    number: int,
    surrogate: Ensemble,
    known: Callable[[int], Known],
) -> None:
    """Fit a surrogate as often as this number says; fits that are kept are read.

    `known` says what there is to learn before a round. Costs no query. Random by the run's seed.
    """
    surrogates = KeptSurrogates(workspace, stage)
    fit(surrogate, number, known, surrogates, seed=workspace.seed, device=workspace.device)
