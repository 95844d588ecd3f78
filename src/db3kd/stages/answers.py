"""The stages that ask once for the class of every image: own images and test images.

A few images may be asked first, so that a teacher that makes no sense is found out early. They are
a stage of their own, and are not asked again.
"""

import logging

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.data import Images, Rows, check_images
from db3kd.data.labelled import labels_of
from db3kd.errors import InputError
from db3kd.seeds import derive_seed
from db3kd.stages.identity import agree_on_images
from db3kd.stages.table import ANSWERS_SHARD, FIRST
from db3kd.stages.taped import ReplayTeacher, question_key
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json

HARDLY_ANY = 0.02  # of the bounds
ENDS = 16  # images at each end, whose pixels are compared where contents cannot be

_log = logging.getLogger("db3kd")


def ask_once(workspace: Workspace, stage: str, images: Images) -> Int[Tensor, " sample"]:
    """Ask for the teacher's class of every image, once in the life of the run.

    `stage` is "answers" or "evaluate". Costs one query for each image that was not asked before.

    Raises:
        InputError: no images, or images that are not finite or out of bounds.
        ConfigurationDiffers: other images than before.
        BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
    """
    check_any(images)
    _agree(workspace, stage, images)
    known, answered = _asked_first(workspace, stage, images)

    def work(teacher: ReplayTeacher, rows: Tensor, _: int) -> tuple[dict[str, Tensor], Json]:
        block = images.read(rows)
        check_images(block, teacher.bounds, first=int(rows[0]))
        there = torch.isin(rows, known)
        found = torch.empty(len(rows), dtype=torch.int32)
        found[there] = answered[torch.isin(known, rows)].to(torch.int32)
        if not bool(there.all()):
            asked = teacher.labels(block[~there].to(workspace.device))
            found[~there] = asked.cpu().to(torch.int32)
        return {"own": found}, {}

    workspace.work(stage, len(images), ANSWERS_SHARD, 1, work, apart=True)
    return _answers(workspace, stage)


def ask_first(
    workspace: Workspace, stage: str, images: Images, count: int
) -> tuple[Int[Tensor, " some"], Int[Tensor, " some"]]:
    """Ask about at most `count` images before the others; returns their rows and classes.

    `ask_once` takes these answers as they are. Nothing is asked, and nothing returned, if `stage`
    was begun without. Costs one query for each that was not asked before. Random by the run's seed:
    which images.

    Raises:
        InputError, ConfigurationDiffers, BudgetExhausted, TeacherError: as `ask_once`.
    """
    check_any(images)
    place = workspace.within(FIRST)
    if not place.configuration(stage) and workspace.configuration(stage):
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    if workspace.configuration(stage):  # all of them tell better what changed than these few
        _agree(workspace, stage, images)
    recorded = place.configuration(stage).get("samples", min(count, len(images)))
    rows = _first_rows(workspace, len(images), min(recorded, len(images)))
    return rows, ask_once(place, stage, Rows(images, rows))


def _asked_first(
    workspace: Workspace, stage: str, images: Images
) -> tuple[Int[Tensor, " some"], Int[Tensor, " some"]]:
    """What `ask_first` returned, if it was called; what it has left open is asked."""
    count = workspace.within(FIRST).configuration(stage).get("samples", 0)
    if not count:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    return ask_first(workspace, stage, images, count)


def _first_rows(workspace: Workspace, samples: int, count: int) -> Int[Tensor, " some"]:
    """At random, since images often come sorted by class."""
    draw = torch.Generator().manual_seed(derive_seed(workspace.seed, FIRST))
    return torch.randperm(samples, generator=draw)[:count].sort().values


def _answers(workspace: Workspace, stage: str) -> Int[Tensor, " sample"]:
    done = workspace.done(stage)
    return torch.cat([workspace.read(done[n])["own"] for n in sorted(done)]).long()


def _agree(workspace: Workspace, stage: str, images: Images) -> None:
    """Record the images of a stage, or insist on those that are recorded."""
    block = images.read(_ends(len(images)))
    check_images(block, workspace.meter.bounds)
    _compare_units(block, workspace.meter.bounds)
    known = {
        "samples": len(images),
        "shape": list(images.shape),
        "images": workspace.digests.of_images(images, ANSWERS_SHARD),
        "ends": question_key(block),
    }
    begun = _begun(workspace, stage)
    agree_on_images(workspace.folder, workspace.journal, workspace.named(stage), known, begun)


def check_any(images: Images) -> None:
    """Refuse an empty set.

    Raises:
        InputError: there are no images.
    """
    if not len(images):
        raise InputError("there are no images")


def check_labels(labels: object, *, count: int, classes: int) -> Int[Tensor, " sample"] | None:
    """Ground truth as int64, if it fits the images and the teacher; None is always fine.

    `labels`: as `labels_of` takes them.

    Raises:
        InputError: they are no labels, the numbers of labels and images differ, or a label is not
            a class.

    >>> check_labels(torch.tensor([0, 3]), count=2, classes=3)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: label 3 in row 1 is not a class of the teacher, which has 3 classes
    """
    if labels is None:
        return None
    found = labels_of(labels)
    if len(found) != count:
        raise InputError(f"{count:,} images need as many labels, got {len(found):,}")
    wrong = (found < 0) | (found >= classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"label {int(found[row])} in row {row} is not a class of the teacher, which has"
            f" {classes} classes"
        )
    return found


def _compare_units(images: Float[Tensor, "row *image"], bounds: tuple[float, float]) -> None:
    """Warn where images fill hardly any of the bounds, as those of 0 to 1 do of 0 to 255."""
    (low, high), highest = bounds, float(images.max())
    if highest - low < (high - low) * HARDLY_ANY:
        _log.warning(
            "the images hold values up to %.4g, but the teacher's bounds are %.4g to %.4g; scale"
            " them, or give the bounds that they have",
            highest,
            low,
            high,
        )


def _begun(workspace: Workspace, stage: str) -> set[int]:
    """The shards of which something was asked."""
    done = workspace.done(stage)
    begun = set(done)
    name = workspace.named(stage)
    if workspace.meter.by_stage.get(name, 0) > sum(record["queries"] for record in done.values()):
        begun |= {int(at.stem) for at in (workspace.folder / name).glob("[0-9]*.tape")}
    return begun


def _ends(count: int) -> Int[Tensor, " row"]:
    """A few rows from both ends."""
    return torch.cat([torch.arange(min(ENDS, count)), torch.arange(max(0, count - ENDS), count)])
