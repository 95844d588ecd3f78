"""What a student's file says of itself; files that others made are read with suspicion."""

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors.torch
import torch
from torch import nn

from db3kd.errors import Damaged, Db3kdError, InputError
from db3kd.student import Origin, StudentCard, load_network, load_student, save_network
from db3kd.student.networks import build

CARD = StudentCard(
    network="small",
    width=0.5,
    shape=(1, 8, 8),
    classes=("cat", "dog", "a\x1b[31mbird"),
    origin=Origin(method="ce", seed=3, samples=7, training={"rate": 0.1}, teacher={"file": "ab"}),
)


def network(seed: int = 0) -> nn.Module:
    return build("small", (1, 8, 8), 3, 0.5, seed=seed)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "student.safetensors"


def held(**changes: Any) -> dict[str, Any]:
    """The card as a table, with changes that a person of ill will makes."""
    return {**msgspec.to_builtins(CARD), **changes}


def forged(file: Path, metadata: str) -> Path:
    """A file of the right weights whose metadata are this text."""
    file.write_bytes(safetensors.torch.save(dict(network().state_dict()), {"db3kd": metadata}))
    return file


def test_a_file_says_what_it_is_and_is_loaded_by_that_alone(file: Path) -> None:
    save_network(file, network(5), CARD)
    assert StudentCard.of_file(file) == CARD
    student = load_student(file)
    assert (student.card, student.classes) == (CARD, CARD.classes)
    assert not student.training
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(student(images), network(5)(images))
    assert torch.equal(load_network(file, network())(images), student(images))


def test_equal_students_are_equal_files(tmp_path: Path) -> None:
    first, again, other = (tmp_path / f"{k}.safetensors" for k in range(3))
    save_network(first, network(), CARD)
    time.sleep(0.01)
    save_network(again, network(), CARD)
    save_network(other, network(), msgspec.structs.replace(CARD, classes=3))
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_numbers_stand_for_classes_without_names(file: Path) -> None:
    save_network(file, network(), msgspec.structs.replace(CARD, classes=3))
    assert load_student(file).classes == ("0", "1", "2")


def test_a_card_that_was_altered_differs_from_its_checksum(file: Path) -> None:
    save_network(file, network(), CARD)
    file.write_bytes(file.read_bytes().replace(b"cat", b"cow"))
    with pytest.raises(Damaged, match="checksum"):
        StudentCard.of_file(file)


def test_a_file_of_an_earlier_version_says_what_is_missing(file: Path) -> None:
    save_network(file, network())
    assert isinstance(load_network(file, network()), nn.Module)
    with pytest.raises(InputError, match="holds weights alone: it does not say which network"):
        load_student(file)


def test_a_file_of_another_program_says_what_is_missing(file: Path) -> None:
    safetensors.torch.save_file(dict(network().state_dict()), file)
    with pytest.raises(InputError, match="holds weights alone"):
        load_student(file)


def test_a_card_that_cannot_be_is_not_written(file: Path) -> None:
    with pytest.raises(InputError, match="'cat' twice"):
        save_network(file, network(), msgspec.structs.replace(CARD, classes=("cat", "cat")))
    assert not file.exists()


HOSTILE: dict[str, Any] = {
    "a billion classes": held(classes=10**9),
    "many classes": held(classes=100_000),
    "a name that is none": held(classes=["cat", 7, "dog"]),
    "one name": held(classes=["cat"]),
    "a name twice": held(classes=["cat", "cat", "dog"]),
    "other names than weights": held(classes=["cat", "dog"]),
    "no shape": held(shape=[1, 8]),
    "a giant image": held(shape=[1, 10**9, 10**9]),
    "a large image": held(shape=[3, 8192, 8192]),
    "a wide network": held(width=1000.0),
    "no number": held(width=float("nan")),
    "a network that nobody knows": held(network="small\x1b[31m" * 9),
    "a network that is a list": held(network=["small"]),
    "two networks": held(timm="resnet18"),
    "a timm model of the hub": held(network=None, timm="hf-hub:owner/model"),
    "code": held(network=None, factory="os:abort"),
    "other images": held(input="float64"),
    "a table": {},
    "a list": [],
    "a text": "card",
    "an origin that is none": held(origin=7),
    "a seed that is none": held(origin={"seed": -1}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_card_is_refused_in_one_sentence(what: str, file: Path) -> None:
    resource = pytest.importorskip("resource", reason="how much memory was taken is POSIX")
    known = {"format": "db3kd student 1", "card": HOSTILE[what]}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        load_student(forged(file, json.dumps(known)))
    text = str(caught.value)
    assert text.startswith(str(file))
    assert text.isprintable()
    assert len(text) < 700
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "metadata",
    [
        "[" * 100_000,
        '{"format": "db3kd student 1", "card": ' + '{"shape":' * 100_000,
        '{"format": "db3kd student 1", "card": ' + "[" * 900 + "]" * 900 + "}",
        '{"format": "db3kd student 2"}',
        '{"format": 7}',
        "[1]",
        '"ab"',
        "7",
        "null",
        "\x00",
        '{"sha256": {}}',
    ],
)
def test_metadata_that_cannot_be_are_refused_in_one_sentence(metadata: str, file: Path) -> None:
    with pytest.raises(Db3kdError) as caught:
        load_student(forged(file, metadata))
    assert str(caught.value).startswith(str(file))
    assert len(str(caught.value)) < 500


def test_a_newer_file_says_so(file: Path) -> None:
    with pytest.raises(InputError, match="a newer db3kd may have written it: pip install"):
        load_student(forged(file, '{"format": "db3kd student 2", "card": {"whatever": 1}}'))


def test_what_a_newer_card_adds_is_let_pass(file: Path) -> None:
    known = {"format": "db3kd student 1", "card": held(more={"deep": [1]})}
    assert load_student(forged(file, json.dumps(known))).card == CARD


def test_code_that_a_file_names_is_not_run(file: Path, tmp_path: Path) -> None:
    card = StudentCard(factory="os:abort", shape=(1, 8, 8), classes=3)
    save_network(file, network(), card)
    with pytest.raises(InputError, match=r"by code of your own \(os:abort\), and no code"):
        load_student(file)
    student = load_student(file, factory=network)  # what the caller names, and nothing else
    assert student.classes == ("0", "1", "2")
    with pytest.raises(InputError, match="its weights are not those of the factory '<lambda>'"):
        load_student(file, factory=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))


def test_a_factory_is_of_no_use_for_a_network_of_the_table(file: Path) -> None:
    save_network(file, network(), CARD)
    with pytest.raises(InputError, match="it is the network 'small', so a factory is of no use"):
        load_student(file, factory=network)


def test_a_file_of_another_kind_is_told_as_such(tmp_path: Path) -> None:
    other = tmp_path / "recipe.toml"
    other.write_text("run = 'runs/a'")
    with pytest.raises(Damaged, match=r"recipe\.toml cannot be read as safetensors .*if a run"):
        load_student(other)
