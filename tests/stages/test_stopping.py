"""Rules that end a stage early: decided on samples held back, the same after any death."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from db3kd.config.settings import Budget, Grow, Search, Spend, Synthesis, Training
from db3kd.config.stopping import Rule, Stop
from db3kd.data import TensorImages
from db3kd.errors import ConfigurationDiffers
from db3kd.run import Run
from db3kd.seeds import derive_seed
from db3kd.stages import stopping, trial
from db3kd.stages.accounts import status
from db3kd.stages.ahead import Done
from db3kd.stages.judge import FOLDS, Judge
from db3kd.stages.stopping import Stopping
from db3kd.storage.journal import Journal
from db3kd.student.networks import build
from db3kd.synthesis import chosen
from db3kd.teachers import function

DRAW = torch.Generator().manual_seed(5)
IMAGES = TensorImages((torch.rand(20, 1, 6, 6, generator=DRAW) * 255).to(torch.uint8))
GROW = Grow(per_image=6, rounds=3, members=1, augmentations=("shift", "mix"))
TRAINING = Training(steps=12, batch=8)
SHAPE = (1, 6, 6)


pytestmark = pytest.mark.usefixtures("no_power_cut")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    from db3kd.search.joint import plan

    monkeypatch.setattr(plan, "LEAST_STEPS", 4)
    monkeypatch.setattr(plan, "MOST_STEPS", 4)
    monkeypatch.setattr(chosen, "LEAST_STEPS", 4)
    monkeypatch.setattr(chosen, "MOST_STEPS", 4)
    monkeypatch.setattr(trial, "FOLDS", 2)


def left(images: Tensor) -> Tensor:
    """Whether the left half is the brighter one."""
    return (images[..., :3].mean((1, 2, 3)) > images[..., 3:].mean((1, 2, 3))).long()


class Asked:
    """A teacher that counts what it is asked."""

    classes, bounds = 2, (0.0, 1.0)

    def __init__(self) -> None:
        self.count = 0

    def labels(self, images: Tensor, /) -> Tensor:
        self.count += len(images)
        return left(images)


def by(rule: Rule) -> Stopping:
    return Stopping(rule, build("small", SHAPE, 2, seed=0), TRAINING)


def bought(
    folder: Path,
    teacher: Asked | None,
    rule: Rule | None,
    buy: Callable[[Run, Stopping | None], object],
) -> Run:
    """An open run in which something was bought; it is closed if that fails."""
    run = Run(folder, teacher or Asked(), seed=3, progress=False)
    try:
        run.stops.settle(rule)
        buy(run, None if rule is None else by(rule))
    except BaseException:
        run.close()
        raise
    return run


def grown(folder: Path, rule: Rule | None, teacher: Asked | None = None) -> Run:
    return bought(folder, teacher, rule, lambda run, stop: run.grow(IMAGES, GROW, stop=stop))


def synthesized(folder: Path, rule: Rule | None, teacher: Asked | None = None) -> Run:
    settings = Synthesis(queries=120, rounds=4, members=1, surrogate="small", ensemble_labels=0)
    buy = lambda run, stop: run.synthesize(SHAPE, settings, stop=stop)  # noqa: E731
    return bought(folder, teacher, rule, buy)


def decide(monkeypatch: pytest.MonkeyPatch, ends: int) -> list[int]:
    """Let measured agreement be 1 after so many answers, and 0 before; returns what is judged."""
    judged: list[int] = []

    def right(self: Judge, transfer: Any, partners: Tensor | None = None) -> Tensor:
        size = len(transfer) - (20 if transfer.first is not None else 0)
        judged.append(size)
        held = (self.fold < self.folds).sum()
        return torch.full((int(held),), float(size >= ends))

    monkeypatch.setattr(Judge, "right", right)
    return judged


@pytest.mark.parametrize(
    ("make", "stage", "ends", "judged", "planned"),
    [
        (grown, "grow", 40, [0, 40], 120),
        (grown, "grow", 0, [0], 120),
        (synthesized, "synthesis", 60, [30, 60], 120),
    ],
)
def test_what_is_enough_ends_the_stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Run],
    stage: str,
    ends: int,
    judged: list[int],
    planned: int,
) -> None:
    seen, rule, teacher = decide(monkeypatch, ends), Stop(agreement=0.9), Asked()
    own = 20 if stage == "grow" else 0
    with make(tmp_path / "run", rule, teacher) as run:
        assert seen == judged
        assert teacher.count == run.meter.spent == own + ends
        found = run.stops.stopped
        assert found is not None
        assert (found.stage, found.asked, found.planned, found.saved) == (
            stage,
            ends,
            planned,
            planned - ends,
        )
        assert found.agreement == 1.0
        transfer = run.transfer_set(IMAGES, "grown") if own else run.pseudo.whole()
        assert len(transfer) == own + ends
        pending = Done.of(run.journal).pending(stage, 100)
    assert pending == []
    assert status(tmp_path / "run")["stages"][stage]["pending"] == 0
    with make(tmp_path / "run", rule, teacher):
        assert (teacher.count, seen) == (own + ends, judged)
    with make(tmp_path / "run", None, teacher) as run:  # without the rule the rest is bought
        assert teacher.count == run.meter.spent == own + planned
        assert run.stops.stopped is None
    plain = Asked()
    with make(tmp_path / "plain", None, plain):
        assert plain.count == own + planned
    names = [p.relative_to(tmp_path / "plain") for p in (tmp_path / "plain").rglob("*.safetensors")]
    assert names
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_a_higher_goal_goes_on_with_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []

    def right(self: Judge, transfer: Any, partners: Tensor | None = None) -> Tensor:
        judged.append(len(transfer))
        return torch.arange(20) < len(transfer) // 5  # 20 %, 60 %, 100 %

    monkeypatch.setattr(Judge, "right", right)
    teacher = Asked()
    with grown(tmp_path, Stop(agreement=0.5), teacher):
        assert teacher.count == 60
    with grown(tmp_path, Stop(agreement=0.9), teacher) as run:
        assert teacher.count == 100
        assert judged == [20, 60, 100]
        assert run.stops.stopped is not None
        assert run.stops.stopped.agreement == 1.0
    with grown(tmp_path, Stop(agreement=0.5), teacher) as run:  # what is bought stays bought
        assert teacher.count == 100
        assert run.stops.stopped is not None


@pytest.mark.parametrize("make", [grown, synthesized])
def test_killed_at_any_line_the_run_takes_the_same_decisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Run]
) -> None:
    """Students really learn here; the rule is one that ends somewhere in the middle."""
    with make(tmp_path / "probe", Stop(agreement=1.0)) as run:
        shares = [record["agreement"] for record in run.journal.all("judged")]
    rule = Stop(agreement=shares[1])
    with make(tmp_path / "whole", rule) as run:
        whole, end = run.stops.stopped, len(run.journal.records)
        assert whole is not None
    append, kept = Journal.append, content(tmp_path / "whole")
    for line in range(3, end, 4):
        folder, count, teacher = tmp_path / f"{line}", 0, Asked()

        def failing(journal: Journal, kind: str, line: int = line, **fields: Any) -> None:
            nonlocal count
            count += 1
            if count == line:
                raise KeyboardInterrupt
            append(journal, kind, **fields)

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", failing)
            with pytest.raises(KeyboardInterrupt):
                make(folder, rule, teacher)
        with make(folder, rule, teacher) as run:
            assert run.stops.stopped == whole
            assert run.meter.spent >= teacher.count
        assert content(folder) == kept


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def test_a_damaged_measurement_is_made_again(tmp_path: Path) -> None:
    with grown(tmp_path, Stop(agreement=1.0)) as run:
        last = list(run.journal.all("judged"))[-1]
    (tmp_path / last["file"]).write_bytes(b"")
    with grown(tmp_path, Stop(agreement=1.0)) as run:
        again = list(run.journal.all("judged"))
    assert json.dumps(again[-1]["agreement"]) == json.dumps(last["agreement"])


def test_images_held_back_teach_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither they, nor what was made of them, nor what they were mixed into."""
    seen: list[tuple[Tensor, Tensor]] = []
    student = Judge._student

    def noted(self: Judge, transfer: Any, number: int) -> Any:
        seen.append((transfer.ids, self.fold == number))
        return student(self, transfer, number)

    monkeypatch.setattr(Judge, "_student", noted)
    with grown(tmp_path, Stop(agreement=1.0)) as run:
        partners = run.grown(IMAGES).partners
        parents = run.grown(IMAGES).parents
    assert len(seen) >= FOLDS
    assert bool((partners != parents).any())
    sizes = []
    for ids, held in seen:
        assert not bool(held[ids].any())
        sizes.append(len(ids))
    held = seen[-1][1]
    kept = ~held[parents] & ~held[partners]
    shown = 80  # of the first two rounds
    assert len(seen[-1][0]) == int((~held).sum()) + int(kept[:shown].sum())


def test_a_run_that_a_trial_decides_stops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = decide(monkeypatch, 0)
    teacher = Asked()
    with Run(tmp_path, teacher, budget=Budget(queries=400), seed=3) as run:
        network = build("small", SHAPE, 2, seed=0)
        transfer = run.spend(
            IMAGES,
            network,
            Spend(per_image=10, trial=0),
            search=Search(),
            grow=GROW,
            training=TRAINING,
            stop=by(Stop(agreement=0.5)),
        )
        assert seen == [0]
        assert (len(transfer), teacher.count) == (20, 20)


def test_other_settings_are_refused_though_a_rule_has_ended_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(monkeypatch, 40)
    grown(tmp_path, Stop(agreement=0.9)).close()
    other = Grow(per_image=7, rounds=3, members=1, augmentations=("shift", "mix"))
    with (
        Run(tmp_path, function(left, classes=2), seed=3) as run,
        pytest.raises(ConfigurationDiffers, match="per_image"),
    ):
        run.grow(IMAGES, other)


def test_pseudo_samples_do_not_go_on_once_an_ensemble_has_labelled_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from db3kd.stages import ensemble_labels

    monkeypatch.setattr(ensemble_labels, "LEAST_STEPS", 2)
    monkeypatch.setattr(ensemble_labels, "MOST_STEPS", 2)
    decide(monkeypatch, 60)
    rule = by(Stop(agreement=0.9))
    settings = Synthesis(queries=120, rounds=4, members=1, surrogate="small", ensemble_labels=10)
    with Run(tmp_path, Asked(), seed=3, progress=False) as run:
        for _ in range(2):
            assert len(run.synthesize(SHAPE, settings, stop=rule)) == 70
        run.stops.settle(rule.rule)
        with pytest.raises(ConfigurationDiffers, match="set `stop` as it was"):
            run.stops.settle(None)


def test_flat_looks_at_the_gain_on_the_same_samples() -> None:
    draw = torch.Generator().manual_seed(derive_seed(1, "flat"))
    ease = torch.rand(400, generator=draw)
    rising = [ease < share for share in (0.5, 0.7, 0.9)]
    assert not stopping.enough("flat", rising)
    still = [ease < 0.9] * 3
    assert stopping.enough("flat", still)
    longer = torch.cat([ease < 0.9, torch.zeros(100, dtype=torch.bool)])
    assert not stopping.enough("flat", [*rising[:1], ease < 0.7, longer])
