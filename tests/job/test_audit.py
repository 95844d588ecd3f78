"""Audits: bought in steps, every answer once, continued from anywhere, and told as they are."""

import json
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
import torch

from conftest import Sandbox
from db3kd import job
from db3kd.cli.fidelity import fidelity
from db3kd.cli.main import main
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import Recipe
from db3kd.errors import ConfigurationDiffers, InputError
from db3kd.job.auditing.curve import Curve, Interval, Step, crossing
from db3kd.job.auditing.result import result
from db3kd.job.auditing.tail import Tail, falls_short
from db3kd.job.auditing.told import sentences
from db3kd.job.reporting import write_report
from db3kd.search.joint import plan
from db3kd.stages.accounts import status
from db3kd.storage.journal import Journal
from db3kd.synthesis import chosen

OWN, TESTS = 30, 50  # images of the sandbox
RUN = "run-audit"


pytestmark = pytest.mark.usefixtures("no_power_cut")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that choose are hardly taught."""
    for module in (plan, chosen):
        monkeypatch.setattr(module, "LEAST_STEPS", 4)
        monkeypatch.setattr(module, "MOST_STEPS", 4)


SHORT = ("student.training.epochs=2", "grow.members=1")
PSEUDO = ("synthesis.members=1", "student.training.epochs=1")


def recipe(*overrides: str, file: str = "recipe.toml") -> Recipe:
    short = SHORT if file == "recipe.toml" else PSEUDO
    return read_recipe(file, ("label.checkpoints=[]", *short, *overrides))


def budget(answers: int) -> str:
    return f"budget.queries={answers + TESTS}"


def test_an_audit_buys_each_answer_once_and_is_told(here: Sandbox) -> None:
    wanted = recipe(budget(125))
    found = job.audit(wanted, targets=(0.02, 0.999), seeds=2)
    assert [step["answers"] for step in found["steps"]] == [16, 30, 62, 118]
    assert found["queries"]["spent"] == here.asked() == 118 + TESTS
    kept = here.shards(RUN)
    assert job.audit(wanted, targets=(0.02, 0.999), seeds=2) == found
    assert here.asked() == found["queries"]["spent"]
    assert here.shards(RUN) == kept
    assert json.loads((here.folder / RUN / "audit.json").read_text()) == found
    low, high = found["targets"]
    assert (low["status"], low["answers"], low["high"]) == ("at the first step", None, 16)
    assert (high["status"], high["answers"], high["high"]) == ("not reached", None, None)
    assert status(RUN)["stage"] == "done"
    text = fidelity(found)
    assert "at most 16" in text
    assert "more than 118" in text
    assert "168 of 175 queries spent; everything is in run-audit" in text


def test_it_ends_as_soon_as_all_targets_are_reached(here: Sandbox) -> None:
    found = job.audit(recipe(budget(500)), targets=(0.01,), seeds=2)
    assert here.asked() == 16 + TESTS
    more = job.audit(recipe(budget(500)), targets=(0.01, 0.999), seeds=2)
    assert more["steps"][0] == found["steps"][0]
    assert here.asked() == more["queries"]["spent"]


def test_a_larger_budget_goes_on_and_pays_for_nothing_twice(here: Sandbox) -> None:
    first = job.audit(recipe(budget(55)), targets=(0.999,), seeds=2)
    assert [step["answers"] for step in first["steps"]] == [16, 30, 54]
    kept = here.shards(RUN)
    found = job.audit(recipe(budget(130)), targets=(0.999,), seeds=2)
    assert [step["answers"] for step in found["steps"]] == [16, 30, 54, 62, 126]
    assert found["queries"]["spent"] == here.asked() == 126 + TESTS
    now = here.shards(RUN)
    assert {name: now[name] for name in kept} == kept
    assert found["steps"][:3] == first["steps"]
    at_once = job.audit(recipe(budget(130), "run=other"), targets=(0.999,), seeds=2)
    steps = {step["answers"]: step for step in found["steps"]}
    assert [steps[step["answers"]] for step in at_once["steps"]] == at_once["steps"]


class Killed(BaseException):
    """As if the process died."""


@pytest.mark.parametrize(
    ("file", "answers", "lines"),
    [("recipe.toml", 62, (6, 14, 21, 29, 33)), ("without_data.toml", 64, (7, 15, 22, 30))],
)
def test_a_kill_changes_nothing_but_time(
    here: Sandbox, monkeypatch: pytest.MonkeyPatch, file: str, answers: int, lines: tuple[int, ...]
) -> None:
    whole = job.audit(recipe(budget(answers), file=file), targets=(0.999,), seeds=2)
    kept, asked = here.shards(RUN), here.asked()
    append, count = Journal.append, 0

    def failing(journal: Journal, kind: str, **fields: Any) -> None:
        nonlocal count
        count += 1
        if count in lines:
            raise Killed
        append(journal, kind, **fields)

    monkeypatch.setattr(Journal, "append", failing)
    wanted = recipe(budget(answers), "run=again", file=file)
    deaths = 0
    while True:
        try:
            found = job.audit(wanted, targets=(0.999,), seeds=2)
            break
        except Killed:
            deaths += 1
    assert deaths == len(lines)
    assert here.shards("again-audit") == kept
    same = ("targets", "steps", "tail", "test", "queries")
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}
    assert here.asked() == 2 * asked


def test_pseudo_samples_are_bought_in_steps(here: Sandbox) -> None:
    first = job.audit(recipe(budget(40), file="without_data.toml"), targets=(0.999,), seeds=2)
    assert [step["answers"] for step in first["steps"]] == [16, 32]
    found = job.audit(recipe(budget(100), file="without_data.toml"), targets=(0.999,), seeds=2)
    assert [step["answers"] for step in found["steps"]] == [16, 32, 64, 96]
    assert found["queries"]["spent"] == here.asked() == 96 + TESTS
    assert found["steps"][:2] == first["steps"]
    assert found["way"] == "pseudo samples by way 'chosen'"


@pytest.mark.parametrize(
    ("overrides", "options", "words"),
    [
        ((), {"targets": (0.9, 1.0)}, "targets are shares above 0 and below 1, such as 0.9; got 1"),
        ((), {"targets": (float("nan"),)}, "above 0 and below 1"),
        ((), {"targets": ()}, "none is given"),
        ((), {"seeds": 1}, "needs 2 to 100 students at each step, got 1"),
        (("budget.queries=60",), {}, "10 answers, besides 50 test images, are too few for a first"),
        (("budget.queries=20",), {}, "0 answers, besides 50 test images"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    here: Sandbox, overrides: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        job.audit(recipe(*overrides), **options)
    assert here.asked() == 0


def test_without_test_images_or_by_ascent_there_is_no_audit(here: Sandbox) -> None:
    nothing = recipe("data.size=8", "data.channels=1", file="without_data.toml")
    nothing = msgspec.structs.replace(
        nothing, data=msgspec.structs.replace(nothing.data, test=None)
    )
    with pytest.raises(InputError, match="no test images"):
        job.audit(nothing)
    with pytest.raises(InputError, match='by way "ascent" cannot be bought in steps'):
        job.audit(recipe("run=a", "synthesis.way=ascent", file="without_data.toml"))
    with pytest.raises(InputError, match="5 answers, besides 50 test images, are too few"):
        job.audit(recipe("run=b", "synthesis.queries=5", file="without_data.toml"))
    assert here.asked() == 0


def test_other_images_are_another_audit(here: Sandbox) -> None:
    job.audit(recipe(budget(30)), targets=(0.999,), seeds=2)
    with pytest.raises(ConfigurationDiffers):
        job.audit(recipe(budget(30), "data.samples=20"), targets=(0.999,), seeds=2)


def test_the_command_and_the_page_say_the_same(
    here: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB3KD_REPORT", "1")
    words = ["audit", "recipe.toml", "--targets", "0.05", "0.9", "--seeds", "2", "-q"]
    for override in (budget(30), "label.checkpoints=[]", *SHORT):
        words += ["--set", override]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "Report: run-audit/report.html" in printed
    found = json.loads(Path(RUN, "audit.json").read_text())
    page = Path(RUN, "report.html").read_text()
    for text in sentences(found):
        assert text in page
        assert text in " ".join(printed.split())
    assert "How many answers does a copy need?" in page
    assert "No student was evaluated" not in page
    assert Path(RUN, "audit.svg").read_text().count("var(") == 0
    Path(RUN, "audit.json").write_text(json.dumps({**found, "targets": [{"agreement": "x"}]}))
    write_report([RUN])
    assert "audit.json is not as it was written" in Path(RUN, "report.html").read_text()


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Students and images of which the truth is known: each image has its own difficulty."""
    answers, truth = (50, 100, 200, 400), torch.tensor([0.75, 0.85, 0.92, 0.95])
    draw = torch.Generator().manual_seed(3)
    target, hits, audits = 0.9, 0, 200
    mine = float(crossing(answers, truth[None], target)[0])
    for number in range(audits):
        hard = torch.rand(250, generator=draw)  # an image is right if it is easier than the student
        steps = []
        for count, share in zip(answers, truth, strict=True):
            luck = 0.015 * torch.randn(3, 1, generator=draw)
            own = torch.rand(3, 250, generator=draw) < 0.3  # of these, chance decides anew
            fresh = torch.rand(3, 250, generator=draw)
            steps.append(Step(count, torch.where(own, fresh, hard) < share + luck))
        interval = Curve.of(steps, draws=300, seed=number).reached(target)[1]
        hits += interval.low <= mine <= interval.high
    assert 0.90 <= hits / audits <= 0.995


def test_a_target_beyond_the_floor_is_out_of_reach_and_others_are_not() -> None:
    answers = [100 * 2**k for k in range(6)]
    law = 0.93 - 0.4 * (torch.tensor(answers) / 100.0) ** -0.8
    draw = torch.Generator().manual_seed(0)
    steps = [
        Step(n, torch.rand(4, 4000, generator=draw) < share)
        for n, share in zip(answers, law, strict=True)
    ]
    tail = Tail.of(Curve.of(steps))
    assert tail is not None
    assert tail.limit().low < 0.93 < tail.limit().high
    assert falls_short(tail, 0.99, 6400)
    assert not falls_short(tail, 0.925, 6400)
    found = result(steps, (0.7, 0.99), most=6400, seed=0)
    assert [row["status"] for row in found["targets"]] == ["reached", "out of reach"]
    assert found["targets"][1]["extrapolated"][0] > 6400
    span = Interval.of(tail.at(6400).flatten())
    assert span.low < 0.93 - 0.4 * 64**-0.8 < span.high
