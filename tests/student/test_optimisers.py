"""Muon, and which weights each optimiser moves."""

import pytest
import torch
from torch import nn

from db3kd.config.settings import TRAINERS, Optimiser, Training
from db3kd.student.networks import NAMES, build
from db3kd.student.optimisers import WIDEST, Muon, optimisers_of, orthogonal


@pytest.mark.parametrize("shape", [(1, 1), (10, 25), (25, 10), (100, 400), (7, 300), (64, 64)])
def test_the_step_is_nearly_the_nearest_orthogonal_matrix(shape: tuple[int, int]) -> None:
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=draw)
    found = orthogonal(matrix)
    values = torch.linalg.svdvals(found)
    # The least singular values of a square matrix need more than five iterations.
    assert values.max() < 1.25
    assert shape[0] == shape[1] or values.min() > 0.6
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest = left @ right
    alike = float((found * nearest).sum() / (found.norm() * nearest.norm()))
    assert alike > 0.95


def test_the_size_of_a_gradient_does_not_matter() -> None:
    matrix = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(
            orthogonal(scale * matrix), orthogonal(matrix), atol=1e-3, rtol=0
        )
    assert float(orthogonal(torch.zeros(3, 4)).abs().max()) == 0.0


def test_a_turn_of_the_inputs_turns_the_step() -> None:
    draw = torch.Generator().manual_seed(2)
    matrix = torch.randn(8, 20, generator=draw)
    turn, _ = torch.linalg.qr(torch.randn(20, 20, generator=draw))
    torch.testing.assert_close(
        orthogonal(matrix @ turn), orthogonal(matrix) @ turn, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("optimiser", TRAINERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_moved_once(name: str, optimiser: Optimiser) -> None:
    network = build(name, (1, 16, 16), 4, 0.2, seed=0)
    moved = [
        id(weight)
        for each in optimisers_of(network, Training(optimiser=optimiser))
        for group in each.param_groups
        for weight in group["params"]
    ]
    assert sorted(moved) == sorted(id(weight) for weight in network.parameters())


def test_muon_leaves_the_scores_and_very_wide_matrices_to_adamw() -> None:
    wide = nn.Linear(WIDEST + 1, WIDEST + 1)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(8, 7), wide, nn.Linear(7, 2)
    )
    muon, adamw = optimisers_of(network, Training())
    assert isinstance(muon, Muon)
    assert [id(w) for w in muon.param_groups[0]["params"]] == [
        id(network[0].weight), id(network[2].weight),
    ]  # fmt: skip
    assert adamw.param_groups[0]["lr"] == pytest.approx(0.002)


def test_frozen_weights_stay() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    network[0].requires_grad_(False)
    groups = [g for each in optimisers_of(network, Training()) for g in each.param_groups]
    assert id(network[0].weight) not in {id(w) for group in groups for w in group["params"]}


def test_weight_decay_of_muon_shrinks_what_has_no_gradient() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    muon = Muon([weight], rate=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(2, 3)
    muon.step()
    torch.testing.assert_close(weight.data, torch.full((2, 3), 0.95))
