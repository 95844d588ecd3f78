"""What the folder of a run says of it, as far as anybody wrote it down; nothing is asked."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from db3kd.config.settings import kind_of
from db3kd.errors import Damaged, InputError
from db3kd.stages.accounts import classes_of_run, finished, status
from db3kd.storage.files import Json
from db3kd.storage.journal import Journal
from db3kd.storage.shards import read_shard
from db3kd.student.files import read_tensors

GALLERY = "gallery.safetensors"
COLUMN = {"answers": "own", "evaluate": "own"}  # where a shard keeps classes, else "called"


@dataclass(frozen=True)
class Records:
    """The records of one run; `faults` says in words which of its files could not be read.

    >>> Records.of(Path("no-such-folder"))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: there is no run in no-such-folder
    """

    folder: Path
    status: Json
    summary: Json
    journal: Journal
    faults: list[str] = field(default_factory=list)
    audit: Json = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Records":
        """The records in a folder; another process may work there.

        Raises:
            InputError, Damaged, RunError: as `status`.
        """
        found, faults = status(folder), list[str]()
        summary, audit = (_plain(folder / name, faults) for name in ("summary.json", "audit.json"))
        journal = Journal(folder / "journal.jsonl", read_only=True)
        return cls(folder, found, summary, journal, faults, audit)

    @property
    def told(self) -> Json:
        """What the run says of itself at its end, or an audit of itself."""
        return self.summary or self.audit

    @property
    def classes(self) -> int:
        """How many classes the teacher has."""
        return int(self.status["configuration"]["run"]["classes"])

    @cached_property
    def met(self) -> list[str] | None:
        """The names of the classes that were found; None where they were known beforehand."""
        return classes_of_run(self.journal) or None

    @property
    def known(self) -> int:
        """How many classes there are, as far as anybody knows."""
        return self.classes if self.met is None else len(self.met)

    @property
    def names(self) -> list[str]:
        """The names of the classes; numbers where nobody knows them.

        Where classes are found, the places that no class has taken are numbers, too.
        """
        if self.met is not None:
            rest = [str(k) for k in range(len(self.met), self.classes - 1)]
            return [*self.met, *rest, "(unknown)"]
        known = [str(name) for name in self.told.get("class_names") or ()][: self.classes]
        return known + [str(k) for k in range(len(known), self.classes)]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value of a pixel."""
        low, high = self.status["configuration"]["run"]["bounds"]
        return float(low), float(high)

    @cached_property
    def evaluations(self) -> dict[tuple[str, int], Json]:
        """The last figures of each student, by name and seed: those of the summary if it has any.

        A student that a recipe does not name any more is left out.
        """
        found = {(r["name"], int(r["seed"])): r for r in self.journal.all("evaluation")}
        methods = self.summary.get("methods")
        if not methods:
            return found
        wanted = [(name, seed) for name, row in methods.items() for seed in row["seeds"]]
        return {key: found[key] for key in wanted if key in found}

    @cached_property
    def students(self) -> dict[tuple[str, int], Json]:
        """The last training of each student, by name and seed."""
        return {(r["name"], int(r["seed"])): r for r in self.journal.all("student")}

    @property
    def best(self) -> str | None:
        """The method whose students agree with the teacher most, in the mean over seeds."""
        shares: dict[str, list[float]] = {}
        for (name, _), record in self.evaluations.items():
            shares.setdefault(name, []).append(record["agreement"])
        return max(shares, key=lambda name: sum(shares[name]) / len(shares[name]), default=None)

    @cached_property
    def moments(self) -> list[tuple[float, int, str]]:
        """Seconds of work, queries spent, and stage, at the end of every shard.

        The time between two processes does not count as work.
        """
        at, spent, last = 0.0, 0, None
        found: list[tuple[float, int, str]] = []
        for record in self.journal.records:
            now = float(record["time"])
            if last is not None and record["kind"] != "opened":
                at += max(0.0, now - last)
            last = now
            if record["kind"] == "shard":
                spent += record["queries"]
                found.append((at, spent, record["stage"]))
        return found

    @cached_property
    def seconds(self) -> float:
        """Seconds of work from the first record to the last."""
        times = [(float(r["time"]), r["kind"]) for r in self.journal.records]
        return sum(
            max(0.0, now - was) for (was, _), (now, kind) in pairwise(times) if kind != "opened"
        )

    # What shards hold

    def shard(self, record: Json) -> dict[str, Tensor]:
        """The tensors of a file that a record names; none, and a fault, if it is damaged."""
        try:
            return read_shard(self.folder / record["file"], record["sha256"])
        except Damaged as error:
            return self._faulty(error)

    def called(self, stage: str) -> Tensor:
        """Which classes the teacher gave in the finished shards of a stage."""
        column = COLUMN.get(kind_of(stage), "called")
        parts = [self.shard(r) for _, r in sorted(finished(self.journal, stage).items())]
        none = [torch.zeros(0, dtype=torch.int64)]
        return torch.cat(none + [part[column].long() for part in parts if column in part])

    @cached_property
    def answers(self) -> Tensor:
        """What the teacher called the test images."""
        return self.called("evaluate")

    def predictions(self, name: str) -> dict[int, Tensor]:
        """What the students of a method call the test images, by seed, where that was kept."""
        found = {}
        for (method, seed), record in self.evaluations.items():
            if method == name and "predictions" in record:
                mine = self.shard(record["predictions"]).get("student")
                if mine is not None and len(mine) == len(self.answers):
                    found[seed] = mine.long()
        return found

    @cached_property
    def confusion(self) -> Tensor | None:
        """Test images by the teacher's class (row) and the best students' (column), all seeds."""
        mine = self.predictions(self.best) if self.best is not None else {}
        if not mine:
            return None
        known = self.answers >= 0
        pairs = [self.answers[known] * self.classes + some[known] for some in mine.values()]
        counts = torch.bincount(torch.cat(pairs), minlength=self.classes**2)
        return counts.reshape(self.classes, self.classes)

    @cached_property
    def nearest(self) -> list[dict[str, Tensor]]:
        """Images beside their nearest points; an item for each file."""
        found = [r["nearest"] for r in self._distance_shards.values() if "nearest" in r]
        return [part for part in map(self.shard, found) if part]

    @cached_property
    def gallery(self) -> tuple[dict[str, Tensor], Json]:
        """The small images that were kept at the end of the run, and words on them."""
        try:
            return read_tensors(self.folder / GALLERY)
        except InputError:
            return {}, {}
        except Damaged as error:
            return self._faulty(error), {}

    # Distances

    @cached_property
    def distance_stage(self) -> str | None:
        """The stage whose distances are shown, if any were measured."""
        names = ("distances", "pseudo/distances", "trial/distances")
        return next((name for name in names if finished(self.journal, name)), None)

    @property
    def _distance_shards(self) -> dict[int, Json]:
        stage = self.distance_stage
        return {} if stage is None else dict(sorted(finished(self.journal, stage).items()))

    def each_distance_shard(self, take: Callable[[dict[str, Tensor]], None]) -> None:
        """Show every shard of distances to `take`, one in memory at a time."""
        for record in self._distance_shards.values():
            part = self.shard(record)
            if part:
                take(part)

    @property
    def statuses(self) -> dict[str, int]:
        """How many rows of all searches ended how."""
        found: dict[str, int] = {}
        for name in ("distances", "pseudo/distances", "trial/distances", "ascent"):
            for record in finished(self.journal, name).values():
                for word, count in (record.get("statuses") or record.get("endings") or {}).items():
                    found[word] = found.get(word, 0) + count
        return found

    def _faulty(self, error: Damaged) -> dict[str, Tensor]:
        if str(error) not in self.faults:
            self.faults.append(str(error))
        return {}


def _plain(file: Path, faults: list[str]) -> Json:
    """The table of a JSON file; nothing where there is none, and a fault if it cannot be read."""
    try:
        found = json.loads(file.read_bytes())
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{file.name} cannot be read ({error})")
        return {}
