"""How many steps a training has."""

import math

from db3kd.config.settings import Training

LEAST = 500  # steps
ROOT = 20  # steps for each root of the number of samples


def steps_of(training: Training, samples: int) -> int:
    """How many batches a whole training has.

    They are `training.steps`, or follow from `training.epochs`. Without either, there are
    20 sqrt(samples), and at least 500: ten times as many samples want three times as many steps.
    `docs/design/2026-11-30-the-trainer.md` has the study.

    >>> steps_of(Training(epochs=2, batch=10), 25), steps_of(Training(steps=7), 25)
    (6, 7)
    >>> [steps_of(Training(), samples) for samples in (300, 10_000, 1_000_000)]
    [500, 2000, 20000]
    """
    if training.steps is not None:
        return training.steps
    if training.epochs is not None:
        return training.epochs * -(-samples // training.batch)
    return max(LEAST, round(ROOT * math.sqrt(samples)))
