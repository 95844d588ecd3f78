"""A run: a folder that holds what was bought, and stages that continue from any state it is in.

A stage (`stages.table`) is cut into shards, the unit of work, of randomness and of resuming.

    journal.jsonl            every finished shard, student and figure
    answers/00000.safetensors, grow/..., distances/..., evaluate/...   finished shards
    distances/00007.tape     answers of the shard in progress
    students/...             trained networks, and checkpoints of those in training
    predictions/...          what students call the test images
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.config.methods import Method, Metric
from db3kd.config.settings import Budget, Grow, Search, Spend, Synthesis, Training
from db3kd.config.types import validated
from db3kd.data import TensorImages, images_of
from db3kd.data.given import Given
from db3kd.data.labelled import Labels
from db3kd.data.transfer_set import TransferSet
from db3kd.progress import Progress, chosen, ended
from db3kd.search.robustness import RobustnessMap
from db3kd.stages import distances, growing, stopping, synthesis, trial
from db3kd.stages.answers import ask_first, ask_once, check_any
from db3kd.stages.classes_met import check_labels_of, learnable
from db3kd.stages.costs import Costs
from db3kd.stages.executor import Executor
from db3kd.stages.growing import Growth
from db3kd.stages.pseudo_samples import PseudoSamples
from db3kd.stages.sequence import Steps
from db3kd.stages.stopping import Stopping, Stops
from db3kd.stages.students import Evaluation, Untrained, distilled, evaluated, train_elsewhere
from db3kd.stages.transfer import transfer_of
from db3kd.stages.workspace import Workspace
from db3kd.student.card import StudentCard
from db3kd.student.devices import usable_device
from db3kd.student.evaluate import classes_of
from db3kd.teachers.base import Teacher, check_teacher


class Run:
    """A folder in which a teacher is distilled; opening it again continues where it stopped.

    - `budget`: a hard limit on queries, over all processes that ever work in the folder. It may be
      raised later.
    - `seed`: decides what the stages draw at random, such as references and probes.
    - `device`: where torch computes; "auto" takes a GPU if there is one. It must stay the same, as
      `seed` must.
    - `configuration`: anything else that must stay the same, as plain data.
    - `redo_damaged`: buys shards again that are missing, cut or altered. Their price stays on the
      books.
    - `progress`: is told how far a stage is (`db3kd.progress.Progress`). By default it is shown on
      stderr once a call takes longer than two seconds: as a bar in a terminal and in a notebook
      that has ipywidgets, elsewhere as a line every 15 seconds. False, or `db3kd.silent`, shows
      nothing.
    - `identity`: what the teacher is known by, a digest for each part; by default what the teacher
      says of itself (`db3kd.teachers.base.identity_of`). A part that is another one than before is
      an error.
    - `executor`: who does the shards of a stage; by default this process (`docs/cluster.md`).

    Images are those that `db3kd.load` opens, tensors or NumPy arrays of (sample, channels, height,
    width), or lists of PIL images.

    Use it as a context manager, because only one process at a time may hold the folder.

    Raises:
        ConfigurationDiffers: the folder was made with another seed, device or configuration, or
            with another teacher.
        Damaged: a file of the run cannot be trusted.
        Busy: another process is working in the folder.
        RunError: a newer version made the folder, or it cannot be written.
        InputError: the device cannot be used here, or the teacher is none.

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
        progress: Progress | bool | None = None,
        identity: Mapping[str, str] | None = None,
        executor: Executor | None = None,
    ) -> None:
        check_teacher(teacher)
        workspace = Workspace(
            Path(folder),
            teacher,
            budget,
            seed=seed,
            device=usable_device(device),
            configuration=configuration or {},
            redo_damaged=redo_damaged,
            progress=chosen(progress),
            identity=identity,
            executor=executor,
        )
        self._enter(workspace)

    @classmethod
    def within(cls, workspace: Workspace) -> "Run":
        """A run in a workspace that is open already."""
        (self := cls.__new__(cls))._enter(workspace)
        return self

    def _enter(self, workspace: Workspace) -> None:
        self.folder, self.seed, self.device = workspace.folder, workspace.seed, workspace.device
        self.progress, self._workspace = workspace.progress, workspace
        self.journal, self.meter = workspace.journal, workspace.meter

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder, so that another process may open it."""
        ended(self.progress)
        self._workspace.close()

    def answers(self, images: Given) -> Int[Tensor, " sample"]:
        """Ask for the class of every image, once in the life of the run; costs one query each.

        Raises:
            InputError: no images, or images that are not finite or out of bounds.
            ConfigurationDiffers: other images than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        return ask_once(self._workspace, "answers", images_of(images))

    def first_answers(
        self, images: Given, count: int = 100, *, of: Literal["answers", "evaluate"] = "answers"
    ) -> tuple[Int[Tensor, " some"], Int[Tensor, " some"]]:
        """Ask about a few images before the others, to see whether the teacher makes sense.

        Returns their rows, in ascending order, and classes. `answers`, or `evaluate`, takes these
        answers as they are. Costs one query for each of `count` images. Random by the run's seed:
        which images. Both tensors are empty if that stage was begun without.

        Raises:
            InputError, ConfigurationDiffers, BudgetExhausted, TeacherError: as `answers`.
        """
        return ask_first(self._workspace, of, images_of(images), count)

    @property
    def steps(self) -> Steps:
        """Answers that are bought in steps, as an audit does, until nobody wants more."""
        return Steps(self._workspace)

    def measure(self, images: Given, search: Search | None = None) -> None:
        """Measure every image's distances to the boundary, shard by shard (section 3.2.1).

        By default all classes of an image are searched at once (`db3kd.search.joint`), with one
        budget for the image. The references of a class are drawn from those of the images that
        the teacher gives this class.

        Costs one query for each image, and then at most `search.per_image` for each image. With
        `search.strategy` "rows" it is at most `search.queries` for each image and other class.
        Random by the run's seed.

        Raises:
            InputError: as `answers`; or the teacher gave every image the same class; or a setting
                only has a meaning row by row.
            ConfigurationDiffers: other images or settings than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        images, search = images_of(images), validated(search or Search())
        distances.check_search(search, images.shape, self.meter.classes)
        distances.measure_all(self._workspace, images, self.answers(images), search)

    def grow(
        self, images: Given, settings: Grow | None = None, *, stop: Stopping | None = None
    ) -> None:
        """Make new images of these and ask for the class of each, in rounds (`docs/growing.md`).

        Every image is the parent of equally many new ones. `stop`: a rule that may end this before
        the last round (`docs/stopping.md`). Costs one query for each image, and then at most
        `settings.per_image` for each image. Random by the run's seed: the augmentations, and the
        first weights and batches of the students that choose.

        Raises:
            InputError: as `answers`; or no augmentation is switched on; or the students' network
                is unknown or does not fit the images.
            ConfigurationDiffers: other images or settings than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        images, settings = images_of(images), validated(settings or Grow())
        growing.check_growing(settings, images.shape, self.meter.classes)
        answers, place = self.answers(images), self._workspace
        enough = stopping.of_growth(place, images, answers, stop)
        growing.grow_all(place, images, answers, settings, enough=enough)

    def grown(self, images: Given) -> Growth:
        """What `grow` has bought; costs no query.

        Raises:
            InputError: the stage is not finished.
            Damaged: a shard cannot be trusted.
        """
        return growing.grown(self._workspace, images_of(images))

    def synthesize(
        self,
        shape: tuple[int, int, int],
        settings: Synthesis | None = None,
        *,
        images: Given | None = None,
        reserved: int = 0,
        stop: Stopping | None = None,
    ) -> TransferSet:
        """Make pseudo samples of a shape, without any data, and ask for the class of each.

        See `docs/synthesis.md`. A class that the teacher never answers is named in a warning.

        - `shape`: channels, height and width of an image.
        - `images`: unlabelled images of something else, with values from 0 to 1, for the ways
          "public" (photographs of any size), "unrelated" and "unrelated_chosen".
        - `reserved`: queries of the budget that are for something else, such as test images.
        - `stop`: a rule that may end this before all are asked (`docs/stopping.md`).

        Images that an ensemble labels come last. `settings.ensemble_labels` says how many. Without
        it, they are as many as for a student of the surrogate's network.

        Costs `settings.queries`; without it, what the budget leaves after `reserved` queries. Way
        "ascent" costs at most what `settings.ascent` allows. Ensemble labels cost no query. Random
        by the run's seed.

        Raises:
            InputError: a network that does not fit; a budget that leaves nothing to ask with; or,
                by way "ascent", a teacher that gives all noise the same class.
            ConfigurationDiffers: other settings than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        settings = validated(settings or Synthesis())
        some = None if images is None else images_of(images)
        place, enough = self._workspace, stopping.of_synthesis(self._workspace, stop)
        made = synthesis.synthesize(place, shape, settings, some, reserved=reserved, enough=enough)
        return learnable(self._workspace, made)

    def planned_synthesis(self, settings: Synthesis | None = None, *, reserved: int = 0) -> int:
        """How many queries `synthesize` plans to spend; costs no query.

        There is one for each pseudo sample. By way "ascent" it is the most that may be spent. Once
        the stage has begun, a budget that is raised later does not change its plan.
        """
        return synthesis.planned(self._workspace, settings or Synthesis(), reserved=reserved)

    @property
    def pseudo(self) -> PseudoSamples:
        """The pseudo samples that `synthesize` has bought; costs no query."""
        return PseudoSamples(self._workspace)

    def measure_pseudo(self, search: Search | None = None) -> TransferSet:
        """Measure the distances of pseudo samples; returns them with soft labels (Eq. 6 and 7).

        References are drawn from the samples themselves. Copies are not measured and have only
        their answers. Costs at most what `measure` costs, without its answers: these are bought
        already. Random by the run's seed.

        Raises:
            InputError: as `measure`; or the pseudo samples are not all made yet.
            ConfigurationDiffers: other settings than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        synthesis.measure(self._workspace, validated(search or Search()))
        return self.pseudo.measured()

    def spend(
        self,
        images: Given,
        network: nn.Module,
        settings: Spend | None = None,
        *,
        search: Search | None = None,
        grow: Grow | None = None,
        training: Training | None = None,
        labels: Labels | None = None,
        reserved: int = 0,
        students: int = 1,
        stop: Stopping | None = None,
    ) -> TransferSet:
        """Buy new images or distances, whichever teaches a student like `network` more.

        A trial decides (`docs/spending.md`). It tries both on some of the images, and students
        learn from either. The use whose students agree with the teacher more often on images held
        back gets the rest of the answers. `decision` says what was decided, and why.

        If new images win and there are a thousand or more true `labels`, students are also judged
        on which grown images to learn from: all, those that the teacher gives their parent's true
        class, or none. This costs no query; see `selection`.

        - `reserved`: queries of the budget that are for something else, such as test images.
        - `labels`: true classes, if they are known.
        - `students`: how many will be trained afterwards; a trial never takes longer than the rest.
        - `stop`: a rule that may end the making of new images before the last round.

        Costs one query for each image, and then at most `settings.per_image` for each image.
        Random by the run's seed. The students start from the weights of `network`, which itself
        is not changed.

        Raises:
            InputError: as `grow` and `measure`; or a search that is not a joint one; or a network
                that does not fit the images or the teacher's classes.
            ConfigurationDiffers: other images or settings than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        images = images_of(images)
        settings, training = validated(settings or Spend()), validated(training or Training())
        search, grow = validated(search or Search()), validated(grow or Grow())
        truth = check_labels_of(self.meter, labels, count=len(images))
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
            truth=truth,
            students=students,
            enough=stopping.of_growth(self._workspace, images, answers, stop),
        )
        return self.transfer_set(images, "auto", labels=truth)

    def planned(
        self, samples: int, settings: Spend | None = None, *, reserved: int = 0
    ) -> trial.SpendingPlan:
        """How `spend` divides the answers, for `samples` own images; costs no query.

        Once it has begun, a budget that is raised later does not change its plan.
        """
        return trial.planned(self._workspace, settings or Spend(), samples, reserved=reserved)

    @property
    def decision(self) -> trial.Decision | None:
        """What `spend` decided, and why; None before that."""
        return trial.decided(self._workspace)

    @property
    def selection(self) -> trial.Selection | None:
        """Which grown images `spend` chose to learn from; None if it did not try."""
        return trial.selected(self._workspace)

    @property
    def stops(self) -> Stops:
        """What a rule has ended early, and how that may go on; costs no query."""
        return Stops(self._workspace)

    def label(
        self,
        images: Given,
        search: Search | None = None,
        *,
        labels: Labels | None = None,
    ) -> TransferSet:
        """Measure distances and make soft labels of them: Eq. 6 and 7, sections 3.2.1 and 3.2.2.

        `labels` are ground truth for the cross-entropy term of Eq. 1. Without them it uses the
        teacher's answers. Costs as `measure`. Random by the run's seed.

        Raises:
            InputError: as `measure`; or labels that are not classes of the teacher.
            ConfigurationDiffers: other images or settings than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        images, search = images_of(images), search or Search()
        truth = check_labels_of(self.meter, labels, count=len(images))
        self.measure(images, search)
        return self.transfer_set(images, search.metric, labels=truth)

    def transfer_set(
        self, images: Given, method: Method, *, labels: Labels | None = None
    ) -> TransferSet:
        """What a student of this method is trained on, from finished shards; costs no query.

        "ce" needs only the answers. "sd", "bd" and "mbd" need the distances of that metric. "grown"
        needs the grown images, "mixed" these and the distances of "mbd". "auto" needs what `spend`
        bought. A grown image has the id of its parent, and its label is the teacher's answer.
        Images whose class the teacher does not know (`unsure_of`) are left out.

        Raises:
            InputError: a stage is not finished, labels do not fit, or students of this method learn
                from pseudo samples.
            ConfigurationDiffers: other images than before.
            Damaged: a shard cannot be trusted.
        """
        images = images_of(images)
        truth = check_labels_of(self.meter, labels, count=len(images))
        return transfer_of(self._workspace, images, method, truth)

    def probes(self, images: Given) -> TransferSet:
        """The probes of a joint search, as plain labelled images; costs no query.

        They were bought for distances. Each has the id of the image that it was asked for. They are
        what the teacher saw; in folders of before December 2026 they have half precision.

        Raises:
            InputError: there are none.
            Damaged: a shard cannot be trusted.
        """
        asked, called, rows = distances.probes(self._workspace, images_of(images))
        found = TransferSet(TensorImages(asked), rows, called, called)
        return learnable(self._workspace, found)

    def distances(self, metric: Metric) -> RobustnessMap:
        """The measured distances of every image, read from the shards; costs no query.

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
        card: StudentCard | None = None,
    ) -> nn.Module:
        """Train a student with Eq. 1, or load it if the same training is finished already.

        A training that was stopped continues from its last checkpoint. Another network, transfer
        set, setting or seed makes another student, which is kept next to the first. Costs no query.
        Random by `seed`: the order of the images, and dropout. A file that cannot be trusted is
        said in a warning, and the student trained again.

        `card`: what the file of the student says of it; how it was trained is added. With it,
        `db3kd.load_student` needs the file alone.

        Raises:
            InputError: the training cannot work; see `db3kd.student.training.train`.
        """
        training = validated(training or Training())
        student = Untrained(network, transfer, training, seed, name, card)
        return distilled(self._workspace, student)

    def train_elsewhere(self, students: Iterable[Untrained]) -> None:
        """Have workers, if there are any, train those that are not trained; costs no query."""
        train_elsewhere(self._workspace, students)

    def evaluate(
        self,
        network: nn.Module,
        images: Given,
        labels: Labels | None = None,
        *,
        name: str = "student",
        seed: int = 0,
    ) -> Evaluation:
        """Compare a student with the teacher, and with ground truth, on test images.

        `labels` are ground truth. `name` and `seed` say in the journal which student it was. Costs
        one query for each test image, once for all students of the run. Nothing is random.

        Raises:
            InputError: no images, or images that are not finite or out of bounds; or labels or a
                network that do not fit them.
            ConfigurationDiffers: other images than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        images = images_of(images)
        truth = check_labels_of(self.meter, labels, count=len(images))
        check_any(images)
        classes_of(network, images)  # may fail, so before anything is asked
        return evaluated(self._workspace, network, images, truth, seed=seed, name=name)

    @property
    def costs(self) -> Costs:
        """What was bought so far, and how long it took; costs no query."""
        return Costs.of(self._workspace)
