"""FSKD: pseudo examples move to where student and teacher differ, and the student follows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_task import Killed, digit_task, digits, right, same, small, teacher

from db3kd.errors import InputError
from db3kd.paper.access import OpenNetwork
from db3kd.paper.baselines.few_sample import difference, few_sample, first_state, moved, settings
from db3kd.student.files import read_tensors

SMOKE = settings("mnist", "smoke")


def test_moves_raise_the_difference_and_change_no_network() -> None:
    student, known, images = small(1).eval(), OpenNetwork(teacher()), digits()[0][:50]
    with torch.no_grad():
        before = difference(student, known, images, 4.0)
    far = moved(student, known, images, SMOKE)
    with torch.no_grad():
        after = difference(student, known, far, 4.0)
    assert bool((after > before).all())
    assert far.min() >= 0
    assert far.max() <= 1
    assert same(student, small(1))
    assert same(known.network, teacher())
    assert all(weight.grad is None for weight in student.parameters())


def test_all_images_go_equally_far() -> None:
    student, known = small(1).eval(), OpenNetwork(teacher())
    images = 0.5 + 0.2 * torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    far = moved(student, known, images, replace(SMOKE, moves=1, step=0.02))
    lengths = (far - images).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(lengths, torch.full((20,), 0.02))


def test_the_difference_is_kullback_and_leiblers_divergence() -> None:
    student, known, images = small(1).eval(), OpenNetwork(teacher()), digits()[0][:5]
    with torch.no_grad():
        wanted, found = ((net(images) / 4).softmax(1) for net in (known.network, student))
        by_hand = (wanted * (wanted.log() - found.log())).sum(1)
        torch.testing.assert_close(difference(student, known, images, 4.0), by_hand)


def test_pseudo_examples_begin_between_two_images() -> None:
    draw = torch.Generator().manual_seed(0)
    ends = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    start = first_state(ends, replace(SMOKE, pseudo=400, noise=0.0), generator=draw).flatten(1)
    assert bool((start == start[:, :1]).all())
    between = (start[:, 0] > 0) & (start[:, 0] < 1)
    assert 0.4 < float(between.float().mean()) < 0.6  # the others mix an image with itself
    assert 0.4 < float(start[between, 0].mean()) < 0.6
    noisy = first_state(ends, replace(SMOKE, pseudo=400), generator=draw).flatten(1)
    assert float((noisy - noisy[:, :1]).abs().max()) > 0
    assert noisy.min() >= 0
    assert noisy.max() <= 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder, known = tmp_path_factory.mktemp("few"), OpenNetwork(teacher())
    student = few_sample(digit_task(folder), known, SMOKE)
    assert same(known.network, teacher())
    return folder, student


def test_a_student_learns_from_it(whole: tuple[Path, torch.nn.Module]) -> None:
    folder, student = whole
    assert not student.training
    assert right(student) > 0.5
    first, second = (
        read_tensors(folder / f"pseudo-{number}.safetensors")[0]["images"] for number in (1, 2)
    )
    assert not torch.equal(first, second)


def test_a_killed_one_goes_on(whole: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    known = OpenNetwork(teacher())
    with pytest.raises(Killed):
        few_sample(digit_task(tmp_path, killed_at=("pseudo examples, round 2", 1)), known, SMOKE)
    assert same(few_sample(digit_task(tmp_path), known, SMOKE), whole[1])


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="knows 39"):
        few_sample(digit_task(tmp_path, images=39), OpenNetwork(teacher()), SMOKE)
