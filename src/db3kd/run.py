"""A run: a folder that holds what was bought, and the stages that continue from any state it is in.

Stages: `answers` asks the teacher for the class of every image, `grow` makes new images and asks
them, `distances` measures to the boundary, `evaluate` asks for the test images. Each is cut into
shards, the unit of work, of randomness and of resume. Running a command again continues.

    journal.jsonl            every finished shard, student and figure
    answers/00000.safetensors, grow/..., distances/..., evaluate/...   finished shards
    distances/00007.tape     answers of the shard in progress
    students/...             trained networks, and checkpoints of those in training
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from db3kd.config.methods import METHODS, Method, Metric
from db3kd.config.settings import Budget, Grow, Search, Spend, Synthesis, Training
from db3kd.config.types import validated
from db3kd.data import Images, TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.progress import Progress, silent
from db3kd.search.robustness import RobustnessMap
from db3kd.stages import ascent, distances, growing, synthesis, trial
from db3kd.stages.answers import ask_once, check_any, check_labels
from db3kd.stages.costs import Costs
from db3kd.stages.growing import Growth
from db3kd.stages.students import Evaluation, distilled, evaluated
from db3kd.stages.table import ANSWERS_SHARD
from db3kd.stages.workspace import Workspace
from db3kd.student.evaluate import classes_of
from db3kd.teachers.base import Teacher


class Run:
    """A folder in which a teacher is distilled; making it again continues where it was.

    `budget` is a hard limit on queries, over all processes that ever worked in the folder; it may
    be raised later. `seed` decides references and probes. `configuration`: anything else that must
    stay the same, as plain data. `redo_damaged`: shards that were cut or altered are bought again.

    Use it as a context manager: one process at a time may hold the folder.

    Raises:
        ConfigurationDiffers: the folder was made with another seed, teacher or configuration.
        Damaged: a file of the run cannot be trusted.
        Busy: another process works in the folder.

    >>> import tempfile
    >>> from db3kd.data import TensorImages
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    >>> images = TensorImages(torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    >>> with Run(tempfile.mkdtemp(), bright, budget=Budget(queries=10_000)) as run:
    ...     transfer = run.label(images, Search(per_image=40, surrogate="none"))
    ...     run.meter.spent <= 8 + 8 * 40, transfer.soft.shape
    (True, torch.Size([8, 2]))
    """

    def __init__(
        self,
        folder: str | Path,
        teacher: Teacher,
        *,
        budget: Budget | None = None,
        seed: int = 0,
        device: str = "cpu",
        configuration: Mapping[str, Any] | None = None,
        redo_damaged: bool = False,
        progress: Progress = silent,
    ) -> None:
        self.folder, self.seed, self.device, self.progress = Path(folder), seed, device, progress
        self._workspace = Workspace(
            self.folder,
            teacher,
            budget,
            seed=seed,
            device=device,
            configuration=configuration or {},
            redo_damaged=redo_damaged,
            progress=progress,
        )
        self.journal, self.meter = self._workspace.journal, self._workspace.meter

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the folder go."""
        self._workspace.close()

    # The stages

    def answers(self, images: Images) -> Int[Tensor, " sample"]:
        """Ask the teacher once for the class of every image; costs one query each.

        Raises:
            InputError: images that are not finite or out of bounds; another set than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        return ask_once(self._workspace, "answers", images)

    def measure(self, images: Images, search: Search | None = None) -> None:
        """Measure every image's distances to the boundary, shard by shard (section 3.2.1).

        By default all classes of an image are searched at once (`db3kd.search.joint`), each image
        with one budget. References are drawn from the images themselves, among those that the
        teacher calls so. Costs one query an image and at most `search.per_image` for each image;
        with `search.strategy` "rows" at most `search.queries` for each image and other class.
        Random, by the run's seed.

        Raises:
            InputError: as `answers`; the teacher gave the same answer to every image; or settings
                that have a meaning row by row only.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        search = validated(search or Search())
        distances.check_search(search, images.shape, self.meter.classes)
        distances.measure_all(self._workspace, images, self.answers(images), search)

    def grow(self, images: Images, settings: Grow | None = None) -> None:
        """Make new images of these and ask the class of each, in rounds (`docs/growing.md`).

        Every image is the parent of as many. Costs one query an image, once, and
        `settings.per_image` for each. Random by the run's seed: the changes, and the first weights
        and batches of the students that choose.

        Raises:
            InputError: as `answers`; or no change is switched on.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        settings = validated(settings or Grow())
        growing.check_growing(settings, images.shape, self.meter.classes)
        growing.grow_all(self._workspace, images, self.answers(images), settings)

    def grown(self, images: Images) -> Growth:
        """What `grow` has bought; costs no query.

        Raises:
            InputError: the stage is not finished.
            Damaged: a shard cannot be trusted.
        """
        return growing.grown(self._workspace, images)

    def synthesize(
        self,
        shape: tuple[int, int, int],
        settings: Synthesis | None = None,
        *,
        images: Images | None = None,
        reserved: int = 0,
    ) -> TransferSet:
        """Make pseudo samples of a shape, without any data, and ask the class of each.

        `docs/synthesis.md`. Costs `settings.queries`, or what the budget leaves but for `reserved`
        queries; by way "ascent" at most what `settings.ascent` allows. A class that is never
        answered is named in a warning. `images`: unlabelled ones of something else, from 0 to 1,
        for way "unrelated". Images that an ensemble
        labels (`settings.ensemble_labels`; without it as for a student of the surrogate's network)
        come last. Random by the run's
        seed.

        Raises:
            InputError: a network that does not fit; nothing is left to ask with; or, by way
                "ascent", one class for everything.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        settings = validated(settings or Synthesis())
        return synthesis.synthesize(self._workspace, shape, settings, images, reserved=reserved)

    def planned_synthesis(self, settings: Synthesis | None = None, *, reserved: int = 0) -> int:
        """How many pseudo samples are asked: as it began, or as it would be; no query.

        A budget that is raised later changes no plan.
        """
        return synthesis.planned(self._workspace, settings or Synthesis(), reserved=reserved)

    def pseudo_samples(self, *, ensemble_labels: bool = True) -> TransferSet:
        """All that `synthesize` has bought, copies included; costs no query.

        `ensemble_labels`: and after them the images that an ensemble labelled, if there are any.

        Raises:
            InputError: a stage is not finished.
            Damaged: a shard cannot be trusted.
        """
        return synthesis.whole(self._workspace, ensemble_labels=ensemble_labels)

    def asked_samples(self) -> TransferSet:
        """The pseudo samples as they were made: without copies, and none that an ensemble labelled.

        Raises:
            InputError, Damaged: as `pseudo_samples`.
        """
        return synthesis.made(self._workspace)

    def ascent_samples(self, iteration: int) -> TransferSet:
        """Those of way "ascent" after so many iterations, without copies; 0 is the noise itself.

        Raises:
            InputError, Damaged: as `pseudo_samples`; or that iteration was not kept.
        """
        return ascent.ascended(self._workspace, iteration=iteration)

    def measured_samples(self) -> TransferSet:
        """The pseudo samples with the soft labels of `measure_pseudo`; copies have answers alone.

        Raises:
            InputError, Damaged: as `pseudo_samples`.
        """
        return synthesis.measured_samples(self._workspace)

    @property
    def pseudo_counts(self) -> list[int]:
        """How many pseudo samples the teacher called each class."""
        return [int(count) for count in synthesis.counts(self._workspace)]

    def evolution(self, classes: int) -> Float[Tensor, "down across *image"] | None:
        """A pseudo sample of each class from noise to its end, by way "ascent"; see Fig. 6.

        None where `AscentPlan.every` kept no iterations.
        """
        return ascent.evolution(self._workspace, classes)

    def measure_pseudo(self, search: Search | None = None) -> TransferSet:
        """Measure the distances of pseudo samples; returns them with soft labels (Eq. 6 and 7).

        References are drawn among the samples themselves. Their classes are not asked again; copies
        have their answers alone. Costs at most what `measure` costs beside the answers.

        Raises:
            InputError: as `measure`; or nothing was synthesized yet.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        synthesis.measure(self._workspace, validated(search or Search()))
        return self.measured_samples()

    def spend(
        self,
        images: Images,
        network: nn.Module,
        settings: Spend | None = None,
        *,
        search: Search | None = None,
        grow: Grow | None = None,
        training: Training | None = None,
        labels: Int[Tensor, " sample"] | None = None,
        reserved: int = 0,
    ) -> TransferSet:
        """Buy what teaches a student like `network` most, new images or distances, found by trial.

        `docs/spending.md`. Both are bought for some of the images; students learn from either, and
        the use whose students agree with the teacher more often on images held back gets the rest.
        What was decided, and why, is in `decision`. `reserved`: queries of the budget that are for
        something else, such as test images. Costs one query an image and at most
        `settings.per_image` for each. `labels`: true classes; with a thousand or more, students
        then find out, for no query, whether to learn from all grown images, from those alone that
        the teacher calls what their parent truly is, or from none (`selection`). Random by the
        run's seed; students also by their first weights, which are those of `network`; it stays as
        it is.

        Raises:
            InputError: as `grow` and `measure`; a search that is not all classes at once; or a
                network that does not fit the images or the teacher's classes.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        settings, training = validated(settings or Spend()), validated(training or Training())
        search, grow = validated(search or Search()), validated(grow or Grow())
        self._check_labels(labels, images)
        check_any(images)
        plan = self.planned(len(images), settings, reserved=reserved)
        trial.check_spending(search, grow, network, images, self.meter.classes)
        answers = self.answers(images)
        trial.spend(
            self._workspace,
            TransferSet(images, torch.arange(len(images)), answers, answers),
            network,
            plan,
            search=search,
            grow=grow,
            training=training,
            truth=labels,
        )
        return self.transfer_set(images, "auto", labels=labels)

    def planned(
        self, samples: int, settings: Spend | None = None, *, reserved: int = 0
    ) -> trial.SpendingPlan:
        """How `spend` divides the answers: as it began, or as it would for so many images.

        A budget that is raised later changes no plan. Costs no query.
        """
        return trial.planned(self._workspace, settings or Spend(), samples, reserved=reserved)

    @property
    def decision(self) -> trial.Decision | None:
        """What `spend` decided, and why; None before."""
        return trial.decided(self._workspace)

    @property
    def selection(self) -> trial.Selection | None:
        """Which grown images `spend` found to learn from; None where it did not ask."""
        return trial.selected(self._workspace)

    def label(
        self,
        images: Images,
        search: Search | None = None,
        *,
        labels: Int[Tensor, " sample"] | None = None,
    ) -> TransferSet:
        """Make the transfer set: distances, then Eq. 6 and 7 (sections 3.2.1 and 3.2.2).

        `labels` are ground truth for the cross-entropy term of Eq. 1; without them it uses the
        teacher's answers. Costs as `measure`.

        Raises:
            InputError: as `measure`; or labels that are no classes of the teacher.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        search = search or Search()
        self._check_labels(labels, images)
        self.measure(images, search)
        return self.transfer_set(images, search.metric, labels=labels)

    def transfer_set(
        self, images: Images, method: Method, *, labels: Int[Tensor, " sample"] | None = None
    ) -> TransferSet:
        """What a student of this method is trained on, from the shards that are there already.

        "ce" needs the answers only; "sd", "bd" and "mbd" the distances of that metric; "grown" the
        grown images, and "mixed" these and "mbd"; "auto" what `spend` decided. A grown image has
        the id of its parent, and as its label what the teacher called it. Costs no query.

        Raises:
            InputError: the stage is not finished, or labels do not fit.
        """
        self._check_labels(labels, images)
        begun = self._workspace.configuration("answers")
        pending = self._workspace.pending("answers", len(images), ANSWERS_SHARD)
        if not begun or (pending and begun["samples"] == len(images)):
            raise InputError("the images are not labelled yet; label them first")
        answers, needs = self.answers(images), METHODS[method]
        rows = torch.arange(len(images))
        transfer = TransferSet(images, rows, answers, answers if labels is None else labels)
        if needs.trial:
            return trial.with_decision(self._workspace, transfer, truth=labels is not None)
        if needs.metric is not None:
            transfer = transfer.with_soft(distances.soft(self._workspace, needs.metric, answers))
        if needs.grown:
            transfer = growing.with_grown(self._workspace, transfer, images, rows)
        return transfer

    def probes(self, images: Images) -> TransferSet:
        """The probes of a search of all classes at once, as plain labelled images; no query.

        They were bought for distances; each has the id of the image that it was asked for. They are
        kept in half precision, so that what the teacher saw differed by up to a thousandth.

        Raises:
            InputError: there are none.
        """
        asked, called, rows = distances.probes(self._workspace, images)
        return TransferSet(TensorImages(asked), rows, called, called)

    def distances(self, metric: Metric) -> RobustnessMap:
        """The measured distances of every image, read from the shards.

        Raises:
            InputError: the stage is not finished, or that metric was not measured.
            Damaged: a shard is missing, cut or altered.
        """
        return distances.measured(self._workspace, metric)

    def distill(
        self,
        network: nn.Module,
        transfer: TransferSet,
        training: Training | None = None,
        *,
        seed: int = 0,
        name: str = "student",
    ) -> nn.Module:
        """Train a student with Eq. 1, or load it if this very training is finished already.

        A training that was stopped goes on from its last checkpoint. Another network, transfer set,
        setting or seed is another student, kept beside the first. Costs no query; random as
        `student.train`.

        Raises:
            InputError: from `student.train`.
            Damaged: a student or checkpoint cannot be trusted.
        """
        training = validated(training or Training())
        return distilled(self._workspace, network, transfer, training, seed=seed, name=name)

    def evaluate(
        self,
        network: nn.Module,
        images: Images,
        labels: Int[Tensor, " sample"] | None = None,
        *,
        name: str = "student",
        seed: int = 0,
    ) -> Evaluation:
        """Compare a student with the teacher, and with ground truth, on test images.

        Costs one query for each test image, once for all students of the run.

        Raises:
            InputError: images that are not finite or out of bounds; other images than before; a
                network that does not fit them.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        self._check_labels(labels, images)
        check_any(images)
        classes_of(network, images)  # it fails before anything is asked, if it does
        return evaluated(self._workspace, network, images, labels, seed=seed, name=name)

    @property
    def costs(self) -> Costs:
        """What was bought so far, and how long it took; costs no query."""
        return Costs.of(self._workspace)

    def _check_labels(self, labels: Tensor | None, images: Images) -> None:
        check_labels(labels, count=len(images), classes=self.meter.classes)
