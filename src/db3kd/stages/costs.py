"""What a run has cost: queries and time."""

from collections.abc import Mapping
from dataclasses import dataclass

from db3kd.config.settings import kind_of
from db3kd.stages.distances import surrogate_seconds
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json
from db3kd.storage.journal import Journal


@dataclass(frozen=True)
class Price:
    """How many queries labels cost, and how many seconds they took.

    >>> Price(300, 1.5) + Price(100, 0.5)
    Price(queries=400, seconds=2.0)
    """

    queries: int
    seconds: float

    def __add__(self, other: "Price") -> "Price":
        return Price(self.queries + other.queries, self.seconds + other.seconds)


@dataclass(frozen=True)
class Costs:
    """What a run has cost so far; made by `Run.costs`, for no query.

    `by_stage`: queries, by the name of the stage on the books.
    """

    journal: Journal
    by_stage: Mapping[str, int]
    fit_seconds: float

    @classmethod
    def of(cls, workspace: Workspace) -> "Costs":
        """The costs of a run so far."""
        places = (workspace, workspace.within("trial").within("measured"))
        seconds = sum(map(surrogate_seconds, places))
        return cls(workspace.journal, dict(workspace.meter.by_stage), seconds)

    def stages(self, *beginnings: str) -> Price:
        """The price of all stages whose names begin with one of these."""
        shards = [r for r in self.journal.all("shard") if r["stage"].startswith(beginnings)]
        queries = [n for stage, n in self.by_stage.items() if stage.startswith(beginnings)]
        return Price(sum(queries), sum(float(record["wall_s"]) for record in shards))

    @property
    def labels(self) -> Price:
        """The price of everything but the test images, surrogates and trials included."""
        shards = [r for r in self.journal.all("shard") if kind_of(r["stage"]) != "evaluate"]
        judged = (*self.journal.all("decision"), *self.journal.all("selection"))
        seconds = sum(float(record["wall_s"]) for record in (*shards, *judged))
        queries = sum(n for stage, n in self.by_stage.items() if kind_of(stage) != "evaluate")
        return Price(queries, seconds + self.fit_seconds)

    def training_seconds(self, name: str, seed: int) -> float:
        """How long the last student of this name and seed was trained; 0 if there is none."""
        return float(self._student(name, seed).get("seconds", 0.0))

    def student_file(self, name: str, seed: int) -> str:
        """The file, in the folder of the run, of the last student of this name and seed."""
        return str(self._student(name, seed).get("file", ""))

    def _student(self, name: str, seed: int) -> Json:
        found = [r for r in self.journal.all("student") if (r["name"], r["seed"]) == (name, seed)]
        return found[-1] if found else {}
