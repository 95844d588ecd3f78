"""Trackers get the curves, the recipe and the results of a run; they cost it nothing."""

import json
import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from conftest import Sandbox
from db3kd import job, trackers
from db3kd.cli.tracking import following
from db3kd.config.reading import read_recipe
from db3kd.errors import BudgetExhausted, InputError
from db3kd.job.tracking import backends
from db3kd.job.tracking.tracker import POINTS, Tracker, figures_of
from db3kd.progress import Progress

Curves = dict[str, list[tuple[int, float]]]


def installed(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


class Kept:
    """A tracker in memory, which may fail."""

    where = "nowhere"

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.values, self.curves, self.ends = fails, {}, {}, []
        self.reached: dict[str, float] = {}

    def parameters(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def log(self, series: str, figures: Mapping[str, float], step: int) -> None:
        if self.fails:
            raise ConnectionError("no\nway to https://me:secret@host/")
        for name, value in figures.items():
            self.curves.setdefault(f"{series}/{name}", []).append((step, value))

    def results(self, figures: Mapping[str, float], step: int) -> None:
        self.reached = dict(figures)

    def end(self, how: str) -> None:
        self.ends.append(how)


def tracker(kept: Kept) -> Tracker:
    return Tracker("Kept", lambda: kept)


def test_a_long_stage_is_a_short_curve_with_its_ends() -> None:
    kept = Kept()
    with tracker(kept) as progress:
        for done in range(10_001):
            progress("ce-0", done, 10_000, {"loss": 1.0 / (1 + done), "left": 3.0})
        progress("ce-0", 10_000, 10_000, {"loss": 0.0})
        progress("rounds", 1, 2, {})
    assert set(kept.curves) == {"ce-0/loss"}
    curve = kept.curves["ce-0/loss"]
    assert len(curve) == POINTS + 1
    assert curve[0] == (0, 1.0)
    assert curve[-1] == (10_000, 1.0 / 10_001)
    assert kept.ends == ["finished"]


def test_a_second_lesson_of_the_same_name_is_shown_as_well() -> None:
    kept = Kept()
    progress = tracker(kept)
    for done in (1, 2, 1, 2):
        progress("surrogate", done, 2, {"loss": float(done)})
    assert [step for step, _ in kept.curves["surrogate/loss"]] == [1, 2, 1, 2]


def test_names_hold_nothing_that_a_tracker_refuses() -> None:
    kept = Kept()
    tracker(kept)("mixing, round\n1/<b>", 1, 1, {"loss": 1.0})
    assert set(kept.curves) == {"mixing_ round_1/_b_/loss"}


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (KeyboardInterrupt(), "stopped"),
        (BudgetExhausted(spent=1, asked=1, budget=1), "stopped"),
        (OSError("full"), "failed"),
    ],
)
def test_a_run_that_ends_early_is_not_finished(error: BaseException, how: str) -> None:
    kept = Kept()
    following = tracker(kept)
    following("answers", 1, 3, {"queries": 1.0})
    with pytest.raises(type(error)), following:
        raise error
    assert kept.ends == [how]


def test_a_tracker_that_fails_stops_no_run(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(fails=True)
    with caplog.at_level(logging.WARNING, "db3kd"), tracker(kept) as progress:
        for done in range(3):
            progress("answers", done, 3, {"queries": float(done)})
    (said,) = caplog.messages
    assert said == (
        "Kept takes no more figures (ConnectionError: no way to https://***@host/); the run goes on"
    )


def test_a_tracker_that_cannot_begin_is_an_error_before_anything_is_bought() -> None:
    def begin() -> Kept:
        raise ConnectionError("nobody there")

    with pytest.raises(InputError, match=r"Kept cannot follow the run .*nobody there"):
        Tracker("Kept", begin)("answers", 0, 3, {"queries": 0.0})


def test_an_interrupt_is_not_taken_for_a_failure() -> None:
    class Interrupted(Kept):
        def log(self, series: str, figures: Mapping[str, float], step: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracker(Interrupted())("answers", 0, 3, {"queries": 0.0})


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"install.*{name}"):
        getattr(trackers, name)("run")


def test_a_folder_of_that_name_is_not_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing_of_this_name").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError):
        backends._needs("nothing_of_this_name", "Nothing")


def test_the_recipe_is_told_as_in_the_summary(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "open sesame")
    text = (sandbox.folder / "recipe.toml").read_text()
    teacher = 'kind = "remote"\nclasses = 10\nremote.protocol = "form"\nremote.url = "http://127.0.0.1:9/open%20sesame"\n'
    teacher += 'remote.headers = { Authorization = "Bearer ${API_KEY}" }'
    before = text[text.index('kind = "sklearn"') : text.index("[label]")]
    recipe = read_recipe(sandbox.write("paid.toml", text.replace(before, f"{teacher}\n\n")))
    kept = Kept()
    following = tracker(kept)
    following.recipe(recipe)
    following("answers", 0, 1, {"queries": 0.0})
    assert kept.values["student.training.epochs"] == 3
    assert kept.values["student.methods"] == '["ce", "mbd"]'
    assert kept.values["teacher.remote.headers.Authorization"] == "Bearer ${API_KEY}"
    assert kept.values["teacher.remote.url"] == "http://127.0.0.1:9/***"
    assert "sesame" not in json.dumps(kept.values)


def curves_of(folder: Path) -> tuple[Curves, dict[str, Any]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    scalars = found.Tags()["scalars"]
    texts = {name: found.Tensors(name) for name in found.Tags()["tensors"]}
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in scalars}, texts


SMALL = ("student.methods=['ce']", "data.samples=12", "data.test_samples=10")


def follow(*overrides: str) -> dict[str, Any]:
    recipe = read_recipe("recipe.toml", (*SMALL, *overrides))
    with following(("tensorboard", "tensorboard"), recipe) as found:
        (one,) = found
        summary = job.run(recipe, progress=one)
        one.summary(summary)
    return summary


@installed("tensorboard")
def test_tensorboard_shows_a_run_that_was_stopped_and_continued_as_one(here: Sandbox) -> None:
    with pytest.raises(BudgetExhausted):
        follow("budget.queries=20")
    summary = follow("budget.queries=22")
    curves, texts = curves_of(here.run / "tensorboard")
    assert curves["first/answers/queries"][-1] == (12, 12.0)
    assert set(curves["evaluate/queries"]) == {(0, 12.0), (10, 22.0)}
    assert [step for step, _ in curves["ce-0/loss"]] == [1, 2, 3]
    told = figures_of(summary)
    assert {name: curves[name][-1][1] for name in told} == pytest.approx(told)
    assert "ce/agreement" in told
    assert told["queries/spent"] == 22
    recipes = texts["recipe/text_summary"]
    assert "student.network | small" in str(recipes[-1].tensor_proto.string_val[0])
    assert len(list((here.run / "tensorboard").iterdir())) > 1


@installed("tensorboard")
def test_tracking_changes_nothing_of_a_run(here: Sandbox) -> None:
    job.run(read_recipe("recipe.toml", SMALL))
    follow("run=followed")
    assert here.shards() == here.shards("followed")


def test_several_are_told_in_order() -> None:
    one, two = Kept(), Kept()
    both: Progress = trackers.together(tracker(one), tracker(two))
    both("answers", 3, 3, {"queries": 3.0})
    assert one.curves == two.curves == {"answers/queries": [(3, 3.0)]}


@pytest.fixture
def followed(sandbox: Sandbox) -> Sandbox:
    """A sandbox with a name of its own for what belongs together."""
    sandbox.environment.update(MLFLOW_EXPERIMENT_NAME="digits")
    return sandbox


def twice(sandbox: Sandbox, name: str) -> None:
    """A run that its budget stops, and that goes on with a larger one."""
    words = ("run", "recipe.toml", "-q", "--track", name, "-s", "label.queries=30")
    words += ("-s", "label.checkpoints=[30]")
    assert sandbox.call(*words, "-s", "budget.queries=900").returncode == 3
    done = sandbox.call(*words, "-s", "budget.queries=20000")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.slow
@installed("mlflow")
@pytest.mark.filterwarnings("default")  # of libraries that MLflow uses
def test_mlflow_goes_on_with_the_same_run(followed: Sandbox) -> None:
    twice(followed, "mlflow")
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{followed.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"
    assert run.data.params["budget.queries"] == "900"
    assert run.data.tags["now.budget.queries"] == "20000"
    summary = json.loads((followed.run / "summary.json").read_text())
    told = figures_of(summary)
    assert {name: run.data.metrics[name] for name in told} == pytest.approx(told)
    history = client.get_metric_history(run.info.run_id, "ce-0/loss")
    assert {point.step for point in history} == {2, 4, 6}


@pytest.mark.slow
@installed("mlflow")
def test_a_store_that_cannot_be_used_is_one_sentence(followed: Sandbox) -> None:
    followed.environment.update(MLFLOW_TRACKING_URI="nonsense://me:secret@place")
    done = followed.call("run", "recipe.toml", "-q", "--track", "mlflow")
    assert done.returncode == 1
    assert done.stderr.startswith("db3kd: MLflow cannot follow the run (")
    assert "secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert followed.asked() == 0


@pytest.mark.slow
@installed("wandb")
def test_wandb_stays_offline_under_one_identity(followed: Sandbox) -> None:
    twice(followed, "wandb")
    (identity,) = json.loads((followed.run / "trackers.json").read_text()).values()
    places = sorted((followed.run / "wandb").glob("offline-run-*"))
    assert len(places) == 2
    assert all(place.name.endswith(identity) for place in places)
    content = b"".join(file.read_bytes() for place in places for file in place.glob("*.wandb"))
    for name in (b"ce-0/loss", b"mbd/agreement", b"student.training.epochs", b"queries/distances"):
        assert name in content
