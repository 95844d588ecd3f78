"""Every record of settings is checked, and takes numbers as NumPy has them."""

from typing import Any

import numpy as np
import pytest

from db3kd.config.settings import Budget, Training
from db3kd.config.types import validated, whole
from db3kd.errors import InputError


def test_numbers_of_numpy_become_those_of_python() -> None:
    budget = validated(Budget(queries=np.int64(50), stages={"grow": np.int32(7)}))
    assert (type(budget.queries), budget) == (int, Budget(queries=50, stages={"grow": 7}))
    assert validated(Training(steps=np.uint8(3), weight=np.float32(0.5))).weight == 0.5
    assert type(whole(np.int64(3), "seed")) is int


def test_a_record_of_plain_values_stays_itself() -> None:
    training = Training(weight=1)
    assert validated(training) is training


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (Budget(queries=np.int64(-1)), "Budget: Expected `int` >= 0"),
        (Budget(queries=np.float32(5.5)), "Budget: Expected `int"),
        (Budget(queries=object()), "Budget: "),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_setting_is_refused(record: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        validated(record)
