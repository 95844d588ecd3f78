"""The whole search in memory, without a run: for a few images, and for research."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.settings import Search
from db3kd.config.types import validated
from db3kd.data import Images
from db3kd.search.boundary import as_seen
from db3kd.search.joint.asked import Asked
from db3kd.search.joint.front import Front
from db3kd.search.joint.loop import Ask, JointSearch
from db3kd.search.joint.plan import JointPlan, check_joint, result
from db3kd.search.joint.surrogate import Ensemble, Known
from db3kd.search.robustness import References, RobustnessMap
from db3kd.seeds import derive_seed
from db3kd.teachers.base import Teacher


def measure_jointly(
    teacher: Teacher,
    images: Float[Tensor, "sample *image"],
    teacher_labels: Int[Tensor, " sample"],
    references: References,
    search: Search,
    *,
    pool: Images,
    answers: Int[Tensor, " pool"],
    seed: int,
    report: Callable[[int, RobustnessMap], None] = lambda number, found: None,
) -> RobustnessMap:
    """Minimal boundary distances to all classes at once (`docs/joint_search.md`).

    `pool` and `answers` are images that the teacher has answered already, these among them or not;
    the surrogate learns from them first. Costs at most `search.per_image` queries an image. Random,
    drawn from `seed`: first weights and batches of the surrogate. `report` gets the number of each
    round and what is known after it.

    Raises:
        InputError: checkpoints, or a surrogate that does not fit.
        BudgetExhausted, TeacherError: from the teacher.

    >>> from db3kd.data import TensorImages
    >>> from db3kd.teachers import function
    >>> bright = function(lambda images: images.flatten(1)[:, 0] > 0.5, classes=2)
    >>> white = References(torch.ones(1, 1, 4, 4), torch.tensor([1]),
    ...                    torch.zeros(2, dtype=torch.bool))
    >>> black, zero = torch.zeros(1, 1, 4, 4), torch.tensor([0])
    >>> search = Search(strategy="joint", surrogate="none", per_image=20)
    >>> found = measure_jointly(bright, black, zero, white, search, pool=TensorImages(black),
    ...                          answers=zero, seed=0)
    >>> round(found.distance[0, 1].item(), 1), int(found.queries.sum()) <= 20
    (2.0, True)
    """
    search = validated(search)
    images = as_seen(images, teacher.bounds)
    references = replace(references, images=as_seen(references.images, teacher.bounds))
    check_joint(search, pool.shape, teacher.classes)
    started = time.perf_counter()
    front = Front.at_references(images, teacher_labels, references)
    plan = JointPlan.of(search, samples=len(images), shape=pool.shape, classes=teacher.classes)

    def after(number: int) -> None:
        report(number, _with_points(front, result(front, seconds=time.perf_counter() - started)))

    joint = JointSearch(
        search,
        plan.rounds,
        pool,
        answers,
        references,
        _Rounds(teacher, front, pool, answers, after),
        LastSurrogate(),
        seed,
        str(images.device),
    )
    joint.run()
    found = joint.finish(teacher, front, learned=True, seed=derive_seed(seed, "rest"))
    return replace(_with_points(front, found), seconds=time.perf_counter() - started)


def _with_points(front: Front, found: RobustnessMap) -> RobustnessMap:
    return replace(found, points=front.point.all())


@dataclass(frozen=True)
class _Rounds:
    """The rounds of one front, and what was asked in each."""

    teacher: Teacher
    front: Front
    pool: Images
    answers: Int[Tensor, " pool"]
    after: Callable[[int], None]
    done: list[tuple[Asked, float]] = field(default_factory=list)

    def finished(self, number: int) -> bool:
        """Whether the round is over."""
        return number < len(self.done)

    def work(self, number: int, ask: Ask) -> None:
        """Do a round for all images together."""
        self.done.append(ask(self.teacher, self.front))
        self.after(number)

    def moved(self, number: int) -> float:
        """The share of the rows that the round moved."""
        return self.done[number][1]

    def known(self, number: int) -> Known:
        """The answers of the pool and of the rounds before this one."""
        origin, bounds = self.front.origin, self.teacher.bounds
        before = [asked for asked, _ in self.done[:number]]
        probes = [
            torch.zeros(0, *self.pool.shape).half(),
            *(asked.probes(origin, bounds).half().cpu() for asked in before),
        ]
        called = [self.answers[:0].cpu(), *(asked.answers.cpu() for asked in before)]
        return Known(self.pool, self.answers, torch.cat(probes), torch.cat(called))


@dataclass
class LastSurrogate:
    """Keeps the last fit alone; a search in memory needs no other."""

    number: int = -1
    surrogate: Ensemble | None = None

    def recall(self, number: int, surrogate: Ensemble) -> int:
        """Load the last fit into a surrogate; returns its number, or -1."""
        if self.surrogate is not None:
            surrogate.load_state_dict(self.surrogate.state_dict())
            surrogate.eval()
        return self.number

    def keep(
        self, number: int, surrogate: Ensemble, *, steps: int, probes: int, wall_s: float
    ) -> None:
        """Keep a surrogate after a fit, instead of the one before."""
        self.number, self.surrogate = number, surrogate

    def report(self, number: int, done: int, total: int) -> None:
        """Nobody waits for the steps of a fit here."""
