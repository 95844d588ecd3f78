"""Meta-KD: targets follow the metadata, images the targets, and no more of the data is seen."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_task import Killed, digit_task, digits, right, same, teacher
from torch.nn import functional as F

from db3kd.data import TensorImages
from db3kd.errors import InputError
from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines.meta_kd import fitted, meta_kd, metadata, settings
from db3kd.paper.baselines.samples import open_scores

SMOKE = settings("mnist", "smoke")


def test_targets_have_the_mean_and_covariance_of_their_class() -> None:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.3, 0.2, 0.4]])
    scores = 20 + torch.randn(4000, 3, generator=draw) @ mixing.T
    scores[2000:] += torch.tensor([5.0, -5.0, 0.0])
    labels = torch.arange(4000) // 2000
    found = metadata(scores, labels, 2)
    for label in (0, 1):
        own = scores[labels == label]
        made = found.targets(torch.full((20_000,), label), generator=draw)
        torch.testing.assert_close(made.mean(0), own.mean(0), atol=0.05, rtol=0)
        torch.testing.assert_close(made.T.cov(), own.T.cov(), atol=0.05, rtol=0)


def test_targets_are_those_of_a_relu() -> None:
    found = metadata(torch.randn(50, 4), torch.zeros(50, dtype=torch.int64), 1)
    made = found.targets(torch.zeros(500, dtype=torch.int64), generator=torch.Generator())
    assert made.min() == 0
    assert made.max() > 0


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(InputError, match="class 1 has no image"):
        metadata(torch.zeros(2, 3), torch.tensor([0, 2]), 3)


def test_fitted_images_give_the_targets_each_on_its_own() -> None:
    known, images = OpenNetwork(teacher()), digits()[0][:20]
    start = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = F.relu(open_scores(known, images))
    before = (F.relu(open_scores(known, start)) - targets).square().mean(1)
    made = fitted(known, start, targets, SMOKE)
    after = (F.relu(open_scores(known, made)) - targets).square().mean(1)
    # A score below zero has no gradient through ReLU, so that some images stay where they are.
    assert float(after.median()) < 0.1 * float(before.median())
    assert float((after < 0.1 * before).float().mean()) > 0.6
    assert made.min() >= 0
    assert made.max() <= 1
    alone = fitted(known, start[:1], targets[:1], SMOKE)
    torch.testing.assert_close(alone, made[:1], atol=1e-2, rtol=0)
    assert same(known.network, teacher())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("meta")
    return folder, meta_kd(digit_task(folder, images=200), OpenNetwork(teacher()), SMOKE)


def test_a_student_learns_from_it(whole: tuple[Path, torch.nn.Module]) -> None:
    assert not whole[1].training
    assert right(whole[1]) > 0.25


def test_the_known_images_serve_for_the_metadata_alone(
    whole: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    (tmp_path / "metadata.safetensors").write_bytes(
        (whole[0] / "metadata.safetensors").read_bytes()
    )
    task = digit_task(tmp_path, images=200)
    black = replace(task.known, images=TensorImages(torch.zeros(200, 1, 8, 8)))
    student = meta_kd(replace(task, known=black), OpenNetwork(teacher()), SMOKE)
    assert same(student, whole[1])


def test_a_killed_one_goes_on(whole: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    known = OpenNetwork(teacher())
    with pytest.raises(Killed):
        meta_kd(digit_task(tmp_path, images=200, killed_at=("training", 10)), known, SMOKE)
    assert same(meta_kd(digit_task(tmp_path, images=200), known, SMOKE), whole[1])
