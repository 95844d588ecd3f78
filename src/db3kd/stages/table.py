"""The stages of a run, a row for each: its name on the books, what it buys, how it is cut.

A stage is cut into shards. A shard is the unit of work, of randomness and of resuming. How many
there are, and what one can cost, follows from the settings in the journal. To add a stage, add a
row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from db3kd.config.settings import Search, most_queries
from db3kd.errors import Damaged

FIRST = "first"  # the part of a run that asks a few images before the others
ANSWERS_SHARD = 4096  # images in a shard of "answers" or "evaluate"

Settings = Mapping[str, Mapping[str, Any]]
"""What the journal holds of each stage that has begun, by its name on the books."""


def shards_of(samples: int, size: int) -> int:
    """How many shards of this size hold the samples.

    >>> shards_of(401, 200)
    3
    """
    return -(-samples // size)


@dataclass(frozen=True)
class Cut:
    """How a stage is cut: into `shards` of at most `size` samples, each at most `price` queries.

    >>> Cut(shards=3, size=200, price=30).most
    6000
    """

    shards: int
    size: int
    price: int

    @property
    def most(self) -> int:
        """The most queries that one shard can cost."""
        return self.size * self.price


def _one_each(name: str, settings: Settings) -> Cut:
    """For stages that ask every image once."""
    return Cut(shards_of(settings[name]["samples"], ANSWERS_SHARD), ANSWERS_SHARD, 1)


def _planned(name: str, settings: Settings) -> Cut:
    """For stages that record how many samples they have, in what shards and at what price."""
    mine = settings[name]
    return Cut(shards_of(mine["total"], mine["size"]), mine["size"], mine.get("price", 1))


def search_of(settings: Mapping[str, Any]) -> Search:
    """The search of distances that have begun; its `shard` is the size that was agreed.

    A folder notes a size where memory asked for a smaller one than the setting, and how many
    classes are searched where not all are.

    >>> search_of({"shard": 200, "size": 36}).shard, search_of({"shard": 200}).shard
    (36, 200)
    """
    known = {key: value for key, value in settings.items() if key not in ("size", "classes")}
    search = msgspec.convert(known, Search)
    return msgspec.structs.replace(search, shard=settings.get("size", search.shard))


def _distances(name: str, settings: Settings) -> Cut:
    """For the distances of all images whose answers are known, to all other classes."""
    answers = name.replace("distances", "answers")
    search = search_of(settings[name])
    price = most_queries(search, settings[name].get("classes", settings["run"]["classes"]))
    return Cut(shards_of(settings[answers]["samples"], search.shard), search.shard, price)


def _rounds(name: str, settings: Settings) -> Cut:
    """For the rounds of a joint search: every shard of the distances is there once in each."""
    search = search_of(settings[name.replace("rounds", "distances")])
    price = most_queries(search, settings["run"]["classes"])
    return Cut(settings[name]["rounds"] * settings[name]["shards"], search.shard, price)


@dataclass(frozen=True)
class Stage:
    """A row: `name` on the books, what it buys in `words`, and how it is `cut`."""

    name: str
    words: str
    cut: Callable[[str, Settings], Cut]

    def of(self, settings: Settings) -> Cut:
        """How a stage that has begun is cut.

        Raises:
            Damaged: the journal has lost the settings that this follows from.

        >>> stage("answers").of({"answers": {"samples": 5000}})
        Cut(shards=2, size=4096, price=1)
        """
        try:
            return self.cut(self.name, settings)
        except KeyError as error:
            missing = error.args[0]
            raise Damaged(
                f"the journal has lost the line that begins the stage {missing!r}"
            ) from error


STAGES = (
    Stage("first/answers", "the images' own answers", _one_each),
    Stage("answers", "the images' own answers", _one_each),
    Stage("audit/answers", "the images' own answers", _planned),
    Stage("trial/grow", "new images in the trial", _planned),
    Stage("trial/distances", "distances in the trial", _distances),
    Stage("trial/measured/rounds", "distances in the trial", _rounds),
    Stage("trial/measured/distances", "distances in the trial", _distances),
    Stage("sample/distances", "sample distances", _distances),
    Stage("grow", "new images", _planned),
    Stage("rounds", "distances", _rounds),
    Stage("distances", "distances", _distances),
    Stage("synthesis", "pseudo samples", _planned),
    Stage("unasked", "images labelled by an ensemble", _planned),
    Stage("starts", "noise of every class", _planned),
    Stage("ascent", "pseudo samples", _planned),
    Stage("copies", "copies of pseudo samples", _planned),
    Stage("pseudo/rounds", "distances of pseudo samples", _rounds),
    Stage("pseudo/distances", "distances of pseudo samples", _distances),
    Stage("first/evaluate", "test images", _one_each),
    Stage("evaluate", "test images", _one_each),
)
NAMES = tuple(row.name for row in STAGES)


def stage(name: str) -> Stage:
    """The row of a stage, by its name on the books.

    >>> stage("evaluate").words
    'test images'
    """
    return STAGES[NAMES.index(name)]
