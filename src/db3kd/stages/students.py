"""Students of a run: each is trained once, kept, and compared with the teacher."""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch
from jaxtyping import Int
from msgspec.structs import replace
from torch import Tensor, nn

from db3kd.config.settings import Training
from db3kd.data import Images
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import Damaged, InputError
from db3kd.seeds import derive_seed
from db3kd.stages.answers import ask_once
from db3kd.stages.classes_met import tell_untaught
from db3kd.stages.formats import training_here
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import writing
from db3kd.storage.shards import write_shard
from db3kd.student.calibration import CascadeReport, cascade_report
from db3kd.student.card import StudentCard
from db3kd.student.evaluate import accuracy, agreement, check_trainable, logits
from db3kd.student.files import load_network, read_tensors, save_network
from db3kd.student.training import fitting, train, training_identity
from db3kd.teachers.base import unsure_of

CURVE = 100  # places of a loss curve in the journal
_log = logging.getLogger("db3kd")


@dataclass(frozen=True)
class Evaluation:
    """How a student did on `samples` test images.

    `agreement`: the share of images to which it gives the teacher's class. `accuracy` and
    `teacher_accuracy`: the shares to which student and teacher give the true class; None without
    ground truth. `unsure`: how many images the teacher did not know; they do not count for
    `agreement`, and as wrong for `teacher_accuracy`. `cascade`: the share of images passed on to
    the teacher against the agreement reached; None if a logit is not finite, or the student lacks
    a class of the teacher.
    """

    agreement: float
    accuracy: float | None
    teacher_accuracy: float | None
    samples: int
    unsure: int = 0
    cascade: CascadeReport | None = None


@dataclass(frozen=True)
class Untrained:
    """A student before its training: arguments are those of `Run.distill`."""

    network: nn.Module
    transfer: TransferSet
    training: Training
    seed: int
    name: str
    card: StudentCard | None = None

    def known(self, workspace: Workspace) -> tuple[Training, dict[str, str], str, str]:
        """How it is trained here, what it is known by, the digest of that, and its file.

        Raises:
            InputError: the network cannot be trained on these samples.
        """
        check_trainable(self.network, self.transfer.images.shape)
        training = training_here(workspace.journal, self.training)
        training = fitting(training, self.transfer, self.network)
        known = training_identity(self.network, self.transfer, training, self.seed)
        if self.card is not None and self.card.code:  # networks that look alike may be others
            known["code"] = self.card.code
        identity = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        file = f"students/{self.name}-{self.seed}-{identity[:8]}.safetensors"
        return training, known, identity, file


def train_elsewhere(workspace: Workspace, students: Iterable[Untrained]) -> None:
    """Have workers train those that are not trained yet; see `Run.train_elsewhere`."""
    if not workspace.executor.apart:
        return
    wanted = []
    for student in students:
        _, _, identity, file = student.known(workspace)
        if not (_is_finished(workspace, identity) and (workspace.folder / file).exists()):
            wanted.append((student.name, student.seed))
    if len(wanted) > 1:
        workspace.executor.train(workspace, wanted)


def distilled(workspace: Workspace, student: Untrained) -> nn.Module:
    """Train a student, or load it if the same training is finished; see `Run.distill`."""
    training, known, identity, file = student.known(workspace)
    network, transfer, card = student.network, student.transfer, student.card
    name, seed = student.name, student.seed
    path = workspace.folder / file
    checkpoint = path.with_suffix(".checkpoint")
    if path.exists() and _is_finished(workspace, identity) and _is_whole(path, "trained again"):
        checkpoint.unlink(missing_ok=True)  # a kill or a power cut may have left it
        return load_network(path, network).to(workspace.device).eval()
    if checkpoint.exists() and not _is_whole(checkpoint, "trained from the start"):
        checkpoint.unlink()
    with writing(path):
        path.parent.mkdir(exist_ok=True)

    def report(_: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        losses[done] = figures["loss"]
        workspace.progress(f"{name}-{seed}", done, total, figures)

    losses: dict[int, float] = {}
    started = time.perf_counter()
    trained = train(
        network,
        transfer,
        training,
        seed=seed,
        device=workspace.device,
        progress=report,
        checkpoint=checkpoint,
        identity=known,
    )
    save_network(path, trained, card and _trained(card, transfer, training, seed, name))
    workspace.note(
        "student",
        identity=identity,
        name=name,
        seed=seed,
        file=file,
        training=json.loads(msgspec.json.encode(training)),
        samples=len(transfer),
        seconds=round(time.perf_counter() - started, 3),
        network=type(network).__name__ if card is None else card.kind,
        parameters=sum(weight.numel() for weight in trained.parameters()),
        losses=_thinned(losses),
    )
    checkpoint.unlink(missing_ok=True)
    return trained


def evaluated(
    workspace: Workspace,
    network: nn.Module,
    images: Images,
    labels: Int[Tensor, " sample"] | None,
    *,
    seed: int,
    name: str,
) -> Evaluation:
    """Compare a student with the teacher, and with ground truth; see `Run.evaluate`."""
    theirs = ask_once(workspace, "evaluate", images)
    shown = logits(network, images, device=workspace.device)
    mine = shown.argmax(1)
    unsure = unsure_of(workspace.meter)
    known = theirs != (-1 if unsure is None else unsure)
    if not bool(known.any()):
        raise InputError(
            f"the teacher does not know the class of a single one of {len(images):,} test images,"
            " so nothing can agree with it"
        )
    tell_untaught(workspace, shown.shape[1], theirs)
    drawn = derive_seed(workspace.seed, "calibration")
    usable = bool(shown.isfinite().all()) and int(theirs[known].max()) < shown.shape[1]
    result = Evaluation(
        agreement(mine[known], theirs[known]),
        None if labels is None else accuracy(mine, labels),
        None if labels is None else accuracy(theirs, labels),
        len(images),
        int((~known).sum()),
        cascade_report(shown[known], theirs[known], seed=drawn) if usable else None,
    )
    file = f"predictions/{name}-{seed}.safetensors"
    digest = write_shard(workspace.folder / file, {"student": mine.to(torch.int32)})
    known_by = {"file": file, "sha256": digest}
    workspace.journal.append(
        "evaluation", name=name, seed=seed, predictions=known_by, **asdict(result)
    )
    return result


def _thinned(losses: Mapping[int, float]) -> list[tuple[int, float]]:
    """At most `CURVE` steps with the mean loss there, at even distances.

    >>> len(_thinned({step: 0.5 for step in range(1000)})), _thinned({9: 0.123456})
    (100, [(9, 0.1235)])
    """
    steps = sorted(losses)
    chosen = {place * (len(steps) - 1) // max(1, CURVE - 1) for place in range(CURVE)}
    return [(steps[at], round(losses[steps[at]], 4)) for at in sorted(chosen) if steps]


def _trained(
    card: StudentCard, transfer: TransferSet, training: Training, seed: int, name: str
) -> StudentCard:
    """The card of a student that was just trained."""
    origin = replace(
        card.origin,
        method=name,
        seed=seed,
        samples=len(transfer),
        training=msgspec.to_builtins(training),
        db3kd=version("db3kd"),
        torch=version("torch"),
    )
    return replace(card, origin=origin)


def _is_whole(path: Path, instead: str) -> bool:
    """Whether a file of a network is as it was written; students cost time, but no query."""
    try:
        read_tensors(path)
    except Damaged as error:
        _log.warning("%s; the student is %s", str(error).partition("; ")[0], instead)
        return False
    return True


def _is_finished(workspace: Workspace, identity: str) -> bool:
    return any(record["identity"] == identity for record in workspace.journal.all("student"))
