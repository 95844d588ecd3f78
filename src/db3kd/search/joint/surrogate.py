"""The local model that proposes: some small networks that learn from every answer bought so far."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from db3kd.config.settings import Training
from db3kd.data import Images
from db3kd.seeds import derive_seed
from db3kd.student.fast import fast_form
from db3kd.student.networks import Shape, build
from db3kd.student.optimisers import Schedule, optimisers_of

BATCH = 128  # images with their own answers, or probes, in one step
REMINDER = 64  # images with their own answers, in addition to the probes
LESSON = Training()


class Ensemble(nn.Module):
    """The mean of the log-probabilities of its members, which differ in their first weights only.

    >>> ensemble = Ensemble("small", (1, 8, 8), 10, members=2, seed=0)
    >>> one, other = ensemble.each(torch.ones(3, 1, 8, 8))
    >>> torch.allclose(one, other), torch.allclose(one.exp().sum(1), torch.ones(3))
    (False, True)
    """

    def __init__(self, name: str, shape: Shape, classes: int, *, members: int, seed: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            fast_form(build(name, shape, classes, seed=derive_seed(seed, "member", k)))
            for k in range(members)
        )

    def forward(self, images: Float[Tensor, "row *image"]) -> Float[Tensor, "row classes"]:
        """Mean of the log-probabilities."""
        return self.each(images).mean(0)

    def each(self, images: Float[Tensor, "row *image"]) -> Float[Tensor, "member row classes"]:
        """The log-probabilities of each member."""
        return torch.stack([functional.log_softmax(member(images), 1) for member in self.members])


@dataclass(frozen=True)
class Known:
    """Answers to learn from: the images' own and those to the probes.

    `images` and `answers` are the transfer set and what the teacher called it. `probes` may be kept
    in half precision.
    """

    images: Images
    answers: Int[Tensor, " sample"]
    probes: Float[Tensor, "probe *image"]
    probe_answers: Int[Tensor, " probe"]


def teach(
    ensemble: Ensemble,
    known: Known,
    *,
    steps: int,
    seed: int,
    device: str = "cpu",
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Train every member for some steps, two thirds of each batch probes if there are any.

    The optimiser is that of students. Costs no query. The batches are random, drawn from `seed`.
    """
    draw = torch.Generator().manual_seed(seed)
    for number, member in enumerate(ensemble.members):
        member.to(device).train()
        optimisers = optimisers_of(member, LESSON)
        schedule = Schedule(optimisers, LESSON, steps=steps)
        for done in range(steps):
            schedule.set(done)
            images, answers = _batch(known, draw)
            member.zero_grad()
            loss = functional.cross_entropy(member(images.to(device)), answers.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            for optimiser in optimisers:
                optimiser.step()
            report(number * steps + done + 1)
        member.eval()


def _batch(known: Known, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    count = REMINDER if len(known.probes) else BATCH
    teacher_labels = torch.randint(len(known.answers), (count,), generator=draw)
    images, answers = known.images.read(teacher_labels), known.answers[teacher_labels]
    if not len(known.probes):
        return images, answers
    asked = torch.randint(len(known.probes), (BATCH,), generator=draw)
    return torch.cat([images, known.probes[asked].float()]), torch.cat(
        [answers, known.probe_answers[asked]]
    )
