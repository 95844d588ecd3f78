"""Many classes: what a shard holds is bounded by bytes, and folders that have begun keep theirs."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from db3kd.config.settings import Budget, Search
from db3kd.data import TensorImages
from db3kd.errors import BudgetExhausted, ConfigurationDiffers
from db3kd.run import Run
from db3kd.search import rows
from db3kd.search.joint import loop, plan, points
from db3kd.search.joint.rounds import LEAST
from db3kd.stages import ahead, distances
from db3kd.stages.accounts import status
from db3kd.storage.journal import Journal
from db3kd.teachers import function
from db3kd.teachers.base import Teacher

CLASSES, SHAPE, SAMPLES = 300, (1, 16, 16), 30
IMAGE = 4 * 256
JOINT = Search(per_image=12, surrogate="none", references=2)


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor of numbers that is made, in bytes."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.untyped_storage().size():
            self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return made


def linear() -> Teacher:
    weights = torch.randn(256, CLASSES, generator=torch.Generator().manual_seed(0))
    return function(lambda x: ((x.flatten(1) - 0.5) @ weights).argmax(1), classes=CLASSES)


def images() -> TensorImages:
    return TensorImages(torch.rand(SAMPLES, *SHAPE, generator=torch.Generator().manual_seed(1)))


def kept(folder: Path) -> dict[str, str]:
    files = [file for stage in ("rounds", "distances") for file in (folder / stage).iterdir()]
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


def sizes(folder: Path) -> list[int]:
    journal = Journal(folder / "journal.jsonl", read_only=True)
    return [r["samples"] for r in journal.all("shard") if r["stage"] == "distances"]


@pytest.mark.parametrize(
    "search",
    [JOINT, Search(strategy="rows", queries=3, references=2), Search(metric="sd", references=2)],
    ids=["joint", "rows", "sd"],
)
def test_no_tensor_has_pixels_of_every_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Search
) -> None:
    some = 64 * IMAGE
    monkeypatch.setattr(distances, "MOST_BYTES", 0)  # so that no points are kept to be shown
    monkeypatch.setattr(points, "AT_ONCE_BYTES", some)
    monkeypatch.setattr(rows, "ROW_BYTES", some)
    with Run(tmp_path / "run", linear(), budget=Budget(queries=10**6)) as run:
        run.answers(images())
        with Largest() as largest:
            run.measure(images(), search)
        sd, mbd = run.distances("sd"), run.distances(search.metric)
    assert bool((mbd.distance <= sd.distance).all())
    asked = SAMPLES * JOINT.per_image * IMAGE  # pixels of every query, which nothing needs at once
    assert some <= largest.bytes < asked < SAMPLES * CLASSES * IMAGE / 20


def test_queries_go_to_the_nearest_classes_alone(tmp_path: Path) -> None:
    with Run(tmp_path / "run", linear(), budget=Budget(queries=10**6)) as run:
        run.answers(images())
        run.measure(images(), JOINT)
        sd, mbd = run.distances("sd"), run.distances("mbd")
    asked = mbd.queries > 0
    assert int(mbd.queries.sum(1).max()) <= JOINT.per_image
    assert 0 < int(asked.sum(1).max()) <= -(-JOINT.per_image // LEAST)
    rank = sd.distance.argsort(dim=1, stable=True).argsort(dim=1)
    assert int(rank[asked].max()) <= -(-JOINT.per_image // LEAST)
    assert bool((mbd.distance < sd.distance)[asked].any())


@pytest.mark.parametrize("surrogate", ["none", "small"])
def test_a_small_shard_continues_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, surrogate: str
) -> None:
    search = Search(per_image=12, surrogate=surrogate, members=1, references=2)
    monkeypatch.setattr(plan, "LEAST_STEPS", 2)
    monkeypatch.setattr(plan, "MOST_STEPS", 2)
    monkeypatch.setattr(loop, "knows", lambda *_: True)
    # An image, 12 points and 12 rays of it, and 80 bytes a class are 49,600 bytes: 7 images.
    monkeypatch.setattr(plan, "SHARD_BYTES", 8 * 49_600 - 1)
    monkeypatch.setattr(plan, "PROBE_BYTES", 2 * 7 * 12 * 512)  # two shards of 7 take part
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with Run(whole, linear(), budget=Budget(queries=10**6)) as run:
        run.answers(images())
        run.measure(images(), search)
        spent = run.meter.spent
    assert sizes(whole) == [7, 7, 7, 7, 2]
    assert status(whole)["stages"]["rounds"]["shards"] == 2
    for budget in (*range(SAMPLES + 5, spent, 90), spent):
        with Run(cut, linear(), budget=Budget(queries=budget)) as run:
            run.answers(images())
            if budget < spent:
                with pytest.raises(BudgetExhausted):
                    run.measure(images(), search)
                assert run.meter.spent <= budget
                monkeypatch.setattr(plan, "SHARD_BYTES", 2**30)  # another version's
            else:
                run.measure(images(), search)
    assert kept(cut) == kept(whole)


def test_a_folder_that_has_begun_keeps_its_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run(tmp_path, linear(), budget=Budget(queries=SAMPLES + 100)) as run:
        run.answers(images())
        with pytest.raises(BudgetExhausted):
            run.measure(images(), JOINT)  # as earlier versions did, in one shard
    monkeypatch.setattr(plan, "SHARD_BYTES", 100_000)
    done = ahead.Done.of(Journal(tmp_path / "journal.jsonl", read_only=True))
    own = ahead.Images(SAMPLES, SHAPE, CLASSES)
    assert done.sizes == {"distances": 200}
    assert len(list(ahead.distances(own, JOINT, ahead.Done()))) == 2
    with Run(tmp_path, linear(), budget=Budget(queries=10**6)) as run:
        with pytest.raises(ConfigurationDiffers, match="shard"):
            run.measure(images(), Search(per_image=12, surrogate="none", references=2, shard=9))
        run.measure(images(), JOINT)
    assert sizes(tmp_path) == [SAMPLES]
