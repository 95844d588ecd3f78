"""A run: a folder that holds what was bought, and the stages that continue from any state it is in.

Stages: `answers` asks the teacher for the class of every image, `grow` makes new images and asks
them, `distances` measures to the boundary, `evaluate` asks for the test images. Each is cut into
shards, the unit of work, of randomness and of resume. Running a command again continues.

    journal.jsonl            every finished shard, student and figure
    answers/00000.safetensors, grow/..., distances/..., evaluate/...   finished shards
    distances/00007.tape     answers of the shard in progress
    students/...             trained networks, and checkpoints of those in training
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.config.methods import Method, Metric, is_grown, metric_of
from db3kd.config.settings import Budget, Grow, Search, Spend, Synthesis, Training, at_once
from db3kd.config.types import validated
from db3kd.data import Images, TensorImages, check_images
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.progress import Progress, silent
from db3kd.search.robustness import RobustnessMap
from db3kd.stages import (
    ascent as ascents,
)
from db3kd.stages import (
    growing as growth,
)
from db3kd.stages import (
    synthesis as pseudo,
)
from db3kd.stages import (
    trial as spending,
)
from db3kd.stages.distances import (
    check,
    found,
    measure_all,
    measured,
    probes,
    seconds_of_lessons,
    soft_labels,
)
from db3kd.stages.ensemble_labels import images_for
from db3kd.stages.growing import Growth
from db3kd.stages.table import ANSWERS_SHARD
from db3kd.stages.taped import Taped, fingerprint
from db3kd.stages.trial import with_grown, with_use
from db3kd.stages.workspace import Workshop
from db3kd.storage.files import Json, writing
from db3kd.student.evaluate import accuracy, agreement, classes_of, predict
from db3kd.student.files import load_network, save_network
from db3kd.student.networks import network_of
from db3kd.student.training import train, training_identity
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
        self._shop = Workshop(
            self.folder,
            teacher,
            budget,
            seed=seed,
            device=device,
            configuration=configuration or {},
            redo_damaged=redo_damaged,
            progress=progress,
        )
        self.journal, self.meter = self._shop.journal, self._shop.meter

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
        self._shop.close()

    # The stages

    def answers(self, images: Images) -> Int[Tensor, " sample"]:
        """Ask the teacher once for the class of every image; costs one query each.

        Raises:
            InputError: images that are not finite or out of bounds; another set than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        return self._classes("answers", images)

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
        check(search, images.shape, self.meter.classes)
        measure_all(self._shop, images, self.answers(images), search)

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
        growth.check(settings, images.shape, self.meter.classes)
        growth.grow_all(self._shop, images, self.answers(images), settings)

    def grown(self, images: Images) -> Growth:
        """What `grow` has bought; costs no query.

        Raises:
            InputError: the stage is not finished.
            Damaged: a shard cannot be trusted.
        """
        return growth.grown(self._shop, images)

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
        for way "unrelated". `settings.unasked` more images (without it as for a student of the
        surrogate's network) have soft labels by an ensemble, and come last. Random by the run's
        seed.

        Raises:
            InputError: a network that does not fit; nothing is left to ask with; or, by way
                "ascent", one class for everything.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        settings = validated(settings or Synthesis())
        pseudo.check(settings, shape, self.meter.classes)
        total = self.planned_synthesis(settings, reserved=reserved)
        pseudo.check_budget(total, budget=self.meter.budget.queries, reserved=reserved)
        student = network_of(settings.surrogate, shape)
        more = images_for(student, settings, shape, asked=total)
        settings = msgspec.structs.replace(settings, unasked=more)
        pseudo.synthesize(self._shop, shape, settings, total, images)
        pseudo.warn_of_missing(self._shop)
        return pseudo.whole(self._shop, unasked=more > 0)

    def planned_synthesis(self, settings: Synthesis | None = None, *, reserved: int = 0) -> int:
        """How many pseudo samples are asked: as it began, or as it would be; no query.

        A budget that is raised later changes no plan.
        """
        begun, settings = self._shop.configuration("synthesis"), settings or Synthesis()
        if begun and settings.queries is None and settings.way != "ascent":
            return int(begun["total"])
        budget = self.meter.budget.queries
        return pseudo.planned(settings, budget=budget, reserved=reserved)

    def pseudo_samples(
        self,
        *,
        softened: bool = False,
        iteration: int | None = None,
        copies: bool = True,
        unasked: bool = True,
    ) -> TransferSet:
        """What `synthesize` has bought, and `soften` measured; costs no query.

        `iteration`: those of way "ascent" as they were after so many iterations, without copies; 0
        is noise as it was found.
        Not `copies`: without copies, and without images of which nobody was asked. Not `unasked`:
        without the latter alone.

        Raises:
            InputError: a stage is not finished.
            Damaged: a shard cannot be trusted.
        """
        if iteration is not None:
            return ascents.ascended(self._shop, iteration=iteration)
        if softened:
            return pseudo.softened(self._shop)
        if not copies:
            return pseudo.made(self._shop)
        return pseudo.whole(self._shop, unasked=unasked)

    @property
    def pseudo_counts(self) -> list[int]:
        """How many pseudo samples the teacher called each class."""
        return [int(count) for count in pseudo.counts(self._shop)]

    def evolution(self, classes: int) -> Tensor | None:
        """A pseudo sample of each class from noise to its end, by way "ascent"; see Fig. 6.

        None where `AscentPlan.every` kept no iterations.
        """
        return ascents.evolution(self._shop, classes)

    def price_of(self, stages: tuple[str, ...]) -> Json:
        """Queries and seconds of the stages whose names begin so."""
        shards = [r for r in self.journal.all("shard") if r["stage"].startswith(stages)]
        queries = sum(n for stage, n in self.meter.by_stage.items() if stage.startswith(stages))
        seconds = sum(float(record["wall_s"]) for record in shards)
        return {"queries": queries, "label_s": round(seconds, 1)}

    def soften(self, search: Search | None = None) -> TransferSet:
        """The pseudo samples with soft labels by their distances, with references among themselves.

        Their classes are not asked again; copies have their answers alone. Costs at most what
        `measure` costs beside the answers.

        Raises:
            InputError: as `measure`; or nothing was synthesized yet.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        pseudo.measure(self._shop, validated(search or Search()))
        return pseudo.softened(self._shop)

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
        search, grow = validated(search or Search()), validated(grow or Grow())
        settings, training = validated(settings or Spend()), validated(training or Training())
        self._check_labels(labels, len(images))
        _check_any(images)
        if not at_once(search):
            raise InputError(
                'this search is row by row, which no trial can pay; set strategy = "together", or'
                " call `label`"
            )
        plan = self.planned(len(images), settings, reserved=reserved)
        check(search, images.shape, self.meter.classes)
        if grow.changes:
            growth.check(grow, images.shape, self.meter.classes)
        if (found := classes_of(network, images)) != self.meter.classes:
            raise InputError(
                f"the network has {found} classes, but the teacher {self.meter.classes}"
            )
        own = self.answers(images)
        self._shop.agree("spend", dict(plan.__dict__))
        decision = self.decision or spending.decide(
            self._shop, images, own, network, plan, search=search, grow=grow, training=training
        )
        if decision.use == "mbd":
            self.measure(images, msgspec.structs.replace(search, per_image=plan.left))
        elif decision.use == "grown" and decision.held:
            rest = {"per_image": plan.left, "rounds": spending.halves(grow.rounds)[1]}
            grow = msgspec.structs.replace(grow, **rest)
            earlier = growth.grown(self._shop.within("trial"), images)
            growth.grow_all(self._shop, images, own, grow, earlier=earlier)
        elif decision.use == "grown":
            self.grow(images, msgspec.structs.replace(grow, per_image=plan.left))
        if labels is not None and decision.use == "grown" and self.selection is None:
            plain = TransferSet(images, torch.arange(len(images)), own, labels)
            if len(plain) >= spending.SOME:
                spending.select(self._shop, plain, decision, network, training)
        return self.transfer_set(images, "auto", labels=labels)

    def planned(
        self, samples: int, settings: Spend | None = None, *, reserved: int = 0
    ) -> spending.Plan:
        """How `spend` parts the answers: as it began, or as it would for so many images.

        A budget that is raised later changes no plan. Costs no query.
        """
        begun, settings = self._shop.configuration("spend"), settings or Spend()
        if begun and settings.per_image is None:
            settings = msgspec.structs.replace(settings, per_image=begun["per_image"])
        budget = self.meter.budget.queries
        return spending.Plan.of(settings, samples=samples, budget=budget, reserved=reserved)

    @property
    def bought(self) -> int:
        """All queries but those of test images."""
        return self.meter.spent - self.meter.by_stage.get("evaluate", 0)

    @property
    def buying_seconds(self) -> float:
        """How long it took to buy them, lessons and trials included."""
        shards = [r for r in self.journal.all("shard") if r["stage"] != "evaluate"]
        judged = (*self.journal.all("decision"), *self.journal.all("selection"))
        records = (*shards, *judged)  # lessons of growing are in its shards
        seconds = sum(float(record["wall_s"]) for record in records)
        return round(seconds + seconds_of_lessons(self._shop), 1)

    @property
    def decision(self) -> spending.Decision | None:
        """What `spend` decided, and why; None before."""
        return spending.decided(self._shop)

    @property
    def selection(self) -> spending.Selection | None:
        """Which grown images `spend` found to learn from; None where it did not ask."""
        return spending.selected(self._shop)

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
        self._check_labels(labels, len(images))
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
        self._check_labels(labels, len(images))
        answered = self._shop.configuration("answers")
        pending = self._shop.pending("answers", len(images), ANSWERS_SHARD)
        if not answered or (pending and answered["samples"] == len(images)):
            raise InputError("the images are not labelled yet; label them first")
        own = self.answers(images)
        truth, labels = labels is not None, own if labels is None else labels
        rows = torch.arange(len(images))
        transfer = TransferSet(images, rows, own, labels)
        if method == "auto":
            share = self.selection.share if self.selection and truth else "all"
            return with_use(self._shop, transfer, self._decided(), share)
        metric = metric_of(method)
        if metric is not None:
            transfer = transfer.with_soft(soft_labels(found(self._shop, metric), own))
        return with_grown(self._shop, transfer, images, rows) if is_grown(method) else transfer

    def _decided(self) -> spending.Decision:
        if self.decision is None:
            raise InputError("nothing is decided yet; spend the answers first")
        return self.decision

    def probes(self, images: Images) -> TransferSet:
        """The probes of a search of all classes at once, as plain labelled images; no query.

        They were bought for distances; each has the id of the image that it was asked for. They are
        kept in half precision, so that what the teacher saw differed by up to a thousandth.

        Raises:
            InputError: there are none.
        """
        asked, called, rows = probes(self._shop, images)
        return TransferSet(TensorImages(asked), rows, called, called)

    def distances(self, metric: Metric) -> RobustnessMap:
        """The measured distances of every image, read from the shards.

        Raises:
            InputError: the stage is not finished, or that metric was not measured.
            Damaged: a shard is missing, cut or altered.
        """
        return measured(self._shop, metric)

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
        known = training_identity(network, transfer, training, seed)
        identity = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        file = f"students/{name}-{seed}-{identity[:8]}.safetensors"
        path = self.folder / file
        if self._student(identity) and path.exists():
            return load_network(path, network).to(self.device).eval()
        checkpoint = path.with_suffix(".checkpoint")
        with writing(path):
            path.parent.mkdir(exist_ok=True)

        def report(_: str, done: int, total: int, figures: Mapping[str, float]) -> None:
            self.progress(f"{name}-{seed}", done, total, figures)

        started = time.perf_counter()
        trained = train(
            network,
            transfer,
            training,
            seed=seed,
            device=self.device,
            progress=report,
            checkpoint=checkpoint,
        )
        save_network(path, trained)
        self.journal.append(
            "student",
            identity=identity,
            name=name,
            seed=seed,
            file=file,
            training=_plain(training),
            samples=len(transfer),
            seconds=round(time.perf_counter() - started, 3),
        )
        checkpoint.unlink(missing_ok=True)
        return trained

    def evaluate(
        self,
        network: nn.Module,
        images: Images,
        labels: Int[Tensor, " sample"] | None = None,
        *,
        name: str = "student",
        seed: int = 0,
    ) -> "Evaluation":
        """Compare a student with the teacher, and with ground truth, on test images.

        Costs one query for each test image, once for all students of the run.

        Raises:
            InputError: images that are not finite or out of bounds; other images than before; a
                network that does not fit them.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        self._check_labels(labels, len(images))
        _check_any(images)
        classes_of(network, images)  # it fails before anything is asked, if it does
        theirs = self._classes("evaluate", images)
        mine = predict(network, images, device=self.device).cpu()
        result = Evaluation(
            agreement(mine, theirs),
            None if labels is None else accuracy(mine, labels),
            None if labels is None else accuracy(theirs, labels),
            len(images),
        )
        self.journal.append("evaluation", name=name, seed=seed, **result.__dict__)
        return result

    # What the stages share

    def _classes(self, stage: str, images: Images) -> Tensor:
        """The teacher's class of every image, asked for once in the life of the run."""
        _check_any(images)
        block = images.read(_ends(len(images)))
        check_images(block, self.meter.bounds)
        known = {"samples": len(images), "shape": list(images.shape), "images": fingerprint(block)}
        self._shop.agree(stage, known)

        def work(teacher: Taped, rows: Tensor, _: int) -> tuple[dict[str, Tensor], Json]:
            block = images.read(rows)
            check_images(block, teacher.bounds, first=int(rows[0]))
            return {"own": teacher.labels(block.to(self.device)).cpu().to(torch.int32)}, {}

        self._shop.work(stage, len(images), ANSWERS_SHARD, 1, work)
        done = self._shop.done(stage)
        return torch.cat([self._shop.read(done[n])["own"] for n in sorted(done)]).long()

    def _student(self, identity: str) -> Json | None:
        found = [r for r in self.journal.all("student") if r["identity"] == identity]
        return found[-1] if found else None

    def training_seconds(self, name: str, seed: int) -> float:
        """How long the last student of that name and seed was trained, in seconds."""
        found = [r for r in self.journal.all("student") if (r["name"], r["seed"]) == (name, seed)]
        return float(found[-1]["seconds"]) if found else 0.0

    def _check_labels(self, labels: Tensor | None, count: int) -> None:
        if labels is None:
            return
        if len(labels) != count:
            raise InputError(f"{count:,} images need as many labels, got {len(labels):,}")
        wrong = (labels < 0) | (labels >= self.meter.classes)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise InputError(
                f"label {int(labels[row])} in row {row} is no class of the teacher, which has"
                f" {self.meter.classes}"
            )


@dataclass(frozen=True)
class Evaluation:
    """How a student did on `samples` test images.

    `agreement`: the share on which it answers as the teacher does. `accuracy`, `teacher_accuracy`:
    the shares that match ground truth, where there is any.

    >>> Evaluation(0.98, 0.97, 0.99, samples=10_000).agreement
    0.98
    """

    agreement: float
    accuracy: float | None
    teacher_accuracy: float | None
    samples: int


def _plain(record: msgspec.Struct) -> Json:
    plain: Json = json.loads(msgspec.json.encode(record))
    return plain


def _check_any(images: Images) -> None:
    if not len(images):
        raise InputError("there are no images")


def _ends(count: int) -> Int[Tensor, " row"]:
    """A few rows from both ends, which stand for the whole set."""
    return torch.cat([torch.arange(min(16, count)), torch.arange(max(0, count - 16), count)])
