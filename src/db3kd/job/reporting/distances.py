"""Distances of a run for a reader: how far, between which classes, and by how many queries."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from db3kd.job.reporting.records import Records
from db3kd.search.rows import METRICS
from db3kd.stages.accounts import finished

PLACES = 200  # of a curve of shares


@dataclass
class Distances:
    """What one metric found, added up over shards.

    `between[a, b]` is the mean distance of images of class `a` to the boundary of class `b`, as in
    Fig. 5 of the paper; NaN where no row has one.

    >>> found = Distances(2)
    >>> found.add(torch.tensor([0, 1]), torch.tensor([[0.0, 3.0], [1.0, 0.0]]), torch.zeros(2, 2))
    >>> found.between[0, 1].item(), found.mean, found.shares()
    (3.0, 2.0, ([1.0, 3.0], [0.5, 1.0]))
    """

    classes: int
    total: Tensor = field(init=False)
    count: Tensor = field(init=False)
    nearest: list[Tensor] = field(default_factory=list)
    queries: int = 0

    def __post_init__(self) -> None:
        self.total = torch.zeros(self.classes, self.classes, dtype=torch.float64)
        self.count = torch.zeros(self.classes, self.classes, dtype=torch.float64)

    def add(self, own: Tensor, distance: Tensor, queries: Tensor) -> None:
        """Take in the rows of a shard: own classes, and distances and queries by class."""
        own, apart = own.long(), distance.double().clone()
        apart[torch.arange(len(own)), own] = torch.inf
        known = apart.isfinite()
        self.total.index_add_(0, own, torch.where(known, apart, 0.0))
        self.count.index_add_(0, own, known.double())
        nearest = apart.amin(dim=1)
        self.nearest.append(nearest[nearest.isfinite()])
        self.queries += int(queries.sum())

    @property
    def between(self) -> Tensor:
        """Mean distances between classes."""
        return self.total / self.count

    @property
    def mean(self) -> float | None:
        """The mean over all rows that have a distance."""
        return float(self.total.sum() / self.count.sum()) if bool(self.count.any()) else None

    def shares(self) -> tuple[list[float], list[float]]:
        """Distances to the nearest other class, ascending, and the share of images up to each."""
        whole = torch.cat(self.nearest).sort().values
        if not len(whole):
            return [], []
        at = torch.linspace(0, len(whole) - 1, min(len(whole), PLACES)).long()
        return whole[at].tolist(), ((at + 1) / len(whole)).tolist()


def distances_of(records: Records) -> dict[str, Distances]:
    """The distances of every metric that was measured, from finished shards."""
    found: dict[str, Distances] = {}

    def take(part: dict[str, Tensor]) -> None:
        for metric in METRICS:
            if f"{metric}.distance" in part:
                mine = found.setdefault(metric, Distances(records.classes))
                mine.add(part["own"], part[f"{metric}.distance"], part[f"{metric}.queries"])

    records.each_distance_shard(take)
    return found


def by_queries(records: Records, metric: str) -> list[tuple[float, float]]:
    """Mean distance by the queries of an image: at each checkpoint, or after each round."""
    name = records.distance_stage
    if name is None:
        return []
    settings = records.status["configuration"]
    checkpoints = settings[name].get("checkpoints") or []
    return _of_checkpoints(records, metric, checkpoints) or _of_rounds(records, name)


def _of_checkpoints(
    records: Records, metric: str, checkpoints: list[int]
) -> list[tuple[float, float]]:
    """At each checkpoint, which counts the queries of one image and class."""
    total = torch.zeros(len(checkpoints), dtype=torch.float64)
    count = total.clone()

    def take(part: dict[str, Tensor]) -> None:
        curve = part.get(f"{metric}.curve")
        if curve is None or curve.shape[2] != len(checkpoints):
            return
        apart = curve.double().clone()
        apart[torch.arange(len(apart)), part["own"].long()] = torch.inf
        known = apart.isfinite()
        total.add_(torch.where(known, apart, 0.0).sum((0, 1)))
        count.add_(known.sum((0, 1)))

    if checkpoints:
        records.each_distance_shard(take)
    stage = records.status["configuration"].get(records.distance_stage, {})
    each = stage.get("classes", records.classes) - 1
    means = (total / count).tolist()
    pairs = zip(checkpoints, means, count.tolist(), strict=True)
    return [(float(place * each), mean) for place, mean, many in pairs if many]


def _of_rounds(records: Records, stage: str) -> list[tuple[float, float]]:
    """After each round of a joint search, over the images that took part."""
    name = stage.replace("distances", "rounds")
    done = finished(records.journal, name)
    settings = records.status["configuration"].get(name, {})
    sums: dict[int, list[float]] = {}
    for unit, record in sorted(done.items()):
        part = records.shard(record)
        if not part:
            continue
        apart = part["distance"].double()
        known = apart.isfinite() & (apart > 0)
        mine = sums.setdefault(unit // max(1, settings.get("shards", 1)), [0.0, 0.0, 0.0, 0.0])
        mine[0] += float(torch.where(known, apart, 0.0).sum())
        mine[1] += float(known.sum())
        mine[2] += float(part["spent"].sum())
        mine[3] += len(apart)
    return [(spent / many, apart / known) for apart, known, spent, many in sums.values() if known]
