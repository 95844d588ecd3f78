"""Pseudo samples: images of shapes, what a run buys without any data, what a stop changes."""

import logging
import platform
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

import db3kd.stages.ascent as ascent_stage
import db3kd.stages.ensemble_labels as ensemble_labels
import db3kd.stages.synthesis as synthesis
import db3kd.stages.workspace as workspaces
import db3kd.student.optimisers as optimisers
import db3kd.synthesis.at_random as at_random
import db3kd.synthesis.chosen as chosen
from closed_form import Watched, Watching, prototypes
from db3kd.config.settings import (
    WITH_IMAGES,
    AscentPlan,
    Budget,
    Optimiser,
    Search,
    Synthesis,
    Training,
    Ways,
    settled,
)
from db3kd.data import TensorImages
from db3kd.data.digest import of_file
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import BudgetExhausted, ConfigurationDiffers, Damaged, InputError
from db3kd.run import Run
from db3kd.stages.accounts import status
from db3kd.stages.formats import FORMAT
from db3kd.stages.synthesis import planned_total
from db3kd.student.training import train
from db3kd.synthesis import WAYS
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.way import Way
from db3kd.teachers import function

SHAPE = (1, 4, 4)
CORNERS = torch.eye(16)[:4] * 3
SMALL = Synthesis(ensemble_labels=0, queries=90, rounds=3, width=1.0)
OWN = [SMALL, msgspec.structs.replace(SMALL, way="latent")]  # the ways in which students choose
OWN_ONE_SLOW = [OWN[0], pytest.param(OWN[1], marks=pytest.mark.slow)]

X86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="they were made on x86, and arithmetic elsewhere rounds otherwise",
)
STOPPED = {  # the beginnings of the digests of what was still to come
    "shapes": ["1a00f1711fe063a9", "d8bf3b1cf7ebacb8"],
    "noise": ["99f0b7bdc0e2e018", "3a51965b793225ee"],
}


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEAST_STEPS", "MOST_STEPS", "LONG_LEAST", "LONG_MOST"):
        monkeypatch.setattr(chosen, name, 20)
    for module in (chosen, at_random):
        monkeypatch.setattr(module, "ASKED", 16)


class Counting(Watched):
    """The corners' prototypes."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(prototypes(CORNERS / 3), dies_at)


def made(folder: Path, settings: Synthesis = SMALL) -> Counting:
    teacher = Counting()
    with Run(folder, teacher) as run:
        run.synthesize(SHAPE, settings)
    return teacher


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.safetensors")
    }


# The stage


@pytest.mark.parametrize("way", ["chosen", "latent", "shapes", "noise"])
def test_a_run_asks_as_many_as_it_says(tmp_path: Path, way: str) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher, budget=Budget(queries=100)) as run:
        samples = run.synthesize(
            SHAPE, Synthesis(ensemble_labels=0, way=way, rounds=3), reserved=10
        )
        assert run.meter.spent == teacher.asked == len(samples) == sum(run.pseudo.counts) == 90
        shown = torch.cat(teacher.shown)
        assert torch.equal(samples.images.read(torch.arange(90)), shown)
        assert torch.equal(samples.teacher_labels, teacher.teacher.labels(shown))
    assert status(tmp_path)["stages"]["synthesis"] == {"shards": 3, "done": 3, "pending": 0}


def test_students_ask_less_of_the_commonest_class_than_shapes_do(tmp_path: Path) -> None:
    most = {}
    for way in ("chosen", "latent", "shapes"):
        with Run(tmp_path / way, Counting()) as run:
            run.synthesize(
                SHAPE, Synthesis(ensemble_labels=0, way=way, queries=240, rounds=4, width=1.0)
            )
            most[way] = max(run.pseudo.counts)
    assert max(most["chosen"], most["latent"]) < most["shapes"]


def test_students_are_shown_a_few_large_images_at_a_time() -> None:
    network = Watching()
    images = torch.rand(60, 1, 1, 1).expand(60, 3, 224, 224)
    students = nn.ModuleList([network])
    said = chosen.thoughts(students, images)
    assert said.shape == (1, 60, 4)
    assert ensemble_labels._together(said).shape == (60, 4)
    assert network.shown == [27, 27, 6]


def test_the_seed_decides_and_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    with Run(tmp_path / "three", Counting(), seed=1) as run:
        run.synthesize(SHAPE, SMALL)
    assert files(tmp_path / "three") != files(tmp_path / "one")


@pytest.mark.parametrize("own", OWN_ONE_SLOW, ids=["chosen", "latent"])
def test_a_stop_at_any_question_changes_nothing(tmp_path: Path, own: Synthesis) -> None:
    whole = made(tmp_path / "whole", own)
    for at in range(len(whole.shown)):
        folder = tmp_path / str(at)
        dying = Counting(dies_at=at)
        with pytest.raises(KeyboardInterrupt), Run(folder, dying) as run:
            run.synthesize(SHAPE, own)
        rest = made(folder, own)
        assert files(folder) == files(tmp_path / "whole")
        # The question in flight was booked, never answered, and is asked once more.
        assert dying.asked + rest.asked == whole.asked
        assert status(folder)["queries"]["spent"] == whole.asked + status(folder)["queries"]["lost"]


def test_a_stop_between_a_lesson_kept_and_its_shard_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "whole")
    monkeypatch.setattr("db3kd.stages.workspace.write_shard", _dying(monkeypatch, at=4))
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "cut", Counting()) as run:
        run.synthesize(SHAPE, SMALL)
    monkeypatch.undo()
    monkeypatch.setattr(chosen, "LEAST_STEPS", 20)
    monkeypatch.setattr(chosen, "MOST_STEPS", 20)
    monkeypatch.setattr(chosen, "ASKED", 16)
    teacher = made(tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert teacher.asked == 30  # the answers of the second shard were on its tape


def _dying(monkeypatch: pytest.MonkeyPatch, at: int):  # type: ignore[no-untyped-def]
    from db3kd.storage.shards import write_shard

    written: list[Path] = []

    def write(path: Path, tensors: dict[str, Tensor]) -> str:
        written.append(path)
        if len(written) == at:
            raise KeyboardInterrupt
        return write_shard(path, tensors)

    return write


def test_a_damaged_shard_is_bought_again_with_what_was_known_before_it(tmp_path: Path) -> None:
    made(tmp_path)
    whole = files(tmp_path)
    (tmp_path / "synthesis" / "00001.safetensors").write_bytes(b"nothing")
    with pytest.raises(Damaged, match="00001"):
        made(tmp_path)
    with Run(tmp_path, Counting(), redo_damaged=True) as run:
        run.synthesize(SHAPE, SMALL)
        assert run.meter.spent == 120
    assert files(tmp_path) == whole


def test_a_missing_lesson_is_named(tmp_path: Path) -> None:
    teacher = Counting(dies_at=5)
    with pytest.raises(KeyboardInterrupt), Run(tmp_path, teacher) as run:
        run.synthesize(SHAPE, SMALL)
    for file in (tmp_path / "synthesis").glob("surrogate-*"):
        file.unlink()
    with pytest.raises(Damaged, match=r"before shard 2 .* surrogate-02"):
        made(tmp_path)


def test_other_settings_are_refused(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(ConfigurationDiffers, match='way: "chosen" -> "noise"'):
        made(tmp_path, Synthesis(ensemble_labels=0, queries=90, rounds=3, width=1.0, way="noise"))


def test_a_budget_that_was_raised_changes_no_plan(tmp_path: Path) -> None:
    for queries in (60, 600):
        with Run(tmp_path, Counting(), budget=Budget(queries=queries)) as run:
            samples = run.synthesize(SHAPE, Synthesis(ensemble_labels=0, way="noise"))
            assert len(samples) == run.planned_synthesis() == 60


def test_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    teacher = Counting()
    with (
        Run(tmp_path, teacher, budget=Budget(queries=70)) as run,
        pytest.raises(BudgetExhausted),
    ):
        run.synthesize(SHAPE, SMALL)
    assert teacher.asked <= 70
    with Run(tmp_path, Counting(), budget=Budget(queries=90)) as run:
        assert len(run.synthesize(SHAPE, SMALL)) == run.meter.spent == 90


def test_a_plan_is_what_a_budget_leaves() -> None:
    assert planned_total(Synthesis(queries=7), budget=3, reserved=1) == 7
    assert planned_total(Synthesis(), budget=None, reserved=1) == 25_000
    assert planned_total(Synthesis(), budget=3, reserved=5) == 0


# Large totals


def test_students_learn_a_few_times_however_many_shards_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = msgspec.structs.replace(SMALL, shard=10, rounds=1)
    lessons: list[int] = []

    def taught(students: object, pool: Pool, training: Training, **_: object) -> None:
        lessons.append(len(pool))

    monkeypatch.setattr(chosen, "teach_all", taught)
    monkeypatch.setattr(synthesis, "LESSONS", 4)
    assert made(tmp_path / "four", many).asked == 90
    assert lessons == [30, 50, 70]  # of nine shards, in four rounds; the first has no students
    lessons.clear()
    made(tmp_path / "three", SMALL)
    assert lessons == [30, 60]  # as many as there are shards


@pytest.mark.parametrize("total", [1, 90, 25_000, 262_144, 262_145, 1_000_000, 10_000_000])
@pytest.mark.parametrize("rounds", [1, 8, 40])
def test_lessons_are_between_shards_and_never_too_many(total: int, rounds: int) -> None:
    size = min(16_384, -(-total // rounds))
    found = sorted(synthesis.lessons(total, size, rounds))
    shards = -(-total // size)
    assert all(asked % size == 0 and 0 < asked < total for asked in found)
    assert len(found) + 1 == min(shards, max(16, rounds))
    gaps = [b - a for a, b in zip([0, *found], [*found, shards * size], strict=True)]
    assert max(gaps) - min(gaps) in (0, size)


@pytest.mark.parametrize("own", OWN_ONE_SLOW, ids=["chosen", "latent"])
def test_pseudo_samples_in_files_are_the_same_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Synthesis
) -> None:
    wanted = msgspec.structs.replace(own, ensemble_labels=20)
    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 20)
    whole = made(tmp_path / "memory", wanted)
    rooms: list[int] = []
    monkeypatch.setattr(synthesis, "MEMORY", 0)
    monkeypatch.setattr(synthesis, "Pool", _noting(rooms))
    dying = Counting(dies_at=len(whole.shown) // 2)
    with pytest.raises(KeyboardInterrupt), Run(tmp_path / "files", dying) as run:
        run.synthesize(SHAPE, wanted)
    made(tmp_path / "files", wanted)
    assert files(tmp_path / "files") == files(tmp_path / "memory")
    assert rooms == [30, 30]  # of 90 images


def _noting(rooms: list[int]):  # type: ignore[no-untyped-def]
    def pool(*given: object, room: int, **more: object) -> Pool:
        rooms.append(room)
        return Pool(*given, room=room, **more)  # type: ignore[arg-type]

    return pool


# Folders of versions that drew images from other numbers


@pytest.mark.parametrize("way", ["shapes", "noise", "chosen", "latent"])
@X86
def test_a_shard_that_an_earlier_version_was_stopped_in_is_continued(
    tmp_path: Path, way: Ways, caplog: pytest.LogCaptureFixture
) -> None:
    """No answer is bought again, and the images are those that the version would have asked."""
    folder = tmp_path / way
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "stopped" / way, folder)
    rest = made(folder, msgspec.structs.replace(SMALL, way=way))
    assert rest.asked == 90 - 46
    assert "cannot be used" not in caplog.text
    found = [of_file(folder / "synthesis" / f"0000{shard}.safetensors")[:16] for shard in (1, 2)]
    if way in STOPPED:  # without students, whose training is rounded as the machine rounds
        assert found == STOPPED[way]
    new = tmp_path / "new"
    made(new, msgspec.structs.replace(SMALL, way=way))
    assert files(new) != files(folder)


# Soft labels by distance


def test_pseudo_samples_have_distances_and_their_classes_are_not_asked_again(
    tmp_path: Path,
) -> None:
    search = Search(strategy="rows", queries=40, probes=10, references=3, shard=30)
    teacher = Counting()
    with Run(tmp_path, teacher) as run:
        samples = run.synthesize(SHAPE, Synthesis(ensemble_labels=0, queries=60, way="shapes"))
        with pytest.raises(InputError, match="not measured yet"):
            run.pseudo.measured()
        softened = run.measure_pseudo(search)
        spent = dict(run.meter.by_stage)
        assert spent["answers"] == 0
        assert 0 < spent["pseudo/distances"] <= 60 * 3 * 40
        assert run.meter.spent == teacher.asked
        assert softened.soft is not None
        assert torch.equal(softened.soft.argmax(1), samples.teacher_labels)
        again = run.pseudo.measured()
        assert torch.equal(again.soft, softened.soft)
        assert teacher.asked == run.meter.spent


@pytest.mark.parametrize("stage", ["distances", "rounds"])
def test_the_limit_of_a_stage_counts_what_pseudo_samples_buy(tmp_path: Path, stage: str) -> None:
    together = Search(surrogate="none", per_image=10, references=3, shard=30)
    rows = Search(strategy="rows", queries=40, probes=10, references=3, shard=30)
    teacher, limit = Counting(), 130
    budget = Budget(stages={stage: limit})  # type: ignore[dict-item]
    with Run(tmp_path, teacher, budget=budget) as run:
        run.synthesize(SHAPE, Synthesis(ensemble_labels=0, queries=60, way="shapes"))
        with pytest.raises(BudgetExhausted) as stopped:
            run.measure_pseudo(rows if stage == "distances" else together)
        assert stopped.value.stage == stage
        assert 0 < run.meter.by_stage[f"pseudo/{stage}"] <= limit
        assert teacher.asked == run.meter.spent


# Teachers that nothing can be learned from


@pytest.mark.usefixtures("hasty_rivals")
@pytest.mark.parametrize("way", sorted(set(WAYS) - set(WITH_IMAGES)))
def test_a_teacher_that_answers_one_class_ends_and_is_named(
    tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    same = function(lambda images: torch.zeros(len(images), dtype=torch.int64), classes=100)
    with caplog.at_level(logging.WARNING), Run(tmp_path, same) as run:
        samples = run.synthesize(
            (1, 13, 9), Synthesis(ensemble_labels=0, way=way, queries=40, rounds=2)
        )
        assert len(samples) == 40
        assert run.pseudo.counts == [40] + [0] * 99
    assert "no pseudo sample is of class 1, 2, 3" in caplog.text
    assert "99 of 100 classes" in caplog.text


def test_a_hundred_classes_of_which_three_are_met(tmp_path: Path) -> None:
    def ask(images: Tensor) -> Tensor:
        return (images.flatten(1).mean(1) * 2.999).long()

    with Run(tmp_path, function(ask, classes=100)) as run:
        samples = run.synthesize(SHAPE, SMALL)
        assert set(samples.teacher_labels.tolist()) <= {0, 1, 2}
        assert sum(run.pseudo.counts) == 90


def test_a_budget_that_leaves_nothing_is_told(tmp_path: Path) -> None:
    with (
        Run(tmp_path, Counting(), budget=Budget(queries=5)) as run,
        pytest.raises(InputError, match="leaves none for pseudo samples, since 5 are for test"),
    ):
        run.synthesize(SHAPE, reserved=5)


def test_a_student_that_does_not_fit_is_refused_before_anything_is_bought(tmp_path: Path) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as run:
        with pytest.raises(InputError, match="lenet5 needs images of at least 16x16"):
            run.synthesize(SHAPE, Synthesis(surrogate="lenet5"))
        with pytest.raises(InputError, match="not all made yet"):
            run.pseudo.whole()
    assert teacher.asked == 0


def test_every_name_is_a_way() -> None:
    from typing import get_args

    from db3kd.config.settings import Ways
    from db3kd.student.networks import build
    from db3kd.synthesis.way import Task

    assert {*WAYS, "ascent"} == set(get_args(Ways))
    images = TensorImages(torch.zeros(5, 1, 8, 8))
    task = Task(
        (1, 8, 8), 4, 9, "cpu", lambda seed: build("small", (1, 8, 8), 4, seed=seed), images=images
    )
    assert all(isinstance(make(task, seed=0), Way) for make in WAYS.values())


# ZSDB3KD: noise of every class, pushed away from the boundary

LITTLE = Synthesis(
    way="ascent",
    ascent=AscentPlan(
        samples=12, iterations=4, queries=150, search=60, every=2, copies=2, shard=5, step=0.1
    ),
)


def test_the_ascent_is_booked_and_its_samples_hold_their_class(tmp_path: Path) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as run:
        samples = run.synthesize(SHAPE, LITTLE)
        stages = ("starts", "ascent", "copies")
        assert run.meter.spent == teacher.asked == run.costs.stages(*stages).queries
        assert run.meter.spent <= run.planned_synthesis(LITTLE) == 12 * (50 + 150 + 2)
        assert run.meter.by_stage["copies"] == 24
        pixels = samples.images.read(torch.arange(36))
        assert torch.equal(samples.teacher_labels, teacher.teacher.labels(pixels))
        assert torch.bincount(samples.teacher_labels[:12]).tolist() == [3, 3, 3, 3]
        assert sum(run.pseudo.counts) == len(samples) == 36
        away = torch.cdist(pixels[12:].flatten(1), pixels[:12].flatten(1))
        parents = torch.arange(12).repeat_interleave(2)
        assert bool((away > 0.01).all())  # changed
        assert away.gather(1, parents[:, None]).mean() < 0.9 * away.mean()  # and still like them
        last = run.pseudo.asked()
        assert torch.equal(last.images.read(torch.arange(12)), pixels[:12])
        assert len(last) == 12
        noise = run.pseudo.after(0)
        found = noise.images.read(torch.arange(12))
        assert torch.equal(noise.teacher_labels, teacher.teacher.labels(found))
        assert not torch.equal(found, pixels[:12])
        early = run.pseudo.after(2)
        assert torch.equal(early.teacher_labels, samples.teacher_labels[:12])
        seen = torch.cat(teacher.shown)
        for image in early.images.read(torch.arange(len(early))):
            assert bool((seen == image).flatten(1).all(1).any())  # what the teacher was shown
        with pytest.raises(InputError, match="after 3 iterations were not kept"):
            run.pseudo.after(3)
        evolution = run.pseudo.evolution(4)
        assert evolution is not None
        assert evolution.shape == (4, 3, *SHAPE)
        assert not torch.equal(evolution[:, 0], evolution[:, 2])
    found = status(tmp_path)["stages"]
    assert found["starts"] == {"shards": 1, "done": 1, "pending": 0}
    assert found["ascent"] == found["copies"] == {"shards": 3, "done": 3, "pending": 0}


@pytest.mark.parametrize("step", [127, pytest.param(19, marks=pytest.mark.slow)])
def test_a_stop_at_questions_of_the_ascent_changes_nothing(tmp_path: Path, step: int) -> None:
    whole = made(tmp_path / "whole", LITTLE)
    for at in range(0, len(whole.shown), step):
        folder = tmp_path / str(at)
        dying = Counting(dies_at=at)
        with pytest.raises(KeyboardInterrupt), Run(folder, dying) as run:
            run.synthesize(SHAPE, LITTLE)
        rest = made(folder, LITTLE)
        assert files(folder) == files(tmp_path / "whole")
        assert dying.asked + rest.asked == whole.asked


def test_a_stop_between_ascent_and_copies_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ascent_stage, "_copy", stopped)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, LITTLE)
    found = status(tmp_path)
    assert found["stage"] == "copies"
    assert found["stages"]["ascent"]["pending"] == 0
    assert "copies" not in found["stages"]
    assert made(tmp_path, LITTLE).asked == 24


def test_copies_of_the_ascent_have_a_budget_of_their_own(tmp_path: Path) -> None:
    with (
        Run(tmp_path, Counting(), budget=Budget(stages={"copies": 10})) as run,
        pytest.raises(BudgetExhausted, match="copies"),
    ):
        run.synthesize(SHAPE, LITTLE)
    found = status(tmp_path)
    assert found["stage"] == "copies"
    assert found["stages"]["copies"] == {"shards": 3, "done": 1, "pending": 2}
    assert found["queries"]["by_stage"]["copies"] == 10
    made(tmp_path, LITTLE)
    made(tmp_path / "whole", LITTLE)
    assert files(tmp_path) == files(tmp_path / "whole")


def test_samples_of_the_ascent_have_soft_labels_by_distance(tmp_path: Path) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as run:
        samples = run.synthesize(SHAPE, LITTLE)
        before = teacher.asked
        search = Search(strategy="rows", queries=30, probes=10, references=3, shard=6)
        softened = run.measure_pseudo(search)
        assert softened.soft is not None
        assert len(softened.soft) == 12
        assert len(softened) == len(samples) == 36
        assert softened.soft_rows is not None
        assert softened.soft_rows.tolist() == [*range(12), *[-1] * 24]  # copies: answers alone
        assert run.meter.by_stage["pseudo/distances"] == teacher.asked - before
        assert run.meter.by_stage["answers"] == 0


def test_an_ascent_without_a_boundary_ends_with_a_sentence(tmp_path: Path) -> None:
    same = function(lambda images: torch.ones(len(images), dtype=torch.int64), classes=4)
    with (
        Run(tmp_path, same) as run,
        pytest.raises(InputError, match="gave all noise class 1, so there is no boundary"),
    ):
        run.synthesize(SHAPE, LITTLE)


def test_a_budget_too_small_for_the_ascent_keeps_what_there_is(tmp_path: Path) -> None:
    teacher = Counting()
    for queries in (300, 700):
        with (
            Run(tmp_path, teacher, budget=Budget(queries=queries)) as run,
            pytest.raises(BudgetExhausted),
        ):
            run.synthesize(SHAPE, LITTLE)
        assert teacher.asked <= run.meter.spent <= queries
    rest = made(tmp_path, LITTLE)
    assert files(tmp_path).keys() >= {"ascent/00000.safetensors", "starts/00000.safetensors"}
    made(tmp_path / "whole", LITTLE)
    assert files(tmp_path) == files(tmp_path / "whole")
    assert rest.asked > 0


# Unlabelled images of something else


@pytest.mark.parametrize("way", ["unrelated", "unrelated_chosen"])
def test_unrelated_images_are_asked_once_each(tmp_path: Path, way: str) -> None:
    draw = torch.Generator().manual_seed(0)
    images = TensorImages((torch.rand(400, *SHAPE, generator=draw) * 255).to(torch.uint8))
    teacher = Counting()
    settings = Synthesis(ensemble_labels=0, way=way, queries=90, rounds=3, width=1.0)
    with Run(tmp_path, teacher) as run:
        run.synthesize(SHAPE, settings, images=images)
    asked = torch.cat(teacher.shown).mul(255).round().to(torch.uint8).flatten(1)
    assert len(asked.unique(dim=0)) == len(asked) == 90
    known = {tuple(image) for image in images.values.flatten(1).tolist()}
    assert all(tuple(image) in known for image in asked.tolist())


def test_unrelated_images_that_are_not_there_or_do_not_fit_are_told(tmp_path: Path) -> None:
    settings = Synthesis(ensemble_labels=0, way="unrelated", queries=9)
    with Run(tmp_path, Counting()) as run:
        with pytest.raises(InputError, match="there are no unrelated images; name a data set"):
            run.synthesize(SHAPE, settings)
        with pytest.raises(InputError, match=r"are \(1, 8, 8\), but the teacher's are \(1, 4, 4\)"):
            run.synthesize(SHAPE, settings, images=TensorImages(torch.zeros(3, 1, 8, 8)))


# Images of which nobody is asked


def test_images_that_nobody_is_asked_about_have_soft_labels_and_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "SHARD", 30)
    wanted = Synthesis(queries=60, rounds=2, width=1.0, ensemble_labels=70)
    teacher = Counting()
    with Run(tmp_path / "whole", teacher) as run:
        samples = run.synthesize(SHAPE, wanted)
        assert run.meter.spent == teacher.asked == 60
        assert sum(run.pseudo.counts) == 60
    assert len(samples) == 130
    assert samples.soft is not None
    assert samples.soft_rows is not None
    assert samples.soft_rows.tolist() == [-1] * 60 + list(range(70))
    assert torch.allclose(samples.soft.exp().sum(1), torch.ones(70), atol=1e-4)
    assert torch.equal(samples.soft.argmax(1), samples.teacher_labels[60:])
    assert (samples.labels[60:] == -1).all()  # they have no label, and are half of each batch
    assert samples.first == 60
    asked = {tuple(image.flatten().tolist()) for image in torch.cat(teacher.shown)}
    more = samples.images.read(torch.arange(60, 130))
    again = asked & {tuple(image.flatten().tolist()) for image in more}
    assert all(len(set(image)) == 1 for image in again)  # one that is black all over
    with Run(tmp_path / "whole", Counting()) as run:
        again = run.pseudo.whole()
        assert torch.equal(again.soft, samples.soft)
        assert (
            len(run.measure_pseudo(Search(strategy="rows", queries=10, probes=4, shard=60))) == 60
        )


@pytest.mark.parametrize(
    ("way", "queries", "learned"),
    [("chosen", 30, 40), ("latent", 30, 40), ("chosen", 50, 50), ("shapes", 30, 30)],
)
def test_images_that_nobody_is_asked_about_fill_up_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Ways, queries: int, learned: int
) -> None:
    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "IMAGES", 40)
    with Run(tmp_path, Counting()) as run:
        wanted = Synthesis(way=way, queries=queries, rounds=1, width=1.0)
        assert len(run.synthesize(SHAPE, wanted)) == learned
        assert run.meter.spent == queries


@pytest.mark.parametrize(
    ("begun", "shallow", "ensemble", "own"),
    [
        (FORMAT, 5, ("muon", "sgd", "adamw"), "sgd"),
        (FORMAT, 0, ("muon", "adamw", "muon"), "muon"),  # every network is deep
        (3, 5, ("muon", "muon", "muon"), "muon"),
    ],
)
def test_an_ensemble_is_trained_as_in_the_format_of_its_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begun: int,
    shallow: int,
    ensemble: tuple[Optimiser, ...],
    own: Optimiser,
) -> None:
    monkeypatch.setattr(optimisers, "SHALLOW", shallow)
    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 20)
    wanted = Synthesis(queries=60, rounds=1, width=1.0, ensemble_labels=30)
    trained: list[Optimiser | None] = []

    def watched(student: nn.Module, known: TransferSet, training: Training, **how: object) -> None:
        trained.append(training.optimiser)
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(student, known, training, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(ensemble_labels, "train", watched)
    with monkeypatch.context() as then:
        then.setattr(workspaces, "FORMAT", begun)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, wanted)
    with Run(tmp_path, Counting()) as run:
        samples = run.synthesize(SHAPE, wanted)
        network = nn.Sequential(nn.Flatten(), nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], 4))
        run.distill(network, samples, Training(steps=1), name="s", seed=0)
        (student,) = run.journal.all("student")
    assert trained == [*ensemble[:2], *ensemble]
    assert settled(msgspec.convert(student["training"], Training)).optimiser == own


def test_of_some_candidates_those_are_kept_of_which_the_ensemble_doubts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 200)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 200)
    margins, rarest = [], []
    for candidates in (1, 8):  # the same answers: a first round takes images as they come
        wanted = Synthesis(
            queries=60, rounds=1, width=1.0, ensemble_labels=200, candidates=candidates
        )
        with Run(tmp_path / str(candidates), Counting()) as run:
            samples = run.synthesize(SHAPE, wanted)
        assert samples.soft is not None
        best = samples.soft.exp().topk(2, dim=1).values
        margins.append(float((best[:, 0] - best[:, 1]).mean()))
        rarest.append(int(samples.teacher_labels[60:].bincount(minlength=4).min()))
    assert margins[1] < margins[0]
    assert rarest[1] > rarest[0]


def test_a_stop_while_nobody_is_asked_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 20)
    monkeypatch.setattr(ensemble_labels, "SHARD", 30)
    wanted = Synthesis(queries=30, rounds=1, width=1.0, ensemble_labels=70)
    made(tmp_path / "whole", wanted)
    for at in (2, 3, 4):  # the ensemble, then its shards
        folder = tmp_path / str(at)
        with monkeypatch.context() as patch:
            patch.setattr("db3kd.stages.workspace.write_shard", _dying(patch, at=at + 1))
            with pytest.raises(KeyboardInterrupt), Run(folder, Counting()) as run:
                run.synthesize(SHAPE, wanted)
        teacher = made(folder, wanted)
        assert files(folder) == files(tmp_path / "whole")
        assert teacher.asked == 0
