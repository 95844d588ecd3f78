"""One seed from several words, so that whatever is random has a stream of its own."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """One seed of 63 bits from several parts; nearby parts give unrelated streams.

    The parts are words such as the run's seed, the stage and the shard, never a place in the code,
    so that moving code changes no draw.

    >>> derive_seed(0, 1) != derive_seed(1, 0)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
