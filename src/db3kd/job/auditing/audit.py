"""Queries to fidelity: how many answers it takes until a student agrees with the teacher."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from db3kd.config.audited import SEEDS, TARGETS, audited
from db3kd.config.reading import resolved, told
from db3kd.config.recipe import Recipe
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import BudgetExhausted, Damaged, InputError
from db3kd.job.auditing.curve import Curve, Step
from db3kd.job.auditing.result import result, settled
from db3kd.job.auditing.tail import Tail
from db3kd.job.report import show, shown
from db3kd.job.reporting import write_curve
from db3kd.job.session import Job, opened
from db3kd.job.student import card_of
from db3kd.progress import Progress, silent
from db3kd.seeds import derive_seed
from db3kd.stages.sequence import AnswerSequence
from db3kd.stages.synthesis import planned_total
from db3kd.storage.files import Json, write_atomically
from db3kd.storage.shards import read_shard, write_shard
from db3kd.student.batches import resident
from db3kd.student.evaluate import predict
from db3kd.teachers.base import unsure_of

_log = logging.getLogger("db3kd")


def audit(
    recipe: Recipe,
    *,
    targets: Sequence[float] = TARGETS,
    seeds: int = SEEDS,
    progress: Progress = silent,
    redo_damaged: bool = False,
    anyway: bool = False,
) -> Json:
    """Find out how many answers it takes until students agree with the teacher; see docs/audit.md.

    Answers are bought in steps, each twice the one before, and all serve the later steps. Students
    learn at each step and are compared with the teacher on the test images. It ends when every
    target is reached or out of reach, or with the budget. Own images are asked first, and then new
    ones made from them; without own images, pseudo samples.

    Works in a folder of its own, whose name is that of the run with "-audit". `audit.json` there
    holds what is returned; `audit.svg` and `report.html` show it. Called again, it continues.

    - `targets`: shares of the test images, above 0 and below 1.
    - `seeds`: how many students there are at each step: those of the recipe's seeds, and others.

    Costs one query for each test image, and then what `Budget.queries` leaves, at most; without a
    budget 30 for each own image (`Grow.per_image`), or 25,000 for pseudo samples. Random by the
    recipe's seed, but for the students.

    Raises:
        InputError: no test images, or a budget that does not pay for a first step; or a target or a
            number of seeds that cannot be.
        Db3kdError: see `Run`.
    """
    wanted = _checked(targets, seeds)
    recipe = audited(recipe, seeds)
    with opened(recipe, progress, redo_damaged, anyway, announce=False) as job:
        audit_of = _Audit.of(job)
        steps = list(audit_of.steps(wanted))
        found = {
            **job.books(),
            "way": audit_of.way,
            "student": card_of(recipe, job.pipeline, job.sets).kind,
            "test": {"source": job.sets.source, "samples": int(audit_of.known.sum())},
            "seeds": list(audit_of.seeds),
            **result(steps, wanted, most=audit_of.most, seed=_drawn(recipe)),
            "class_names": list(job.names),
            "warnings": job.warnings,
            "recipe": told(job.recipe),
        }
        job.run.journal.append("audited", answers=[step["answers"] for step in found["steps"]])
        text = json.dumps(found, indent=2).encode() + b"\n"
        write_atomically(job.run.folder / "audit.json", text)
        if steps:
            file = job.run.folder / "audit.svg"
            shown("audit.svg", lambda: write_curve(found["steps"], wanted, file))
        page = show(job.run.folder)
        return found if page is None else {**found, "report": page}


def _checked(targets: Sequence[float], seeds: int) -> tuple[float, ...]:
    wanted = tuple(sorted(set(targets)))
    wrong = [target for target in wanted if not 0 < target < 1]
    if wrong or not wanted:
        got = f"got {wrong[0]:g}" if wrong else "none is given"
        raise InputError(f"targets are shares above 0 and below 1, such as 0.9; {got}")
    if not 2 <= seeds <= 100:
        raise InputError(f"an interval needs 2 to 100 students at each step, got {seeds}")
    return wanted


def _drawn(recipe: Recipe) -> int:
    """The seed of the bootstrap."""
    return derive_seed(recipe.seed, "audit", "interval")


@dataclass(frozen=True)
class _Audit:
    """An audit at work.

    `theirs`: what the teacher calls the test images; `known`: which of them it knows. `student`: a
    digest of the network and its training.
    """

    job: Job
    answers: AnswerSequence
    way: str
    most: int
    seeds: tuple[int, ...]
    theirs: Tensor
    known: Tensor
    student: str

    @classmethod
    def of(cls, job: Job) -> "_Audit":
        """Ask for the test images, and get ready."""
        test, run, recipe = job.test, job.run, job.recipe
        most = _most(job)
        answers: AnswerSequence
        if job.sets.own is None:
            answers = run.steps.pseudo(
                job.shape, recipe.synthesis, most=most, images=job.unlabelled
            )
            way = f"pseudo samples by way {recipe.synthesis.way!r}"
        else:
            answers = run.steps.own(job.own.images, recipe.grow, most=most)
            way = f"{len(job.own):,} own images, and then new ones made from them"
        if not answers.steps:
            raise InputError(
                f"{max(0, most):,} answers, besides {job.sets.tests:,} test images, are too few for"
                " a first step; raise budget.queries, or what else limits them, or lower"
                " data.test_samples"
            )
        _log.info(
            "at most %s queries: %s for test images, the others for %s",
            f"{most + job.sets.tests:,}",
            f"{job.sets.tests:,}",
            way,
        )
        job.look(tests=True)
        theirs = run.steps.tests(test.images)
        unsure = unsure_of(run.meter)
        known = theirs != (-1 if unsure is None else unsure)
        if not bool(known.any()):
            raise InputError(
                "the teacher does not know the class of a single test image, so nothing can agree"
                " with it"
            )
        return cls(job, answers, way, most, recipe.student.seeds, theirs, known, _student_of(job))

    def steps(self, targets: Sequence[float]) -> Iterator[Step]:
        """Buy, train and compare, step by step, until there is nothing more to find out."""
        there = self._measured()
        counts = sorted({*self.answers.steps, *self._whole(there)})
        found: list[Step] = []
        for count in counts:
            try:
                step = self._step(count, there)
            except BudgetExhausted as error:
                self.job.warn(f"the audit ends early: {error}")
                return
            found.append(step)
            yield step
            curve = Curve.of(found, seed=_drawn(self.job.recipe))
            _log.info("%s answers: agreement %.2f %%", f"{count:,}", 100 * float(curve.mean[-1]))
            if all(settled(curve, Tail.of(curve), target, self.most) for target in targets):
                return

    def _measured(self) -> dict[tuple[int, int], Json]:
        """What was measured with such students before, by answers and seed."""
        return {
            (record["answers"], record["seed"]): record
            for record in self.job.run.journal.all("audit")
            if record["student"] == self.student
        }

    def _whole(self, there: dict[tuple[int, int], Json]) -> set[int]:
        """The steps at which all students were measured; a smaller budget may have ended there."""
        counts = {count for count, _ in there if count <= self.most}
        return {c for c in counts if all((c, seed) in there for seed in self.seeds)}

    def _step(self, count: int, there: dict[tuple[int, int], Json]) -> Step:
        """Buy what is missing up to a step, and what its students say; read, if it is known."""
        mine = {seed: self._read(there.get((count, seed))) for seed in self.seeds}
        if any(said is None for said in mine.values()):
            bought = self.answers.upto(count)
            known = replace(bought, images=resident(bought.images))
            mine = {
                seed: self._trained(count, seed, known) if said is None else said
                for seed, said in mine.items()
            }
        said = [values for values in mine.values() if values is not None]
        return Step(count, torch.stack([(values == self.theirs)[self.known] for values in said]))

    def _read(self, record: Json | None) -> Tensor | None:
        """What a student called the test images; None if nobody knows."""
        if record is None:
            return None
        file = record["predictions"]
        try:
            return read_shard(self.job.run.folder / file["file"], file["sha256"])["student"].long()
        except Damaged as error:
            _log.warning("%s; the student is asked again", str(error).partition("; ")[0])
            return None

    def _trained(self, count: int, seed: int, known: TransferSet) -> Tensor:
        """Train a student, and keep what it calls the test images."""
        job, name = self.job, f"audit-{count}"
        network, card = job.student_of(known, seed)
        training = job.recipe.student.training
        student = job.run.distill(network, known, training, seed=seed, name=name, card=card)
        mine = predict(student, job.test.images, device=job.run.device)
        file = f"predictions/{name}-{seed}.safetensors"
        digest = write_shard(job.run.folder / file, {"student": mine.to(torch.int32)})
        job.run.journal.append(
            "audit",
            answers=count,
            seed=seed,
            student=self.student,
            agreement=float((mine == self.theirs)[self.known].double().mean()),
            predictions={"file": file, "sha256": digest},
        )
        return mine


def _most(job: Job) -> int:
    """How many answers may be bought, the test images left aside."""
    recipe, reserved = job.recipe, job.sets.tests
    budget = job.run.meter.budget.queries
    if job.sets.own is None:
        total = planned_total(recipe.synthesis, budget=budget, reserved=reserved)
        return total if budget is None else min(total, budget - reserved)
    if budget is None:
        return len(job.own) * (1 + recipe.grow.per_image)
    return budget - reserved


def _student_of(job: Job) -> str:
    """A digest of the students' network and training."""
    wanted = resolved(job.recipe)["student"]
    known = {key: value for key, value in wanted.items() if key not in ("methods", "seeds")}
    known["code"] = card_of(job.recipe, job.pipeline, job.sets).code
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
