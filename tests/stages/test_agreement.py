"""What a folder was begun with, and what it is continued with."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from db3kd.config.remote import Encoding
from db3kd.data import ParquetImages, TensorImages
from db3kd.errors import ConfigurationDiffers, InputError
from db3kd.run import Run
from db3kd.stages.identity import agree_on_images, agree_on_teacher, changes
from db3kd.storage.journal import Journal
from db3kd.teachers import function, quantised
from db3kd.teachers.base import Teacher, identity_of
from db3kd.teachers.cached import CachedTeacher, Store
from db3kd.teachers.meter import Meter

PARTS = st.dictionaries(
    st.sampled_from(["version", "file a", "file b", "code of x"]), st.sampled_from(["1", "2", "3"])
)


def dark(identity: dict[str, str] | None = None) -> Teacher:
    return function(
        lambda images: images.flatten(1).mean(1) > 0.5,
        classes=2,
        identify=None if identity is None else lambda: identity,
    )


@given(old=PARTS, new=PARTS)
def test_a_change_has_two_sides(old: dict[str, str], new: dict[str, str]) -> None:
    assert changes(old, old) == changes(old, {}) == changes({}, new) == []
    assert bool(changes(old, new)) == bool(changes(new, old))
    for name in old.keys() & new.keys():
        assert (old[name] == new[name]) or changes(old, new)


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(PARTS, max_size=6))
def test_what_was_known_once_is_never_forgotten(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    journal, known = Journal(folder / "journal.jsonl"), {}
    for parts in steps:
        try:
            agree_on_teacher(folder, journal, parts)
        except ConfigurationDiffers:
            continue
        for name, value in parts.items():
            if name in ("version", "code of x"):
                assert known.setdefault(name, value) == value
    journal.close()


def test_a_teacher_that_says_who_it_is(tmp_path: Path) -> None:
    for identity in ({"version": "1"}, None, {"version": "1", "host": "a"}):
        with Run(tmp_path, dark(identity)) as run:
            run.answers(TensorImages(torch.zeros(3, 1, 1, 2)))
    with pytest.raises(ConfigurationDiffers, match=r"\(its version is '2', not '1'\)"):
        Run(tmp_path, dark({"version": "2"}))
    with pytest.raises(ConfigurationDiffers, match=r"\(its host is 'b', not 'a'\)"):
        Run(tmp_path, dark(), identity={"host": "b"})
    Run(tmp_path, dark({"version": "1"})).close()  # it was released


def test_teachers_around_a_teacher_have_its_parts(tmp_path: Path) -> None:
    inner = dark({"version": "1"})
    with Store(tmp_path / "answers.db3kd") as store:
        kept = CachedTeacher(inner, store, "dark")
        assert identity_of(Meter(kept)) == {"version": "1", "identity": "dark"}
    assert identity_of(quantised(inner, Encoding(), (1, 1, 1))) == {"version": "1"}
    assert identity_of(dark()) == {}


def test_a_damaged_image_can_be_mended_before_it_was_asked(tmp_path: Path) -> None:
    good = torch.rand(5000, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    bad = good.clone()
    bad[4500, 0, 0, 0] = torch.nan
    with Run(tmp_path, dark()) as run, pytest.raises(InputError, match="image 4500 has a value"):
        run.answers(TensorImages(bad))
    other = good.clone()
    other[4000, 0, 0, 0] += 0.001
    for mended, refused in ((other, True), (good, False), (bad, True)):
        with Run(tmp_path, dark()) as run:
            if refused:
                with pytest.raises(ConfigurationDiffers, match="the images are not those"):
                    run.answers(TensorImages(mended))
            else:
                assert len(run.answers(TensorImages(mended))) == 5000
            assert run.meter.spent in (4096, 5000)


def test_images_in_files_and_in_memory_compare_by_their_ends(tmp_path: Path) -> None:
    from io import BytesIO

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    pixels = torch.arange(60, dtype=torch.uint8).reshape(60, 1, 1, 1)
    files = []
    for each in pixels:
        file = BytesIO()
        Image.fromarray(each[0].numpy()).save(file, "PNG")
        files.append({"bytes": file.getvalue()})
    pq.write_table(pa.table({"image": files}), tmp_path / "a.parquet")
    for images in (ParquetImages([tmp_path / "a.parquet"]), TensorImages(pixels)):
        with Run(tmp_path / "run", dark()) as run:
            assert len(run.answers(images)) == 60
    with Run(tmp_path / "run", dark()) as run:
        with pytest.raises(ConfigurationDiffers, match="content or their order"):
            run.answers(TensorImages(pixels.flip(0)))
        with pytest.raises(ConfigurationDiffers, match="there are 59, not 60"):
            run.answers(TensorImages(pixels[1:]))
        with pytest.raises(ConfigurationDiffers, match=r"their shape is \(3, 1, 1\), not"):
            run.answers(TensorImages(pixels.expand(-1, 3, -1, -1)))


def test_images_of_an_earlier_version_are_compared_by_their_ends_and_then_recorded(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    old = {"samples": 9, "shape": [1, 8, 8], "images": 5}
    journal.append("stage", stage="answers", configuration=old)
    known = {"samples": 9, "shape": [1, 8, 8], "images": "encoded ab", "ends": 5}
    with pytest.raises(ConfigurationDiffers, match="content or their order"):
        agree_on_images(tmp_path, journal, "answers", {**known, "ends": 6}, {0})
    agree_on_images(tmp_path, journal, "answers", known, {0})
    with pytest.raises(ConfigurationDiffers, match="content or their order"):
        agree_on_images(tmp_path, journal, "answers", {**known, "images": "encoded cd"}, {0})
    assert len(journal.records) == 2
    journal.close()


@pytest.mark.parametrize(("bounds", "warned"), [((0.0, 255.0), True), ((0.0, 1.0), False)])
def test_images_that_hardly_fill_the_bounds_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bounds: tuple[float, float], warned: bool
) -> None:
    teacher = function(lambda images: torch.zeros(len(images)).long(), classes=2, bounds=bounds)
    with Run(tmp_path, teacher, progress=False) as run:
        run.answers(torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert ("but the teacher's bounds are 0 to 255" in caplog.text) == warned


def test_what_was_asked_first_is_not_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def ask(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return (images.flatten(1).mean(1) > 0.5).long()

    images = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with Run(tmp_path, function(ask, classes=2), progress=False) as run:
        rows, answers = run.first_answers(images, 20)
        again = run.first_answers(images, 7)  # a stage keeps its size
        assert torch.equal(again[0], rows)
        assert torch.equal(again[1], answers)
        whole = run.answers(images)
        assert torch.equal(whole, (images.flatten(1).mean(1) > 0.5).long())
        assert torch.equal(whole[rows], answers)
    assert (asked, run.meter.spent, len(rows.unique())) == ([20, 30], 50, 20)
    with Run(tmp_path / "late", function(ask, classes=2), progress=False) as run:
        run.answers(images)
        assert len(run.first_answers(images, 20)[0]) == 0
