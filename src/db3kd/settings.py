"""What a user may choose: plain frozen records, without torch, shared by recipes and functions.

A record says name, type, range and default of each choice once. `validated` checks a record that
was made in Python; `recipe` checks one that was read from a file.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from db3kd.errors import InputError

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Above0 = Annotated[float, msgspec.Meta(gt=0)]
AtLeast0 = Annotated[float, msgspec.Meta(ge=0)]
Flips = Annotated[float, msgspec.Meta(ge=0, lt=0.5)]
Metric = Literal["sd", "bd", "mbd"]
Use = Literal["ce", "grown", "mbd"]
"""What answers beside the images' own can go to: nothing, new images, or distances."""
Method = Literal["auto", "ce", "sd", "bd", "mbd", "grown", "mixed", "pseudo", "pseudo_mbd"]
"""What a student learns from: the own images with their answers alone ("ce") or with soft labels by
a metric; "grown": as "ce", and grown images; "mixed": as "mbd", and grown images; "auto": "grown"
or "mbd", as a trial decides (`Spend`). Without own images: "pseudo", pseudo samples with their
answers (`Synthesis`), or "pseudo_mbd", with soft labels by distance."""
Strategy = Literal["rows", "together"]
Descents = Literal["sign_opt", "hop_skip_jump", "cgba_h", "ttba", "ars_opt"]
Subspaces = Literal["full", "dct", "bilinear", "sweep"]
Change = Literal[
    "shift", "rotate", "scale", "shear", "crop", "flip", "mix", "paste", "shade", "noise"
]
Stage = Literal[
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
Choice = Literal["random", "doubt", "disagreement"]
Kind = Literal["float32", "uint8", "png", "jpeg"]
Channels = Literal["same", "rgb", "bgr", "grey"]
Layout = Literal["chw", "hwc", "flat"]
Unknown = Literal["refuse", "other", "extend"]
Protocols = Literal["oip", "mlflow", "raw", "concepts", "template"]
Verb = Literal["POST", "PUT", "GET"]


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many queries may be spent: in all, and in each stage of a run.

    `queries`: the hard limit of the whole, None for no limit. `money`: likewise, in the currency of
    the teacher's price (`Price`). `stages`: limits of single stages by
    name ("answers", "grow", "rounds", "distances", "synthesis", "starts", "ascent", "copies",
    "evaluate"); a search together buys nearly all in "rounds", one row by row all in "distances".
    A limit counts what a trial buys in its stage of that kind, too, and what pseudo samples do.

    >>> Budget(queries=1000).queries
    1000
    """

    queries: Natural | None = None
    money: AtLeast0 | None = None
    stages: dict[Stage, Natural] = {}


def kind_of(stage: str) -> str:
    """The kind of a stage by its name on the books, wherever in a run it is.

    >>> kind_of("trial/grow"), kind_of("grow")
    ('grow', 'grow')
    """
    return stage.rpartition("/")[2]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a teacher's answers cost.

    `per_1000`: for a thousand images. `currency`: its name, which is only shown. `failed`: whether
    calls that fail are charged, too; those that are repeated then count as often as they are sent.

    >>> Price(per_1000=1.5, currency="EUR").failed
    False
    """

    per_1000: AtLeast0
    currency: str = ""
    failed: bool = False


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done about a teacher that does not always say the same, or changes (`docs/noisy.md`).

    `flips`: the share of answers that are wrong by chance. Each image is asked again until one
    class leads by so much that at most a share `error` of the answers stays wrong, `most` times at
    most; 0 asks once. `repeats`: the most that asking again may cost in all. `canaries`: a
    safetensors file with `images` and `answers`, as `db3kd.teachers.noisy.canaries` makes them;
    some are asked again once in `every` images, and the run stops where the teacher has changed.

    >>> Noise(flips=0.02).most
    9
    """

    flips: Flips = 0.0
    error: Annotated[float, msgspec.Meta(gt=0, lt=0.5)] = 1e-3
    most: Count = 9
    repeats: Natural | None = None
    canaries: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    every: Count = 10_000


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

    `strategy`, for a run's "mbd": "together", the default, searches all classes of a sample at once
    (`db3kd.amortised`) and spends at most `per_image` queries on it; SD comes with it, BD does not.
    There `surrogate` is the network that proposes, one of `db3kd.networks.NAMES`, or "auto" by the
    size of the images, or "none" for references alone; `members`: how many of them vote. "rows"
    searches each sample and class on its own, as the paper does. "sd" and "bd", and the functions
    of `db3kd.robustness`, are always row by row, whatever the strategy.

    `flips`: the share of wrong answers, of a teacher that does not always say the same
    (`docs/noisy.md`); row by row only.

    >>> Search().strategy, paper().strategy
    ('together', 'rows')
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
    strategy: Strategy = "together"
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

    `per_image`: answers for each own image. `changes`: how they are made; "shift", "rotate",
    "scale", "shear", "crop" and "flip" move pixels, "mix" and "paste" join two images, "shade" is
    light that varies smoothly, "noise" is pixel by pixel. A flip that the first round finds to
    change the class too often is left out of the others. `choose`: which are asked; "random", or
    those that "doubt" or "disagreement" of some students finds among `candidates` times as many, as
    many of each class that the students see. `rounds`: the students learn between them. `surrogate`
    and `members`: what and how many these students are, as in `Search`. `shard`: the most images
    that are made, asked and resumed together.

    >>> Grow(per_image=10).choose
    'doubt'
    """

    per_image: Natural = 30
    changes: tuple[Change, ...] = (
        "shift",
        "rotate",
        "scale",
        "shear",
        "flip",
        "mix",
        "shade",
    )
    choose: Choice = "doubt"
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
    the limit of its search for the nearest boundary point in one iteration. `anew`: every how many
    iterations that begins at the T starts; 1 is always, 0 at first only. `walk_steps`: steps of the
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
    anew: Natural = 8
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
    "anew": 1,
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
    `unasked`: so many more images are taken, as far as 2 GiB hold them, of which nobody is asked;
    what three wider students say of them together are soft labels. Without it, as many as make
    60,000 with those that are asked, by the ways "chosen" and "latent", in a recipe whose student
    is of the network `surrogate`; none for another student, which knows better than these.
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
    unasked: Natural | None = None
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


class Encoding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As what an image is sent to a remote teacher.

    `kind`: an array of "float32" or "uint8" numbers, or a "png" or "jpeg" file; all but "float32"
    have 256 grey levels. `quality`: of a JPEG, 1 to 100; colours keep their full resolution.
    `size`: (height, width) that the teacher wants, if it is another than that of the images; made
    by bilinear interpolation, antialiased where it is smaller. `channels`: "rgb", "bgr" or "grey"
    if the teacher wants others than the images have. `layout`, of an array: (channels, height,
    width) is "chw"; "hwc"; or all in one row, "flat", channel by channel.
    Of "float32" alone: the lowest value of a pixel is sent as 0 and the highest as `scale`; then
    `mean` is subtracted and the rest divided by `std`, one number for each channel that is sent,
    or one for all.

    >>> Encoding(kind="jpeg", quality=90, size=(224, 224)).channels
    'same'
    """

    kind: Kind = "png"
    quality: Annotated[int, msgspec.Meta(ge=1, le=100)] = 95
    size: tuple[Count, Count] | None = None
    channels: Channels = "same"
    layout: Layout = "chw"
    mean: tuple[float, ...] = ()
    std: tuple[Above0, ...] = ()
    scale: Above0 = 1.0


class Names(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a remote teacher calls its classes.

    `names`: class i is called names[i]; without names the teacher answers whole numbers. `unknown`:
    an answer that is no name is an error ("refuse"), or one class more, the last ("other"), or a
    new name, as long as there are fewer than classes ("extend"; names are learned in the order in
    which they are met). `synonyms`: other words for a name. `ignore_case`: "Cat" is "cat".

    >>> Names(names=("cat", "dog"), synonyms={"puppy": "dog"}).unknown
    'refuse'
    """

    names: tuple[str, ...] = ()
    unknown: Unknown = "refuse"
    synonyms: dict[str, str] = {}
    ignore_case: bool = False


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A teacher behind HTTP: where it is, how it is asked, and how much it may be asked.

    `url`: its address; "oip" and "mlflow" add their own path. `protocol`: "oip" is the Open
    Inference Protocol (KServe, Triton, MLServer), "mlflow" its scoring server, "raw" an image file
    as the body (TorchServe, Hugging Face), "concepts" nested JSON with codes of its own (Clarifai),
    "template" anything else. `model` and `version`: of "oip", and of "concepts" where the address
    does not name them. `input`, `output`: names of the model's tensors in "oip"; `output` is also
    that of "mlflow"; None if there is but one. `binary`: tensors of "oip" as bytes, not JSON.
    `path`: where in the answer the label is, as in "outputs[0].label"; in "mlflow", where in each
    prediction. `headers`: "${NAME}" in a value is replaced by that environment variable when a
    request is sent; secrets can be given in no other way. `body`: the template, in which "{image}"
    or "{images}" is replaced (`db3kd.teachers.remote.protocols.template`). `method`: of "raw" and
    "template".
    `encoding` and `names`: what images are sent as, and what classes are called. `batch`: images in
    a request, at most. `concurrency`: requests at a time. `timeout`: seconds that a request may
    take. `attempts`: how often an image is asked until it is given up. `per_second`, `per_minute`,
    `per_day`: the most requests, None for no limit. `patience`: seconds that the teacher may ask to
    be left alone; if it asks for more, the run stops. `plain_http`: allow http to another machine.
    `largest_reply`: bytes of an answer that are read, at most.

    >>> Remote(url="http://localhost:8080", protocol="oip", model="digits").batch
    64
    """

    url: str
    protocol: Protocols
    model: str | None = None
    version: str | None = None
    input: str = "input-0"
    output: str | None = None
    binary: bool = False
    path: str = ""
    headers: dict[str, str] = {}
    body: str | None = None
    method: Verb = "POST"
    encoding: Encoding = Encoding()
    names: Names = Names()
    batch: Count = 64
    concurrency: Count = 4
    timeout: Above0 = 30.0
    attempts: Count = 6
    per_second: Count | None = None
    per_minute: Count | None = None
    per_day: Count | None = None
    patience: AtLeast0 = 300.0
    plain_http: bool = False
    largest_reply: Count = 16 * 1024 * 1024


def at_once(search: Search) -> bool:
    """Whether a run searches all classes of an image at once.

    >>> at_once(Search()), at_once(Search(metric="bd")), at_once(paper())
    (True, False, False)
    """
    return search.metric == "mbd" and search.strategy == "together"


def metric_of(method: Method) -> Metric | None:
    """The metric whose soft labels a student of this method learns from; None where it has none.

    >>> metric_of("grown"), metric_of("mixed"), metric_of("sd")
    (None, 'mbd', 'sd')
    """
    match method:
        case "auto" | "ce" | "grown" | "pseudo" | "pseudo_mbd":
            return None
        case "mixed":
            return "mbd"
    return method


def is_grown(method: Method) -> bool:
    """Whether a student of this method learns from grown images too.

    >>> is_grown("mixed"), is_grown("mbd")
    (True, False)
    """
    return method in ("grown", "mixed")


def is_pseudo(method: Method) -> bool:
    """Whether a student of this method learns from pseudo samples, and from no own images.

    >>> is_pseudo("pseudo_mbd"), is_pseudo("grown")
    (True, False)
    """
    return method in ("pseudo", "pseudo_mbd")


def most_queries(search: Search, classes: int) -> int:
    """The most that a run's distances of one sample can cost, its own answer left aside.

    >>> most_queries(Search(), 10), most_queries(Search(strategy="rows"), 10)
    (300, 9000)
    """
    if search.metric == "sd":
        return 0
    if at_once(search):
        return search.per_image
    return (classes - 1) * search.queries


Record = TypeVar("Record", bound=msgspec.Struct)


def validated(record: Record) -> Record:
    """Return the record unchanged if every value has its type and range.

    Raises:
        InputError: names the field and what was expected.

    >>> validated(Training(epochs=0))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: Training: Expected `int` >= 1 - at `$.epochs`
    """
    try:
        msgspec.convert(msgspec.to_builtins(record), type(record))
    except msgspec.ValidationError as error:
        raise InputError(f"{type(record).__name__}: {error}") from None
    return record


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line for each setting that differs between two resolved configurations.

    >>> differences({"label": {"queries": 1000}}, {"label": {"queries": 2000}, "seed": 1})
    ['label.queries: 1000 -> 2000', 'seed: (absent) -> 1']
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def _leaves(values: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names and JSON texts."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{start}{key}.")
        else:
            yield start + key, json.dumps(value, sort_keys=True, ensure_ascii=False)
