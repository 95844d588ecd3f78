"""The students of `labels.py`: how accurate they become from these labels alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import msgspec
from torch import Tensor

import common
from db3kd.config.settings import Training
from db3kd.data import DataSet
from db3kd.data.transfer_set import TransferSet
from db3kd.storage.files import write_atomically
from db3kd.student.evaluate import accuracy, predict
from db3kd.student.networks import build
from db3kd.student.soft_labels import concentrate, reciprocal_activations
from db3kd.student.training import train
from stale import STUDENT, digest

BATCH = 32
FIRST_SEED = 1  # the teacher's first weights are those of seed 0


@dataclass(frozen=True)
class Pupil:
    """A student of the paper (section 4.1), and the number of its training steps."""

    network: str
    width: float
    steps: int

    def training(self, images: int) -> Training:
        """The default training, rate and Eq. 1 included, with as many epochs as make the steps."""
        return Training(epochs=max(1, self.steps // -(-images // BATCH)), batch=BATCH)


PUPILS = {  # by the teacher's network
    "lenet5": Pupil("lenet5", 0.5, 1000),
    "alexnet": Pupil("alexnet", 0.25, 400),
}


def with_labels(plain: TransferSet, distance: Tensor | None) -> TransferSet:
    """Soft labels as a run makes them, by Eq. 6 and 7; without distances, the answers alone."""
    if distance is None:
        return plain.with_soft(None)
    return plain.with_soft(
        concentrate(reciprocal_activations(distance, plain.teacher_labels), plain.teacher_labels)
    )


def taught(
    pupil: Pupil, transfer: TransferSet, test: DataSet, *, seeds: int, folder: Path, name: str
) -> list[float]:
    """Accuracy of a student on the test images for each seed, after the last epoch.

    Results are kept in the folder under the name; a seed that is there is not trained again.
    """
    training = pupil.training(len(transfer))
    parts = [json.dumps(asdict(pupil)).encode(), msgspec.json.encode(training)]
    file = folder / f"{name}-student-{digest(STUDENT, *parts)}.json"
    known: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    wanted = [str(seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    for seed in wanted:
        if seed in known:
            continue
        shape, classes = test.images.shape, len(test.classes)
        net = build(pupil.network, shape, classes, pupil.width, seed=int(seed))
        train(net, transfer, training, seed=int(seed), device="cpu")
        known[seed] = accuracy(predict(net, test.images, device="cpu", batch=256), test.labels)
        write_atomically(file, json.dumps(known).encode())
    return [known[seed] for seed in wanted]


def line(accuracies: Sequence[float]) -> common.Json:
    """Mean over the seeds, and their standard deviation if there are several."""
    found: common.Json = {"student": round(mean(accuracies), 4)}
    if len(accuracies) > 1:
        found["student_spread"] = round(stdev(accuracies), 4)
    return {**found, "students": [round(each, 4) for each in accuracies]}
