"""Classes that are found as a teacher answers: their numbers, names and places."""

from collections.abc import Sequence

import pytest
import torch

from db3kd.config.remote import Names, Remote
from db3kd.errors import InputError, TeacherError
from db3kd.teachers import function
from db3kd.teachers.base import Teacher, known_of, met_of, unsure_of
from db3kd.teachers.found import Found, FoundClasses
from db3kd.teachers.parts import Collected, ask
from db3kd.teachers.remote import remote
from db3kd.teachers.remote.names import LabelMap


def saying(words: Sequence[object], most: int = 100) -> Teacher:
    """A teacher that says the word whose number the first pixel is."""
    return function(
        lambda images: [words[int(number)] for number in images.flatten(1)[:, 0]],
        most_classes=most,
    )


def shown(*numbers: int) -> torch.Tensor:
    return torch.tensor([float(number) for number in numbers]).reshape(-1, 1, 1, 1)


def test_answers_name_the_classes_in_the_order_of_the_rows() -> None:
    teacher = saying(["cat", "dog", "owl"])
    assert teacher.labels(shown(2, 0, 2)).tolist() == [0, 1, 0]
    assert met_of(teacher) == ("owl", "cat")
    assert (teacher.classes, unsure_of(teacher), known_of(teacher)) == (101, 100, 2)


def test_numbers_are_names_too() -> None:
    found = FoundClasses()
    assert found.indices(torch.tensor([7, 3, 7]), 3).tolist() == [0, 1, 0]
    assert found.indices(["3", 7], 2).tolist() == [1, 0]
    assert found.met == ("7", "3")


@pytest.mark.parametrize("answer", [None, -1, "", "  ", "x" * 2000, "\ud800"])
def test_what_is_no_name_takes_no_place(answer: object) -> None:
    found = FoundClasses(3)
    assert found.indices(["cat", answer], 2).tolist() == [0, 3]
    assert found.met == ("cat",)


def test_a_name_without_a_place_teaches_nothing() -> None:
    found = FoundClasses(2)
    assert found.indices(["a", "b", "c", "a"], 4).tolist() == [0, 1, 2, 0]


def test_names_are_remembered_before_they_are_handed_out() -> None:
    found, kept = FoundClasses(), list[tuple[str, ...]]()
    found.remember = kept.append
    found.indices(["a", "b"], 2)
    found.indices(["b"], 1)
    assert kept == [("a", "b")]


@pytest.mark.parametrize("answers", [["a"], [1.5, 2.5], torch.zeros(2, 3), [["a"], ["b"]]])
def test_wrong_answers_are_refused(answers: object) -> None:
    with pytest.raises(TeacherError):
        FoundClasses().indices(answers, 2)


def test_other_needs_known_classes() -> None:
    with pytest.raises(InputError, match="give the classes"):
        FoundClasses(unknown="other")


def test_a_run_has_an_order_of_its_own() -> None:
    words = ["cat", "dog", "owl"]
    first, kept = Found(saying(words)), list[tuple[str, ...]]()
    answers = first.labels(shown(2, 0))
    later = Found(saying(words), first.met, kept.append)  # the one within begins anew
    assert later.labels(shown(0, 1, 2)).tolist() == [1, 2, 0]
    assert (answers.tolist(), later.met, kept) == ([0, 1], ("owl", "cat", "dog"), [("dog",)])


def test_answers_in_parts_are_numbered_alike() -> None:
    images = shown(2, 0, 1, 2)
    whole, parts = Found(saying(["a", "b", "c"])), Found(saying(["a", "b", "c"]))
    keeper = Collected(4)
    ask(parts, images, keeper, chunk=2)
    assert keeper.answers.tolist() == whole.labels(images).tolist() == [0, 1, 2, 0]


def test_a_run_whose_places_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    teacher = Found(saying(["a", "b", "c"], most=2), ["x", "b"])
    assert teacher.labels(shown(0, 1)).tolist() == [2, 1]
    assert teacher.labels(shown(2)).tolist() == [2]
    assert caplog.text.count("for which there is room") == 1


def test_a_remote_teacher_without_classes_finds_them() -> None:
    settings = Remote(url="http://localhost", protocol="raw")
    teacher = remote(settings, most_classes=5)
    assert (teacher.classes, teacher.unsure, teacher.met) == (6, 5, ())
    assert [teacher.labelled.index(a) for a in ("cat.", 4, None, "cat")] == [0, 1, 5, 0]
    assert teacher.met == ("cat", "4")
    other = remote(settings, classes=6)
    assert teacher.identity != other.identity


@pytest.mark.parametrize(
    "names", [Names(unknown="other"), Names(names=("a", "b"), unknown="extend")]
)
def test_a_remote_teacher_needs_classes_for_some_policies(names: Names) -> None:
    with pytest.raises(InputError, match="say how many"):
        remote(Remote(url="http://localhost", protocol="raw", names=names))


def test_a_pattern_that_finds_nothing_is_no_class() -> None:
    labels = LabelMap(Names(unknown="extend"), 4, pattern=r"It is a (\w+)", finding=True)
    said = ["It is a cat", "no idea", "It is a dog. It is a cat.", "It is a dog"]
    assert [labels.index(text) for text in said] == [0, 3, 3, 1]
