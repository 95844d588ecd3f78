"""A scikit-learn classifier as a teacher."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from db3kd.errors import InputError, TeacherError
from db3kd.teachers.base import STATE, Teacher
from db3kd.teachers.function import function


def sklearn(
    estimator: Any, *, bounds: tuple[float, float] = (0.0, 1.0), batch: int = 1024
) -> Teacher:
    """Hide a fitted scikit-learn classifier behind the label-only door.

    Images are flattened to (row, channel * height * width). Class k is the k-th entry of the
    estimator's sorted `classes_`, whatever its labels are called.

    Raises:
        InputError: no fitted classifier.
        TeacherError: when asked, if the estimator fails.

    >>> from sklearn.svm import SVC
    >>> import torch
    >>> svm = SVC().fit([[0.0], [0.1], [0.9], [1.0]], ["dark", "dark", "light", "light"])
    >>> sklearn(svm).labels(torch.tensor([0.2, 0.9]).reshape(2, 1, 1, 1))
    tensor([0, 1])
    """
    names = getattr(estimator, "classes_", None)
    if names is None or not hasattr(estimator, "predict"):
        raise InputError(
            f"{type(estimator).__name__} is not a fitted classifier: it needs predict and classes_"
        )

    names = np.sort(names)

    def ask(images: Float[Tensor, "row *image"]) -> Any:
        said = np.asarray(estimator.predict(images.flatten(1).cpu().numpy()))
        found = np.searchsorted(names, said).clip(max=len(names) - 1)
        if said.shape == (len(images),) and (names[found] != said).any():
            raise TeacherError(f"the estimator answered a class outside its classes_: {said[:5]}")
        return found

    return function(
        ask,
        classes=len(names),
        bounds=bounds,
        batch=batch,
        identify=lambda: _parts(estimator),
    )


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
