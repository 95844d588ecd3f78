"""A scikit-learn classifier as a teacher."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from db3kd.config.remote import Encoding
from db3kd.errors import InputError, TeacherError, plain
from db3kd.teachers.base import STATE, Teacher
from db3kd.teachers.classes import Told, Unknown, classes_of, texts_of
from db3kd.teachers.encoding import Entry
from db3kd.teachers.function import Asking


def sklearn(
    estimator: Any,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch: int = 1024,
    classes: int | Sequence[str] | None = None,
    encoding: Encoding | None = None,
    unknown: Unknown = "refuse",
) -> Teacher:
    """Hide a fitted scikit-learn classifier behind the label-only door.

    Images, or what `encoding` makes of them, are flattened to (row, channel * height * width). An
    estimator that was fitted on a table gets a table of its own columns (`feature_names_in_`).

    Class k is the k-th entry of the estimator's sorted `classes_`, and is called what the label is
    as a text. `classes` may give other names in this order, or more names, among which all of these
    texts are; then their order counts. `unknown` says what an answer of -1 means that is no label.

    Raises:
        InputError: no fitted classifier, one of several outputs, or other classes than it has.
        TeacherError: when asked, if the estimator fails.

    >>> from sklearn.svm import SVC
    >>> import torch
    >>> svm = SVC().fit([[0.0], [0.1], [0.9], [1.0]], ["dark", "dark", "light", "light"])
    >>> teacher = sklearn(svm)
    >>> teacher.labels(torch.tensor([0.2, 0.9]).reshape(2, 1, 1, 1)), teacher.names
    (tensor([0, 1]), ('dark', 'light'))
    """
    labels = _labels(estimator)
    known = classes_of(classes, Told(labels=texts_of(labels)), unknown=unknown)
    columns = getattr(estimator, "feature_names_in_", None)

    def ask(images: Tensor) -> Int[Tensor, " row"]:
        pixels = images.flatten(1).cpu().numpy()
        said = np.asarray(estimator.predict(pixels if columns is None else _table(pixels, columns)))
        if said.shape == (len(images), 1):
            said = said[:, 0]  # as CatBoost answers
        if said.shape != (len(images),):
            raise TeacherError(
                f"the estimator answered an array of shape {said.shape} to {len(images)} image(s);"
                " one label for each is expected"
            )
        found = np.searchsorted(labels, said).clip(max=len(labels) - 1)
        wrong = labels[found] != said
        if wrong.any() and (unknown == "refuse" or (said[wrong] != -1).any()):
            raise TeacherError(
                f"the estimator answered a class outside its classes_: {plain(said[wrong][:5], 60)}"
            )
        return known.of_scores(torch.from_numpy(np.where(wrong, -1, found)))

    return Asking(ask, known, Entry(encoding, bounds), batch, lambda: _parts(estimator))


def _labels(estimator: Any) -> NDArray[Any]:
    """The sorted labels of a fitted classifier of one output."""
    kind = plain(type(estimator).__name__, 60)
    labels = getattr(estimator, "classes_", None)
    if labels is None or not hasattr(estimator, "predict"):
        raise InputError(f"{kind} is not a fitted classifier: it needs predict and classes_")
    several = isinstance(labels, list | tuple) and any(np.ndim(some) for some in labels)
    if several or np.ndim(labels) != 1:
        raise InputError(
            f"{kind} has {len(labels)} outputs; give an estimator of one, with one class for each"
            " image"
        )
    return np.sort(labels)


def _table(pixels: NDArray[Any], columns: Any) -> Any:
    try:
        import pandas
    except ImportError:
        raise TeacherError(
            "the estimator was fitted on a table with named columns; to ask it, install pandas"
        ) from None
    return pandas.DataFrame(pixels, columns=list(columns))


def _parts(estimator: Any) -> dict[str, str]:
    """A digest of what was fitted; {} where there is nothing that has one.

    It is a state and no more than that: a fit on another number of threads has another one, and so
    have trees that count how often they were asked. Of an object of another library, only its
    arrays and the estimators in it are looked at: it may hold what is new in each process, such as
    open files.
    """
    import joblib  # type: ignore[import-untyped]
    from sklearn.base import BaseEstimator

    fitted = estimator
    if not isinstance(estimator, BaseEstimator):
        inside = vars(estimator) if hasattr(estimator, "__dict__") else {}
        fitted = {k: v for k, v in inside.items() if isinstance(v, np.ndarray | BaseEstimator)}
        if not fitted:
            return {}
    try:
        return {f"{STATE} of the estimator": str(joblib.hash(fitted))}
    except Exception:  # whatever the pickling of some attribute raises
        return {}
