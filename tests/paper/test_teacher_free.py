from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_task import SHORT, score, student, task
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.data.transfer_set import TransferSet
from db3kd.paper.baselines.teacher_free import (
    PUBLISHED,
    Settings,
    settings,
    teacher_free_regularised,
    teacher_free_self,
    virtual_scores,
)
from db3kd.paper.task import Task
from db3kd.student.files import load_network

Learn = Callable[[Task, Settings], nn.Module]


def test_the_made_up_teacher_is_what_the_release_computes() -> None:
    labels = torch.arange(100)
    soft = virtual_scores(labels, 100, Settings()).softmax(dim=1)
    # softmax(u / 20) with u = 0.99 for the true class and 0.01 / 99 for the others
    own, other = torch.tensor(0.99 / 20).exp(), torch.tensor(0.01 / 99 / 20).exp()
    total = own + 99 * other
    assert soft[3, 3] == pytest.approx(float(own / total), rel=1e-5)
    assert soft[3, 4] == pytest.approx(float(other / total), rel=1e-5)


class Heard(Task):
    """A task that writes down what is to be trained."""

    def taught(
        self, name: str, network: nn.Module, samples: TransferSet, training: Training | None = None
    ) -> nn.Module:
        HEARD[name] = (samples, training or self.training)
        return network


HEARD: dict[str, tuple[TransferSet, Training]] = {}


def losses(learn: Learn, wanted: Settings, folder: Path) -> Training:
    HEARD.clear()
    plain = task(folder)
    fields: Any = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    learn(Heard(**fields), wanted)
    return HEARD["student"][1]


def test_the_losses_are_those_of_the_release_for_a_hundred_classes(tmp_path: Path) -> None:
    # KLDivLoss's mean over 100 classes and the multipliers 50 and 100 leave 0.5 and 1.
    own = losses(teacher_free_self, Settings(), tmp_path)
    assert own.label_weight == pytest.approx(0.05)
    assert own.weight == pytest.approx(0.95 * 36 * 50 / 100)
    assert own.temperature == 6
    assert HEARD["first network"][0].soft is None
    virtual = losses(teacher_free_regularised, Settings(), tmp_path)
    assert virtual.label_weight == pytest.approx(0.9)
    assert virtual.weight == pytest.approx(0.1 * 100 / 100)
    assert virtual.temperature == 1
    assert own.rate == virtual.rate == PUBLISHED.rate
    assert settings("cifar100", "full").training == PUBLISHED
    assert losses(teacher_free_self, settings("mnist", "full"), tmp_path).rate == SHORT.rate


@pytest.mark.parametrize("learn", [teacher_free_self, teacher_free_regularised])
def test_students_learn(tmp_path: Path, learn: Learn) -> None:
    assert score(learn(task(tmp_path), settings("mnist", "smoke"))) > 0.4


def test_the_student_learns_from_the_first_network(tmp_path: Path) -> None:
    """With a share of 1 labels do not count: a first network that lies is believed."""
    open_task = task(tmp_path)
    lying = replace(open_task.known, labels=torch.full_like(open_task.known.labels, 3))
    liar = replace(open_task, known=lying)
    teacher_free_self(liar, Settings(training=None))
    first = load_network(tmp_path / "first network.safetensors", student(0))
    (tmp_path / "student.safetensors").unlink()
    made = teacher_free_self(open_task, Settings(share=1.0, training=None))
    images: Tensor = open_task.known.images.read(torch.arange(50))
    assert bool((first(images).argmax(dim=1) == 3).all())
    assert float((made(images).argmax(dim=1) == 3).float().mean()) > 0.9
