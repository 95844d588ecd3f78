"""A look at a teacher before anything is spent, the accounts of its store, and every example."""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.torch
from remote_tools import Reply, Tiny, classify, concepts, levels_of, tiny_server

from conftest import Sandbox
from db3kd.config.reading import read_recipe
from db3kd.job import check as checkup
from db3kd.teachers.cached import Store
from servers import real

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TOKENS = {"MY_TOKEN": "tell-nobody-1", "MY_KEY": "tell-nobody-2"}
RECIPE = """run = "run"
[data]
train = "{digits}"
[teacher]
kind = "remote"
price = {{ per_1000 = 10.0, currency = "EUR" }}
[teacher.remote]
url = "{url}"
protocol = "oip"
model = "digits"
encoding = {{ kind = "uint8", layout = "flat" }}
[spend]
per_image = 4
[student]
network = "small"
"""


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    with tiny_server() as made:
        yield made


def look(sandbox: Sandbox, tiny: Tiny, *words: str) -> str:
    sandbox.write("far.toml", RECIPE.format(digits=sandbox.digits, url=tiny.url))
    done = sandbox.call(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_look_costs_what_it_says_and_leaves_no_run(tiny: Tiny, sandbox: Sandbox) -> None:
    found = json.loads(look(sandbox, tiny, "check", "far.toml", "--images", "10", "--json"))
    assert found["questions"] == len(tiny.asked()) == 10 + 10 + 3
    assert (found["images"], found["classes"], found["flips"]) == (10, 10, 0)
    assert found["rounding"] is None  # eight bits are all it ever sees
    assert found["queries"]["total"] == 30 + 30 * 4 + 50
    assert (found["money"], found["currency"]) == (2.0, "EUR")
    assert found["hours"] < 0.1
    assert not sandbox.run.exists()
    with Store(sandbox.folder / "answers.db3kd") as store:
        booked = store.books(run=f"check of {sandbox.run.resolve()}")["answered"]
        assert booked == store.books()["answered"] == 23
    before = len(tiny.asked())
    look(sandbox, tiny, "check", "far.toml", "--images", "10", "--json")
    assert len(tiny.asked()) - before == 13  # the first answers are known by now


def test_a_look_sees_flips_and_rounding(tiny: Tiny, sandbox: Sandbox) -> None:
    sandbox.write("far.toml", RECIPE.format(digits=sandbox.digits, url=tiny.url))
    turns = [0]

    def fickle(_: Mapping[str, str], body: bytes) -> Reply | None:
        turns[0] += 1
        asked = json.loads(body)
        [tensor] = asked["inputs"]
        count = tensor["shape"][0]
        fine = np.array(tensor["data"]).reshape(count, -1)
        whole = (np.rint(fine * 255) == fine * 255).all(1)  # knows rounded images from others
        said = [(turns[0] + bool(one)) % 10 for one in whole]
        output = {"name": "y", "datatype": "INT64", "shape": [count], "data": said}
        return 200, {}, json.dumps({"id": asked["id"], "outputs": [output]}).encode()

    tiny.special = fickle
    words = ["teacher.remote.encoding={kind='float32', layout='flat'}", "run=other/run"]
    recipe = read_recipe(sandbox.folder / "far.toml", [*words, f"run={sandbox.folder}/x/run"])
    found = checkup.check_teacher(recipe, images=8)
    assert found["flips"] == 8
    assert found["rounding"] is not None
    assert found["questions"] == 8 + 8 + 3 + 16


def test_the_text_for_people(tiny: Tiny, sandbox: Sandbox) -> None:
    text = look(sandbox, tiny, "check", "far.toml")
    assert "16 images were asked, in 35 questions" in text
    assert "0 of 16 answers differed" in text
    assert "here, and costs at most 200 queries, 2.00 EUR:" in text


def test_answers_go_out_and_come_in(tiny: Tiny, sandbox: Sandbox) -> None:
    text = look(sandbox, tiny, "check", "far.toml", "--images", "12")
    text = look(sandbox, tiny, "answers", "far.toml", "--export", "out.parquet")
    assert "exported      12" in text
    assert pyarrow.parquet.read_table(sandbox.folder / "out.parquet").num_rows == 12
    (sandbox.folder / "answers.db3kd").unlink()
    text = look(sandbox, tiny, "answers", "far.toml", "--import", "out.parquet")
    assert "new           12" in text
    before = len(tiny.asked())
    look(sandbox, tiny, "check", "far.toml", "--images", "12")
    assert len(tiny.asked()) - before == 12 + 3  # the first question is answered by the import


def test_a_teacher_without_a_store_has_no_accounts(sandbox: Sandbox) -> None:
    done = sandbox.call("answers", "recipe.toml")
    assert (done.returncode, "name a file in teacher.store" in done.stderr) == (1, True)


def test_a_teacher_on_this_machine_may_have_a_store(sandbox: Sandbox) -> None:
    words = ("run", "recipe.toml", "-q", "-s", "teacher.store=kept.db3kd")
    assert sandbox.call(*words, "-s", "run=one").returncode == 0
    asked = sandbox.asked()
    done = sandbox.call(*words, "-s", "run=two")  # another folder, the same questions
    assert (done.returncode, sandbox.asked()) == (0, asked)
    assert sandbox.shards("one") == sandbox.shards("two")


def test_money_ends_a_run_that_goes_on_with_more(tiny: Tiny, sandbox: Sandbox) -> None:
    sandbox.write("far.toml", RECIPE.format(digits=sandbox.digits, url=tiny.url))
    words = ("run", "far.toml", "-q", "-s", "student.methods=['ce']")
    done = sandbox.call(*words, "-s", "budget.money=0.5")
    assert done.returncode == 3
    assert "the budget of 0.50 EUR is exhausted" in done.stderr
    assert len(tiny.asked()) <= 50
    assert sandbox.call(*words, "-s", "budget.money=0.8").returncode == 0
    assert len(tiny.asked()) == len(set(tiny.asked())) <= 80


# A teacher that does not always say the same, by recipe


def reworded(body: bytes, change: Callable[[int], int]) -> Reply:
    """The true answers of the server, each changed."""
    asked = json.loads(body)
    [tensor] = asked["inputs"]
    said = classify(np.array(tensor["data"], np.uint8).reshape(tensor["shape"][0], 64))
    data = [change(label) for label in said]
    output = {"name": "y", "datatype": "INT64", "shape": [len(data)], "data": data}
    return 200, {}, json.dumps({"id": asked["id"], "outputs": [output]}).encode()


@pytest.mark.slow
def test_votes_by_recipe(tiny: Tiny, sandbox: Sandbox) -> None:
    words = ("run", "far.toml", "-q", "--json", "-s", "student.methods=['ce']")
    look(sandbox, tiny, *words)
    draw = random.Random(0)
    tiny.special = lambda _, body: reworded(
        body, lambda label: (label + 1) % 10 if draw.random() < 0.05 else label
    )
    before = len(tiny.asked())
    noise = "teacher.noise={flips=0.05, error=0.0001, most=15}"
    store = "teacher.store=other.db3kd"
    found = json.loads(look(sandbox, tiny, *words, "-s", noise, "-s", store, "-s", "run=voted"))
    assert found["repeats"] >= 80  # a lead of at least two for each of 80 images
    assert found["queries"]["spent"] == 80
    assert (
        sandbox.shards("run")["answers/00000.safetensors"]
        == (sandbox.shards("voted")["answers/00000.safetensors"])
    )
    asked = len(tiny.asked())
    with Store(sandbox.folder / "other.db3kd") as kept:
        assert kept.books()["answered"] == 80 + found["repeats"]
    again = look(sandbox, tiny, *words, "-s", noise, "-s", store, "-s", "run=again")
    assert json.loads(again)["repeats"] == found["repeats"]
    assert (len(tiny.asked()), before) == (asked, before)  # every vote was kept


def test_a_changed_teacher_is_noticed_by_recipe(tiny: Tiny, sandbox: Sandbox) -> None:
    words = ("check", "far.toml", "--images", "20", "--canaries", "known.safetensors", "--json")
    assert json.loads(look(sandbox, tiny, *words))["questions"] == len(tiny.asked()) == 43 + 100
    known = safetensors.torch.load_file(sandbox.folder / "known.safetensors")
    assert known["answers"].tolist() == classify(levels_of(known["images"]))
    noise = "teacher.noise={canaries='known.safetensors', every=10}"
    words = ("run", "far.toml", "-q", "-s", "student.methods=['ce']", "-s", noise)
    look(sandbox, tiny, *words)
    tiny.special = lambda _, body: reworded(body, lambda label: (label + 1) % 10)
    done = sandbox.call(*words, "-s", "run=later", "-s", "teacher.store=later.db3kd")
    assert done.returncode == 1
    assert "changed" in done.stderr
    assert done.stderr.count("\n") == 1


# Every example


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: str(file.stem))
def test_an_example_can_be_read(file: Path) -> None:
    assert read_recipe(file).run.startswith("runs/")


def guarded(headers: Mapping[str, str], body: bytes) -> Reply:
    if headers.get("Authorization") != f"Key {TOKENS['MY_KEY']}":
        return 401, {}, b'{"status": {"code": 11102, "description": "invalid key"}}'
    return concepts(headers, body)


@contextmanager
def stand_in(folder: Path) -> Iterator[Tiny]:
    with tiny_server() as made:
        made.special = guarded
        yield made


def with_names(folder: Path) -> Any:
    return real.mlflow(folder, answer="words")


KINDS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "remote_oip": (real.mlserver, ""),
    "remote_mlflow": (with_names, ""),
    "remote_raw": (real.litserve, "/predict"),
    "remote_template": (real.mlflow, "/invocations"),
}


def did_it(sandbox: Sandbox, name: str, url: str) -> None:
    sandbox.environment.update(TOKENS)
    changes = [f"data.train={sandbox.digits}", f"teacher.remote.url={url}", "data.samples=30"]
    changes += ["data.test_samples=20", "student.methods=['ce']", "student.network=small"]
    changes += ["student.training.steps=20"]
    words = [word for change in changes for word in ("-s", change)]
    for verb in ("check", "run"):
        done = sandbox.call(verb, str(EXAMPLES / f"{name}.toml"), *words)
        assert done.returncode == 0, done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in TOKENS.values())
    summary = json.loads((sandbox.folder / "runs" / name / "summary.json").read_text())
    assert summary["queries"]["spent"] == 50
    assert summary["teacher"]["accuracy"] > 0.7


def test_the_example_of_nested_json(sandbox: Sandbox) -> None:
    with stand_in(sandbox.folder) as server:
        did_it(sandbox, "remote_concepts", f"{server.url}/outputs")


@pytest.mark.slow
@pytest.mark.skipif(bool(real.MISSING), reason=str(real.MISSING))
@pytest.mark.parametrize("name", KINDS)
def test_an_example_with_a_real_server(sandbox: Sandbox, tmp_path: Path, name: str) -> None:
    server, path = KINDS[name]
    with server(tmp_path / "server") as running:
        did_it(sandbox, name, f"{running.url}{path}")
        assert running.images() >= 30 + 20
