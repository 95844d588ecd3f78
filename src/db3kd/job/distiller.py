"""A run behind the interface of scikit-learn: fit, predict, predict_proba, score.

scikit-learn itself is only loaded where it asks, and everything works without it.
"""

import inspect
import math
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from db3kd.config.factories import Factory
from db3kd.config.settings import Budget, Synthesis, Training
from db3kd.data import images_of
from db3kd.errors import InputError, plain
from db3kd.progress import Progress
from db3kd.run import Run
from db3kd.stages.classes_met import taught
from db3kd.stages.ensemble_labels import images_for
from db3kd.student.card import StudentCard
from db3kd.student.cascade import check_unit
from db3kd.student.devices import usable_device
from db3kd.student.loaded import Student
from db3kd.student.networks import Shape, build, network_of
from db3kd.student.own import build_own
from db3kd.student.pictures import COLOURS
from db3kd.teachers.base import Teacher, check_teacher, known_of, met_of, names_of
from db3kd.teachers.sklearn import sklearn


class Distiller:
    """A student as an estimator of scikit-learn: fitted on images and a teacher, not on labels.

    - `network`: one of `db3kd.networks.NAMES`, "auto" by the size of the images, or a factory of a
      network of your own (`docs/students.md`). `width` is that of a named network.
    - `queries`: the most that a run may ask the teacher; None for no limit.
    - `shape`: channels, height and width. Needed without images, and for images as flat rows.
    - `training`: how the student is trained (`db3kd.Training`); None for the defaults.
    - `folder`: where everything is kept. `fit` with the same images continues there. By default it
      is a new temporary folder for each `fit`, which is left there.
    - `random_state`: seed of the run and of the student.
    - `device`, `progress`: as for `db3kd.Run`.

    After `fit`: `classes_`, the labels that `predict` gives; `student_`, a `db3kd.Student`;
    `folder_`, of the run; `queries_`, what the run has cost so far; `n_features_in_`, the numbers
    of one image.

    >>> images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)).numpy()
    >>> from db3kd.teachers import function
    >>> teacher = function(lambda some: some.mean((1, 2, 3)) > 0.5, classes=("dark", "bright"))
    >>> distiller = Distiller(queries=100, training=Training(steps=5), progress=False)
    >>> distiller.fit(images, teacher).predict(images[:3]).shape, distiller.queries_ <= 100
    ((3,), True)
    """

    def __init__(
        self,
        *,
        network: Factory = "auto",
        queries: int | None = 20_000,
        width: float = 1.0,
        shape: Shape | None = None,
        training: Training | None = None,
        folder: str | Path | None = None,
        random_state: int = 0,
        device: str = "cpu",
        progress: Progress | bool | None = None,
    ) -> None:
        self.network = network
        self.queries = queries
        self.width = width
        self.shape = shape
        self.training = training
        self.folder = folder
        self.random_state = random_state
        self.device = device
        self.progress = progress

    # What scikit-learn asks of every estimator

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name; none of them is an estimator, so `deep` changes nothing."""
        return {name: getattr(self, name) for name in _settings()}

    def set_params(self, **settings: Any) -> "Distiller":
        """Change settings by name.

        Raises:
            InputError: there is no setting of that name.

        >>> Distiller().set_params(queries=7)
        Distiller(queries=7)
        """
        for name in settings:
            if name not in _settings():
                known = ", ".join(_settings())
                raise InputError(f"a Distiller has no setting {plain(name, 60)!r}, but {known}")
        for name, value in settings.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """The settings that are not the defaults."""
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, default in _settings().items()
            if getattr(self, name) is not default and getattr(self, name) != default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn wants to know: a classifier of images, which needs a teacher."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=True, three_d_array=True),
            no_validation=True,
        )

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a student."""
        return hasattr(self, "student_")

    # The work

    def fit(self, images: object, teacher: object) -> "Distiller":
        """Buy answers, train the student, and return this object.

        `images`: an array or tensor (image, channels, height, width), of uint8 or floats of 0 to 1;
        grey ones as (image, height, width), or flat rows with `shape`; PIL images; or what
        `db3kd.load` opens. None makes pseudo samples without any data. `teacher`: a
        `db3kd.Teacher`, or a fitted classifier of scikit-learn, which is asked by `predict` alone.

        With images a trial decides what is bought (`Run.spend`); without, see `Run.synthesize`.
        Costs at most `queries`, over all calls in the same folder. Random by `random_state`.

        Raises:
            InputError: images, teacher or settings that cannot be used.
            Db3kdError: see `Run`; with the same `folder` the next `fit` continues.
        """
        asked = _teacher(teacher)
        given = None if images is None else images_of(self._arranged(images))
        shape = self.shape if given is None else given.shape
        if shape is None:
            raise InputError("without images, shape says what to make: (channels, height, width)")
        shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        if given is not None and self.shape not in (None, shape):
            raise InputError(f"the images are {shape}, but shape is {self.shape}")
        finding = met_of(asked) is not None
        labels = np.arange(asked.classes) if finding else _labels(teacher, asked)
        network, card = self._network(shape, tuple(map(str, labels.tolist())))
        self.folder_ = Path(self.folder or tempfile.mkdtemp(prefix="db3kd-"))
        training = self.training or Training()
        with Run(
            self.folder_,
            asked,
            budget=Budget(queries=self.queries),
            seed=self.random_state,
            device=usable_device(self.device),
            progress=self.progress,
        ) as run:
            if given is None:
                transfer = run.synthesize(shape, _synthesis(run, shape, card))
            else:
                transfer = run.spend(given, network, training=training)
            if finding:
                labels = np.array((run.meter.met or ())[: taught(run.meter, transfer)])
                network, card = self._network(shape, tuple(map(str, labels.tolist())))
            name = "pseudo" if given is None else "auto"
            seed = self.random_state
            trained = run.distill(network, transfer, training, seed=seed, name=name, card=card)
            self.queries_ = run.meter.spent
        self.student_ = Student(trained, card).eval()
        self.classes_, self.n_features_in_ = labels, math.prod(shape)
        return self

    def predict_proba(self, images: object) -> NDArray[np.float64]:
        """The probability of every class of `classes_` for each image; costs no query.

        `images` as for `fit`, or anything else that `db3kd.Student.predict` takes.

        Raises:
            InputError: not fitted, or an image cannot be used.
        """
        if not hasattr(self, "student_"):
            raise _not_fitted()
        given = self._arranged(images, self.student_.card.shape)
        scores = self.student_.logits(given).double().softmax(1)
        return np.asarray(scores.numpy(), dtype=np.float64)

    def predict(self, images: object) -> NDArray[Any]:
        """The class of each image, as in `classes_`; images as for `predict_proba`.

        Raises:
            InputError: not fitted, or an image cannot be used.
        """
        found = self.predict_proba(images).argmax(1)
        chosen: NDArray[Any] = self.classes_[found]
        return chosen

    def score(self, images: object, labels: Any) -> float:
        """The share of images, from 0 to 1, whose class is that of `labels`; costs no query.

        With true classes it is the accuracy; with the teacher's answers the agreement with it.

        Raises:
            InputError: not fitted, an image cannot be used, or numbers that differ.
        """
        found, wanted = self.predict(images), np.asarray(labels)
        if found.shape != wanted.shape or not len(found):
            raise InputError(
                f"{len(found):,} images need as many labels, at least one; got {wanted.shape}"
            )
        return float((found == wanted).mean())

    def _network(self, shape: Shape, names: tuple[str, ...]) -> tuple[nn.Module, StudentCard]:
        """The student before its training, and what its file says."""
        named, seed = self.network, self.random_state
        if isinstance(named, str) and ":" not in named:
            named = network_of(named, shape)
            card = StudentCard(network=named, width=self.width, shape=shape, classes=names)
            return build(named, shape, len(names), self.width, seed=seed), card
        said = named if isinstance(named, str) else None
        card = StudentCard(factory=said, shape=shape, classes=names)
        return build_own(named, shape, len(names), seed=seed), card

    def _arranged(self, images: object, shape: Shape | None = None) -> object:
        """Arrays in the order of db3kd: flat rows are folded, grey ones get their channel."""
        shape = shape or self.shape
        if not isinstance(images, np.ndarray | Tensor):
            return images
        held = (
            images.detach().cpu()
            if isinstance(images, Tensor)
            else torch.from_numpy(
                np.array(images, order="C") if images.dtype.kind in "uf" else _no_numbers(images)
            )
        )
        if held.ndim == 2:
            if shape is None or held.shape[1] != math.prod(shape):
                raise InputError(
                    f"the images are flat rows of {held.shape[1]:,} numbers; say what one looks"
                    " like, by shape=(channels, height, width)"
                )
            held = held.reshape(len(held), *shape)
        elif held.ndim == 3 and tuple(held.shape) == shape:
            held = held[None]
        elif held.ndim == 3:
            found = tuple(held.shape)
            coloured = bool({found[0], found[2]} & {*COLOURS[1:]})
            if coloured if shape is None else shape[0] != 1:
                raise InputError(
                    f"images of shape {found} may be {found[0]} grey ones or one with colours; give"
                    " (image, channels, height, width)"
                )
            held = held[:, None]
        return held.float() if held.is_floating_point() else held


def _settings() -> dict[str, Any]:
    """The settings of an estimator, with their defaults."""
    known = inspect.signature(Distiller.__init__).parameters.values()
    return {one.name: one.default for one in known if one.kind is one.KEYWORD_ONLY}


def _synthesis(run: Run, shape: Shape, card: StudentCard) -> Synthesis:
    """How pseudo samples are made; an ensemble labels more if that helps a student like this."""
    plan = Synthesis()
    asked = run.planned_synthesis(plan)
    more = images_for(str(card.network), plan, shape, asked=asked)
    return Synthesis(ensemble_labels=more)


def _no_numbers(images: NDArray[Any]) -> NDArray[Any]:
    raise InputError(f"images are {images.dtype}; give uint8, or floats of 0 to 1")


def _teacher(given: Any) -> Teacher:
    """A teacher as it is, or a fitted classifier of scikit-learn behind the label-only door."""
    if not hasattr(given, "labels") and hasattr(given, "predict"):
        return sklearn(given)
    found: Teacher = given
    check_teacher(found)
    check_unit(found)
    return found


def _labels(given: Any, teacher: Teacher) -> NDArray[Any]:
    """What `predict` gives: the classifier's own labels, the teacher's names, or numbers."""
    if given is not teacher:
        return np.sort(given.classes_)
    count = known_of(teacher)
    names = names_of(teacher)
    whole = names is not None and len(set(names[:count])) == count
    return np.array(names[:count]) if whole and names is not None else np.arange(count)


def _not_fitted() -> Exception:
    """The error of an estimator that is not fitted; where scikit-learn is, its own kind, too."""
    text = "this Distiller is not fitted yet; call fit(images, teacher) first"
    if find_spec("sklearn") is None:
        return InputError(text)
    from sklearn.exceptions import NotFittedError

    found: Exception = type("NotFitted", (InputError, NotFittedError), {})(text)
    return found
