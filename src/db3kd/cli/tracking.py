"""The trackers that a command was told to follow its work with."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from db3kd.config.recipe import Recipe
from db3kd.job import tracking
from db3kd.job.tracking import Tracker


@contextmanager
def following(names: Sequence[str], recipe: Recipe) -> Iterator[list[Tracker]]:
    """A tracker for each name, with the recipe as its parameters; they end as the work does.

    Raises:
        InputError: the extra of one is missing.
    """
    known = {
        "tensorboard": tracking.tensorboard,
        "mlflow": tracking.mlflow,
        "wandb": tracking.wandb,
    }
    with ExitStack() as stack:
        found = [stack.enter_context(known[name](recipe.run)) for name in dict.fromkeys(names)]
        for tracker in found:
            tracker.recipe(recipe)
        yield found
