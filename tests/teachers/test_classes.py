"""How answers become classes, and what modules, estimators and functions of others return."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from db3kd import teachers
from db3kd.config.remote import Encoding
from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import Bounds, names_of, unsure_of
from db3kd.teachers.classes import Classes, Told, classes_of
from db3kd.teachers.encoding import Encoder, Entry
from db3kd.teachers.torch_module import told

PETS = ("ant", "bee", "cat")
IMAGES = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Column:
    """Values as a table holds them: with an index of its own, so no list."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return np.array(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: int) -> Any:
        raise KeyError(key)


# Classes


@given(st.lists(st.sampled_from([*PETS, "cow", None, -1, 0, 1, 2]), min_size=1, max_size=12))
def test_names_and_numbers_in_any_mixture(answers: list[Any]) -> None:
    known = {name: place for place, name in enumerate(PETS)} | {0: 0, 1: 1, 2: 2}
    right = [known.get(answer, 3) for answer in answers]
    for unknown in ("drop", "other"):
        classes = Classes(3, PETS, unknown=unknown)
        assert classes.indices(answers, len(answers)).tolist() == right
    if 3 in right:
        with pytest.raises(TeacherError, match=r"unknown|which is none of|class indices below"):
            Classes(3, PETS).indices(answers, len(answers))
    else:
        assert Classes(3, PETS).indices(answers, len(answers)).tolist() == right


@pytest.mark.parametrize(
    "answers",
    [
        ["cat", "ant"],
        ("cat", "ant"),
        np.array(["cat", "ant"]),
        np.array(["cat", "ant"], object),
        np.array([b"cat", b"ant"]),
        np.array([2, 0], object),
        np.array([2, 0], "uint8"),
        torch.tensor([2, 0]),
        [np.int64(2), np.str_("ant")],
        np.array([["cat"], ["ant"]]),
        Column(["cat", "ant"]),
        Column([2, 0]),
    ],
)
def test_answers_of_many_types(answers: Any) -> None:
    teacher = teachers.function(lambda _: answers, classes=PETS)
    assert teacher.labels(IMAGES[:2]).tolist() == [2, 0]
    assert (teacher.classes, names_of(teacher), unsure_of(teacher)) == (3, PETS, None)


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (["cat"], r"answered 1 names to 2 image"),
        (["cow", "cat"], r"'cow', which is none of the 3 names; add it to classes, or set unknown"),
        ([None, "cat"], r"answered None, which is none"),
        ([0.5, "cat"], r"float '0.5' among names"),
        ([3, "cat"], r"class 3; it was said to have 3"),
        ([-1, 0], r'class -1; .*set unknown to "drop"'),
        (["cat\x1b[31m" * 50, "cat"], r"which is none of"),
    ],
)
def test_answers_that_are_no_classes(answers: Any, says: str) -> None:
    with pytest.raises(TeacherError, match=says) as refused:
        teachers.function(lambda _: answers, classes=PETS).labels(IMAGES[:2])
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_unknown_answers_of_a_function() -> None:
    def ask(images: Tensor) -> Any:
        return np.where(images.flatten(1).mean(1).numpy() < 0.5, -1, 1)

    right = (IMAGES.flatten(1).mean(1) < 0.5).long() + 1
    assert set(right.tolist()) == {1, 2}
    dropped = teachers.function(ask, classes=2, unknown="drop")
    assert torch.equal(dropped.labels(IMAGES), right)
    assert (dropped.classes, unsure_of(dropped), names_of(dropped)) == (3, 2, None)
    other = teachers.function(ask, classes=("dark", "bright"), unknown="other")
    assert torch.equal(other.labels(IMAGES), right)
    assert (other.classes, unsure_of(other)) == (3, None)
    assert names_of(other) == ("dark", "bright", "unknown")
    with pytest.raises(TeacherError, match="class 2; it was said to have 2"):
        teachers.function(lambda x: [2] * len(x), classes=2, unknown="drop").labels(IMAGES)


def test_whole_numbers_are_looked_up_in_names_that_are_such() -> None:
    classes = Classes(3, ("3", "5", "8"))
    assert classes.indices([8, 3], 2).tolist() == classes.indices(["8", "3"], 2).tolist() == [2, 0]
    assert classes.indices(np.array([5, 5, 8]), 3).tolist() == [1, 1, 2]
    with pytest.raises(TeacherError, match="answered 4, which is none of the 3 names"):
        classes.indices([4, 3], 2)
    assert Classes(2, ("3", "5"), unknown="drop").indices([4, 5], 2).tolist() == [2, 1]


def test_whole_numbers_below_zero_are_looked_up_too() -> None:
    for unknown in ("refuse", "drop"):
        classes = Classes(3, ("-1", "0", "1"), unknown=unknown)
        assert classes.indices([-1, 1, 0], 3).tolist() == [0, 2, 1]
        assert classes.indices(np.array([0, -1]), 2).tolist() == [1, 0]
    assert Classes(2, ("no", "yes"), labels=("-1", "1")).indices([1, -1], 2).tolist() == [1, 0]


def test_the_answer_to_one_image_may_lack_its_axis() -> None:
    teacher = teachers.function(lambda x: x.flatten(1).mean(1).gt(0.5).squeeze(), classes=2)
    assert [int(teacher.labels(image[None])) for image in IMAGES] == teacher.labels(IMAGES).tolist()
    for wrap in (lambda scores, _: scores.squeeze(), lambda scores, _: scores[:, 1].squeeze()):
        module = teachers.torch_module(Returns(wrap), classes=2)
        one = [int(module.labels(image[None])) for image in IMAGES]
        assert one == module.labels(IMAGES).tolist()


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (10.0, "classes is a float; give a number, or a list"),
        ({"cat", "dog"}, "classes is a set; give a number, or a list of the names in the"),
        ({0: "cat", 1: "dog"}, "classes is a dict"),
        ([0, 1], "has the int 0 as the name of class 0; give texts"),
        (np.zeros((2, 2)), "classes is a ndarray"),
    ],
)
def test_what_cannot_say_the_classes(said: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        classes_of(said)


def test_classes_as_numpy_has_them() -> None:
    assert classes_of(np.int64(4)).known == 4
    names = classes_of(np.array(PETS)).names
    assert names == PETS
    assert {type(name) for name in names} == {str}


def test_who_says_how_many_classes() -> None:
    assert classes_of(None, Told(width=5), otherwise=2).known == 5
    assert classes_of(None, otherwise=2).known == 2
    assert classes_of(3, Told(names=PETS)).names == PETS
    assert classes_of(4, Told(names=PETS)).names is None
    assert classes_of(("a", "b", "c"), Told(width=3, names=PETS)).names == ("a", "b", "c")
    for said, tells, says in (
        (None, None, "nobody says how many classes"),
        (1, None, "at least 2 classes"),
        ("cat", None, "the text 'cat'"),
        (("cat", "cat"), None, "twice"),
        (4, Told(width=3), "says 4, but the model has 3"),
        (("a", "b"), Told(labels=PETS), r"says 2, but the model has 3 \('ant', 'bee', 'cat'\)"),
    ):
        with pytest.raises(InputError, match=says):
            classes_of(said, tells)


# Encodings of models on this machine


def test_an_encoding_is_what_a_remote_teacher_is_sent() -> None:
    seen: list[Tensor] = []

    def ask(images: Tensor) -> list[int]:
        seen.append(images)
        return [0] * len(images)

    for encoding in (
        Encoding(kind="float32", scale=255, layout="hwc", size=(3, 5), channels="rgb"),
        Encoding(kind="float32", mean=(0.5,), std=(0.5,), layout="flat"),
        Encoding(kind="uint8"),
    ):
        teachers.function(ask, classes=2, encoding=encoding).labels(IMAGES)
        sent = Encoder(encoding, (1, 4, 4)).arrays(IMAGES)
        assert np.array_equal(seen.pop().numpy(), sent)


def test_files_are_not_for_models_on_this_machine() -> None:
    for kind in ("png", "jpeg"):
        with pytest.raises(InputError, match='takes no files; set it to "float32" or "uint8"'):
            Entry(Encoding(kind=kind), (0.0, 1.0))


def test_searches_know_of_eight_bits() -> None:
    teacher = teachers.function(len, classes=2, encoding=Encoding(kind="uint8"))
    assert isinstance(teacher.bounds, Bounds)
    assert torch.equal(teacher.bounds.seen(IMAGES) * 255, (IMAGES * 255).round())


# Torch modules


class Object:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@dataclass(slots=True)
class Slots:
    logits: Tensor


@dataclass
class Record:
    features: Tensor
    scores: Tensor


class Named(NamedTuple):
    features: Tensor
    scores: Tensor


class Returns(nn.Module):
    """Scores of two classes in some wrapping."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any], classes: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wrap, self.layer = wrap, nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Any:
        return self.wrap(self.layer(images.flatten(1) - 0.5), images)


def expected(net: Returns) -> list[int]:
    scores = net.layer(IMAGES.flatten(1) - 0.5)
    one = scores.shape[1] == 1
    found = ((scores[:, 0] > 0).long() if one else scores.argmax(1)).tolist()
    assert set(found) == {0, 1}
    return found


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda scores, images: Object(scores), None),
        (lambda scores, images: {"logits": scores, "other": -scores}, None),
        (lambda scores, images: {"features": images, "scores": scores}, None),
        (lambda scores, images: {"a": -scores, "b": scores}, "b"),
        (lambda scores, images: (scores, -scores), None),
        (lambda scores, images: [images, scores], None),
        (lambda scores, images: (-scores, scores), "1"),
        (lambda scores, images: Record(images, scores), None),
        (lambda scores, images: Slots(scores), None),
        (lambda scores, images: Named(images, scores), "scores"),
        (lambda scores, images: scores[:, :, None, None], None),
        (lambda scores, images: scores[:, None], None),
        (lambda scores, images: scores.argmax(1), None),
        (lambda scores, images: scores.argmax(1, keepdim=True), None),
    ],
)
def test_scores_in_what_modules_return(wrap: Any, output: str | None) -> None:
    net = Returns(wrap)
    teacher = teachers.torch_module(net, classes=2, output=output)
    assert teacher.labels(IMAGES).tolist() == expected(net)


@pytest.mark.parametrize(
    ("wrap", "output", "says"),
    [
        (
            lambda scores, images: {"a": scores, "b": scores},
            None,
            r"dict of a \(20, 2\), b .*outpu",
        ),
        (lambda scores, images: {"a": scores}, "b", r"no scores in 'b'"),
        (lambda scores, images: Object(images), None, r"returned \(20, 1, 4, 4\) for 20 images"),
        (lambda scores, images: "cat", None, r"returned str for 20 images; scores of shape"),
    ],
)
def test_modules_that_return_no_scores(wrap: Any, output: str | None, says: str) -> None:
    with pytest.raises(TeacherError, match=says):
        teachers.torch_module(Returns(wrap), classes=2, output=output).labels(IMAGES)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores, images: scores,
        lambda scores, images: scores[:, 0],
        lambda scores, images: scores.sigmoid(),
        lambda scores, images: scores.sigmoid().squeeze(1),
        lambda scores, images: {"logits": scores.sigmoid().reshape(-1, 1)},
    ],
)
def test_one_score_of_a_module(wrap: Any) -> None:
    net = Returns(wrap, classes=1)
    assert teachers.torch_module(net, classes=2).labels(IMAGES).tolist() == expected(net)
    assert told(net, (1, 4, 4)).count == 2


@pytest.mark.parametrize(
    "wrap", [lambda scores, images: scores.detach(), lambda scores, images: scores.softmax(1)]
)
def test_one_score_that_may_be_anything_is_refused(wrap: Any) -> None:
    with pytest.raises(TeacherError, match="cannot be told"):
        teachers.torch_module(Returns(wrap, classes=1), classes=2).labels(IMAGES)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_images_are_cast_to_the_type_of_the_weights(kind: torch.dtype) -> None:
    net = Returns(lambda scores, images: scores)
    right = expected(net)
    answers = teachers.torch_module(net.to(kind), classes=2).labels(IMAGES).tolist()
    assert sum(a == b for a, b in zip(answers, right, strict=True)) >= 18  # ties by rounding


def test_a_module_that_is_rewritten_sees_the_encoding() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    )
    encoding = Encoding(kind="float32", size=(8, 8), channels="rgb", mean=(0.5,), std=(0.5,))
    teacher = teachers.torch_module(net, classes=("a", "b"), encoding=encoding)
    right = net(torch.from_numpy(Encoder(encoding, (1, 4, 4)).arrays(IMAGES))).argmax(1)
    assert torch.equal(teacher.labels(IMAGES), right)
    assert "pool before ReLU" in teacher.chosen
    assert names_of(teacher) == ("a", "b")


def test_why_a_module_of_other_outputs_is_asked_as_written() -> None:
    class Wrapped(nn.Sequential):
        def forward(self, images: Tensor) -> Any:
            return {"logits": super().forward(images)}

    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)
    teacher = teachers.torch_module(Wrapped(*layers), classes=2)
    teacher.labels(IMAGES)
    assert "something else than (row, classes)" in teacher.chosen


def test_what_a_module_tells_of_its_classes() -> None:
    net = Returns(lambda scores, images: Object(scores), classes=5)
    assert told(net, (1, 4, 4)) == Told(width=5)
    assert told(net, (3, 4, 4)) == Told()  # it fails on these

    net.config = SimpleNamespace(id2label=dict(enumerate("abcde")))
    assert told(net, (1, 4, 4)).names == tuple("abcde")
    net.config.id2label = {place: f"LABEL_{place}" for place in range(5)}
    assert told(net, (1, 4, 4)).names is None


# scikit-learn


def fitted(labels: Sequence[Any], images: Any = None) -> Any:
    tree = pytest.importorskip("sklearn.tree")
    pixels = np.linspace(0, 1, len(labels))[:, None] if images is None else images
    return tree.DecisionTreeClassifier(random_state=0).fit(pixels, labels)


THREE = torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([70, -3, 12], ("-3", "12", "70")),
        ([2.0, 0.0, 1.0], ("0", "1", "2")),
        (["cow", "ant", "bee"], ("ant", "bee", "cow")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_names_of_an_estimator(labels: list[Any], names: tuple[str, ...]) -> None:
    teacher = teachers.sklearn(fitted(labels))
    assert names_of(teacher) == names
    assert teacher.labels(THREE).tolist() == [sorted(set(labels)).index(k) for k in labels]


def test_other_names_for_an_estimator() -> None:
    tree = fitted(["cow", "ant", "bee"])
    more = teachers.sklearn(tree, classes=("dog", "cow", "bee", "ant"))
    assert (more.classes, more.labels(THREE).tolist()) == (4, [1, 3, 2])
    renamed = teachers.sklearn(tree, classes=("x", "y", "z"))
    assert (names_of(renamed), renamed.labels(THREE).tolist()) == (("x", "y", "z"), [2, 0, 1])
    with pytest.raises(InputError, match="says 4, but the model has 3"):
        teachers.sklearn(tree, classes=4)


def test_an_estimator_that_does_not_know() -> None:
    class Unsure:
        classes_ = np.array([3, 5])

        def predict(self, pixels: np.ndarray) -> np.ndarray:
            return np.array([5, -1, 3])

    teacher = teachers.sklearn(Unsure(), unknown="drop")
    assert (teacher.labels(THREE).tolist(), unsure_of(teacher)) == ([1, 2, 0], 2)
    with pytest.raises(TeacherError, match="outside its classes_"):
        teachers.sklearn(Unsure()).labels(THREE)


@pytest.mark.filterwarnings("error")
def test_an_estimator_of_a_table_gets_its_columns() -> None:
    pandas = pytest.importorskip("pandas")
    compose = pytest.importorskip("sklearn.compose")
    from sklearn.pipeline import make_pipeline
    from sklearn.tree import DecisionTreeClassifier

    rows = IMAGES.flatten(1).numpy()
    labels = (rows[:, 3] > 0.5).astype(int)
    table = pandas.DataFrame(rows, columns=[f"p{k}" for k in range(16)])
    chosen = compose.make_column_transformer(("passthrough", ["p3"]))
    pipeline = make_pipeline(chosen, DecisionTreeClassifier()).fit(table, labels)
    for estimator in (pipeline, fitted(labels, table)):
        assert teachers.sklearn(estimator).labels(IMAGES).tolist() == labels.tolist()


def test_an_estimator_of_several_outputs_is_refused() -> None:
    two = fitted(np.array([[0, 1], [1, 0], [0, 0]]))
    with pytest.raises(InputError, match="has 2 outputs; give an estimator of one"):
        teachers.sklearn(two)
