"""The stages of a run, once: their names on the books, and how they are cut into shards."""

ANSWERS_SHARD = 4096  # images whose classes are asked for together
STAGES = (
    "answers",
    "trial/grow",
    "trial/distances",
    "grow",
    "rounds",
    "distances",
    "synthesis",
    "unasked",
    "starts",
    "ascent",
    "copies",
    "pseudo/rounds",
    "pseudo/distances",
    "evaluate",
)


def shards_of(samples: int, size: int) -> int:
    """How many shards of this size hold the samples.

    >>> shards_of(401, 200)
    3
    """
    return -(-samples // size)
