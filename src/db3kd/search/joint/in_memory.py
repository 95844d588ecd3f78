"""The whole search in memory, without a run: for a few images, and for research."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from db3kd.config.settings import Search
from db3kd.config.types import validated
from db3kd.data import Images
from db3kd.search.boundary import as_seen
from db3kd.search.joint.front import Front
from db3kd.search.joint.plan import (
    USEFUL,
    check_joint,
    knows,
    one_round,
    rest,
    result,
    steps_of,
)
from db3kd.search.joint.rounds import rounds_of
from db3kd.search.joint.surrogate import Ensemble, Known, teach
from db3kd.search.robustness import References, RobustnessMap
from db3kd.seeds import derive_seed
from db3kd.student.networks import network_of
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
    """Minimal boundary distances to all classes at once (`docs/amortised.md`).

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
    shape, classes = pool.shape, teacher.classes
    check_joint(search, shape, classes)
    started, device = time.perf_counter(), str(images.device)
    front = Front.at_references(images, teacher_labels, references)
    rounds, surrogate, moved = 1, None, 1.0
    if search.surrogate != "none":
        rounds = rounds_of(search.per_image, classes)
        name, first = network_of(search.surrogate, shape), derive_seed(seed, "surrogate")
        surrogate = Ensemble(name, shape, classes, members=search.members, seed=first).to(device)
    probes, probe_answers = [torch.zeros(0, *shape).half()], [teacher_labels[:0].cpu()]
    for number in range(rounds):
        if moved < USEFUL:
            surrogate = None
        if surrogate is not None:
            known = Known(pool, answers, torch.cat(probes), torch.cat(probe_answers))
            lesson = derive_seed(seed, "lesson", number)
            teach(surrogate, known, steps=steps_of(known), seed=lesson, device=device)
            if not knows(surrogate, pool, answers):
                surrogate = None
        asked, moved = one_round(
            teacher,
            surrogate,
            front,
            references,
            number=number,
            rounds=rounds,
            per_image=search.per_image,
        )
        probes.append(asked.probes.cpu())
        probe_answers.append(asked.answers.cpu())
        report(number, result(front, seconds=time.perf_counter() - started))
    rest(
        teacher, front, search, surrogate, references, learned=True, seed=derive_seed(seed, "rest")
    )
    return result(front, seconds=time.perf_counter() - started)
