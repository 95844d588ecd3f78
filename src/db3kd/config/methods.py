"""What a student can learn from: every method, with what it needs and therefore what is bought."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Metric = Literal["sd", "bd", "mbd"]
"""Distances to the teacher's boundary (Eq. 2, 3 and 5); a search also finds those before it."""
Use = Literal["ce", "grown", "mbd"]
"""What a trial can choose: the answers of the own images alone, new images, or distances."""
Method = Literal["auto", "ce", "sd", "bd", "mbd", "grown", "mixed", "pseudo", "pseudo_mbd"]


@dataclass(frozen=True)
class Needs:
    """What a method needs.

    - `own_images`: the user's own images with their answers.
    - `trial`: a trial that decides what else is bought.
    - `grown`: new images made from the own ones.
    - `metric`: soft labels from distances of this metric.
    - `pseudo`: pseudo samples, made without any data.

    >>> METHODS["mixed"]
    Needs(own_images=True, trial=False, grown=True, metric='mbd', pseudo=False)
    """

    own_images: bool = True
    trial: bool = False
    grown: bool = False
    metric: Metric | None = None
    pseudo: bool = False


METHODS: Mapping[Method, Needs] = {
    "auto": Needs(trial=True),
    "ce": Needs(),
    "sd": Needs(metric="sd"),
    "bd": Needs(metric="bd"),
    "mbd": Needs(metric="mbd"),
    "grown": Needs(grown=True),
    "mixed": Needs(grown=True, metric="mbd"),
    "pseudo": Needs(own_images=False, pseudo=True),
    "pseudo_mbd": Needs(own_images=False, pseudo=True, metric="mbd"),
}
"""To add a method, add a row here and its name to `Method`."""


def needed(methods: Iterable[Method]) -> Needs:
    """What several methods need together; of their metrics it is the last one in `Metric`.

    >>> needed(["ce", "sd", "bd"]).metric, needed(["ce"]).metric
    ('bd', None)
    >>> needed(["grown", "mbd"]).grown
    True
    """
    rows = [METHODS[method] for method in methods]
    order: tuple[Metric, ...] = get_args(Metric)
    metrics = [row.metric for row in rows if row.metric is not None]
    return Needs(
        own_images=any(row.own_images for row in rows),
        trial=any(row.trial for row in rows),
        grown=any(row.grown for row in rows),
        metric=max(metrics, key=order.index, default=None),
        pseudo=any(row.pseudo for row in rows),
    )
