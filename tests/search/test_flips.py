"""Searches that are told of flips: the rows' accounts, neighbours, and the distances."""

import pytest
import torch
from torch import Tensor

from closed_form import WIDE, as_references, half_space
from db3kd.config.settings import Search
from db3kd.search.robustness import References
from db3kd.search.rows import measure
from db3kd.teachers import function
from db3kd.teachers.base import Teacher
from db3kd.teachers.meter import Meter


def world() -> tuple[Tensor, Tensor, References, Tensor]:
    draw = torch.Generator().manual_seed(5)
    images = torch.randn(30, 1, 4, 4, generator=draw)
    starts = torch.randn(40, 1, 4, 4, generator=draw)
    normal = torch.zeros(16)
    normal[0] = 1.0
    teacher = half_space(normal, 0.0)
    return (
        images,
        teacher.labels(images),
        as_references(teacher, starts * 2),
        images.flatten(1)[:, 0].abs(),
    )


def flipping(flips: float) -> Teacher:
    draw = torch.Generator().manual_seed(1)

    def ask(images: Tensor) -> Tensor:
        return (images.flatten(1)[:, 0] > 0) ^ (torch.rand(len(images), generator=draw) < flips)

    return function(ask, classes=2, bounds=WIDE)


def found(flips: float, told: float, queries: int = 600) -> tuple[Tensor, Meter, Tensor]:
    images, own, references, truth = world()
    meter = Meter(flipping(flips))
    search = Search(queries=queries, flips=told)
    mbd = measure(meter, images, own, references, search, noise_seed=0)["mbd"]
    assert int(mbd.queries.sum()) == meter.spent
    assert int(mbd.queries.max()) <= queries
    distance = mbd.distance[torch.arange(30), 1 - own]
    return (distance / truth).log().abs(), meter, distance


@pytest.mark.parametrize("flips", [0.05, 0.1])
def test_a_search_that_knows_of_flips_is_closer(flips: float) -> None:
    assert found(flips, flips)[0].mean() < found(flips, 0.0)[0].mean() / 2


@pytest.mark.parametrize("queries", [1, 3, 10, 50])
def test_accounts_add_up_at_any_limit(queries: int) -> None:
    found(0.1, 0.1, queries)


def test_a_steady_teacher_loses_little_by_it() -> None:
    assert found(0.0, 0.05)[0].mean() < 0.01
