"""The stages that ask once for the class of every image: own images and test images."""

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.data import Images, check_images
from db3kd.errors import InputError
from db3kd.stages.identity import agree_on_images
from db3kd.stages.table import ANSWERS_SHARD
from db3kd.stages.taped import ReplayTeacher, question_key
from db3kd.stages.workspace import Workspace
from db3kd.storage.files import Json

ENDS = 16  # images at each end, whose pixels are compared where contents cannot be


def ask_once(workspace: Workspace, stage: str, images: Images) -> Int[Tensor, " sample"]:
    """Ask for the teacher's class of every image, once in the life of the run.

    `stage` is "answers" or "evaluate". Costs one query for each image that was not asked before.

    Raises:
        InputError: no images, or images that are not finite or out of bounds.
        ConfigurationDiffers: other images than before.
        BudgetExhausted, TeacherError: from the teacher; what was answered is kept.
    """
    check_any(images)
    block = images.read(_ends(len(images)))
    check_images(block, workspace.meter.bounds)
    known = {
        "samples": len(images),
        "shape": list(images.shape),
        "images": workspace.digests.of_images(images, ANSWERS_SHARD),
        "ends": question_key(block),
    }
    agree_on_images(workspace.folder, workspace.journal, stage, known, _begun(workspace, stage))

    def work(teacher: ReplayTeacher, rows: Tensor, _: int) -> tuple[dict[str, Tensor], Json]:
        block = images.read(rows)
        check_images(block, teacher.bounds, first=int(rows[0]))
        return {"own": teacher.labels(block.to(workspace.device)).cpu().to(torch.int32)}, {}

    workspace.work(stage, len(images), ANSWERS_SHARD, 1, work)
    done = workspace.done(stage)
    return torch.cat([workspace.read(done[n])["own"] for n in sorted(done)]).long()


def check_any(images: Images) -> None:
    """Refuse an empty set.

    Raises:
        InputError: there are no images.
    """
    if not len(images):
        raise InputError("there are no images")


def check_labels(labels: Int[Tensor, " sample"] | None, *, count: int, classes: int) -> None:
    """Refuse ground truth that does not fit the images or the teacher; None is always fine.

    Raises:
        InputError: the numbers of labels and images differ, or a label is not a class.

    >>> check_labels(torch.tensor([0, 3]), count=2, classes=3)
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: label 3 in row 1 is not a class of the teacher, which has 3 classes
    """
    if labels is None:
        return
    if len(labels) != count:
        raise InputError(f"{count:,} images need as many labels, got {len(labels):,}")
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"label {int(labels[row])} in row {row} is not a class of the teacher, which has"
            f" {classes} classes"
        )


def _begun(workspace: Workspace, stage: str) -> set[int]:
    """The shards of which something was asked."""
    done = workspace.done(stage)
    begun = set(done)
    if workspace.meter.by_stage.get(stage, 0) > sum(record["queries"] for record in done.values()):
        begun |= {int(at.stem) for at in (workspace.folder / stage).glob("[0-9]*.tape")}
    return begun


def _ends(count: int) -> Int[Tensor, " row"]:
    """A few rows from both ends."""
    return torch.cat([torch.arange(min(ENDS, count)), torch.arange(max(0, count - ENDS), count)])
