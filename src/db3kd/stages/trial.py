"""What a run's answers buy: new images and distances are tried, and the better use gets the rest.

The trial grows a few new images from some own ones. Students learn from these, or from the own
images alone, with sample distances (Eq. 2), which cost nothing. They are judged by their agreement
with the teacher on own images that are held back from them, as are the new images made from these.
If new images seem to add nothing, distances are measured for a few own images and judged likewise.
Answers stay unspent where neither adds anything, and new images surely not a point. Where true
classes are known, students are judged a second time, to find which grown images to learn from.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import msgspec
import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.config.methods import Use
from db3kd.config.settings import Grow, Search, Spend, Training, is_joint
from db3kd.data import Images, Rows
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.search.joint.plan import LEAST_STEPS
from db3kd.seeds import derive_seed
from db3kd.stages import distances, growing, worth
from db3kd.stages.decisions import decided as told
from db3kd.stages.formats import training_here
from db3kd.stages.judge import FOLDS, Gain, Judge
from db3kd.stages.workspace import Workspace
from db3kd.student.evaluate import check_trainable, classes_of
from db3kd.student.steps import steps_of

PER_IMAGE = 30  # answers for each own image, without `Spend.per_image` and without a budget
LEAST, FEWEST = 8, 20  # answers per image, and own images, below which there is no trial
PART, LEAST_EACH, MOST_EACH = 2, 3, 15  # the trial gets half of an image's answers, within limits
MOST_STEPS = 5000  # of a student in one of all folds; a single fold may have those of all
USES, FEWEST_STEPS = 2, 300  # what a trial compares; fewer steps only where students get fewer
SOME, MANY = 1000, 5000  # own images: fewer learn from all that grew; for more, one fold is enough
Share = Literal["all", "confirmed", "none"]
"""Which grown images a student learns from: all, those that the teacher gives their parent's true
class, or none."""
RULES = 2  # how a trial decides; a folder keeps what it was begun with
_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class SpendingPlan:
    """How the answers are divided, the images' own left aside.

    The trial grows `each` new images from each of `tried` own ones. Then the better use gets `left`
    answers for every own image. Together, this is at most `per_image` answers for each own image.

    >>> SpendingPlan.of(Spend(per_image=30), samples=300)
    SpendingPlan(per_image=30, tried=300, each=15, left=15)
    >>> SpendingPlan.of(Spend(per_image=30), samples=60_000)
    SpendingPlan(per_image=30, tried=1000, each=15, left=29)
    >>> SpendingPlan.of(Spend(per_image=5), samples=300)
    SpendingPlan(per_image=5, tried=0, each=0, left=5)
    """

    per_image: int
    tried: int
    each: int
    left: int

    @classmethod
    def of(
        cls, settings: Spend, *, samples: int, budget: int | None = None, reserved: int = 0
    ) -> "SpendingPlan":
        """Plan for `samples` own images; `reserved` queries of the budget are for other things."""
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
    """What the answers buy, and why.

    - `agreement`: by use, how often the trial's students agreed with the teacher on `held` own
      images that were held back from them. "ce" stands for the own images alone, with sample
      distances. It is empty if there was no trial.
    - `gains`: by use, what it adds to these.
    - `unspent`: how many answers are not bought, because nothing adds anything.
    - `next`: by use, what the next thousand answers would then add.
    """

    use: Use
    why: str
    agreement: dict[Use, float]
    held: int
    gains: dict[Use, Gain] = field(default_factory=dict)
    unspent: int = 0
    next: dict[Use, Gain] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """Which grown images a student learns from, where the true classes of own images are known.

    `agreement`: by share, how often students agreed with the true class of `held` own images that
    were held back from them.
    """

    share: Share
    agreement: dict[Share, float]
    held: int


def planned(workspace: Workspace, settings: Spend, samples: int, *, reserved: int) -> SpendingPlan:
    """How the answers are divided, or were when the stage began; see `Run.planned`."""
    begun = workspace.configuration("spend")
    if begun and settings.per_image is None:
        settings = msgspec.structs.replace(settings, per_image=begun["per_image"])
    budget = workspace.meter.budget.queries
    return SpendingPlan.of(settings, samples=samples, budget=budget, reserved=reserved)


def check_spending(
    search: Search, grow: Grow, network: nn.Module, images: Images, classes: int
) -> None:
    """Refuse what a trial cannot try, before anything is bought.

    Raises:
        InputError: a search row by row; or settings or a network that do not fit the images or the
            teacher's classes.
    """
    if not is_joint(search):
        raise InputError(
            'a trial cannot pay for a search row by row; set strategy = "joint", or call `label`'
            " instead"
        )
    distances.check_search(search, images.shape, classes)
    if grow.augmentations:
        growing.check_growing(grow, images.shape, classes)
    check_trainable(network, images.shape)
    if (found := classes_of(network, images)) != classes:
        raise InputError(f"the network has {found} classes, but the teacher {classes}")


def spend(
    workspace: Workspace,
    own: TransferSet,
    network: nn.Module,
    plan: SpendingPlan,
    *,
    search: Search,
    grow: Grow,
    training: Training,
    truth: Int[Tensor, " sample"] | None,
    students: int = 1,
    enough: Callable[[int], bool] | None = None,
) -> None:
    """Decide what the answers buy, by a trial if need be, and buy it; see `Run.spend`.

    `enough`: as in `growing.grow_all`.
    """
    training = training_here(workspace.journal, training)
    begun = workspace.configuration("spend")
    rules = begun.get("rules", 1) if begun else RULES
    workspace.agree("spend", {**asdict(plan), **({"rules": rules} if rules > 1 else {})})
    decision = decided(workspace) or decide(
        workspace,
        own,
        network,
        plan,
        search=search,
        grow=grow,
        training=training,
        students=students,
    )
    if enough is not None and decision.use != "grown":
        _log.info("no new images are asked, so the rule of `stop` has nothing to decide")
    left = plan.left
    if "mbd" in decision.gains:  # some of it bought the trial's distances
        left = worth.left_after(left, samples=len(own), tried=plan.tried)
    if decision.use == "mbd":
        search = msgspec.structs.replace(search, per_image=left)
        distances.measure_all(workspace, own.images, own.teacher_labels, search)
    elif decision.use == "ce" and decision.held:
        free = workspace.within("sample")
        free.agree("answers", {"samples": len(own)})
        search = msgspec.structs.replace(search, metric="sd")
        distances.measure_all(free, own.images, own.teacher_labels, search)
    elif decision.use == "grown":
        rounds, earlier = grow.rounds, None
        if decision.held:
            rounds = halves(rounds)[1]
            earlier = growing.grown(workspace.within("trial"), own.images)
        grow = msgspec.structs.replace(grow, per_image=left, rounds=rounds)
        growing.grow_all(
            workspace, own.images, own.teacher_labels, grow, earlier=earlier, enough=enough
        )
        if truth is not None and len(own) >= SOME and selected(workspace) is None:
            select(workspace, replace(own, labels=truth), decision, network, training)


def decided(workspace: Workspace) -> Decision | None:
    """What this run has decided; None before that."""
    records = list(workspace.journal.all("decision"))
    return msgspec.convert(records[-1]["decision"], Decision) if records else None


def decide(
    workspace: Workspace,
    own: TransferSet,
    network: nn.Module,
    plan: SpendingPlan,
    *,
    search: Search,
    grow: Grow,
    training: Training,
    students: int,
) -> Decision:
    """Decide what the answers buy, by a trial if there is a choice; see `Run.spend`."""
    decision, seconds = _without_trial(own.teacher_labels, plan, grow), 0.0
    if decision is None:
        decision, seconds = _by_trial(
            workspace,
            own,
            network,
            plan,
            search=search,
            grow=grow,
            training=training,
            students=students,
        )
    workspace.journal.append("decision", decision=asdict(decision), wall_s=round(seconds, 3))
    _log.info("the answers go to %s", told(asdict(decision)))
    return decision


def _without_trial(own: Tensor, plan: SpendingPlan, grow: Grow) -> Decision | None:
    """The decision if there is nothing to try; None if there is."""
    alike = bool((own == own[0]).all())
    if not plan.per_image:
        return Decision("ce", "nothing is left after the images' own answers", {}, 0)
    if not grow.augmentations:
        use: Use = "ce" if alike else "mbd"
        return Decision(use, "no augmentation is switched on, so nothing new can be made", {}, 0)
    if alike:
        why = f"all own images are of class {int(own[0])}, so there is no boundary to measure"
        return Decision("grown", why, {}, 0)
    if not plan.tried:
        what = f"{len(own):,} own images with {plan.per_image} answers each"
        return Decision("grown", f"{what} are not worth a trial", {}, 0)
    return None


def _by_trial(
    workspace: Workspace,
    own: TransferSet,
    network: nn.Module,
    plan: SpendingPlan,
    *,
    search: Search,
    grow: Grow,
    training: Training,
    students: int,
) -> tuple[Decision, float]:
    """Grow a little, train students on either use and judge them; also how long judging took."""
    trial = workspace.within("trial")
    rows = tried(workspace, len(own), plan.tried)
    some, answers = Rows(own.images, rows), own.teacher_labels[rows]
    trial.agree("answers", {"samples": len(rows)})
    if bool((answers == answers[0]).all()):
        why = f"all {len(rows):,} images of the trial are of class {int(answers[0])}"
        return Decision("grown", why, {}, 0), 0.0
    few = {"per_image": plan.each, "rounds": halves(grow.rounds)[0]}
    growing.grow_all(trial, some, answers, msgspec.structs.replace(grow, **few))
    sample = msgspec.structs.replace(search, metric="sd")
    distances.measure_all(trial, some, answers, sample)
    plain = TransferSet(some, torch.arange(len(rows)), answers, answers)
    sets: dict[Use, TransferSet] = {
        "grown": growing.with_grown(trial, plain, some, plain.ids),
        "ce": plain.with_soft(distances.soft(trial, "sd", answers)),
    }
    steps, lessons = steps_of(training, len(own)), least_lessons(search, grow)
    folds, steps = trial_size(steps, students, lessons)
    limited = msgspec.structs.replace(training, steps=steps)
    started = time.perf_counter()
    judge = Judge(trial, network, limited, plain, plain.teacher_labels, sets=len(sets), folds=folds)
    right = {use: judge.right(transfer) for use, transfer in sets.items()}
    agreement = {use: round(float(found.mean()), 4) for use, found in right.items()}
    gain = Gain.of(right["grown"], right["ce"])
    if workspace.configuration("spend").get("rules", 1) < RULES:
        agreement["mbd"] = agreement.pop("ce")  # they stood for measured ones
        use: Use = "mbd" if agreement["mbd"] > agreement["grown"] else "grown"
        decision = Decision(use, "by trial", agreement, judge.held)
    elif gain.share >= 0 and gain.may_pay:
        decision = Decision("grown", "by trial", agreement, judge.held, {"grown": gain})
    else:
        last = worth.of_the_last(judge, right["grown"], sets["grown"], len(plain))
        search = msgspec.structs.replace(search, per_image=plan.left)
        more = worth.of_distances(trial, network, training, plain, search, most_steps=steps)
        none = Decision(
            "ce", "by trial", agreement, judge.held, {"grown": gain}, 0, {"grown": last}
        )
        decision = _without_growth(none, plan, more, samples=len(own))
    return decision, time.perf_counter() - started


def _without_growth(
    found: Decision, plan: SpendingPlan, more: Gain | None, *, samples: int
) -> Decision:
    """The decision where growth seems to add nothing; `more`: what measured distances add.

    A trial is small, so only a gain that is surely small keeps the answers unspent.
    """
    gains: dict[Use, Gain] = found.gains if more is None else {**found.gains, "mbd": more}
    if more is not None and more.is_clear:
        return replace(found, use="mbd", gains=gains, next={})
    if found.gains["grown"].may_pay:
        return replace(found, use="grown", gains=gains, next={})
    if more is None:
        return replace(found, unspent=plan.left * samples)
    left = plan.left * (samples - worth.measured_images(plan.tried))
    each = more.times(worth.THOUSAND / (plan.left * samples))  # of measuring all images
    return replace(found, gains=gains, unspent=left, next={**found.next, "mbd": each})


def trial_size(steps: int, students: int, lessons: int) -> tuple[int, int]:
    """In how many folds a trial is judged, and with how many steps for each of its students.

    After the trial, each of the run's `students` gets `steps` at least, and what chooses or
    proposes gets `lessons` at least. The students of the trial, one for each use and fold, have
    together no more, so that a trial never takes longer than the rest of the run. There are fewer
    folds rather than trainings of fewer than `FEWEST_STEPS`, if a student gets so many.

    >>> trial_size(40_000, 1, 3000), trial_size(2_000, 1, 3000), trial_size(300, 1, 3000)
    ((5, 4300), (5, 500), (5, 300))
    """
    rest = steps * students + lessons
    wanted = min(MOST_STEPS, steps)
    folds = max(1, min(FOLDS, rest // (USES * min(wanted, FEWEST_STEPS))))
    return folds, max(1, min(wanted, rest // (USES * folds)))


def least_lessons(search: Search, grow: Grow) -> int:
    """The steps that students that choose, or the surrogate, get at least after a trial.

    >>> least_lessons(Search(), Grow()), least_lessons(Search(), Grow(choose="random"))
    (900, 0)
    """
    choosing = 0 if grow.choose == "random" else grow.members * halves(grow.rounds)[1]
    proposing = 0 if search.surrogate == "none" else search.members
    return LEAST_STEPS * min(choosing, proposing)


def halves(rounds: int) -> tuple[int, int]:
    """How many rounds of growing there are in the trial and after it, of `rounds` in all.

    There is at least one in each.

    >>> halves(4), halves(1)
    ((2, 2), (1, 1))
    """
    return max(1, rounds // 2), max(1, rounds - rounds // 2)


def tried(workspace: Workspace, samples: int, wanted: int) -> Int[Tensor, " row"]:
    """The own images on which both uses are tried; random by the run's seed."""
    draw = torch.Generator().manual_seed(derive_seed(workspace.seed, "trial"))
    return torch.randperm(samples, generator=draw)[:wanted].sort().values


def with_use(
    workspace: Workspace, own: TransferSet, decision: Decision, share: Share = "all"
) -> TransferSet:
    """Own images with all that was bought for the chosen use, in the trial and after it."""
    if decision.use == "mbd":
        return own.with_soft(distances.soft(workspace, "mbd", own.teacher_labels))
    if decision.use == "ce" and decision.held:
        return own.with_soft(distances.soft(workspace.within("sample"), "sd", own.teacher_labels))
    if decision.use != "grown" or share == "none":
        return own
    more, truth = own, own.labels if share == "confirmed" else None
    if decision.held:
        rows = tried(workspace, len(own), workspace.configuration("spend")["tried"])
        more = growing.with_grown(workspace.within("trial"), own, own.images, rows, truth=truth)
    return growing.with_grown(workspace, more, own.images, own.ids, truth=truth)


def with_decision(workspace: Workspace, own: TransferSet, *, truth: bool) -> TransferSet:
    """Own images with what `spend` bought; `truth`: whether their labels are ground truth.

    Raises:
        InputError: nothing is decided yet.
    """
    decision, selection = decided(workspace), selected(workspace)
    if decision is None:
        raise InputError("nothing is decided yet; spend the answers first")
    share: Share = selection.share if selection is not None and truth else "all"
    return with_use(workspace, own, decision, share)


def selected(workspace: Workspace) -> Selection | None:
    """Which grown images this run has chosen to learn from; None if it has not chosen."""
    records = list(workspace.journal.all("selection"))
    return msgspec.convert(records[-1]["selection"], Selection) if records else None


def selection_size(steps: int, samples: int) -> tuple[int, int]:
    """In how many folds shares are judged, and with how many steps, where a student gets `steps`.

    >>> selection_size(40_000, 1_000), selection_size(40_000, 60_000)
    ((5, 5000), (1, 25000))
    """
    folds = FOLDS if samples <= MANY else 1
    return folds, min(MOST_STEPS * FOLDS // folds, steps)


def select(
    workspace: Workspace,
    own: TransferSet,
    decision: Decision,
    network: nn.Module,
    training: Training,
) -> Selection:
    """Find out which grown images to learn from, on own images held back; costs no query.

    A teacher's answers help much if true classes are few, and its errors do harm if they are many.
    Random by the run's seed: the folds. Students begin with the weights of `network`.
    """
    place = workspace.within("selection")
    folds, steps = selection_size(steps_of(training, len(own)), len(own))
    training = msgspec.structs.replace(training, steps=steps)
    started = time.perf_counter()
    shares: tuple[Share, ...] = ("all", "confirmed", "none")
    judge = Judge(place, network, training, own, own.labels, sets=len(shares), folds=folds)
    agreement = {
        share: round(judge(with_use(workspace, own, decision, share)), 4) for share in shares
    }
    best = max(shares, key=lambda share: agreement[share])  # the first, at a tie
    found = Selection(best, agreement, judge.held)
    seconds = round(time.perf_counter() - started, 3)
    workspace.journal.append("selection", selection=asdict(found), wall_s=seconds)
    facts = [f"{_SHARES[share]} {100 * agreement[share]:.1f}%" for share in shares]
    text = "students learn from %s (agreement with the true classes of %s images held back: %s)"
    _log.info(text, _SHARES[best], f"{found.held:,}", ", ".join(facts))
    return found


_SHARES: Mapping[Share, str] = {
    "all": "all new images",
    "confirmed": "those that kept their parent's true class",
    "none": "none of them",
}
