"""A run that searches all classes at once: accounts, surrogates, and what a stop changes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import db3kd.search.joint.plan as stages
import db3kd.search.joint.rounds as joint
from closed_form import prototypes
from db3kd.config.settings import Budget, Search, paper
from db3kd.data import TensorImages
from db3kd.errors import BudgetExhausted, ConfigurationDiffers, Damaged, InputError
from db3kd.run import Run
from db3kd.search.joint import loop
from db3kd.search.joint.asked import Asked
from db3kd.search.joint.front import Front
from db3kd.search.joint.in_memory import measure_jointly
from db3kd.search.robustness import References, choose_references
from db3kd.seeds import derive_seed
from db3kd.stages import rounds
from db3kd.stages.accounts import status
from db3kd.storage.journal import Journal
from db3kd.teachers import function

CORNERS = torch.eye(16)[:4] * 3
TOGETHER = Search(strategy="joint", per_image=36, members=1, shard=10, references=5)


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LEAST_STEPS", 40)
    monkeypatch.setattr(stages, "MOST_STEPS", 40)


def images(count: int = 30) -> TensorImages:
    draw = torch.Generator().manual_seed(0)
    flat = CORNERS.repeat(count, 1)[:count] + 0.3 * torch.randn(count, 16, generator=draw)
    return TensorImages(flat.reshape(-1, 1, 4, 4))


class Counting:
    """A teacher of four prototypes that counts what it is really shown."""

    def __init__(self) -> None:
        self.teacher, self.asked = prototypes(CORNERS), 0
        self.classes, self.bounds = self.teacher.classes, self.teacher.bounds

    def labels(self, images: Tensor, /) -> Tensor:
        self.asked += len(images)
        return self.teacher.labels(images)


def run(folder: Path, search: Search = TOGETHER, **others: object) -> tuple[Tensor, int]:
    teacher = Counting()
    with Run(folder, teacher, **others) as opened:  # type: ignore[arg-type]
        opened.measure(images(), search)
        mbd = opened.distances("mbd")
        assert int(mbd.queries.sum()) + 30 == opened.meter.spent
        assert int(mbd.queries.sum(1).max()) <= search.per_image
        assert bool((mbd.distance <= opened.distances("sd").distance).all())
    return mbd.distance, teacher.asked


def test_the_accounts_balance_and_running_again_asks_nothing(tmp_path: Path) -> None:
    distance, asked = run(tmp_path)
    assert 30 < asked <= 30 + 30 * TOGETHER.per_image
    again, more = run(tmp_path)
    assert (more, torch.equal(distance, again)) == (0, True)
    assert status(tmp_path)["stages"]["rounds"] == {"shards": 9, "done": 9, "pending": 0}


def test_a_run_that_stops_and_goes_on_ends_the_same(tmp_path: Path) -> None:
    whole, asked = run(tmp_path / "whole")
    total, budget = 0, 30
    while True:
        teacher = Counting()
        try:
            with Run(tmp_path / "cut", teacher, budget=Budget(queries=budget)) as opened:
                opened.measure(images(), TOGETHER)
                found = opened.distances("mbd").distance
            total += teacher.asked
            break
        except BudgetExhausted:
            total += teacher.asked
            assert total <= budget
            budget += 77
    assert total == asked
    assert torch.equal(found, whole)


def test_a_lost_lesson_is_given_again(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole")
    with pytest.raises(BudgetExhausted):
        run(tmp_path / "cut", budget=Budget(queries=800))
    lessons = sorted((tmp_path / "cut" / "rounds").glob("surrogate-*.safetensors"))
    assert lessons
    lessons[-1].unlink()
    found, _ = run(tmp_path / "cut")
    assert torch.equal(found, whole)


@pytest.mark.parametrize("useful", [0.05, 0.9])
def test_a_run_finds_what_the_search_in_memory_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, useful: float
) -> None:
    """Also where a surrogate is given up; one shard, so that all images ask together."""
    monkeypatch.setattr(loop, "USEFUL", useful)
    search, own = Search(**{**_plain(TOGETHER), "shard": 30}), images()
    with Run(tmp_path, Counting(), seed=7) as opened:
        opened.measure(own, search)
        found, answers = opened.distances("mbd"), opened.answers(own)
    rows, rejected = choose_references(
        answers,
        classes=4,
        per_class=search.references,
        generator=torch.Generator().manual_seed(derive_seed(7, "references")),
    )
    values = own.read(torch.arange(len(own)))
    memory = measure_jointly(
        prototypes(CORNERS),
        values,
        answers,
        References(values[rows], answers[rows], rejected),
        search,
        pool=own,
        answers=answers,
        seed=7,
    )
    assert torch.equal(memory.distance, found.distance)
    assert torch.equal(memory.queries, found.queries.long())


def test_shards_that_no_lesson_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "PROBE_BYTES", 10 * 36 * 16 * 2)
    run(tmp_path)
    assert status(tmp_path)["stages"]["rounds"]["shards"] == 3  # one shard, three rounds
    assert status(tmp_path)["queries"]["by_stage"]["distances"] > 0


def test_references_alone(tmp_path: Path) -> None:
    search = Search(strategy="joint", per_image=36, surrogate="none", shard=10, references=5)
    run(tmp_path, search)
    journal = Journal(tmp_path / "journal.jsonl", read_only=True)
    assert not list(journal.all("surrogate"))


def test_answers_that_cannot_be_learned_leave_the_references(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "MOST_STEPS", 2)  # of more, 30 images are learned by heart
    monkeypatch.setattr(stages, "LEAST_STEPS", 2)

    def odd(shown: Tensor) -> Tensor:
        return (shown.flatten(1).sum(1) * 1e4).long() % 4

    teacher = function(odd, classes=4, bounds=(-50.0, 50.0))
    search = Search(strategy="joint", per_image=36, members=1, shard=10, references=5)
    with Run(tmp_path, teacher) as opened:
        opened.measure(images(), search)
        assert opened.meter.spent <= 30 * 37
    assert "references alone" in caplog.text


def test_another_surrogate_needs_another_folder(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ConfigurationDiffers, match="members: 1 -> 2"):
        run(tmp_path, Search(**{**_plain(TOGETHER), "members": 2}))


def _plain(search: Search) -> dict[str, object]:
    return {name: getattr(search, name) for name in search.__struct_fields__}


@pytest.mark.parametrize(
    ("change", "words"),
    [({"surrogate": "lenet6"}, "lenet6"), ({"checkpoints": (5,)}, "checkpoints")],
)
def test_what_does_not_go_together_is_said_before_anything_is_bought(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as opened, pytest.raises(InputError, match=words):
        opened.measure(images(), Search(**{**_plain(TOGETHER), **change}))
    assert teacher.asked == 0


def test_the_default_search_is_together_and_keeps_within_its_price_for_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Search() == Search(strategy="joint", per_image=300)
    assert paper().strategy == "rows"
    monkeypatch.setattr(joint, "MOST_ROUNDS", 2)  # eight take as many lessons
    teacher = Counting()
    with Run(tmp_path, teacher) as opened:
        transfer = opened.label(images(12))
        mbd, sd = opened.distances("mbd"), opened.distances("sd")
        by_stage = opened.meter.by_stage
        rounds = [record for record in opened.journal.all("shard") if record["stage"] == "rounds"]
        assert by_stage["answers"] + int(mbd.queries.sum()) == teacher.asked == opened.meter.spent
        with pytest.raises(InputError, match="measured 'mbd', not 'bd'; set strategy = \"rows\""):
            opened.distances("bd")
    assert by_stage["answers"] == 12
    assert by_stage["rounds"] > 0
    assert 0 < int(mbd.queries.sum(1).max()) <= 300  # and one for its own answer
    assert transfer.soft is not None
    assert transfer.soft.shape == (12, 4)
    # Nearer than the references by far, and the time of the rounds is the label's.
    assert float(mbd.distance.sum()) < 0.6 * float(sd.distance.sum())
    assert mbd.seconds >= sum(record["wall_s"] for record in rounds) > 0


def test_queries_a_class_are_refused_where_they_would_be_ignored(tmp_path: Path) -> None:
    teacher = Counting()
    with Run(tmp_path, teacher) as opened:
        with pytest.raises(InputError, match="queries = 20 counts for each class, row by row"):
            opened.label(images(), Search(queries=20))
        assert teacher.asked == 0
        opened.label(images(), Search(queries=20, strategy="rows"))
        assert teacher.asked <= 30 + 30 * 3 * 20


def test_images_too_small_for_a_surrogate_cost_nothing(tmp_path: Path) -> None:
    tiny = TensorImages(torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    bright = function(lambda some: some.flatten(1)[:, 0] > 0.5, classes=2)
    with Run(tmp_path, bright) as opened:
        with pytest.raises(InputError, match="2 x 2 pixels are too small for a surrogate"):
            opened.measure(tiny)
        assert opened.meter.spent == 0


def as_before(front: Front, asked: Asked, bounds: tuple[float, float]) -> dict[str, Tensor]:
    """What a shard of a round had until December 2026."""
    columns = {name: getattr(front, name) for name in ("distance", "spent", "tried")}
    columns["point"] = front.point.all()
    called = {"called": asked.answers.int(), "asking": asked.sample.int()}
    return columns | called | {"probes": asked.probes(front.origin, bounds).half()}


def test_shards_of_earlier_versions_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "knows", lambda *_: True)
    monkeypatch.setattr(loop, "USEFUL", 0.0)  # all rounds are the surrogate's
    whole, asked = run(tmp_path / "whole")
    teacher = Counting()
    with (
        monkeypatch.context() as patch,
        Run(tmp_path / "old", teacher, budget=Budget(queries=800)) as opened,
    ):
        patch.setattr(rounds, "_tensors_of", as_before)
        with pytest.raises(BudgetExhausted):
            opened.measure(images(), TOGETHER)
    old = [file.stem for file in (tmp_path / "old" / "rounds").glob("0*.safetensors")]
    assert 3 < len(old) < 9  # a whole round and a part of the next
    found, more = run(tmp_path / "old")
    assert torch.equal(found, whole)
    assert teacher.asked + more == asked
    with (
        Run(tmp_path / "old", Counting()) as mixed,
        Run(tmp_path / "whole", Counting()) as plain,
    ):
        one, other = mixed.probes(images()), plain.probes(images())
        pixels = torch.arange(len(one))
        assert torch.equal(one.teacher_labels, other.teacher_labels)
        torch.testing.assert_close(
            one.images.read(pixels), other.images.read(pixels), rtol=1e-3, atol=1e-3
        )


def test_a_round_takes_fewer_bytes_than_its_probes(tmp_path: Path) -> None:
    _, asked = run(tmp_path)
    shards = sorted((tmp_path / "rounds").glob("0*.safetensors"))
    kept = [load_file(shard) for shard in shards]
    probes = sum(len(part["ray"]) for part in kept)
    assert 0 < probes <= asked
    assert {name for part in kept for name in part} == {*rounds.FRONT, *rounds.ASKED, "checksum"}
    assert all(part["direction"].dtype == torch.half for part in kept)
    assert sum(len(part["direction"]) for part in kept) <= probes


def test_probes_that_come_out_otherwise_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BudgetExhausted):
        run(tmp_path, budget=Budget(queries=800))
    monkeypatch.setattr(rounds, "as_seen", lambda images, bounds: images + 1e-6)
    with pytest.raises(Damaged, match="cannot be made again"):
        run(tmp_path)
