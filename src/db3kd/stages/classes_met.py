"""Which classes there are, where the teacher's answers name them, and which it hardly ever gave."""

import logging

import torch
from jaxtyping import Int
from torch import Tensor

from db3kd.config.settings import Synthesis, Ways
from db3kd.data.transfer_set import TransferSet
from db3kd.errors import InputError, plain
from db3kd.stages.answers import check_labels
from db3kd.stages.workspace import Workspace
from db3kd.teachers.base import Teacher, known_of, met_of, unsure_of

FINDING: tuple[Ways, ...] = (
    "chosen", "latent", "shapes", "noise", "public", "unrelated", "unrelated_chosen",
)  # ways that need not know the classes  # fmt: skip
RARE = 5  # samples of a class that are too few to learn it from
_log = logging.getLogger("db3kd")


def check_way(teacher: Teacher, settings: Synthesis) -> None:
    """Refuse a way that aims at given classes where these are found.

    Raises:
        InputError: it is such a way.

    >>> from db3kd.teachers import function
    >>> check_way(function(lambda images: ["cat"] * len(images)), Synthesis(way="ascent"))
    Traceback (most recent call last):
    ...
    db3kd.errors.InputError: synthesis.way 'ascent' makes images for classes that are known, but ...
    """
    if met_of(teacher) is not None and settings.way not in FINDING:
        raise InputError(
            f"synthesis.way {settings.way!r} makes images for classes that are known, but those of"
            " this teacher are found as it answers; give them (teacher.classes), or take another"
            f" way ({', '.join(FINDING)})"
        )


def check_labels_of(
    teacher: Teacher, labels: object, *, count: int
) -> Int[Tensor, " sample"] | None:
    """Ground truth as int64, if it fits the images and a teacher; None is always fine.

    Raises:
        InputError: as `check_labels`; or the classes are found, so that they have no numbers yet.
    """
    if labels is not None and met_of(teacher) is not None:
        raise InputError(
            "labels are numbers of classes, but this teacher's classes are found as it answers;"
            " give them when the teacher is made, or leave the labels out"
        )
    return check_labels(labels, count=count, classes=teacher.classes)


def learnable(workspace: Workspace, samples: TransferSet) -> TransferSet:
    """The samples that students learn from: not those whose class the teacher does not know.

    Where classes are found, those after the last that an answer names go as well: students have
    an output for each of the others, whatever other images are found to be.

    Raises:
        InputError: no sample is left, or all are of one class that was found.
    """
    teacher = workspace.meter
    met = met_of(teacher)
    if met is None:
        return samples.without(unsure_of(teacher))
    count = taught(teacher, samples)
    if count == 1:
        raise InputError(
            f"the teacher calls all images {plain(met[0], 60)!r}, and a student needs two classes;"
            " give it other images to learn from, in another folder"
        )
    return samples.without(count)


def taught(teacher: Teacher, samples: TransferSet) -> int:
    """How many classes students have that learn from these samples; what it knows if it says so.

    Where classes are found they are those up to the last that an answer to a sample names. So
    what is met elsewhere, in test images for example, changes no student.
    """
    if met_of(teacher) is None:
        return known_of(teacher)
    answers = samples.teacher_labels[samples.labels >= 0]  # the others are an ensemble's
    answers = answers[answers != unsure_of(teacher)]
    return int(answers.max()) + 1 if len(answers) else 0


def tell_untaught(workspace: Workspace, outputs: int, answers: Int[Tensor, " image"]) -> None:
    """Name classes of test images that were met too late for a student of so many outputs."""
    met = met_of(workspace.meter) or ()
    late = [int((answers == number).sum()) for number in range(outputs, len(met))]
    if any(late):
        named = ", ".join(repr(plain(name, 60)) for name in met[outputs:][:10])
        _log.warning(
            "%s test images are of classes that the teacher gave to no image that this student"
            " learned from (%s), so it is wrong on these",
            f"{sum(late):,}",
            named,
        )


def counts(workspace: Workspace) -> Int[Tensor, " classes"]:
    """How many pseudo samples, copies included, the teacher gave each class."""
    whole = torch.zeros(workspace.meter.classes, dtype=torch.int64)
    for stage in ("synthesis", "ascent", "copies"):
        for record in workspace.done(stage).values():
            whole += torch.tensor(record["counts"])
    return whole


def warn_of_missing(workspace: Workspace) -> None:
    """Name the classes that the teacher gave to no pseudo sample, or to very few."""
    met, unsure = counts(workspace), unsure_of(workspace.meter)
    names = met_of(workspace.meter)
    if unsure is not None:
        whole, unknown = int(met.sum()), int(met[unsure])
        if 2 * unknown > whole:
            _log.warning(
                "the teacher did not know the class of %s of %s pseudo samples, so students learn"
                " from the other %s",
                f"{unknown:,}",
                f"{whole:,}",
                f"{whole - unknown:,}",
            )
        met = met[:unsure] if names is None else met[: len(names)]
    missing, rare = (met == 0).nonzero()[:, 0].tolist(), ((met > 0) & (met < RARE)).nonzero()[:, 0]
    if missing:
        _log.warning(
            "no pseudo sample is of class %s (%s of %s classes), so students cannot learn these",
            _named(missing, names),
            len(missing),
            len(met),
        )
    if len(rare):
        _log.warning(
            "fewer than %s pseudo samples each are of class %s, so students hardly learn these",
            RARE,
            _named(rare.tolist(), names),
        )


def _named(classes: list[int], names: tuple[str, ...] | None) -> str:
    called = map(str, classes[:10]) if names is None else (repr(names[k]) for k in classes[:10])
    return ", ".join(called) + (", ..." if len(classes) > 10 else "")
