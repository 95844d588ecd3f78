from dataclasses import replace
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace as replaced
from small_task import FEW, SHORT, Killed, identical, killed_at, score, task, teacher
from torch import nn

from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines import scores
from db3kd.paper.baselines.standard_kd import Settings, settings, standard_kd

TWO = replaced(FEW, steps=24)  # three epochs


def test_each_sample_is_asked_once_and_its_scores_teach(tmp_path: Path) -> None:
    training = replaced(SHORT, label_weight=0.0)
    open_task, asked = task(tmp_path, training), ScoreTeacher(teacher())
    lying = torch.zeros_like(open_task.known.labels)  # all true labels say class 0
    known = replace(open_task.known, labels=lying)
    student = standard_kd(replace(open_task, known=known), asked, settings("mnist", "smoke"))
    assert asked.asked == len(open_task.known)
    assert score(student) > 0.4
    assert not student.training


def test_what_was_asked_before_a_stop_is_counted_and_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "PIECE", 100)
    whole = standard_kd(task(tmp_path / "whole", FEW), ScoreTeacher(teacher()), Settings())

    class Dear(nn.Module):
        """Fails after 120 images."""

        shown = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.shown += len(images)
            if self.shown > 120:
                raise Killed
            return teacher()(images)

    stopped = ScoreTeacher(Dear())
    with pytest.raises(Killed):
        standard_kd(task(tmp_path / "stopped", FEW), stopped, Settings())
    asked = 0

    class Counted(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal asked
            asked += len(images)
            return teacher()(images)

    again = ScoreTeacher(Counted())
    student = standard_kd(task(tmp_path / "stopped", FEW), again, Settings())
    assert identical(student, whole)
    assert asked == 140  # the first piece of 100 was kept
    assert again.asked == 240


def test_a_stop_while_the_student_learns_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db3kd.student.training.CHECKPOINT_SECONDS", 0)
    whole = standard_kd(task(tmp_path / "whole", TWO), ScoreTeacher(teacher()), Settings())
    stopping = task(tmp_path / "stopped", TWO, progress=killed_at("training", 16))
    with pytest.raises(Killed):
        standard_kd(stopping, ScoreTeacher(teacher()), Settings())
    assert (tmp_path / "stopped" / "student.checkpoint").exists()
    student = standard_kd(task(tmp_path / "stopped", TWO), ScoreTeacher(teacher()), Settings())
    assert identical(student, whole)
