"""A run: a folder that holds what was bought, and the stages that continue from any state it is in.

The only room where numbers and journal meet. Stages: `answers` asks the teacher for the class of
every image, `distances` measures them to the boundary, `evaluate` asks for the test images. Each is
cut into shards, the unit of work, of randomness and of resume. Running a command again continues.

    journal.jsonl            every finished shard, student and figure
    answers/00000.safetensors, distances/..., evaluate/...   finished shards
    distances/00007.tape     answers of the shard in progress
    students/...             trained networks, and checkpoints of those in training
"""

import hashlib
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock
import msgspec
import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.amortised.stages import (
    Plan,
    check_together,
    one_round,
    rest,
    result,
    tensors_of,
)
from db3kd.books import ANSWERS_SHARD, FORMAT, STAGES, add_up, check_format, finished, shards_of
from db3kd.data import Images, check_images
from db3kd.errors import Busy, ConfigurationDiffers, Damaged, InputError
from db3kd.journal import Drifted, Journal, Json, Tape, read_shard, write_shard, writing
from db3kd.ledger import Taped, fingerprint
from db3kd.lessons import Lessons
from db3kd.progress import Progress, silent
from db3kd.robustness import (
    References,
    RobustnessMap,
    Status,
    choose_references,
    measure,
    mix,
    sample_distance,
)
from db3kd.settings import (
    Budget,
    Method,
    Metric,
    Search,
    Training,
    at_once,
    differences,
    most_queries,
    validated,
)
from db3kd.soft_labels import concentrate, reciprocal_activations
from db3kd.student import accuracy, agreement, load_network, predict, save_network, train
from db3kd.teacher import Meter, Teacher
from db3kd.transfer_set import TransferSet

_log = logging.getLogger("db3kd")
Work = Callable[[Taped, Tensor, int], tuple[dict[str, Tensor], Json]]


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
        self._lock = filelock.FileLock(self.folder / "lock")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except filelock.Timeout:
                raise Busy(
                    f"another process works in {self.folder}; wait for it or stop it first"
                ) from None
        try:
            self.journal = Journal(self.folder / "journal.jsonl")
            try:
                self._open(teacher, budget, dict(configuration or {}), redo_damaged)
            except BaseException:
                self.journal.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _open(
        self, teacher: Teacher, budget: Budget | None, configuration: Json, redo: bool
    ) -> None:
        check_format(self.folder, self.journal)
        self._check_nothing_forgotten()
        self._agree(
            "run",
            {
                "format": FORMAT,
                "seed": self.seed,
                "device": self.device,
                "classes": teacher.classes,
                "bounds": list(teacher.bounds),
                **configuration,
            },
        )
        self._sweep()
        if redo:
            self._redo_damaged(teacher.classes)
        self._keep_booked(teacher.classes)
        spent = add_up(self.folder, self.journal, teacher.classes).spent
        self.meter = Meter(teacher, budget, spent=spent)
        budget_now = msgspec.to_builtins(self.meter.budget)
        self.journal.append("opened", versions=_versions(), budget=budget_now, spent=spent)

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
        self.journal.close()
        self._lock.release()

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

        By default all classes of an image are searched at once (`db3kd.amortised`), each image with
        one budget. References are drawn from the images themselves, among those that the teacher
        calls so. Costs one query an image and at most `search.per_image` for each image; with
        `search.strategy` "rows" at most `search.queries` for each image and other class. Random, by
        the run's seed.

        Raises:
            InputError: as `answers`; the teacher gave the same answer to every image; or settings
                that have a meaning row by row only.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        search = validated(search or Search())
        if at_once(search):
            _check_queries(search)
            check_together(search, images.shape, self.meter.classes)
        own = self.answers(images)
        self._agree("distances", _plain(search))
        if self._pending("distances", len(images), search.shard):
            references = self._references(images, own, search)
            if at_once(search):
                work = self._learn(images, own, search, references)
            else:
                work = _measuring(self, images, own, search, references)
            price = most_queries(search, self.meter.classes)
            self._work("distances", len(images), search.shard, price, work)

    def _learn(self, images: Images, own: Tensor, search: Search, references: References) -> Work:
        """The rounds of `db3kd.amortised`; returns the work that makes distances of them."""
        classes, size = self.meter.classes, search.shard
        plan = Plan.of(search, samples=len(images), shape=images.shape, classes=classes)
        self._agree("rounds", {"rounds": plan.rounds, "shards": len(plan.shards)})
        lessons = Lessons(
            self.folder,
            self.journal,
            images,
            own,
            search,
            plan,
            classes=classes,
            seed=self.seed,
            device=self.device,
            progress=self.progress,
        )
        blocks = [torch.arange(len(images))[shard * size :][:size] for shard in plan.shards]
        for number in range(plan.rounds):
            todo = range(number * len(blocks), (number + 1) * len(blocks))
            if any(unit not in self._done("rounds") for unit in todo):
                self._round(number, blocks, lessons, search, plan, references)
        return _finishing(self, lessons, search, plan, references)

    def _round(
        self,
        number: int,
        blocks: list[Tensor],
        lessons: Lessons,
        search: Search,
        plan: Plan,
        references: References,
    ) -> None:
        """One round over all shards that take part."""
        surrogate = lessons.before(number)

        def work(teacher: Taped, rows: Tensor, unit: int) -> tuple[dict[str, Tensor], Json]:
            front = lessons.front(rows, unit - len(blocks), references)
            asked, moved = one_round(
                teacher,
                surrogate,
                front,
                references,
                number=number,
                rounds=plan.rounds,
                per_image=search.per_image,
            )
            return tensors_of(front, asked), {"moved": round(moved, 4)}

        most = sum(len(rows) for rows in blocks) * search.per_image
        for place, rows in enumerate(blocks):
            unit = number * len(blocks) + place
            if unit in self._done("rounds"):
                continue
            ready = most * unit // (plan.rounds * len(blocks))

            def report(used: int, ready: int = ready) -> None:
                figures = {"queries": float(self.meter.spent)}
                self.progress("rounds", min(most, ready + used), most, figures)

            self._shard("rounds", unit, rows, work, report)

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

        "ce" needs the answers only, the others the distances of that metric. Costs no query.

        Raises:
            InputError: the stage is not finished, or labels do not fit.
        """
        self._check_labels(labels, len(images))
        answered = self._configuration("answers")
        pending = self._pending("answers", len(images), ANSWERS_SHARD)
        if not answered or (pending and answered["samples"] == len(images)):
            raise InputError("the images are not labelled yet; label them first")
        own = self.answers(images)
        labels = own if labels is None else labels
        transfer = TransferSet(images, torch.arange(len(images)), own, labels)
        if method == "ce":
            return transfer
        soft = self._columns(method, [f"{method}.distance"])[f"{method}.distance"]
        for block in torch.arange(len(soft)).tensor_split(shards_of(len(soft), ANSWERS_SHARD)):
            soft[block] = concentrate(reciprocal_activations(soft[block], own[block]), own[block])
        return transfer.with_soft(soft)

    def distances(self, metric: Metric) -> RobustnessMap:
        """The measured distances of every image, read from the shards.

        Raises:
            InputError: the stage is not finished, or that metric was not measured.
            Damaged: a shard is missing, cut or altered.
        """
        columns = ("distance", "queries", "status", "curve")
        whole = self._columns(metric, ["own", *(f"{metric}.{column}" for column in columns)])
        seconds = sum(record["seconds"][metric] for record in self._done("distances").values())
        if metric == "mbd":
            seconds += self._seconds_of_rounds()
        return RobustnessMap(
            metric,
            whole["own"].long(),
            **{column: whole[f"{metric}.{column}"] for column in columns},
            seconds=seconds,
        )

    def _seconds_of_rounds(self) -> float:
        """What rounds and their lessons took; nothing where the search was row by row."""
        count = self._configuration("rounds").get("rounds", 0)
        rounds = [record["wall_s"] for record in self._done("rounds").values()]
        lessons = {record["round"]: record["wall_s"] for record in self.journal.all("surrogate")}
        # The lesson after the last round is given within the distances, and counted there.
        return float(sum(rounds) + sum(lessons[n] for n in lessons if n < count))

    def _columns(self, metric: Metric, names: list[str]) -> dict[str, Tensor]:
        """Columns of the finished distances, one shard in memory at a time."""
        stage, answered = self._configuration("distances"), self._configuration("answers")
        samples = answered.get("samples", 0)
        shards = shards_of(samples, stage["shard"]) if stage else 0
        done = self._done("distances")
        if not shards or len(done) < shards:
            raise InputError(f"distances are not measured yet ({len(done)} of {shards} shards)")
        whole: dict[str, Tensor] = {}
        for shard in range(shards):
            part = self._read(done[shard])
            if f"{metric}.distance" not in part:
                raise InputError(
                    f"{self.folder} measured {stage['metric']!r}, not {metric!r}{_advice(stage)}"
                )
            for name in names:
                if name not in whole:
                    whole[name] = part[name].new_empty(samples, *part[name].shape[1:])
                start = shard * stage["shard"]
                whole[name][start : start + len(part[name])] = part[name]
        return whole

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
        identity = _identity(network, transfer, training, seed)
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
            InputError: images that are not finite or out of bounds; other images than before.
            BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
        """
        self._check_labels(labels, len(images))
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

    # Shards

    def _classes(self, stage: str, images: Images) -> Tensor:
        """The teacher's class of every image, asked for once in the life of the run."""
        if not len(images):
            raise InputError("there are no images")
        block = images.read(_ends(len(images)))
        check_images(block, self.meter.bounds)
        known = {"samples": len(images), "shape": list(images.shape), "images": fingerprint(block)}
        self._agree(stage, known)

        def work(teacher: Taped, rows: Tensor, _: int) -> tuple[dict[str, Tensor], Json]:
            block = images.read(rows)
            check_images(block, teacher.bounds, first=int(rows[0]))
            return {"own": teacher.labels(block.to(self.device)).cpu().to(torch.int32)}, {}

        self._work(stage, len(images), ANSWERS_SHARD, 1, work)
        done = self._done(stage)
        return torch.cat([self._read(done[n])["own"] for n in sorted(done)]).long()

    def _read(self, record: Json) -> dict[str, Tensor]:
        return read_shard(self.folder / record["file"], record["sha256"])

    def _pending(self, stage: str, samples: int, size: int) -> list[int]:
        done = self._done(stage)
        return [shard for shard in range(shards_of(samples, size)) if shard not in done]

    def _work(self, stage: str, samples: int, size: int, price: int, work: Work) -> None:
        """Do every shard of a stage that is not done; `price` is the most that a sample costs."""
        pending = self._pending(stage, samples, size)
        ready = samples - sum(min(size, samples - shard * size) for shard in pending)
        for shard in pending:
            rows = torch.arange(shard * size, min(samples, (shard + 1) * size))

            def report(used: int, ready: int = ready, most: int = len(rows) * price) -> None:
                figures = {"queries": float(self.meter.spent)}
                self.progress(stage, ready * price + min(used, most), samples * price, figures)

            report(0)
            self._shard(stage, shard, rows, work, report)
            ready += len(rows)
        if pending:
            self.progress(
                stage, samples * price, samples * price, {"queries": float(self.meter.spent)}
            )

    def _shard(
        self, stage: str, shard: int, rows: Tensor, work: Work, report: Callable[[int], None]
    ) -> None:
        """Do one shard: replay its tape, ask for the rest, write it whole, put it on the books."""
        file = f"{stage}/{shard:05}.safetensors"
        path = self.folder / file
        started = time.perf_counter()
        for _ in range(2):
            tape = Tape(path.with_suffix(".tape"), classes=self.meter.classes)
            teacher = Taped(self.meter, tape, report)
            try:
                with self.meter.stage(stage), torch.no_grad():
                    tensors, facts = work(teacher, rows, shard)
                break
            except Drifted:
                _log.warning(
                    "%s was begun where numbers round differently; its %s answers cannot be used"
                    " and stay on the books as lost",
                    tape.path,
                    f"{tape.booked:,}",
                )
                tape.discard()
            finally:
                tape.close()
        else:
            raise Damaged(
                f"{tape.path} asks other questions each time; is the teacher's code stable?"
            )
        facts = {
            "wall_s": round(time.perf_counter() - started, 3),
            "queries": teacher.used + tape.lost,
            "lost": tape.lost,
            **facts,
        }
        digest = write_shard(path, tensors)
        self.journal.append(
            "shard", stage=stage, shard=shard, samples=len(rows), file=file, sha256=digest, **facts
        )
        tape.path.unlink()

    def _references(self, images: Images, own: Tensor, search: Search) -> References:
        if bool((own == own[0]).all()):
            raise InputError(
                f"the teacher answered class {int(own[0])} to all {len(own):,} images; without a"
                " second class there is no boundary to measure"
            )
        rows, rejected = choose_references(
            own,
            classes=self.meter.classes,
            per_class=search.references,
            generator=torch.Generator().manual_seed(mix(self.seed, "references")),
        )
        return References(
            images.read(rows).to(self.device), own[rows].to(self.device), rejected.to(self.device)
        )

    # The journal

    def _check_nothing_forgotten(self) -> None:
        """Refuse a journal that is missing or cut: its shards would be bought again, unbooked.

        A shard is written before it is on the journal, but its tape is removed only afterwards.
        """
        known = {(record["stage"], record["shard"]) for record in self.journal.all("shard")}
        for stage in STAGES:
            for path in sorted((self.folder / stage).glob("[0-9]*.safetensors")):
                if (stage, int(path.stem)) in known or path.with_suffix(".tape").exists():
                    continue
                raise Damaged(
                    f"{self.journal.path} does not know {path}, so its end is missing; put a copy"
                    " of the journal back, or use another folder"
                )

    def _sweep(self) -> None:
        """Remove what killed processes left: drafts, and tapes of shards that are finished."""
        for draft in self.folder.rglob(".*.part"):
            draft.unlink(missing_ok=True)
        for stage in STAGES:
            for shard in self._done(stage):
                (self.folder / stage / f"{shard:05}.tape").unlink(missing_ok=True)

    def _keep_booked(self, classes: int) -> None:
        """Book as lost what was on the books when the run was last opened and now is not.

        A tape in which it was recorded is gone or cut.
        """
        opened = list(self.journal.all("opened"))
        known = opened[-1]["spent"] if opened else {}
        spent = add_up(self.folder, self.journal, classes).spent
        for stage, before in known.items():
            gone = before - spent[stage]
            if gone > 0:
                _log.warning(
                    "the answers to %s queries of %s are gone; they stay on the books as lost",
                    f"{gone:,}",
                    stage,
                )
                self.journal.append("lost", stage=stage, queries=gone)

    def _agree(self, stage: str, configuration: Json) -> None:
        """Record the configuration of a stage, or insist on the recorded one."""
        recorded = self._configuration(stage)
        if not recorded:
            self.journal.append("stage", stage=stage, configuration=configuration)
            return
        differing = differences(recorded, json.loads(json.dumps(configuration)))
        if differing:
            raise ConfigurationDiffers(
                f"{self.folder} was made with other settings ({'; '.join(differing)}); use them, or"
                " another folder"
            )

    def _configuration(self, stage: str) -> Json:
        found = [r for r in self.journal.all("stage") if r["stage"] == stage]
        return dict(found[-1]["configuration"]) if found else {}

    def _done(self, stage: str) -> dict[int, Json]:
        return finished(self.journal, stage)

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

    def _redo_damaged(self, classes: int) -> None:
        """Take damaged shards and tapes off the list of what is there; their price stays booked."""
        for stage in STAGES:
            for shard, record in self._done(stage).items():
                try:
                    self._read(record)
                except Damaged as error:
                    _log.warning("%s: to be bought again", error)
                    self.journal.append("redo", stage=stage, shard=shard)
        for path in sorted(self.folder.glob("*/*.tape")):
            try:
                Tape(path, classes=classes, read_only=True)
            except Damaged as error:
                _log.warning("%s: to be bought again", error)
                Tape.write_off(path, classes=classes, most=self._most(path.parent.name))

    def _most(self, stage: str) -> int:
        """The most queries that one shard of a stage can cost."""
        if stage not in ("rounds", "distances"):
            return ANSWERS_SHARD
        search = msgspec.convert(self._configuration("distances"), Search)
        return search.shard * most_queries(search, self._configuration("run")["classes"])


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


def _check_queries(search: Search) -> None:
    """Refuse a limit that would be ignored."""
    if search.queries != Search().queries:
        raise InputError(
            f"queries = {search.queries} counts for each class, row by row; set strategy = "
            '"rows", or per_image instead'
        )


def _measuring(
    run: Run, images: Images, own: Tensor, search: Search, references: References
) -> Work:
    """The work of one shard of the distances stage."""

    def work(teacher: Taped, rows: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
        maps = measure(
            teacher,
            images.read(rows).to(run.device),
            own[rows].to(run.device),
            references,
            search,
            noise_seed=mix(run.seed, "distances", shard),
        )
        return _tensors(maps, rows)

    return work


def _tensors(maps: Mapping[Metric, RobustnessMap], rows: Tensor) -> tuple[dict[str, Tensor], Json]:
    """What a shard keeps of its maps, and what the journal says of them."""
    tensors, seconds, queries = {"ids": rows}, {}, {}
    for metric, found in maps.items():
        tensors["own"] = found.own.to(torch.int32)
        tensors[f"{metric}.distance"] = found.distance
        tensors[f"{metric}.queries"] = found.queries.to(torch.int32)
        tensors[f"{metric}.status"] = found.status.to(torch.int8)
        tensors[f"{metric}.curve"] = found.curve
        seconds[metric] = round(found.seconds, 3)
        queries[metric] = int(found.queries.sum())
    count = torch.bincount(found.status.flatten().long(), minlength=len(Status)).tolist()
    statuses = {status.name: count[status] for status in Status if count[status]}
    return tensors, {"seconds": seconds, "spent": queries, "statuses": statuses}


def _finishing(
    run: Run, lessons: Lessons, search: Search, plan: Plan, references: References
) -> Work:
    """The work of one shard of the distances stage, after the rounds."""

    def work(teacher: Taped, rows: Tensor, shard: int) -> tuple[dict[str, Tensor], Json]:
        learned = shard in plan.shards
        last = (plan.rounds - 1) * len(plan.shards)
        unit = last + plan.shards.index(shard) if learned else -1
        front = lessons.front(rows, unit, references)
        started = time.perf_counter()
        rest(
            teacher,
            front,
            search,
            None if learned else lessons.before(plan.rounds),
            references,
            learned=learned,
            seed=mix(run.seed, "distances", shard),
        )
        mbd = result(front, seconds=time.perf_counter() - started)
        sd = sample_distance(front.origin, front.own, references)
        return _tensors({"sd": sd, "mbd": mbd}, rows)

    return work


def _advice(stage: Json) -> str:
    """What to do where a metric is missing, if there is more than to measure it."""
    if (stage["metric"], stage.get("strategy")) != ("mbd", "together"):
        return ""
    return '; set strategy = "rows", in another folder'


def _plain(record: msgspec.Struct) -> Json:
    plain: Json = json.loads(msgspec.json.encode(record))
    return plain


def _ends(count: int) -> Int[Tensor, " row"]:
    """A few rows from both ends, which stand for the whole set."""
    return torch.cat([torch.arange(min(16, count)), torch.arange(max(0, count - 16), count)])


def _versions() -> dict[str, str]:
    return {
        "db3kd": version("db3kd"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "machine": platform.platform(),
    }


def _identity(network: nn.Module, transfer: TransferSet, training: Training, seed: int) -> str:
    """What tells one training from every other."""
    digest = hashlib.sha256()
    for text in (repr(network), json.dumps(_plain(training), sort_keys=True), str(seed)):
        digest.update(text.encode())
    tensors = [transfer.ids, transfer.labels, *network.state_dict().values()]
    for tensor in tensors if transfer.soft is None else [*tensors, transfer.soft]:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
