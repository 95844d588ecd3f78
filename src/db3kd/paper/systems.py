"""Every system of the paper's tables: what it may see, what it costs, and how it teaches.

db3kd's own rows come through `Run` alone. The systems that the paper compares with are in
`baselines`, one file each, by their own papers' algorithms.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from db3kd.config.settings import Search, Synthesis
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.baselines import (
    bbkd,
    born_again,
    dafl,
    dfkd,
    few_sample,
    meta_kd,
    noise_input,
    noise_logits,
    sskd,
    standard_kd,
    surrogate_kd,
    teacher_free,
    zskd,
)
from db3kd.paper.bench import Bench
from db3kd.paper.task import Scale, Task
from db3kd.student.batches import resident

Taught = tuple[nn.Module, int]
"""A student, and how many queries its system asked the teacher."""
Data = Literal["yes", "few", "meta", "no"]
Model = Literal["White", "Black-S", "Black-D", "-"]


@dataclass(frozen=True)
class System:
    """A row of a table.

    - `label`: what the paper's tables call it.
    - `data`, `model`: what it may see of the training images and of the teacher, as in Table 3.
    - `effort`: how long a cell takes, in tenths of the training of a student; the order matters.
    - `settings(data, scale)`: what the system does on a data set at a scale.
    - `teach(bench, task, settings)`: teaches a student.
    """

    label: str
    data: Data
    model: Model
    effort: int
    settings: Callable[[str, Scale], Any]
    teach: Callable[[Bench, Task, Any], Taught]


def nothing(data: str, scale: Scale) -> None:
    """The settings of a system that has none of its own."""
    del data, scale


def _trained(task: Task, samples: TransferSet) -> nn.Module:
    """The student of a task after samples, by the training of the scale."""
    samples = replace(samples, images=resident(samples.images))
    return task.taught("student", task.student(task.seed), samples)


def _teacher(bench: Bench, task: Task, settings: None) -> Taught:
    del settings
    if task.seed == 0:
        return bench.teacher, 0
    made = bench.network(bench.setup.teacher, seed=task.seed)
    return task.taught("teacher", made, bench.known, bench.size.lesson), 0


def _cross_entropy(bench: Bench, task: Task, settings: None) -> Taught:
    del bench, settings
    return _trained(task, task.known), 0


def _standard_kd(bench: Bench, task: Task, settings: standard_kd.Settings) -> Taught:
    return standard_kd.standard_kd(task, bench.scores(), settings), len(task.known)


def _noise_logits(bench: Bench, task: Task, settings: noise_logits.Settings) -> Taught:
    found, _, _ = bench.measured("sd", bench.size.search("sd"))
    taught = noise_logits.noise_logits(task, found.distance, found.teacher_labels, settings)
    return taught, len(task.known)


def _measured(name: str) -> Callable[[Bench, Task, None], Taught]:
    """DB3KD by one metric, row by row as in the paper, or by the joint search."""

    def teach(bench: Bench, task: Task, settings: None) -> Taught:
        del settings
        joint = Search(per_image=bench.size.per_image, surrogate=bench.size.surrogate)
        search = joint if name == "joint" else bench.size.search(name)
        _, soft, spent = bench.measured(name, search)
        return _trained(task, task.known.with_soft(soft)), spent

    return teach


def _ascended(bench: Bench, task: Task, settings: None) -> Taught:
    """ZSDB3KD: noise that is pushed away from the boundary."""
    del settings
    return _pseudo(bench, task, Synthesis(way="ascent", ascent=bench.size.ascent))


def _chosen(bench: Bench, task: Task, settings: Synthesis) -> Taught:
    """db3kd's own way without data."""
    return _pseudo(bench, task, settings)


def _pseudo(bench: Bench, task: Task, settings: Synthesis) -> Taught:
    with bench.run(settings.way) as run:
        samples = run.synthesize(bench.known.images.shape, settings)
        return _trained(task, samples), run.meter.spent


def chosen(data: str, scale: Scale) -> Synthesis:
    """How db3kd makes pseudo samples by default, with 25,000 queries.

    >>> chosen("mnist", "cpu").queries, chosen("mnist", "smoke").queries
    (25000, 60)
    """
    del data
    few = Synthesis(queries=60, way="shapes")  # students that choose take many steps
    return few if scale == "smoke" else Synthesis(queries=25_000)


def _noise_labels(bench: Bench, task: Task, settings: noise_input.Settings) -> Taught:
    count = settings.images or len(task.known)
    return noise_input.noise_input_labels(task, bench.labels, settings), count


def _noise_scores(bench: Bench, task: Task, settings: noise_input.Settings) -> Taught:
    count = settings.images or len(task.known)
    return noise_input.noise_input_scores(task, bench.scores(), settings), count


def _alone(teach: Callable[[Task, Any], nn.Module]) -> Callable[[Bench, Task, Any], Taught]:
    """A system without a teacher."""
    return lambda bench, task, settings: (teach(task, settings), 0)


def _open(teach: Callable[..., nn.Module]) -> Callable[[Bench, Task, Any], Taught]:
    """A system that sees the whole network of the teacher, and asks nothing."""
    return lambda bench, task, settings: (teach(task, bench.open(), settings), 0)


def _bbkd(bench: Bench, task: Task, settings: bbkd.Settings) -> Taught:
    return bbkd.bbkd(task, bench.scores(), settings), settings.queries


SYSTEMS: Mapping[str, System] = {
    "teacher": System("Teacher CE", "yes", "White", 30, nothing, _teacher),
    "ce": System("Student CE", "yes", "White", 10, nothing, _cross_entropy),
    "kd": System("Standard KD", "yes", "Black-S", 10, standard_kd.settings, _standard_kd),
    "surrogate": System(
        "Surrogate KD", "yes", "-", 20, surrogate_kd.settings, _alone(surrogate_kd.surrogate_kd)
    ),
    "noise_logits": System(
        "Noise logits", "yes", "Black-D", 15, noise_logits.settings, _noise_logits
    ),
    "sd": System("DB3KD-SD", "yes", "Black-D", 16, nothing, _measured("sd")),
    "bd": System("DB3KD-BD", "yes", "Black-D", 200, nothing, _measured("bd")),
    "mbd": System("DB3KD-MBD", "yes", "Black-D", 2000, nothing, _measured("mbd")),
    "joint": System("MBD by joint search", "yes", "Black-D", 300, nothing, _measured("joint")),
    "ban": System("BAN", "yes", "-", 40, born_again.settings, _alone(born_again.born_again)),
    "tf_self": System(
        "TF-KD, self", "yes", "-", 20, teacher_free.settings, _alone(teacher_free.teacher_free_self)
    ),
    "tf_reg": System(
        "TF-KD, regularised", "yes", "-", 10, teacher_free.settings,
        _alone(teacher_free.teacher_free_regularised),
    ),
    "sskd": System("SSKD", "yes", "White", 60, sskd.settings, _open(sskd.sskd)),
    "fskd": System("FSKD", "few", "White", 80, few_sample.settings, _open(few_sample.few_sample)),
    "bbkd": System("BBKD", "few", "Black-S", 90, bbkd.settings, _bbkd),
    "meta_kd": System("Meta KD", "meta", "White", 100, meta_kd.settings, _open(meta_kd.meta_kd)),
    "dafl": System("DAFL", "no", "White", 150, dafl.settings, _open(dafl.dafl)),
    "zskd": System("ZSKD", "no", "White", 120, zskd.settings, _open(zskd.zskd)),
    "dfkd": System("DFKD", "no", "White", 120, dfkd.settings, _open(dfkd.dfkd)),
    "noise_scores": System(
        "Noise input, scores", "no", "Black-S", 12, noise_input.settings, _noise_scores
    ),
    "noise_labels": System(
        "Noise input, labels", "no", "Black-D", 11, noise_input.settings, _noise_labels
    ),
    "zsdb3kd": System("ZSDB3KD", "no", "Black-D", 250, nothing, _ascended),
    "chosen": System("db3kd's own way", "no", "Black-D", 90, chosen, _chosen),
}  # fmt: skip
"""The systems by the name that `db3kd reproduce --only` and the files of cells give them."""
