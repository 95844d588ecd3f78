"""What answers go to: the plan, the trial, the decision, and what a stop changes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import db3kd.search.joint.fitting as fitting
import db3kd.search.joint.plan as stages
import db3kd.stages.judge as judge
import db3kd.stages.trial as trial
from closed_form import prototypes
from db3kd.config.methods import Use
from db3kd.config.settings import Budget, Grow, Search, Spend, Training, paper
from db3kd.data import Images, TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import BudgetExhausted, ConfigurationDiffers, InputError
from db3kd.run import Run
from db3kd.stages import growing
from db3kd.stages.accounts import status
from db3kd.stages.distances import soft_labels
from db3kd.stages.trial import Decision, SpendingPlan, trial_size
from db3kd.student.networks import build

CORNERS = torch.eye(16)[:4]
COUNT = 30
QUICK: dict[str, Any] = {
    "search": Search(surrogate="small", members=1, references=3, shard=20),
    "grow": Grow(rounds=2, members=1, shard=200),
    "training": Training(steps=30, batch=16),
}


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LEAST_STEPS", 30)
    monkeypatch.setattr(stages, "MOST_STEPS", 30)


def images(count: int = COUNT, classes: int = 4) -> TensorImages:
    draw = torch.Generator().manual_seed(0)
    flat = CORNERS[:classes].repeat(count, 1)[:count] + 0.1 * torch.rand(count, 16, generator=draw)
    return TensorImages((flat.clamp(0, 1) * 255).to(torch.uint8).reshape(-1, 1, 4, 4))


class Counting:
    """A teacher that counts what it is shown, question by question; it may die at one."""

    classes, bounds = 4, (0.0, 1.0)

    def __init__(self, dies_at: int | None = None) -> None:
        self.counts: list[int] = []
        self.dies_at = dies_at
        self.teacher = prototypes(CORNERS)

    def labels(self, images: Tensor, /) -> Tensor:
        if len(self.counts) == self.dies_at:
            raise KeyboardInterrupt
        self.counts.append(len(images))
        return self.teacher.labels(images)


def network() -> nn.Module:
    return build("small", (1, 4, 4), 4, seed=0)


def spent(
    folder: Path,
    teacher: Counting,
    wanted: Spend | None = None,
    own: Images | None = None,
    budget: Budget | None = None,
    **changes: Any,
) -> tuple[TransferSet, Decision, dict[str, int]]:
    wanted = wanted or Spend(per_image=10)
    with Run(folder, teacher, budget=budget) as run:
        transfer = run.spend(own or images(), network(), wanted, **{**QUICK, **changes})
        assert run.decision is not None
        return transfer, run.decision, dict(run.meter.by_stage)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")
    }


# The plan


@given(
    per_image=st.none() | st.integers(0, 500),
    most=st.integers(0, 2000),
    samples=st.integers(1, 5000),
    budget=st.none() | st.integers(0, 10**6),
    reserved=st.integers(0, 10**4),
)
def test_a_plan_never_costs_more_than_it_may(
    per_image: int | None, most: int, samples: int, budget: int | None, reserved: int
) -> None:
    wanted = Spend(per_image=per_image, trial=most)
    plan = SpendingPlan.of(wanted, samples=samples, budget=budget, reserved=reserved)
    cost = plan.each * plan.tried + plan.left * samples
    assert cost <= plan.per_image * samples
    assert plan.left >= 1 or not plan.per_image
    assert plan.tried <= min(most, samples)
    assert (plan.tried > 0) == (plan.each > 0)
    if per_image is not None:
        assert plan.per_image == per_image
    elif budget is None:
        assert plan.per_image == trial.PER_IMAGE
    elif plan.per_image:
        assert samples + plan.per_image * samples + reserved <= budget


def test_plans_on_paper() -> None:
    # 300 images, 100 answers: 15 of them in the trial, and 85 are left.
    assert SpendingPlan.of(Spend(per_image=100), samples=300) == SpendingPlan(100, 300, 15, 85)
    # Of 4,000 images a quarter is tried: 15 x 1,000 / 4,000 is 4 an image, rounded up.
    assert SpendingPlan.of(Spend(per_image=100), samples=4000) == SpendingPlan(100, 1000, 15, 96)
    # A budget of 10,000: 300 own images, 1,000 test images, 8,700 / 300 = 29 for each.
    found = SpendingPlan.of(Spend(), samples=300, budget=10_000, reserved=1000)
    assert found == SpendingPlan(29, 300, 14, 15)
    assert SpendingPlan.of(Spend(trial=0), samples=300) == SpendingPlan(30, 0, 0, 30)
    assert SpendingPlan.of(Spend(), samples=300, budget=200) == SpendingPlan(0, 0, 0, 0)


# The trial


def test_the_accounts_balance_and_the_better_gets_the_rest(tmp_path: Path) -> None:
    teacher, grow = Counting(), Grow(choose="random")
    transfer, decision, stages = spent(tmp_path, teacher, grow=grow)
    assert sum(teacher.counts) == sum(stages.values()) <= COUNT * 11
    # 10 answers an image: 5 in the trial, where sample distances cost nothing, and 5 are left.
    assert (stages["answers"], stages["trial/grow"], stages["trial/distances"]) == (30, 150, 0)
    # Nothing is taught here beside one student, so that a single fold of six images is held back.
    assert (decision.why, decision.held, set(decision.agreement)) == (
        "by trial",
        6,
        {"grown", "ce"},
    )
    assert (decision.use == "grown") == decision.gains["grown"].is_clear
    if decision.use == "grown":
        assert stages["grow"] == 30 * 5
        assert (len(transfer), transfer.soft) == (30 + 150 + 150, None)
        # Each is itself, and the parent of 5 in the trial and 5 after it.
        assert torch.equal(torch.bincount(transfer.ids), torch.full((30,), 11))
    else:
        assert len(transfer) == 30
    found = status(tmp_path)["stages"]
    assert all(found[name]["pending"] == 0 for name in found)
    assert found["trial/grow"]["done"] == 2  # of four rounds the first two


def bend(monkeypatch: pytest.MonkeyPatch, **shares: float) -> None:
    """Bend the judgement: how many of the images held back students get right, by what they learn.

    "mbd" and "sd" stand for the distances of a few images, measured or not; "half" for half of what
    was grown.
    """

    def right(judge: Any, transfer: TransferSet, *, seed: int = 0) -> Tensor:
        judged.append(len(transfer))
        if transfer.first is not None:
            mine = "half" if len(transfer) < 30 + 150 else "grown"
        elif len(transfer) == 30:
            mine = "ce"
        else:  # of 15 images, three students of sample distances come first
            few.append(len(transfer))
            mine = "sd" if len(few) <= 3 else "mbd"
        found = torch.zeros(judge.held)
        found[: round(shares[mine] * judge.held)] = 1
        return found

    judged: list[int] = []
    few: list[int] = []
    monkeypatch.setattr(judge.Judge, "right", right)


GROWTH = {"grown": 1.0, "ce": 0.0}
DISTANCES = {"grown": 0.5, "half": 0.5, "ce": 0.5, "sd": 0.2, "mbd": 0.9}
NOTHING = {"grown": 0.5, "half": 0.5, "ce": 0.5, "sd": 0.5, "mbd": 0.5}


@pytest.mark.parametrize(
    ("use", "shares"), [("grown", GROWTH), ("mbd", DISTANCES), ("ce", NOTHING)]
)
def test_each_use_can_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Use, shares: dict[str, float]
) -> None:
    """The judgement is bent; all else is real."""
    bend(monkeypatch, **shares)
    teacher = Counting()
    transfer, decision, stages = spent(tmp_path, teacher)
    assert decision.use == use
    assert sum(teacher.counts) == sum(stages.values()) <= COUNT * 11
    measured = stages["trial/measured/rounds"] + stages["trial/measured/distances"]
    if use == "grown":
        assert (stages["grow"], measured, stages["rounds"], stages["distances"]) == (150, 0, 0, 0)
        assert (len(transfer), transfer.soft) == (330, None)
        assert (decision.unspent, decision.next) == (0, {})
    else:
        assert stages["grow"] == 0
        assert 0 < measured <= 15 * 5  # of half of the images, at the price of all
        assert (len(transfer), transfer.soft is None) == (30, False)
    if use == "mbd":
        assert 0 < stages["rounds"] + stages["distances"] <= 150 - 75
        with Run(tmp_path, Counting()) as run:
            distance = run.distances("mbd").distance
        assert torch.equal(transfer.soft, soft_labels(distance, transfer.teacher_labels))
    if use == "ce":
        assert stages["rounds"] + stages["distances"] == 0
        assert decision.unspent == 150 - 75
        assert set(decision.next) == {"grown", "mbd"}
        assert all(gain.share == 0 for gain in decision.next.values())
    found = status(tmp_path)
    assert (found["stage"], found["decision"]["use"]) == ("distill", use)
    assert all(stage["pending"] == 0 for stage in found["stages"].values())
    with Run(tmp_path, Counting()) as run:
        again = run.transfer_set(images(), "auto")
    assert torch.equal(again.ids, transfer.ids)
    assert torch.equal(again.labels, transfer.labels)
    assert (again.soft is None) == (transfer.soft is None)


def test_a_stop_anywhere_changes_nothing_where_nothing_pays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bend(monkeypatch, **NOTHING)
    whole = Counting()
    expected = spent(tmp_path / "whole", whole)
    for number in range(0, len(whole.counts), 3):
        folder, first, second = tmp_path / str(number), Counting(dies_at=number), Counting()
        bend(monkeypatch, **NOTHING)
        with pytest.raises(KeyboardInterrupt):
            spent(folder, first)
        bend(monkeypatch, **NOTHING)
        assert spent(folder, second)[1] == expected[1]
        assert first.counts + second.counts == whole.counts
        assert files(folder) == files(tmp_path / "whole")


def test_a_trial_that_an_earlier_version_began_decides_as_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, sample distances stood for measured ones, and everything was spent."""
    bend(monkeypatch, grown=0.5, ce=0.8)
    with Run(tmp_path, Counting()) as run:
        plan = run.planned(COUNT, Spend(per_image=10))
        run.journal.append("stage", stage="spend", configuration=trial.asdict(plan))
    _, decision, stages = spent(tmp_path, Counting())
    assert (decision.use, set(decision.agreement)) == ("mbd", {"grown", "mbd"})
    assert stages["trial/measured/rounds"] == 0
    assert 75 < stages["rounds"] + stages["distances"] <= 150


def test_where_the_own_images_teach_all_nothing_more_is_bought(tmp_path: Path) -> None:
    """Nothing is bent: four clusters are learned from the own images alone."""
    quick: dict[str, Any] = {
        "search": Search(surrogate="none", references=3, shard=20),
        "grow": Grow(choose="random"),
        "training": Training(steps=60, batch=16),
        "students": 2,  # which gives a trial as many steps
    }
    transfer, decision, stages = spent(tmp_path, Counting(), **quick)
    assert decision.agreement["ce"] == 1.0
    assert (decision.use, decision.unspent) == ("ce", 75)
    assert stages["grow"] + stages["rounds"] + stages["distances"] == 0
    assert transfer.soft is not None


def test_what_distances_add_is_judged_on_images_that_were_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    real = judge.Judge.right

    def right(judge: Any, transfer: TransferSet, *, seed: int = 0) -> Tensor:
        if transfer.first is not None or len(transfer) == COUNT:
            return torch.zeros(judge.held)  # growth adds nothing
        held = (judge.fold == 0).nonzero()[:, 0].tolist()
        assert not set(held) & set(transfer.ids.tolist())
        seen.append((len(transfer), len(held)))
        return real(judge, transfer, seed=seed)

    monkeypatch.setattr(judge.Judge, "right", right)
    _, decision, _ = spent(tmp_path, Counting())
    assert seen == [(15, 15)] * 6
    assert "mbd" in decision.gains


def test_parents_of_the_trial_are_the_rows_that_were_drawn(tmp_path: Path) -> None:
    """With 20 of 30 images on trial, their children carry the ids of these 20."""
    teacher, wanted = Counting(), Spend(per_image=10, trial=20)
    _, decision, stages = spent(tmp_path, teacher, wanted)
    assert decision.held == 20
    assert stages["trial/grow"] == 100
    with Run(tmp_path, Counting()) as run:
        rows = trial.tried(run._workspace, 30, 20)
        own = TransferSet(images(), torch.arange(30), *[run.answers(images())] * 2)
        more = growing.with_grown(run._workspace.within("trial"), own, images(), rows)
    children = set(more.ids[30:].tolist())
    assert len(children) > 10
    assert children <= set(rows.tolist())


def test_students_that_choose_know_what_the_trial_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bend(monkeypatch, **GROWTH)
    seen: list[int] = []
    real = fitting.teach

    def teach(ensemble: Any, known: Any, **more: Any) -> None:
        assert len(known.images) == len(known.answers)
        seen.append(len(known.answers))
        real(ensemble, known, **more)

    monkeypatch.setattr(fitting, "teach", teach)
    spent(tmp_path, Counting())
    # Of two rounds one is in the trial and knows the 30 own images; the other the trial's 150 too.
    assert seen == [30, 180]


def test_no_second_is_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bend(monkeypatch, **GROWTH)
    spent(tmp_path, Counting())
    with Run(tmp_path, Counting()) as run:
        assert list(run.journal.all("surrogate"))  # whose lessons are given within the shards
        records = [*run.journal.all("shard"), *run.journal.all("decision")]
        assert run.costs.labels.seconds == pytest.approx(sum(r["wall_s"] for r in records))


def test_a_student_is_judged_by_images_whose_children_it_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[int]] = []
    asked: list[Tensor] = []
    real_train, real_predict = judge.train, judge.predict

    def train(network: nn.Module, transfer: TransferSet, *rest: Any, **more: Any) -> nn.Module:
        seen.append(set(transfer.ids.tolist()))
        return real_train(network, transfer, *rest, **more)

    def predict(network: nn.Module, held: Any, **more: Any) -> Tensor:
        asked.append(held.rows)
        return real_predict(network, held, **more)

    monkeypatch.setattr(judge, "train", train)
    monkeypatch.setattr(judge, "predict", predict)
    spent(tmp_path, Counting())
    seen, asked = seen[: 2 * judge.FOLDS], asked[: 2 * judge.FOLDS]
    for ids, rows in zip(seen, asked, strict=True):
        assert not ids & set(rows.tolist())
        assert ids | set(rows.tolist()) == set(range(30))
    assert sorted(torch.cat(asked[: judge.FOLDS]).tolist()) == list(range(30))


@pytest.mark.slow
def test_the_network_stays_as_it_is(tmp_path: Path) -> None:
    net = network()
    net[1].eval()
    before = [part.clone() for part in net.state_dict().values()]
    modes = [part.training for part in net.modules()]
    with Run(tmp_path, Counting()) as run:
        run.spend(images(), net, Spend(per_image=10), **QUICK)
    assert all(map(torch.equal, before, net.state_dict().values()))
    assert [part.training for part in net.modules()] == modes
    assert len(set(modes)) == 2


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (build("small", (1, 4, 4), 3, seed=0), "network has 3 classes, but the teacher 4"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), r"images of shape \(1, 4, 4\): mat1 and"),
        (nn.Flatten(0), "no weights that can be trained"),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)), r"\(images, classes\), got \(32,\)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_asked(
    tmp_path: Path, net: nn.Module, sentence: str
) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as run, pytest.raises(InputError, match=sentence):
        run.spend(images(), net, Spend(per_image=10), **QUICK)
    assert not teacher.counts


def test_without_any_image_nothing_can_be_spent(tmp_path: Path) -> None:
    none = TensorImages(torch.zeros(0, 1, 4, 4))
    with Run(tmp_path, Counting()) as run, pytest.raises(InputError, match="there are no images"):
        run.spend(none, network(), Spend(), **QUICK)


def test_running_again_asks_nothing(tmp_path: Path) -> None:
    first = spent(tmp_path, Counting())
    before, teacher = files(tmp_path), Counting()
    again = spent(tmp_path, teacher)
    assert (again[1], again[2], teacher.counts) == (first[1], first[2], [])
    assert files(tmp_path) == before


def test_a_stop_at_any_question_changes_nothing(tmp_path: Path) -> None:
    whole = Counting()
    quick: dict[str, Any] = {"search": Search(surrogate="none", references=3, shard=20)}
    expected = spent(tmp_path / "whole", whole, **quick)
    for number in range(0, len(whole.counts), 2):
        folder, first, second = tmp_path / str(number), Counting(dies_at=number), Counting()
        with pytest.raises(KeyboardInterrupt):
            spent(folder, first, **quick)
        assert spent(folder, second, **quick)[1] == expected[1]
        assert first.counts + second.counts == whole.counts
        assert files(folder) == files(tmp_path / "whole")


def test_a_stop_while_students_are_judged_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Counting()
    expected = spent(tmp_path / "whole", whole)
    first, second, real = Counting(), Counting(), judge.predict

    def stopped(*_: Any, **more: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(judge, "predict", stopped)
    with pytest.raises(KeyboardInterrupt):
        spent(tmp_path / "other", first)
    assert status(tmp_path / "other")["stage"] == "trial"
    monkeypatch.setattr(judge, "predict", real)
    assert spent(tmp_path / "other", second)[1:] == expected[1:]
    assert sum(first.counts + second.counts) == sum(whole.counts)
    assert files(tmp_path / "other") == files(tmp_path / "whole")


# Which grown images students learn from, where true classes are known


def wrong_for_some() -> Tensor:
    """True classes of the images: the teacher's but for every fifth, which it gets wrong."""
    own = torch.arange(COUNT) % 4
    return torch.where(torch.arange(COUNT) % 5 == 0, (own + 1) % 4, own)


@pytest.fixture
def asked_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question is asked of 30 images too; growth wins the trial."""
    monkeypatch.setattr(trial, "SOME", 20)
    monkeypatch.setattr(trial, "LEAST", 100)


@pytest.mark.usefixtures("asked_of_few")
@pytest.mark.parametrize("share", ["all", "confirmed", "none"])
def test_any_share_of_the_grown_images_can_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: trial.Share
) -> None:
    """The judgement is bent; all else is real."""
    judged, sizes = judge.Judge.__call__, []

    def bent(judge: Any, transfer: TransferSet) -> float:
        sizes.append(len(transfer))
        names: tuple[trial.Share, ...] = ("all", "confirmed", "none")
        mine = names[len(sizes) - 1]
        return judged(judge, transfer) / 4 + (0.5 if mine == share else 0.0)

    monkeypatch.setattr(judge.Judge, "__call__", bent)
    truth, teacher = wrong_for_some(), Counting()
    transfer, _, stages = spent(tmp_path, teacher, labels=truth)
    with Run(tmp_path, Counting()) as run:
        assert run.selection is not None
        assert (run.selection.share, run.selection.held) == (share, COUNT)
        whole = run.transfer_set(images(), "auto")  # without true classes there is no question
        again = run.transfer_set(images(), "auto", labels=truth)
    assert len(whole) == 330
    kept = int((whole.labels[30:] == truth[whole.ids[30:]]).sum())
    assert sizes == [330, 30 + kept, 30]
    assert 0 < kept < 300
    assert len(transfer) == dict(zip(("all", "confirmed", "none"), sizes, strict=True))[share]
    assert torch.equal(transfer.labels[:30], truth)
    if share == "confirmed":
        assert torch.equal(transfer.labels, truth[transfer.ids])
    assert torch.equal(again.labels, transfer.labels)
    assert sum(teacher.counts) == sum(stages.values())  # the question itself costs nothing


@pytest.mark.slow
@pytest.mark.usefixtures("asked_of_few")
def test_a_stop_while_shares_are_judged_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, whole, first, second = wrong_for_some(), Counting(), Counting(), Counting()
    expected = spent(tmp_path / "whole", whole, labels=truth)
    real = judge.predict

    def stopped(*_: Any, **more: Any) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(judge, "predict", stopped)
    with pytest.raises(KeyboardInterrupt):
        spent(tmp_path / "other", first, labels=truth)
    monkeypatch.setattr(judge, "predict", real)
    assert torch.equal(spent(tmp_path / "other", second, labels=truth)[0].ids, expected[0].ids)
    assert first.counts == whole.counts
    assert second.counts == []


@pytest.mark.usefixtures("asked_of_few")
def test_shares_are_judged_by_the_truth_of_images_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Students that answer as the teacher does are right where the teacher is."""
    monkeypatch.setattr(trial, "MANY", 20)  # one fold says enough: 6 of 30

    def predict(_: nn.Module, held: Any, **more: Any) -> Tensor:
        return held.rows % 4

    monkeypatch.setattr(judge, "predict", predict)
    truth = wrong_for_some()
    spent(tmp_path, Counting(), labels=truth)
    with Run(tmp_path, Counting()) as run:
        found, draw = run.selection, torch.Generator()
        draw.manual_seed(judge.derive_seed(judge.derive_seed(0, "selection"), "folds"))
        held = torch.randperm(COUNT, generator=draw) % 5 == 0
        right = float((truth[held] == torch.arange(COUNT)[held] % 4).float().mean())
        assert found is not None
        assert found.held == 6
        assert found.agreement == dict.fromkeys(("all", "confirmed", "none"), round(right, 4))
        assert found.share == "all"


# Budgets


def test_a_budget_decides_how_many_answers_an_image_has(tmp_path: Path) -> None:
    teacher = Counting()
    _, _, stages = spent(tmp_path, teacher, Spend(), budget=Budget(queries=400))
    assert sum(stages.values()) == sum(teacher.counts) <= 400
    with Run(tmp_path, teacher, budget=Budget(queries=4000)) as run:  # raised: the plan stays
        assert run.planned(30).per_image == 370 // 30
        run.spend(images(), network(), **QUICK)
        assert dict(run.meter.by_stage) == stages


def test_the_limit_of_a_stage_counts_what_the_trial_buys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Counting()
    bend(monkeypatch, **GROWTH)
    with pytest.raises(BudgetExhausted) as stopped:
        spent(tmp_path, teacher, budget=Budget(stages={"grow": 10}))
    bought = status(tmp_path)["queries"]["by_stage"]
    assert bought["trial/grow"] + bought["grow"] <= 10
    assert sum(teacher.counts) == COUNT + bought["trial/grow"]
    assert stopped.value.stage == "grow"
    limit = 200  # the trial's 150, and not all of what comes after it
    with pytest.raises(BudgetExhausted):
        spent(tmp_path, teacher, budget=Budget(stages={"grow": limit}))
    bought = status(tmp_path)["queries"]["by_stage"]
    assert bought["trial/grow"] + bought["grow"] <= limit


def test_queries_for_test_images_are_left(tmp_path: Path) -> None:
    with Run(tmp_path, Counting(), budget=Budget(queries=400)) as run:
        assert run.planned(30, reserved=100).per_image == 270 // 30


def test_a_budget_that_is_too_small_for_a_plan_goes_on_with_more(tmp_path: Path) -> None:
    whole, teacher = Counting(), Counting()
    expected = spent(tmp_path / "whole", whole)
    with pytest.raises(BudgetExhausted):
        spent(tmp_path / "other", teacher, budget=Budget(queries=150))
    assert sum(teacher.counts) <= 150
    assert spent(tmp_path / "other", teacher)[1:] == expected[1:]


def test_a_budget_of_the_own_answers_buys_these_alone(tmp_path: Path) -> None:
    transfer, decision, stages = spent(tmp_path, Counting(), Spend(), budget=Budget(queries=40))
    assert (decision.use, len(transfer), sum(stages.values())) == ("ce", 30, 30)
    assert "nothing is left" in decision.why


def test_a_budget_below_the_own_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(BudgetExhausted, match="the budget of 20 queries"):
        spent(tmp_path, Counting(), Spend(), budget=Budget(queries=20))


# Where there is nothing to try


@pytest.mark.parametrize(
    ("wanted", "changes", "use", "why"),
    [
        (Spend(per_image=5), Grow().augmentations, "grown", "30 own images with 5 answers each"),
        (Spend(per_image=10, trial=0), Grow().augmentations, "grown", "are not worth a trial"),
        (Spend(per_image=10), (), "mbd", "no augmentation is switched on"),
    ],
)
def test_where_there_is_nothing_to_try(
    tmp_path: Path, wanted: Spend, changes: Any, use: str, why: str
) -> None:
    transfer, decision, stages = spent(
        tmp_path, Counting(), wanted, grow=Grow(augmentations=changes, rounds=1, members=1)
    )
    assert (decision.use, decision.agreement) == (use, {})
    assert why in decision.why
    assert stages["trial/grow"] == 0
    assert sum(stages.values()) <= 30 * (1 + (wanted.per_image or 0))
    assert (transfer.soft is None) == (use == "grown")


@pytest.mark.parametrize(("changes", "use"), [(Grow().augmentations, "grown"), ((), "ce")])
def test_one_class_only(tmp_path: Path, changes: Any, use: str) -> None:
    grow = Grow(augmentations=changes, rounds=1, members=1)
    found = spent(tmp_path, Counting(), own=images(classes=1), grow=grow)
    assert found[1].use == use


def test_one_class_in_the_trial_only(tmp_path: Path) -> None:
    """A second class that the trial's images do not have: growth, and nothing was bought twice."""
    with Run(tmp_path, Counting()) as run:
        rows = trial.tried(run._workspace, 60, 20).tolist()
    spare = next(row for row in range(60) if row not in rows)
    own = images(60, classes=1)
    own.values[spare] = images(4).values[1]
    transfer, decision, stages = spent(tmp_path, Counting(), Spend(per_image=10, trial=20), own=own)
    assert (decision.use, decision.held) == ("grown", 0)
    assert "all 20 images of the trial" in decision.why
    assert stages["trial/grow"] == 0
    assert len(transfer) == 60 + stages["grow"]


def test_one_own_image(tmp_path: Path) -> None:
    transfer, decision, _ = spent(tmp_path, Counting(), own=images(1))
    assert (decision.use, len(transfer)) == ("grown", 11)


# What is refused


def test_a_search_row_by_row_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    teacher = Counting()
    with pytest.raises(InputError, match="a trial cannot pay for a search row by row"):
        spent(tmp_path, teacher, search=paper())
    assert teacher.counts == []


def test_another_plan_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    spent(tmp_path, Counting())
    with pytest.raises(ConfigurationDiffers, match="per_image: 10 -> 12"):
        spent(tmp_path, Counting(), Spend(per_image=12))


def test_before_a_decision_there_is_no_transfer_set(tmp_path: Path) -> None:
    with Run(tmp_path, Counting()) as run:
        run.answers(images())
        assert run.decision is None
        with pytest.raises(InputError, match="nothing is decided yet"):
            run.transfer_set(images(), "auto")


@pytest.mark.parametrize("steps", [1, 7, 300, 2_000, 5_000, 40_000])
@pytest.mark.parametrize("students", [1, 2, 6])
@pytest.mark.parametrize("lessons", [0, 1_000, 4_000])
def test_a_trial_has_no_more_steps_than_the_rest(steps: int, students: int, lessons: int) -> None:
    folds, each = trial_size(steps, students, lessons)
    assert 1 <= folds <= 5
    assert 1 <= each <= min(steps, 5_000)
    # Two students cannot have less than a step each.
    assert 2 * folds * each <= max(2, steps * students + lessons)
    if steps * students + lessons >= 2 * 5 * min(steps, 5_000):
        assert (folds, each) == (5, min(steps, 5_000))  # as long as it would be by itself
