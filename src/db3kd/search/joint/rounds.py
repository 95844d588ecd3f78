"""The search of all classes at once: rounds of proposals, a fit of the surrogate before each."""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor, nn

from db3kd.search.joint.asked import Asked, Record
from db3kd.search.joint.front import Front
from db3kd.search.joint.proposers import ByModel, ByReferences
from db3kd.search.joint.rays import WORTH_ASKING, verify
from db3kd.search.robustness import References
from db3kd.teachers.base import Teacher

LEAST = 4  # queries that a row needs in a round, to be worth a proposal
MOST_ROUNDS = 8
AT_ONCE = 2**18  # pixels of the rows that ask together, if these are not of one image
PRECISION = 0.02  # to which brackets are halved, as a share of the distance


def rounds_of(per_image: int, classes: int) -> int:
    """In how many rounds a budget is best spent: each row should get some queries in each.

    >>> rounds_of(300, 10), rounds_of(100, 10), rounds_of(10, 10)
    (8, 2, 1)
    """
    return max(1, min(MOST_ROUNDS, per_image // ((classes - 1) * LEAST)))


def allowances(
    front: Front, sample: Int[Tensor, " row"], target: Int[Tensor, " row"], until: int
) -> Int[Tensor, " row"]:
    """Share out what each image may still spend until it has spent `until`, nearest classes first.

    All rows get the same where that is enough for a proposal; else the nearest get enough, since a
    soft label is made of the near classes, and the others keep the bound they have.

    >>> from db3kd.search.joint.points import Points
    >>> front = Front(torch.zeros(1, 1, 1, 1), torch.tensor([0]),
    ...               Points.origins(torch.zeros(1, 1, 1, 1), 3), torch.tensor([[0.0, 3.0, 2.0]]),
    ...               *torch.zeros(2, 1, 3, dtype=torch.int64))
    >>> rows = torch.tensor([0, 0]), torch.tensor([1, 2])
    >>> allowances(front, *rows, 9), allowances(front, *rows, 6)
    (tensor([4, 5]), tensor([2, 4]))
    """
    left = (until - front.spent.sum(1)).clamp(min=0)
    others = front.classes - 1
    each = (left // others).clamp(min=LEAST)
    rank = (
        front.distance.argsort(dim=1, stable=True).argsort(dim=1, stable=True) - 1
    )  # the own class first
    full = (left[:, None] - rank * each[:, None]).clamp(min=0)
    share = torch.minimum(full, each[:, None])
    spare = (left - each * others).clamp(min=0)
    share = share + (rank < spare[:, None])
    return share[sample, target]


def advance(
    teacher: Teacher,
    surrogate: nn.Module | None,
    front: Front,
    references: References,
    *,
    until: int,
    first: bool,
) -> tuple[Asked, float]:
    """One round for these images, by the surrogate's proposals or, without one, by references.

    Each image asks until it has spent `until` in all, or has no more to ask. Some images at a time
    do, so that the teacher need not wait for the proposals of all: those of `AT_ONCE` pixels. Also
    returns the share of the rows that moved, of those that asked; one that a surrogate's ray missed
    and a reference helped has not moved. Nothing is random.

    Raises:
        BudgetExhausted, TeacherError: from the teacher.
    """
    sample, target = others(front)
    allowance = allowances(front, sample, target, until)
    before, record, moved = front.distance[sample, target], Record(front), 0
    for rows in _blocks(sample, allowance, most=AT_ONCE // front.origin[0].numel()):
        propose: ByReferences | ByModel
        if surrogate is None:
            propose = ByReferences(references, front, sample[rows], target[rows])
        else:
            propose = ByModel(
                surrogate, front, sample[rows], target[rows], first=first, bounds=teacher.bounds
            )
        verify(
            teacher,
            front,
            sample[rows],
            target[rows],
            propose,
            record,
            allowance=allowance[rows],
            precision=PRECISION,
        )
        nearer = front.distance[sample[rows], target[rows]] <= WORTH_ASKING * before[rows]
        moved += int((nearer & ~propose.helped).sum())
    return record.asked(), moved / max(1, int((allowance > 0).sum()))


def _blocks(
    sample: Int[Tensor, " row"], allowance: Int[Tensor, " row"], *, most: int
) -> Iterator[Int[Tensor, " some"]]:
    """The rows that may ask, some whole images at a time."""
    rows = (allowance > 0).nonzero()[:, 0]
    if not len(rows):
        return
    each = torch.bincount(sample[rows])
    each = each[each > 0]
    number = (each.cumsum(0) - 1) // max(1, most)  # of the block of each image
    blocks = sorted(set(number.tolist()))
    yield from torch.split(rows, [int(each[number == block].sum()) for block in blocks])


def others(front: Front) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Sample and class of every row: all classes but the image's own."""
    classes = torch.arange(front.classes, device=front.teacher_labels.device)
    sample, target = (classes[None] != front.teacher_labels[:, None]).nonzero(as_tuple=True)
    return sample, target
