"""The records of settings are the users' manual: each field is explained where it is defined."""

import re

import msgspec
import pytest

from db3kd.config import cluster, recipe, remote, settings

RECORDS = [
    record
    for module in (cluster, recipe, remote, settings)
    for record in vars(module).values()
    if isinstance(record, type) and issubclass(record, msgspec.Struct)
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_has_its_line(record: type[msgspec.Struct]) -> None:
    lines = re.findall(r"(?m)^    - (.*?):", record.__doc__ or "")
    explained = [name for line in lines for name in re.findall(r"`(\w+)`", line)]
    assert sorted(explained) == sorted(record.__struct_fields__)


def test_every_table_of_a_recipe_is_checked_here() -> None:
    assert len(set(RECORDS)) == 17
