"""A `Progress` that hands its figures to a tracker, and what a tracker must be able to do."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol, final, runtime_checkable

from db3kd.config.reading import told
from db3kd.config.recipe import Recipe
from db3kd.config.secrets import secrets_of, without_secrets
from db3kd.errors import BudgetExhausted, Db3kdError, InputError, described
from db3kd.progress import LEFT, Progress

POINTS = 200  # of a curve at most; a tracker may be slow, and a stage may report often
MOST = 500  # signs of a parameter
_SECRET = ("${MLFLOW_TRACKING_PASSWORD}", "${MLFLOW_TRACKING_TOKEN}", "${WANDB_API_KEY}")
_log = logging.getLogger("db3kd")

Parameter = str | int | float | bool
Ending = Literal["finished", "failed", "stopped"]


@runtime_checkable
class Backend(Protocol):
    """One run in a tracker; opened again, it goes on with the same one."""

    where: str  # how a person looks at it, in words

    def parameters(self, values: Mapping[str, Parameter]) -> None:
        """Keep the settings of the run, by name."""

    def log(self, series: str, figures: Mapping[str, float], step: int) -> None:
        """Add a point to each curve `series/NAME`."""

    def results(self, figures: Mapping[str, float], step: int) -> None:
        """Keep what the run has reached after `step` queries."""

    def end(self, how: Ending) -> None:
        """Write everything and let go."""


@final
class Tracker:
    """A `Progress` that hands live figures to TensorBoard, MLflow or Weights & Biases.

    It begins with the first report. Of each stage and student, at most 200 points are kept: losses
    by step, queries spent by how much of the stage is done. A tracker that fails at its begin is an
    error. One that fails later is a warning, once, and the run goes on without it.

    >>> from db3kd import trackers
    >>> with trackers.tensorboard("runs/first") as tracker:  # nothing is reported, nothing written
    ...     isinstance(tracker, Progress)
    True
    """

    def __init__(self, name: str, begin: Callable[[], Backend]) -> None:
        self.name = name
        self._begin = begin
        self._backend: Backend | None = None
        self._parameters: dict[str, Parameter] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._failed = False

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        """Add a point to the curves of a stage, unless the last one is near."""
        known = {name: float(value) for name, value in figures.items() if name != LEFT}
        if known and self._is_news(stage, done, total):
            self._send(lambda backend: backend.log(_clean(stage), known, done))

    def recipe(self, recipe: Recipe) -> None:
        """Keep a recipe as parameters, as `summary.json` has it: with defaults, without secrets.

        Call it before the run begins.

        Raises:
            RecipeError: the recipe was made in Python and holds an impossible value.
        """
        self._parameters = dict(_flat(told(recipe)))

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Keep what a verb of `db3kd.job` returns: accuracy, agreement, queries by stage."""
        figures, spent = figures_of(summary), int(summary["queries"]["spent"])
        self._send(lambda backend: backend.results(figures, spent))

    def close(self, how: Ending = "finished") -> None:
        """Write everything; what was never begun is not begun for that."""
        if self._backend is not None:
            self._send(lambda backend: backend.end(how))
            self._backend = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stopped = isinstance(error, KeyboardInterrupt | BudgetExhausted)
        self.close("finished" if error is None else "stopped" if stopped else "failed")

    def _is_news(self, stage: str, done: int, total: int) -> bool:
        """Whether a report is to be a point: the first, the last, and each 200th part between."""
        point = done * POINTS // max(total, 1)
        before, last = self._seen.get(stage, (-1, -1))
        again = done < before  # another lesson of the same name
        news = again or point > last or (done >= total and done > before)
        if news:
            self._seen[stage] = done, point
        return news

    def _send(self, work: Callable[[Backend], None]) -> None:
        if self._failed:
            return
        if self._backend is None:
            self._backend = self._begun()
        try:
            work(self._backend)
        except Exception as error:
            self._failed = True
            _log.warning("%s takes no more figures (%s); the run goes on", self.name, _told(error))

    def _begun(self) -> Backend:
        try:
            backend = self._begin()
            backend.parameters(self._parameters)
        except Db3kdError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.name} cannot follow the run ({_told(error)}); see its settings, or run"
                " without it"
            ) from None
        _log.info("%s", backend.where)
        return backend


def together(*several: Progress) -> Progress:
    """One `Progress` that reports to several, in this order.

    >>> def shout(stage, done, total, figures):
    ...     print(stage, done)
    >>> together(shout, shout)("answers", 3, 3, {})
    answers 3
    answers 3
    """

    def report(stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        for progress in several:
            progress(stage, done, total, figures)

    return report


def figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a summary by name: of each student, the mean of each method, the queries.

    >>> figures_of({"queries": {"spent": 30, "by_stage": {"answers": 30, "grow": 0}},
    ...             "methods": {"ce": {"seeds": [0, 1], "accuracy": [0.5, 0.75],
    ...                                "agreement": [None, None]}}})
    {'queries/spent': 30.0, 'queries/answers': 30.0, 'ce-0/accuracy': 0.5, 'ce-1/accuracy': 0.75,
    'ce/accuracy': 0.625}
    """
    queries = summary["queries"]
    found = {"queries/spent": float(queries["spent"])}
    found |= {f"queries/{name}": float(n) for name, n in queries["by_stage"].items() if n}
    teacher = summary.get("teacher", {}).get("accuracy")
    if teacher is not None:
        found["teacher/accuracy"] = float(teacher)
    for method, row in summary.get("methods", {}).items():
        for name in ("accuracy", "agreement"):
            known = {
                seed: float(value)
                for seed, value in zip(row["seeds"], row[name], strict=True)
                if value is not None
            }
            found |= {f"{method}-{seed}/{name}": value for seed, value in known.items()}
            if known:
                found[f"{method}/{name}"] = sum(known.values()) / len(known)
    return found


def _flat(values: Mapping[str, Any], table: str = "") -> Iterator[tuple[str, Parameter]]:
    """A resolved recipe as trackers take it: `student.training.epochs`; what is not set is out."""
    for key, value in values.items():
        name = f"{table}{key}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, bool | int | float):
            yield _clean(name), value
        elif value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            yield _clean(name), text if len(text) <= MOST else f"{text[: MOST - 4]} ..."


def _clean(name: str) -> str:
    """A name with nothing but signs that all trackers take."""
    return re.sub(r"[^\w./ -]", "_", name, flags=re.ASCII)


def _told(error: Exception) -> str:
    """An error without the secrets that only the trackers have."""
    text = without_secrets(described(error), secrets_of(_SECRET))
    return re.sub(r"//[^/@\s]+@", "//***@", text)
