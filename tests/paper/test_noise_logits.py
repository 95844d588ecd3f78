from pathlib import Path

import pytest
import torch
from small_task import FEW, identical, score, task

from db3kd.errors import InputError
from db3kd.paper.baselines.noise_logits import (
    Reading,
    Settings,
    noise_activations,
    noise_logits,
    settings,
)

INFINITE = float("inf")


def measured() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    distance = torch.tensor([0.5, 1.0, 4.0])[torch.randint(3, (200, 6), generator=draw)]
    distance[::5, 2] = INFINITE
    labels = torch.arange(200) % 6
    return distance.scatter(1, labels[:, None], 0.0), labels


def noise(reading: Reading, seed: int = 0) -> torch.Tensor:
    """The distances behind the noise: a_n = (1 / r_n) / S^2 and a_m = 1 / S give r_n back."""
    distance, labels = measured()
    draw = torch.Generator().manual_seed(seed)
    activations = noise_activations(distance, labels, generator=draw, reading=reading)
    assert torch.equal(activations.argmax(dim=1), labels)
    own = activations.gather(1, labels[:, None])
    others = torch.arange(6)[None] != labels[:, None]
    return (own.square() / activations)[others]


def test_dealt_values_are_measured_ones() -> None:
    found = noise("dealt")
    near = (found[:, None] - torch.tensor([0.5, 1.0, 4.0])).abs()
    assert float(near.min(dim=1).values.max()) < 1e-4
    assert bool((near < 1e-4).any(dim=0).all())


def test_drawn_values_fill_the_range_of_the_measured_ones_evenly() -> None:
    found = noise("drawn")
    assert 0.5 - 1e-4 < float(found.min()) < 0.6
    assert 3.9 < float(found.max()) < 4 + 1e-4
    assert float(found.mean()) == pytest.approx(2.25, abs=0.1)
    assert not torch.equal(found, noise("drawn", seed=1))


def test_without_a_distance_there_is_nothing_to_draw_from() -> None:
    with pytest.raises(InputError, match="no distance above zero"):
        noise_activations(
            torch.full((2, 3), INFINITE), torch.tensor([0, 1]), generator=torch.Generator()
        )


@pytest.mark.parametrize("reading", ["drawn", "dealt"])
def test_a_student_learns_the_labels_in_spite_of_it(tmp_path: Path, reading: Reading) -> None:
    open_task = task(tmp_path / "once")
    draw = torch.Generator().manual_seed(1)
    distance = 1 + torch.rand(len(open_task.known), 10, generator=draw)
    labels = open_task.known.labels
    assert settings("mnist", "full").reading == "drawn"
    assert score(noise_logits(open_task, distance, labels, Settings(reading))) > 0.4


def test_the_two_readings_differ_and_each_is_the_same_again(tmp_path: Path) -> None:
    labels = task(tmp_path).known.labels
    distance = 1 + torch.rand(len(labels), 10, generator=torch.Generator().manual_seed(1))
    drawn, again, dealt = (
        noise_logits(task(tmp_path / name, FEW), distance, labels, Settings(reading))
        for name, reading in (("first", "drawn"), ("again", "drawn"), ("dealt", "dealt"))
    )
    assert identical(drawn, again)
    assert not identical(drawn, dealt)
