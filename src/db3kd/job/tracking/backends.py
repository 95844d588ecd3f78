"""The trackers themselves: one run in each, which is continued with the run folder.

A run in MLflow or Weights & Biases has an identity of its own. It is kept in `trackers.json` in
the folder of the run, and so a run that is continued is the same run there.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from db3kd.errors import InputError, hint
from db3kd.job.tracking.tracker import Backend, Ending, Parameter, Tracker
from db3kd.storage.files import write_atomically

PROJECT = "db3kd"
FILE = "trackers.json"


def tensorboard(folder: str | Path) -> Tracker:
    """Follow a run in TensorBoard: event files in `folder/tensorboard`.

    `folder`: the folder of the run. Nothing leaves this machine.

    Raises:
        InputError: the extra `tensorboard` is missing.

    >>> tensorboard("runs/first").name
    'TensorBoard'
    """
    _needs("tensorboard", "TensorBoard")
    place = Path(folder) / "tensorboard"
    return Tracker("TensorBoard", lambda: _TensorBoard(place))


def mlflow(folder: str | Path, *, experiment: str | None = None) -> Tracker:
    """Follow a run in MLflow: where MLFLOW_TRACKING_URI says, or else in MLflow's own default.

    `folder`: the folder of the run, whose name the run in MLflow has. `experiment`: by default what
    MLFLOW_EXPERIMENT_NAME says, or else "db3kd". Without an address, MLflow writes `mlflow.db` in
    the current folder, and nothing leaves this machine: its own telemetry is off unless
    MLFLOW_DISABLE_TELEMETRY says otherwise.

    Raises:
        InputError: the extra `mlflow` is missing.
    """
    _needs("mlflow", "MLflow")
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    return Tracker("MLflow", lambda: _MLflow(Path(folder), name))


def wandb(folder: str | Path, *, project: str | None = None) -> Tracker:
    """Follow a run in Weights & Biases: offline, in `folder/wandb`, unless WANDB_MODE says online.

    `folder`: the folder of the run, whose name the run there has. `project`: by default what
    WANDB_PROJECT says, or else "db3kd". Neither code, nor the state of a repository, nor what the
    machine does is recorded.

    Raises:
        InputError: the extra `wandb` is missing.
    """
    _needs("wandb", "Weights & Biases")
    name = project or os.environ.get("WANDB_PROJECT") or PROJECT
    return Tracker("Weights & Biases", lambda: _Wandb(Path(folder), name))


def _needs(package: str, name: str) -> None:
    found = find_spec(package)
    if found is None or found.origin is None:  # a mere folder of that name is no package
        raise InputError(f"{name} needs its extra: {hint(package)}")


def _known(folder: Path, tracker: str) -> str | None:
    """The identity of this run in a tracker; None if it has none there yet."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / FILE).read_text("utf-8"))
        return str(found[tracker]) if tracker in found else None
    return None


def _keep(folder: Path, tracker: str, identity: str) -> None:
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        found = dict(json.loads((folder / FILE).read_text("utf-8")))
    text = json.dumps({**found, tracker: identity}, indent=2)
    write_atomically(folder / FILE, text.encode() + b"\n")


class _TensorBoard(Backend):
    """Event files; those of several processes in one folder are one run."""

    def __init__(self, place: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.where = f"`tensorboard --logdir {place}` shows the curves"
        self._values: dict[str, Parameter] = {}
        self._writer = SummaryWriter(str(place), flush_secs=10)

    def parameters(self, values: Mapping[str, Parameter]) -> None:
        self._values = dict(values)
        rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
        if rows:
            self._writer.add_text("recipe", "\n".join(["| key | value |", "| --- | --- |", *rows]))

    def log(self, series: str, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{series}/{name}", value, step)

    def results(self, figures: Mapping[str, float], step: int) -> None:
        self._writer.add_hparams(self._values, dict(figures), run_name=".", global_step=step)

    def end(self, how: Ending) -> None:
        self._writer.close()


def _cell(value: Parameter) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")


class _MLflow(Backend):
    """A run in an experiment; MLflow lets no parameter change, so a new value becomes a tag."""

    def __init__(self, folder: Path, experiment: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read while it is imported
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a run does not wait long
        from mlflow import MlflowClient

        self._client = MlflowClient()
        found = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self._run = self._again(folder, place) or self._client.create_run(
            place, run_name=folder.name
        )
        self._id: str = self._run.info.run_id
        _keep(folder, "mlflow", self._id)
        self.where = f"MLflow follows the run as {folder.name!r} in experiment {experiment!r}"

    def _again(self, folder: Path, experiment: str) -> Any:
        """This run, if the store has it; it may be another store than last time."""
        from mlflow.exceptions import MlflowException

        known = _known(folder, "mlflow")
        if known is None:
            return None
        try:
            run = self._client.get_run(known)
        except MlflowException:
            return None
        if run.info.experiment_id != experiment or run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(known, status="RUNNING")
        return run

    def parameters(self, values: Mapping[str, Parameter]) -> None:
        from mlflow.entities import Param, RunTag

        before = self._run.data.params
        new = [Param(name, str(value)) for name, value in values.items() if name not in before]
        changed = [
            RunTag(f"now.{name}", str(value))
            for name, value in values.items()
            if before.get(name, str(value)) != str(value)
        ]
        for at in range(0, len(new), 100):  # a batch takes no more
            self._client.log_batch(self._id, params=new[at : at + 100])
        self._client.log_batch(self._id, tags=changed)

    def log(self, series: str, figures: Mapping[str, float], step: int) -> None:
        self.results({f"{series}/{name}": value for name, value in figures.items()}, step)

    def results(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        for at in range(0, len(metrics), 1000):
            self._client.log_batch(self._id, metrics=metrics[at : at + 1000])

    def end(self, how: Ending) -> None:
        status = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[how]
        self._client.set_terminated(self._id, status=status)


class _Wandb(Backend):
    """A run with curves over their own steps, since the stages of a run count differently."""

    def __init__(self, folder: Path, project: str) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        identity = _known(folder, "wandb") or uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_machine_info=True,
        )
        online = os.environ["WANDB_MODE"] == "online"
        self._run: Any = wandb.init(
            project=project,
            name=folder.name,
            id=identity,
            resume="allow" if online else None,  # offline runs of one identity are joined by sync
            dir=str(folder),
            settings=settings,
        )
        _keep(folder, "wandb", identity)
        self._series: set[str] = set()
        self.where = f"`wandb sync {Path(self._run.dir).parent}` sends the run; so far it is here"
        if online:
            self.where = f"Weights & Biases follows the run: {self._run.url}"

    def parameters(self, values: Mapping[str, Parameter]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def log(self, series: str, figures: Mapping[str, float], step: int) -> None:
        at = f"{series}/step"
        if series not in self._series:
            self._series.add(series)
            self._run.define_metric(at, hidden=True)
            self._run.define_metric(f"{series}/*", step_metric=at)
        named = {f"{series}/{name}": value for name, value in figures.items()}
        self._run.log({**named, at: step})

    def results(self, figures: Mapping[str, float], step: int) -> None:
        self._run.summary.update(dict(figures))

    def end(self, how: Ending) -> None:
        self._run.finish(exit_code={"finished": 0, "failed": 1, "stopped": 130}[how])
