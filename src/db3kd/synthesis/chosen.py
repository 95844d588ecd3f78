"""db3kd's own way: shapes and their descendants, and of these the ones of which students doubt.

The first round asks shapes at random. Before each later one some students learn all answers; then
`candidates` times as many images are made as are asked, half of them new shapes, half descendants
of images that were asked before, as many of each class. Those on which the students' two likeliest
classes are closest are asked, in turns of the classes that the students see. So each round finds
more of the classes that noise hardly ever hits, and asks where the boundary is thought to be.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from db3kd.data import TensorImages
from db3kd.growing.changes import grow
from db3kd.growing.choices.doubt import doubt
from db3kd.growing.choose import choose
from db3kd.robustness import mix
from db3kd.settings import AUGMENT, Change, Training
from db3kd.student import train
from db3kd.synthesis.pool import Pool
from db3kd.synthesis.shapes import shapes
from db3kd.synthesis.way import Report, Task
from db3kd.transfer_set import TransferSet

ASKED = 1024  # images in one question
PIECE = 512  # images that are made at once, or shown to the students
DESCENDED = 0.5  # share of the candidates that descend from what was asked
CHANGES: tuple[Change, ...] = ("shift", "rotate", "scale", "shear", "mix", "paste")
BATCH, PASSES, LEAST_STEPS, MOST_STEPS = 64, 3, 1200, 4000  # of a lesson, for each student


class Chosen:
    """Shapes and their descendants of which students doubt.

    Costs one query an image. Random by `seed` (first weights) and by that of `spend`.

    >>> from db3kd.networks import build
    >>> task = Task((1, 4, 4), 2, queries=3, device="cpu",
    ...             student=lambda seed: build("small", (1, 4, 4), 2, seed=seed))
    >>> len(Chosen(task, seed=0).networks)
    2
    """

    def __init__(self, task: Task, *, seed: int) -> None:
        self.task = task
        self.networks = nn.ModuleList(
            task.student(mix(seed, "member", k)) for k in range(task.members)
        )

    def spend(self, pool: Pool, *, seed: int, report: Report) -> None:
        """Ask `pool.rest` images."""
        draw = torch.Generator().manual_seed(mix(seed, "images"))
        first = not len(pool)
        if not first:
            self._learn(pool, seed, report)
        while pool.rest:
            count = min(ASKED, pool.rest)
            if first:
                pool.ask(shapes(count, pool.shape, draw, bounds=pool.bounds).to(pool.device))
            else:
                pool.ask(self._chosen(pool, count, draw))

    def _learn(self, pool: Pool, seed: int, report: Report) -> None:
        """Teach every student all answers so far, from where it stands."""
        steps = max(LEAST_STEPS, min(MOST_STEPS, PASSES * len(pool) // BATCH))
        known = TransferSet(
            TensorImages(pool.values), torch.arange(len(pool)), pool.answers, pool.answers
        )
        training = Training(steps=steps, batch=BATCH, augment=AUGMENT)
        for number, member in enumerate(self.networks):

            def progress(
                _: str, done: int, total: int, figures: Mapping[str, float], /, number: int = number
            ) -> None:
                report("lesson", number * total + done, len(self.networks) * total)

            with torch.enable_grad():
                train(
                    member,
                    known,
                    training,
                    seed=mix(seed, "lesson", number),
                    device=self.task.device,
                    progress=progress,
                )

    def _chosen(self, pool: Pool, count: int, draw: Generator) -> Tensor:
        """The images to ask, of as many candidates as are wanted."""
        total = count * self.task.candidates
        old = round(total * DESCENDED)
        made = [shapes(total - old, pool.shape, draw, bounds=pool.bounds).to(pool.device)]
        parents = balanced_parents(pool, old, draw)
        made += [self._descended(pool, part, draw) for part in torch.split(parents, PIECE)]
        shown = pool.rounded(torch.cat(made))[1]
        return shown[choose(self._thoughts(shown), doubt, count)]

    def _descended(self, pool: Pool, parents: Tensor, draw: Generator) -> Tensor:
        block = pool.read(parents)
        return grow(block, parents, CHANGES, bounds=pool.bounds, draw=draw).images

    def _thoughts(self, images: Tensor) -> Float[Tensor, "student row classes"]:
        """Log-probabilities of every student for every image."""
        parts = torch.split(images, PIECE)
        logits = [torch.cat([member(part) for part in parts]) for member in self.networks]
        return functional.log_softmax(torch.stack(logits), 2)


def balanced_parents(pool: Pool, count: int, draw: Generator) -> Tensor:
    """Rows of images that were asked, as many of each class that the teacher ever answered."""
    weight = 1 / pool.counts().clamp_min(1).double()
    return torch.multinomial(weight[pool.answers], count, replacement=True, generator=draw)
