"""Growing: how new images are made and chosen, what a run keeps, and what a stop changes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import db3kd.search.joint.plan as stages
import db3kd.stages.growing as growing
from closed_form import Watched, prototypes
from db3kd.config.settings import AugmentationName, Budget, Grow, Training
from db3kd.data import Images, TensorImages
from db3kd.data.stored import StoredImages
from db3kd.errors import BudgetExhausted, ConfigurationDiffers, Damaged, InputError
from db3kd.run import Run
from db3kd.stages.accounts import finished, status
from db3kd.storage.journal import Journal
from db3kd.synthesis.acquisition import balanced, bald, margin
from db3kd.synthesis.augmentation import GEOMETRY, grow, warped
from db3kd.teachers import function

ALL: tuple[AugmentationName, ...] = (*sorted(GEOMETRY), "mix", "paste", "shade", "noise")  # type: ignore[assignment]
CORNERS = torch.eye(16)[:4] * 3
SMALL = Grow(per_image=4, choose="random", rounds=2, shard=40, members=2)


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LEAST_STEPS", 30)
    monkeypatch.setattr(stages, "MOST_STEPS", 30)


def images(count: int = 30) -> TensorImages:
    draw = torch.Generator().manual_seed(0)
    flat = CORNERS.repeat(count, 1)[:count] / 3 + 0.1 * torch.rand(count, 16, generator=draw)
    return TensorImages((flat.clamp(0, 1) * 255).to(torch.uint8).reshape(-1, 1, 4, 4))


class Counting(Watched):
    """The corners' prototypes."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(prototypes(CORNERS / 3), dies_at)


def grown(folder: Path, grow: Grow = SMALL, own: Images | None = None) -> Counting:
    teacher = Counting()
    with Run(folder, teacher) as run:
        run.grow(own or images(), grow)
    return teacher


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.safetensors")
    }


# How images are made


@given(
    names=st.sets(st.sampled_from(ALL)),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    low=st.sampled_from([0.0, -1.0, 3.0]),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_mixture_of_changes_stays_within_bounds(
    names: set[AugmentationName], channels: int, height: int, width: int, low: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    block = torch.rand(5, channels, height, width, generator=draw) + low
    made = grow(block, torch.arange(5), names, bounds=(low, low + 1), draw=draw)
    assert made.images.shape == block.shape
    assert bool(made.images.isfinite().all())
    assert low <= float(made.images.min()) <= float(made.images.max()) <= low + 1
    assert torch.equal(made.parents, torch.arange(5))
    if not names & {"mix", "paste"}:
        assert torch.equal(made.partners, made.parents)
    if "flip" not in names:
        assert not made.flipped.any()


@pytest.mark.parametrize("name", ALL)
def test_each_change_changes_most_images_or_half_and_leaves_the_rest(
    name: AugmentationName,
) -> None:
    draw = torch.Generator().manual_seed(0)
    block = torch.rand(200, 3, 8, 8, generator=draw)
    made = grow(block, torch.arange(200), (name,), bounds=(0.0, 1.0), draw=draw)
    far = (made.images - block).flatten(1).abs().amax(1) > 1e-3
    often = 0.5 if name in ("flip", "crop", "mix", "paste") else 1.0
    assert abs(float(far.float().mean()) - often) < 0.12


def test_nothing_switched_on_changes_nothing() -> None:
    block = torch.rand(3, 1, 5, 7)
    made = grow(block, torch.arange(3), (), bounds=(0.0, 1.0), draw=torch.Generator())
    assert torch.equal(made.images, block)


def test_a_flip_alone_is_the_mirror_image() -> None:
    block = torch.rand(40, 3, 6, 5)
    made, flipped = warped(block, ("flip",), torch.Generator().manual_seed(1))
    expected = torch.where(flipped.bool()[:, None, None, None], block.flip(3), block)
    assert 5 < int(flipped.sum()) < 35
    assert torch.allclose(made, expected, atol=1e-5)


def test_a_rotation_is_one_of_pixels_in_images_that_are_not_square() -> None:
    """A disc stays a disc: its extent across and down differ by a pixel at most."""
    down, across = torch.meshgrid(torch.arange(40.0), torch.arange(80.0), indexing="ij")
    disc = ((down - 19.5) ** 2 + (across - 39.5) ** 2 < 100).float().expand(20, 1, 40, 80)
    made, _ = warped(disc.contiguous(), ("rotate",), torch.Generator().manual_seed(0))
    inside = made[:, 0] > 0.5
    assert bool(((inside.any(1).sum(1) - inside.any(2).sum(1)).abs() <= 1).all())


# Which are asked


def test_margin_and_bald_by_hand() -> None:
    sure, torn = torch.tensor([0.99, 0.01, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    first, second = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    thoughts = torch.stack([torch.stack([sure, torn, first]), torch.stack([sure, torn, second])])
    thoughts = thoughts.clamp_min(1e-12).log()
    assert margin(thoughts).tolist() == pytest.approx([0.02, 1.0, 1.0], abs=1e-5)
    assert bald(thoughts).tolist() == pytest.approx([0.0, 0.0, 0.6931], abs=1e-4)


@given(
    seen=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    wanted=st.integers(0, 40),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_as_many_of_each_class_as_there_are(seen: list[int], wanted: int, seed: int) -> None:
    kinds = torch.tensor(seen)
    scores = torch.rand(len(seen), generator=torch.Generator().manual_seed(seed))
    rows = balanced(scores, kinds, wanted)
    assert len(rows) == min(wanted, len(seen)) == len(set(rows.tolist()))
    taken = torch.bincount(kinds[rows], minlength=5)
    there = torch.bincount(kinds, minlength=5)
    most = int(taken.max())
    assert bool(((taken >= most - 1) | (taken == there)).all())
    for kind in range(5):  # the best of each class
        mine = scores[kinds == kind].sort(descending=True).values[: taken[kind]]
        assert torch.equal(scores[rows[kinds[rows] == kind]].sort(descending=True).values, mine)


# The stage of a run


def test_the_accounts_balance_and_the_student_sees_what_the_teacher_saw(tmp_path: Path) -> None:
    teacher = grown(tmp_path)
    assert teacher.asked == 30 + 30 * 4
    with Run(tmp_path, Counting()) as run:
        assert run.meter.by_stage["grow"] == 120
        transfer = run.transfer_set(images(), "grown")
        bought = run.grown(images())
    assert (len(transfer), transfer.soft) == (150, None)
    assert torch.equal(transfer.images.read(torch.arange(30, 150)), torch.cat(teacher.shown[1:]))
    answers = prototypes(CORNERS / 3).labels(transfer.images.read(torch.arange(150)))
    assert torch.equal(transfer.labels, answers)
    assert torch.equal(torch.bincount(transfer.ids), torch.full((30,), 5))  # each is a parent of 4
    assert torch.equal(transfer.ids[30:], bought.parents)
    assert transfer.images.eight_bit
    found = status(tmp_path)
    assert found["stages"]["grow"] == {"shards": 3, "done": 3, "pending": 0}
    assert found["queries"]["by_stage"]["grow"] == 120


def test_running_again_asks_nothing(tmp_path: Path) -> None:
    grown(tmp_path)
    before = files(tmp_path)
    assert grown(tmp_path).asked == 0
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "acquisition", ["random", "margin", pytest.param("bald", marks=pytest.mark.slow)]
)
def test_a_stop_at_any_question_changes_nothing(tmp_path: Path, acquisition: str) -> None:
    wanted = Grow(per_image=4, rounds=2, shard=40, choose=acquisition)  # type: ignore[arg-type]
    whole = grown(tmp_path / "whole", wanted)
    for number in range(len(whole.shown)):
        folder, first = tmp_path / str(number), Counting(dies_at=number)
        with pytest.raises(KeyboardInterrupt), Run(folder, first) as run:
            run.grow(images(), wanted)
        second = grown(folder, wanted)
        assert files(folder) == files(tmp_path / "whole")
        assert [*first.shown, *second.shown] != []
        assert torch.equal(torch.cat([*first.shown, *second.shown]), torch.cat(whole.shown))


def test_the_budget_is_kept_to_the_query_and_more_goes_on(tmp_path: Path) -> None:
    teacher = Counting()
    with (
        Run(tmp_path, teacher, budget=Budget(queries=100)) as run,
        pytest.raises(BudgetExhausted),
    ):
        run.grow(images(), SMALL)
    assert teacher.asked <= 100
    with Run(tmp_path, teacher, budget=Budget(queries=150)) as run:
        run.grow(images(), SMALL)
        assert run.meter.spent == teacher.asked == 150


def test_candidates_are_chosen_and_no_more_than_wanted_are_asked(tmp_path: Path) -> None:
    wanted = Grow(per_image=4, rounds=2, shard=40, choose="margin", candidates=3)
    assert grown(tmp_path, wanted).asked == 150
    assert {path.name for path in (tmp_path / "grow").glob("surrogate*")} == {
        "surrogate-00.safetensors",
        "surrogate-01.safetensors",
    }


def test_other_settings_are_refused_in_the_same_folder(tmp_path: Path) -> None:
    grown(tmp_path)
    with pytest.raises(ConfigurationDiffers, match="per_image: 4 -> 5"):
        grown(tmp_path, Grow(per_image=5, rounds=2, shard=40))


def test_flips_that_change_the_class_are_left_out_later(tmp_path: Path) -> None:
    """A teacher that tells left from right, and one that does not."""
    draw = torch.Generator().manual_seed(0)
    left = torch.rand(40, 1, 4, 4, generator=draw) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    own = TensorImages(torch.cat([left, left.flip(3)]))
    wanted = Grow(per_image=4, rounds=4, augmentations=("flip",))
    sides = function(
        lambda x: x[..., 2:].flatten(1).sum(1) > x[..., :2].flatten(1).sum(1), classes=2
    )
    light = function(lambda x: x.flatten(1).sum(1) > 4, classes=2)
    for name, teacher, stays in (("sides", sides, False), ("light", light, True)):
        with Run(tmp_path / name, teacher) as run:
            run.grow(own, wanted)
        shards = finished(Journal(tmp_path / name / "journal.jsonl", read_only=True), "grow")
        flips = [record["kept"][1][1] for record in shards.values()]
        assert flips[0] > 0
        assert [count > 0 for count in flips[1:]] == [stays] * 3


def test_images_that_are_no_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    own = TensorImages(torch.rand(10, 3, 4, 4) * 2 - 1)
    teacher = function(lambda x: x.flatten(1).sum(1) > 0, classes=2, bounds=(-1.0, 1.0))
    with Run(tmp_path, teacher) as run:
        run.grow(own, Grow(per_image=3))
        transfer = run.transfer_set(own, "grown")
    found = transfer.images.read(torch.arange(40))
    assert -1 <= float(found.min()) < 0 < float(found.max()) <= 1
    assert torch.equal(teacher.labels(found), transfer.labels)


def test_bytes_stay_bytes_where_the_teacher_takes_more(tmp_path: Path) -> None:
    """A teacher that takes -1 to 1 is shown nothing that a byte cannot hold."""
    teacher = function(lambda x: x.flatten(1).sum(1) > 4, classes=2, bounds=(-1.0, 1.0))
    with Run(tmp_path, teacher) as run:
        run.grow(images(), Grow(per_image=3, augmentations=("shade", "noise")))
        transfer = run.transfer_set(images(), "grown")
    found = transfer.images.read(torch.arange(120))
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(teacher.labels(found), transfer.labels)


# Nonsense, and what is left


@pytest.mark.parametrize(
    ("own", "classes"), [(images(1), 4), (TensorImages(torch.zeros(9, 1, 4, 4)), 4)]
)
def test_one_image_or_one_class_still_grow(tmp_path: Path, own: Images, classes: int) -> None:
    for acquisition in ("random", "margin"):
        wanted = Grow(per_image=5, choose=acquisition)  # type: ignore[arg-type]
        assert grown(tmp_path / acquisition, wanted, own).asked == 6 * len(own)


def test_a_teacher_that_ignores_the_image(tmp_path: Path) -> None:
    teacher = function(lambda x: torch.full((len(x),), 2), classes=4)
    with Run(tmp_path, teacher) as run:
        run.grow(images(), Grow(per_image=4, choose="bald"))
        assert set(run.transfer_set(images(), "grown").labels.tolist()) == {2}


def test_growth_switched_off_is_no_growth(tmp_path: Path) -> None:
    assert grown(tmp_path, Grow(per_image=0)).asked == 30
    with Run(tmp_path, Counting()) as run:
        assert len(run.transfer_set(images(), "grown")) == 30


def test_no_change_at_all_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as run, pytest.raises(InputError, match="nothing new"):
        run.grow(images(), Grow(augmentations=()))
    assert teacher.asked == 0


def test_students_that_do_not_fit_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as run, pytest.raises(InputError):
        run.grow(images(), Grow(choose="margin", surrogate="lenet5"))
    assert teacher.asked == 0


def test_without_growth_there_is_no_transfer_set(tmp_path: Path) -> None:
    with Run(tmp_path, Counting()) as run:
        run.answers(images())
        with pytest.raises(InputError, match="grow them first"):
            run.transfer_set(images(), "grown")


def test_a_cut_shard_is_named_and_can_be_bought_again(tmp_path: Path) -> None:
    grown(tmp_path)
    whole, path = files(tmp_path), tmp_path / "grow" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with Run(tmp_path, Counting()) as run, pytest.raises(Damaged, match="00001"):
        run.transfer_set(images(), "grown")
    teacher = Counting()
    with Run(tmp_path, teacher, redo_damaged=True) as run:
        run.grow(images(), SMALL)
        assert run.meter.by_stage["grow"] == 120 + 40
    assert teacher.asked == 40
    assert files(tmp_path) == whole


def test_memory_bounds_split_blocks_and_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "BLOCK_BYTES", 16 * 4 * 7)
    monkeypatch.setattr(growing, "SHARD_BYTES", 16 * 20)
    teacher = grown(tmp_path, Grow(per_image=4, choose="random"))
    assert max(map(len, teacher.shown[1:])) == 7
    assert status(tmp_path)["stages"]["grow"]["shards"] == 6


# Stored images


@given(rows=st.lists(st.integers(0, 8), max_size=12))
@settings(max_examples=40, deadline=None)
def test_stored_images_are_read_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int]
) -> None:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("stored")
    values = torch.randint(0, 256, (9, 1, 2, 2), dtype=torch.uint8)
    cuts = ((0, 4), (4, 5), (5, 9))
    for number, (start, end) in enumerate(cuts):
        save_file({"images": values[start:end].clone()}, folder / f"{number}.safetensors")
    names = tuple(folder / f"{number}.safetensors" for number in range(3))
    stored = StoredImages(names, (4, 1, 4), (1, 2, 2), eight_bit=True)
    found = stored.read(torch.tensor(rows, dtype=torch.int64))
    assert torch.equal(found, values[rows].float() / 255)


def test_stored_images_say_what_is_wrong(tmp_path: Path) -> None:
    stored = StoredImages((tmp_path / "none.safetensors",), (2,), (1, 2, 2), eight_bit=True)
    with pytest.raises(InputError, match="row 2"):
        stored.read(torch.tensor([2]))
    with pytest.raises(Damaged, match=r"none\.safetensors"):
        stored.read(torch.tensor([0]))


# A student of both kinds of labels


def test_a_student_of_grown_images_learns_them(tmp_path: Path) -> None:
    from db3kd.student.networks import build

    with Run(tmp_path, Counting()) as run:
        run.grow(images(), SMALL)
        transfer = run.transfer_set(images(), "grown")
        network = build("small", (1, 4, 4), 4, seed=0)
        student = run.distill(network, transfer, Training(steps=200, rate=0.01), name="grown")
        found = run.evaluate(student, images())
    assert found.agreement > 0.9
