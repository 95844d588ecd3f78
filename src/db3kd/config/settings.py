"""What a user may choose: plain frozen records, without torch, shared by recipes and functions.

A record says name, type, range and default of each choice once. `validated` checks a record that
was made in Python; `recipe` checks one that was read from a file.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from db3kd.config.methods import Metric
from db3kd.config.types import Above0, AtLeast0, Count, Flips, Natural

Strategy = Literal["rows", "joint"]
Descents = Literal["sign_opt", "hop_skip_jump", "cgba_h", "ttba", "ars_opt"]
Subspaces = Literal["full", "dct", "bilinear", "sweep"]
AugmentationName = Literal[
    "shift", "rotate", "scale", "shear", "crop", "flip", "mix", "paste", "shade", "noise"
]
StageKind = Literal[
    "answers",
    "grow",
    "rounds",
    "distances",
    "synthesis",
    "starts",
    "ascent",
    "copies",
    "evaluate",
]
Ways = Literal[
    "chosen",
    "latent",
    "shapes",
    "noise",
    "dip_kd",
    "ideal",
    "qedg",
    "dfms",
    "disguide",
    "ascent",
    "unrelated",
    "unrelated_chosen",
]
AcquisitionName = Literal["random", "margin", "bald"]


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many queries may be spent: in all, and in each stage of a run.

    `queries`: the hard limit of the whole, None for no limit. `money`: likewise, in the currency of
    the teacher's price (`Price`). `stages`: limits of single stages by
    name ("answers", "grow", "rounds", "distances", "synthesis", "starts", "ascent", "copies",
    "evaluate"); a search together buys nearly all in "rounds", one row by row all in "distances".
    A limit counts what a trial buys in its stage of that kind, too, and what pseudo samples do.

    >>> from db3kd.config.types import validated
    >>> validated(Budget(stages={"growth": 1000}))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: Budget: Invalid enum value 'growth' - at `key` in `$.stages`
    """

    queries: Natural | None = None
    money: AtLeast0 | None = None
    stages: dict[StageKind, Natural] = {}


def kind_of(stage: str) -> str:
    """The kind of a stage by its name on the books, wherever in a run it is.

    >>> kind_of("trial/grow"), kind_of("grow")
    ('grow', 'grow')
    """
    return stage.rpartition("/")[2]


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How distances to the teacher's boundary are measured (section 3.2.1 and 4.1 of the paper).

    `metric`: "sd" (Eq. 2), "bd" (Eq. 3) or "mbd" (Eq. 4, 5); row by row, a metric includes those
    before it. `references`: images of each class that serve as starts. `queries`: row by row, the
    limit for one sample and one class; a run that searches together refuses it. `probes`: Q of
    Eq. 4. `step`: xi_d, the first step along the gradient, in the units of the image. `tolerance`:
    width at which bisection ends, same units. `smoothing`: length of a probe, as a share of the
    distance.
    `descent`: the way of walking along the boundary; "sign_opt" is the paper's. Of the others
    `probes` is the most of a step, and `step`, `tolerance` and `smoothing` are their own.
    `subspace`: where probes are drawn from: Gaussian noise over all pixels ("full", the paper's),
    over low frequencies ("dct") or upsampled ("bilinear"), or "sweep", orthogonal directions from
    low frequencies to all, none twice before all had their turn. `checkpoints`: row by row, query
    counts at which the best distance is kept. `shard`: samples that are measured, saved and resumed
    together.

    `strategy`, for a run's "mbd": "joint", the default, searches all classes of a sample at once
    (`db3kd.search.joint`) and spends at most `per_image` queries on it; SD comes with it, BD does
    not.
    There `surrogate` is the network that proposes, one of `db3kd.networks.NAMES`, or "auto" by the
    size of the images, or "none" for references alone; `members`: how many of them vote. "rows"
    searches each sample and class on its own, as the paper does. "sd" and "bd", and the functions
    of `db3kd.search.robustness`, are always row by row, whatever the strategy.

    `flips`: the share of wrong answers, of a teacher that does not always say the same
    (`docs/noisy.md`); row by row only.

    >>> Search().strategy, paper().strategy
    ('joint', 'rows')
    """

    metric: Metric = "mbd"
    references: Count = 20
    queries: Count = 1000
    probes: Count = 200
    step: Above0 = 0.2
    tolerance: Above0 = 1e-5
    smoothing: Above0 = 0.01
    descent: Descents = "cgba_h"
    subspace: Subspaces = "sweep"
    checkpoints: tuple[Count, ...] = ()
    shard: Count = 200
    strategy: Strategy = "joint"
    per_image: Count = 300
    surrogate: str = "auto"
    members: Count = 3
    flips: Flips = 0.0


PAPER: Mapping[str, Any] = {
    "strategy": "rows",
    "descent": "sign_opt",
    "subspace": "full",
    "references": 100,
}
"""What section 4.1 sets otherwise than the defaults here, which won by measurement."""


def paper(**changes: Any) -> Search:
    """The paper's own search (section 4.1); `changes` are further settings of `Search`.

    In a recipe it is `preset = "paper"` in [label].

    >>> paper(queries=20_000).references
    100
    """
    return Search(**{**PAPER, **changes})


class Grow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How new images are made of a user's own, and which of them are asked (`docs/growing.md`).

    `per_image`: answers for each own image. `augmentations`: how they are made; "shift", "rotate",
    "scale", "shear", "crop" and "flip" move pixels, "mix" and "paste" join two images, "shade" is
    light that varies smoothly, "noise" is pixel by pixel. A flip that the first round finds to
    change the class too often is left out of the others. `acquisition`: which are asked; "random",
    or those of `candidates` times as many that some students can hardly tell apart ("margin") or
    disagree on ("bald"), as many of each class that the students see. `rounds`: the students learn
    between them. `surrogate` and `members`: what and how many these students are, as in `Search`.
    `shard`: the most images that are made, asked and resumed together.

    >>> Grow(per_image=10).acquisition
    'margin'
    """

    per_image: Natural = 30
    augmentations: tuple[AugmentationName, ...] = (
        "shift",
        "rotate",
        "scale",
        "shear",
        "flip",
        "mix",
        "shade",
    )
    acquisition: AcquisitionName = "margin"
    candidates: Count = 4
    rounds: Count = 4
    surrogate: str = "auto"
    members: Count = 2
    shard: Count = 16384


class Spend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a student of method "auto" may cost, and how it is decided what for.

    New images or distances (`docs/spending.md`). `per_image`: answers for each own image beside its
    own; without it what `Budget.queries` leaves, and 30 where there is no budget. `trial`: the most
    own images on which both uses are tried before one of them gets the rest; 0 grows untried.

    >>> Spend(per_image=10).trial
    1000
    """

    per_image: Natural | None = None
    trial: Natural = 1000


class AscentPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How noise is pushed away from the boundary: ZSDB3KD, section 3.3, by default cheaply.

    `samples`: pseudo samples in all, as many of each class. `noise`: the most queries that finding
    noise of every class may cost, for each sample. `every`: images are kept after every so many
    iterations too, for Fig. 6; 0 keeps the last only. `copies`: so many changed copies of each
    sample are asked at the end, one query each: shifted, rotated, scaled, sheared, mixed, patched.
    `shard`: samples that are pushed, saved and resumed together.
    `starts`: T of Eq. 8. `iterations`: the most. `queries`: the limit of a sample in all. `search`:
    the limit of its search for the nearest boundary point in one iteration. `restart_every`: after
    how many iterations that search begins again at the T starts; 1 restarts each time, 0 never.
    `walk_steps`: steps of the
    descent in the iterations between; `walk_probes`: the most probes of a step. `remembered`: how
    many points of earlier iterations are kept. `spread`: a remembered point weighs
    exp(-(d - d0) / (spread d0)) in the ray, at distance d where the nearest is at d0; 0 for the
    nearest alone. `probes`: Q of Eq. 4 for the ascent's own gradient, 0 to go along the ray.
    `step`: xi_o, the length of a step of the ascent; `halvings` of it, at most, where it leaves the
    class. `gain`: what counts as one, as a share of the distance; `patience`: so many iterations
    without one, and the sample has converged. `tolerance`: final width of a bisection. `smoothing`:
    length of a probe, as a share of the distance. `descent` and `subspace` as in `Search`. Lengths
    are in the units of the image.

    >>> AscentPlan().probes, paper_ascent().probes
    (0, 200)
    """

    samples: Count = 2_000
    noise: Count = 50
    every: Natural = 0
    copies: Natural = 10
    shard: Count = 200
    starts: Count = 20
    iterations: Count = 40
    queries: Count = 4_000
    search: Count = 400
    restart_every: Natural = 8
    walk_steps: Natural = 1
    walk_probes: Count = 24
    remembered: Natural = 20
    spread: AtLeast0 = 0.3
    probes: Natural = 0
    step: Above0 = 0.5
    halvings: Natural = 4
    gain: AtLeast0 = 1e-3
    patience: Count = 20
    tolerance: Above0 = 1e-3
    smoothing: Above0 = 0.01
    descent: Descents = "cgba_h"
    subspace: Subspaces = "dct"


PAPER_ASCENT: Mapping[str, Any] = {
    "samples": 80_000,
    "queries": 40 * 5_300,
    "search": 5_000,
    "restart_every": 1,
    "walk_probes": 200,
    "remembered": 0,
    "spread": 0.0,
    "probes": 200,
    "patience": 40,
    "tolerance": 1e-5,
    "descent": "sign_opt",
    "subspace": "full",
}
"""Section 4.5's setting for MNIST: every iteration anew, 5,000 queries each, Q = 200. Which T is
not said there; 20 is that of the released code."""


def paper_ascent(**changes: Any) -> AscentPlan:
    """The paper's own ascent (section 4.5); `changes` are further settings of `AscentPlan`.

    In a recipe it is `ascent.preset = "paper"` in [synthesis].

    >>> plan = paper_ascent(samples=10)
    >>> plan.samples, plan.iterations * plan.search
    (10, 200000)
    """
    return AscentPlan(**{**PAPER_ASCENT, **changes})


class Synthesis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pseudo samples are made where there are no own images (`docs/synthesis.md`).

    `queries`: how many answers; without it what `Budget.queries` leaves, and 25,000 where there is
    no budget. `way`: "noise" and "shapes" ask random images, "chosen" and "latent" those of which
    students doubt, among shapes and what descends from them; "dip_kd" makes images that a primer
    student tells apart; "ideal", "qedg", "dfms" and "disguide" learn a generator; "ascent" is the
    paper's ZSDB3KD, whose settings are those of `ascent` and no others; "unrelated" and
    "unrelated_chosen" ask unlabelled images of something else, those of the data set `images`.
    `rounds`: at least so many times the students learn anew.
    `surrogate`, `width`, `members`: what and how many these students are; "auto" by the size of the
    images. `candidates`: so many images are made for one that is taken, where students choose.
    `ensemble_labels`: so many more images, as far as 2 GiB hold them, are labelled by an ensemble
    of three wider students instead of the teacher. Without it, the ways "chosen" and "latent" fill
    up what is asked to 60,000 images, if the student is of the network `surrogate`; a student of
    another network gets none, since it may know better than the ensemble.
    `shard`: the most images that are made, asked and resumed together.

    >>> Synthesis(queries=5000).way
    'chosen'
    """

    queries: Count | None = None
    way: Ways = "chosen"
    rounds: Count = 8
    surrogate: str = "auto"
    width: Above0 = 0.5
    members: Count = 2
    candidates: Count = 4
    ensemble_labels: Natural | None = None
    shard: Count = 16384
    ascent: AscentPlan = AscentPlan()
    images: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained with Eq. 1.

    `epochs`: how often each sample is seen. `steps`: a number of batches instead, whatever the size
    of the set; `epochs` is then ignored. `rate`: Adam's learning rate. `schedule`: "constant", or
    "cosine" down to zero over all steps. `weight`: lambda of Eq. 1. `temperature`: tau of Eq. 1.
    `weight_decay`: decoupled (AdamW). `mixed_precision`: bfloat16 autocast, on a GPU only.

    >>> Training(epochs=3).rate
    0.001
    """

    epochs: Count = 100
    steps: Count | None = None
    batch: Count = 128
    rate: Above0 = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    weight: AtLeast0 = 1.0
    temperature: Above0 = 0.3
    weight_decay: AtLeast0 = 0.0
    mixed_precision: bool = True


def is_joint(search: Search) -> bool:
    """Whether a run searches all classes of an image at once.

    >>> is_joint(Search()), is_joint(Search(metric="bd")), is_joint(paper())
    (True, False, False)
    """
    return search.metric == "mbd" and search.strategy == "joint"


def most_queries(search: Search, classes: int) -> int:
    """The most that a run's distances of one sample can cost, its own answer left aside.

    >>> most_queries(Search(), 10), most_queries(Search(strategy="rows"), 10)
    (300, 9000)
    """
    if search.metric == "sd":
        return 0
    if is_joint(search):
        return search.per_image
    return (classes - 1) * search.queries
