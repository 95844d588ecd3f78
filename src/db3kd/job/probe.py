"""Known images that are asked again where nothing else tells whether a teacher is the same."""

import logging
import time
from pathlib import Path

import torch

from db3kd.data import Images
from db3kd.errors import ConfigurationDiffers
from db3kd.job.money import charged, sent
from db3kd.job.teacher import TeacherPipeline
from db3kd.run import Run
from db3kd.stages.accounts import finished
from db3kd.storage.shards import read_shard
from db3kd.teachers.base import STATE, Teacher

PROBES = 4  # images
_log = logging.getLogger("db3kd")


def arm(run: Run, pipeline: TeacherPipeline, images: Images, *, most: int) -> None:
    """Have a few known images asked again before the first question that a continued run buys.

    Only if the teacher cannot be compared in another way: a service that says nothing of its model.
    They are booked in the store, and paid out of the run's money. Where there is a budget, they are
    asked only if it has room for them beyond `most`, all that the run may ask.
    """
    done = finished(run.journal, "answers")
    silent = not any(not name.startswith(STATE) for name in pipeline.parts)
    if done and silent and _room(run, pipeline, most):
        record = done[min(done)]
        answers = read_shard(run.folder / record["file"], record["sha256"])["own"].long()
        rows = torch.linspace(0, len(answers) - 1, min(PROBES, len(answers))).long()
        run.meter.before_asking = lambda: compare(
            pipeline.again(f" probe {time.time_ns()}"),
            images.read(rows).to(run.device),
            answers[rows],
            run.folder,
        )


def _room(run: Run, pipeline: TeacherPipeline, most: int) -> bool:
    """Whether the budgets pay for known images, too."""
    store, account = pipeline.store, pipeline.account
    if store is None:
        return False
    own = store.books(pipeline.identity, run=account.run)
    beside = sent(store.books(run=account.run)) - own["answered"]  # lost ones, earlier known images
    budget, purse = run.meter.budget.queries, account.purse
    if budget is not None and budget < most + beside + PROBES:
        return False
    if purse is None or purse.most is None:
        return True
    return purse.most >= most + charged(purse, store, account) - own["answered"] + PROBES


def compare(teacher: Teacher, images: torch.Tensor, answers: torch.Tensor, folder: Path) -> None:
    """Ask for known images, and insist on their answers; costs one query each.

    Raises:
        ConfigurationDiffers: the teacher answers otherwise than before.

    >>> from db3kd.teachers import function
    >>> dark = function(lambda images: images.flatten(1).mean(1) < 0.5, classes=2)
    >>> compare(dark, torch.ones(4, 1, 2, 2), torch.tensor([1, 1, 1, 0]), Path("runs/a"))
    Traceback (most recent call last):
    ...
    db3kd.errors.ConfigurationDiffers: the teacher answers 3 of 4 known images otherwise than when
    runs/a was begun, so it is another one; ...
    """
    differ = int((teacher.labels(images).cpu() != answers).sum())
    _log.info("%s known images were asked again: nothing tells the model's version", len(answers))
    if differ:
        raise ConfigurationDiffers(
            f"the teacher answers {differ} of {len(answers)} known images otherwise than when"
            f" {folder} was begun, so it is another one; use another folder, or set teacher.noise"
            " if its answers change from time to time"
        )
