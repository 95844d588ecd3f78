"""How many calls a teacher takes in a second, a minute or a day."""

import sqlite3

import pyrate_limiter

from db3kd.config.remote import Remote
from db3kd.errors import InputError


def limiter(settings: Remote, file: str | None) -> pyrate_limiter.Limiter | None:
    """The limits of the settings, or None if they have none.

    `file`: where calls are counted, so that a limit a day outlives the process.

    Raises:
        InputError: the file is not a file of limits.

    >>> limiter(Remote(url="http://localhost", protocol="mlflow"), None) is None
    True
    """
    spans = pyrate_limiter.Duration
    wanted = (
        (settings.per_second, spans.SECOND),
        (settings.per_minute, spans.MINUTE),
        (settings.per_day, spans.DAY),
    )
    rates = of_use([(most, int(span)) for most, span in wanted if most is not None])
    if not rates:
        return None
    made = [pyrate_limiter.Rate(most, span) for most, span in rates]
    if file is None:
        return pyrate_limiter.Limiter(made)
    try:
        bucket = pyrate_limiter.SQLiteBucket.init_from_file(made, db_path=file)
    except sqlite3.Error as error:
        raise InputError(f"{file} is not a file of limits ({error}); remove it") from None
    return pyrate_limiter.Limiter(bucket)


def of_use(rates: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The limits (calls, in milliseconds) that no other limit implies.

    >>> of_use([(10, 1000), (1000, 60_000)]), of_use([(5, 60_000), (5, 86_400_000)])
    ([(10, 1000)], [(5, 86400000)])
    """
    return [
        (most, span)
        for most, span in rates
        if not any(
            (longer > span and fewer <= most) or (longer < span and fewer * span <= most * longer)
            for fewer, longer in rates
        )
    ]
