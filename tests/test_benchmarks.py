"""The pieces of distance.py, labels.py and spending.py, on teachers whose numbers are known."""

import importlib
import json
import math
import random
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from db3kd.config.settings import Search, Training
from db3kd.data import DataSet, TensorImages
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError
from db3kd.search.joint import plan as stages
from db3kd.search.robustness import References
from db3kd.student import train
from db3kd.student import training as loop
from db3kd.synthesis import chosen
from db3kd.teachers import function

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
needs_foolbox = pytest.mark.skipif(
    find_spec("foolbox") is None, reason="Foolbox is missing: pip install -e '.[benchmarks]'"
)
needs_art = pytest.mark.skipif(
    find_spec("art") is None, reason="ART is missing: pip install -e '.[benchmarks]'"
)
SIDE, PIXELS = 3, 9
THERE = torch.tensor([0.6, 0.9])  # class 1, 2: where the mean is above; sqrt(9) * (0.6 - mean) away


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> Any:
    assert str(BENCHMARKS) in sys.path
    return importlib.import_module(name)


def bright(images: Tensor) -> Tensor:
    return (images.flatten(1).mean(1, keepdim=True) > THERE).sum(1)


TEACHER = function(bright, classes=3)


def tiny_task(count: int = 3) -> Any:
    """Images of means 0.1, 0.2, 0.3, and two classes to reach by being brighter."""
    rows, draw = module("rows"), torch.Generator().manual_seed(0)
    noise = torch.rand(count, 1, SIDE, SIDE, generator=draw) * 0.1
    means = (torch.arange(count) + 1).reshape(-1, 1, 1, 1) / 10
    images = noise - noise.mean((1, 2, 3), keepdim=True) + means
    lopsided = torch.ones(3, 1, SIDE, SIDE)
    lopsided[0, 0, 0] = 0.2  # mean 6.6 / 9 = 0.73
    lopsided[1, 0, :, 0] = 0.3  # 6.9 / 9 = 0.77
    lopsided[2, 0, 0, 0] = 0.5  # 8.5 / 9 = 0.94
    references = References(lopsided, bright(lopsided), torch.zeros(3, dtype=torch.bool))
    own = torch.zeros(count, dtype=torch.long)
    case = rows.Case("tiny", None, 2)
    found = rows.started(TEACHER, images, own, references, torch.arange(count) + 70)
    white = math.sqrt(PIXELS) * (THERE[found.target - 1] - found.origin.flatten(1).mean(1))
    return rows.Task(case, TEACHER, references, replace(found, white=white))


def two_rows(checkpoints: tuple[int, ...]) -> Any:
    """Two rows that start at distance 1 after 3 and 5 queries; class 1 is above 0.5."""
    above = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    return module("watch").Watch(
        above,
        torch.zeros(2, 1, 1, 2),
        torch.tensor([1, 1]),
        start=torch.tensor([1.0, 0.0]).repeat(2, 1).reshape(2, 1, 1, 2),
        start_spent=torch.tensor([3, 5]),
        start_curve=torch.ones(2, len(checkpoints)),
        checkpoints=checkpoints,
    )


def shown(*values: float) -> Tensor:
    """Images whose first pixel has these values: their distance from the origin."""
    return torch.tensor([[value, 0.0] for value in values]).reshape(-1, 1, 1, 2)


def test_a_watch_counts_each_row_and_keeps_the_best_point_within_each_count() -> None:
    watch = two_rows((4, 6))
    # row 0 is asked 0.8 (its 4th query) and 0.6 (5th), row 1 0.7 (6th) and 0.2 (7th, not across)
    assert watch.labels(shown(0.8, 0.7, 0.6, 0.2)).tolist() == [1, 1, 1, 0]
    assert torch.allclose(watch.curve, torch.tensor([[0.8, 0.6], [1.0, 0.7]]))
    # row 0's 6th; row 1's 8th, which is beyond the last checkpoint
    watch.labels(shown(0.55, 0.51))
    assert torch.allclose(watch.curve, torch.tensor([[0.8, 0.55], [1.0, 0.7]]))
    assert watch.spent == [6, 8]
    assert watch.meter.spent == 6
    with pytest.raises(module("watch").Enough):
        watch.labels(shown(0.9, 0.9))
    assert watch.meter.spent == 6


def test_a_watch_shows_and_measures_the_clipped_point() -> None:
    watch = two_rows((9,))
    watch.labels(torch.tensor([[0.6, -3.0], [7.0, 0.0]]).reshape(2, 1, 1, 2))
    assert torch.allclose(watch.curve, torch.tensor([[0.6], [1.0]]))
    assert watch.point[0].flatten().tolist() == pytest.approx([0.6, 0.0])


def test_points_are_asked_again_and_moved_out_by_a_ten_thousandth_at_most() -> None:
    origin = torch.zeros(3, 1, SIDE, SIDE)
    point = torch.tensor([0.61, 0.6 * (1 - 5e-5), 0.59]).reshape(-1, 1, 1, 1) + origin
    factor = module("watch").asked_again(TEACHER, origin, point, torch.ones(3, dtype=torch.long))
    assert factor.tolist() == [1.0, pytest.approx(1.0001, abs=1e-6), math.inf]


def test_our_search_comes_close_to_the_closed_form_and_books_what_it_asks() -> None:
    task, competitors = tiny_task(), module("competitors")
    found = competitors.ours("ours", Search(probes=20)).search(task, [1, 2, 4], [50, 500])
    ratio = found.distance / task.rows.white[[1, 2, 4], None]
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio[:, 1] < 1.02).all()
    assert (found.distance[:, 1] <= found.distance[:, 0]).all()
    assert all(0 < spent <= 500 for spent in found.spent)


def test_results_are_kept_and_a_torn_line_is_searched_again(tmp_path: Path) -> None:
    task, competitors, distance = tiny_task(), module("competitors"), module("distance")
    calls: list[list[int]] = []
    real = competitors.ours("ours", Search(probes=20))

    def search(task: Any, rows: list[int], asked: list[int]) -> Any:
        calls.append(list(rows))
        return real.search(task, rows, asked)

    ours = replace(real, search=search, images=1)
    stored = distance.StoredImages(task, tmp_path, (50, 200))
    distance._search(task, [ours], stored, 0)
    distance._search(task, [ours], stored, 0)
    assert calls == [[0, 1], [2, 3], [4, 5]]
    file = tmp_path / "ours.jsonl"
    file.write_text(file.read_text()[:-20])
    distance._search(task, [ours], stored, 0)
    assert calls[3:] == [[4, 5]]
    assert set(stored.read(ours)) == {"70:1", "70:2", "71:1", "71:2", "72:1", "72:2"}
    assert stored.read(replace(ours, version="another")) == {}
    assert distance.StoredImages(task, tmp_path, (50, 200, 500)).read(ours) == {}


def test_a_row_that_is_not_across_when_asked_again_counts_as_its_start() -> None:
    task, distance, competitors = tiny_task(1), module("distance"), module("competitors")
    liar = competitors.Found(
        torch.tensor([[0.5, 0.1], [1.5, 1.4]]), task.rows.origin, [9, 9], ["", ""]
    )
    found, factor = distance.verified(task, [0, 1], liar)
    assert factor.tolist() == [0.0, 0.0]
    assert torch.equal(found, task.rows.start_curve[:, :2])


def test_a_point_elsewhere_than_its_distance_says_counts_as_its_start() -> None:
    task, distance, competitors = tiny_task(1), module("distance"), module("competitors")
    apart = task.rows.start_distance[:1]
    honest = competitors.Found(apart[:, None], task.rows.start[:1], [9], [""])
    assert distance.verified(task, [0], honest)[1].tolist() == [1.0]
    boast = replace(honest, distance=0.9 * apart[:, None])
    assert distance.verified(task, [0], boast)[1].tolist() == [0.0]


def test_the_table_compares_on_all_rows_and_on_those_in_common() -> None:
    task = tiny_task(1)
    task = replace(task, rows=replace(task.rows, white=torch.tensor([1.0, 3.0])))

    def line(*distance: float) -> dict[str, Any]:
        return {"distance": distance, "factor": 1, "ended": "", "spent": 10, "seconds": 2}

    results = {
        "a": {"70:1": line(2.0, 1.5), "70:2": line(6.0, 3.0)},
        "b": {"70:2": line(9.0, 6.0)},
    }
    part = module("summary").of(task, results, (100, 200), "a")
    # means: (2 + 6) / (1 + 3) = 2 and (1.5 + 3) / 4 = 1.125; b: 9 / 3 = 3, 6 / 3 = 2
    # a over b on b's row: 6 / 9 and 3 / 6
    assert part.figures == {
        "over_white_box.tiny.100": 2.0,
        "over_white_box.tiny.200": 1.125,
        "over_white_box.tiny.100.b": 3.0,
        "over_white_box.tiny.200.b": 2.0,
        "default_over.tiny.100.b": pytest.approx(0.6667),
        "default_over.tiny.200.b": 0.5,
    }
    second = next(row for row in part.table if row["competitor"] == "a" and row["queries"] == 200)
    assert second["mean_of_ratios"] == 1.25  # (1.5 + 1) / 2
    assert second["rows"] == 2
    assert second["shared_rows"] == 1
    assert second["over_white_box_shared"] == 1.0  # 3 / 3
    assert part.setting["competitors"]["a"]["queries_per_second"] == 5  # 20 in 4 s
    json.dumps(part.table)


def test_competitors_are_named_after_the_settings() -> None:
    competitors = module("competitors")
    names = [c.name for c in competitors.every()]
    assert len(set(names)) == len(names)
    assert {"art_hsj", "art_sign_opt", "foolbox_hsj", "sign_opt"} <= set(names)
    assert competitors.our_searches()[competitors.default_name()] == Search(strategy="rows")
    assert [c.name for c in competitors.every(["art_hsj"])] == ["art_hsj"]
    with pytest.raises(InputError, match="nobody"):
        competitors.every(["nobody"])


def test_a_search_of_all_classes_is_searched_anew_for_each_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, competitors = tiny_task(), module("competitors")
    images = TensorImages(task.rows.images)
    monkeypatch.setattr(competitors, "seen", lambda task: (images, task.rows.own))
    joint = competitors.together(Search(strategy="joint", surrogate="none"))
    (block,) = joint.blocks(task, 6)
    found = joint.search(task, block, [3, 20])
    assert found.distance.shape == (6, 2)
    assert (found.distance[:, 1] <= found.distance[:, 0]).all()
    assert (found.distance[:, 1] >= task.rows.white - 1e-5).all()
    assert max(sum(found.spent[at : at + 2]) for at in (0, 2, 4)) <= 2 * 20
    assert (module("distance").verified(task, block, found)[1] > 0).all()
    names = [c.name for c in competitors.every()]
    assert "together" not in names
    assert [c.name for c in competitors.every(["together"])] == ["together"]


def tiny_bench(task: Any) -> Any:
    """The three images of `tiny_task`, whose distances are known."""
    labels, pupils = module("labels"), module("pupils")
    images, own = task.rows.images, task.rows.own
    exact = THERE.expand(len(own), 2) * SIDE - 3 * images.flatten(1).mean(1, keepdim=True)
    exact = torch.cat([torch.zeros(len(own), 1), exact], 1)
    logits = torch.tensor([[3.0, 2.0, 1.0]]).repeat(len(own), 1)
    data, pupil = DataSet(TensorImages(images), own, ("a", "b", "c")), pupils.Pupil("small", 1, 1)
    return labels.Bench(task, data, own, images, own, exact, logits, data, pupil, b"weights")


def test_labels_are_as_good_as_their_order() -> None:
    bench = tiny_bench(tiny_task())
    good = bench.metrics(2 * bench.exact)
    # twice the closed form everywhere; class 1 is nearer, and second for the teacher
    assert good["over_white_box"] == pytest.approx(2, rel=1e-4)
    assert [good[name] for name in ("spearman", "nearest_right", "runner_up_right")] == [1, 1, 1]
    assert [good[name] for name in ("spearman_white", "nearest_white")] == [1, 1]
    assert [good[name] for name in ("exact_spearman_white", "exact_nearest_white")] == [1, 1]
    bad = bench.metrics(bench.exact[:, [0, 2, 1]])
    assert [bad[name] for name in ("spearman", "nearest_right", "spearman_logits")] == [-1, 0, -1]
    assert [bad[name] for name in ("spearman_white", "exact_spearman_white")] == [-1, 1]
    quality = module("quality")
    # ranks 0 1 2 3 against 1 0 2 3: 1 - 6 * 2 / (4 * 15) = 0.8
    four = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[2.0, 1.0, 3.0, 4.0]])
    assert quality.spearman(*four) == pytest.approx(0.8)


def test_what_was_bought_is_kept_until_settings_or_teacher_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, bench = module("labels"), tiny_bench(tiny_task())
    settings = labels.settings_of("references", 30, members=1)
    name = labels.version(settings, b"weights")
    spent, distance = labels.bought(bench, settings, tmp_path, name)
    assert 0 < spent["queries_an_image"] <= 30
    monkeypatch.setattr(labels, "measure_jointly", None)  # cannot be asked again
    again, same = labels.bought(bench, settings, tmp_path, name)
    assert again == spent
    assert torch.equal(same, distance)
    others = [
        labels.settings_of("references", 31, members=1),
        labels.settings_of("rows", 30, members=1),
    ]
    names = {
        name,
        labels.version(settings, b"others"),
        *(labels.version(s, b"weights") for s in others),
    }
    assert len(names) == 4
    monkeypatch.setattr(labels, "FORMAT", labels.FORMAT + 1)
    assert labels.version(settings, b"weights") not in names


def test_students_learn_from_distances_and_are_kept_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pupils = module("pupils")
    grey, own = torch.tensor([0.1, 0.7, 0.95] * 4), torch.tensor([0, 1, 2] * 4)
    shown = TensorImages(grey.reshape(-1, 1, 1, 1).repeat(1, 1, 4, 4))
    test, plain = (
        DataSet(shown, own, ("a", "b", "c")),
        TransferSet(shown, torch.arange(12), own, own),
    )
    distance = (grey[:, None] - torch.tensor([0.1, 0.7, 0.95])).abs() + 0.1
    pupil = pupils.Pupil("small", 1.0, 60)
    assert pupil.training(200).epochs == 8  # of 7 steps each
    assert pupils.with_labels(plain, None).soft is None
    soft = pupils.with_labels(plain, distance)
    given: dict[str, Any] = {"folder": tmp_path, "name": "cell"}
    two = pupils.taught(pupil, soft, test, seeds=2, **given)
    assert two == [1.0, 1.0]
    trained: list[int] = []
    monkeypatch.setattr(pupils, "train", lambda *_, seed, device: trained.append(seed))
    assert pupils.taught(pupil, soft, test, seeds=3, **given)[:2] == two
    assert trained == [3]
    assert pupils.line([0.8, 0.9]) == {
        "student": 0.85,
        "student_spread": 0.0707,  # 0.1 / sqrt(2)
        "students": [0.8, 0.9],
    }
    assert "student_spread" not in pupils.line([0.8])


def test_cells_of_a_case_become_lines_figures_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, bench = module("labels"), tiny_bench(tiny_task())
    monkeypatch.setattr(module("pupils"), "taught", lambda *_, seeds, **__: [0.5, 0.6, 0.7][:seeds])
    assert labels.cells(["rows"], None, quick=True) == [("rows", 100), ("rows", 9000)]
    assert labels.cells(["rows"], [30], quick=False) == [("rows", 30), ("rows", 9000)]
    assert ("rows", 9000) not in labels.cells(["together"], None, quick=False)
    wanted = [("references", 20), ("rows", 90)]
    lines = labels.measured(bench, wanted, tmp_path, seeds=2, quick=True)
    assert [(line["search"], line["budget"]) for line in lines] == [("answers", 0), *wanted]
    lines.append({**lines[1], "search": "together"})
    figures = labels.summed_up("tiny", lines)
    assert figures["spearman.tiny.20"] == figures["spearman.tiny.20.references"]
    assert {"student.tiny.0.answers", "student_spread.tiny.90.rows"} <= set(figures)
    if find_spec("matplotlib"):
        module("panels").draw(lines, tmp_path / "plot.png", "tiny", bar=("rows", 90))
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_package_is_told_in_one_sentence() -> None:
    with pytest.raises(InputError, match="pip install"):
        module("white_box").needed("no_such_package.at_all")


def test_soft_votes_answer_as_the_machine_does_and_have_gradients() -> None:
    machine, images, _ = module("teachers").digits()
    votes = module("white_box").SoftVotes(machine, 4.0)
    draw = torch.Generator().manual_seed(0)
    mixed = 0.5 * images[:200] + 0.5 * images[torch.randperm(200, generator=draw)]
    answers = votes(mixed).argmax(1)
    assert (answers.numpy() == machine.predict(mixed.flatten(1).numpy())).all()
    some = mixed[:5].clone().requires_grad_()
    votes(some)[:, 3].sum().backward()
    assert some.grad is not None
    assert (some.grad.flatten(1).norm(dim=1) > 0).all()


@needs_foolbox
@pytest.mark.filterwarnings("ignore")
def test_the_white_box_reference_meets_the_closed_form() -> None:
    class Brightness(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            above = images.flatten(1).mean(1, keepdim=True) - THERE
            scores = torch.cat([torch.zeros_like(above[:, :1]), above], 1).cumsum(1)
            return scores * 10

    task = tiny_task()
    best, point = module("white_box").reference(
        [Brightness()], TEACHER, task.rows.origin, task.rows.target, steps=(50, 100)
    )
    assert (bright(point) == task.rows.target).all()
    assert (best >= task.rows.white - 1e-5).all()
    assert (best < 1.02 * task.rows.white).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("foolbox_hsj", marks=needs_foolbox),
        pytest.param("art_hsj", marks=needs_art),
        pytest.param("art_sign_opt", marks=needs_art),
    ],
)
def test_a_rival_keeps_to_its_queries_and_gets_nearer(name: str) -> None:
    task, competitors = tiny_task(1), module("competitors")
    (rival,) = competitors.every([name])
    found = rival.search(task, [0], (100, 200, 500, 1000, 1500))
    curve = found.distance[0]
    assert found.ended == [""]
    assert 1500 <= found.spent[0] < 2000
    assert (curve.diff() <= 0).all()
    assert float(task.rows.white[0]) - 1e-5 <= float(curve[-1]) < float(curve[0])
    assert module("distance").verified(task, [0], found)[1].tolist() == [1.0]


# What an answer is best spent on


def test_a_cell_spends_what_it_says_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    spending = module("spending")
    problem = spending.made(spending.CASES[0], 40, tmp_path)
    lines = {
        method: spending.cell(problem, method, budget, steps=20, seeds=2)
        for method, budget in (("labels", 1), ("grown", 5), ("probes", 5))
    }
    assert [lines[name]["answers_an_image"] for name in ("labels", "grown")] == [1, 5]
    assert 1 < lines["probes"]["answers_an_image"] <= 5
    assert [lines[name]["samples"] for name in ("labels", "grown")] == [40, 200]
    assert lines["probes"]["samples"] == round(40 * lines["probes"]["answers_an_image"])
    assert all(len(line["accuracies"]) == 2 for line in lines.values())
    monkeypatch.setattr(spending, "train", None)  # cannot be trained again
    again = spending.cell(problem, "grown", 5, steps=20, seeds=2)
    assert {**again, "buying_s": 0} == {**lines["grown"], "buying_s": 0}


def test_cells_of_one_answer_are_those_that_need_no_more() -> None:
    spending = module("spending")
    problem = replace(_problem(spending), net=nn.Flatten())
    found = list(spending.cells(("labels", "grown", "logits", "grown_logits"), (1, 30), problem))
    assert found == [("labels", 1), ("logits", 1), ("grown", 30), ("grown_logits", 30)]
    without = list(spending.cells(("labels", "logits"), (1, 30), _problem(spending)))
    assert without == [("labels", 1)]
    assert spending.default() in spending.METHODS


def test_spending_has_a_plot(tmp_path: Path) -> None:
    line = {"own": 300, "teacher": 99.0, "spread": None}
    table = [
        {**line, "method": "labels", "budget": 1, "accuracy": 90.0},
        {**line, "method": "auto", "budget": 10, "accuracy": 95.0, "spread": 0.2},
        {**line, "method": "auto", "budget": 30, "accuracy": 96.0},
        {**line, "own": 3000, "method": "doubt", "budget": 10, "accuracy": 97.0},
    ]
    curves = module("curves")
    curves.draw(table[:1], tmp_path / "nothing.png", "mnist")
    assert not (tmp_path / "nothing.png").exists()
    curves.draw(table, tmp_path / "all.png", "mnist")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def _problem(spending: Any) -> Any:
    images = TensorImages(torch.zeros(1, 1, 2, 2))
    test = DataSet(images, torch.zeros(1).long(), ("a",))
    return spending.Problem(
        spending.CASES[0], TEACHER, None, images, None, test, b"", Path(), "cpu"
    )


# Accuracy without data against queries


def _tiny(frontier: Any, folder: Path) -> Any:
    case = replace(frontier.spending.CASES[0], network="small", width=1.0)
    images = TensorImages(torch.rand(30, 1, 4, 4))
    test = DataSet(images, TEACHER.labels(images.values), ("a", "b", "c"))
    return frontier.Problem(case, TEACHER, test, b"", folder, "cpu", test.labels)


def test_the_frontier_counts_what_the_teacher_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier = module("frontier")
    problem = _tiny(frontier, tmp_path)
    case, training = problem.case, Training(steps=30)
    wanted = frontier.plan_of(case, (1, 4, 4), "shapes", 100)
    line = frontier.cell(problem, wanted, training, seeds=range(2))
    assert line["asked"] == line["seen_by_teacher"] == [100, 100]
    assert line["accuracies"][0] == pytest.approx(line["agreement"], abs=40)
    monkeypatch.setattr(frontier, "train", None)  # cannot be trained again
    assert frontier.cell(problem, wanted, training, seeds=range(2)) == line
    figures = frontier.figures_of([line, {**line, "way": "chosen"}])
    place = f"{case.name}.100"
    assert set(figures) == {f"accuracy.{name}.{place}" for name in ("shapes", "chosen", "default")}
    counter = next(tmp_path.glob("shapes-100-0-*/seen-by-teacher"))
    assert sum(map(int, counter.read_text().split())) == 100


def test_a_student_of_the_frontier_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier = module("frontier")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    problem, training = _tiny(frontier, tmp_path), Training(batch=10, steps=50)
    plan = frontier.plan_of(problem.case, (1, 4, 4), "shapes", 100)
    epochs: list[int] = []

    def lesson(*args: Any, stop: int = 99, **settings: Any) -> None:
        def halt(epoch: int, _: nn.Module) -> None:
            epochs.append(epoch)
            if epoch == stop:
                raise KeyboardInterrupt

        train(*args, on_epoch=halt, **settings)

    def agreement(folder: str) -> float:
        place = replace(problem, folder=tmp_path / folder)
        return float(frontier.one(place, plan, training, 0)["agreement"])

    monkeypatch.setattr(frontier, "train", partial(lesson, stop=3))
    with pytest.raises(KeyboardInterrupt):
        agreement("stopped")
    monkeypatch.setattr(frontier, "train", lesson)
    stopped = agreement("stopped")
    assert epochs == [1, 2, 3, 4, 5]
    assert not list(tmp_path.rglob("*.checkpoint"))
    assert agreement("whole") == stopped


def test_the_frontier_buys_distances_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontier = module("frontier")
    for steps in ("LEAST_STEPS", "MOST_STEPS"):
        monkeypatch.setattr(stages, steps, 30)
        monkeypatch.setattr(chosen, steps, 30)
    problem = _tiny(frontier, tmp_path)
    plan = frontier.plan_of(problem.case, (1, 4, 4), "distances", 1000)
    assert (plan.settings.way, plan.settings.queries, plan.settings.ensemble_labels) == (
        "chosen",
        100,
        0,
    )
    line = frontier.cell(problem, plan, Training(steps=30), seeds=[1])
    assert (line["way"], line["budget"]) == ("distances", 1000)
    assert 200 < line["asked"][0] == line["seen_by_teacher"][0] <= 1000


def test_students_unlike_those_that_choose_have_no_ensemble_labels_by_default() -> None:
    frontier = module("frontier")
    cases = {case.name: case for case in frontier.spending.CASES}
    case, shape = cases["cifar10"], (3, 32, 32)
    alike = frontier.plan_of(case, shape, "chosen", 100).settings
    assert (alike.surrogate, alike.ensemble_labels) == (case.network, 59_900)
    assert (
        frontier.plan_of(case, shape, "chosen", 100, surrogate="lenet5").settings.ensemble_labels
        == 0
    )
    assert frontier.plan_of(case, shape, "chosen", 100, 5, "lenet5").settings.ensemble_labels == 5
    auto = frontier.plan_of(cases["mnist"], (1, 28, 28), "chosen", 100, surrogate="auto").settings
    assert auto.ensemble_labels == 59_900  # it means LeNet-5 there, which is the student


def test_the_frontier_has_a_plot(tmp_path: Path) -> None:
    plot = module("frontier_plot")
    line = {"way": "chosen", "budget": 5000, "accuracy": 97.0, "spread": 0.3, "teacher": 99.0}
    table = [line, {**line, "budget": 25_000}, {**line, "way": "noise", "spread": None}]
    plot.draw([], tmp_path / "nothing.png", "mnist")
    assert not (tmp_path / "nothing.png").exists()
    plot.draw(table, tmp_path / "all.png", "mnist")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")


def test_every_way_of_the_frontier_has_a_style() -> None:
    frontier = module("frontier")
    assert frontier.WAYS.keys() == module("frontier_plot").STYLES.keys()
    assert list(frontier.cells(("noise", "chosen"), (9, 5))) == [
        ("noise", 5),
        ("chosen", 5),
        ("noise", 9),
        ("chosen", 9),
    ]


def test_a_kept_result_depends_on_sources_that_are_there() -> None:
    stale, frontier = module("stale"), module("frontier")
    with pytest.raises(FileNotFoundError, match="no source of db3kd is gone"):
        stale.digest(("gone.py",))
    files = {*frontier.OF_ALL_WAYS, *(name for way in frontier.OF_ONE_WAY.values() for name in way)}
    known = (*stale.JOINT, *frontier.SOURCES, *(f"synthesis/{file}.py" for file in files))
    assert stale.digest(known) != stale.digest(known[1:])


def test_a_power_cut_takes_nothing_that_was_synced() -> None:
    torn, draw = module("reliability_power").torn, random.Random(0)
    was, now = draw.randbytes(1000), draw.randbytes(3000)
    appended = was + now[1000:]
    found = [torn(was, appended, draw) for _ in range(200)]
    assert all(one.startswith(was) for one in found)
    assert {len(was), len(appended)} <= {len(one) for one in found}
    assert any(one.endswith(bytes(100)) for one in found)
    sectors = {torn(was, now, draw)[:512] for _ in range(50)}  # rewritten in place
    assert sectors == {was[:512], now[:512]}


def test_what_no_synced_folder_made_last_may_not_have_happened(tmp_path: Path) -> None:
    power = module("reliability_power")
    place, log = tmp_path / "place", tmp_path / "log"
    (place / "run").mkdir(parents=True)
    log.mkdir()
    (log / "1").write_bytes(b"new")
    (log / "2").write_bytes(b"old")
    told = [
        {"what": "sync", "path": "run/.draft", "content": "1"},
        {"what": "rename", "path": "run/.draft", "target": "run/shard", "content": "2"},
    ]
    ends = set()
    for synced in (False, True):
        lines = [*told, *([{"what": "folder", "path": "run"}] if synced else [])]
        (log / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for seed in range(20):
            (place / "run" / ".draft").unlink(missing_ok=True)
            (place / "run" / "shard").write_bytes(b"new")
            power.cut_power(place, log, random.Random(seed))
            ends.add((synced, (place / "run" / "shard").read_bytes()))
    assert ends == {(False, b"old"), (False, b"new"), (True, b"new")}
