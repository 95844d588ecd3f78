"""The command line as its users meet it: processes, exit codes, stdout and stderr."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import Sandbox, make_sandbox
from db3kd.search.descent.tangent import CPU_POINTS

VERBS = ("run", "label", "distill", "evaluate", "status")
HEAVY = {"torch", "numpy", "pyarrow", "PIL", "sklearn"}


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, digits: Path
) -> tuple[Sandbox, subprocess.CompletedProcess[str]]:
    """A finished run (not to be changed), and what the command said."""
    sandbox = make_sandbox(tmp_path_factory.mktemp("cli") / "done", digits)
    return sandbox, sandbox.call("run", "recipe.toml", "--json")


@pytest.fixture
def copy(
    done: tuple[Sandbox, subprocess.CompletedProcess[str]], tmp_path: Path, digits: Path
) -> Sandbox:
    """A finished run that a test may change."""
    shutil.copytree(done[0].folder, tmp_path / "copy")
    return Sandbox(tmp_path / "copy", digits)


def one_line(text: str) -> str:
    """The text, if it is one sentence on one line."""
    assert "Traceback" not in text
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text.rstrip()


def with_status(sandbox: Sandbox) -> Any:
    said = sandbox.call("status", "run", "--json")
    assert (said.returncode, said.stderr) == (0, "")
    return json.loads(said.stdout)


# Results and progress


def test_a_run_prints_its_result_to_stdout_and_progress_to_stderr(
    done: tuple[Sandbox, subprocess.CompletedProcess[str]],
) -> None:
    sandbox, said = done
    assert said.returncode == 0, said.stderr
    result = json.loads(said.stdout)  # nothing else is there
    assert (
        result["queries"]["spent"]
        == sandbox.asked()
        == result["queries"]["by_stage"]["answers"]
        + result["queries"]["by_stage"]["distances"]
        + result["queries"]["by_stage"]["evaluate"]
    )
    assert set(result["methods"]) == {"ce", "mbd"}
    assert len(result["methods"]["mbd"]["accuracy"]) == 1
    assert result["methods"]["ce"]["queries"] == result["samples"] == 30
    assert result == json.loads((sandbox.run / "summary.json").read_text())
    lines = said.stderr.splitlines()
    assert lines[0] == "db3kd 0.1.0: run recipe.toml"
    assert "teacher: scikit-learn svm_teacher:make; students: small by ce, mbd, 1 seed" in lines[1]
    assert lines[2] == "everything goes to run; the same command again continues it"
    assert lines[3].startswith("db3kd: at most 16,")
    for part in ("distances: 100%", "queries", "evaluate: 100%"):
        assert part in said.stderr
    assert "queries=60" not in said.stderr  # only where all settings are asked for
    assert "Traceback" not in said.stderr


def test_status_is_json_for_a_program(
    done: tuple[Sandbox, subprocess.CompletedProcess[str]],
) -> None:
    found = with_status(done[0])
    assert found["stage"] == "done"
    assert found["stages"]["distances"] == {"shards": 5, "done": 5, "pending": 0}
    assert found["queries"]["spent"] == done[0].asked()
    assert (found["queries"]["reserved"], found["queries"]["budget"]) == (0, None)
    assert [figure["name"] for figure in found["figures"]] == ["ce", "mbd"]
    assert 0.5 < found["figures"][0]["teacher_accuracy"] <= 1


def test_status_is_text_for_a_person(
    done: tuple[Sandbox, subprocess.CompletedProcess[str]],
) -> None:
    said = done[0].call("status", "run")
    lines = said.stdout.splitlines()
    assert (said.returncode, said.stderr, lines[0]) == (0, "", "run: done")
    assert "  distances  5 of 5 shards" in lines
    assert f"{done[0].asked():,}, no budget (0 reserved, 0 lost)" in lines[4]
    assert lines[-1].startswith("  mbd seed 0: accuracy ")


def test_a_finished_run_is_run_again_for_nothing(copy: Sandbox) -> None:
    before, asked = copy.shards(), copy.asked()
    said = copy.call("run", "recipe.toml", "--quiet")
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines()[0].split() == [
        *("method", "accuracy", "%", "agreement", "%", "95", "%", "interval"),
        *("queries", "label", "s", "train", "s"),
    ]
    assert f"{asked:,} queries spent; everything is in run" in said.stdout.splitlines()
    assert "db3kd predict run/students/mbd-0-" in said.stdout
    assert (copy.shards(), copy.asked()) == (before, asked)


def test_overrides_are_part_of_the_run(copy: Sandbox) -> None:
    asked = copy.asked()
    said = copy.call(
        *("distill", "recipe.toml", "--json", "-v", "-s", "student.methods=['ce']"),
        *("--set", "student.training.epochs=2"),
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["students"] == ["ce"]
    assert copy.asked() == asked
    assert "epochs=2" in said.stderr
    assert len(list(copy.run.glob("students/ce-0-*.safetensors"))) == 2
    refused = copy.call("label", "recipe.toml", "-q", "-s", "label.probes=30")
    assert refused.returncode == 1
    assert "label.probes" in one_line(refused.stderr) or "probes: 20 -> 30" in refused.stderr
    assert copy.asked() == asked


def test_a_quick_look_has_a_folder_of_its_own_and_says_what_it_is(copy: Sandbox) -> None:
    before = (copy.run / "summary.json").read_bytes()
    said = copy.call("run", "recipe.toml", "--quick", "-s", "student.methods=['ce']")
    assert said.returncode == 0, said.stderr
    assert "(a quick look: 300 steps)" in said.stderr
    assert "This is a quick look at 300 steps: the figures are low." in said.stdout
    found = json.loads((copy.folder / "run-quick" / "summary.json").read_text())
    assert found["quick"] is True
    assert (found["samples"], found["test_samples"]) == (30, 50)  # all, since there are few
    assert (copy.run / "summary.json").read_bytes() == before
    assert "quick" not in json.loads(before)


# Stopping and continuing


def test_an_exhausted_budget_is_exit_3_and_a_larger_one_goes_on(
    done: tuple[Sandbox, subprocess.CompletedProcess[str]], sandbox: Sandbox
) -> None:
    said = sandbox.call("label", "recipe.toml", "-q", "-s", "budget.queries=2000")
    assert (said.returncode, said.stdout) == (3, "")
    assert "the budget of 2,000 queries is exhausted" in one_line(said.stderr)
    spent = with_status(sandbox)["queries"]
    assert sandbox.asked() == spent["spent"] <= 2000 == spent["budget"]
    price = json.loads(done[1].stdout)["queries"]["spent"]
    said = sandbox.call("run", "recipe.toml", "-s", f"budget.queries={price}")
    assert said.returncode == 0, said.stderr
    assert f"{price:,} of {price:,} queries spent" in said.stdout
    assert (sandbox.shards(), sandbox.asked()) == (done[0].shards(), price)


STUBBORN = """
import svm_teacher


class Stubborn(svm_teacher.Counted):
    def predict(self, images):
        try:
            return super().predict(images)
        except BaseException:  # as some clients do; Python itself does within a destructor
            return super().predict(images)


def make():
    return Stubborn(svm_teacher.make().svm)
"""


@pytest.mark.slow
def test_an_interrupt_that_the_teacher_swallows_is_heeded_all_the_same(sandbox: Sandbox) -> None:
    sandbox.write("stubborn.py", STUBBORN)
    process = sandbox.start(
        "run", "recipe.toml", "-q", "-s", "teacher.factory=stubborn:make", pause=0.5
    )
    while sandbox.asked() < 500 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert one_line(err) == "db3kd: interrupted; everything is saved, run the command again"


def test_an_interrupt_while_python_makes_code_of_a_text_has_the_same_exit_code(
    sandbox: Sandbox,
) -> None:
    sandbox.write(
        "early.py",
        "from db3kd.cli import main\n"
        "main.app = lambda *_, **__: exec('raise KeyboardInterrupt')\n"
        "main.main([])\n",
    )
    command = [sys.executable, "-m", "early"]
    said = subprocess.run(command, cwd=sandbox.folder, stderr=subprocess.PIPE, text=True)
    assert said.returncode == 130
    assert one_line(said.stderr) == "db3kd: interrupted; everything is saved, run the command again"


def test_interrupted_everything_is_saved(
    done: tuple[Sandbox, subprocess.CompletedProcess[str]], sandbox: Sandbox
) -> None:
    before = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        process = sandbox.start("run", "recipe.toml", "--quiet", pause=0.01)
        until = time.monotonic() + 120
        while sandbox.asked() < before + 1500 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate()
        assert (process.returncode, out) == (130, ""), err
        assert one_line(err) == "db3kd: interrupted; everything is saved, run the command again"
        assert before + 1500 <= sandbox.asked() < done[0].asked()
        before = sandbox.asked()
    said = sandbox.call("run", "recipe.toml", "--json")
    assert said.returncode == 0, said.stderr
    queries = json.loads(said.stdout)["queries"]
    assert sandbox.shards() == done[0].shards()
    assert queries["spent"] == sandbox.asked() <= done[0].asked() + 2 * CPU_POINTS


def test_distill_before_label_asks_nothing(sandbox: Sandbox) -> None:
    said = sandbox.call("distill", "recipe.toml", "--quiet")
    assert (said.returncode, said.stdout) == (1, "")
    assert "not labelled yet" in one_line(said.stderr)
    assert sandbox.asked() == 0


def test_a_folder_without_a_run_is_exit_1(sandbox: Sandbox) -> None:
    said = sandbox.call("status", "nowhere")
    assert (said.returncode, said.stdout) == (1, "")
    assert one_line(said.stderr) == "db3kd: there is no run in nowhere"


# Usage


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("label", "nowhere.toml"), "nowhere.toml: cannot be read (No such file or directory)"),
        (("label", "recipe.tml"), "; did you mean recipe.toml?"),
        (("label", "misspelt.toml"), "misspelt.toml:14: unknown key 'refrences' in [label]; did"),
        (("label", "recipe.toml", "-s", "label.metric=mbdd"), "did you mean 'mbd'"),
        (("label", "recipe.toml", "-s", "nonsense"), "--set nonsense: give KEY=VALUE"),
        (("label", "recipe.toml", "--frobnicate"), "--frobnicate"),
        (("label",), "--recipe requires an argument"),
        (("lable", "recipe.toml"), "lable"),
        (("status",), "--folder requires an argument"),
    ],
)
def test_wrong_usage_is_exit_2(sandbox: Sandbox, words: Any, sentence: str) -> None:
    text = (sandbox.folder / "recipe.toml").read_text()
    sandbox.write("misspelt.toml", text.replace("references", "refrences"))
    said = sandbox.call(*words)
    assert (said.returncode, said.stdout) == (2, "")
    assert sentence in said.stderr
    assert "Traceback" not in said.stderr
    assert not sandbox.run.exists()


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_verb_has_help(sandbox: Sandbox, verb: str) -> None:
    said = sandbox.call(*filter(None, (verb, "--help")))
    assert (said.returncode, said.stderr) == (0, "")
    assert f"Usage: db3kd {verb or 'COMMAND'}" in said.stdout


def test_without_a_verb_there_is_help_and_the_version_is_one_line(sandbox: Sandbox) -> None:
    said = sandbox.call()
    assert (said.returncode, said.stderr) == (0, "")
    assert "Usage: db3kd COMMAND" in said.stdout
    for example in ("db3kd check recipe.toml", "db3kd run recipe.toml --quick"):
        assert example in said.stdout
    said = sandbox.call("--version")
    assert (said.returncode, said.stdout) == (0, "0.1.0\n")


@pytest.mark.parametrize(
    "words", [("--help",), ("run", "--help"), ("label", "nowhere.toml"), ("lable",)]
)
def test_what_needs_no_torch_loads_none(words: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom db3kd.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    sys.stderr.write('\\n' + ' '.join(sys.modules))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert "db3kd.cli.main" in said.stderr.split()
    assert set(said.stderr.split()) & HEAVY == set()


def test_help_is_there_at_once() -> None:
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "db3kd", "--help"], capture_output=True, check=True)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1.5  # 0.3 s on a quiet machine; half a second is what we want


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_an_interrupt_while_python_ends_is_quiet(tmp_path: Path) -> None:
    code = """
import atexit, signal
from db3kd.cli.main import main
atexit.register(signal.raise_signal, signal.SIGINT)
main(["--version"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_table_of_the_paper_is_printed_and_says_what_is_missing(tmp_path: Path) -> None:
    words = ["reproduce", "table4", "--scale", "smoke", "--folder", str(tmp_path), "--minutes", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "db3kd", *words, "-q"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "| Standard KD | yes | Black-S | not run (77.81) |" in done.stdout
    assert "run the command again to go on" in done.stderr
    assert (tmp_path / "smoke" / "table4.csv").exists()
