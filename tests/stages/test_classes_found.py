"""Runs whose classes are found: the same after a kill, under other names, and as if known."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from db3kd import networks
from db3kd.config.settings import Grow, Search, Synthesis, Training
from db3kd.data import TensorImages
from db3kd.errors import InputError
from db3kd.run import Run
from db3kd.stages.executor import InThisProcess
from db3kd.synthesis.chosen import Chosen, Made
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.way import Task
from db3kd.teachers import function
from db3kd.teachers.base import met_of

SHAPE, STEPS = (1, 8, 8), Training(steps=3)
Namer = Callable[[Tensor], list[str]]


def called(images: Tensor) -> list[str]:
    """Three classes by brightness."""
    return [["dark", "grey", "bright"][min(2, int(3 * m))] for m in images.flatten(1).mean(1)]


def renamed(images: Tensor) -> list[str]:
    return [word.upper() for word in called(images)]


def dying(after: int) -> Namer:
    """The same teacher, killed at some question."""
    left = [after]

    def ask(images: Tensor) -> list[str]:
        left[0] -= len(images)
        if left[0] < 0:
            raise KeyboardInterrupt
        return called(images)

    return ask


def own(count: int = 24) -> TensorImages:
    draw = torch.Generator().manual_seed(0)
    levels = torch.linspace(0.05, 0.6, count).reshape(-1, 1, 1, 1)
    return TensorImages((levels + 0.1 * torch.rand(count, *SHAPE, generator=draw)).clamp(0, 1))


PSEUDO = Synthesis(way="shapes", queries=60, rounds=3, shard=20)


def known(run: Run) -> tuple[str, ...]:
    """The names met so far."""
    met = met_of(run.meter)
    assert met is not None
    return met


def content(run: Run) -> dict[str, bytes]:
    return {
        str(path.relative_to(run.folder)): path.read_bytes()
        for path in sorted(run.folder.rglob("*.safetensors"))
    }


def made(folder: Path, ask: Namer) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Pseudo samples, asked in questions of 7."""
    with Run(folder, function(ask, batch=7)) as run:
        run.synthesize(SHAPE, PSEUDO)
        return content(run), known(run)


def test_classes_are_the_same_after_a_kill_and_under_other_names(tmp_path: Path) -> None:
    shards, names = made(tmp_path / "whole", called)
    assert sorted(names) == ["bright", "dark", "grey"]
    for after in (3, 12, 30):
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / f"{after}", dying(after))
        assert made(tmp_path / f"{after}", called) == (shards, names)
    other, upper = made(tmp_path / "upper", renamed)
    assert (other, upper) == (shards, tuple(map(str.upper, names)))


def test_a_journal_that_lost_its_last_line_still_has_the_names(tmp_path: Path) -> None:
    with Run(tmp_path, function(called)) as run:
        run.answers(own())
        names = known(run)
    path = tmp_path / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "classes")
    path.write_text("".join(lines[:last]) + lines[last][:-5])
    with Run(tmp_path, function(called)) as run:
        assert known(run) == names


SEARCHES = [Search(strategy="rows", queries=20, shard=12), Search(per_image=12, surrogate="none")]


@pytest.mark.parametrize("search", SEARCHES)
def test_distances_are_as_if_the_classes_were_known(tmp_path: Path, search: Search) -> None:
    with Run(tmp_path / "found", function(called)) as run:
        run.measure(own(), search)
        found, names = run.distances("mbd"), known(run)
        transfer = run.transfer_set(own(), "mbd")
    with Run(tmp_path / "known", function(called, classes=names, unknown="drop")) as run:
        run.measure(own(), search)
        theirs = run.distances("mbd")
        wanted = run.transfer_set(own(), "mbd")
    count = len(names)
    torch.testing.assert_close(found.distance[:, :count], theirs.distance[:, :count])
    assert bool(found.distance[:, count:].isinf().all())
    assert transfer.soft is not None
    assert wanted.soft is not None
    torch.testing.assert_close(transfer.soft, wanted.soft[:, :count])


def test_a_class_that_appears_at_the_last_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tests = TensorImages(torch.cat([own(6).read(torch.arange(6)), torch.full((2, *SHAPE), 0.9)]))
    with Run(tmp_path, function(called)) as run:
        run.answers(own())
        names, transfer = known(run), run.transfer_set(own(), "ce")
        network = networks.build("small", SHAPE, len(names), seed=0)
        run.distill(network, transfer, STEPS, seed=0, name="ce")
        found = run.evaluate(network, tests, name="ce", seed=0)
        assert known(run) == (*names, "bright")
        assert found.samples == 8
        assert found.agreement <= 6 / 8
        again = run.transfer_set(own(), "ce")
        assert again.labels.tolist() == transfer.labels.tolist()
    assert "2 test images are of classes" in caplog.text
    assert "'bright'" in caplog.text


def test_grown_images_name_more_classes(tmp_path: Path) -> None:
    few = TensorImages(own().read(torch.arange(10)))
    seen = [0]

    def later(images: Tensor) -> list[str]:
        seen[0] += len(images)
        return [w if seen[0] <= 10 or n % 5 else "new" for n, w in enumerate(called(images))]

    grow = Grow(per_image=2, rounds=2, shard=10, choose="random")
    with Run(tmp_path, function(later)) as run:
        run.grow(few, grow)
        transfer = run.transfer_set(few, "grown")
        assert known(run)[int(transfer.labels.max())] == "new"


def test_one_class_alone_is_said(tmp_path: Path) -> None:
    with Run(tmp_path, function(lambda images: ["cat"] * len(images))) as run:
        run.answers(own())
        with pytest.raises(InputError, match=r"calls all images 'cat'.*two classes"):
            run.transfer_set(own(), "ce")


def test_nothing_but_unknown_is_said(tmp_path: Path) -> None:
    with Run(tmp_path, function(lambda images: [None] * len(images))) as run:
        run.answers(own())
        with pytest.raises(InputError, match="nothing to learn from"):
            run.transfer_set(own(), "ce")


@pytest.mark.parametrize("way", ["ascent", "dfms"])
def test_a_way_that_aims_at_classes_is_refused_before_it_asks(tmp_path: Path, way: str) -> None:
    with Run(tmp_path, function(called)) as run:
        settings = Synthesis(way=way, queries=20, surrogate="small")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="take another way"):
            run.synthesize(SHAPE, settings)
        assert run.meter.spent == 0


def test_labels_by_number_are_refused(tmp_path: Path) -> None:
    with (
        Run(tmp_path, function(called)) as run,
        pytest.raises(InputError, match="leave the labels out"),
    ):
        run.transfer_set(own(), "ce", labels=torch.zeros(24, dtype=torch.int64))


class Apart(InThisProcess):
    """As one that has other processes."""

    apart = True


def test_classes_are_found_by_one_process_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one process alone"):
        Run(tmp_path, function(called), executor=Apart())


def test_a_class_that_students_do_not_see_is_sought() -> None:
    """Students take all for class 0; descendants of the only image of class 1 are asked."""
    teacher = function(called)
    pool = Pool(200, SHAPE, teacher, eight_bit=False)
    pool.add(torch.zeros(60, *SHAPE), (torch.arange(60) == 59).long())
    pool.allow(1)

    def source(pool: Pool, before: int, count: int, children: int, draw: object) -> Made:
        images = torch.zeros(count, *SHAPE)
        images[-1] = 1.0
        return Made(images, parents=torch.tensor([*[0] * (count - 1), 59]))

    def student(seed: int) -> torch.nn.Module:
        return _First()

    for finding, asked in ((True, 1.0), (False, 0.0)):
        pool.allow(2)
        task = Task(
            SHAPE,
            101,
            queries=200,
            device="cpu",
            student=student,
            members=1,
            lessons=[1],
            finding=finding,
        )
        Chosen(task, source, seed=0).spend(pool, seed=0, report=lambda *_: None)
        assert float(pool.values[-2:].amax()) == asked


class _First(torch.nn.Module):
    """A student that is sure of class 0, most of all where it is bright."""

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), 101)
        scores[:, 0] = 5 + 5 * images.flatten(1).mean(1)
        return scores
