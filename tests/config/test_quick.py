"""A quick look bounds what takes long, touches nothing else, and never makes anything larger."""

from pathlib import Path

import msgspec
import pytest

from db3kd.config.quick import PER_IMAGE, PSEUDO, SAMPLES, STEPS, most_images, quick
from db3kd.config.reading import read_recipe, resolved
from db3kd.config.recipe import Recipe

TEXT = """\
run = "runs/x/"
[data]
train = "mnist"
[teacher]
kind = "network"
network = "lenet5"
weights = "t.safetensors"
training = { steps = 5000 }
[student]
network = "lenet5"
"""
WITHOUT_DATA = TEXT.replace("train = ", "test = ").replace("[teacher]", "[teacher]\ndata = 'mnist'")


@pytest.fixture
def read(tmp_path: Path):
    def recipe(*overrides: str, text: str = TEXT) -> Recipe:
        path = tmp_path / "r.toml"
        path.write_text(text)
        return read_recipe(path, overrides)

    return recipe


def test_a_quick_look_is_bounded_and_has_a_folder_of_its_own(read):
    usual, look = read("student.seeds=[3, 4]"), read("student.seeds=[3, 4]", "quick=true")
    assert not usual.quick
    assert look.quick
    assert look.run == "runs/x-quick"
    assert look.student.seeds == (3,)
    assert look.student.training.steps == STEPS
    assert (look.grow.members, look.grow.rounds, look.grow.candidates) == (1, 2, 2)
    assert look.label.members == 1
    assert (look.spend.per_image, look.spend.trial) == (PER_IMAGE, 0)
    assert (look.teacher, look.budget, look.data) == (usual.teacher, usual.budget, usual.data)


@pytest.mark.parametrize(
    "methods",
    ["['auto', 'ce']", "['grown']", "['mbd']", "['mixed']", "['sd', 'bd']"],
)
def test_every_method_has_a_quick_look_that_is_a_recipe(read, methods):
    more = ["label.strategy=rows", "label.checkpoints=[50, 900]"] if "bd'" in methods else []
    if methods == "['mbd']":
        more = []
    look = read("quick=true", f"student.methods={methods}", *more)
    assert msgspec.convert(resolved(look), Recipe) == look
    assert quick(look) == look  # bounding again changes nothing


def test_without_own_images_there_are_few_pseudo_samples(read):
    for way in ("chosen", "ascent"):
        look = read("quick=true", f"synthesis.way={way}", text=WITHOUT_DATA)
        synthesis = look.synthesis
        assert (synthesis.queries, synthesis.rounds, synthesis.members) == (PSEUDO, 3, 1)
        assert (synthesis.ensemble_labels, synthesis.ascent.samples) == (0, 100)
        assert msgspec.convert(resolved(look), Recipe) == look


def test_what_is_small_already_stays(read):
    small = (
        "student.training.steps=10",
        "grow.rounds=1",
        "grow.candidates=1",
        "data.samples=2000",
        "spend.per_image=3",
        "synthesis.rounds=1",
        "synthesis.queries=9",
    )
    look = read(*small, "quick=true")
    assert look.student.training.steps == 10
    assert (look.grow.rounds, look.grow.candidates, look.spend.per_image) == (1, 1, 3)
    assert (look.synthesis.rounds, look.synthesis.queries) == (1, 9)
    assert look.data.samples == 2000  # the recipe says how many


def test_a_plan_never_outgrows_the_budget(read):
    least = SAMPLES * (1 + PER_IMAGE) + SAMPLES
    assert read("quick=true", f"budget.queries={least - 1}").spend.per_image is None
    assert read("quick=true", f"budget.queries={least}").spend.per_image == PER_IMAGE
    few = PSEUDO + SAMPLES - 1
    look = read("quick=true", f"budget.queries={few}", text=WITHOUT_DATA)
    assert look.synthesis.queries is None
    look = read("quick=true", f"budget.queries={few + 1}", text=WITHOUT_DATA)
    assert look.synthesis.queries == PSEUDO


@pytest.mark.parametrize(
    ("budget", "price", "queries", "money", "images"),
    [
        ("queries = 5000", "", 500, None, 125),
        ("", "", 1000, None, 250),
        ("queries = 5000\nmoney = 2.0", "price = { per_1000 = 1.0 }", 200, 0.2, 50),
        ("queries = 7", "", 1, None, 1),
    ],
)
def test_a_quick_look_spends_a_tenth_of_a_remote_budget(
    tmp_path: Path, budget: str, price: str, queries: int, money: float | None, images: int
) -> None:
    file = tmp_path / "r.toml"
    file.write_text(
        f'run = "runs/a"\nquick = true\n[budget]\n{budget}\n'
        '[data]\ntrain = "photos"\nsamples = 400\n'
        f'[student]\nnetwork = "small"\n[teacher]\nkind = "remote"\n{price}\n'
        '[teacher.remote]\nurl = "https://example.org"\nprotocol = "raw"\n'
    )
    look = read_recipe(file)
    assert (look.budget.queries, look.budget.money) == (queries, money)
    assert look.data.samples == most_images(look) == images
    assert look.data.test_samples is None
