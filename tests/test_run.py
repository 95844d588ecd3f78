"""Runs: whatever happens to a process, answers are kept, accounts balance, results are the same."""

import gc
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import db3kd.stages.accounts
import db3kd.student.training
from closed_form import WIDE, ordered_scores
from conftest import student_content
from db3kd.config.settings import Budget, Search, Training
from db3kd.data import TensorImages
from db3kd.errors import (
    BudgetExhausted,
    Busy,
    ConfigurationDiffers,
    Damaged,
    InputError,
    TeacherError,
)
from db3kd.run import Run
from db3kd.search.robustness import References, choose_references
from db3kd.search.rows import measure
from db3kd.seeds import derive_seed
from db3kd.stages.accounts import status
from db3kd.stages.workspace import Workspace
from db3kd.storage.journal import Journal
from db3kd.storage.shards import read_shard
from db3kd.storage.tape import Tape
from db3kd.student.networks import build
from db3kd.student.soft_labels import concentrate, reciprocal_activations
from db3kd.teachers import function

CLASSES, SEED = 3, 7
DRAW = torch.Generator().manual_seed(11)
WEIGHTS = torch.randn(CLASSES, 16, generator=DRAW)
IMAGES = TensorImages(torch.randn(7, 1, 4, 4, generator=DRAW))
TEST_IMAGES = TensorImages(torch.randn(5, 1, 4, 4, generator=DRAW))
SEARCH = Search(
    strategy="rows",
    queries=22,
    probes=8,
    tolerance=0.2,
    references=2,
    shard=4,
    checkpoints=(20,),
)
TRAINING = Training(epochs=4, batch=4, rate=0.01)


pytestmark = pytest.mark.usefixtures("no_power_cut")


class Counting:
    """A teacher that notes the size of each question; `before` may raise within one."""

    classes, bounds = CLASSES, WIDE

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self.questions: list[int] = []
        self.before = before

    @property
    def asked(self) -> int:
        return sum(self.questions)

    def labels(self, images: Tensor, /) -> Tensor:
        self.questions.append(len(images))
        self.before(len(self.questions) - 1)
        return ordered_scores(images, WEIGHTS, torch.zeros(CLASSES)).argmax(1)


def silent_teacher() -> Counting:
    """A teacher that must not be asked any more."""

    def refuse(number: int) -> None:
        pytest.fail("a question was asked though its answer is known")

    return Counting(refuse)


def dying(number: int, error: BaseException) -> Counting:
    def die(now: int) -> None:
        if now == number:
            raise error

    return Counting(die)


def opened(folder: Path, teacher: Any, **settings: Any) -> Run:
    return Run(folder, teacher, **{"seed": SEED, **settings})


def shards(folder: Path) -> dict[str, object]:
    """Every shard, and the content of every student: the order of its metadata may differ."""
    found: dict[str, object] = {}
    for path in folder.glob("*/*.safetensors"):
        content: object = path.read_bytes()
        if path.parent.name == "students":
            content = student_content(path)
        found[str(path.relative_to(folder))] = content
    return found


def network() -> nn.Module:
    return build("small", (1, 4, 4), CLASSES, 0.2, seed=0)


def everything(run: Run) -> None:
    """Every stage of a run, one student."""
    transfer = run.label(IMAGES, SEARCH)
    student = run.distill(network(), transfer, TRAINING)
    run.evaluate(student, TEST_IMAGES)


def all_questions(run: Run) -> None:
    """Every question of `everything`, but no student is trained."""
    run.measure(IMAGES, SEARCH)
    run.evaluate(network(), TEST_IMAGES)


def without_students(found: dict[str, object]) -> dict[str, object]:
    return {name: content for name, content in found.items() if "students" not in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], list[int], Path]:
    """An undisturbed run: its shards, its questions and its folder (to be copied, not changed)."""
    folder, teacher = tmp_path_factory.mktemp("whole") / "run", Counting()
    with opened(folder, teacher) as run:
        everything(run)
    return shards(folder), teacher.questions, folder


@pytest.fixture
def finished(whole: tuple[dict[str, object], list[int], Path], tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    return Path(shutil.copytree(whole[2], tmp_path / "finished"))


def accounts(folder: Path) -> tuple[int, int]:
    """Queries spent and lost, as the folder says; and they must balance shard by shard."""
    journal = Journal(folder / "journal.jsonl", read_only=True)
    for record in journal.all("shard"):
        part = read_shard(folder / record["file"], record["sha256"])
        metrics = [name for name in ("mbd", "bd", "sd") if f"{name}.queries" in part]
        used = int(part[f"{metrics[0]}.queries"].sum()) if metrics else len(part["own"])
        assert record["queries"] - record["lost"] == used
        if metrics:
            assert record["spent"][metrics[0]] == used
    found = status(folder)["queries"]
    assert found["spent"] == sum(found["by_stage"].values())
    return found["spent"], found["lost"]


# What a run finds


@pytest.mark.parametrize("metric", ["sd", "bd", "mbd"])
def test_a_run_finds_what_measure_finds(tmp_path: Path, metric: Any) -> None:
    search = Search(
        strategy="rows",
        metric=metric,
        queries=30,
        probes=8,
        tolerance=0.05,
        references=2,
        shard=4,
    )
    with opened(tmp_path / "run", Counting()) as run:
        transfer = run.label(IMAGES, search)
        found = run.distances(metric)
    teacher = Counting()
    images = IMAGES.values
    own = teacher.labels(images)
    rows, rejected = choose_references(
        own,
        classes=CLASSES,
        per_class=2,
        generator=torch.Generator().manual_seed(derive_seed(SEED, "references")),
    )
    references = References(images[rows], own[rows], rejected)
    for shard, part in enumerate((slice(0, 4), slice(4, 7))):
        expected = measure(
            teacher,
            images[part],
            own[part],
            references,
            search,
            noise_seed=derive_seed(SEED, "distances", shard),
        )[metric]
        assert torch.equal(found.distance[part], expected.distance)
        assert torch.equal(found.queries[part].long(), expected.queries)
        assert torch.equal(found.status[part].long(), expected.status)
    assert transfer.teacher_labels.tolist() == own.tolist() == transfer.labels.tolist()
    assert transfer.ids.tolist() == list(range(7))
    assert transfer.soft is not None
    soft = concentrate(reciprocal_activations(found.distance, own), own)
    assert torch.equal(transfer.soft, soft)


def test_one_run_holds_every_metric_up_to_its_own(tmp_path: Path) -> None:
    with opened(tmp_path / "run", Counting()) as run:
        run.measure(IMAGES, SEARCH)
        maps = [run.distances(metric) for metric in ("sd", "bd", "mbd")]
    for nearer, farther in ((maps[1], maps[0]), (maps[2], maps[1])):
        assert bool((nearer.distance <= farther.distance).all())
        assert int(nearer.queries.sum()) >= int(farther.queries.sum())
    assert maps[2].curve.shape == (7, CLASSES, 1)


def test_ground_truth_is_used_where_it_is_given(tmp_path: Path) -> None:
    truth = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    with opened(tmp_path / "run", Counting()) as run:
        transfer = run.label(IMAGES, SEARCH, labels=truth)
        plain = run.transfer_set(IMAGES, "ce")
    assert transfer.labels.tolist() == truth.tolist()
    assert plain.labels.tolist() == plain.teacher_labels.tolist()
    assert plain.soft is None


def test_the_price_of_a_run_is_what_its_journal_says(
    whole: tuple[dict[str, object], list[int], Path],
) -> None:
    _, questions, folder = whole
    assert accounts(folder) == (sum(questions), 0)
    limit = 7 + 7 * (CLASSES - 1) * SEARCH.queries + 5
    assert sum(questions) <= limit
    by_stage = status(folder)["queries"]["by_stage"]
    assert (by_stage["answers"], by_stage["evaluate"]) == (7, 5)


# Continuing


def test_a_finished_run_asks_nothing(finished: Path) -> None:
    before = shards(finished)
    with opened(finished, silent_teacher()) as run:
        everything(run)
        run.transfer_set(IMAGES, "ce")
    assert shards(finished) == before


def test_stages_may_be_done_one_by_one(
    whole: tuple[dict[str, object], list[int], Path], tmp_path: Path
) -> None:
    expected, questions, _ = whole
    teacher, folder = Counting(), tmp_path / "run"
    with opened(folder, teacher) as run:
        run.answers(IMAGES)
    assert teacher.questions == [7]
    with opened(folder, teacher) as run:
        run.measure(IMAGES, SEARCH)
    with opened(folder, teacher) as run:
        student = run.distill(network(), run.transfer_set(IMAGES, "mbd"), TRAINING)
    with opened(folder, teacher) as run:
        run.evaluate(student, TEST_IMAGES)
    assert teacher.questions == questions
    assert shards(folder) == expected


@pytest.mark.parametrize("method", ["ce", "sd", "bd", "mbd"])
def test_a_transfer_set_of_labels_that_are_not_there_costs_nothing(
    tmp_path: Path, method: Any
) -> None:
    with opened(tmp_path / "run", silent_teacher()) as run, pytest.raises(InputError, match="yet"):
        run.transfer_set(IMAGES, method)


def test_a_metric_that_was_not_measured_is_refused(tmp_path: Path) -> None:
    search = Search(metric="bd", queries=30, references=2, tolerance=0.05)
    with opened(tmp_path / "run", Counting()) as run:
        run.measure(IMAGES, search)
        with pytest.raises(InputError, match="measured 'bd', not 'mbd'"):
            run.distances("mbd")


ERRORS = (RuntimeError("gone"), KeyboardInterrupt(), TeacherError("no answer"), MemoryError())


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_within_any_question_a_run_ends_the_same(
    whole: tuple[dict[str, object], list[int], Path], tmp_path: Path, every: int
) -> None:
    expected, questions, _ = whole
    assert len(questions) > 30
    for number in range(0, len(questions), every):
        folder, error = tmp_path / str(number), ERRORS[number % len(ERRORS)]
        first = dying(number, error)
        with pytest.raises(type(error)), opened(folder, first) as run:
            all_questions(run)
        assert first.questions == questions[: number + 1]
        assert status(folder)["queries"]["spent"] == first.asked
        second = Counting()
        with opened(folder, second) as run:
            assert run.meter.spent == first.asked
            all_questions(run)
        # Asked again is the one question that was lost, and nothing else.
        assert second.questions == questions[number:]
        assert accounts(folder) == (first.asked + second.asked, questions[number])
        assert shards(folder) == without_students(expected)
        assert not list(folder.glob("*/*.tape"))
        shutil.rmtree(folder)


def test_stopped_again_and_again_and_going_on_in_one_process_or_in_new_ones(
    whole: tuple[dict[str, object], list[int], Path], tmp_path: Path
) -> None:
    expected, questions, _ = whole
    folder, teacher = tmp_path / "run", Counting()
    draw = torch.Generator().manual_seed(0)
    kills = 0

    def sometimes(number: int) -> None:
        nonlocal kills
        if torch.rand((), generator=draw) < 0.15:
            kills += 1
            raise RuntimeError("gone")

    teacher.before = sometimes
    for _ in range(len(questions)):
        with opened(folder, teacher) as run:
            try:
                all_questions(run)
                break
            except RuntimeError:
                assert run.meter.spent == teacher.asked
            try:
                all_questions(run)  # the same process tries again
                break
            except RuntimeError:
                assert run.meter.spent == teacher.asked == status(folder)["queries"]["spent"]
    else:
        pytest.fail("it never ended")
    assert kills > 5
    assert shards(folder) == without_students(expected)
    spent, lost = accounts(folder)
    assert spent == teacher.asked
    assert spent - lost == sum(questions)


# Budgets


@pytest.mark.parametrize("more", [1, 5, 23])
def test_a_budget_is_never_exceeded_and_a_larger_one_goes_on(
    whole: tuple[dict[str, object], list[int], Path], tmp_path: Path, more: int
) -> None:
    expected, questions, _ = whole
    folder, teacher = tmp_path / "run", Counting()
    needed = sum(questions)
    budget = needed - 40 * more if more < 23 else 0
    while True:
        try:
            with opened(folder, teacher, budget=Budget(queries=budget)) as run:
                all_questions(run)
            break
        except BudgetExhausted as error:
            refused = error
        assert teacher.asked == refused.spent <= budget < refused.spent + refused.asked
        assert (refused.budget, refused.stage) == (budget, "")
        assert budget < needed
        assert status(folder)["queries"]["budget"] == budget
        budget += more
    assert teacher.questions == questions  # nothing was asked twice for all the stopping
    assert accounts(folder) == (needed, 0)
    assert shards(folder) == without_students(expected)


def test_a_budget_counts_what_was_lost(
    whole: tuple[dict[str, object], list[int], Path], tmp_path: Path
) -> None:
    expected, questions, _ = whole
    folder, needed = tmp_path / "run", sum(questions)
    first = dying(20, RuntimeError("gone"))
    with pytest.raises(RuntimeError), opened(folder, first, budget=Budget(queries=needed)) as run:
        all_questions(run)
    second = Counting()
    with (
        pytest.raises(BudgetExhausted),
        opened(folder, second, budget=Budget(queries=needed)) as run,
    ):
        all_questions(run)
    assert first.asked + second.asked <= needed
    enough = needed + questions[20]
    with opened(folder, second, budget=Budget(queries=enough)) as run:
        all_questions(run)
    assert first.asked + second.asked == enough
    assert shards(folder) == without_students(expected)


def test_stages_have_budgets_of_their_own(tmp_path: Path) -> None:
    folder, teacher = tmp_path / "run", Counting()

    def stopped(**stages: Any) -> BudgetExhausted:
        with (
            pytest.raises(BudgetExhausted) as caught,
            opened(folder, teacher, budget=Budget(stages=stages)) as run,
        ):
            everything(run)
        return caught.value

    error = stopped(answers=6)
    assert (error.stage, teacher.asked) == ("answers", 0)
    error = stopped(answers=7, distances=50)
    assert (error.stage, error.budget) == ("distances", 50)
    assert 7 < teacher.asked <= 57
    error = stopped(answers=7, distances=400, evaluate=4)
    assert error.stage == "evaluate"
    assert status(folder)["queries"]["by_stage"]["evaluate"] == 0
    with opened(folder, teacher, budget=Budget(stages={"evaluate": 5})) as run:
        everything(run)
    assert accounts(folder) == (teacher.asked, 0)


def test_a_budget_of_nothing_asks_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(BudgetExhausted),
        opened(tmp_path / "run", silent_teacher(), budget=Budget(queries=0)) as run,
    ):
        run.answers(IMAGES)


# The folder


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder, Counting()):
        with pytest.raises(Busy, match="another process is working in"):
            opened(folder, Counting())
        assert status(folder)["queries"]["spent"] == 0  # status does not mind
    opened(folder, Counting()).close()


def test_a_folder_that_another_process_holds_is_busy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    opened(folder, Counting()).close()
    program = (
        "import filelock, sys\n"
        "with filelock.FileLock(sys.argv[1]):\n"
        "    print(flush=True)\n"
        "    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(Busy):
            opened(folder, Counting())
        other.kill()
    opened(folder, Counting()).close()  # a dead process holds nothing


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"seed": 8}, "seed: 7 -> 8"),
        ({"configuration": {"data": {"train": "other"}}}, r'data.train: "some" -> "other"'),
        ({"configuration": {}}, r'data.train: "some" -> \(absent\)'),
    ],
)
def test_another_configuration_is_refused_and_named(
    tmp_path: Path, settings: Any, difference: str
) -> None:
    folder = tmp_path / "run"
    settings = {"configuration": {"data": {"train": "some"}}, **settings}
    with opened(folder, Counting(), configuration={"data": {"train": "some"}}) as run:
        run.answers(IMAGES)
    before = (folder / "journal.jsonl").read_bytes()
    with pytest.raises(ConfigurationDiffers, match=difference):
        opened(folder, silent_teacher(), **settings)
    assert (folder / "journal.jsonl").read_bytes() == before
    opened(folder, silent_teacher(), configuration={"data": {"train": "some"}}).close()


def test_another_teacher_is_refused(finished: Path) -> None:
    other = function(lambda images: images.flatten(1)[:, 0] > 0, classes=2, bounds=(-9.0, 9.0))
    with pytest.raises(ConfigurationDiffers, match=r"bounds: .* classes: 3 -> 2"):
        opened(finished, other)


def test_other_images_or_another_search_are_refused(finished: Path) -> None:
    other = TensorImages(IMAGES.values.flip(0))
    with opened(finished, silent_teacher()) as run:
        with pytest.raises(
            ConfigurationDiffers, match=r"images are not those that .*content or their"
        ):
            run.answers(other)
        with pytest.raises(ConfigurationDiffers, match="there are 5, not 7"):
            run.answers(TEST_IMAGES)
        with pytest.raises(ConfigurationDiffers, match="queries: 22 -> 60"):
            run.measure(IMAGES, Search(**{**_fields(SEARCH), "queries": 60}))
        with pytest.raises(
            ConfigurationDiffers, match=r"images are not those that .*content or their"
        ):
            run.evaluate(network(), TensorImages(TEST_IMAGES.values.flip(0)))
        everything(run)


def test_a_student_that_cannot_see_the_test_images_costs_nothing(tmp_path: Path) -> None:
    student = build("small", (1, 8, 8), CLASSES, 0.2, seed=0)
    with opened(tmp_path, silent_teacher()) as run:
        with pytest.raises(InputError, match=r"fails on an image of shape \(1, 4, 4\)"):
            run.evaluate(student, TEST_IMAGES)
        with pytest.raises(InputError, match="there are no images"):
            run.evaluate(student, TensorImages(TEST_IMAGES.values[:0]))


def _fields(search: Search) -> dict[str, Any]:
    return {name: getattr(search, name) for name in search.__struct_fields__}


# Drift


def test_answers_to_other_questions_are_written_off_and_stay_booked(
    whole: tuple[dict[str, object], list[int], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, questions, _ = whole
    folder = tmp_path / "run"
    first = dying(10, RuntimeError("gone"))
    with pytest.raises(RuntimeError), opened(folder, first) as run:
        everything(run)
    (folder / "distances" / "00000.tape").unlink()
    taped(folder, key=1, times=3)  # as if another machine had asked
    second = Counting()
    with caplog.at_level(logging.WARNING, "db3kd"), opened(folder, second) as run:
        assert run.meter.spent == 7 + 150
        everything(run)
    assert "150 answers cannot be used" in caplog.text
    assert second.questions == questions[1:]
    assert accounts(folder) == (sum(questions) + 150, 150)
    assert shards(folder) == expected


def taped(folder: Path, *, key: int, times: int = 1) -> None:
    """Put questions of fifty images on the tape of the first shard of distances."""
    tape = Tape(folder / "distances" / "00000.tape", classes=CLASSES)
    for _ in range(times):
        question = tape.question(50, key=key)
        question.settle(question.claim(range(50)), torch.zeros(50, dtype=torch.int64))
    tape.close()


def test_a_drift_never_exceeds_the_budget(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder, Counting()) as run:
        run.answers(IMAGES)
    taped(folder, key=1)
    teacher = Counting()
    with (
        pytest.raises(BudgetExhausted),
        opened(folder, teacher, budget=Budget(queries=60)) as run,
    ):
        everything(run)
    assert teacher.asked <= 3
    assert status(folder)["queries"]["spent"] == 57 + teacher.asked


# Damage


def test_damaged_shards_are_bought_again_on_request_only(
    whole: tuple[dict[str, object], list[int], Path],
    finished: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, questions, _ = whole
    for name in ("answers/00000", "distances/00001", "evaluate/00000"):
        path = finished / f"{name}.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with opened(finished, silent_teacher()) as run, pytest.raises(Damaged, match="answers/00000"):
        everything(run)
    records = Journal(finished / "journal.jsonl", read_only=True).all("shard")
    price = {(r["stage"], r["shard"]): r["queries"] for r in records}
    teacher = Counting()
    with (
        caplog.at_level(logging.WARNING, "db3kd"),
        opened(finished, teacher, redo_damaged=True) as run,
    ):
        everything(run)
    again = 7 + price["distances", 1] + 5
    assert teacher.asked == again
    assert caplog.text.count("to be bought again") == 3
    assert accounts(finished) == (sum(questions) + again, 0)
    assert shards(finished) == expected
    with opened(finished, silent_teacher(), redo_damaged=True) as run:  # nothing is damaged now
        everything(run)


def test_a_damaged_shard_is_not_bought_beyond_the_budget(
    whole: tuple[dict[str, object], list[int], Path], finished: Path
) -> None:
    (finished / "distances" / "00001.safetensors").unlink()
    spent = sum(whole[1])
    with (
        pytest.raises(BudgetExhausted),
        opened(finished, t := Counting(), budget=Budget(queries=spent), redo_damaged=True) as run,
    ):
        everything(run)
    assert t.asked == 0


def test_a_redo_that_was_killed_goes_on(
    whole: tuple[dict[str, object], list[int], Path], finished: Path
) -> None:
    expected, questions, _ = whole
    (finished / "distances" / "00000.safetensors").unlink()
    first = dying(3, RuntimeError("gone"))
    with pytest.raises(RuntimeError), opened(finished, first, redo_damaged=True) as run:
        everything(run)
    second = Counting()
    with opened(finished, second) as run:
        everything(run)
    assert shards(finished) == expected
    assert accounts(finished) == (sum(questions) + first.asked + second.asked, first.questions[-1])


def test_a_journal_that_forgot_shards_is_damaged(finished: Path) -> None:
    path = finished / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    first = min(number for number, line in enumerate(lines) if b'"kind": "tape"' in line)
    for rest in (lines[:first], []):
        path.write_bytes(b"".join(rest))
        with pytest.raises(Damaged, match=r"journal\.jsonl"):
            opened(finished, silent_teacher())
    path.unlink()
    with pytest.raises(Damaged, match=r"journal\.jsonl"):
        opened(finished, silent_teacher())
    with pytest.raises(Damaged, match=r"journal\.jsonl"):
        opened(finished, silent_teacher(), redo_damaged=True)
    path.write_bytes(b"".join(lines))
    with opened(finished, silent_teacher()) as run:
        everything(run)


def test_a_journal_that_lost_its_end_knows_what_may_have_been_asked(
    whole: tuple[dict[str, object], list[int], Path], finished: Path
) -> None:
    expected, questions, _ = whole
    path = finished / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"kind": "shard"' in line)
    path.write_bytes(b"".join(lines[:last]))  # and the tape of that shard is gone
    teacher = Counting()
    with opened(finished, teacher) as run:
        everything(run)
    spent, lost = accounts(finished)
    assert shards(finished) == expected
    assert 0 < teacher.asked <= lost <= 2 * teacher.asked
    assert spent == sum(questions) + lost


def test_a_shard_that_a_power_cut_took_is_made_again_from_its_tape(
    whole: tuple[dict[str, object], list[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, questions, _ = whole
    folder, teacher = tmp_path / "run", Counting()
    monkeypatch.setattr(Workspace, "_forget_tapes", lambda self: None)
    with opened(folder, teacher) as run:
        run.measure(IMAGES, SEARCH)
    monkeypatch.undo()
    before = status(folder)["queries"]
    shard = folder / "distances" / "00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:40])
    with opened(folder, teacher) as run:
        assert status(folder)["queries"] == before
        everything(run)
    assert "made again from its tape" in caplog.text
    assert teacher.questions == questions
    assert shards(folder) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it is not closed
def test_a_run_that_nobody_holds_any_more_lets_go_of_its_folder(tmp_path: Path) -> None:
    """As in a notebook, whose cell is run again."""

    def cell() -> int:
        run = opened(tmp_path / "run", Counting())
        run.measure(IMAGES, SEARCH)
        return run.meter.spent

    gc.disable()
    try:
        assert cell() == cell()
    finally:
        gc.enable()


def test_a_shard_that_has_its_draft_name_again_is_found(
    whole: tuple[dict[str, object], list[int], Path], finished: Path
) -> None:
    shard = finished / "distances" / "00001.safetensors"
    shard.rename(shard.with_name(f".{shard.name}.4711.part"))
    other = shard.with_name(".00000.safetensors.4711.part")
    other.write_bytes(b"half")
    with opened(finished, silent_teacher()) as run:
        everything(run)
    assert shards(finished) == whole[0]
    assert not other.exists()


def test_killed_between_shard_and_journal_nothing_is_bought_again(
    whole: tuple[dict[str, object], list[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, questions, _ = whole
    folder, teacher = tmp_path / "run", Counting()
    append = Journal.append

    def die(self: Journal, kind: str, **fields: Any) -> None:
        if kind == "shard" and fields["stage"] == "distances":
            raise KeyboardInterrupt
        append(self, kind, **fields)

    monkeypatch.setattr(Journal, "append", die)
    with pytest.raises(KeyboardInterrupt), opened(folder, teacher) as run:
        everything(run)
    monkeypatch.undo()
    assert (folder / "distances" / "00000.safetensors").exists()
    with opened(folder, teacher) as run:
        everything(run)
    assert teacher.questions == questions
    assert shards(folder) == expected


def test_killed_between_journal_and_tape_nothing_is_counted_twice(
    whole: tuple[dict[str, object], list[int], Path], finished: Path
) -> None:
    taped(finished, key=1)  # what the finished shard asked is on the journal already
    assert accounts(finished) == (sum(whole[1]), 0)
    with opened(finished, silent_teacher()) as run:
        everything(run)
        assert run.meter.spent == sum(whole[1])


# Students


def test_a_student_that_was_stopped_goes_on_to_the_same_weights(
    whole: tuple[dict[str, object], list[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _, _ = whole
    monkeypatch.setattr(db3kd.student.training, "CHECKPOINT_SECONDS", 0.0)
    steps: list[int] = []
    each = -(-len(IMAGES) // TRAINING.batch)  # steps of an epoch

    def stop(stage: str, done: int, total: int, figures: Any) -> None:
        if stage == "student-0":
            steps.append(done)
            if steps in ([each], [each, 2 * each, 3 * each]):
                raise KeyboardInterrupt

    folder = tmp_path / "run"
    for _ in range(2):
        with (
            pytest.raises(KeyboardInterrupt),
            opened(folder, Counting(), progress=stop) as run,
        ):
            everything(run)
        assert list(folder.glob("students/*.checkpoint"))
        assert status(folder)["students"] == []
    with opened(folder, Counting(), progress=stop) as run:
        everything(run)
    assert steps == [each, 2 * each, 3 * each, 4 * each]
    assert shards(folder) == expected
    assert not list(folder.glob("students/*.checkpoint"))


@pytest.mark.parametrize("method", ["pseudo", "pseudo_mbd"])
def test_pseudo_samples_are_not_made_of_own_images(finished: Path, method: Any) -> None:
    words = f"'{method}' do not learn from own images"
    with opened(finished, silent_teacher()) as run, pytest.raises(InputError, match=words):
        run.transfer_set(IMAGES, method)


def test_another_student_stands_beside_the_first(finished: Path) -> None:
    with opened(finished, silent_teacher()) as run:
        transfer = run.transfer_set(IMAGES, "mbd")
        first = run.distill(network(), transfer, TRAINING)
        before = set(shards(finished))
        for other, setting in (
            (network(), {"training": Training(epochs=5, batch=4, rate=0.01)}),
            (network(), {"seed": 1}),
            (build("small", (1, 4, 4), CLASSES, 0.4, seed=0), {}),
            (build("small", (1, 4, 4), CLASSES, 0.2, seed=1), {}),
        ):
            run.distill(other, transfer, **{"training": TRAINING, **setting})
        run.distill(network(), run.transfer_set(IMAGES, "sd"), TRAINING)
        added = set(shards(finished)) - before
        assert len(added) == 5
        again = run.distill(network(), transfer, TRAINING)
        assert set(shards(finished)) == before | added
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_the_same_labels_on_other_pixels_are_another_student(finished: Path) -> None:
    with opened(finished, silent_teacher()) as run:
        transfer = run.transfer_set(IMAGES, "mbd")
        first = run.distill(network(), transfer, TRAINING)
        values = IMAGES.values.clone()
        values[3, 0, 2, 2] += 0.5  # one pixel of one image
        other = run.distill(network(), replace(transfer, images=TensorImages(values)), TRAINING)
        assert any(
            not torch.equal(value, other.state_dict()[name])
            for name, value in first.state_dict().items()
        )
        assert len(list(finished.glob("students/*.safetensors"))) == 2


def test_a_student_whose_file_is_gone_is_trained_again(
    whole: tuple[dict[str, object], list[int], Path], finished: Path
) -> None:
    (path,) = finished.glob("students/*.safetensors")
    path.unlink()
    with opened(finished, silent_teacher()) as run:
        everything(run)
    assert shards(finished) == whole[0]


def test_test_images_are_asked_once_for_all_students(tmp_path: Path) -> None:
    teacher = Counting()
    with opened(tmp_path / "run", teacher) as run:
        transfer = run.label(IMAGES, SEARCH)
        before = teacher.asked
        labels = torch.tensor([0, 1, 2, 0, 1])
        results = [
            run.evaluate(run.distill(network(), transfer, TRAINING, seed=seed), TEST_IMAGES, truth)
            for seed, truth in ((0, None), (1, labels), (2, labels))
        ]
    assert teacher.asked == before + 5
    assert [result.samples for result in results] == [5, 5, 5]
    assert (results[0].accuracy, results[0].teacher_accuracy) == (None, None)
    theirs = ordered_scores(TEST_IMAGES.values, WEIGHTS, torch.zeros(CLASSES)).argmax(1)
    assert results[1].teacher_accuracy == int((theirs == labels).sum()) / 5
    assert results[1].teacher_accuracy == results[2].teacher_accuracy


# Status


def test_status_of_a_run_in_flight(tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", []
    teacher = Counting(lambda number: seen.append(status(folder)))
    with opened(folder, teacher, budget=Budget(queries=5000)) as run:
        everything(run)
    total = 0
    for found, question in zip(seen, teacher.questions, strict=True):
        total += question
        assert found["queries"]["reserved"] == question
        assert found["queries"]["spent"] == total
        assert (found["queries"]["lost"], found["queries"]["budget"]) == (0, 5000)
    assert [seen[n]["stage"] for n in (0, 1, -2, -1)] == [
        "answers",
        "distances",
        "distances",
        "evaluate",
    ]
    assert seen[1]["stages"]["answers"] == {"shards": 1, "done": 1, "pending": 0}
    assert seen[1]["stages"]["distances"] == {"shards": 2, "done": 0, "pending": 2}
    assert seen[-1]["stages"]["distances"] == {"shards": 2, "done": 2, "pending": 0}
    assert len(seen[-1]["students"]) == 1
    assert seen[-1]["figures"] == []


def test_status_between_the_stages(tmp_path: Path) -> None:
    folder, teacher = tmp_path / "run", Counting()
    with opened(folder, teacher) as run:
        assert status(folder)["stage"] == "answers"
        run.answers(IMAGES)
        assert status(folder)["stage"] == "distances"
        transfer = run.label(IMAGES, SEARCH)
        assert status(folder)["stage"] == "distill"
        student = run.distill(network(), transfer, TRAINING)
        assert status(folder)["stage"] == "distill"
        run.evaluate(student, TEST_IMAGES)
    assert status(folder)["stage"] == "done"


def test_status_after_a_process_died(tmp_path: Path) -> None:
    folder, teacher = tmp_path / "run", dying(20, RuntimeError("gone"))
    with pytest.raises(RuntimeError), opened(folder, teacher) as run:
        everything(run)
    found = status(folder)["queries"]
    assert (found["spent"], found["reserved"]) == (teacher.asked, teacher.questions[20])
    second = Counting()
    second.before = lambda number: found.update(status(folder)["queries"])
    with opened(folder, second) as run:
        everything(run)
    assert found["lost"] == teacher.questions[20]


def test_status_of_a_finished_run(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    found = status(finished)
    assert found["stage"] == "done"
    assert found["queries"]["reserved"] == found["queries"]["lost"] == 0
    assert found["queries"]["budget"] is None
    assert found["stages"]["distances"] == {"shards": 2, "done": 2, "pending": 0}
    assert [figure["name"] for figure in found["figures"]] == ["student"]
    assert found["configuration"]["distances"]["queries"] == 22
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before
    with opened(finished, silent_teacher()) as run:
        everything(run)
    assert len(status(finished)["figures"]) == 1  # the same figure again is no other figure


def test_status_reads_again_what_changed_while_it_read(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = finished / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    place = max(n for n, line in enumerate(lines) if b'"stage": "distances"' in line)
    spent = status(finished)["queries"]["spent"]
    path.write_bytes(b"".join(lines[:place]))
    (finished / "distances" / "00001.tape").write_bytes(b"")
    real = db3kd.stages.accounts.Journal

    def meanwhile(*arguments: Any, **options: Any) -> Journal:
        found = real(*arguments, **options)
        path.write_bytes(b"".join(lines))  # the shard is finished after the journal was read
        (finished / "distances" / "00001.tape").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(db3kd.stages.accounts, "Journal", meanwhile)
    assert status(finished)["queries"]["spent"] == spent


def test_status_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no run in"):
        status(tmp_path)
    (tmp_path / "journal.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match="has not begun"):
        status(tmp_path)


# Progress


def test_progress_rises_to_its_total(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int, float]]] = {}

    def note(stage: str, done: int, total: int, figures: Any) -> None:
        seen.setdefault(stage, []).append((done, total, figures.get("queries", 0.0)))

    with opened(tmp_path / "run", Counting(), progress=note) as run:
        everything(run)
    assert list(seen) == ["answers", "distances", "student-0", "evaluate"]
    for reports in seen.values():
        assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)
        assert [queries for *_, queries in reports] == sorted(queries for *_, queries in reports)
        assert reports[-1][0] == reports[-1][1]
        assert len({total for _, total, _ in reports}) == 1


def test_progress_of_what_costs_nothing_counts_samples(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def note(stage: str, done: int, total: int, figures: Any) -> None:
        if stage == "distances":
            seen.append((done, total))

    with opened(tmp_path / "run", Counting(), progress=note) as run:
        run.label(IMAGES, Search(metric="sd"))
    assert seen[0] == (0, len(IMAGES))
    assert seen[-1] == (len(IMAGES), len(IMAGES))
