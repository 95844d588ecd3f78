"""BBKD asks the mixtures of which the student is least sure, each once, within its queries."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from digit_task import Killed, digit_task, digits, right, same, small, teacher
from torch import Tensor

from db3kd.errors import InputError
from db3kd.paper.access import ScoreTeacher
from db3kd.paper.baselines.bbkd import (
    Settings,
    bbkd,
    least_sure,
    mixtures,
    partners,
    settings,
    weights,
)
from db3kd.paper.baselines.samples import few
from db3kd.paper.task import Scale
from db3kd.student.files import load_network, read_tensors

SMOKE = settings("mnist", "smoke")


class Recorded(ScoreTeacher):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(teacher())
        self.shown: list[Tensor] = []

    def scores(self, images: Tensor) -> Tensor:
        self.shown.append(images.clone())
        return super().scores(images)


@pytest.mark.parametrize("images", [2, 7, 8])
def test_the_numbers_of_pairs_give_every_pair_once(images: int) -> None:
    numbers = torch.arange(Settings(images).candidates)
    first, second = partners(numbers, images)
    pairs = [tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)]
    assert sorted(pairs) == list(combinations(range(images), 2))


def test_of_a_pair_the_mixture_counts_of_which_the_student_is_least_sure() -> None:
    images, student = digits()[0][:5], small(1).eval()
    numbers = torch.arange(10)
    with torch.no_grad():
        confidence, place = least_sure(student, images, numbers)
        for pair in numbers.tolist():
            own = torch.tensor([pair])
            sure = [
                float(student(mixtures(images, own, share[None])).softmax(1).max())
                for share in weights()
            ]
            assert confidence[pair] == pytest.approx(min(sure), abs=1e-6)
            assert sure[int(place[pair])] == pytest.approx(min(sure), abs=1e-6)
    assert len(place.unique()) > 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorded, torch.nn.Module]:
    folder, asked = tmp_path_factory.mktemp("bbkd"), Recorded()
    return folder, asked, bbkd(digit_task(folder), asked, SMOKE)


def test_it_asks_as_often_as_its_settings_say(
    whole: tuple[Path, Recorded, torch.nn.Module],
) -> None:
    _, asked, _ = whole
    assert asked.asked == SMOKE.queries == 60
    assert [len(part) for part in asked.shown] == [20, 25, 15]
    every = torch.cat(asked.shown).flatten(1)
    assert len(every.unique(dim=0)) == 60  # nothing twice
    assert every.min() >= 0
    assert every.max() <= 1


def test_the_pairs_asked_are_the_least_sure_of_those_not_asked_yet(
    whole: tuple[Path, Recorded, torch.nn.Module],
) -> None:
    folder, asked, _ = whole
    images = few(digit_task(folder), 20).images.read(torch.arange(20))
    assert torch.equal(images, asked.shown[0])
    numbers, free = torch.arange(190), torch.ones(190, dtype=torch.bool)
    for number in (1, 2):
        student = load_network(folder / f"student-{number - 1}.safetensors", small(0)).eval()
        with torch.no_grad():
            confidence, place = least_sure(student, images, numbers)
        chosen = asked.shown[number]
        order = confidence.masked_fill(~free, 9.0).argsort()[: len(chosen)]
        assert torch.equal(chosen, mixtures(images, order, weights()[place[order].long()]))
        free[order] = False


def test_a_student_learns_from_it(whole: tuple[Path, Recorded, torch.nn.Module]) -> None:
    _, _, student = whole
    assert not student.training
    assert right(student) > 0.3
    assert right(student) > right(small(0)) + 0.1


def test_a_killed_one_goes_on_and_asks_nothing_twice(
    whole: tuple[Path, Recorded, torch.nn.Module], tmp_path: Path
) -> None:
    first, second = Recorded(), Recorded()
    with pytest.raises(Killed):
        bbkd(digit_task(tmp_path, killed_at=("mixing, round 2", 1)), first, SMOKE)
    student = bbkd(digit_task(tmp_path), second, SMOKE)
    assert same(student, whole[2])
    assert first.asked + second.asked == SMOKE.queries
    assert first.asked == 45


def test_what_it_asked_is_kept(whole: tuple[Path, Recorded, torch.nn.Module]) -> None:
    folder, asked, student = whole
    with torch.no_grad():
        found = teacher()(asked.shown[2])
    torch.testing.assert_close(read_tensors(folder / "scores-2.safetensors")[0]["scores"], found)
    again = Recorded()
    assert same(bbkd(digit_task(folder), again, SMOKE), student)
    assert again.asked == 0


@pytest.mark.parametrize("scale", ["smoke", "cpu", "full"])
@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10", "cifar100", "flowers102"])
def test_there_are_pairs_enough_for_the_queries(data: str, scale: Scale) -> None:
    found = settings(data, scale)
    assert 0 < found.queries - found.images <= found.candidates
    assert bool(found.training.augment) == ("mnist" not in data)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"queries": 300}, "190 pairs"),
        ({"queries": 10}, "10 queries"),
        ({"pairs": 30}, "30 pairs"),
        ({"chosen": 0}, "chosen"),
        ({"images": 41, "queries": 50}, "knows 40"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    wrong: dict[str, int], text: str, tmp_path: Path
) -> None:
    asked = Recorded()
    with pytest.raises(InputError, match=text):
        bbkd(digit_task(tmp_path), asked, replace(SMOKE, **wrong))
    assert asked.asked == 0
