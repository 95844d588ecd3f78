"""When enough was bought: students are judged on samples held back, at the end of each round.

With own images these are held back, part by part, as in a trial. They are asked anyway, so judging
costs no query. Without own images a fifth of the pseudo samples is held back from the students that
judge. What is measured is kept, so that a run that was stopped takes the same decisions again.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.config.stopping import Rule, Stop
from db3kd.data import Images
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import ConfigurationDiffers, Damaged
from db3kd.seeds import derive_seed
from db3kd.stages import growing, synthesis, trial
from db3kd.stages.formats import training_here
from db3kd.stages.judge import FOLDS, Judge
from db3kd.stages.lengths import cut
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.storage.shards import write_shard
from db3kd.student.steps import steps_of

BACK = 2  # rounds over which a gain is looked for
STAGES = ("grow", "synthesis")
_log = logging.getLogger("db3kd")


@dataclass(frozen=True, eq=False)
class Stopping:
    """A rule, and the students that are judged: they begin with the weights of `network`."""

    rule: Rule
    network: nn.Module
    training: Training


@dataclass(frozen=True)
class Stopped:
    """A stage that a rule has ended.

    - `asked`, `planned`: how many samples were asked, and how many would have been.
    - `agreement`: how often students agreed with the teacher on `held` samples held back.
    """

    stage: str
    asked: int
    planned: int
    agreement: float
    held: int

    @property
    def saved(self) -> int:
        """How many answers were not bought."""
        return self.planned - self.asked


def enough(rule: Rule, marks: list[Tensor]) -> bool:
    """Whether a rule ends a stage after some rounds.

    `marks`: after each round, which of the samples held back students got right. Later rounds may
    have more samples, the first of which are those of the rounds before. "flat": over the last two
    rounds students gained, on the same samples, no more than the standard error of that gain.

    >>> none, all_ = torch.zeros(100).bool(), torch.ones(100).bool()
    >>> enough(Stop(agreement=0.9), [none, all_]), enough("flat", [none, all_])
    (True, False)
    >>> enough("flat", [none, all_, all_]), enough("flat", [none, all_, all_, all_])
    (False, True)
    """
    if isinstance(rule, Stop):
        return float(marks[-1].double().mean()) >= rule.agreement
    if len(marks) <= BACK:
        return False
    before = marks[-1 - BACK].double()
    gain = marks[-1][: len(before)].double() - before
    return bool(gain.mean() <= gain.std() / math.sqrt(len(gain)))


def told(rule: Rule) -> str:
    """A rule in words.

    >>> told(Stop(agreement=0.97)), told("flat")
    ('agreement of 97 %', 'no gain over two rounds')
    """
    if isinstance(rule, Stop):
        return f"agreement of {100 * rule.agreement:.4g} %"
    return "no gain over two rounds"


def settle(workspace: Workspace, rule: Rule | None) -> None:
    """Let stages go on that an earlier rule has ended, unless this one ends them there, too.

    Costs no query.

    Raises:
        ConfigurationDiffers: an ensemble has labelled images since, or distances were measured,
            so that more pseudo samples would not fit what is there.
    """
    for stage in STAGES:
        known = workspace.configuration(stage)
        if "planned" not in known:
            continue
        marks = _marks(workspace, stage, known["total"] // known["size"])
        if rule is not None and marks and enough(rule, marks):
            continue
        measured = workspace.within(synthesis.PLACE).configuration("answers")
        if stage == "synthesis" and (workspace.configuration("unasked") or measured):
            raise ConfigurationDiffers(
                f"a rule ended the asking of pseudo samples in {workspace.folder}, and what came"
                " after that is made for these; set `stop` as it was, or use another folder"
            )
        cut(workspace, stage, known["planned"])


def stopped(workspace: Workspace) -> Stopped | None:
    """The stage that a rule has ended, if one has."""
    for stage in STAGES:
        known = workspace.configuration(stage)
        if "planned" in known:
            shards = known["total"] // known["size"]
            record = _judged(workspace, stage)[shards]
            share, held = record["agreement"], record["held"]
            return Stopped(stage, known["total"], known["planned"], share, held)
    return None


@dataclass(frozen=True)
class Stops:
    """What rules have ended in a run: `Run.stops` makes one. Nothing here costs a query."""

    workspace: Workspace

    @property
    def stopped(self) -> Stopped | None:
        """The stage that a rule has ended before all was asked; None if none was."""
        return stopped(self.workspace)

    def settle(self, rule: Rule | None) -> None:
        """Let a stage that an earlier rule has ended go on when it is called next.

        It stays ended if this rule ends it there, too.

        Raises:
            ConfigurationDiffers: what came after it fits only these pseudo samples.
        """
        settle(self.workspace, rule)


def of_growth(
    workspace: Workspace,
    images: Images,
    answers: Int[Tensor, " sample"],
    stopping: Stopping | None,
) -> Callable[[int], bool] | None:
    """Whether new images are enough, after so many of their shards; None without a rule.

    Random by the run's seed: which own images are held back together. With 5,000 own images or
    fewer each is held back once, else a fifth of them.
    """
    if stopping is None:
        return None
    rows = torch.arange(len(images))
    plain = TransferSet(images, rows, answers, answers)

    def bought(shards: int) -> tuple[TransferSet, Tensor]:
        """The own images with all that was made from them; and what each was mixed with."""
        parts = [(workspace, rows, shards)]
        decision = trial.decided(workspace)
        if decision is not None and decision.held:
            place = workspace.within("trial")
            tried = trial.tried(workspace, len(rows), workspace.configuration("spend")["tried"])
            parts.insert(0, (place, tried, len(place.done("grow"))))
        transfer, partners = plain, rows
        for place, ids, count in parts:
            more = growing.growth(place, images, count)
            made = TransferSet(more.images, ids[more.parents], more.answers, more.answers)
            transfer, partners = transfer.joined(made), torch.cat([partners, ids[more.partners]])
        return replace(transfer, first=len(rows)), partners

    def judge(shards: int) -> Tensor:
        transfer, partners = bought(shards)
        steps = steps_of(stopping.training, len(transfer))
        folds, steps = trial.selection_size(steps, len(images))
        judge = _judge(workspace, stopping, plain, folds, steps)
        return judge.right(transfer, partners=partners).bool()

    return lambda shards: _decided(workspace, "grow", shards, stopping.rule, judge)


def of_synthesis(workspace: Workspace, stopping: Stopping | None) -> Callable[[int], bool] | None:
    """Whether pseudo samples are enough, after so many of their shards; None without a rule.

    Random by the run's seed: which fifth of the samples is held back. The networks that choose what
    is asked learn from all of them.
    """
    if stopping is None:
        return None

    def judge(shards: int) -> Tensor:
        known: Json = workspace.configuration("synthesis")
        whole = synthesis.first(workspace, shards)
        draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "stop", "held"))
        most = int(known["planned"] if "planned" in known else known["total"])
        fold = torch.randint(FOLDS, (most,), generator=draw)[: len(whole)]
        steps = steps_of(stopping.training, len(whole))
        return _judge(workspace, stopping, whole, 1, steps, fold).right(whole).bool()

    return lambda shards: _decided(workspace, "synthesis", shards, stopping.rule, judge)


def _judge(
    workspace: Workspace,
    stopping: Stopping,
    plain: TransferSet,
    folds: int,
    steps: int,
    fold: Tensor | None = None,
) -> Judge:
    place = workspace.within("stop")
    training = training_here(workspace.journal, stopping.training)
    training = msgspec.structs.replace(training, steps=steps)
    classes = plain.teacher_labels
    return Judge(place, stopping.network, training, plain, classes, sets=1, folds=folds, fold=fold)


def _decided(
    workspace: Workspace,
    stage: str,
    shards: int,
    rule: Rule,
    judge: Callable[[int], Tensor],
) -> bool:
    """Judge after so many shards, unless that was done, and decide; what was decided is logged."""
    if shards not in _judged(workspace, stage) or not _marks(workspace, stage, shards):
        started = time.perf_counter()
        marks = judge(shards)
        file = f"stop/{stage}-{shards:05}.safetensors"
        digest = write_shard(workspace.folder / file, {"right": marks.to(torch.uint8)})
        workspace.journal.append(
            "judged",
            stage=stage,
            shards=shards,
            agreement=round(float(marks.double().mean()), 6),
            held=len(marks),
            file=file,
            sha256=digest,
            wall_s=round(time.perf_counter() - started, 3),
        )
    found = enough(rule, _marks(workspace, stage, shards))
    record, known = _judged(workspace, stage)[shards], workspace.configuration(stage)
    _log.info(
        "agreement %.2f %% on %s samples held back: %s",
        100 * record["agreement"],
        f"{record['held']:,}",
        f"enough, {known['total'] - shards * known['size']:,} answers are saved"
        if found
        else "not enough yet",
    )
    return found


def _judged(workspace: Workspace, stage: str) -> dict[int, Json]:
    """What was measured, by the number of shards before it."""
    found = [record for record in workspace.journal.all("judged") if record["stage"] == stage]
    return {record["shards"]: record for record in sorted(found, key=lambda r: int(r["shards"]))}


def _marks(workspace: Workspace, stage: str, shards: int) -> list[Tensor]:
    """What was measured up to so many shards; nothing if the last of it cannot be trusted."""
    found: list[Tensor] = []
    for number, record in sorted(_judged(workspace, stage).items()):
        if number > shards:
            break
        try:
            found.append(workspace.read(record)["right"].bool())
        except Damaged as error:
            _log.warning("%s; it is measured again", str(error).partition("; ")[0])
            found.clear()
    return found
