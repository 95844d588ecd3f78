"""A run as an estimator of scikit-learn: its own checks, real digits, and no question twice."""

import inspect
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone, is_classifier  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.svm import SVC  # noqa: E402
from sklearn.utils import estimator_checks  # noqa: E402
from sklearn.utils.validation import check_is_fitted  # noqa: E402

from db3kd import BudgetExhausted, Distiller, InputError, Training, load, load_student  # noqa: E402
from db3kd.teachers import function  # noqa: E402

CHECKS = (
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)
SHORT = Training(steps=400)


class Unchecked(Distiller):
    """Without the check of types that goes on in these tests: some checks set nonsense."""

    __init__ = inspect.unwrap(Distiller.__init__)


@pytest.mark.parametrize("name", CHECKS)
def test_the_checks_of_scikit_learn_that_apply(name: str) -> None:
    """The others fit to an array of labels, which here is a teacher."""
    check: Callable[[str, Any], None] = getattr(estimator_checks, name)
    check("Distiller", Unchecked(queries=300))


def test_it_is_a_classifier_that_is_not_fitted_yet() -> None:
    distiller = Distiller(queries=300, network="lenet5")
    assert is_classifier(distiller)
    assert repr(distiller) == "Distiller(network='lenet5', queries=300)"
    assert repr(Distiller()) == "Distiller()"
    assert clone(distiller).get_params() == distiller.get_params()
    for call in (distiller.predict, distiller.predict_proba, lambda x: distiller.score(x, [0])):
        for kind in (NotFittedError, InputError):
            with pytest.raises(kind, match="not fitted yet"):
                call(np.zeros((1, 64)))
    with pytest.raises(NotFittedError):
        check_is_fitted(distiller)
    with pytest.raises(ValueError, match="has no setting 'epochs', but network, queries"):
        distiller.set_params(epochs=3)


def linear(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))


class Counted(SVC):  # type: ignore[misc]
    """An SVM that counts what it is asked."""

    asked = 0

    def predict(self, images: Any) -> Any:
        self.asked += len(images)
        return super().predict(images)


@pytest.fixture(scope="module")
def svm(digits: Path) -> Counted:
    known = np.load(digits.parent / "known.npz")
    names = np.array([f"digit {label}" for label in known["labels"]])
    fitted: Counted = Counted(gamma=0.3, C=10).fit(known["images"], names)
    return fitted


@pytest.fixture(scope="module")
def rows(digits: Path) -> Any:
    """All images of the folder as scikit-learn has them: flat rows."""
    data = load(str(digits), "train+test", channels=1)
    return data.images.read(torch.arange(len(data))).flatten(1).numpy()


def made(folder: Path | None, **changes: Any) -> Distiller:
    settings: dict[str, Any] = {
        "network": linear,
        "queries": 400,
        "shape": (1, 8, 8),
        "training": SHORT,
        "folder": folder,
        "progress": False,
    }
    return Distiller(**{**settings, **changes})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, svm: Counted, rows: Any) -> Distiller:
    distiller = made(tmp_path_factory.mktemp("fitted") / "run")
    before = distiller.get_params()
    given = rows.copy()
    given.flags.writeable = False
    assert distiller.fit(given, svm) is distiller
    assert distiller.get_params() == before
    assert np.array_equal(given, rows)
    return distiller


def test_a_student_agrees_with_its_teacher_within_the_budget(
    fitted: Distiller, svm: Counted, rows: Any
) -> None:
    assert 80 <= svm.asked <= fitted.queries_ <= 400
    check_is_fitted(fitted)
    said = fitted.predict(rows)
    assert said.shape == (80,)
    assert set(said) <= set(svm.classes_)
    theirs = SVC.predict(svm, rows)
    assert fitted.score(rows, theirs) == np.mean(said == theirs) >= 0.8
    assert fitted.classes_.tolist() == svm.classes_.tolist()
    assert fitted.n_features_in_ == 64
    shares = fitted.predict_proba(rows)
    assert np.allclose(shares.sum(1), 1, atol=1e-12)
    assert (fitted.classes_[shares.argmax(1)] == said).all()
    order = np.random.default_rng(0).permutation(80)
    assert np.allclose(fitted.predict_proba(rows[order]), shares[order], atol=1e-6)
    assert np.allclose(fitted.predict_proba(rows[7:9]), shares[7:9], atol=1e-6)


def test_images_in_other_forms_get_the_same_answers(fitted: Distiller, rows: Any) -> None:
    said = fitted.predict(rows).tolist()
    square = rows.reshape(80, 8, 8)
    pixels = np.round(square * 255).astype(np.uint8)
    for given in (
        square.astype("f8"),
        square[:, None],
        torch.from_numpy(square),
        pixels,
        list(pixels),
        rows[:, ::-1][:, ::-1],
        np.asfortranarray(rows),
    ):
        assert fitted.predict(given).tolist() == said


def test_the_same_fit_again_asks_nothing(fitted: Distiller, svm: Counted, rows: Any) -> None:
    before = svm.asked
    again = clone(fitted).fit(rows, svm)
    assert svm.asked == before
    assert again.queries_ == fitted.queries_
    assert np.array_equal(again.predict_proba(rows), fitted.predict_proba(rows))


def test_it_goes_through_pickle_and_its_file_is_a_student(fitted: Distiller, rows: Any) -> None:
    kept = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(kept.predict_proba(rows), fitted.predict_proba(rows))
    (file,) = (fitted.folder_ / "students").glob("auto-*.safetensors")
    student = load_student(file, factory=linear)
    assert student.predict(rows[:9].reshape(9, 1, 8, 8)) == fitted.predict(rows[:9]).tolist()


@pytest.mark.slow
def test_a_fit_that_was_stopped_by_its_budget_goes_on(
    tmp_path: Path, svm: Counted, rows: Any
) -> None:
    before = svm.asked
    short = made(tmp_path / "run", queries=50)
    with pytest.raises(BudgetExhausted):
        short.fit(rows, svm)
    assert svm.asked - before <= 50
    assert not hasattr(short, "student_")
    done = clone(short).set_params(queries=200).fit(rows, svm)
    assert svm.asked - before <= done.queries_ <= 200


def test_without_data_and_without_a_folder(tmp_path: Path, monkeypatch: Any, svm: Counted) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("db3kd.synthesis.chosen.LEAST_STEPS", 10)
    before = svm.asked
    distiller = made(None, queries=100).fit(None, svm)
    assert svm.asked - before <= distiller.queries_ <= 100
    assert distiller.folder_.parent == tmp_path
    assert (distiller.folder_ / "journal.jsonl").is_file()
    assert list((distiller.folder_ / "students").glob("pseudo-*.safetensors"))
    assert distiller.predict_proba(np.zeros((2, 64))).shape == (2, 10)


def test_without_scikit_learn_labels_are_numbers(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)  # importing it fails
    monkeypatch.setattr("db3kd.search.joint.plan.LEAST_STEPS", 20)
    images = np.random.default_rng(0).random((12, 1, 4, 4), np.float32)
    distiller = made(tmp_path / "run", shape=None, queries=24)
    with pytest.raises(InputError, match="not fitted yet") as caught:
        distiller.predict(images)
    assert not isinstance(caught.value, NotFittedError)
    teacher = function(lambda some: some.mean((1, 2, 3)) > 0.5, classes=2)
    found = distiller.fit(images, teacher)
    assert found.classes_.tolist() == [0, 1]
    assert set(found.predict(images)) <= {0, 1}
    with pytest.raises(InputError, match="need as many labels"):
        found.score(images, [0, 1])


@pytest.mark.parametrize(
    ("images", "changes", "said"),
    [
        (None, {"shape": None}, "without images, shape says what to make"),
        (np.zeros((9, 64)), {"shape": None}, "flat rows of 64 numbers"),
        (np.zeros((9, 63)), {}, "flat rows of 63 numbers"),
        (np.zeros((9, 1, 9, 9)), {}, r"images are \(1, 9, 9\), but shape is"),
        (np.zeros((9, 64)) + 16, {}, "out of the bounds"),
        (np.zeros((9, 64), int), {}, "images are int64; give uint8, or floats"),
        (np.zeros((9, 64)), {"network": "lenet"}, "lenet"),
        ("photos", {}, "the images are a path"),
    ],
)
def test_a_mistake_is_one_sentence_and_costs_nothing(
    images: Any, changes: Any, said: str, svm: Counted, tmp_path: Path
) -> None:
    before = svm.asked
    with pytest.raises(InputError, match=said):
        made(tmp_path / "run", **changes).fit(images, svm)
    assert svm.asked == before


def test_teachers_that_tell_more_than_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a teacher has classes, bounds and labels"):
        made(tmp_path).fit(np.zeros((9, 64)), nn.Flatten())
    wide = function(lambda some: [0] * len(some), classes=2, bounds=(0.0, 255.0))
    with pytest.raises(InputError, match="takes images of 0 to 255"):
        made(tmp_path).fit(np.zeros((9, 64)), wide)


def test_one_image_with_colours_is_no_stack_of_grey_ones() -> None:
    """An array of three axes says by the images of the training what it is."""
    one = np.zeros((3, 8, 8), np.uint8)
    for given in (one, one.transpose(1, 2, 0)):
        with pytest.raises(InputError, match=r"may be . grey ones or one with colours"):
            Distiller()._arranged(given)
        with pytest.raises(InputError, match=r"may be . grey ones or one with colours"):
            Distiller(shape=(3, 4, 4))._arranged(given)
    assert Distiller(shape=(3, 8, 8))._arranged(one).shape == (1, 3, 8, 8)
    assert Distiller(shape=(1, 8, 8))._arranged(one).shape == (3, 1, 8, 8)
