"""The stages of a run, every one once: its name on the books, what it buys, how it is cut.

A stage is cut into shards, the unit of work, of randomness and of resume. How many there are, and
what one can cost, follows from the settings that the journal holds. Adding a stage is adding a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from db3kd.config.settings import Search, most_queries
from db3kd.errors import Damaged

ANSWERS_SHARD = 4096  # images whose classes are asked for together

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
    """How a stage is cut: so many shards, each of at most `size` samples at `price` queries each.

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
    """Every image is asked once."""
    return Cut(shards_of(settings[name]["samples"], ANSWERS_SHARD), ANSWERS_SHARD, 1)


def _planned(name: str, settings: Settings) -> Cut:
    """The stage itself has said how many, in which shards and at what price."""
    mine = settings[name]
    return Cut(shards_of(mine["total"], mine["size"]), mine["size"], mine.get("price", 1))


def _distances(name: str, settings: Settings) -> Cut:
    """The images whose answers are known, each with all other classes."""
    answers = name.replace("distances", "answers")
    search = msgspec.convert(settings[name], Search)
    price = most_queries(search, settings["run"]["classes"])
    return Cut(shards_of(settings[answers]["samples"], search.shard), search.shard, price)


def _rounds(name: str, settings: Settings) -> Cut:
    """A shard of the distances, once in every round."""
    search = msgspec.convert(settings[name.replace("rounds", "distances")], Search)
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
            Damaged: the journal has lost what this stage is cut by.

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
    Stage("answers", "the images' own answers", _one_each),
    Stage("trial/grow", "new images on trial", _planned),
    Stage("trial/distances", "distances on trial", _distances),
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
    Stage("evaluate", "test images", _one_each),
)
NAMES = tuple(row.name for row in STAGES)


def stage(name: str) -> Stage:
    """The row of a stage, by its name on the books.

    >>> stage("evaluate").words
    'test images'
    """
    return STAGES[NAMES.index(name)]
