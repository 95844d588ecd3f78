"""The pseudo samples of a run, in each form that a student or a reader may want."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from db3kd.data.transfer_set import TransferSet
from db3kd.stages import ascent, synthesis
from db3kd.stages.classes_met import counts, learnable
from db3kd.stages.workspace import Workspace
from db3kd.teachers.base import known_of, met_of


@dataclass(frozen=True)
class PseudoSamples:
    """What `Run.synthesize` has bought: `Run.pseudo` makes one. Nothing here costs a query.

    What students learn from lacks samples whose class the teacher does not know (`learnable`).
    """

    workspace: Workspace

    def whole(self, *, ensemble_labels: bool = True) -> TransferSet:
        """All that `Run.synthesize` has bought, copies included; costs no query.

        With `ensemble_labels`, the images that an ensemble labelled come last, if there are any.

        Raises:
            InputError: a stage is not finished.
            Damaged: a shard cannot be trusted.
        """
        found = synthesis.whole(self.workspace, ensemble_labels=ensemble_labels)
        return learnable(self.workspace, found)

    def asked(self) -> TransferSet:
        """The pseudo samples alone, without copies and ensemble labels; costs no query.

        Raises:
            InputError, Damaged: as `whole`.
        """
        return synthesis.made(self.workspace)

    def measured(self) -> TransferSet:
        """The pseudo samples with the soft labels of `Run.measure_pseudo`; costs no query.

        Copies have no soft labels, only answers.

        Raises:
            InputError, Damaged: as `whole`.
        """
        found = synthesis.measured_samples(self.workspace)
        return learnable(self.workspace, found)

    def after(self, iteration: int) -> TransferSet:
        """The pseudo samples of way "ascent" after some iterations, without copies.

        `iteration`: 0 is the noise itself; others are there if `AscentPlan.every` kept them. Costs
        no query.

        Raises:
            InputError, Damaged: as `whole`; or that iteration was not kept.
        """
        return ascent.ascended(self.workspace, iteration=iteration)

    @property
    def counts(self) -> list[int]:
        """How many pseudo samples, copies included, the teacher gave each class.

        Where classes are found: each that was met, and last how many it did not know.
        """
        found = [int(count) for count in counts(self.workspace)]
        if met_of(self.workspace.meter) is None:
            return found
        return found[: known_of(self.workspace.meter)] + found[-1:]

    @property
    def sources(self) -> dict[str, object] | None:
        """How many images the way "public" asked from each source, and what its trial found.

        None by other ways.
        """
        return synthesis.sources(self.workspace)

    def evolution(self, classes: int) -> Float[Tensor, "down across *image"] | None:
        """A pseudo sample of each class, from noise to the end of its ascent (Fig. 6).

        There is a row for each of the first `classes` classes; it is NaN if the class has no sample
        in the first shard. None by other ways than "ascent", or if `AscentPlan.every` is 0.
        """
        return ascent.evolution(self.workspace, classes)
