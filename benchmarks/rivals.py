"""Adapters for Foolbox's HopSkipJump and ART's HopSkipJump and Sign-OPT, which ask via our meter.

Each gets the same start, a point on the boundary, and continues until its queries are spent. The
settings are the libraries' defaults, except for limits on the number of iterations: the meter says
when to stop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from watch import Watch
from white_box import needed

FOREVER = 10**6  # iterations
Run = Callable[[Watch, Tensor], None]  # (teacher that watches, starts); ends by Enough


@dataclass(frozen=True)
class Rival:
    """How a rival runs: `together` rows at once, to `most` queries unless told otherwise."""

    run: Run
    package: str
    together: int = 1
    most: int = 20_000

    @property
    def version(self) -> str:
        """The version of its package; results of another version are not mixed in."""
        try:
            return f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            return f"{self.package} absent"


class OneHot(nn.Module):
    """The watched teacher as a module, with score 1 for the answer and 0 for the other classes."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def forward(self, images: Tensor) -> Tensor:
        """Scores (row, classes)."""
        return nn.functional.one_hot(self.watch.labels(images), self.watch.classes).float()


def foolbox_hop_skip_jump(watch: Watch, start: Tensor) -> None:
    """HopSkipJump of Foolbox; its result depends on how many rows it gets at once."""
    foolbox = needed("foolbox")
    attack = foolbox.attacks.HopSkipJumpAttack(steps=FOREVER)
    aim = foolbox.criteria.TargetedMisclassification(watch.target)
    model = foolbox.PyTorchModel(OneHot(watch).eval(), bounds=watch.bounds)
    attack.run(model, watch.origin, aim, starting_points=start)


def art_hop_skip_jump(watch: Watch, start: Tensor) -> None:
    """HopSkipJump of ART, for one row."""
    attack = needed("art.attacks.evasion").HopSkipJump(
        _black_box(watch), targeted=True, max_iter=FOREVER, batch_size=64, verbose=False
    )
    attack.generate(watch.origin.numpy(), y=watch.target.numpy(), x_adv_init=start.numpy().copy())


def art_sign_opt(watch: Watch, start: Tensor) -> None:
    """Sign-OPT of ART, for one row, from the start given.

    In the released version (1.20), the targeted search for a start tests for the image's own class
    instead of the target class, and so ends at the reference image. Our start is on the boundary
    already, so that search is left out, which also saves its queries.
    """

    class FromStart(needed("art.attacks.evasion").SignOPTAttack):  # type: ignore[misc]
        def _fine_grained_binary_search(
            self, x_0: Any, y_0: int, theta: Any, initial_lbd: float, *_: Any
        ) -> tuple[float, int]:
            return initial_lbd, 0

    attack = FromStart(
        _black_box(watch),
        targeted=True,
        num_trial=1,
        max_iter=FOREVER,
        query_limit=FOREVER,
        verbose=False,
    )
    attack.generate(watch.origin.numpy(), y=watch.target.numpy(), x_init=start.numpy().copy())


RIVALS = {
    "art_hsj": Rival(art_hop_skip_jump, "adversarial-robustness-toolbox"),
    "foolbox_hsj": Rival(foolbox_hop_skip_jump, "foolbox"),
    "art_sign_opt": Rival(art_sign_opt, "adversarial-robustness-toolbox"),
}
MORE = {"foolbox_hsj_20": Rival(foolbox_hop_skip_jump, "foolbox", together=20)}  # when asked for


def _black_box(watch: Watch) -> Any:
    """The watched teacher as ART wants it: images and scores are float32 arrays."""
    black_box = needed("art.estimators.classification").BlackBoxClassifier
    model = OneHot(watch)

    def scores(images: Any) -> Any:
        return model(torch.from_numpy(np.asarray(images, dtype=np.float32))).numpy()

    return black_box(scores, tuple(watch.origin.shape[1:]), watch.classes, clip_values=watch.bounds)
