from dataclasses import replace
from pathlib import Path

import torch
from small_task import FEW, identical, score, student, task

from db3kd.paper.baselines.surrogate_kd import settings, surrogate_kd
from db3kd.student.files import load_network


def test_the_surrogate_is_another_network_and_its_scores_teach(tmp_path: Path) -> None:
    made = surrogate_kd(task(tmp_path), settings("mnist", "smoke"))
    surrogate = load_network(tmp_path / "surrogate.safetensors", student(0))
    assert score(made) > 0.4
    assert score(surrogate) > 0.4
    assert not identical(made, surrogate)


def test_the_surrogate_knows_the_labels_alone(tmp_path: Path) -> None:
    open_task = task(tmp_path)
    lying = replace(open_task.known, labels=torch.zeros_like(open_task.known.labels))
    surrogate_kd(replace(open_task, known=lying), settings("mnist", "smoke"))
    surrogate = load_network(tmp_path / "surrogate.safetensors", student(0))
    assert score(surrogate) < 0.15


def test_soft_labels_that_the_task_may_have_are_not_used(tmp_path: Path) -> None:
    plain = surrogate_kd(task(tmp_path / "plain", FEW), settings("mnist", "smoke"))
    open_task = task(tmp_path / "soft", FEW)
    soft = open_task.known.with_soft(torch.randn(len(open_task.known), 10))
    with_soft = surrogate_kd(replace(open_task, known=soft), settings("mnist", "smoke"))
    assert identical(plain, with_soft)
