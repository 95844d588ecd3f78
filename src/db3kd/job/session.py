"""A recipe with its run, data sets and teacher at hand."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import msgspec
from torch import Tensor, nn

from db3kd.config.methods import METHODS, Method, Needs, needed
from db3kd.config.reading import resolved
from db3kd.config.recipe import Recipe
from db3kd.config.settings import kind_of
from db3kd.data import DataSet, Images
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.job.duration import (
    Asking,
    Forecast,
    Size,
    Verb,
    forecast_time,
    size_of,
    speeds_of,
    students_of,
    told,
)
from db3kd.job.money import purse_of
from db3kd.job.plan import PARTS, check_possible, ensemble_labels, forecast
from db3kd.job.probe import arm
from db3kd.job.sanity import FIRST, Doubt, doubt, one_class
from db3kd.job.sets import Sets, digest_of_labels, matched, sets_of, sound, sound_pool
from db3kd.job.student import card_of
from db3kd.job.teacher import TeacherPipeline, fingerprint, open_teacher, paid
from db3kd.progress import Progress, silent
from db3kd.run import Run
from db3kd.stages.accounts import by_stage
from db3kd.stages.ahead import Done
from db3kd.stages.classes_met import taught
from db3kd.stages.clock import Clock
from db3kd.stages.digests import Digests
from db3kd.stages.executor import Executor
from db3kd.stages.identity import note_labels
from db3kd.stages.speeds import Speeds
from db3kd.stages.stopping import Stopping
from db3kd.stages.students import Untrained
from db3kd.storage.files import Json
from db3kd.student.batches import resident
from db3kd.student.card import StudentCard
from db3kd.student.devices import usable_device
from db3kd.student.networks import Shape
from db3kd.student.own import build_wanted
from db3kd.teachers.base import known_of, met_of

ASKING = ("answers", "evaluate")  # stages whose time is the teacher's
EXPECTED = 10  # classes that are found, in a forecast
_log = logging.getLogger("db3kd")


@contextmanager
def opened(
    recipe: Recipe,
    progress: Progress = silent,
    redo_damaged: bool = False,
    anyway: bool = False,
    announce: bool = True,
) -> Iterator["Job"]:
    """Open the run of a recipe, with its data sets and teacher, for the length of a `with` block.

    A recipe that cannot work is refused first, and so are damaged images. Then a "network" teacher
    without weights is trained. `anyway` goes on with a teacher that makes no sense. `announce` logs
    what an ordinary run costs at most. Costs no query.

    Raises:
        Db3kdError: see `Run`, `open_teacher` and `check_possible`.
    """
    recipe = msgspec.structs.replace(recipe, device=usable_device(recipe.device))
    sets = sets_of(recipe)
    check_possible(recipe, sets)
    clock = Clock(progress)
    digests = Digests(Path(recipe.run) / "digests.json", progress)
    sets = sound(recipe, sets, digests)
    sets = replace(sets, pool=sound_pool(recipe, sets, digests))
    with (
        open_teacher(recipe, sets.known, progress) as pipeline,
        Run(
            recipe.run,
            pipeline.teacher,
            budget=recipe.budget,
            seed=recipe.seed,
            device=recipe.device,
            configuration=_stable(recipe),
            redo_damaged=redo_damaged,
            progress=clock,
            identity=pipeline.parts,
            executor=_executor(recipe, pipeline),
        ) as found,
    ):
        digests.save()
        found.stops.settle(recipe.stop)
        sets = matched(sets, pipeline.teacher)
        if pipeline.store is not None:
            account, journal = pipeline.account, found.journal
            account.purse = purse_of(recipe, pipeline.store, account, journal, keep=True)
        job = Job(recipe, found, sets, pipeline, anyway, clock)
        job.note_labels()
        if sets.own is not None and recipe.teacher.noise is None:
            arm(found, pipeline, sets.own.images, most=job.most["total"])
        if announce:
            job.announce()
        yield job


def _executor(recipe: Recipe, pipeline: TeacherPipeline) -> Executor | None:
    """Who does the shards; None for this process.

    A teacher with a store or votes is asked by this process, for all workers.
    """
    if recipe.cluster.engine == "none":
        return None
    from db3kd.job.worker import helping  # which knows of jobs
    from db3kd.stages.foreman import Foreman
    from db3kd.stages.ray_crew import RayCrew
    from db3kd.stages.through_leader import Described

    one_owner = pipeline.store is not None or recipe.teacher.noise is not None
    led = Described.of(pipeline.teacher, pipeline.parts) if one_owner else None
    crew = RayCrew(recipe.cluster, partial(helping, recipe, led))
    return Foreman(crew, recipe.cluster.patience)


def _stable(recipe: Recipe) -> Json:
    """The settings that must stay the same in a folder."""
    images = resolved(recipe)["data"]
    for name in ("test_samples", "image", "label"):
        if images[name] is None:
            del images[name]
    del images["damaged"]  # which images are taken is known by their content
    return {"data": images, "teacher": fingerprint(recipe)}


@dataclass(frozen=True)
class Job:
    """A recipe with its run, data sets and teacher at hand; `opened` makes one."""

    recipe: Recipe
    run: Run
    sets: Sets
    pipeline: TeacherPipeline
    anyway: bool = False
    clock: Clock = field(default_factory=Clock)
    warnings: list[str] = field(default_factory=list)

    @property
    def own(self) -> DataSet:
        """The own images.

        Raises:
            InputError: there are none.
        """
        if self.sets.own is None:
            raise InputError("there are no own images; set data.train, or call `db3kd synthesize`")
        return self.sets.own

    @property
    def test(self) -> DataSet:
        """The test images.

        Raises:
            InputError: there are none.
        """
        if self.sets.test is None:
            raise InputError("there are no test images; set data.test, or data.train")
        return self.sets.test

    @property
    def shape(self) -> Shape:
        """Channels, height and width of all images."""
        return self.sets.shape

    @property
    def needs(self) -> Needs:
        """What the methods of all students need, taken together."""
        return needed(self.recipe.student.methods)

    @cached_property
    def most(self) -> dict[str, int]:
        """What the run will cost at most, by part; as it was planned when it was opened."""
        recipe, reserved = self.recipe, self.sets.tests
        samples = 0 if self.sets.own is None else len(self.sets.own)
        divided = self.run.planned(max(1, samples), recipe.spend, reserved=reserved)
        spend = msgspec.structs.replace(recipe.spend, per_image=divided.per_image)
        total = self.run.planned_synthesis(recipe.synthesis, reserved=reserved)
        synthesis = msgspec.structs.replace(recipe.synthesis, queries=max(1, total))
        return forecast(
            msgspec.structs.replace(recipe, spend=spend, synthesis=synthesis),
            samples=samples,
            test_samples=reserved,
            classes=self.run.meter.classes,
        )

    def note_labels(self) -> None:
        """Note which true labels there are, and say where there are none."""
        for which, data in (("own images", self.sets.own), ("test images", self.sets.test)):
            digest = None if data is None else digest_of_labels(data)
            wanted = which == "test images" or self.recipe.data.labels == "truth"
            if digest is not None and wanted:
                note_labels(self.run.folder, self.run.journal, which, digest)
        own = self.sets.own
        if own is not None and own.labels is None:
            _log.info("the own images have no labels; students learn from the teacher's classes")

    def look(self, *, tests: bool = False) -> None:
        """Compare the teacher's first answers with the true classes, where there are such.

        Own images are taken, or else test images; with `tests` these alone. Costs at most a hundred
        queries; no image is asked again later. Random by the recipe's seed: which images.

        Raises:
            InputError: they make no sense, and nobody said to go on anyway.
            Db3kdError: see `Run.first_answers`.
        """
        data = self.sets.test if tests else self.sets.labelled
        if data is None or data.labels is None:
            return
        of: Literal["answers", "evaluate"] = "answers" if data is self.sets.own else "evaluate"
        trusted = of == "evaluate" or self.recipe.data.labels == "truth"
        if data is self.sets.own and trusted:
            self._doubt(one_class(data.labels, self.sets.names), trusted=True)
        rows, answers = self.run.first_answers(data.images, FIRST, of=of)
        if len(rows):
            self._doubt(doubt(answers, data.labels[rows], self.sets.names), trusted=trusted)

    def _doubt(self, found: Doubt | None, *, trusted: bool) -> None:
        if found is None:
            return
        if trusted and not self.anyway:
            raise InputError(f"{found}; --anyway goes on (in Python anyway=True)")
        self.warn(str(found))

    def warn(self, text: str) -> None:
        """Log a warning, once, and keep it for the summary."""
        if text not in self.warnings:
            self.warnings.append(text)
            _log.warning("%s", text)

    def announce(self) -> None:
        """Log what the run will cost at most, and for what; costs no query."""
        meter, most = self.run.meter, self.most
        samples = 0 if self.sets.own is None else len(self.sets.own)
        divided = self.run.planned(max(1, samples), self.recipe.spend, reserved=self.sets.tests)
        words = [f"{most[part]:,} for {name}" for part, name in PARTS.items() if most[part]]
        _log.info("at most %s queries in all: %s", f"{most['total']:,}", ", ".join(words))
        if self.needs.trial and self.run.decision is None and divided.tried:
            _log.info(
                "what pays depends on teacher and images, so both are tried on %s images, with %s"
                " new ones of each; what teaches more than these images alone gets the other %s"
                " answers per image",
                f"{divided.tried:,}",
                divided.each,
                divided.left,
            )
        budget = meter.budget.queries
        if budget is not None and most["total"] > budget:
            advice = ""
            if budget < samples:
                advice = (
                    f"; it can pay for {budget:,} images of your own at most, so set data.samples"
                )
            elif self.needs.trial and self.recipe.spend.per_image is not None:
                advice = "; without spend.per_image, the run would be planned to fit"
            _log.info(
                "the budget is %s, so the run may stop before it is done%s", f"{budget:,}", advice
            )

    def begin(self, verb: Verb) -> None:
        """Log how long what is ahead takes, and let progress tell the time left of all of it.

        Some seconds are measured for that, unless nobody would hear of it. Costs no query.
        """
        if self.clock.progress is silent and not _log.isEnabledFor(logging.INFO):
            return
        found = self.ahead(verb)
        _log.info("%s", told(found))
        self.clock.plan = lambda: self.ahead(verb).parts

    def ahead(self, verb: Verb = "run") -> Forecast:
        """How long what is ahead takes, without what is done already; costs no query."""
        recipe, done = self.recipe, Done.of(self.run.journal)
        asked = [r for r in self.run.journal.all("shard") if kind_of(r["stage"]) in ASKING]
        count = sum(record["queries"] for record in asked)
        seconds = sum(float(record["wall_s"]) for record in asked) / max(1, count)
        asking = Asking(seconds, recipe.teacher.remote)
        return forecast_time(recipe, self._size, self._speeds, asking, done=done, verb=verb)

    @cached_property
    def _size(self) -> Size:
        recipe, reserved = self.recipe, self.sets.tests
        samples = 0 if self.sets.own is None else len(self.sets.own)
        return size_of(
            recipe,
            self.sets,
            self.run.meter.classes if met_of(self.run.meter) is None else self._expected,
            divided=self.run.planned(max(1, samples), recipe.spend, reserved=reserved),
            pseudo=self.run.planned_synthesis(recipe.synthesis, reserved=reserved),
        )

    @cached_property
    def _speeds(self) -> Speeds:
        return speeds_of(self.recipe, self.shape, self._expected)

    @property
    def _expected(self) -> int:
        """How many classes students will have, for a forecast."""
        meter = self.run.meter
        return known_of(meter) if met_of(meter) is None else max(EXPECTED, known_of(meter))

    def spend(self) -> None:
        """Buy new images or distances, as a trial decides; see `Run.spend`."""
        self.run.spend(
            self.own.images,
            self.network(self.recipe.student.seeds[0], self.run.meter.classes),
            self.recipe.spend,
            search=self.recipe.label,
            grow=self.recipe.grow,
            training=self.recipe.student.training,
            labels=self.truth,
            reserved=self.sets.tests,
            students=students_of(self.recipe),
            stop=self.stopping,
        )

    def synthesize(self) -> None:
        """Make the pseudo samples, and measure their distances if a student needs these.

        Costs as `Run.synthesize` and `Run.measure_pseudo`. Random by the recipe's seed.

        Raises:
            InputError: the images of `synthesis.images` cannot be used.
            Db3kdError: see `Run.synthesize` and `Run.measure_pseudo`.
        """
        recipe, shape = self.recipe, self.shape
        images, reserved, stop = self.unlabelled, self.sets.tests, self.stopping
        self._tell_repeats(images)
        if stop is not None:  # how many ensemble labels there are depends on what is asked
            alone = msgspec.structs.replace(recipe.synthesis, ensemble_labels=0)
            self.run.synthesize(shape, alone, images=images, reserved=reserved, stop=stop)
        settings = msgspec.structs.replace(recipe.synthesis, ensemble_labels=self.ensemble_labels)
        self.run.synthesize(shape, settings, images=images, reserved=reserved, stop=stop)
        if self.needs.metric is not None:
            self.run.measure_pseudo(recipe.label)

    def _tell_repeats(self, images: Images | None) -> None:
        """Warn where fewer images are there than are asked, by ways that make none of them."""
        settings = self.recipe.synthesis
        asked = self.run.planned_synthesis(settings, reserved=self.sets.tests)
        if images is None or len(images) >= asked or not settings.way.startswith("unrelated"):
            return
        self.warn(
            f"synthesis.images has {len(images):,} usable images, and {asked:,} are to be asked, so"
            " images are asked again, which teaches nothing; lower synthesis.queries, or take"
            ' synthesis.way = "public", which cuts new crops of them'
        )

    @property
    def stopping(self) -> Stopping | None:
        """The recipe's rule, with the students that it judges; None without one."""
        if self.recipe.stop is None:
            return None
        wanted = self.recipe.student
        network = self.network(wanted.seeds[0], self.run.meter.classes)
        return Stopping(self.recipe.stop, network, wanted.training)

    @property
    def unlabelled(self) -> Images | None:
        """The unlabelled images of something else; None if the recipe names none."""
        return self.sets.pool

    def network(self, seed: int, classes: int | None = None) -> nn.Module:
        """A student before its training; random by `seed`: its first weights.

        `classes`: how many it has, by default those that are known but no "I do not know".
        """
        count = known_of(self.run.meter) if classes is None else classes
        return build_wanted(self.recipe.student, self.shape, count, seed=seed)

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called; where they are found, those that are met by now."""
        met = met_of(self.run.meter)
        return self.sets.names if met is None else met

    def student_of(self, samples: TransferSet, seed: int) -> tuple[nn.Module, StudentCard]:
        """A student before its training on these samples, and what its file says of it.

        Where classes are found, it has those of its samples (`stages.classes_met.taught`).
        """
        count = taught(self.run.meter, samples)
        sets = self.sets
        if met_of(self.run.meter) is not None:
            sets = replace(sets, names=self.names[:count])
        return self.network(seed, count), card_of(self.recipe, self.pipeline, sets)

    def transfer(self, method: Method) -> TransferSet:
        """What students of a method are trained on, with pixels in memory; costs no query."""
        transfer = self.samples(method)
        alone = not METHODS[method].pseudo and len(transfer) == len(self.own)
        return replace(transfer, images=self.pixels if alone else resident(transfer.images))

    def samples(self, method: Method) -> TransferSet:
        """The same, with pixels where they lie."""
        needs = METHODS[method]
        if not needs.pseudo:
            return self.run.transfer_set(self.own.images, method, labels=self.truth)
        if needs.metric is None:
            return self.run.pseudo.whole(ensemble_labels=self.ensemble_labels > 0)
        return self.run.pseudo.measured()

    @property
    def ensemble_labels(self) -> int:
        """How many images with ensemble labels the students of pseudo samples learn from."""
        asked = self.run.planned_synthesis(self.recipe.synthesis, reserved=self.sets.tests)
        return ensemble_labels(self.recipe, self.shape, asked=asked)

    @property
    def truth(self) -> Tensor | None:
        """The true classes of the own images; None if there are none, or the teacher's stand."""
        return self.own.labels if self.recipe.data.labels == "truth" else None

    @cached_property
    def pixels(self) -> Images:
        """The own images that students are trained on, in memory unless there are too many."""
        return resident(self.own.images)

    def students(self) -> Iterator[tuple[Method, int, nn.Module]]:
        """Every student, trained now or before, as it is after the last epoch; costs no query."""
        wanted = self.recipe.student
        self.run.train_elsewhere(self.untrained(wanted.methods, wanted.seeds))
        for method in wanted.methods:
            for student in self.untrained((method,), wanted.seeds):
                yield method, student.seed, self.trained(student)

    def untrained(self, methods: Sequence[Method], seeds: Sequence[int]) -> Iterator[Untrained]:
        """Students of the recipe before their training, one at a time; costs no query."""
        for method in methods:
            transfer = self.transfer(method)
            for seed in seeds:
                network, card = self.student_of(transfer, seed)
                training = self.recipe.student.training
                yield Untrained(network, transfer, training, seed, method, card)

    def trained(self, student: Untrained) -> nn.Module:
        """A student after its training, now or before; costs no query."""
        return self.run.distill(
            student.network,
            student.transfer,
            student.training,
            seed=student.seed,
            name=student.name,
            card=student.card,
        )

    def books(self) -> Json:
        """Queries spent by stage, the budget, repeats of votes, and the books of the store."""
        meter, vote = self.run.meter, self.pipeline.vote
        repeats = {} if vote is None else {"repeats": vote.repeats, "undecided": vote.undecided}
        return {
            **repeats,
            **paid(self.pipeline),
            "run": str(self.run.folder),
            "queries": {
                "spent": meter.spent,
                "budget": meter.budget.queries,
                "by_stage": by_stage(meter.by_stage),
            },
        }
