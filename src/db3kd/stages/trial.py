"""What a run's answers go to: new images and distances are tried, and the better use gets the rest.

For some own images a few new ones are bought, and sample distances (Eq. 2), which cost nothing,
stand for distances. Students learn from either, and are judged by their agreement with the teacher
on own images that they have not seen, nor any child of these. Where true classes are known, a
second judgement says which of the grown images a student learns from.
"""

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.config.methods import Use
from db3kd.config.settings import Grow, Search, Spend, Training
from db3kd.data import Images, Rows
from db3kd.data.transfer_set import TransferSet
from db3kd.seeds import derive_seed
from db3kd.stages.distances import found, measure_all, soft_labels
from db3kd.stages.growing import grow_all, grown
from db3kd.stages.workspace import Workshop
from db3kd.student.batches import resident
from db3kd.student.evaluate import predict
from db3kd.student.training import train

PER_IMAGE = 30  # answers for each own image where nobody says how many
LEAST, FEWEST = 8, 20  # answers an image, and own images, that a trial is worth its price for
PART, LEAST_EACH, MOST_EACH = 2, 3, 15  # of an image's answers: what the trial gets
FOLDS = 5  # of the own images, each held back once
MOST_STEPS = 5000  # of a student in the trial; a single fold may have as many as all of them
SOME, MANY = 1000, 5000  # own images: fewer need all that grew; for more one fold says enough

Share = Literal["all", "confirmed", "none"]
"""Which grown images a student learns from: every one, those that the teacher calls what their
parent truly is, or none."""

_NAMES: Mapping[Use, str] = {"ce": "nothing more", "grown": "new images", "mbd": "distances"}
_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class Plan:
    """How many answers beside the images' own go where.

    The trial grows `each` new images of `tried` own ones; then the better use gets `left` for every
    own image. All of it together is `per_image` for each image at most.

    >>> Plan.of(Spend(per_image=30), samples=300)
    Plan(per_image=30, tried=300, each=15, left=15)
    >>> Plan.of(Spend(per_image=30), samples=60_000)
    Plan(per_image=30, tried=1000, each=15, left=29)
    >>> Plan.of(Spend(per_image=5), samples=300)
    Plan(per_image=5, tried=0, each=0, left=5)
    """

    per_image: int
    tried: int
    each: int
    left: int

    @classmethod
    def of(
        cls, settings: Spend, *, samples: int, budget: int | None = None, reserved: int = 0
    ) -> "Plan":
        """Plan for so many own images; of a budget `reserved` answers are for something else."""
        per_image = settings.per_image
        if per_image is None and budget is not None:
            per_image = max(0, budget - reserved - samples) // samples
        elif per_image is None:
            per_image = PER_IMAGE
        if not settings.trial or per_image < LEAST or samples < FEWEST:
            return cls(per_image, 0, 0, per_image)
        tried = min(settings.trial, samples)
        each = max(LEAST_EACH, min(MOST_EACH, per_image // PART))
        return cls(per_image, tried, each, per_image - -(-each * tried // samples))


@dataclass(frozen=True)
class Decision:
    """What the answers go to, and why.

    `agreement`: by use, how often the trial's students agreed with the teacher on `held` own images
    that were held back from them; empty where there was no trial.

    >>> Decision("mbd", "by trial", {"grown": 0.9, "mbd": 0.92}, held=300).use
    'mbd'
    """

    use: Use
    why: str
    agreement: dict[Use, float]
    held: int


@dataclass(frozen=True)
class Selection:
    """Which grown images a student learns from, where the true classes of own images are known.

    `agreement`: by share, how often students agreed with the true class of `held` own images that
    were held back from them.

    >>> Selection("all", {"all": 0.9, "confirmed": 0.8, "none": 0.7}, held=300).share
    'all'
    """

    share: Share
    agreement: dict[Share, float]
    held: int


def decided(shop: Workshop) -> Decision | None:
    """What was decided in this run before, if anything."""
    records = list(shop.journal.all("decision"))
    return msgspec.convert(records[-1]["decision"], Decision) if records else None


def decide(
    shop: Workshop,
    images: Images,
    own: Int[Tensor, " sample"],
    network: nn.Module,
    plan: Plan,
    *,
    search: Search,
    grow: Grow,
    training: Training,
) -> Decision:
    """Decide what answers go to, by a trial if there is a question; see `Run.spend`."""
    decision, seconds = _without_trial(own, plan, grow), 0.0
    if decision is None:
        decision, seconds = _by_trial(
            shop, images, own, network, plan, search=search, grow=grow, training=training
        )
    shop.journal.append("decision", decision=asdict(decision), wall_s=round(seconds, 3))
    shares = [f"{_NAMES[name]} {100 * share:.1f}%" for name, share in decision.agreement.items()]
    facts = f", agreement on {decision.held:,} images held back: {', '.join(shares)}"
    _log.info(
        "the answers go to %s (%s%s)", _NAMES[decision.use], decision.why, facts if shares else ""
    )
    return decision


def _without_trial(own: Tensor, plan: Plan, grow: Grow) -> Decision | None:
    """The decision where there is nothing to try."""
    alike = bool((own == own[0]).all())
    if not plan.per_image:
        return Decision("ce", "nothing is left for more than the images' own answers", {}, 0)
    if not grow.changes:
        use: Use = "ce" if alike else "mbd"
        return Decision(use, "no change is switched on, so nothing new can be made", {}, 0)
    if alike:
        why = f"the teacher calls every own image {int(own[0])}, so there is no boundary to measure"
        return Decision("grown", why, {}, 0)
    if not plan.tried:
        what = f"{len(own):,} own images with {plan.per_image} answers each"
        return Decision("grown", f"{what} are not worth a trial", {}, 0)
    return None


def _by_trial(
    shop: Workshop,
    images: Images,
    own: Tensor,
    network: nn.Module,
    plan: Plan,
    *,
    search: Search,
    grow: Grow,
    training: Training,
) -> tuple[Decision, float]:
    """Grow a little, teach students of either use, judge them; how long the judging took."""
    trial = shop.within("trial")
    rows = tried(shop, len(images), plan.tried)
    some, answers = Rows(images, rows), own[rows]
    trial.agree("answers", {"samples": len(rows)})
    if bool((answers == answers[0]).all()):
        why = f"the teacher calls all {len(rows):,} images of the trial {int(answers[0])}"
        return Decision("grown", why, {}, 0), 0.0
    few = {"per_image": plan.each, "rounds": halves(grow.rounds)[0]}
    grow_all(trial, some, answers, msgspec.structs.replace(grow, **few))
    measure_all(trial, some, answers, msgspec.structs.replace(search, metric="sd"))
    plain = TransferSet(some, torch.arange(len(rows)), answers, answers)
    sets: dict[Use, TransferSet] = {
        "grown": with_grown(trial, plain, some, plain.ids),
        "mbd": plain.with_soft(soft_labels(found(trial, "sd"), answers)),
    }
    steps = min(MOST_STEPS, steps_of(training, len(images)))
    training = msgspec.structs.replace(training, steps=steps)
    started = time.perf_counter()
    judge = _Judge(trial, network, training, plain, plain.own, sets=len(sets))
    agreement = {use: round(judge(transfer), 4) for use, transfer in sets.items()}
    use: Use = "mbd" if agreement["mbd"] > agreement["grown"] else "grown"
    return Decision(use, "by trial", agreement, len(rows)), time.perf_counter() - started


def halves(rounds: int) -> tuple[int, int]:
    """The rounds of growing in the trial, and after it: together as many as without a trial.

    >>> halves(4), halves(1)
    ((2, 2), (1, 1))
    """
    return max(1, rounds // 2), max(1, rounds - rounds // 2)


def tried(shop: Workshop, samples: int, wanted: int) -> Int[Tensor, " row"]:
    """The own images on which both uses are tried, by the run's seed."""
    draw = torch.Generator().manual_seed(derive_seed(shop.seed, "trial"))
    return torch.randperm(samples, generator=draw)[:wanted].sort().values


def with_grown(
    shop: Workshop,
    transfer: TransferSet,
    images: Images,
    rows: Int[Tensor, " row"],
    *,
    truth: Int[Tensor, " sample"] | None = None,
) -> TransferSet:
    """Samples, and after them what was grown of these rows of `images`, with their ids.

    `truth`: the true class by id; only those that the teacher calls what their parent truly is.
    """
    more = grown(shop, images)
    first = len(transfer) if transfer.first is None else transfer.first
    made = TransferSet(more.images, rows[more.parents], more.called, more.called)
    if truth is not None:
        made = made.select((truth[made.ids] == made.own).nonzero()[:, 0])
    return replace(transfer.joined(made), first=first)


def with_use(
    shop: Workshop, own: TransferSet, decision: Decision, share: Share = "all"
) -> TransferSet:
    """Own images with all that was bought for the use that was decided, in the trial too."""
    if decision.use == "mbd":
        return own.with_soft(soft_labels(found(shop, "mbd"), own.own))
    if decision.use != "grown" or share == "none":
        return own
    more, truth = own, own.labels if share == "confirmed" else None
    if decision.held:
        rows = tried(shop, len(own), decision.held)
        more = with_grown(shop.within("trial"), own, own.images, rows, truth=truth)
    return with_grown(shop, more, own.images, own.ids, truth=truth)


def selected(shop: Workshop) -> Selection | None:
    """Which grown images were found to teach most in this run before, if any were."""
    records = list(shop.journal.all("selection"))
    return msgspec.convert(records[-1]["selection"], Selection) if records else None


def select(
    shop: Workshop, own: TransferSet, decision: Decision, network: nn.Module, training: Training
) -> Selection:
    """Find out which grown images to learn from, by own images held back; costs no query.

    A teacher's answers teach much where true classes are few, and its errors harm where they are
    many. Random as `decide`.
    """
    place, folds = shop.within("selection"), FOLDS if len(own) <= MANY else 1
    most = MOST_STEPS * FOLDS // folds
    training = msgspec.structs.replace(training, steps=min(most, steps_of(training, len(own))))
    started = time.perf_counter()
    shares: tuple[Share, ...] = ("all", "confirmed", "none")
    judge = _Judge(place, network, training, own, own.labels, sets=len(shares), folds=folds)
    agreement = {share: round(judge(with_use(shop, own, decision, share)), 4) for share in shares}
    best = max(shares, key=lambda share: agreement[share])  # at a tie the first
    found = Selection(best, agreement, judge.held)
    seconds = round(time.perf_counter() - started, 3)
    shop.journal.append("selection", selection=asdict(found), wall_s=seconds)
    facts = [f"{_SHARES[share]} {100 * agreement[share]:.1f}%" for share in shares]
    text = "students learn from %s (agreement with the true classes of %s images held back: %s)"
    _log.info(text, _SHARES[best], f"{found.held:,}", ", ".join(facts))
    return found


_SHARES: Mapping[Share, str] = {
    "all": "all new images",
    "confirmed": "those that kept their parent's true class",
    "none": "none of them",
}


def steps_of(training: Training, samples: int) -> int:
    """Batches of a whole training.

    >>> steps_of(Training(epochs=2, batch=10), 25), steps_of(Training(steps=7), 25)
    (6, 7)
    """
    return training.steps or training.epochs * -(-samples // training.batch)


class _Judge:
    """Agreement with `classes`, on own images that a student has not seen, over so many folds."""

    def __init__(
        self,
        shop: Workshop,
        network: nn.Module,
        training: Training,
        plain: TransferSet,
        classes: Tensor,
        *,
        sets: int,
        folds: int = FOLDS,
    ) -> None:
        self.shop, self.network, self.training, self.plain = shop, network, training, plain
        self.classes, self.folds, self.done, self.total = classes, folds, 0, sets * folds
        draw = torch.Generator().manual_seed(derive_seed(shop.seed, "folds"))
        self.fold = torch.randperm(len(plain), generator=draw) % FOLDS
        self.held = int((self.fold < folds).sum())

    def __call__(self, transfer: TransferSet) -> float:
        agreed = 0
        transfer = replace(transfer, images=resident(transfer.images))
        for number in range(self.folds):
            held = self.fold == number
            seen = transfer.select((~held)[transfer.ids].nonzero()[:, 0])
            if transfer.first is not None:  # own images come first
                seen = replace(seen, first=int((~held).sum()))
            student = self._student(seen, number)
            rows = held.nonzero()[:, 0]
            answers = predict(student, Rows(self.plain.images, rows), device=self.shop.device)
            agreed += int((answers.cpu() == self.classes[rows]).sum())
        return agreed / self.held

    def _student(self, transfer: TransferSet, number: int) -> nn.Module:
        with torch.enable_grad():
            student = train(
                copy.deepcopy(self.network),
                transfer,
                self.training,
                seed=number,
                device=self.shop.device,
                progress=self._report,
            )
        self.done += 1
        return student

    def _report(self, _: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        self.shop.progress("students", self.done * total + done, self.total * total, {})
