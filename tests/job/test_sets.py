"""Own and test images of a recipe: what is held back, left out, and matched by name."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from db3kd import job
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import DataConfig, Recipe, StudentConfig, TeacherConfig
from db3kd.data import DataSet, TensorImages, load
from db3kd.data.names import count_of, in_order, places, read_names
from db3kd.errors import InputError
from db3kd.job.check import check_teacher
from db3kd.job.sets import Sets, matched, sets_of
from db3kd.student import load_student
from db3kd.teachers import function

BRIGHT = """
def make():
    return lambda images: (images.flatten(1).mean(1) * 4).long().clamp(0, 3)
def sometimes():
    def ask(images):
        said = make()(images)
        said[images.flatten(1)[:, 0] < 0.3] = -1
        return said
    return ask
"""
RECIPE = """run = "run"
data.train = "flat"
teacher = {{ kind = "function", factory = "bright:{make}", classes = 4{more} }}
student = {{ network = "small", methods = {methods}, training = {{ steps = 5, batch = 16 }} }}
grow = {{ per_image = 3, rounds = 1, members = 1 }}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A flat folder of 60 images without labels, of four shades."""
    draw = np.random.default_rng(0)
    (tmp_path / "flat").mkdir()
    for number in range(60):
        pixels = draw.integers(0, 60, (8, 8), dtype="uint8") + number % 4 * 60
        Image.fromarray(pixels.astype("uint8")).save(tmp_path / f"flat/{number:02}.png")
    (tmp_path / "bright.py").write_text(BRIGHT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bright", raising=False)
    return tmp_path


def written(here: Path, make: str = "make", more: str = "", methods: str = '["ce"]') -> None:
    (here / "r.toml").write_text(RECIPE.format(make=make, more=more, methods=methods))


def pixels_of(data: DataSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.images.read(torch.arange(len(data)))}


# No test set, no labels


def test_some_own_images_are_held_back_and_never_learned_from(here: Path) -> None:
    written(here)
    sets = sets_of(read_recipe("r.toml"))
    assert sets.own is not None
    assert sets.test is not None
    assert (len(sets.own), len(sets.test), sets.source) == (48, 12, "held back")
    assert not pixels_of(sets.own) & pixels_of(sets.test)
    again = sets_of(read_recipe("r.toml", ["data.samples=20"]))
    assert again.own is not None
    assert again.test is not None
    assert pixels_of(again.test) == pixels_of(sets.test)
    assert pixels_of(again.own) < pixels_of(sets.own)
    other = sets_of(read_recipe("r.toml", ["seed=1"]))
    assert other.test is not None
    assert pixels_of(other.test) != pixels_of(sets.test)


def test_another_split_than_test_is_told(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(here)
    (here / "flat").rename(here / "train")
    shutil.copytree(here / "train", here / "set/val")
    (here / "train").rename(here / "set/train")
    sets = sets_of(read_recipe("r.toml", ["data.train=set"]))
    assert sets.source == "held back"
    assert "no split 'test'" in caplog.text
    assert 'to take those of val instead, set data.test_split = "val"' in caplog.text
    sets = sets_of(read_recipe("r.toml", ["data.train=set", "data.test_split=val"]))
    assert (sets.source, sets.tests) == ("split", 60)


def test_what_is_white_is_kept_with_the_student(here: Path) -> None:
    """A set of 10 bits: the student sees files as bright as in its training."""
    written(here)
    for file in (here / "flat").iterdir():
        Image.fromarray(np.asarray(Image.open(file)).astype("u2") * 4).save(file)
    job.run(read_recipe("r.toml"))
    (file,) = Path("run/students").glob("*.safetensors")
    student = load_student(file)
    assert student.card.white == 1023
    images = load("flat", "train").images
    assert torch.equal(student.logits("flat"), student.logits(images))


def test_a_run_without_labels_and_test_images_reports_agreement(here: Path) -> None:
    written(here, methods='["ce", "grown"]')
    for verb in (job.label, job.grow):
        verb(read_recipe("r.toml", ["label.per_image=5", "label.surrogate=none"]))
    found = job.run(read_recipe("r.toml", ["label.per_image=5", "label.surrogate=none"]))
    assert found["test"] == {"source": "held back", "samples": 12}
    assert found["queries"]["by_stage"]["answers"] == 48
    assert found["queries"]["by_stage"]["evaluate"] == 12
    for row in found["methods"].values():
        assert row["accuracy"] == [None]
        assert 0 <= row["agreement_interval"][0] <= row["agreement"][0]
        assert row["agreement"][0] <= row["agreement_interval"][1] <= 1


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.test_samples=60"], r"data\.test_samples is 60, but there are only 60 own images"),
        (["data.samples=49"], r"data\.samples is 49, but there are only 48 images"),
        (["data.test_split=validation"], "no split 'validation'"),
        (["data.train_split=train[:9]"], r"9 own images and no test images; give 10 or more"),
    ],
)
def test_too_few_to_hold_back_is_one_sentence(here: Path, overrides: list[str], words: str) -> None:
    written(here)
    with pytest.raises(InputError, match=words):
        sets_of(read_recipe("r.toml", overrides))


def test_without_any_images_students_are_trained_and_nobody_knows_how_well(here: Path) -> None:
    written(here, methods='["pseudo"]')
    text = (here / "r.toml").read_text().replace('data.train = "flat"', "data.size = [8, 12]")
    (here / "r.toml").write_text(text + "data.channels = 1\nsynthesis.queries = 200\n")
    found = job.run(read_recipe("r.toml", ["synthesis.rounds=1", "synthesis.ensemble_labels=0"]))
    assert found["test"] == {"source": "none", "samples": 0}
    assert found["methods"]["pseudo"]["agreement"] == [None]
    assert "nobody knows how well" in found["warnings"][0]
    with pytest.raises(InputError, match="no images to ask about"):
        check_teacher(read_recipe("r.toml"))


# Damaged images, and answers that nobody knows


def test_damaged_images_that_are_left_out_are_never_asked(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(here)
    (here / "flat/07.png").write_bytes(b"")
    (here / "flat/08.png").write_bytes((here / "flat/08.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"cannot be used: .*07\.png.*damaged = \"skip\""):
        job.run(read_recipe("r.toml"))
    assert not Path("run").exists()
    found = job.run(read_recipe("r.toml", ["data.damaged=skip"]))
    assert found["queries"]["spent"] == 58
    assert "cannot be used and are left out" in caplog.text


def test_images_that_the_teacher_does_not_know_are_left_out(here: Path) -> None:
    written(here, "sometimes", ', unknown = "drop"', '["ce", "grown"]')
    found = job.run(read_recipe("r.toml"))
    assert found["class_names"] == ["0", "1", "2", "3"]
    with job.opened(read_recipe("r.toml")) as work:
        unsure = work.run.meter.classes - 1
        answers = work.run.answers(work.own.images)
        assert unsure == 4
        assert 0 < int((answers == unsure).sum()) < len(answers)
        for method in ("ce", "grown"):
            transfer = work.transfer(method)
            assert int(transfer.labels.max()) < unsure
            assert transfer.first is None or transfer.first == int((answers != unsure).sum())
        assert found["test"]["unsure"] > 0
        assert work.network(0)[-1].out_features == 4


def test_soft_labels_lose_the_class_that_nobody_knows(here: Path) -> None:
    written(here, "sometimes", ', unknown = "drop"', '["mbd"]')
    wanted = read_recipe("r.toml", ["label.per_image=20", "label.surrogate=none"])
    job.run(wanted)
    with job.opened(wanted) as work:
        soft = work.transfer("mbd").soft
        assert soft is not None
        assert soft.shape[1] == 4


# Classes are names


def sets(own: tuple[str, ...], test: tuple[str, ...]) -> Sets:
    images = TensorImages(torch.zeros(1, 1, 4, 4))
    first, second = (
        DataSet(images, torch.tensor([len(names) - 1]), names) for names in (own, test)
    )
    return Sets(first, second, "data.test", (1, 4, 4))


def labels(found: Sets) -> tuple[int, int]:
    assert found.own is not None
    assert found.test is not None
    assert found.own.labels is not None
    assert found.test.labels is not None
    return int(found.own.labels), int(found.test.labels)


@pytest.mark.parametrize(
    ("own", "test", "classes", "right", "names"),
    [
        (("bird", "cat"), ("cat",), 3, (1, 1), ("bird", "cat", "2")),
        (("bird", "cat"), ("bird",), ["cat", "dog", "bird"], (0, 2), ("cat", "dog", "bird")),
        (("Bird ",), ("bird",), ["cat", "bird"], (1, 1), ("cat", "bird")),
        (("0", "10"), ("2",), 11, (10, 2), tuple(map(str, range(11)))),
        (("1", "2"), ("1",), ["cat", "dog", "bird"], (2, 1), ("cat", "dog", "bird")),
        (("cat", "dog"), ("dog",), ["0", "1"], (1, 1), ("cat", "dog")),
        (("5", "7"), ("7",), ["5", "7"], (1, 1), ("5", "7")),
        (("cat", "zoë"), ("zoe\u0308",), ["zoe\u0308", "cat"], (0, 0), ("zoe\u0308", "cat")),
    ],
)
def test_classes_match_by_name(
    own: tuple[str, ...],
    test: tuple[str, ...],
    classes: int | list[str],
    right: tuple[int, int],
    names: tuple[str, ...],
) -> None:
    teacher = function(lambda images: torch.zeros(len(images)).long(), classes=classes)
    found = matched(sets(own, test), teacher)
    assert labels(found) == right
    assert found.names == names


@pytest.mark.parametrize(
    ("own", "test", "classes", "words"),
    [
        (("cat", "dog"), ("cat", "fox"), 2, "the test images have a class 'fox', which the"),
        (("cat", "fox"), ("cat",), ["cat", "dog"], "the own images have a class 'fox'"),
        (("a", "b", "c"), ("a",), 2, "the own images have 3 classes, but the teacher has only 2"),
    ],
)
def test_classes_that_the_teacher_does_not_know_are_refused(
    own: tuple[str, ...], test: tuple[str, ...], classes: int | list[str], words: str
) -> None:
    teacher = function(lambda images: torch.zeros(len(images)).long(), classes=classes)
    with pytest.raises(InputError, match=words):
        matched(sets(own, test), teacher)


@given(st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=6, unique=True), st.data())
def test_renaming_the_order_of_a_teachers_classes_permutes_the_labels(
    names: list[str], draw: st.DataObject
) -> None:
    order = draw.draw(st.permutations(names))
    assert [order[place] for place in places(names, order, len(order), "these")] == names


def test_names_of_classes_in_files(tmp_path: Path) -> None:
    for name, text in (
        ("a.txt", "cat\r\ndog\n\n"),
        ("b.json", '["cat", "dog"]'),
        ("c.json", '{"1": ["n02", "dog"], "0": ["n01", "cat"]}'),
    ):
        (tmp_path / name).write_bytes(text.encode())
        assert read_names(tmp_path / name) == ("cat", "dog")
    for name, text, words in (
        ("d.txt", "cat\n\ndog\n", "empty name"),
        ("e.txt", "cat\ncat\n", "twice"),
        ("f.json", "[[[", "does not name classes"),
        ("g.json", '{"0": "a", "2": "b"}', "count from 0"),
        ("h.txt", "cat\n", "two classes or more"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=words):
            read_names(tmp_path / name)


@given(st.lists(st.integers(0, 200).map(str), min_size=1, unique=True))
def test_numbers_are_in_the_order_of_numbers(names: list[str]) -> None:
    assert [int(name) for name in in_order(names)] == sorted(map(int, names))
    assert count_of(names) == max(map(int, names)) + 1


def test_a_recipe_keeps_what_it_stands_for(here: Path) -> None:
    """The keys that only say where things lie may change in a folder that is continued."""
    written(here)
    job.run(read_recipe("r.toml"))
    (here / "flat/61.jpg").unlink(missing_ok=True)
    job.run(read_recipe("r.toml", ["data.damaged=skip"]))
    kept = json.loads((here / "run/summary.json").read_text())
    assert kept["queries"]["spent"] == 60


def test_devices_are_named(here: Path) -> None:
    recipe = Recipe(
        run="other",
        device="gpu",
        data=DataConfig(train="flat"),
        teacher=TeacherConfig(kind="function", factory="bright:make", classes=4),
        student=StudentConfig(network="small", methods=("ce",)),
    )
    with pytest.raises(InputError, match='say "cuda"'), job.opened(recipe):
        pass


def test_a_file_of_names_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_names("/dev/zero")
    (tmp_path / "long.txt").write_bytes(b"a" * (2**24 + 1))
    with pytest.raises(InputError, match="has more than"):
        read_names(tmp_path / "long.txt")


def test_a_check_looks_at_labelled_images(here: Path) -> None:
    written(here)
    for number, file in enumerate(sorted((here / "flat").iterdir())):
        place = here / "known" / "test" / str(number % 4)
        place.mkdir(parents=True, exist_ok=True)
        (place / file.name).write_bytes(file.read_bytes())
    found = check_teacher(read_recipe("r.toml", ["data.test=known"]), images=40)
    assert found["as_labelled"] == 40
    assert found["confusion"]["true"] == ["0", "1", "2", "3"]


def test_labelled_test_images_say_how_many_classes_there_are(here: Path) -> None:
    written(here)
    text = (here / "r.toml").read_text().replace(", classes = 4", "")
    (here / "r.toml").write_text(text)
    for number, file in enumerate(sorted((here / "flat").iterdir())):
        place = here / "known" / "test" / str(number % 4)
        place.mkdir(parents=True, exist_ok=True)
        (place / file.name).write_bytes(file.read_bytes())
    found = job.run(read_recipe("r.toml", ["data.test=known"]))
    assert found["teacher"]["accuracy"] == 1.0
    assert found["test"]["source"] == "data.test"
