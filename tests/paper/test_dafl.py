"""DAFL: its losses, that both networks learn, and that a stopped training goes on."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as changed
from small_task import Killed, identical, killed_at, score, task, teacher

from db3kd.errors import Damaged, InputError
from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines import dafl
from db3kd.synthesis.rivals.generator import ImageGenerator, seeded

SMOKE = dafl.settings("mnist", "smoke")


def shorter(steps: int, **words: float) -> dafl.Settings:
    return replace(SMOKE, training=changed(SMOKE.training, steps=steps, **words))


def test_the_loss_of_the_generator_is_the_weighted_sum_worked_by_hand() -> None:
    scores = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    features = torch.tensor([[1.0, -3.0], [0.0, 0.0]])
    wanted = dafl.Settings(one_hot=2.0, balance=3.0, activation=0.5)
    expected = 2 * math.log(4 / 3) + 3 * math.log10(0.5) - 0.5 * 1.0
    assert float(dafl.generator_loss(features, scores, wanted)) == pytest.approx(expected)


def test_both_networks_learn_without_data_and_leave_the_teacher_as_it_is(tmp_path: Path) -> None:
    given, open_network = task(tmp_path, known=1), OpenNetwork(teacher())
    before = {name: value.clone() for name, value in teacher().state_dict().items()}
    wanted = replace(shorter(150, batch=32, rate=5e-3), generator_rate=0.02)
    student = dafl.dafl(given, open_network, wanted)
    assert not student.training
    assert score(student) > 0.3
    assert all(torch.equal(before[name], value) for name, value in teacher().state_dict().items())

    seed = given.seed_of("dafl", "generator")
    first = seeded(lambda: ImageGenerator((1, 8, 8), latent=16, widest=12), seed)
    last = dafl._learned(given, open_network, wanted)["generator"].train()
    latents = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    untrained, trained = (
        dafl.generator_loss(*open_network.features_and_scores(each(latents)), wanted).item()
        for each in (first, last)
    )
    assert trained < untrained - 1


def test_a_stopped_training_gives_the_same_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dafl, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(dafl, "REPORT_SECONDS", 0.0)
    open_network = OpenNetwork(teacher())
    whole = dafl.dafl(task(tmp_path / "whole"), open_network, SMOKE)
    with pytest.raises(Killed):
        dafl.dafl(task(tmp_path / "cut", progress=killed_at("DAFL", 7)), open_network, SMOKE)
    steps: list[int] = []
    again = task(tmp_path / "cut", progress=lambda stage, done, total, _: steps.append(done))
    assert identical(whole, dafl.dafl(again, open_network, SMOKE))
    assert steps[0] == 8
    assert [file.name for file in (tmp_path / "cut").iterdir()] == ["dafl.safetensors"]


def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dafl, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(dafl, "REPORT_SECONDS", 0.0)
    open_network = OpenNetwork(teacher())
    with pytest.raises(Killed):
        dafl.dafl(task(tmp_path, progress=killed_at("DAFL", 3)), open_network, SMOKE)
    with pytest.raises(Damaged, match="its settings is"):
        dafl.dafl(task(tmp_path), open_network, replace(SMOKE, balance=1.0))


def test_steps_must_be_given(tmp_path: Path) -> None:
    wanted = replace(SMOKE, training=changed(SMOKE.training, steps=None, epochs=3))
    with pytest.raises(InputError, match=r"give training\.steps"):
        dafl.dafl(task(tmp_path), OpenNetwork(teacher()), wanted)


def test_impressions_are_images_of_the_generator_with_the_teachers_classes(tmp_path: Path) -> None:
    given, open_network = task(tmp_path), OpenNetwork(teacher())
    images, labels = dafl.impressions(given, open_network, SMOKE)
    assert images.shape == (SMOKE.images, 1, 8, 8)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert torch.equal(labels, open_network.network(images).argmax(1))
    files = sorted(tmp_path.iterdir())
    dafl.dafl(given, open_network, SMOKE)
    assert sorted(tmp_path.iterdir()) == files, "the same training made both"


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10", "cifar100", "flowers102"])
def test_less_is_done_on_a_cpu_and_least_in_a_smoke_test(data: str) -> None:
    smoke, cpu, full = (
        each.training.steps * each.training.batch
        for each in (dafl.settings(data, scale) for scale in ("smoke", "cpu", "full"))
    )
    assert smoke < cpu < full
