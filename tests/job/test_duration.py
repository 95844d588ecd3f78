"""How long a run takes: every stage is in the forecast, and the forecast is right."""

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from conftest import Sandbox
from db3kd import job
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import Recipe
from db3kd.config.remote import Remote
from db3kd.config.settings import Grow, Search
from db3kd.job.check import check_teacher
from db3kd.job.duration import LIMITED, NAMED, Asking, answer_seconds, forecast_time
from db3kd.search.joint import plan
from db3kd.stages import ensemble_labels, speeds, trial
from db3kd.stages.table import NAMES
from db3kd.storage.journal import Journal
from db3kd.student.steps import steps_of
from db3kd.synthesis import chosen

JOINT = ("label.strategy=joint", "label.queries=1000", "label.probes=200", "label.checkpoints=[]")
JOINT += ("label.tolerance=1e-5", "student.seeds=[0]")
OWN = ("data.samples=30", "label.per_image=40")
AUTO = ("student.methods=['ce', 'auto']", "spend.per_image=10")
PSEUDO = ("synthesis.queries=40", "synthesis.rounds=3")
ASCENT = ("synthesis.way=ascent", "synthesis.ascent.samples=12", "synthesis.ascent.copies=2")
ASCENT += ("synthesis.ascent.queries=60", "synthesis.ascent.iterations=2", "label.shard=200")
SLOW = ("ascent", "mixed", "mbd", "pseudo")
KINDS = {
    "auto": ("recipe.toml", (*JOINT, *AUTO, "data.samples=30")),
    "mbd": ("recipe.toml", (*JOINT, *OWN, "student.methods=['ce', 'sd', 'mbd']")),
    "mixed": (
        "recipe.toml",
        (*JOINT, *OWN, "student.methods=['grown', 'mixed']", "grow.per_image=4"),
    ),
    "rows": ("recipe.toml", ("label.queries=20", "label.checkpoints=[]", "data.samples=12")),
    "pseudo": ("without_data.toml", (*PSEUDO, "synthesis.ensemble_labels=20")),
    "ascent": ("without_data.toml", ("student.methods=['pseudo_mbd']", *ASCENT, *JOINT)),
}


@pytest.fixture
def here(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the current directory of this process; lessons are short."""
    monkeypatch.chdir(sandbox.folder)
    monkeypatch.syspath_prepend(str(sandbox.folder))
    monkeypatch.delitem(sys.modules, "svm_teacher", raising=False)
    for module in (plan, chosen, ensemble_labels, trial):
        monkeypatch.setattr(module, "LEAST_STEPS", 4)
    return sandbox


SOMETIMES = {  # stages of trials in which new images add nothing, and of audits
    "trial/measured/rounds",
    "trial/measured/distances",
    "trial/measured/surrogate",
    "trial/measured/students",
    "sample/distances",
    "audit/answers",
}


def recipe(kind: str) -> Recipe:
    file, overrides = KINDS[kind]
    return read_recipe(file, overrides)


class Heard:
    """The stages that reported, and the time left that they told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.left: list[float | None] = []

    def __call__(self, stage: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        self.stages.append(re.sub(r"surrogate-\d+", "surrogate", stage.removeprefix("first/")))
        self.left.append(figures.get("left"))


def steps_of_fits(journal: Journal, place: str) -> int:
    """The steps of surrogates below a place in a journal; a fit has as many for each member."""
    members = {f"{place}rounds": Search().members, f"{place}grow": Grow().members}
    return sum(
        int(record["steps"]) * members[record["stage"]]
        for record in journal.all("surrogate")
        if record["stage"] in members
    )


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow) if kind in SLOW else kind for kind in KINDS],
)
def test_a_forecast_has_every_stage_that_a_run_has(here: Sandbox, kind: str) -> None:
    wanted, heard = recipe(kind), Heard()
    with job.opened(wanted) as before:
        rows = before.ahead().rows
    names = {row.name for row in rows}
    either = {"grow", "rounds", "distances", "surrogate", *SOMETIMES} if kind == "auto" else set()
    job.run(wanted, progress=heard)
    with job.opened(wanted) as after:
        journal = after.run.journal
        booked = {record["stage"].removeprefix("first/") for record in journal.all("shard")}
        assert booked <= names | either
        assert set(heard.stages) <= names | either | {"digests"}
        assert after.ahead().rows == ()
        place = {"auto": "trial/", "ascent": "pseudo/"}.get(kind, "")
        steps = sum(row.steps for row in rows if row.name == f"{place}surrogate")
        found = steps_of_fits(journal, place)
        if kind == "ascent":  # its searches spend what they need, early or late
            assert 0 < found <= 1.5 * steps
        else:
            assert found == steps
        trained = [record["samples"] for record in journal.all("student")]
    begun = next(number for number, left in enumerate(heard.left) if left is not None)
    assert set(heard.stages[:begun]) <= {"digests", "answers", "evaluate"}  # what was asked first
    assert all(left is not None and 0 <= left < 1000 for left in heard.left[begun:])
    students = [row.steps for row in rows if row.words == "students"]
    assert len(students) == len(trained)
    if kind in ("mbd", "mixed", "rows"):
        training = wanted.student.training
        assert students == [steps_of(training, samples) for samples in trained]


def test_the_whole_table_of_stages_is_forecast(here: Sandbox) -> None:
    found = set[str]()
    for kind in KINDS:
        with job.opened(msgspec.structs.replace(recipe(kind), run=f"run-{kind}")) as some:
            found |= {row.name for row in some.ahead().rows if row.words != "students"}
    assert {name.removeprefix("first/") for name in NAMES} - SOMETIMES <= found
    assert found <= {*NAMES, *NAMED}


def test_a_run_that_is_continued_forecasts_what_is_left(here: Sandbox) -> None:
    wanted = recipe("mixed")
    with job.opened(wanted) as some:
        whole = some.ahead()
        some.run.answers(some.own.images)
        some.run.grow(some.own.images, wanted.grow)
        left = some.ahead()
        assert {row.name for row in whole.rows} - {row.name for row in left.rows} == {
            "answers",
            "grow",
        }
        assert [row.name for row in left.rows if row.name == "surrogate"] == ["surrogate"]
        names = {row.name for row in some.ahead("distill").rows}
    assert names == {"grown-0", "mixed-0"}


def test_a_check_tells_the_time_of_the_whole_run(here: Sandbox) -> None:
    found = check_teacher(recipe("auto"))
    whole = found["time"]
    assert found["hours"] == pytest.approx(whole["seconds"] / 3600, abs=1e-4)
    assert sum(row["seconds"] for row in whole["stages"]) == pytest.approx(whole["seconds"], abs=1)
    assert sum(row["answers"] for row in whole["stages"]) == found["queries"]["total"]
    assert not here.run.exists()
    text = here.call("check", "recipe.toml", *(f"--set={change}" for change in KINDS["auto"][1]))
    lasting = r"[\d.]+ (second|minute|hour)s?"
    assert re.search(rf"The run takes about {lasting}.* here, and costs at most", text.stdout)
    assert re.search(rf"the images' own answers +30 answers +{lasting}", text.stdout)


def test_a_run_says_first_how_long_it_takes_and_then_what_is_left(here: Sandbox) -> None:
    changes = [f"--set={change}" for change in KINDS["rows"][1]]
    told = here.call("run", "recipe.toml", *changes).stderr
    assert re.search(r"about \d+ seconds?: ", told)
    assert re.search(r"(?m)^mbd-0: 100%.*, 0:00:\d\d left in all$", told)
    again = here.call("run", "recipe.toml", *changes).stderr
    assert "nothing is left to do" in again
    quiet = here.call("run", "recipe.toml", "-q", "--set=run='other'", *changes).stderr
    assert "about" not in quiet


def test_an_answer_among_many_takes_less_than_one_alone() -> None:
    # 10 ms for a question and 2 ms for each image: 12 ms alone, 42 ms for 16.
    assert answer_seconds(0.012, 0.042, 16, 100) == pytest.approx(0.0021)
    assert answer_seconds(0.5, 0.5, 1, 100) == 0.5
    assert answer_seconds(0.5, 0.001, 16, 1) > 0.4  # a first question that was slow


def test_a_trial_is_forecast_to_decide_for_new_images_and_the_other_use_is_told(
    here: Sandbox,
) -> None:
    with job.opened(recipe("auto")) as some:
        found = some.ahead()
    assert {"grow", "trial/students"} <= {row.name for row in found.rows}
    assert not {"rounds", "trial/measured/rounds"} & {row.name for row in found.rows}
    assert found.others is not None
    assert found.others < found.seconds  # here, without distances and what they want


def test_limits_of_calls_make_days(here: Sandbox) -> None:
    far = Remote(url="http://localhost", protocol="mlflow", batch=1, per_day=25)
    with job.opened(recipe("rows")) as some:
        size, speeds_ = some._size, some._speeds
        found = forecast_time(some.recipe, size, speeds_, Asking(0.1, far))
    asked = sum(row.answers for row in found.rows)
    waits = [row.seconds for row in found.rows if row.words == LIMITED]
    assert waits == [pytest.approx((asked - 1) // 25 * 86_400 - asked * 0.1)]


# Against real runs. Seconds of this process count, since others may have the processors too.

DIGITS = """run = "run"
[data]
train = "{digits}"
[teacher]
kind = "sklearn"
factory = "svm_teacher:make"
[budget]
queries = {budget}
[student]
network = "small"
training = {{ steps = 300, batch = 32 }}
"""
MNIST = """run = "run"
[data]
{data}
test_samples = 500
[teacher]
kind = "network"
network = "lenet5"
width = 0.5
weights = "teacher.safetensors"
training = {{ steps = 300, batch = 64 }}
data = "mnist"
[spend]
per_image = 30
[synthesis]
queries = 5000
[student]
network = "lenet5"
width = 0.5
training = {{ steps = 3000, batch = 64 }}
"""
OWN_IMAGES, NO_IMAGES = 'train = "mnist"\nsamples = 300', 'test = "mnist"'
RECIPES = (DIGITS, *(MNIST.replace("{data}", data) for data in (OWN_IMAGES, NO_IMAGES)))


@pytest.mark.slow
@pytest.mark.parametrize("text", RECIPES)
def test_a_forecast_is_right(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, digits: Path, text: str
) -> None:
    if "mnist" in text and not os.environ.get("DB3KD_DATA"):
        pytest.skip("MNIST is not in DB3KD_DATA")
    monkeypatch.chdir(sandbox.folder)
    monkeypatch.syspath_prepend(str(sandbox.folder))
    monkeypatch.delitem(sys.modules, "svm_teacher", raising=False)
    monkeypatch.setattr(speeds, "time", SimpleNamespace(perf_counter=time.process_time))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        sandbox.write("slow.toml", text.format(digits=digits, budget=9300))
        wanted = read_recipe("slow.toml", ())
        forecast = check_teacher(wanted)["time"]["seconds"]
        started = time.process_time()
        job.run(wanted)
        took = time.process_time() - started
    finally:
        torch.set_num_threads(before)
    assert took / 1.5 < forecast < took * 1.5, (forecast, took)
