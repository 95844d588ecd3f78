from dataclasses import replace as fields_replaced
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from small_task import FEW, SHORT, Killed, digits, identical, score, student, task

from db3kd.paper.baselines.born_again import Settings, born_again, settings
from db3kd.paper.task import Task
from db3kd.student import predict
from db3kd.student.files import load_network, read_tensors

ONE = Settings(generations=1)


def test_each_generation_has_new_weights_and_the_last_is_returned(tmp_path: Path) -> None:
    last = born_again(task(tmp_path), Settings(generations=2))
    names = {file.stem for file in tmp_path.glob("*.safetensors") if "scores" not in file.stem}
    assert names == {"generation 0", "generation 1", "student"}
    first, second = (
        load_network(tmp_path / f"generation {k}.safetensors", student(0)).eval() for k in (0, 1)
    )
    assert not identical(first, second)
    assert identical(last, load_network(tmp_path / "student.safetensors", student(0)))
    assert min(score(each) for each in (first, second, last)) > 0.4
    images = task(tmp_path).known.images.read(torch.arange(240))
    kept = read_tensors(tmp_path / "scores of generation 1 0.safetensors")[0]["answers"]
    assert torch.allclose(kept, second(images), atol=1e-5)


def test_a_stop_between_generations_changes_nothing(tmp_path: Path) -> None:
    wanted = settings("cifar100", "smoke")
    whole = born_again(task(tmp_path / "whole", FEW), wanted)
    made: list[int] = []

    def stopping(seed: int) -> torch.nn.Module:
        made.append(seed)
        if len(made) == 2:
            raise Killed
        return student(seed)

    samples = digits()[0].select(torch.arange(240))
    with pytest.raises(Killed):
        born_again(Task(samples, 10, stopping, FEW, 1, tmp_path / "stopped"), wanted)
    assert identical(whole, born_again(task(tmp_path / "stopped", FEW), wanted))


def test_three_generations_are_published() -> None:
    assert settings("cifar100", "full") == settings("cifar100", "cpu") == Settings(3)


def test_a_generation_believes_the_one_before(tmp_path: Path) -> None:
    lying = task(tmp_path)
    labels = torch.full_like(lying.known.labels, 3)
    born_again(fields_replaced(lying, known=fields_replaced(lying.known, labels=labels)), ONE)
    (tmp_path / "student.safetensors").unlink()
    soft_alone = task(tmp_path, replace(SHORT, label_weight=0.0))
    answers = predict(born_again(soft_alone, ONE), lying.known.images, device="cpu")
    assert float((answers == 3).float().mean()) > 0.9
