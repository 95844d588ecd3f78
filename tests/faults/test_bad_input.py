"""Whatever is wrong, the answer is one sentence, and nothing that was bought is lost."""

import json
import logging
import os
import re
import shutil
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from torch import Tensor, nn

import db3kd.student.training
from closed_form import WIDE, ordered_scores
from conftest import Sandbox, full_disk, make_sandbox
from db3kd.cli.main import main
from db3kd.config.settings import Budget, Search, Training
from db3kd.data import DataSet, TensorImages
from db3kd.errors import InputError, RunError, TeacherError
from db3kd.run import Run
from db3kd.search.robustness import Status
from db3kd.stages.accounts import status
from db3kd.student.networks import build
from db3kd.teachers import function, torch_module

DRAW = torch.Generator().manual_seed(5)
WEIGHTS = torch.randn(3, 16, generator=DRAW)
IMAGES = torch.randn(6, 1, 4, 4, generator=DRAW)
SEARCH = Search(strategy="rows", queries=20, probes=6, tolerance=0.1, references=2, shard=3)
TRAINING = Training(epochs=3, batch=4)

FACTORIES = '''
from pathlib import Path

import torch

ANSWERS = {
    "scores": lambda images: torch.zeros(len(images), 10),
    "floats": lambda images: images.flatten(1).mean(1),
    "strings": lambda images: ["cat"] * len(images),
    "few": lambda images: [0] * (len(images) - 1),
    "beyond": lambda images: [10] * len(images),
    "negative": lambda images: [-1] * len(images),
    "nothing": lambda images: None,
    "same": lambda images: [3] * len(images),
}


def bright(images):
    return (images.flatten(1).mean(1) * 20).long() % 10


def plain():
    return bright


def some_classes():
    return lambda images: bright(images) % 4


def wrong():
    return ANSWERS[Path("how").read_text()]


def sometimes():
    """Fails in question 20, until the file `well` is there."""
    asked = [0]

    def ask(images):
        asked[0] += 1
        with open("asked", "ab") as log:
            log.write(b"." * len(images))
        if asked[0] == 20 and not Path("well").exists():
            raise ConnectionError("the line is dead")
        return bright(images)

    return ask


def three_channels():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 10, 8), torch.nn.Flatten())


def larger():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(99, 10))


def doubles():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).double()
'''
QUICK = ("label.queries=20", "label.probes=5", "label.checkpoints=[]", "label.shard=10")


class Command:
    """`db3kd` within this process: exit code, and the sentence on stderr."""

    def __init__(self, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
        self.sandbox, self.capsys = sandbox, capsys

    def __call__(self, verb: str, *overrides: str, redo: bool = False) -> tuple[int, str]:
        words = [verb, "recipe.toml", "--quiet", "--anyway"] + ["--redo-damaged"] * redo
        for override in (*QUICK, *overrides):
            words += ["--set", override]
        return self.call(words)

    def call(self, words: list[str]) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(words)
        _, errors = self.capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return stop.value.code, errors

    def refused(self, verb: str, *overrides: str, code: int = 1) -> str:
        """The one sentence with which a command is refused."""
        found, errors = self(verb, *overrides)
        assert found == code, errors
        return sentence(errors)

    def done(self, verb: str, *overrides: str, redo: bool = False) -> None:
        found, errors = self(verb, *overrides, redo=redo)
        assert found == 0, errors
        assert "Traceback" not in errors


def sentence(errors: str) -> str:
    """The last line, which is the error; warnings come before it."""
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert len(last) < 600
    return last.strip()


@pytest.fixture
def command(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    sandbox.write("factories.py", FACTORIES)
    monkeypatch.chdir(sandbox.folder)
    monkeypatch.syspath_prepend(str(sandbox.folder))
    for module in ("svm_teacher", "factories"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    handler, logger = signal.getsignal(signal.SIGTERM), logging.getLogger("db3kd")
    level = logger.level
    yield Command(sandbox, capsys)
    signal.signal(signal.SIGTERM, handler)
    logger.setLevel(level)


def by(factory: str, kind: str = "function") -> tuple[str, str]:
    return f"teacher.kind={kind}", f"teacher.factory=factories:{factory}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Sandbox:
    """A finished run, to be copied and damaged."""
    made = make_sandbox(tmp_path_factory.mktemp("bad") / "finished", digits)
    # Students are the same to the bit on the same number of threads.
    made.environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    words = [word for override in QUICK for word in ("-s", override)]
    said = made.call("run", "recipe.toml", "-q", *words)
    assert said.returncode == 0, said.stderr
    return made


@pytest.fixture
def copied(command: Command, finished: Sandbox) -> Command:
    shutil.copytree(finished.run, command.sandbox.run)
    return command


def silent() -> Any:
    def refuse(images: Tensor) -> Tensor:
        pytest.fail("a question was asked")

    return function(refuse, classes=3, bounds=WIDE)


def teacher() -> Any:
    return function(
        lambda images: ordered_scores(images, WEIGHTS, torch.zeros(3)).argmax(1),
        classes=3,
        bounds=WIDE,
    )


# Images


@pytest.mark.parametrize("row", [0, 37])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 50.001, -51.0])
def test_images_that_are_no_images_cost_nothing(tmp_path: Path, value: float, row: int) -> None:
    good = torch.randn(80, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    bad = good.clone()
    bad[row, 0, 1, 2] = value
    with Run(tmp_path, silent()) as run, pytest.raises(InputError, match=f"image {row} has a"):
        run.answers(TensorImages(bad))
    with Run(tmp_path, teacher()) as run:
        assert run.meter.spent == 0
        assert len(run.answers(TensorImages(good))) == 80


class Odd:
    """Images of another kind than was promised."""

    shape, eight_bit = (1, 4, 4), False

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return 6

    def read(self, rows: Tensor) -> Any:
        return self.values[rows]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (IMAGES.double(), "images are torch.float64; give float32"),
        (torch.zeros(6, 1, 4, 4, dtype=torch.uint8), "images are torch.uint8; give float32"),
        (torch.zeros(6, 16), "give four dimensions"),
    ],
)
def test_images_of_another_kind_cost_nothing(tmp_path: Path, values: Tensor, words: str) -> None:
    with Run(tmp_path, silent()) as run, pytest.raises(InputError, match=words):
        run.answers(Odd(values))


def test_no_images_at_all(tmp_path: Path) -> None:
    with Run(tmp_path, silent()) as run, pytest.raises(InputError, match="there are no images"):
        run.answers(TensorImages(torch.zeros(0, 1, 4, 4)))


def copied_digits(command: Command) -> Path:
    folder = command.sandbox.folder / "mine"
    shutil.copytree(command.sandbox.digits, folder)
    return folder


def test_files_that_are_no_images(command: Command) -> None:
    folder = copied_digits(command)
    path = sorted(folder.glob("train/3/*.png"))[0]
    whole = path.read_bytes()
    for content in (whole[:-30], whole[:20], b"", b"no image"):
        path.write_bytes(content)
        words = command.refused("label", "data.train=mine")
        assert path.name in words
        assert "cannot be decoded" in words
    path.write_bytes(whole)
    command.done("label", "data.train=mine")


def test_images_of_several_sizes(command: Command) -> None:
    from PIL import Image

    folder = copied_digits(command)
    path = folder / "train" / "3" / "large.png"
    Image.new("L", (9, 8)).save(path)
    words = command.refused("label", "data.train=mine")
    assert "(1, 8, 9)" in words
    assert "large.png" in words


# Labels and classes


@pytest.mark.parametrize("label", [-1, 3, 99])
def test_labels_outside_the_classes_cost_nothing(tmp_path: Path, label: int) -> None:
    labels = torch.tensor([0, 1, 2, 0, label, 2])
    with Run(tmp_path, silent()) as run:
        with pytest.raises(InputError, match=f"label {label} in row 4 is not a class"):
            run.label(TensorImages(IMAGES), SEARCH, labels=labels)
        with pytest.raises(InputError, match=f"label {label} in row 4 is not a class"):
            run.evaluate(nn.Flatten(), TensorImages(IMAGES), labels)
        with pytest.raises(InputError, match="6 images need as many labels, got 5"):
            run.label(TensorImages(IMAGES), SEARCH, labels=labels[:5])
    with pytest.raises(InputError, match="label"):
        DataSet(TensorImages(IMAGES), labels, ("a", "b", "c"))


def test_more_classes_than_the_teacher_has_cost_nothing(command: Command) -> None:
    svm = (command.sandbox.folder / "svm_teacher.py").read_text()
    svm = svm.replace('["images"], known["labels"]', '["images"], known["labels"] % 4')
    command.sandbox.write("svm_teacher.py", svm)
    words = command.refused("run")
    assert "own images have 10 classes, but the teacher has only 4" in words
    assert command.sandbox.asked() == 0


def test_an_empty_class(command: Command) -> None:
    folder = copied_digits(command)
    for path in (folder / "train" / "3").glob("*.png"):
        path.unlink()
    words = command.refused("label", "data.train=mine")
    assert re.search(r"train/3 holds no images", words)


def test_one_class_only(command: Command) -> None:
    folder = copied_digits(command)
    for split in ("train", "test"):
        for label in range(1, 10):
            shutil.rmtree(folder / split / str(label))
    words = command.refused("label", "data.train=mine", *by("plain"))
    assert "at least 2 classes, got 1" in words
    command.sandbox.write("how", "same")
    words = command.refused("label", *by("wrong"))
    assert "answered class 3 to all 30 images" in words


def test_classes_that_the_teacher_never_answers(command: Command) -> None:
    command.done("run", *by("some_classes"))
    with Run(command.sandbox.folder / "again", teacher()) as run:
        run.answers(TensorImages(IMAGES))
    found = status(command.sandbox.run)
    assert found["stage"] == "done"
    (answers,) = command.sandbox.run.glob("answers/*.safetensors")
    assert answers.exists()
    records = [r for r in command.sandbox.journal() if r.get("stage") == "distances"]
    # Of 30 images each has 9 other classes, of which at least 6 are never answered.
    statuses = [r["statuses"] for r in records if r["kind"] == "shard"]
    assert sum(some[Status.NO_REFERENCE.name] for some in statuses) >= 30 * 6


# Teachers


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("scores", r"an array of shape \(\d+, 10\) to \d+ image"),
        ("floats", "whole class indices are expected"),
        ("strings", "map names to class indices"),
        ("few", r"an array of shape \(29,\) to 30 image"),
        ("beyond", "answered class 10; it was said to have 10"),
        ("negative", "answered class -1"),
        ("nothing", "the teacher answered"),
    ],
)
def test_answers_that_are_no_classes(command: Command, how: str, words: str) -> None:
    command.sandbox.write("how", how)
    assert re.search(words, command.refused("label", *by("wrong")))
    found = status(command.sandbox.run)["queries"]
    assert (found["spent"], found["reserved"]) == (30, 30)  # they may have been paid


@pytest.mark.parametrize("factory", ["three_channels", "larger"])
def test_a_teacher_for_other_images(command: Command, factory: str) -> None:
    words = command.refused("label", *by(factory, "torch"))
    assert "the teacher failed on" in words
    assert "(30, 1, 8, 8)" in words


def test_a_teacher_of_double_precision(command: Command) -> None:
    command.done("run", *by("doubles", "torch"), "student.methods=['ce']")


def test_a_teacher_that_fails_in_the_middle(command: Command) -> None:
    words = command.refused("run", *by("sometimes"))
    assert "ConnectionError: the line is dead" in words
    spent = status(command.sandbox.run)["queries"]["spent"]
    assert spent == command.sandbox.asked() > 30
    command.sandbox.write("well", "")
    command.done("run", *by("sometimes"))
    again = status(command.sandbox.run)["queries"]
    assert again["spent"] == command.sandbox.asked()
    assert 0 < again["lost"] < spent
    command.done("run", *by("plain"), "run=whole")
    whole = status(command.sandbox.folder / "whole")["queries"]
    assert again["spent"] - again["lost"] == whole["spent"]
    found, wanted = command.sandbox.shards(), command.sandbox.shards("whole")
    for shards in (found, wanted):  # the cards of students name another factory
        shards |= {k: v[1] for k, v in shards.items() if isinstance(v, tuple)}
    assert found == wanted


@pytest.mark.parametrize(
    ("classes", "bounds", "words"),
    [(1, (0.0, 1.0), "at least 2 classes"), (3, (1.0, 0.0), "lowest, highest")],
)
def test_a_teacher_of_nothing(classes: int, bounds: tuple[float, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        function(lambda images: images, classes=classes, bounds=bounds)


def test_a_module_that_answers_no_scores(tmp_path: Path) -> None:
    module = torch_module(nn.Identity(), classes=3, bounds=WIDE, device="cpu")
    with Run(tmp_path, module) as run, pytest.raises(TeacherError):
        run.answers(TensorImages(IMAGES))


# Recipes and folders


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("references", "refrences", "recipe.toml:14: unknown key 'refrences' in [label]; did you"),
        ("[label]", "[lable]", "recipe.toml:12: unknown key 'lable' in the recipe; did you mean"),
        ('"mbd"\n', '"mdb"\n', "did you mean 'mbd'"),
        ("probes = 20", "probes = 0", "label.probes is 0"),
        ("shard = 6", "shard = 6.5", "label.shard is 6.5"),
        ('run = "run"', "", "'run' is missing in the recipe"),
        ("[student]", "[student", "not TOML"),
    ],
)
def test_recipes_that_are_wrong(command: Command, old: str, new: str, words: str) -> None:
    path = command.sandbox.folder / "recipe.toml"
    path.write_text(path.read_text().replace(old, new))
    code, errors = command.call(["label", "recipe.toml", "--quiet"])
    assert code == 2
    assert words in sentence(errors)
    assert not command.sandbox.run.exists()


def test_a_folder_of_another_configuration(copied: Command, finished: Sandbox) -> None:
    for override, difference in (
        ("seed=2", "seed: 1 -> 2"),
        ("label.queries=30", "queries: 20 -> 30"),
        ("data.samples=29", "data.samples: null -> 29"),
        ("teacher.bounds=[-1, 1]", "bounds: [0.0, 1.0] -> [-1.0, 1.0]"),
    ):
        words = copied.refused("run", override)
        assert difference in words
        assert "use them, or another folder" in words
    copied.done("run")
    assert copied.sandbox.shards() == finished.shards()
    assert copied.sandbox.asked() == 0


def test_a_folder_of_another_process(copied: Command) -> None:
    other = filelock.FileLock(copied.sandbox.run / "lock")
    with other:
        words = copied.refused("run")
        assert words.startswith("db3kd: another process is working in run")
        assert copied.call(["status", "run"])[0] == 0
    copied.done("run")


def test_a_folder_of_a_newer_version(copied: Command) -> None:
    path = copied.sandbox.run / "journal.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    record = json.loads(first)
    del record["crc"]
    record["configuration"]["format"] = 99
    checksum = f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"
    newer = json.dumps({**record, "crc": checksum}, sort_keys=True) + "\n"
    path.write_text("".join([newer, *others]))
    before = path.read_bytes()
    assert "made by a newer db3kd (format 99" in copied.refused("run")
    code, errors = copied.call(["status", "run"])
    assert (code, "newer db3kd" in sentence(errors)) == (1, True)
    assert path.read_bytes() == before


NO_OVERRIDE = (
    "import ctypes, os, sys\n"
    "for capability in (1, 2):  # root may write anywhere but without these\n"
    "    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


@pytest.mark.skipif(sys.platform != "linux", reason="permissions of root are dropped as in Linux")
def test_a_folder_that_is_read_only(sandbox: Sandbox, finished: Sandbox) -> None:
    import subprocess

    shutil.copytree(finished.run, sandbox.run)
    before = sandbox.shards()
    probe = "import sys; open(sys.argv[1], 'a').close()"
    words = [word for override in QUICK for word in ("-s", override)]
    label = ["-m", "db3kd", "label", "recipe.toml", "-q", *words]

    def said(*arguments: str) -> Any:
        return subprocess.run(
            [sys.executable, "-c", NO_OVERRIDE, *arguments],
            cwd=sandbox.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    folders = [sandbox.run, *(path for path in sandbox.run.iterdir() if path.is_dir())]
    files = [path for path in sandbox.run.rglob("*") if path.is_file()]
    try:
        for path in (*files, *folders):
            path.chmod(0o444 if path.is_file() else 0o555)
        if said("-c", probe, str(sandbox.run / "journal.jsonl")).returncode == 0:
            pytest.skip("this user may write into read-only folders")
        refused = said(*label)
        assert refused.returncode == 1
        assert "cannot be written (Permission denied)" in sentence(refused.stderr)
        assert said("-m", "db3kd", "status", "run").returncode == 0
        refused = said(*label, "-s", "run=run/inner")
        assert refused.returncode == 1
        assert "cannot be written (Permission denied)" in sentence(refused.stderr)
    finally:
        for path in (*folders, *files):
            path.chmod(0o644 if path.is_file() else 0o755)
    assert sandbox.shards() == before


# Damage

Damage = Callable[[Path], None]


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("answers/00000", flip),
        ("distances/00000", remove),
        ("distances/00001", cut),
        ("distances/00002", flip),
        ("evaluate/00000", empty),
    ],
)
def test_a_damaged_shard(copied: Command, finished: Sandbox, name: str, damage: Damage) -> None:
    path = copied.sandbox.run / f"{name}.safetensors"
    whole = path.read_bytes()
    damage(path)
    words = copied.refused("run")
    assert f"{name}.safetensors is" in words
    assert "--redo-damaged" in words
    path.write_bytes(whole)
    copied.done("run")
    assert copied.sandbox.asked() == 0
    damage(path)
    before = status(copied.sandbox.run)["queries"]["spent"]
    copied.done("run", redo=True)
    assert copied.sandbox.shards() == finished.shards()
    assert status(copied.sandbox.run)["queries"]["spent"] == before + copied.sandbox.asked()
    first = name.startswith("answers")  # all 30 of which were asked first, in a shard of their own
    assert (copied.sandbox.asked() > 0) != first


@pytest.mark.parametrize("damage", [remove, cut, empty, flip])
def test_a_damaged_journal(copied: Command, finished: Sandbox, damage: Damage) -> None:
    path = copied.sandbox.run / "journal.jsonl"
    whole = path.read_bytes()
    damage(path)
    assert "journal.jsonl" in copied.refused("run")
    path.write_bytes(whole)
    copied.done("run")
    assert (copied.sandbox.shards(), copied.sandbox.asked()) == (finished.shards(), 0)


@pytest.mark.parametrize("damage", [remove, cut, empty, flip])
def test_a_damaged_tape(
    command: Command, finished: Sandbox, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    enough = "budget.queries=100000"
    assert "exhausted" in command.refused("label", "budget.queries=900", code=3)
    command.refused("label", "budget.queries=900", code=3)  # what is spent is on the journal now
    path = command.sandbox.run / "distances" / "00000.tape"
    spent = status(command.sandbox.run)["queries"]["spent"]
    assert spent == command.sandbox.asked() > 700
    damage(path)
    command.done("label", enough)
    assert "00000.tape is damaged or gone" in caplog.text  # its answers stay on the books as lost
    expected = finished.shards()
    found = command.sandbox.shards()
    assert len(found) == 8  # of first answers, of the others, and of distances with nearest points
    assert found == {name: expected[name] for name in found}
    queries = status(command.sandbox.run)["queries"]
    assert queries["spent"] >= command.sandbox.asked() >= finished.asked() - 50
    assert queries["spent"] - queries["lost"] == finished.asked() - 50  # test images


@pytest.mark.parametrize("damage", [remove, cut, empty, flip])
def test_a_damaged_student(copied: Command, finished: Sandbox, damage: Damage) -> None:
    (path,) = copied.sandbox.run.glob("students/mbd-0-*.safetensors")
    damage(path)
    words = [word for override in QUICK for word in ("-s", override)]
    done = copied.sandbox.call("evaluate", "recipe.toml", "-q", *words)
    assert done.returncode == 0  # students cost nothing: one that is gone is trained again
    said = f"{path.name} cannot be read" in done.stderr or f"{path.name} differs" in done.stderr
    assert said == (damage is not remove)
    assert (copied.sandbox.shards(), copied.sandbox.asked()) == (finished.shards(), 0)


@pytest.mark.parametrize("damage", [remove, cut, empty, flip])
def test_a_damaged_checkpoint(
    tmp_path: Path,
    damage: Damage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(db3kd.student.training, "CHECKPOINT_SECONDS", 0.0)

    def stop(stage: str, done: int, total: int, figures: Any) -> None:
        if stage == "student-0" and done == 2:
            raise KeyboardInterrupt

    def distill(folder: Path, **options: Any) -> dict[str, Tensor]:
        with Run(folder, teacher(), **options) as run:
            transfer = run.label(TensorImages(IMAGES), SEARCH)
            network = build("small", (1, 4, 4), 3, 0.2, seed=0)
            return run.distill(network, transfer, TRAINING).state_dict()

    with pytest.raises(KeyboardInterrupt):
        distill(tmp_path / "run", progress=stop)
    (path,) = (tmp_path / "run").glob("students/*.checkpoint")
    damage(path)
    found, expected = distill(tmp_path / "run"), distill(tmp_path / "whole")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert ("the student is trained from the start" in caplog.text) == (damage is not remove)


# A full disk


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_nothing_is_lost(command: Command) -> None:
    one_shard = (*by("plain"), "label.shard=30", "label.queries=120")
    command.done("run", *one_shard, "run=whole")
    refusals = set()
    # The journal itself grows with every opening.
    for size in (0, 2000, 4000, 6000, 8000, 10_000, 12_000, 14_000, 16_000, 40_000):
        with full_disk(size):
            code, errors = command("run", *one_shard)
        if code == 0:
            break
        words = sentence(errors)
        assert code == 1
        assert "cannot be written" in words
        refusals.add(words.split()[1].rsplit("/", 1)[-1].partition("-")[0])
    assert {"journal.jsonl", "00000.tape"} <= refusals, refusals
    command.done("run", *one_shard)
    assert command.sandbox.shards() == command.sandbox.shards("whole")
    queries = status(command.sandbox.run)["queries"]
    whole = status(command.sandbox.folder / "whole")["queries"]
    assert queries["spent"] - queries["lost"] == whole["spent"]


def test_a_full_disk_while_a_student_is_saved(copied: Command, finished: Sandbox) -> None:
    for path in copied.sandbox.run.glob("students/*"):
        path.unlink()
    with full_disk(20_000):
        words = copied.refused("distill")
    assert "students/ce-0-" in words
    assert "cannot be written" in words
    copied.done("distill")
    assert copied.sandbox.shards() == finished.shards()


def test_a_folder_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="cannot be written"):
        Run(tmp_path / "file", teacher(), budget=Budget(queries=10))
    assert os.listdir(tmp_path) == ["file"]
