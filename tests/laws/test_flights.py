"""Nothing is lost that anybody can have, nothing is paid twice, no budget is exceeded.

Each history is another course of things: one to four runs, local or remote, with money, with a
limit of calls a day, killed between any two steps. `DB3KD_HISTORIES` says how many the slow test
tries.
"""

import os
from pathlib import Path

import pytest
from flights import histories


def test_some_histories_of_kills(tmp_path: Path) -> None:
    kills = histories(tmp_path, range(80))
    assert {"tape", "transaction", "committed", "journal", "send", "reply", "ask"} <= set(kills)


@pytest.mark.slow
def test_many_histories_of_kills(tmp_path: Path) -> None:
    kills = histories(tmp_path, range(1000, 1000 + int(os.environ.get("DB3KD_HISTORIES", "5000"))))
    print(dict(kills))  # noqa: T201
