"""Public photographs: what is asked, what the trial finds, what a stop changes, and bad pools."""

import logging
from pathlib import Path

import msgspec
import pytest
import torch
from PIL import Image
from torch import Tensor

import db3kd.stages.ensemble_labels as ensemble_labels
import db3kd.stages.synthesis as stage
import db3kd.synthesis.chosen as chosen
import db3kd.synthesis.public as public
from closed_form import Watched, prototypes
from db3kd.config.settings import Synthesis, Training
from db3kd.data import Images, TensorImages, load
from db3kd.errors import ConfigurationDiffers, InputError
from db3kd.run import Run
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.public import SOURCES, Sources, judged
from db3kd.synthesis.way import Task
from db3kd.teachers import function
from db3kd.teachers.base import Teacher

SHAPE = (1, 4, 4)
CORNERS = torch.eye(16)[:4]
SMALL = Synthesis(
    way="public", ensemble_labels=0, queries=120, rounds=3, width=1.0, members=1, candidates=2
)


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "LEAST_STEPS", 3)
    monkeypatch.setattr(chosen, "MOST_STEPS", 3)
    monkeypatch.setattr(public, "LESSON", Training(batch=16, steps=3))
    monkeypatch.setattr(public, "FEWEST", 40)
    monkeypatch.setattr(public, "FOLDS", 2)


def photos(count: int = 5, seed: int = 0) -> TensorImages:
    draw = torch.Generator().manual_seed(seed)
    return TensorImages((torch.rand(count, 3, 11, 17, generator=draw) * 255).to(torch.uint8))


class Counting(Watched):
    """The corners' prototypes."""

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(prototypes(CORNERS), dies_at)


def asked(folder: Path, teacher: Teacher, images: Images | None = None, **more: object) -> Run:
    with Run(folder, teacher) as run:
        run.synthesize(SHAPE, msgspec.structs.replace(SMALL, **more), images=images or photos())
        return run


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.safetensors")
    }


def facts(run: Run) -> list[dict[str, object]]:
    return [record for record in run.journal.all("shard") if record["stage"] == "synthesis"]


def test_sources_are_asked_equally_until_a_trial_and_the_books_say_so(tmp_path: Path) -> None:
    teacher = Counting()
    found = facts(asked(tmp_path, teacher))
    assert teacher.asked == 120
    assert found[0]["sources"] == {"shapes": 13, "crops": 13, "filled shapes": 14, "descendants": 0}
    assert [("trial" in record) for record in found] == [False, True, False]
    assert all((record["photographs"], record["damaged"]) == (5, 0) for record in found)
    for record in found[1:]:
        assert sum(record["sources"].values()) == 40  # type: ignore[attr-defined]
        assert record["sources"]["descendants"] > 5  # type: ignore[index]


def test_a_stop_at_any_question_changes_nothing(tmp_path: Path) -> None:
    whole = Counting()
    asked(tmp_path / "whole", whole)
    assert len(whole.shown) == 3
    for number in (1, 2):  # before the trial, and after it
        folder, first, second = tmp_path / str(number), Counting(dies_at=number), Counting()
        with pytest.raises(KeyboardInterrupt):
            asked(folder, first)
        asked(folder, second)
        assert first.asked + second.asked == whole.asked
        assert files(folder) == files(tmp_path / "whole")


def test_images_that_an_ensemble_labels_come_from_the_same_sources_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 3)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 3)
    asked(tmp_path / "whole", Counting(), ensemble_labels=20)
    asked(tmp_path / "later", Counting())  # and the ensemble in another process
    later = Counting()
    asked(tmp_path / "later", later, ensemble_labels=20)
    assert later.asked == 0
    assert files(tmp_path / "later") == files(tmp_path / "whole")


def test_another_pool_under_the_same_name_is_refused(tmp_path: Path) -> None:
    teacher = Counting()
    asked(tmp_path, teacher)
    with pytest.raises(ConfigurationDiffers, match="their content or their order is another; put"):
        asked(tmp_path, teacher, photos(seed=1))
    asked(tmp_path, teacher, photos())
    assert teacher.asked == 120


@pytest.mark.parametrize("way", ["unrelated", "public"])
def test_a_folder_that_does_not_know_its_pool_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    images = TensorImages(torch.rand(9, *SHAPE, generator=torch.Generator().manual_seed(0)))
    with monkeypatch.context() as earlier:
        earlier.setattr(stage, "POOL", "drawing")  # no word of its own
        earlier.setattr(stage, "_digest", lambda workspace, images: stage.DRAWING)
        asked(tmp_path, Counting(), images, way=way)
    again = Counting()
    asked(tmp_path, again, images, way=way)
    assert again.asked == 0


# The trial


def pool_of(teach: Teacher, count: int) -> tuple[Pool, Task]:
    """A pool of which a third each is dark, light and of any brightness, with these sources."""
    from db3kd.student.networks import build

    draw = torch.Generator().manual_seed(0)
    pool = Pool(3 * count, SHAPE, teach, eight_bit=True)
    pool.allow(3 * count)
    even = torch.rand(3, count, *SHAPE, generator=draw)
    level = torch.rand(count, 1, 1, 1, generator=draw)
    some = torch.cat([0.2 * even[0], 0.8 + 0.2 * even[1], 0.9 * level + 0.1 * even[2]])
    origins = torch.stack([torch.arange(3).repeat_interleave(count), torch.full((3 * count,), -1)])
    pool.ask(some, origins.T)
    task = Task(
        SHAPE,
        4,
        queries=3 * count,
        device="cpu",
        student=lambda seed: build("small", SHAPE, 4, seed=seed),
    )
    return pool, task


def test_the_source_that_teaches_all_classes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four classes by brightness: only images of any brightness have all of them."""
    monkeypatch.setattr(public, "LESSON", Training(batch=32, steps=60))
    bright = function(lambda images: (images.flatten(1).mean(1) * 3.999).long(), classes=4)
    pool, task = pool_of(bright, 120)
    found = judged(pool, task, seed=0, report=lambda what, done, total: None)
    assert found.held == 360
    dark, light, any_of_them, mixed = found.agreement
    assert max(dark, light) < mixed < any_of_them
    assert found.best in (2, None)


def test_a_source_must_be_clearly_better_than_the_mixture() -> None:
    assert Sources([0.5, 0.3, 0.4, 0.45], [0.02] * 3, 90).best == 0
    assert Sources([0.5, 0.3, 0.4, 0.45], [0.06] * 3, 90).best is None
    assert Sources([0.3, 0.3, 0.3, 0.3], [0.0] * 3, 90).best is None


@pytest.mark.parametrize("best", range(3))
def test_the_winner_makes_all_that_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int, caplog: pytest.LogCaptureFixture
) -> None:
    agreement = [0.9 if number == best else 0.1 for number in range(3)]
    found = Sources([*agreement, 0.5], [0.0] * 3, 40)
    monkeypatch.setattr(public, "judged", lambda *_, **__: found)
    with caplog.at_level(logging.INFO):
        run = asked(tmp_path, Counting())
    others = [name for number, name in enumerate(SOURCES) if number != best]
    for record in facts(run)[1:]:
        assert all(record["sources"][name] == 0 for name in others)  # type: ignore[index]
    assert f"new images are {SOURCES[best]} (agreement on 40 answers held back" in caplog.text


# Pools that are no good


def test_a_pool_of_one_image(tmp_path: Path) -> None:
    teacher = Counting()
    asked(tmp_path, teacher, photos(1))
    assert teacher.asked == 120


def test_a_pool_that_never_hits_a_class_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    never = function(lambda images: (images.flatten(1).mean(1) > 0.5).long(), classes=9)
    with caplog.at_level(logging.WARNING):
        run = asked(tmp_path, never)
    assert len(facts(run)) == 3
    assert "no pseudo sample is of class 2, 3, 4, 5, 6, 7, 8 (7 of 9 classes)" in caplog.text


class Late(Watched):
    """Names a class at its last answer only."""

    def __init__(self, at: int) -> None:
        super().__init__(prototypes(CORNERS))
        self.at = at

    def labels(self, images: Tensor, /) -> Tensor:
        found = super().labels(images).clamp(max=2)
        if self.asked >= self.at:
            found[-1] = 3
        return found


def test_a_class_that_appears_at_the_last_answer_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run = asked(tmp_path, Late(120))
    assert facts(run)[-1]["counts"][3] == 1  # type: ignore[index]
    assert "fewer than 5 pseudo samples each are of class 3" in caplog.text


def test_a_teacher_that_mostly_does_not_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Unsure:
        classes, bounds, unsure = 3, (0.0, 1.0), 2

        def labels(self, images: Tensor, /) -> Tensor:
            bright = images.flatten(1).mean(1)
            return torch.where(bright < 0.6, 2, (bright > 0.7).long())

    with caplog.at_level(logging.WARNING), Run(tmp_path, Unsure()) as run:
        samples = run.synthesize(SHAPE, SMALL, images=photos())
        unknown = run.pseudo.counts[2]
    assert unknown > 60
    assert len(samples) == 120 - unknown
    assert f"did not know the class of {unknown} of 120 pseudo samples" in caplog.text
    assert "class 2" not in caplog.text  # "I do not know" is no class to miss


def test_damaged_files_are_counted_in_the_books(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (20 + number, 30), (40 * number, 9, 9)).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"no image")
    images = load(str(folder), "train", channels=1).images
    with caplog.at_level(logging.WARNING):
        run = asked(tmp_path / "run", Counting(), images)
    assert facts(run)[0]["damaged"] == 1
    assert "1 of 6 photographs cannot be used and are left out" in caplog.text


def test_without_photographs_nothing_is_asked(tmp_path: Path) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as run, pytest.raises(InputError, match="there are no photographs"):
        run.synthesize(SHAPE, SMALL)
    assert teacher.asked == 0
