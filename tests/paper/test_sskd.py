from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from small_task import Killed, identical, killed_at, score, task, teacher

from db3kd.config.settings import Training
from db3kd.data import TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Damaged, InputError
from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines import own_loss
from db3kd.paper.baselines.sskd import (
    HEAD,
    STUDENT,
    Settings,
    likeness,
    settings,
    sskd,
    teacher_head,
    trusted,
    turned,
)
from db3kd.student.files import state_of

SHORT = Settings(
    head=replace(HEAD, epochs=None, steps=15, batch=32, augment=()),
    student=replace(STUDENT, epochs=None, steps=60, batch=32, rate=0.01, augment=()),
)


def test_every_image_is_seen_in_four_turns() -> None:
    images = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    shown = turned(images).reshape(4, 3, 2, 4, 4)
    assert torch.equal(shown[0], images)
    for turn in range(1, 4):
        assert torch.equal(torch.rot90(shown[turn], -turn, (2, 3)), images)


def test_likeness_compares_turned_with_upright_images() -> None:
    vectors = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    found = likeness(vectors)
    assert found.shape == (9, 3)
    wanted = torch.cosine_similarity(vectors[3 + 4], vectors[2], dim=0)
    assert float(found[4, 2]) == pytest.approx(float(wanted), abs=1e-6)


def test_the_most_wrong_rows_are_dropped() -> None:
    # The right class is first, last, second, third and fourth of four.
    scores = torch.tensor([[4.0, 3, 2, 1]] * 5)
    right = torch.tensor([0, 3, 1, 2, 3])
    assert trusted(scores, right, 1.0).all()
    assert trusted(scores, right, 0.5).tolist() == [True, False, True, True, False]
    assert trusted(scores, right, 0.75).tolist() == [True, True, True, True, False]
    assert trusted(scores, right, 0.0).tolist() == [True, False, False, False, False]


def test_a_student_learns_and_the_teacher_stays_as_it_is(tmp_path: Path) -> None:
    guide = OpenNetwork(teacher())
    before = state_of(guide.network)
    made = sskd(task(tmp_path), guide, SHORT)
    after = state_of(guide.network)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not made.training
    assert score(made) > 0.3


def test_the_head_learns_which_images_are_one(tmp_path: Path) -> None:
    guide, wanted = OpenNetwork(teacher()), replace(SHORT.head, steps=60)
    images = task(tmp_path).known.images.read(torch.arange(32))
    features = guide.features_and_scores(turned(images))[0]
    right = torch.arange(32).repeat(3)

    def share(steps: int) -> float:
        chosen = Settings(head=replace(wanted, steps=steps))
        head = teacher_head(task(tmp_path / str(steps)), guide, chosen)
        return float((likeness(head(features)).argmax(dim=1) == right).float().mean())

    assert share(60) > share(1) + 0.05


@pytest.mark.parametrize("stage", ["teacher's head", "student and head"])
def test_a_stop_at_any_step_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(own_loss, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(own_loss, "REPORT_SECONDS", 0)
    few = Settings(head=replace(SHORT.head, steps=9), student=replace(SHORT.student, steps=12))
    guide = OpenNetwork(teacher())
    whole = sskd(task(tmp_path / "whole", known=90), guide, few)
    stopping = task(tmp_path / "stopped", known=90, progress=killed_at(stage, 5))
    with pytest.raises(Killed):
        sskd(stopping, guide, few)
    assert (tmp_path / "stopped" / f"{stage}.checkpoint").exists()
    assert identical(whole, sskd(task(tmp_path / "stopped", known=90), guide, few))
    assert not list((tmp_path / "stopped").glob("*.checkpoint"))


def test_a_checkpoint_of_another_loss_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_loss, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(own_loss, "REPORT_SECONDS", 0)
    few = Settings(head=replace(SHORT.head, steps=2), student=replace(SHORT.student, steps=9))
    guide = OpenNetwork(teacher())
    with pytest.raises(Killed):
        sskd(task(tmp_path, known=40, progress=killed_at("student and head", 3)), guide, few)
    other = Settings(head=few.head, student=few.student, likeness_weight=0.0)
    with pytest.raises(Damaged, match="its loss is"):
        sskd(task(tmp_path, known=40), guide, other)


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    wild = Settings(head=replace(SHORT.head, steps=2), student=replace(SHORT.student, rate=1e30))
    with pytest.raises(InputError, match="lower rate"):
        sskd(task(tmp_path, known=40), OpenNetwork(teacher()), wild)


def test_images_must_be_square(tmp_path: Path) -> None:
    some = torch.zeros(4, dtype=torch.long)
    wide = TransferSet(TensorImages(torch.zeros(4, 1, 8, 10)), some, some, some)
    plain = task(tmp_path)
    fields = {name: getattr(plain, name) for name in plain.__dataclass_fields__}
    with pytest.raises(InputError, match="8x10"):
        sskd(type(plain)(**{**fields, "known": wide}), OpenNetwork(teacher()), SHORT)


def test_settings_by_scale() -> None:
    assert settings("cifar100", "full") == Settings()
    assert settings("mnist", "full").student.augment == ()
    for data in ("mnist", "fashion_mnist", "cifar10", "cifar100", "flowers102"):
        small, cpu = settings(data, "smoke"), settings(data, "cpu")
        assert (small.student.steps or 0) < (cpu.student.steps or 0)
        assert cpu.student.drops == STUDENT.drops
    assert isinstance(settings("cifar10", "cpu").head, Training)
