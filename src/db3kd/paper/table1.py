"""The paper's Table 1: the rows of a recipe, and those that need more than labels.

    python -m db3kd.paper.table1 examples/mnist_lenet5.toml --json docs/results/mnist_lenet5.json

First it does what `db3kd run` does. Then it adds two rows, with the same images, students, seeds
and run folder:

- "kd" is standard KD on the teacher's *scores*, at temperature 4 with weight 16 = tau^2 (Hinton et
  al., 2015). It is an upper reference, not available to db3kd's users.
- "noise" has robustness values without information: the measured MBD values, dealt out at random.

It can be stopped at any time and continues when it is started again.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from db3kd import job
from db3kd.cli.terminal import table
from db3kd.config.reading import read_recipe, resolved
from db3kd.config.recipe import Recipe
from db3kd.config.settings import Training
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Db3kdError, InputError
from db3kd.job.adapters import teacher_network
from db3kd.paper.baselines.noise_logits import noise_activations
from db3kd.paper.baselines.standard_kd import TEMPERATURE, tempered
from db3kd.progress import shown
from db3kd.seeds import derive_seed
from db3kd.storage.files import Json, write_atomically
from db3kd.teachers.base import micro_batches


def scores(network: nn.Module, transfer: TransferSet, *, device: str) -> Tensor:
    """The teacher's scores before softmax for a transfer set, which a label-only user never sees.

    One row for each sample, on the CPU. Costs no query. Nothing is random.

    >>> from db3kd.data import TensorImages
    >>> one = torch.zeros(1, dtype=torch.long)
    >>> transfer = TransferSet(TensorImages(torch.tensor([[[[0.2, 0.7]]]])), one, one, one)
    >>> scores(nn.Flatten(), transfer, device="cpu")  # each pixel is a score
    tensor([[0.2000, 0.7000]])
    """
    network = network.to(device).eval()
    with torch.inference_mode():
        parts = [
            network(transfer.images.read(rows).to(device)).cpu()
            for rows in micro_batches(torch.arange(len(transfer)), 256)
        ]
    return torch.cat(parts).clone()


def table1(recipe: Recipe, *, quiet: bool = False) -> Json:
    """Make the whole table: the methods of the recipe, "kd" and "noise".

    Costs what the recipe costs; the two further rows ask only for the test images. Random: all that
    the recipe's seeds decide.

    Raises:
        InputError: "mbd" is not among the methods of the recipe.
        Db3kdError: see `db3kd.job.verbs.run`.

    >>> from db3kd.config.recipe import DataConfig, StudentConfig, TeacherConfig
    >>> table1(Recipe(run="r", data=DataConfig(train="d"),
    ...               teacher=TeacherConfig(kind="onnx", file="t.onnx"),
    ...               student=StudentConfig(network="lenet5", methods=("ce",))))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: this table needs distances; name "mbd" in student.methods
    """
    if "mbd" not in recipe.student.methods:
        raise InputError('this table needs distances; name "mbd" in student.methods')
    with shown(quiet=quiet) as progress:
        summary = job.run(recipe, progress=progress)
        with job.opened(recipe, progress) as at_work:
            plain = at_work.transfer("ce")
            found = at_work.run.distances("mbd")
            draw = torch.Generator().manual_seed(derive_seed(recipe.seed, "noise logits"))
            dealt = noise_activations(found.distance, found.teacher_labels, generator=draw)
            teacher = teacher_network(recipe, at_work.own, progress)
            known = scores(teacher, plain, device=recipe.device)
            wanted = recipe.student.training
            hot = tempered(wanted, TEMPERATURE)
            rows: list[tuple[str, Tensor, Training]] = [
                ("noise", dealt, wanted),
                ("kd", known, hot),
            ]
            for name, soft, training in rows:
                summary["methods"][name] = _row(at_work, name, replace(plain, soft=soft), training)
    return summary


def _row(at_work: job.Job, name: str, transfer: TransferSet, training: Training) -> Json:
    student = at_work.recipe.student
    row: Json = {"accuracy": [], "agreement": [], "seeds": [], "training_s": []}
    for seed in student.seeds:
        network = at_work.network(seed)
        network = at_work.run.distill(network, transfer, training, seed=seed, name=name)
        figures = at_work.run.evaluate(
            network, at_work.test.images, at_work.test.labels, name=name, seed=seed
        )
        row["accuracy"].append(figures.accuracy)
        row["agreement"].append(figures.agreement)
        row["seeds"].append(seed)
        row["training_s"].append(at_work.run.costs.training_seconds(name, seed))
    return {**row, "queries": len(transfer), "label_s": 0.0}


def provenance(recipe: Recipe) -> Json:
    """How the figures were made: command, commit, date, seed, machine, versions and recipe."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    device = torch.cuda.get_device_name() if recipe.device.startswith("cuda") else "CPU"
    return {
        "command": "python -m db3kd.paper.table1 " + " ".join(sys.argv[1:]),
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%d"),
        "seed": recipe.seed,
        "machine": f"{device}, {torch.get_num_threads()} threads, {platform.machine()}",
        "versions": {"db3kd": version("db3kd"), "torch": str(torch.__version__)},
        "recipe": resolved(recipe),
    }


def main() -> None:
    """Make the table of one recipe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", "-s", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    try:
        recipe = read_recipe(arguments.recipe, arguments.set)
        summary = {**table1(recipe), **provenance(recipe)}
        del summary["run"]
    except Db3kdError as error:
        raise SystemExit(f"db3kd: {error}") from None
    if arguments.json:
        write_atomically(arguments.json, json.dumps(summary, indent=1).encode() + b"\n")
    sys.stdout.write(table(summary) + "\n")


if __name__ == "__main__":
    main()
