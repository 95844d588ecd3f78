from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from small_task import FEW, SHORT, identical, student, task, teacher

from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.noise_input import (
    Settings,
    noise_images,
    noise_input_labels,
    noise_input_scores,
    settings,
)
from db3kd.student import agreement, predict
from db3kd.teachers import function


def halves(images: torch.Tensor) -> torch.Tensor:
    """Scores that tell which half of an image is brighter, upper or lower."""
    upper, lower = images[:, 0, :4].mean((1, 2)), images[:, 0, 4:].mean((1, 2))
    others = torch.full((len(images), 8), -6.0)
    return torch.cat([100 * torch.stack([upper - lower, lower - upper], dim=1), others], dim=1)


class Halves(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return halves(images)


def test_images_are_uniform_as_many_as_the_samples_and_always_the_same(tmp_path: Path) -> None:
    images = noise_images(task(tmp_path), settings("mnist", "full"))
    assert len(images) == 240
    assert images.shape == (1, 8, 8)
    assert images.eight_bit
    pixels = images.read(torch.arange(240))
    assert float(pixels.mean()) == pytest.approx(1 / 2, abs=0.01)
    assert float(pixels.var()) == pytest.approx(1 / 12, abs=0.003)
    assert torch.equal(images.values, noise_images(task(tmp_path), Settings()).values)
    assert not torch.equal(images.values, noise_images(task(tmp_path, seed=2), Settings()).values)
    assert len(noise_images(task(tmp_path), Settings(images=7))) == 7


def test_scores_cost_a_query_an_image_and_teach(tmp_path: Path) -> None:
    asked = ScoreTeacher(Halves())
    wanted = settings("mnist", "smoke")
    made = noise_input_scores(task(tmp_path, replace(SHORT, steps=150)), asked, wanted)
    assert asked.asked == 240
    images = noise_images(task(tmp_path), wanted)
    known = halves(images.read(torch.arange(240))).argmax(dim=1)
    assert agreement(predict(made, images, device="cpu"), known) > 0.8
    assert agreement(predict(student(1), images, device="cpu"), known) < 0.7


def test_labels_cost_a_query_an_image_and_teach(tmp_path: Path) -> None:
    shown: list[int] = []

    def answers(images: torch.Tensor) -> torch.Tensor:
        shown.append(len(images))
        return halves(images).argmax(dim=1)

    asked = function(answers, classes=10)
    made = noise_input_labels(task(tmp_path), asked, settings("mnist", "smoke"))
    assert sum(shown) == 240
    images = noise_images(task(tmp_path), Settings())
    known = halves(images.read(torch.arange(240))).argmax(dim=1)
    assert agreement(predict(made, images, device="cpu"), known) > 0.8
    again = noise_input_labels(task(tmp_path), asked, settings("mnist", "smoke"))
    assert sum(shown) == 240
    assert identical(made, again)


def test_real_images_are_not_used(tmp_path: Path) -> None:
    made = noise_input_scores(
        task(tmp_path / "a", FEW), ScoreTeacher(teacher()), Settings(images=60)
    )
    other = task(tmp_path / "b", FEW, known=100)
    assert identical(made, noise_input_scores(other, ScoreTeacher(teacher()), Settings(images=60)))
