"""A recipe with its run, data sets and teacher at hand."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import torch
from torch import Tensor, nn

from db3kd.config.methods import METHODS, Method, Needs, needed
from db3kd.config.quick import SAMPLES
from db3kd.config.reading import resolved
from db3kd.config.recipe import Recipe
from db3kd.data import DataSet, Images, load, subset
from db3kd.data.digest import combined, of_tensor
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.job.money import purse_of
from db3kd.job.plan import PARTS, check_possible, forecast
from db3kd.job.probe import arm
from db3kd.job.teacher import TeacherPipeline, fingerprint, open_teacher, paid
from db3kd.progress import Progress, silent
from db3kd.run import Run
from db3kd.seeds import derive_seed
from db3kd.stages.ensemble_labels import images_for
from db3kd.stages.identity import note_labels
from db3kd.storage.files import Json
from db3kd.student.batches import resident
from db3kd.student.networks import build

CONTENT = ("file", "weights")  # settings of a teacher that are places: their content decides
_log = logging.getLogger("db3kd")


@contextmanager
def opened(
    recipe: Recipe, progress: Progress = silent, redo_damaged: bool = False
) -> Iterator["Job"]:
    """Open the run of a recipe, with its data sets and teacher, for the length of a `with` block.

    A recipe that cannot work is refused first. Then a "network" teacher without weights is trained.
    Costs no query.

    Raises:
        Db3kdError: see `Run`, `open_teacher` and `check_possible`.
    """
    images = resolved(recipe)["data"]
    if images["test_samples"] is None:
        del images["test_samples"]
    teacher = {k: v for k, v in fingerprint(recipe).items() if k not in CONTENT}
    stable = {"data": images, "teacher": teacher}
    data, test = data_of(recipe)
    check_possible(recipe, data, test)
    with (
        open_teacher(recipe, data or test, progress) as pipeline,
        Run(
            recipe.run,
            pipeline.teacher,
            budget=recipe.budget,
            seed=recipe.seed,
            device=recipe.device,
            configuration=stable,
            redo_damaged=redo_damaged,
            progress=progress,
            identity=pipeline.parts,
        ) as found,
    ):
        for some in (data, test):
            if some is not None and len(some.classes) > found.meter.classes:
                raise InputError(
                    f"the images have {len(some.classes)} classes, but the teacher has only"
                    f" {found.meter.classes}; leave out images of classes that it does not know"
                )
        if pipeline.store is not None:
            account, journal = pipeline.account, found.journal
            account.purse = purse_of(recipe, pipeline.store, account, journal, keep=True)
        if data is not None and recipe.data.labels == "truth":
            note_labels(found.folder, found.journal, "own images", _truth(data))
        note_labels(found.folder, found.journal, "test images", _truth(test))
        job = Job(recipe, found, data, test, pipeline)
        if data is not None and recipe.teacher.noise is None:
            arm(found, pipeline, data.images, most=job.most["total"])
        job.announce()
        yield job


def data_of(recipe: Recipe) -> tuple[DataSet | None, DataSet]:
    """The own images of a recipe, if it has any, and the test images; only labels are read yet.

    Random by the recipe's seed: which images are taken, if it wants only some of them.

    Raises:
        InputError: a data set is not there, or is smaller than wanted.
    """
    wanted = recipe.data
    name, count = str(wanted.test or wanted.train), wanted.test_samples
    test = _some(recipe, name, wanted.test_split, count, "test_samples")
    if wanted.train is None:
        return None, test
    return _some(recipe, wanted.train, wanted.train_split, wanted.samples, "samples"), test


def _some(recipe: Recipe, name: str, split: str, wanted: int | None, key: str) -> DataSet:
    data = load(name, split, size=recipe.data.size, channels=recipe.data.channels)
    if wanted is None and recipe.quick:
        wanted = min(len(data), SAMPLES)
    if wanted is None:
        return data
    if wanted > len(data):
        raise InputError(f"data.{key} is {wanted:,}, but there are only {len(data):,} images")
    generator = torch.Generator().manual_seed(derive_seed(recipe.seed, key))
    return subset(data, torch.randperm(len(data), generator=generator)[:wanted].sort().values)


def _truth(data: DataSet) -> str:
    """A digest of true labels by the names of their classes."""
    return combined("labels", [*data.classes, of_tensor(data.labels)])


@dataclass(frozen=True)
class Job:
    """A recipe with its run, data sets and teacher at hand; `opened` makes one."""

    recipe: Recipe
    run: Run
    train: DataSet | None
    test: DataSet
    pipeline: TeacherPipeline

    @property
    def own(self) -> DataSet:
        """The own images.

        Raises:
            InputError: there are none.
        """
        if self.train is None:
            raise InputError("there are no own images; set data.train, or call `db3kd synthesize`")
        return self.train

    @property
    def needs(self) -> Needs:
        """What the methods of all students need, taken together."""
        return needed(self.recipe.student.methods)

    @cached_property
    def most(self) -> dict[str, int]:
        """What the run will cost at most, by part; as it was planned when it was opened."""
        recipe, test = self.recipe, self.test
        samples = 0 if self.train is None else len(self.train)
        divided = self.run.planned(max(1, samples), recipe.spend, reserved=len(test))
        spend = msgspec.structs.replace(recipe.spend, per_image=divided.per_image)
        total = self.run.planned_synthesis(recipe.synthesis, reserved=len(test))
        synthesis = msgspec.structs.replace(recipe.synthesis, queries=max(1, total))
        return forecast(
            msgspec.structs.replace(recipe, spend=spend, synthesis=synthesis),
            samples=samples,
            test_samples=len(test),
            classes=self.run.meter.classes,
        )

    def announce(self) -> None:
        """Log what the run will cost at most, and for what; costs no query."""
        meter, most = self.run.meter, self.most
        samples = 0 if self.train is None else len(self.train)
        divided = self.run.planned(max(1, samples), self.recipe.spend, reserved=len(self.test))
        words = [f"{most[part]:,} for {name}" for part, name in PARTS.items() if most[part]]
        _log.info("at most %s queries in all: %s", f"{most['total']:,}", ", ".join(words))
        if self.needs.trial and self.run.decision is None and divided.tried:
            _log.info(
                "what pays depends on teacher and images, so both are tried on %s images, with %s"
                " new ones of each; the better use gets the other %s answers per image",
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

    def spend(self) -> None:
        """Buy new images or distances, as a trial decides; see `Run.spend`."""
        self.run.spend(
            self.own.images,
            self.network(self.recipe.student.seeds[0]),
            self.recipe.spend,
            search=self.recipe.label,
            grow=self.recipe.grow,
            training=self.recipe.student.training,
            labels=self.truth,
            reserved=len(self.test),
        )

    def synthesize(self) -> None:
        """Make the pseudo samples, and measure their distances if a student needs these.

        Costs as `Run.synthesize` and `Run.measure_pseudo`. Random by the recipe's seed.

        Raises:
            InputError: the unrelated images cannot be used.
            Db3kdError: see `Run.synthesize` and `Run.measure_pseudo`.
        """
        recipe, shape = self.recipe, self.test.images.shape
        settings = msgspec.structs.replace(recipe.synthesis, ensemble_labels=self.ensemble_labels)
        named = settings.images
        channels, height, width = shape
        images: Images | None = None
        if named is not None:
            if height != width:
                raise InputError(
                    f"unrelated images are made square, but the teacher's are {shape} (channels,"
                    " height, width); choose another synthesis.way, without synthesis.images"
                )
            found = load(named, recipe.data.train_split, size=height, channels=channels)
            images = found.images
        self.run.synthesize(shape, settings, images=images, reserved=len(self.test))
        if self.needs.metric is not None:
            self.run.measure_pseudo(recipe.label)

    def network(self, seed: int) -> nn.Module:
        """A student before its training; random by `seed`: its first weights."""
        wanted, classes = self.recipe.student, self.run.meter.classes
        return build(str(wanted.network), self.test.images.shape, classes, wanted.width, seed=seed)

    def transfer(self, method: Method) -> TransferSet:
        """What students of a method are trained on, with pixels in memory; costs no query."""
        needs = METHODS[method]
        if needs.pseudo:
            samples = (
                self.run.pseudo.whole(ensemble_labels=self.ensemble_labels > 0)
                if needs.metric is None
                else self.run.pseudo.measured()
            )
            return replace(samples, images=resident(samples.images))
        transfer = self.run.transfer_set(self.own.images, method, labels=self.truth)
        alone = len(transfer) == len(self.own)
        return replace(transfer, images=self.pixels if alone else resident(transfer.images))

    @property
    def ensemble_labels(self) -> int:
        """How many images with ensemble labels the students of pseudo samples learn from."""
        recipe = self.recipe
        rows = [METHODS[method] for method in recipe.student.methods]
        if not any(row.pseudo and row.metric is None for row in rows):
            return 0
        network, shape = str(recipe.student.network), self.test.images.shape
        asked = self.run.planned_synthesis(recipe.synthesis, reserved=len(self.test))
        return images_for(network, recipe.synthesis, shape, asked=asked)

    @property
    def truth(self) -> Tensor | None:
        """The true classes of the own images; None if the teacher's answers stand for them."""
        return self.own.labels if self.recipe.data.labels == "truth" else None

    @cached_property
    def pixels(self) -> Images:
        """The own images that students are trained on, in memory unless there are too many."""
        return resident(self.own.images)

    def students(self) -> Iterator[tuple[Method, int, nn.Module]]:
        """Every student, trained now or before, as it is after the last epoch; costs no query."""
        wanted = self.recipe.student
        for method in wanted.methods:
            transfer = self.transfer(method)
            for seed in wanted.seeds:
                student = self.run.distill(
                    self.network(seed), transfer, wanted.training, seed=seed, name=method
                )
                yield method, seed, student

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
                "by_stage": dict(meter.by_stage),
            },
        }
