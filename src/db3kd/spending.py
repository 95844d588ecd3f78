"""What a run's answers go to: new images and distances are tried, and the better use gets the rest.

For some own images a few new ones are bought, and sample distances (Eq. 2), which cost nothing,
stand for distances. Students learn from either, and are judged by their agreement with the teacher
on own images that they have not seen, nor any child of these.
"""

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.data import Images, Rows
from db3kd.distances import found, measure_all, soft_labels
from db3kd.growth import grow_all, grown
from db3kd.robustness import mix
from db3kd.settings import Grow, Search, Spend, Training, Use
from db3kd.student import predict, resident, train
from db3kd.transfer_set import TransferSet
from db3kd.workshop import Workshop

PER_IMAGE = 30  # answers for each own image where nobody says how many
LEAST, FEWEST = 8, 20  # answers an image, and own images, that a trial is worth its price for
PART, LEAST_EACH, MOST_EACH = 2, 3, 15  # of an image's answers: what the trial gets
FOLDS = 5  # of the own images, each held back once
MOST_STEPS = 5000  # of a student in the trial

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
    steps = training.steps or training.epochs * -(-len(images) // training.batch)
    training = msgspec.structs.replace(training, steps=min(MOST_STEPS, steps))
    started = time.perf_counter()
    judge = _Judge(trial, network, training, plain, len(sets))
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
    draw = torch.Generator().manual_seed(mix(shop.seed, "trial"))
    return torch.randperm(samples, generator=draw)[:wanted].sort().values


def with_grown(
    shop: Workshop, transfer: TransferSet, images: Images, rows: Int[Tensor, " row"]
) -> TransferSet:
    """Samples, and after them what was grown of these rows of `images`, with their ids."""
    more = grown(shop, images)
    first = len(transfer) if transfer.first is None else transfer.first
    made = TransferSet(more.images, rows[more.parents], more.called, more.called)
    return replace(transfer.joined(made), first=first)


def with_use(shop: Workshop, own: TransferSet, decision: Decision) -> TransferSet:
    """Own images with all that was bought for the use that was decided, in the trial too."""
    if decision.use == "grown":
        more = own
        if decision.held:
            rows = tried(shop, len(own), decision.held)
            more = with_grown(shop.within("trial"), own, own.images, rows)
        return with_grown(shop, more, own.images, own.ids)
    if decision.use == "mbd":
        return own.with_soft(soft_labels(found(shop, "mbd"), own.own))
    return own


class _Judge:
    """Agreement with the teacher on own images that a student has not seen, over all folds."""

    def __init__(
        self,
        shop: Workshop,
        network: nn.Module,
        training: Training,
        plain: TransferSet,
        sets: int,
    ) -> None:
        self.shop, self.network, self.training, self.plain = shop, network, training, plain
        self.done, self.total = 0, sets * FOLDS
        draw = torch.Generator().manual_seed(mix(shop.seed, "folds"))
        self.fold = torch.randperm(len(plain), generator=draw) % FOLDS

    def __call__(self, transfer: TransferSet) -> float:
        agreed = 0
        transfer = replace(transfer, images=resident(transfer.images))
        for number in range(FOLDS):
            held = self.fold == number
            student = self._student(transfer.select((~held)[transfer.ids].nonzero()[:, 0]), number)
            rows = held.nonzero()[:, 0]
            answers = predict(student, Rows(self.plain.images, rows), device=self.shop.device)
            agreed += int((answers.cpu() == self.plain.own[rows]).sum())
        return agreed / len(self.plain)

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
