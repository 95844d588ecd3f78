"""What services say that is no bare name in JSON: sentences, plain text, Triton's triples."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from db3kd.config.patterns import compiled
from db3kd.config.reading import read_recipe
from db3kd.config.remote import Encoding, Names, Remote, who
from db3kd.data.names import places
from db3kd.errors import InputError, RecipeError, TeacherError
from db3kd.job.teacher import fingerprint
from db3kd.teachers.base import names_of, unsure_of
from db3kd.teachers.classes import Classes
from db3kd.teachers.encoding import Encoder
from db3kd.teachers.remote import protocols, remote
from db3kd.teachers.remote.names import LabelMap
from db3kd.teachers.remote.protocols import Failed

URL = "http://localhost:8080"
CATS = ("cat", "dog")
PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


def made(protocol: Any, **choices: Any) -> protocols.Protocol:
    settings = Remote(url=URL, protocol=protocol, **choices)
    return protocols.of(settings, Encoder(settings.encoding, (3, 4, 5)))


# What is no answer, although it holds numbers

TEN = [0.0] * 7 + [1.0] + [0.0] * 2


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (TEN, 7),
        ([0] * 7 + [1] + [0] * 2, 7),
        ([7, 3, 2], "3 scores for an image, and it was said to have 10 classes"),
        ([*TEN, 0.0], "11 scores"),
        ({"7": 0.9, "1": 0.1}, 7),
        ({"prediction": 7}, "highest number is at 'prediction'"),
        ({"prediction": 7.0}, "highest number is at 'prediction'"),
        ({"class_id": 7, "score": 0.9}, "highest number is at 'class_id'"),
        ({"cat": 0.9, "dog": 0.1}, 10),
        ({"cat": 0.9}, 10),
        ({"cat": 1, "dog": 0}, 10),
        ({"cat": 5.5, "dog": -1.5}, 10),
    ],
)
def test_what_lies_further_in_a_reply_is_no_unknown_answer(reply: Any, found: int | str) -> None:
    (said,) = made("raw").answers(200, {}, json.dumps(reply).encode(), 1)
    labels = LabelMap(Names(unknown="drop"), 11)
    if isinstance(found, int):
        assert labels.index(said) == found
    else:
        with pytest.raises(TeacherError, match="path") as raised:
            labels.index(said)
        assert found in str(raised.value)


def test_a_name_may_be_the_key_of_any_object_and_some_classes_may_have_scores() -> None:
    (said,) = made("raw").answers(200, {}, b'{"prediction": 7}', 1)
    assert LabelMap(Names(names=("prediction", "b")), 2).index(said) == 0
    (said,) = made("raw").answers(200, {}, b"[0.1, 0.9]", 1)
    learning = LabelMap(Names(unknown="extend"), 3)
    assert learning.index(said) == 0
    assert learning.learned == ("1",)
    with pytest.raises(TeacherError, match="3 scores"):
        LabelMap(Names(), 2).index(made("raw").answers(200, {}, b"[0.1, 0.9, 0]", 1)[0])


@pytest.mark.parametrize(
    ("body", "found"),
    [(b"\xef\xbb\xbf3", 3), (b"", "the reply is empty"), (b" \n", "the reply is empty")],
)
def test_a_byte_order_mark_and_nothing_at_all(body: bytes, found: int | str) -> None:
    (said,) = made("raw").answers(200, {}, body, 1)
    assert (said.reason if isinstance(said, Failed) else said) == found


# Names with signs around them


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("dog.", 1),
        (" dog\n", 1),
        ("**dog**", 1),
        ('"dog".', 1),
        ("`dog`", 1),
        ("\u201cdog\u201d!", 1),
        ("puppy.", 1),
        ('_"dog."_', 1),
        ("*dog", None),
        ("A", 2),
        ("A!", 2),
        ("A.", 3),
        ("A. ", 3),
        ("a dog", None),
        ("Dog", None),
        (".dog", None),
        ("dog" + " " * 1000, None),
        ("...", None),
    ],
)
def test_signs_around_a_name_do_not_count(answer: str, index: int | None) -> None:
    labels = LabelMap(Names(names=(*CATS, "A", "A."), synonyms={"puppy": "dog"}), 4)
    if index is None:
        with pytest.raises(TeacherError, match="which is none of the 4 names"):
            labels.index(answer)
    else:
        assert labels.index(answer) == index


def test_an_accent_is_the_same_however_it_is_spelt() -> None:
    one, other = "\u00e9", "e\u0301"
    for names in ((one, "tea"), (other, "tea")):
        for said in (one, other):
            assert LabelMap(Names(names=names, unknown="drop"), 3).index(said) == 0
            assert Classes(2, names, unknown="drop").indices([said], 1).tolist() == [0]
            assert places(["tea", said], names, 2, "the own images") == [1, 0]
    learning = LabelMap(Names(unknown="extend"), 3)
    assert [learning.index(said) for said in (one, other)] == [0, 0]
    old = LabelMap(Names(unknown="extend"), 3, (one, other))  # as an earlier release learned them
    assert [old.index(said) for said in (one, other)] == [0, 1]


def test_numbers_keep_their_meaning_and_case_is_ignored_only_if_said() -> None:
    numbers = LabelMap(Names(), 10)
    assert [numbers.index(text) for text in ("7\n", "7.", "**7**")] == [7, 7, 7]
    for text in (".5", "0.5", "-1", "7 of 9", "2.0"):
        with pytest.raises(TeacherError, match="whole numbers from 0 to 9"):
            numbers.index(text)
    assert LabelMap(Names(names=CATS, ignore_case=True), 2).index("DOG.") == 1


def test_a_new_name_is_learned_without_signs() -> None:
    names = Names(unknown="extend", synonyms={"puppy": "dog"})
    labels = LabelMap(names, 3)
    assert [labels.index(text) for text in ("Cow.", "*Cow*", "puppy!", "dog", "...")] == [
        0,
        0,
        1,
        1,
        2,
    ]
    assert labels.learned == ("Cow", "dog", "...")
    old = LabelMap(names, 3, ("Cow.", "Cow"))  # as an earlier release learned them
    assert [old.index(text) for text in ("Cow.", "Cow")] == [0, 1]


# Patterns

WORDS = r"(?i)\b(cat|dog|cow)\b"


@pytest.mark.parametrize(
    ("pattern", "answer", "found"),
    [
        (WORDS, "The animal is a DOG.", 1),
        (WORDS, "A dog, yes, a Dog.", 1),
        (WORDS, "dog", 1),
        (WORDS, "A cat or a dog.", "in which the pattern finds 'cat' and 'dog'"),
        (WORDS, "A cow.", "which is none of the 2 names"),
        (WORDS, "A cow or a dog.", "in which the pattern finds 'cow' and 'dog'"),
        (WORDS, "I'm not sure.", "in which the pattern finds no name"),
        (WORDS, "", "in which the pattern finds no name"),
        (WORDS, 1, 1),
        ("cat|dog", "a dog", 1),
        ("a (cat)|(dog)", "or dog", 1),
        ("x*", "dog", "in which the pattern finds no name"),
        (r"class (\d)", "class 1", "which is none of the 2 names"),
        (WORDS, "dog" + "." * 9_997, 1),
        (WORDS, "dog" + "." * 9_998, "10,001 characters, and a pattern is searched in 10,000"),
    ],
)
def test_a_name_is_found_in_a_sentence(pattern: str, answer: Any, found: int | str) -> None:
    names = Names(names=CATS, ignore_case=True)
    labels = LabelMap(names, 2, pattern=pattern)
    dropped = LabelMap(Names(names=CATS, ignore_case=True, unknown="drop"), 3, pattern=pattern)
    if isinstance(found, int):
        assert labels.index(answer) == dropped.index(answer) == found
    else:
        with pytest.raises(TeacherError) as raised:
            labels.index(answer)
        assert found in str(raised.value)
        assert dropped.index(answer) == 2


def test_two_words_for_one_class_do_not_contradict_each_other() -> None:
    names = Names(names=CATS, synonyms={"puppy": "dog"})
    assert LabelMap(names, 2, pattern="cat|dog|puppy").index("a puppy is a dog") == 1
    assert LabelMap(Names(), 10, pattern=r"\d+").index("The digit is 7, 7.") == 7
    learning = LabelMap(Names(unknown="extend"), 2, pattern=r"an? (\w+)")
    assert [learning.index(text) for text in ("an ant.", "a cow!", "It is an ant")] == [0, 1, 0]
    with pytest.raises(TeacherError, match="finds no name"):
        learning.index("nothing")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(cat", "missing ), unterminated subpattern at position 0"),
        ("cat(?i)", "global flags not at the start"),
        ("[[a]", "Possible nested set"),
        ("a{99999999999999}", "the repetition number is too large"),
        ("(\x1b[2J", "the pattern '(' is no regular expression"),
        ("", "has 0 characters"),
        ("x" * 1001, "has 1,001 characters"),
    ],
)
def test_what_is_no_pattern_is_refused_in_one_sentence(pattern: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        compiled(pattern)
    assert message in str(raised.value)
    assert str(raised.value).isprintable()
    with pytest.raises(InputError):
        remote(Remote(url=URL, protocol="raw", pattern=pattern), classes=3)


@how(max_examples=300, deadline=None)
@given(
    st.text(alphabet="ab(|)[]*+?{}1,\\^$.:!<=Pi-", max_size=12),
    st.text(max_size=20) | st.text(alphabet="ab ", max_size=20),
)
def test_any_pattern_is_used_or_refused(pattern: str, answer: str) -> None:
    message = ""
    try:
        labels = LabelMap(Names(names=("a", "b"), unknown="drop"), 3, pattern=pattern)
        assert 0 <= labels.index(answer) < 3
    except InputError as error:
        message = str(error)
    assert message.isprintable()


RECIPE = """run = "runs/x"
data.train = "digits"
student.network = "small"
[teacher]
kind = "remote"
[teacher.remote]
url = "http://localhost"
protocol = "raw"
"""


def test_a_recipe_is_read_with_its_pattern(tmp_path: Any) -> None:
    file = tmp_path / "r.toml"
    file.write_text(RECIPE + "pattern = '(cat'\n")
    with pytest.raises(RecipeError) as raised:
        read_recipe(file)
    assert str(raised.value).startswith(f"{file}:9: teacher.remote.pattern: the pattern '(cat' is")
    file.write_text(RECIPE + f"pattern = '{'x' * 1001}'\n")
    with pytest.raises(RecipeError, match="length <= 1000"):
        read_recipe(file)
    file.write_text(RECIPE)
    before = fingerprint(read_recipe(file))["remote"]
    assert sorted(before) == [
        *("binary", "body", "encoding", "input", "method", "model", "names", "output", "path"),
        *("protocol", "url", "version"),
    ]
    after = fingerprint(read_recipe(file, ["teacher.remote.pattern=cat|dog"]))["remote"]
    assert after == {**before, "pattern": "cat|dog"}


# Who answers


def test_a_teacher_says_its_names_and_when_it_is_unsure() -> None:
    def said(classes: int | None = None, **names: Any) -> tuple[Any, ...]:
        teacher = remote(Remote(url=URL, protocol="raw", names=Names(**names)), classes=classes)
        return teacher.classes, names_of(teacher), unsure_of(teacher)

    assert said(names=CATS) == (2, CATS, None)
    assert said(names=CATS, unknown="drop") == (3, CATS, 2)
    assert said(names=CATS, unknown="other") == (3, (*CATS, "unknown"), None)
    assert said(names=("cat", "unknown"), unknown="other")[1] == ("cat", "unknown", "unknown_")
    assert said(4, names=CATS, unknown="extend") == (4, None, None)
    assert said(4) == (4, None, None)
    assert said(4, unknown="drop") == (5, None, 4)
    assert said(2, names=CATS, unknown="drop") == said(names=CATS, unknown="drop")
    with pytest.raises(InputError, match="the teacher's names are of 2 classes, not of 3"):
        said(3, names=CATS, unknown="drop")
    with pytest.raises(InputError, match='2 names and one class for "drop" do not make 2'):
        LabelMap(Names(names=CATS, unknown="drop"), 2)


def test_teachers_of_earlier_releases_are_the_same_ones() -> None:
    """Or all that was paid for their answers would be lost."""
    one = Remote(url="https://models.example.org", protocol="oip", model="digits")
    assert remote(one, classes=10).identity == "oip https://models.example.org 0e1e5426e2194b5f"
    two = Remote(
        url="https://models.example.org/predict",
        protocol="template",
        version="2",
        path="a.b",
        body='["{image}"]',
        encoding=Encoding(kind="jpeg", quality=90, size=(32, 32), channels="rgb"),
        names=Names(names=CATS, unknown="other", synonyms={"puppy": "dog"}, ignore_case=True),
    )
    first = remote(two).identity
    assert first == "template https://models.example.org/predict f191d04beb4667fd"


def test_new_settings_make_another_teacher() -> None:
    plain: dict[str, Any] = {"url": URL, "protocol": "form"}
    changes: list[dict[str, Any]] = [
        {},
        {"pattern": "a|b"},
        {"field": "image"},
        {"fields": {"model": "x"}},
        {"names": Names(unknown="drop")},
        {"classification": True},
    ]
    found = {remote(Remote(**plain, **some), classes=3).identity for some in changes}
    assert len(found) == len(changes)
    assert remote(Remote(**plain, batch=3, timeout=1.0), classes=3).identity in found
    assert "batch" not in who(Remote(**plain, batch=3))


# Plain text


@pytest.mark.parametrize(
    ("headers", "body", "found"),
    [
        (PLAIN, b"cat", "cat"),
        (PLAIN, b"cat\n", "cat\n"),
        (PLAIN, b"7\n", 7),
        (PLAIN, b'"cat"', "cat"),
        (PLAIN, b"true", "true"),
        (PLAIN, b"null", "null"),
        (PLAIN, b"\xef\xbb\xbfcat", "cat"),
        (PLAIN, "é".encode(), "é"),
        ({"content-type": "text/html"}, b"cat", "cat"),
        ({"content-type": "text/html"}, b"<html>busy", "not JSON: <html>busy"),
        (PLAIN, b'{"label": "ca', "not JSON"),
        (PLAIN, b"rate limit exceeded", "not JSON"),
        (PLAIN, b"\xff", "not JSON"),
        (PLAIN, b" \n", "is empty"),
        ({}, b"cat", "not JSON"),
        ({"Content-Type": "application/json"}, b"cat", "not JSON"),
    ],
)
def test_a_reply_may_be_plain_text(headers: dict[str, str], body: bytes, found: int | str) -> None:
    for protocol in (made("raw"), made("form"), made("template", body='["{image}"]')):
        (answer,) = protocol.answers(200, headers, body, 1)
        if isinstance(answer, Failed):
            assert str(found) in answer.reason
            assert answer.retry
        else:
            assert answer == found
            assert type(answer) is type(found)


def test_text_is_no_answer_where_json_or_many_answers_are_expected() -> None:
    for protocol in (
        made("raw", path="label"),
        made("form", path="[*]"),
        made("template", body='["{images}"]'),
        made("template", body='["{image}"]', path="a"),
        made("mlflow"),
        made("oip", model="digits"),
    ):
        for answer in protocol.answers(200, PLAIN, b"cat", 2):
            assert isinstance(answer, Failed)
            assert (answer.retry, answer.reason) == (True, "the reply is not JSON: cat")
    (failed,) = made("raw").answers(500, PLAIN, b"cat", 1)
    assert isinstance(failed, Failed)


# Triton's classification


def triples(*said: str, **more: Any) -> bytes:
    output = {"name": "y", "datatype": "BYTES", "shape": [len(said), 1], "data": said, **more}
    return json.dumps({"outputs": [output]}).encode()


@pytest.mark.parametrize(
    ("names", "said", "found"),
    [
        (Names(), "0.99:3:cat", 3),
        (Names(), "0.99:3", 3),
        (Names(names=CATS), "0.99:0:dog", "dog"),
        (Names(names=CATS), "-1.5e-05:1:Hund", 1),
        (Names(names=CATS), "0.99:1:DOG", 1),
        (Names(names=CATS, ignore_case=True), "0.99:0:DOG", "DOG"),
        (Names(names=CATS, synonyms={"puppy": "dog"}), "0.99:0:puppy", "puppy"),
        (Names(names=("a:b", "c")), "12:1:a:b", "a:b"),
        (Names(unknown="extend"), "0.99:3:cow", "cow"),
        (Names(unknown="extend"), "0.99:3:", 3),
        (Names(), "inf:3", 3),
        (Names(), "nan:3", "not all numbers"),
        (Names(), "cat", "score:index:label is expected"),
        (Names(), "0.9:-1", "score:index:label is expected"),
        (Names(), "0.9:" + "9" * 5000, "score:index:label is expected"),
        (Names(), "\u0663:\u0663", "score:index:label is expected"),
    ],
)
def test_triton_says_score_index_and_label(names: Names, said: str, found: int | str) -> None:
    protocol = made("oip", model="m", output="y", classification=True, names=names)
    (answer,) = protocol.answers(200, {}, triples(said), 1)
    if isinstance(answer, Failed):
        assert str(found) in answer.reason
        assert answer.reason.isprintable()
        assert not answer.retry or "numbers" in answer.reason
    else:
        assert answer == found


def test_triton_is_asked_for_the_best_class_only_if_that_is_wanted() -> None:
    images = torch.zeros(2, 3, 4, 5)
    wanted = made("oip", model="m", output="y", classification=True).request(images).body
    assert json.loads(wanted)["outputs"] == [{"name": "y", "parameters": {"classification": 1}}]
    plain = made("oip", model="m", output="y")
    assert json.loads(plain.request(images).body)["outputs"] == [{"name": "y"}]
    assert plain.answers(200, {}, triples("0.9:1:cat"), 1) == ["0.9:1:cat"]
    scores = triples(0.1, 0.9, datatype="FP32", shape=[1, 2])  # type: ignore[arg-type]
    protocol = made("oip", model="m", output="y", classification=True)
    assert protocol.answers(200, {}, scores, 1) == [1]  # as a server without it answers
    with pytest.raises(InputError, match="set output"):
        made("oip", model="m", classification=True)
    with pytest.raises(InputError, match="protocol 'raw' has no use for classification"):
        made("raw", classification=True)
