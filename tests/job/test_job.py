"""The verbs as functions: a recipe in, plain data out."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import msgspec.structs
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import Sandbox
from db3kd import job
from db3kd.cli.terminal import spending
from db3kd.config.reading import read_recipe
from db3kd.config.recipe import Recipe
from db3kd.errors import BudgetExhausted, InputError, TeacherError
from db3kd.job.check import check_teacher
from db3kd.job.sets import sets_of
from db3kd.stages.accounts import status
from db3kd.student import batches

FACTORIES = """
import torch
from sklearn.svm import SVC


class Nested:
    @staticmethod
    def make():
        return lambda images: images.flatten(1).mean(1) > 0.3


def bright():
    return lambda images: (images.flatten(1).mean(1) * 20).long() % 10


def linear():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def svm():
    draw = torch.Generator().manual_seed(0)
    return SVC().fit(torch.rand(40, 64, generator=draw).numpy(), list(range(10)) * 4)


def broken():
    raise KeyError("weights")


value = 3
"""


@pytest.fixture
def here(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """The sandbox as the current directory of this process."""
    monkeypatch.chdir(sandbox.folder)
    monkeypatch.syspath_prepend(str(sandbox.folder))
    for module in ("svm_teacher", "factories"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    sandbox.write("factories.py", FACTORIES)
    return sandbox


def recipe(*overrides: str) -> Recipe:
    quick = ("label.queries=20", "label.probes=5", "label.checkpoints=[]", "data.samples=12")
    return read_recipe("recipe.toml", (*quick, *overrides))


AT_ONCE = ("label.strategy=joint", "label.queries=1000")
BY_TRIAL = (
    *AT_ONCE,
    "label.surrogate=none",
    "student.methods=['ce', 'auto']",
    "data.samples=30",
    "grow.rounds=1",
    "grow.members=1",
)


def test_a_trial_decides_what_is_bought(here: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="db3kd")
    wanted = recipe(*BY_TRIAL, "spend.per_image=10")
    summary = job.run(wanted)
    assert "both are tried on 30 images, with 5 new ones of each" in caplog.text
    assert "the answers go to " in caplog.text
    spent, found = summary["queries"]["by_stage"], summary["spending"]
    assert spent["trial/grow"] == 150
    gain = found["gains"]["grown"]
    assert (found["use"] == "grown") == (0 < gain["share"] >= gain["error"])
    assert (found["unspent"] > 0) == (found["use"] == "ce")
    assert summary["queries"]["spent"] == here.asked() <= 30 * 11 + 50
    methods = summary["methods"]
    assert methods["ce"]["queries"] == 30
    assert methods["auto"]["queries"] == summary["queries"]["spent"] - 50
    text = spending(summary)
    assert text.startswith("Spent on ")
    assert "30 for the images' own answers, 150 for new images in the trial" in text
    again = job.run(wanted)
    assert (again["queries"], again["spending"]) == (summary["queries"], found)
    alone = recipe(*BY_TRIAL, "spend.per_image=10", "run=alone")
    assert job.label(alone)["queries"]["spent"] == summary["queries"]["spent"] - 50
    assert job.distill(alone)["students"] == ["ce", "auto"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["budget.queries=20"],
            "it can pay for 20 images of your own at most, so set data.samples",
        ),
        (
            ["budget.queries=200", "spend.per_image=10"],
            "the budget is 200, so the run may stop before it is done; without spend.per_image",
        ),
    ],
)
def test_a_budget_that_is_too_small_is_told_before_anything_is_asked(
    here: Sandbox, caplog: pytest.LogCaptureFixture, overrides: list[str], words: str
) -> None:
    caplog.set_level("INFO", logger="db3kd")
    with job.opened(recipe(*BY_TRIAL, *overrides)):
        pass
    assert words in caplog.text
    assert here.asked() == 0


def test_without_a_decision_nothing_is_distilled(here: Sandbox) -> None:
    wanted = recipe(*BY_TRIAL)
    job.grow(wanted)
    with pytest.raises(InputError, match="nothing is decided yet"):
        job.distill(wanted)


def test_the_verbs_one_by_one_are_the_whole_job(here: Sandbox) -> None:
    books = job.label(recipe())
    assert set(books) == {"run", "queries"}
    assert books["queries"]["spent"] == here.asked()
    assert here.run.is_dir()
    students = job.distill(recipe())
    assert students["students"] == ["ce", "mbd"]
    assert here.asked() == books["queries"]["spent"]
    summary = job.evaluate(recipe())
    assert here.asked() == books["queries"]["spent"] + 50
    one_by_one = here.shards()
    whole = job.run(recipe("run=whole"))
    assert here.shards("whole") == one_by_one
    for part in ("samples", "test_samples", "teacher", "queries"):
        assert whole[part] == summary[part]


def test_the_summary_adds_up(here: Sandbox) -> None:
    summary = job.run(recipe("student.seeds=[0, 1]", "student.methods=['ce', 'sd', 'mbd']"))
    spent = summary["queries"]["by_stage"]
    methods = summary["methods"]
    assert (summary["samples"], summary["test_samples"], spent["evaluate"]) == (12, 50, 50)
    assert methods["ce"]["queries"] == methods["sd"]["queries"] == 12
    assert methods["mbd"]["queries"] == 12 + spent["distances"]
    for row in methods.values():
        assert len(row["accuracy"]) == len(row["agreement"]) == len(row["training_s"]) == 2
        assert row["seeds"] == [0, 1]
    assert json.loads((here.run / "summary.json").read_text()) == summary
    assert len(status(here.run)["figures"]) == 6
    assert 0.5 < summary["teacher"]["accuracy"] <= 1


def test_verbs_out_of_order_say_what_is_missing_and_ask_nothing(here: Sandbox) -> None:
    for verb in (job.distill, job.evaluate):
        with pytest.raises(InputError, match="not labelled yet"):
            verb(recipe())
    assert here.asked() == 0
    with pytest.raises(BudgetExhausted):
        job.label(recipe("budget.stages.distances=40"))
    with pytest.raises(InputError, match=r"not measured yet \(0 of 2 shards\)"):
        job.distill(recipe("student.methods=['mbd']"))
    # Cross-entropy alone needs the answers only, and those are there.
    assert job.distill(recipe("student.methods=['ce']"))["students"] == ["ce"]


def test_whose_labels_cross_entropy_uses(here: Sandbox) -> None:
    with job.opened(recipe()) as work:
        work.run.measure(work.own.images, recipe().label)
        assert work.transfer("ce").labels.tolist() == work.own.labels.tolist()
        own = work.transfer("ce").teacher_labels
    with job.opened(msgspec.structs.replace(recipe(), run="other")) as work:
        work.run.answers(work.own.images)
    changed = recipe("data.labels=teacher", "run=third")
    with job.opened(changed) as work:
        work.run.answers(work.own.images)
        assert work.transfer("ce").labels.tolist() == own.tolist()


def test_a_part_of_the_images_is_drawn_by_the_seed(here: Sandbox) -> None:
    def chosen(*overrides: str) -> list[int]:
        own = sets_of(recipe(*overrides)).own
        assert own is not None
        return [int(row) for row in own.images.rows]

    assert len(chosen()) == 12
    assert chosen() == sorted(set(chosen()))
    assert chosen() == chosen()
    assert chosen() != chosen("seed=2")
    with pytest.raises(InputError, match=r"data\.samples is 31, but there are only 30 images"):
        chosen("data.samples=31")
    test = sets_of(recipe("data.test_samples=7")).test
    assert test is not None
    assert len(test) == 7
    with pytest.raises(InputError, match=r"data\.test_samples is 51, but there are only 50"):
        sets_of(recipe("data.test_samples=51"))


def test_a_run_buys_what_its_methods_need(here: Sandbox) -> None:
    methods = "student.methods=['ce', 'grown', 'mixed']"
    found = job.run(recipe("run=grown", methods, "grow.per_image=6", "grow.rounds=2"))
    spent = found["queries"]["by_stage"]
    assert (spent["answers"], spent["grow"]) == (12, 72)
    assert spent["distances"] + spent["rounds"] > 0
    prices = {name: row["queries"] for name, row in found["methods"].items()}
    assert (prices["ce"], prices["grown"]) == (12, 84)
    assert prices["mixed"] == found["queries"]["spent"] - spent["evaluate"]
    alone = job.run(recipe("run=alone", "student.methods=['ce']"))
    assert alone["queries"]["by_stage"] == {
        **dict.fromkeys(spent, 0),
        "answers": 12,
        "evaluate": 50,
    }
    again = job.grow(recipe("run=grown", methods, "grow.per_image=6", "grow.rounds=2"))
    assert again["queries"] == found["queries"]


def test_plan_is_the_most_that_a_run_costs(here: Sandbox) -> None:
    found = job.forecast(recipe(), samples=12, test_samples=50, classes=10)
    # 12 answers, 12 x 9 rows of 20 queries, 50 test images.
    parts = {"answers": 12, "spend": 0, "grow": 0, "distances": 2160, "synthesis": 0}
    parts["evaluate"] = 50
    assert found == {**parts, "total": 2222}
    assert job.run(recipe())["queries"]["spent"] <= 2222
    sd = read_recipe("recipe.toml", ["label.metric=sd", "student.methods=['sd']"])
    assert job.forecast(sd, samples=12, test_samples=50, classes=10)["total"] == 62
    auto = [*BY_TRIAL, "spend.per_image=10"]
    found = job.forecast(recipe(*auto), samples=12, test_samples=50, classes=10)
    assert (found["spend"], found["total"]) == (120, 182)
    found = job.forecast(
        recipe(*BY_TRIAL, "budget.queries=100"), samples=12, test_samples=50, classes=10
    )
    assert (found["spend"], found["total"]) == (36, 98)


@pytest.mark.parametrize(
    ("kind", "factory"),
    [
        ("function", "factories:bright"),
        ("function", "factories:Nested.make"),
        ("torch", "factories:linear"),
        ("sklearn", "factories:svm"),
    ],
)
def test_every_kind_of_factory_gives_a_teacher(here: Sandbox, kind: str, factory: str) -> None:
    wanted = recipe(f"teacher.kind={kind}", f"teacher.factory={factory}")
    with job.opened(wanted) as work:
        assert work.run.meter.classes == 10
        answers = work.run.answers(work.own.images)
    assert answers.shape == (12,)


def test_an_onnx_teacher(here: Sandbox) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("ArgMax", ["flat"], ["label"], axis=1, keepdims=0),
        ],
        "darkest",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, "teacher.onnx")
    text = (here.folder / "recipe.toml").read_text()
    text = text.replace('kind = "sklearn"', 'kind = "onnx"')
    here.write("recipe.toml", text.replace('factory = "svm_teacher:make"', 'file = "teacher.onnx"'))
    with job.opened(recipe()) as work, pytest.raises(TeacherError, match="was said to have 10"):
        work.run.answers(work.own.images)  # 64 pixels are no 10 classes


def network_recipe(here: Sandbox, *more: str) -> Recipe:
    text = (here.folder / "recipe.toml").read_text()
    text = text.replace('kind = "sklearn"', 'kind = "network"\nnetwork = "small"')
    text = text.replace('factory = "svm_teacher:make"', 'weights = "kept/teacher.safetensors"')
    here.write("recipe.toml", text)
    return recipe(*more)


def test_a_network_teacher_is_trained_once(here: Sandbox) -> None:
    plain = network_recipe(here)
    with pytest.raises(InputError, match=r"teacher\.safetensors is missing; put the weights there"):
        job.label(plain)
    seen: list[str] = []

    def note(stage: str, done: int, total: int, figures: Any) -> None:
        seen.append(stage)

    taught = recipe("teacher.training.epochs=2", "teacher.training.batch=16")
    job.label(taught, progress=note)
    assert seen[:2] == ["teacher", "teacher"]
    weights = Path("kept/teacher.safetensors").read_bytes()
    assert [path.name for path in Path("kept").iterdir()] == ["teacher.safetensors"]
    seen.clear()
    job.label(taught, progress=note)
    assert "teacher" not in seen
    assert Path("kept/teacher.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("factories:broken", r"'factories:broken' failed: KeyError: 'weights'"),
        ("factories:missing", "AttributeError: module 'factories' has no attribute 'missing'"),
        ("nowhere:make", "ModuleNotFoundError: No module named 'nowhere'"),
        ("factories:value", "'int' object is not callable"),
    ],
)
def test_a_factory_that_fails_is_named(here: Sandbox, factory: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        job.label(recipe(f"teacher.factory={factory}"))
    assert not here.run.exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("data.train=nowhere",), "no data set 'nowhere'"),
        (("data.test_split=validation",), "no split 'validation'"),
        (("student.network=lenet5",), "lenet5 needs images of at least"),
        (("student.methods=['auto']", *AT_ONCE, "grow.surrogate=lenet6"), "mean lenet5"),
        ((*AT_ONCE, "label.surrogate=lenet5"), "lenet5 needs images of at least"),
        (("teacher.factory=factories:linear",), "is not a fitted classifier"),
    ],
)
def test_what_cannot_work_is_one_sentence(here: Sandbox, overrides: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        job.run(recipe(*overrides))
    assert not here.run.exists()  # and nothing was asked


def test_own_and_test_images_have_one_shape(here: Sandbox) -> None:
    Path("other/test/0").mkdir(parents=True)
    Image.new("L", (9, 8)).save("other/test/0/one.png")
    sentence = re.escape("own images are (1, 8, 8), the test images (1, 8, 9)")
    with pytest.raises(InputError, match=sentence):
        job.run(recipe("data.test=other", "data.test_samples=1"))
    assert not here.run.exists()


def test_pixels_stay_in_files_where_they_are_too_many(
    here: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with job.opened(recipe()) as work:
        work.run.answers(work.own.images)
        resident = work.transfer("ce").images
    monkeypatch.setattr(batches, "RESIDENT_BYTES", 100)
    with job.opened(recipe()) as work:
        rows = torch.arange(12)
        assert work.pixels is work.own.images
        assert torch.equal(resident.read(rows), work.transfer("ce").images.read(rows))
    assert isinstance(resident.values, torch.Tensor)


def test_students_differ_by_method_and_seed(here: Sandbox) -> None:
    wanted = recipe("student.seeds=[0, 1]", "student.methods=['ce', 'bd']")
    job.label(wanted)
    with job.opened(wanted) as work:
        found = {(method, seed): network for method, seed, network in work.students()}
    assert set(found) == {("ce", 0), ("ce", 1), ("bd", 0), ("bd", 1)}
    weights = [_vector(network) for network in found.values()]
    for one in range(4):
        for other in range(one):
            assert not torch.equal(weights[one], weights[other])


def _vector(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in network.parameters()])


# Without own images


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["budget.queries=50"], "leaves none for pseudo samples, since 50 are for test images"),
        (["synthesis.surrogate=lenet6"], "unknown network 'lenet6'; did you mean lenet5"),
        (["student.network=alexnet"], "alexnet needs images of at least 15x15 pixels"),
    ],
)
def test_no_teacher_is_trained_for_a_run_that_comes_to_nothing(
    here: Sandbox, overrides: list[str], sentence: str
) -> None:
    text = (here.folder / "without_data.toml").read_text().replace("queries = 1500", "")
    taught = 'network = "small"\nweights = "t.safetensors"\ntraining = { epochs = 1 }\n'
    text = text.replace('kind = "sklearn"', f'kind = "network"\n{taught}data = "{here.digits}"')
    here.write("taught.toml", text.replace('factory = "svm_teacher:make"', ""))

    def fails(*_: Any) -> None:
        raise AssertionError("a teacher is trained")

    for verb in (job.run, check_teacher):
        with pytest.raises(InputError, match=sentence):
            verb(read_recipe("taught.toml", overrides), progress=fails)
    assert not here.run.exists()


def test_a_run_that_began_keeps_its_plan_when_its_budget_is_cut(here: Sandbox) -> None:
    text = (here.folder / "without_data.toml").read_text()
    here.write("without_data.toml", text.replace("queries = 1500", 'way = "shapes"'))
    job.synthesize(read_recipe("without_data.toml", ["budget.queries=150"]))
    cut = read_recipe("without_data.toml", ["budget.queries=50"])
    assert job.synthesize(cut)["queries"]["by_stage"]["synthesis"] == 100


def test_a_run_without_own_images_makes_its_own(
    here: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db3kd.synthesis.chosen.LEAST_STEPS", 20)
    monkeypatch.setattr("db3kd.synthesis.chosen.MOST_STEPS", 20)
    wanted = read_recipe(
        "without_data.toml",
        [
            "synthesis.queries=120",
            "synthesis.ensemble_labels=0",
            "student.methods=['pseudo', 'pseudo_mbd']",
        ],
    )
    most = job.forecast(wanted, samples=0, test_samples=50, classes=10)
    assert (most["synthesis"], most["distances"], most["total"]) == (120, 120 * 9 * 30, 32570)
    summary = job.run(wanted)
    books = summary["queries"]
    assert books["spent"] == here.asked() <= most["total"]
    assert (books["by_stage"]["answers"], books["by_stage"]["synthesis"]) == (0, 120)
    assert summary["samples"] == sum(summary["classes"]) == 120
    assert summary["methods"]["pseudo"]["queries"] == 120
    assert 120 < summary["methods"]["pseudo_mbd"]["queries"] == books["spent"] - 50
    assert Path(summary["picture"]).read_bytes().startswith(b"\x89PNG")
    assert status(here.run)["stage"] == "done"
    before = here.asked()
    assert job.run(wanted)["methods"] == summary["methods"]
    assert here.asked() == before


def test_students_unlike_those_that_choose_learn_the_answers_alone(
    here: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("synthesis.chosen", "stages.ensemble_labels"):
        monkeypatch.setattr(f"db3kd.{module}.LEAST_STEPS", 20)
        monkeypatch.setattr(f"db3kd.{module}.MOST_STEPS", 20)
    monkeypatch.setattr("db3kd.stages.ensemble_labels.IMAGES", 190)

    def learned(*settings: str) -> int:
        """Samples of the last student that was taught."""
        summary = job.run(read_recipe("without_data.toml", ["synthesis.queries=120", *settings]))
        assert summary["queries"]["spent"] == here.asked() == 170
        return int([r for r in here.journal() if r["kind"] == "student"][-1]["samples"])

    another = ("student.network='resnet18'", "student.width=0.1")
    assert learned(*another) == 120
    assert not (here.run / "unasked").exists()
    assert learned() == 190  # in the same folder, with the same answers
    assert learned("synthesis.ensemble_labels=0", "student.training.epochs=1") == 120


def test_no_images_are_made_that_no_student_learns_from(here: Sandbox) -> None:
    wanted = ["synthesis.queries=40", "synthesis.rounds=1", "student.methods=['pseudo_mbd']"]
    job.synthesize(read_recipe("without_data.toml", wanted))
    assert sorted(file.name for file in here.run.iterdir() if file.is_dir()) == [
        "first",
        "pseudo",
        "synthesis",
    ]


def test_own_images_that_are_not_there_are_missed(here: Sandbox) -> None:
    wanted = read_recipe("without_data.toml")
    for verb in (job.label, job.grow):
        with pytest.raises(InputError, match=r"there are no own images; set data\.train"):
            verb(wanted)
    assert here.asked() == 0


def test_an_ascent_has_a_picture_of_its_evolution(here: Sandbox) -> None:
    ascent = "{samples = 20, iterations = 4, queries = 100, search = 40, every = 2}"
    wanted = read_recipe(
        "without_data.toml", ["synthesis.way=ascent", f"synthesis.ascent={ascent}"]
    )
    most = job.forecast(wanted, samples=0, test_samples=50, classes=10)
    assert (most["synthesis"], most["total"]) == (20 * (150 + 10), 3250)
    summary = job.run(wanted)
    assert summary["queries"]["spent"] == here.asked() <= 3250
    copies = summary["queries"]["by_stage"]["copies"]
    assert 0 < copies <= 200
    assert summary["samples"] == copies + copies // 10
    assert (here.run / "evolution.png").read_bytes().startswith(b"\x89PNG")
    assert job.synthesize(wanted)["classes"] == summary["classes"]
