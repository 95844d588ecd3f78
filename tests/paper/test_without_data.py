"""ZSKD and DFKD: their soft labels, images made for them, and resuming between two pieces."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_task import Killed, identical, killed_at, score, task, teacher
from torch import nn

from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines import dfkd, impressions, zskd
from db3kd.paper.baselines.impressions import Making

SMALL = Making(300, batch=150, steps=20, rate=0.05, copies=4, epochs=12, student_rate=5e-3)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Soft labels


def test_a_class_is_most_like_itself_and_likeness_is_from_0_to_1() -> None:
    weight = torch.randn(10, 7, generator=draw())
    alike = zskd.class_similarity(weight)
    assert torch.equal(alike.argmax(1), torch.arange(10))
    assert torch.equal(alike.amax(1), torch.ones(10))
    assert torch.equal(alike.amin(1), torch.zeros(10))
    assert torch.allclose(alike, zskd.class_similarity(weight * torch.arange(1.0, 11)[:, None]))
    cosine = nn.functional.cosine_similarity(weight[3], weight, dim=1)
    assert torch.equal(alike[3].argsort(), cosine.argsort())


def test_dirichlet_labels_follow_the_likeness_of_classes() -> None:
    alike = zskd.class_similarity(torch.randn(5, 4, generator=draw()))
    own = torch.full((20_000,), 2)
    soft = {
        beta: zskd.dirichlet(alike, own, torch.full((20_000,), beta), seed=1) for beta in (1.0, 0.1)
    }
    for labels in soft.values():
        assert torch.allclose(labels.sum(1), torch.ones(20_000), atol=1e-5)
        expected = alike[2] / alike[2].sum()
        assert torch.allclose(labels.mean(0), expected, atol=0.02)
    assert soft[0.1].amax(1).mean() > soft[1.0].amax(1).mean() + 0.2, "a small beta is surer"


def test_every_class_gets_equally_many_soft_labels_with_each_beta(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = zskd.dirichlet

    def watched(alike: torch.Tensor, own: torch.Tensor, beta: torch.Tensor, *, seed: int):
        asked.append((own, beta))
        return real(alike, own, beta, seed=seed)

    monkeypatch.setattr(zskd, "dirichlet", watched)
    making = replace(SMALL, images=60, batch=25, steps=1, copies=1)
    zskd.impressions(task(tmp_path), OpenNetwork(teacher()), zskd.Settings(making, (1.0, 0.1, 0.5)))
    own, beta = (torch.cat(each) for each in zip(*asked, strict=True))
    pairs = own * 100 + (beta * 10).round().long()
    assert pairs.unique(return_counts=True)[1].tolist() == [2] * 30


def test_features_have_the_covariance_of_the_columns_of_the_last_layer() -> None:
    weight = torch.randn(10, 6, generator=draw())
    features = dfkd.drawn_features(weight, 50_000, 2.0, draw(1))
    columns = weight / weight.norm(dim=0)
    assert torch.allclose(features.mean(0), torch.zeros(6), atol=0.05)
    assert torch.allclose(features.T.cov(), 4 * columns.T @ columns, atol=0.1)


# Images


def test_images_come_to_have_the_soft_labels_they_were_made_for() -> None:
    open_network = OpenNetwork(teacher())
    wanted = torch.full((10, 10), 0.02) + 0.8 * torch.eye(10)
    first, last = (
        impressions.impressed(
            open_network,
            wanted,
            (1, 8, 8),
            Making(steps=steps, rate=0.05, temperature=2.0),
            draw=draw(),
        )
        for steps in (0, 50)
    )
    before, after = (
        (open_network.network(images) / 2.0).softmax(1).sub(wanted).abs().sum(1)
        for images in (first, last)
    )
    assert bool((after < before).all())
    assert float(after.mean()) < 0.2 * float(before.mean())
    assert bool((last.amin((1, 2, 3)) == 0).all())
    assert bool((last.amax((1, 2, 3)) == 1).all())


def test_the_teacher_labels_images_and_copies_as_they_are_kept(tmp_path: Path) -> None:
    open_network = OpenNetwork(teacher())
    made = zskd._made(task(tmp_path), open_network, zskd.Settings(replace(SMALL, steps=2)))
    assert [len(part) for part in (made.images, made.copies)] == [300, 1200]
    transfer = made.transfer()
    seen = transfer.images.read(torch.arange(1500))
    assert torch.allclose(open_network.network(seen), transfer.soft, atol=1e-5)
    assert not torch.equal(made.copies[:150], made.copies[150:300])
    assert bool((transfer.labels == -1).all()), "students learn from soft labels alone"
    images, labels = made.labelled()
    assert torch.equal(images, seen[:300])
    assert torch.equal(labels, transfer.teacher_labels[:300])


def test_no_copies_are_made_where_none_are_wanted(tmp_path: Path) -> None:
    making = replace(SMALL, steps=1, copies=0)
    made = zskd._made(task(tmp_path), OpenNetwork(teacher()), zskd.Settings(making))
    assert len(made.transfer()) == 300


# Students


@pytest.mark.parametrize(
    ("system", "wanted"),
    [(zskd.zskd, zskd.Settings(SMALL)), (dfkd.dfkd, dfkd.Settings(SMALL, spread=4.0))],
    ids=["zskd", "dfkd"],
)
def test_a_student_learns_without_data_and_leaves_the_teacher_as_it_is(
    system, wanted, tmp_path: Path
) -> None:
    open_network = OpenNetwork(teacher())
    before = {name: value.clone() for name, value in teacher().state_dict().items()}
    student = system(task(tmp_path, known=1), open_network, wanted)
    assert not student.training
    assert score(student) > 0.4
    assert all(torch.equal(before[name], value) for name, value in teacher().state_dict().items())


def test_a_system_stopped_between_two_pieces_gives_the_same_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impressions, "REPORT_SECONDS", 0.0)
    open_network, wanted = OpenNetwork(teacher()), zskd.settings("mnist", "smoke")
    whole = zskd.zskd(task(tmp_path / "whole"), open_network, wanted)
    with pytest.raises(Killed):
        zskd.zskd(task(tmp_path / "cut", progress=killed_at("ZSKD", 25)), open_network, wanted)
    assert [file.name for file in (tmp_path / "cut").iterdir()] == ["zskd-0000.safetensors"]
    steps: list[int] = []

    def progress(stage: str, done: int, total: int, figures: object, /) -> None:
        if stage == "ZSKD":
            steps.append(done)

    again = zskd.zskd(task(tmp_path / "cut", progress=progress), open_network, wanted)
    assert identical(whole, again)
    assert steps == list(range(21, 41)), "the first piece was not made again"
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "cut" / file.name).read_bytes()


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10", "cifar100", "flowers102"])
def test_less_is_done_on_a_cpu_and_least_in_a_smoke_test(data: str) -> None:
    smoke, cpu, full = (
        each.images * each.steps
        for each in (impressions.making(data, scale) for scale in ("smoke", "cpu", "full"))
    )
    assert smoke < cpu < full
