"""What a user may choose: the manual of every setting.

Each record is frozen and plain; recipes and functions share it. A field has its type, range and
default here and nowhere else. `validated` checks a record that was made in Python, `reading` one
that came from a file.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from db3kd.config.methods import Metric
from db3kd.config.types import Above0, AtLeast0, Count, Few, Flips, Natural, Share

Strategy = Literal["rows", "joint"]
Descents = Literal["sign_opt", "hop_skip_jump", "cgba_h", "ttba", "ars_opt"]
Subspaces = Literal["full", "dct", "bilinear", "sweep"]
AugmentationName = Literal[
    "shift", "rotate", "scale", "shear", "crop", "flip", "mix", "paste", "shade", "noise"
]
TrainingAugmentation = Literal[
    "crop", "shift", "flip", "rotate", "colour", "erase", "mixup", "cutmix"
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
    "public",
    "unrelated",
    "unrelated_chosen",
]
WITH_IMAGES: tuple[Ways, ...] = ("public", "unrelated", "unrelated_chosen")
AcquisitionName = Literal["random", "margin", "bald"]
Optimiser = Literal["muon", "sgd", "adamw", "adam"]


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many queries may be spent, in all and stage by stage.

    A question that would exceed a limit is not asked.

    - `queries`: the most queries of the whole run; None for no limit.
    - `money`: the most money, in the currency of the teacher's price (`Price`).
    - `stages`: the most queries of single stages, by kind: "answers", "grow", "rounds",
      "distances", "synthesis", "starts", "ascent", "copies", "evaluate". A limit holds wherever
      answers of that kind are bought, also in a trial and for pseudo samples. A joint search buys
      nearly all its answers in "rounds", a search row by row all of them in "distances".

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
    """The kind of a stage, from its name on the books.

    >>> kind_of("trial/grow"), kind_of("grow")
    ('grow', 'grow')
    """
    return stage.rpartition("/")[2]


class Search(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How distances to the teacher's boundary are measured (sections 3.2.1 and 4.1).

    What is measured, and how a run goes about it:

    - `metric`: "sd" (Eq. 2), "bd" (Eq. 3) or "mbd" (Eq. 4, 5).
    - `strategy`: how a run measures "mbd". "joint" searches all classes of an image at once
      (`docs/joint_search.md`). "rows" searches each image and class on its own, as the paper does.
      "sd", "bd" and the functions of `db3kd.search` always go row by row.
    - `references`: how many images of each class serve as starting points.
    - `shard`: the most images that are measured, saved and resumed as one; fewer are, where a shard
      would take more than a gibibyte of memory.

    A joint search measures "sd" as well, but not "bd". It has these settings of its own:

    - `per_image`: the most queries for one image.
    - `surrogate`: the network that proposes where the boundary is, one of `db3kd.networks.NAMES`.
      "auto" chooses by the size of the images. "none" asks along the way to references only.
    - `members`: how many such networks vote.

    A search row by row measures "sd" before "bd" before "mbd", up to `metric`:

    - `queries`: the most queries for one image and one class. A joint search refuses it.
    - `checkpoints`: query counts at which the best distance so far is kept.
    - `flips`: the share of wrong answers of a teacher that does not always say the same
      (`docs/noisy.md`).

    How a point walks along the boundary, lengths in the units of the image:

    - `descent`: the algorithm. "sign_opt" is the paper's.
    - `subspace`: where probes are drawn from. "full" is Gaussian noise over all pixels, as in the
      paper; "dct" is noise of low frequencies; "bilinear" is upsampled noise; "sweep" goes through
      orthogonal directions, low frequencies first, and repeats none before all had their turn.
    - `probes`: Q of Eq. 4; for other algorithms than "sign_opt" the most probes of a step.
    - `tolerance`: the width at which a bisection ends. Walks other than "sign_opt" have their own.
    - `step`, `smoothing`: of "sign_opt" alone. xi_d, the first step along the gradient, and the
      length of a probe as a share of the distance.

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
    members: Few = 3
    flips: Flips = 0.0


PAPER: Mapping[str, Any] = {
    "strategy": "rows",
    "descent": "sign_opt",
    "subspace": "full",
    "references": 100,
}
"""Where section 4.1 differs from the defaults, which were chosen by measurement."""


def paper(**changes: Any) -> Search:
    """The paper's own search (section 4.1); `changes` are further settings of `Search`.

    In a recipe it is `preset = "paper"` in [label].

    >>> paper(queries=20_000).references
    100
    """
    return Search(**{**PAPER, **changes})


class Grow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How new images are made of a user's own, and which of them are asked (`docs/growing.md`).

    - `per_image`: how many new images of each own image are asked, at one query each.
    - `augmentations`: how they are made. "shift", "rotate", "scale", "shear", "crop" and "flip"
      move pixels, "mix" and "paste" join two images, "shade" varies the light smoothly, "noise"
      changes each pixel. "flip" is dropped after the first round if it changes the class too often.
    - `choose`: which candidates are asked. "random" takes them as they come. "margin" takes
      those whose two likeliest classes are closest, "bald" those on which students disagree, with
      equal numbers of every class that the students see.
    - `candidates`: how many images are made for each one that is asked.
    - `rounds`: how many times the students learn from what was asked so far.
    - `surrogate`, `members`: the network of these students, and how many there are; see `Search`.
    - `shard`: the most images that are made, asked and resumed as one.

    >>> Grow(per_image=10).choose
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
    choose: AcquisitionName = "margin"
    candidates: Few = 4
    rounds: Few = 4
    surrogate: str = "auto"
    members: Few = 2
    shard: Count = 16384


class Spend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a student of method "auto" may cost (`docs/spending.md`).

    A trial decides whether the answers buy new images or distances.

    - `per_image`: how many answers each own image gets in addition to its own. Without it, what
      `Budget.queries` leaves; without a budget, 30.
    - `trial`: the most own images on which both uses are tried. 0 grows new images without a trial.

    >>> Spend(per_image=10).trial
    1000
    """

    per_image: Natural | None = None
    trial: Natural = 1000


class AscentPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How noise is pushed away from the boundary: ZSDB3KD (section 3.3).

    The defaults are much cheaper than the paper's setting, `paper_ascent`. Lengths are in the units
    of the image.

    What is made:

    - `samples`: how many pseudo samples, with equal numbers of every class.
    - `noise`: the most queries for each sample that finding noise of every class may cost.
    - `copies`: how many augmented copies of each sample are asked at the end.
    - `every`: keeps the images after every this many iterations, for Fig. 6; 0 keeps the last ones.
    - `shard`: how many samples are pushed, saved and resumed as one.

    The ascent of one sample:

    - `iterations`: the most iterations.
    - `queries`: the most queries in all.
    - `step`: xi_o, the length of a step.
    - `halvings`: how often a step is halved, at most, where it leaves the class.
    - `probes`: Q of Eq. 4 for the ascent's own gradient; 0 follows the ray to the nearest point.
    - `gain`: the smallest growth of the distance that counts, as a share of it.
    - `patience`: after this many iterations without such a gain the sample has converged.

    The search for the nearest boundary point in each iteration:

    - `starts`: T of Eq. 8, the points of other classes that it starts from.
    - `search`: the most queries in one iteration.
    - `restart_every`: starts again from these T points after this many iterations; 1 does so every
      time, 0 never.
    - `walk_steps`, `walk_probes`: in the iterations between, how many steps the descent makes, and
      the most probes of a step.
    - `remembered`: how many points of earlier iterations are kept.
    - `spread`: how much they count. A point at distance d weighs exp(-(d - d0) / (spread d0)),
      where the nearest is at d0; 0 counts the nearest alone.
    - `tolerance`: the width at which a bisection ends.
    - `smoothing`: the length of a probe, as a share of the distance.
    - `descent`, `subspace`: see `Search`.

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
"""Section 4.5's setting for MNIST: a new search in every iteration, 5,000 queries each, Q = 200.
The paper does not say which T; 20 is that of the released code."""
PAPER_ASCENT_CIFAR10: Mapping[str, Any] = {
    **PAPER_ASCENT,
    "iterations": 100,
    "queries": 100 * 5_300,
    "step": 3.0,
}
"""Section 4.5's setting for AlexNet on CIFAR-10: longer steps, and more of them."""


def paper_ascent(**changes: Any) -> AscentPlan:
    """The paper's own ascent (section 4.5); `changes` are further settings of `AscentPlan`.

    In a recipe it is `ascent.preset = "paper"` in [synthesis].

    >>> plan = paper_ascent(samples=10)
    >>> plan.samples, plan.iterations * plan.search
    (10, 200000)
    """
    return AscentPlan(**{**PAPER_ASCENT, **changes})


class Synthesis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pseudo samples are made without any images (`docs/synthesis.md`).

    - `queries`: how many are asked. Without it, what `Budget.queries` leaves; without a budget,
      25,000.
    - `way`: "shapes" and "noise" ask random images. "chosen" and "latent" ask those shapes, and
      images derived from them, that students are least sure of. "dip_kd" makes images that a first
      student tells apart. "ideal", "qedg", "dfms" and "disguide" learn a generator. "ascent" is the
      paper's ZSDB3KD. "public" asks crops of unlabelled photographs of anything, shapes, and shapes
      filled with such crops, as a trial decides. "unrelated" and "unrelated_chosen" ask unlabelled
      images of something else as they are.
    - `ascent`: the settings of way "ascent", which uses no others.
    - `images`: the data set of way "public", whose images may be of any size, or of "unrelated" and
      "unrelated_chosen".
    - `rounds`: how many times students learn from what was asked so far, at least; up to 16
      times, for large totals.
    - `surrogate`, `width`, `members`: the network of these students, its width, and how many there
      are; "auto" chooses the network by the size of the images.
    - `candidates`: how many images are made for each one that is asked, where students choose.
    - `ensemble_labels`: how many more images get labels by an ensemble of three wider students
      instead of the teacher, as far as 2 GiB hold them. Without it, the ways "chosen", "latent" and
      "public" fill up what is asked to 60,000 images if the student is of the network `surrogate`.
      A student of another network gets none, since it may come to know better than the ensemble.
    - `shard`: the most images that are made, asked and resumed as one.

    >>> Synthesis(queries=5000).way
    'chosen'
    """

    queries: Count | None = None
    way: Ways = "chosen"
    rounds: Few = 8
    surrogate: str = "auto"
    width: Above0 = 0.5
    members: Few = 2
    candidates: Few = 4
    ensemble_labels: Natural | None = None
    shard: Count = 16384
    ascent: AscentPlan = AscentPlan()
    images: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained with Eq. 1 (`docs/training.md`).

    How long:

    - `steps`: how many batches. Without it and `epochs`, `db3kd.student.steps.steps_of` counts
      them from the number of samples.
    - `epochs`: how often each sample is seen, instead of `steps`.
    - `batch`: images in a batch.

    How; what is left out is the optimiser's own (`TRAINERS`):

    - `optimiser`: "muon" for all matrices but the last, and AdamW beside it; "sgd" with Nesterov's
      momentum; "adamw"; or "adam". Without it, "muon", or "sgd" where a network like LeNet-5 learns
      fewer than 10,000 pseudo samples beside ensemble labels; with a `rate` and without it,
      "adamw".
    - `rate`: the highest learning rate.
    - `schedule`: what follows the warm-up: "linear" and "cosine" fall to zero over all steps left,
      "constant" stays, "steps" falls at `drops`.
    - `drops`, `drop`: with "steps", after which shares of all steps the rate is multiplied, and by
      what.
    - `warmup`: the share of the steps in which the rate rises from zero.
    - `weight_decay`: decoupled from the gradient, but for "sgd" and "adam".
    - `average`: the share of the steps, at the end, whose weights are averaged.
    - `smoothing`: the share of the label that is spread over all classes, in the first term of
      Eq. 1.
    - `augment`: how each batch is changed at random before it is shown; for images of one's own.
      It keeps labels, so nothing is asked (`docs/students.md`).
    - `mixed_precision`: computes in bfloat16 where that is faster and safe: on a GPU, and on a CPU
      with instructions for it if the network is like AlexNet or a ResNet.
    - `devices`: how many GPUs, or processes on a CPU, train one network together, each with its
      share of every batch (`docs/cluster.md`); needs the extra `fabric`.

    What:

    - `weight`: lambda of Eq. 1.
    - `temperature`: tau of Eq. 1.
    - `label_weight`: by which the first term of Eq. 1 is multiplied; 0: soft labels alone.

    >>> settled(Training(epochs=3)).rate, settled(Training(optimiser="sgd")).rate
    (0.02, 0.05)
    """

    epochs: Count | None = None
    steps: Count | None = None
    batch: Count = 64
    optimiser: Optimiser | None = None
    rate: Above0 | None = None
    schedule: Literal["linear", "cosine", "constant", "steps"] | None = None
    drops: tuple[Share, ...] = (0.5, 0.75)
    drop: Share = 0.1
    warmup: Share | None = None
    weight: AtLeast0 = 1.0
    temperature: Above0 = 0.3
    label_weight: AtLeast0 = 1.0
    weight_decay: AtLeast0 | None = None
    average: Share = 0.0
    smoothing: Share = 0.0
    augment: tuple[TrainingAugmentation, ...] = ()
    mixed_precision: bool = True
    devices: Count = 1


TRAINERS: Mapping[Optimiser, Mapping[str, Any]] = {
    "muon": {"rate": 0.02, "schedule": "linear", "warmup": 0.1, "weight_decay": 0.0},
    "sgd": {"rate": 0.05, "schedule": "linear", "warmup": 0.15, "weight_decay": 5e-4},
    "adamw": {"rate": 3e-3, "schedule": "cosine", "warmup": 0.15, "weight_decay": 0.0},
    "adam": {"rate": 1e-3, "schedule": "cosine", "warmup": 0.0, "weight_decay": 0.0},
}
"""What each optimiser does where a recipe is silent, found by `benchmarks/trainers.py`."""
PAPER_TRAINING: Mapping[str, Any] = {
    "optimiser": "adam",
    "rate": 5e-3,
    "epochs": 100,
    "batch": 512,
    "schedule": "constant",
}
"""Section 4.1. The paper does not say the size of a batch; 512 is that of the released code."""


def settled(training: Training) -> Training:
    """The same training with the optimiser's own values where nothing is said.

    >>> settled(Training(rate=1e-3)).optimiser
    'adamw'
    """
    optimiser = training.optimiser or ("muon" if training.rate is None else "adamw")
    own = {
        name: value
        for name, value in TRAINERS[optimiser].items()
        if getattr(training, name) is None
    }
    return msgspec.structs.replace(training, optimiser=optimiser, **own)


def paper_training(**changes: Any) -> Training:
    """The paper's own training (section 4.1); `changes` are further settings of `Training`.

    In a recipe it is `training.preset = "paper"` in [student].

    >>> paper_training(epochs=200).rate
    0.005
    """
    return Training(**{**PAPER_TRAINING, **changes})


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
